"""`modcalc memory` as a user runs it: tables, formats, several specs, plots, what cannot be served."""

import csv
import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hub_configs import CONFIGS

from modcalc import load
from modcalc.cost.memory import train_memory
from modcalc.cost.memory_report import memory_report
from modcalc.cost.workload import Training
from modcalc.spec.resolve import resolve

SPECS = Path(__file__).parent.parent / "specs"


@pytest.fixture
def run(modcalc):
    def call(*words: object, code: int = 0) -> tuple[str, str]:
        stopped, out, err = modcalc("memory", *words)
        assert stopped == code, err
        return out, err

    return call


def exact(text: str) -> int:
    return int(text.replace(",", ""))


def column(out: str, title: str) -> dict[str, int]:
    """First cell -> bytes of the plain table that starts with `title`."""
    lines = iter(out.splitlines())
    assert any(line.startswith(title) for line in lines), out
    found = {}
    for line in lines:
        if not line:
            break
        cells = re.split(r"\s{2,}", line)
        if len(cells) > 1:
            found[cells[0]] = exact(cells[1])
    return found


def test_parts_sum_to_the_total(run) -> None:
    out, _ = run("mod-small", "--batch", 3)
    found = column(out, "part ")
    total = found.pop("total")
    assert sum(found.values()) == total == train_memory(resolve(load("mod-small")), 3).total
    assert all(one in out for one in ("adamw: fp32 weights and states", "dense twin", "16 bytes of weights", "left out: ", "the CUDA context"))
    assert "; sgd: fp32 weights and states" in run("dense-small", "--optimizer", "sgd")[0]


def test_the_dense_twin_is_told(run) -> None:
    report = memory_report(load("mod-small"))
    ratio = report.memory.total / report.twin.total
    assert re.search(rf"^dense twin: {report.twin.total:,} bytes in all \(.*\); ratio {ratio:.4f}$", run("mod-small")[0], re.M)
    assert json.loads(run("gpt2", "--phase", "prefill", "-f", "json")[0])["fsdp"] is None, "slices are for training"


def test_parts_of_the_dense_twin_sum_to_its_total(run, tmp_path: Path) -> None:
    """The twin alone keeps a causal mask outside of its blocks, and here its peak is another: a block, not the loss."""
    file = tmp_path / "routed.yaml"
    shape = "vocab_size: 80, seq_len: 128, d_model: 64, n_layers: 4, attention: {n_heads: 4}, mlp: {d_ff: 128}"
    file.write_text(f"{{name: routed, {shape}, mod: {{capacity: 0.125, every: 1}}}}")
    for words, gpus in (([], 1), (["--fsdp", 2], 2)):
        report = memory_report(load(str(file)), training=Training(recompute="full", attention="explicit", fsdp=gpus))
        table = run(file, "--recompute", "full", "--attention", "explicit", *words, "-f", "csv")[0].partition("\n\n")[0]
        rows = {row.pop("part"): row for row in csv.DictReader(io.StringIO(table))}
        for key, bill in (("bytes", report.memory), ("dense_twin_bytes", report.twin)):
            assert sum(int(row[key] or 0) for row in rows.values()) == bill.total
        assert (rows["activations: attention scores"]["bytes"], rows["activations: attention scores"]["dense_twin_bytes"]) == ("0", str(128 * 128))
        if not words:
            assert rows["logits and loss"]["dense_twin_bytes"] == "" and rows["computed again"]["bytes"] == "0"


@pytest.mark.parametrize(
    ("words", "how"),
    [
        (["--recompute", "full"], dict(recompute="full")),
        (["--recompute", "selective", "--attention", "explicit", "--batch", "9"], dict(recompute="selective", attention="explicit")),
        (["--dtype", "fp32", "--optimizer", "momentum"], dict(optimizer="momentum")),
        (["--no-master", "--optimizer", "sgd", "--device", "cpu"], dict(master=False, optimizer="sgd", device="cpu")),
    ],
)
def test_every_option_is_billed(run, words: list[str], how: dict) -> None:
    batch, dtype = 9 if "9" in words else 1, "fp32" if "fp32" in words else "bf16"
    out, _ = run("dense-small", *words)
    found = column(out, "part ")
    bill = train_memory(resolve(load("dense-small")), batch, Training(**how), dtype)
    assert found["total"] == bill.total != train_memory(resolve(load("dense-small")), batch).total
    assert sum(found.values()) == 2 * bill.total
    again = bill.activations.again > bill.at_the_loss
    assert ("computed again" in found, "logits and loss" in found) == (again, not again)


def test_where_recomputation_outweighs_the_loss(run) -> None:
    found = column(run("dense-small", "--attention", "explicit", "--recompute", "full", "-T", 4096)[0], "part ")
    assert "computed again" in found and "logits and loss" not in found


def test_sinks_and_soft_caps_are_said_to_need_explicit_attention(run, tmp_path: Path) -> None:
    (tmp_path / "gpt-oss").mkdir()
    shutil.copy(CONFIGS / "gpt-oss-20b.json", tmp_path / "gpt-oss" / "config.json")
    capped = tmp_path / "gpt-oss"
    out, _ = run(capped, "-T", 64)
    assert "; explicit attention, which sinks and soft caps need, kernels of cuda" in out
    (tmp_path / "latent.yaml").write_text(SMALL.replace("n_heads: 2", "n_heads: 2, latent: {kv_rank: 8, nope_dim: 4, rope_dim: 2, v_dim: 5}"))
    for device, how in (
        ("cuda", "fused attention"),
        ("cpu", "explicit attention, as a CPU has no fused kernel where values and keys differ in width"),
    ):
        assert f"; {how}, kernels of {device}" in run(tmp_path / "latent.yaml", "--device", device)[0]
    assert re.search(r"^activations +explicit +selective, explicit +full, explicit$", out, re.M)
    d = json.loads(run(capped, "-T", 64, "-f", "json")[0])
    assert d["attention"] == "explicit" and {a["attention"] for a in d["activations"]} == {"explicit"}
    out, _ = run("dense-small", capped, "-T", 64)
    assert "fused attention, kernels of cuda" in out and "gpt-oss: explicit attention, which sinks and soft caps need" in out
    assert "gpt-oss: explicit attention" not in run(capped, capped, "-T", 64)[0]


def test_decode(run) -> None:
    out, _ = run("llama-2-7b", "--phase", "decode", "--context", 4095)
    assert column(out, "part ")["KV cache"] == 2 * 1024**3
    assert "expected share" not in out
    assert "decode: 1 new token for 1 sequence, routing at its expected share; weights" in run("mod-small", "--phase", "decode", "--context", 0)[0]
    assert "expected share" not in run("mod-small", "--mod", "keys=all", "--phase", "decode", "--context", 0)[0]  # all bring keys
    assert "Ways to keep activations" not in out and "one new token" not in out and "decode: 1 new token for 1 sequence after 4,095 cached" in out


def test_json_is_one_document_of_exact_bytes(run) -> None:
    d = json.loads(run("mod-small", "--gpu-memory", "1GiB", "-f", "json")[0])
    m = train_memory(resolve(load("mod-small")))
    assert d["bytes"]["total"] == m.total and d["bytes"]["activations_by"] == m.activations.kept
    assert (d["schema"], d["gpu_memory"], d["optimizer"], d["dtype"]) == (1, 2**30, "adamw", "bf16")
    assert [(f["phase"], f["knob"], f["routing"]) for f in d["fits"]] == [
        ("train", "batch", None),
        ("train", "seq_len", None),
        *[("decode", knob, routing) for routing in ("expected", "all") for knob in ("batch", "context")],
    ]
    assert all(f["held"] <= 2**30 < f["next"] for f in d["fits"])
    several = json.loads(run("mod-small", "gpt2", "-f", "json")[0])
    assert [one["spec"] for one in several["reports"]] == ["mod-small", "gpt2"]


def test_several_specs_are_compared(run) -> None:
    out, _ = run("dense-small", "mod-small", "gpt2")
    rows = [line.split() for line in out.splitlines() if line.startswith(("dense-small", "mod-small", "gpt2"))]
    assert [row[0] for row in rows[:3]] == ["dense-small", "mod-small", "gpt2"]
    assert "of T tokens" in out
    caches = [line.split() for line in out.partition("KV cache\n\nspec ")[2].splitlines()]
    assert [" ".join(row[:3]) for row in caches if row][2:] == [
        "dense-small 512 all", "mod-small 512 expected,", "mod-small 512 worst:", "mod-small 512 best:", "mod-small 512 dense", "gpt2 1,024 all",
    ]  # fmt: skip
    out, _ = run("dense-small", "dense-small", "--phase", "decode", "--context", 9)
    assert "KV cache of 10 tokens\n\nspec         blocks " in out


def test_csv_of_what_fits_is_one_table(run) -> None:
    """Whichever of the models has routing, or a limit."""
    out, err = run("mod-small", "gpt2", "--gpu-memory", "1GiB", "-f", "csv")
    rows = list(csv.DictReader(io.StringIO(out.rpartition("\n\n")[2])))
    assert [(row["spec"], row["routing"], row["limit"]) for row in rows][-1] == ("gpt2", "", "its learned positions end there")
    assert Counter(row["spec"] for row in rows) == {"mod-small": 6, "gpt2": 4} and rows[0]["routing"] == "at capacity"
    assert "what fits into 1.00 GiB" in err and "mod-small: more than the 512 tokens" in err


def test_csv_is_data_alone(run) -> None:
    out, err = run("dense-small", "-f", "csv")
    rows = list(csv.DictReader(io.StringIO(out.partition("\n\n")[0])))
    assert sum(int(row["bytes"]) for row in rows) == train_memory(resolve(load("dense-small"))).total
    assert "left out" in err and "left out" not in out


@pytest.mark.parametrize("format", ["table", "markdown", "latex"])
def test_other_formats(run, format: str) -> None:
    assert "3,660,032" in run("dense-small", "-f", format)[0]


@pytest.mark.parametrize("specs", [["mod-small"], ["dense-small", "gpt2", "-T", "512"]])
def test_plot(run, tmp_path: Path, specs: list[str]) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "memory.svg"
    _, err = run(*specs, "--plot", file)
    text = file.read_text()
    shown = ["dense twin", "mod-small", "MiB"] if len(specs) == 1 else [*specs[:2], "GiB"]
    assert f"drawn into {file}" in err and all(f">{one}<" in text for one in (*shown, "optimizer states", "activations", "logits and loss"))


def test_a_plot_says_whose_tokens_are_how_many(run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "memory.svg"
    own, shared = ([run("mod-220m", "gpt2", *words, "--plot", file)[0], file.read_text().replace("\xa0", " ")] for words in ([], ["-T", 512]))
    assert all("train step: 1 sequence of T tokens" in one for one in own)
    assert all("train step: 1 sequence of 512 tokens" in one for one in shared)
    assert all(f">{one}<" in own[1] for one in ("mod-220m, T = 2,048", "gpt2, T = 1,024")) and ">gpt2<" in shared[1]
    assert "dense twin" not in own[1]


def test_a_config_of_the_transformers_library(run, tmp_path: Path) -> None:
    shutil.copy(CONFIGS / "llama-2-7b.json", tmp_path / "config.json")
    d = json.loads(run(tmp_path / "config.json", "--phase", "decode", "--context", 4095, "-f", "json")[0])
    assert d["kv_cache"]["caches"] == [{"routing": None, "bf16": 2 * 1024**3, "fp32": 4 * 1024**3}]
    routed = json.loads(run(tmp_path, "--mod", "capacity=0.5,every=1", "-S", 4095, "--phase", "decode", "-f", "json")[0])
    assert [c["bf16"] for c in routed["kv_cache"]["caches"]] == [1024**3, 2 * 1024**3, 0, 2 * 1024**3]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gpt2", "--batch", "0"], "--batch"),
        (["gpt2", "--dtype", "bf61"], "'bf61'"),
        (["gpt2", "--optimizer", "adam"], "'adam'"),
        (["gpt2", "--gpu-memory", "lots"], "--gpu-memory: found 'lots'; allowed a positive number"),
        (["gpt2", "--gpu-memory", "0"], "--gpu-memory: found '0'"),
        (["gpt2", "--phase", "decode"], "--phase decode: say how many tokens are already cached with --context S"),
        (["gpt2", "--phase", "decode", "--context", "1024"], "gpt2: 1025 tokens are more than its 1024 learned positions"),
        (["gpt2", "--phase", "decode", "--context", "5", "-T", "9"], "--seq-len with --phase decode"),
        (["gpt2", "--context", "5"], "context 5: only the phases prefill and decode"),
        (["gpt2", "--phase", "prefill", "--recompute", "full", "--no-master"], "--no-master, --recompute with --phase prefill: only --phase train"),
        (["gpt2", "--phase", "forward", "--fsdp", "2"], "--fsdp with --phase forward: only --phase train has them"),
        (["gpt2", "--dtype", "fp32", "--no-master"], "--master, --no-master with --dtype fp32: only bf16 and fp16"),
        (["gpt2", "--fsdp", "1"], "'--fsdp': 1 is not in the range"),
        (["gpt2", "-T", "2000"], "2000"),
        (["gtp2"], "gpt2"),
        (["gpt2", "--plot", "x.pdf"], ".svg"),
    ],
)
def test_what_cannot_be_served_is_one_message(run, words: list[str], said: str) -> None:
    out, err = run(*words, code=2)
    assert out == "" and said in err and "Traceback" not in err
    assert sum(line.startswith("error: ") for line in err.splitlines()) == 1


SMALL = "{name: t, vocab_size: 10, seq_len: 16, d_model: 8, n_layers: 1, attention: {n_heads: 2}, mlp: {d_ff: 8}}"


def test_longer_sequences_than_the_spec_has(run, tmp_path: Path) -> None:
    said = "more than the 4,096 tokens of the spec fit; memory does not say how well the model works with them"
    assert said in run("llama-2-7b", "--gpu-memory", "80GiB")[0] and said not in run("llama-2-7b", "--gpu-memory", "13GiB")[0]
    assert "tokens of the spec fit" not in run("gpt2", "--gpu-memory", "80GiB")[0]  # its learned positions end there
    (tmp_path / "t.yaml").write_text(SMALL.replace("}}", "}, positions: {kind: learned, max_len: 64}}"))
    assert "tokens of the spec fit" not in run(tmp_path / "t.yaml", "--gpu-memory", "1GiB")[0]


def test_what_does_not_fit_is_said(run) -> None:
    out, _ = run("llama-2-7b", "--gpu-memory", "80GiB")
    assert re.search(r"train +batch, at 4,096 tokens +0 +- +129,607,287,952 +weights, gradients and optimizer alone take 100.41 GiB", out)
    shared = run("llama-2-7b", "--fsdp", 8, "--gpu-memory", "12GiB")[0]
    assert "weights, gradients, optimizer and gathered weights alone take 13.04 GiB" in shared
    assert re.search(r"decode +batch, at 4,096 tokens +0 +- +15,624,378,880 +not even 1 fits", run("llama-2-7b", "--gpu-memory", "13GiB")[0])


@pytest.mark.parametrize(("attention", "why"), [("n_heads: 2, window: 4", "windows hold no more"), ("n_heads: 2", "the search ends there")])
def test_why_a_search_ends_is_said(run, tmp_path: Path, attention: str, why: str) -> None:
    (tmp_path / "t.yaml").write_text(SMALL.replace("n_heads: 2", attention))
    assert re.search(rf"decode +tokens, at batch 1 +1,000,000,000 .*{why}", run(tmp_path / "t.yaml", "--gpu-memory", "1000000GiB")[0])


def test_one_of_many_gpus(run, tmp_path: Path) -> None:
    out, _ = run("llama-2-7b", "--fsdp", 16, "--gpu-memory", "24GiB")
    bill = train_memory(resolve(load("llama-2-7b")), 1, Training(fsdp=16))
    found = column(out, "part ")
    total = found.pop("total")
    assert sum(found.values()) == total == bill.total
    assert (found["gathered weights"], found["blocks running backward"]) == (bill.gathered, bill.at_a_block)
    assert "of one of 16 GPUs, which hold weights, gradients and optimizer in slices (FSDP2)" in out and "buffers of NCCL" in out
    assert "in slices it trains on 64 GPUs: --fsdp 64" in out and not re.search("^decode ", out, re.M)
    assert "logits and loss" in column(run("gpt2", "--fsdp", 4)[0], "part ")
    d = json.loads(run("llama-2-7b", "--fsdp", 16, "--gpu-memory", "24GiB", "-f", "json")[0])
    assert (d["fsdp"], d["fewest_gpus"], d["bytes"]["whole_at_a_block"]) == (16, 64, bill.under_way)
    assert "in slices it trains on 2 GPUs" in run("llama-2-7b", "--gpu-memory", "80GiB")[0]
    assert "in slices it trains on none of 2, 4, 8, … up to 65,536 GPUs\n" in run("llama-2-7b", "--gpu-memory", "8GiB")[0]
    many = run("llama-2-7b", "--gpu-memory", "80GiB", "--batch", "512")[0]
    assert "none of 2, 4, 8, … up to 65,536 GPUs, with 512 sequences on each; fewer need less (--batch)\n" in many
    few = run("gpt2", "--fsdp", 4, "-T", 8, "--recompute", "full")[0]  # of 50,257 words
    assert "outside blocks, less activations" in column(few, "part ")
    assert "weights before all blocks or gradients after them 235.88 MiB in place of activations" in few
    assert "in place of activations" not in run("gpt2", "--fsdp", 4, "--recompute", "full")[0]
    few = run("gpt2", "-T", 8, "--recompute", "full")[0]
    assert "outside blocks, less activations" in column(few, "part ") and f"after all blocks {3 * 50257 * 768 * 2 / 2**20:.2f} MiB" in few
    rows = run("gpt2", "mod-220m", "--fsdp", 4, "-f", "csv")[0].partition("\n\n")[0]
    gathered = [int(row["gathered_bytes"]) for row in csv.DictReader(io.StringIO(rows))]
    assert gathered == [train_memory(resolve(load(name)), 1, Training(fsdp=4)).gathered for name in ("gpt2", "mod-220m")]
    pytest.importorskip("matplotlib")
    run("llama-2-7b", "--fsdp", 16, "--plot", tmp_path / "m.svg")
    assert all(f">{one}<" in (tmp_path / "m.svg").read_text() for one in ("gathered weights", "blocks running backward"))


@pytest.mark.parametrize("phase", [["train"], ["prefill"], ["decode", "--context", 4095]])
def test_a_model_that_does_not_fit_is_billed_all_the_same(run, phase: list) -> None:
    words = ("llama-2-7b", "--gpu-memory", "10GiB", "--phase", *phase)
    out, _ = run(*words)
    assert column(out, "part ")["weights"] == 13_476_831_232
    train = phase == ["train"]  # else training was not asked for
    for knob in ("batch, at 4,096 tokens", "tokens, at batch 1"):
        assert train == bool(re.search(rf"train +{knob} +0 +- +[\d,]+ +weights, gradients and optimizer alone take 100.41 GiB", out))
        assert re.search(rf"decode +{knob} +0 +- +[\d,]+ +weights alone take 12.55 GiB", out)
    fits = json.loads(run(*words, "-f", "json")[0])["fits"]
    assert len(fits) == (4 if train else 2) and all((f["largest"], f["held"], f["limit"]) == (0, None, None) and f["next"] > 10 * 2**30 for f in fits)


def test_the_bills_of_the_others_are_kept(run) -> None:
    out, _ = run("mod-220m", "gpt2", "llama-2-7b", "--gpu-memory", "10GiB")
    assert all(f"\n{name}: what fits into 10.00 GiB" in out for name in ("mod-220m", "gpt2", "llama-2-7b"))
    assert "129,607,287,952" in out and re.search(r"train +batch, at 1,024 tokens +9 ", out) and out.count("weights alone take 12.55 GiB") == 2


def test_a_size_without_its_unit(run) -> None:
    for given in ("80", " 80", "8e1", "+80"):
        said = f"--gpu-memory {given}: 80 bytes? give its unit, such as {given.strip()}GiB"
        assert said in run("gpt2", "--gpu-memory", given, code=2)[1]


def test_a_small_size_with_its_unit(run, tmp_path: Path) -> None:
    """Of a tiny model, whose every byte counts."""
    (tmp_path / "t.yaml").write_text(SMALL)
    whole = json.loads(run(tmp_path / "t.yaml", "--format", "json")[0])["bytes"]["total"]
    assert whole < 2**20
    for room, batch in ((f"{whole / 1000}KB", 1), (f"{(whole - 1) / 1000}KB", 0)):
        fits = json.loads(run(tmp_path / "t.yaml", "--gpu-memory", room, "--format", "json")[0])["fits"]
        assert next(f["largest"] for f in fits if (f["phase"], f["knob"]) == ("train", "batch")) == batch
    decode = (tmp_path / "t.yaml", "--phase", "decode", "--context", 3)
    weights = column(run(*decode)[0], "part ")["weights"]
    for room, said in ((weights, "not even 1 fits"), (weights - 1, "weights alone take")):
        assert run(*decode, "--gpu-memory", f"{room / 1000}KB")[0].count(said) == 2


def test_the_batch_of_the_train_section_is_mentioned(run, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text((SPECS / "dense-small.yaml").read_text() + "train: {batch_size: 8}\n")
    said = (
        "note: dense-small: billed for one sequence; its train section has 8 a step: --batch 8, if one GPU is to hold them all "
        "(--fsdp N bills one of N)\n"
    )
    shared = said.partition(": --batch")[0] + ", 3 of them on each of 3 GPUs: --batch 3\n"
    assert run(tmp_path / "t.yaml")[1] == said
    assert run(tmp_path / "t.yaml", "--fsdp", 3)[1] == shared
    assert run(tmp_path / "t.yaml", "--fsdp", 8)[1] == ""
    assert run(tmp_path / "t.yaml", "--batch", 8)[1] == "" == run(tmp_path / "t.yaml", "--phase", "forward")[1]
