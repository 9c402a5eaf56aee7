"""`modcalc flops` as a user runs it: numbers, conventions, phases, and several specs."""

import csv
import io
import re
from fractions import Fraction
from pathlib import Path

import pytest
from conftest import TINY

from modcalc.cost.account import account, dense_twin
from modcalc.cost.memory_report import memory_report
from modcalc.cost.roofline import elements_moved, step_bytes
from modcalc.cost.workload import Training
from modcalc.spec.load import load
from modcalc.units import seconds

# The worked case of the notes (derived from Raposo et al. 2024, arXiv 2404.02258): 2 FLOPs per multiply-add, full attention.
DENSE, ROUTED, ROUTERS = 4_557_111_296, 2_619_342_848, 524_288


def test_the_document_has_the_promised_keys(flops, tiny: Path) -> None:
    d = flops(tiny, "--count", "analytic", "--format", "json").document
    assert d["schema"] == 1 and d["spec"] == "tiny"
    assert {"batch", "seq_len", "context"} <= set(d["workload"])
    assert d["convention"]["name"] == "matmul" and d["convention"]["causal"] == "full"
    assert set(d["params"]) == {"total", "active", "embedding", "non_embedding"}
    assert set(d["flops"]) == {"forward", "backward", "train_step", "forward_per_token"}
    assert d["counters"] == {"analytic": d["flops"]["forward"], "fvcore": None, "torch": None}
    assert d["agree"] is None
    assert all({"path", "kind", "flops", "params"} <= set(row) for row in d["rows"])
    assert sum(row["flops"] for row in d["rows"]) == d["flops"]["forward"]
    assert sum(row["backward_flops"] for row in d["rows"]) == d["flops"]["backward"]
    assert sum(row["params"] for row in d["rows"]) == d["params"]["total"]
    assert all(isinstance(value, int) for group in ("params", "flops") for value in d[group].values())


def test_the_worked_case(flops) -> None:
    d = flops("mod-small", "--count", "analytic", "--format", "json").document
    assert d["flops"]["forward"] == ROUTED + ROUTERS
    assert {line["label"]: line["forward"] for line in d["lines"]}["router"] == ROUTERS
    assert d["dense_twin"]["flops"]["forward"] == DENSE
    assert d["dense_twin"]["forward_ratio"] == (ROUTED + ROUTERS) / DENSE
    assert d["routed"] == [
        {"paths": ["blocks.1", "blocks.3"], "capacity": 64, "share": 0.125, "granularity": "block", "keys": "kept", "router": "learned"}
    ]
    text = flops("mod-small", "--count", "analytic").out
    for said in (f"{DENSE:,}", f"{ROUTERS:,} FLOPs", f"{ROUTED:,}", "blocks 1, 3 (from 0) keep 64 of 512 tokens (12.5 %)", "0.5749"):
        assert said in text


@pytest.mark.parametrize(("spec", "params", "forward"), [("gpt2", 124_439_808, 291_648_307_200), ("llama-2-7b", 6_738_415_616, 62_921_270_886_400)])
def test_published_models(flops, spec: str, params: int, forward: int) -> None:
    d = flops(spec, "--count", "analytic", "--format", "json").document
    assert (d["params"]["total"], d["flops"]["forward"]) == (params, forward)


def test_a_config_of_the_transformers_library(flops) -> None:
    config = Path(__file__).parent / "data" / "configs" / "gpt2.json"
    d = flops(config, "--count", "analytic", "--format", "json").document
    assert (d["params"]["total"], d["flops"]["forward"]) == (124_439_808, 291_648_307_200)


def test_the_table(flops, tiny_mod: Path) -> None:
    ran = flops(tiny_mod, "--count", "analytic", "--batch", 3)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "tiny-mod"
    assert lines[1] == "forward: 3 sequences of 16 tokens"
    assert lines[2] == "convention matmul, causal full: 2 FLOPs per multiply-add, all T x T pairs count"
    header = re.split(r" {2,}", lines[4])
    assert header == ["component", "parameters", "share", "FLOPs", "share", "per sequence", "per token", "dense twin", "ratio"]
    end = next(i for i, line in enumerate(lines) if line.startswith("total"))
    cells = [re.split(r" {2,}", line) for line in lines[6 : end - 1]]
    assert [c[0] for c in cells] == ["embedding", "attention", "attention scores", "mlp", "norms", "head", "mod router", "mod predictor"]
    total = [int(cell.replace(",", "").replace("%", "").split(".")[0].strip()) for cell in re.split(r" {2,}", lines[end])[1:7]]
    d = flops(tiny_mod, "--count", "analytic", "--batch", 3, "--format", "json").document
    forward = d["flops"]["forward"]
    assert total == [d["params"]["total"], 100, forward, 100, forward // 3, forward // 48]
    said = dict(line.split(": ", 1) for line in lines[end + 2 :])
    assert set(said) == {"parameters", "routing", "routers", "dense twin", "free"}
    assert {"token lookup", "norms", "softmax", "bias additions", "gather", "scatter"} <= set(
        said["free"].removesuffix(" (by convention)").split(", ")
    )


@pytest.mark.parametrize("by", ["component", "layer", "path"])
def test_every_level_sums_to_the_total(flops, tiny_mod: Path, by: str) -> None:
    d = flops(tiny_mod, "--count", "analytic", "--format", "json").document
    ran = flops(tiny_mod, "--count", "analytic", "--by", by, "--backward", "--format", "csv")
    assert sum(int(row["params"]) for row in ran.rows) == d["params"]["total"]
    for column, key in (("forward_flops", "forward"), ("backward_flops", "backward"), ("train_step_flops", "train_step")):
        assert sum(int(row[column]) for row in ran.rows) == d["flops"][key]
    assert abs(sum(float(row["share"]) for row in ran.rows) - 1) < 1e-12
    assert "convention matmul" in ran.err


def test_layers_and_modules_stand_in_the_order_of_the_model(flops, tiny_mod: Path) -> None:
    layers = [row["layer"] for row in flops(tiny_mod, "--count", "analytic", "--by", "layer", "--format", "csv").rows]
    assert layers == ["embedding.tokens", "blocks.0", "blocks.1", "blocks.2", "final_norm", "head"]
    modules = [row["module"] for row in flops(tiny_mod, "--count", "analytic", "--by", "path", "--format", "csv").rows]
    blocks = [int(m.split(".")[1]) for m in modules if m.startswith("blocks.")]
    assert blocks == sorted(blocks) and {"blocks.1.router", "blocks.1.predictor.up_proj", "blocks.2.attn.core"} <= set(modules)


def test_total_alone(flops, tiny: Path) -> None:
    rows = flops(tiny, "--count", "analytic", "--by", "total", "--format", "csv").rows
    assert [int(row["forward_flops"]) for row in rows] == [flops(tiny, "--count", "analytic", "--format", "json").document["flops"]["forward"]]


def test_multiply_adds(flops, tiny_mod: Path) -> None:
    full, half = (flops(tiny_mod, "--count", "analytic", "--format", "csv", *more) for more in ([], ["--macs"]))
    assert [2 * int(row["forward_macs"]) for row in half.rows] == [int(row["forward_flops"]) for row in full.rows]
    assert "1 MAC per multiply-add" in half.err
    d = flops(tiny_mod, "--count", "analytic", "--format", "json", "--macs").document
    assert 2 * d["macs"]["forward"] == d["flops"]["forward"]


def test_causal_rules(flops, tiny: Path) -> None:
    def scores(*more: str) -> int:
        return {r["component"]: int(r["forward_flops"]) for r in flops(tiny, "--count", "analytic", "--format", "csv", *more).rows}[
            "attention scores"
        ]

    full, T = scores(), 16
    assert 2 * scores("--causal", "half") == full
    assert 2 * T * scores("--causal", "exact") == (T + 1) * full
    assert scores("--convention", "causal-half") == scores("--causal", "half")


@pytest.mark.parametrize("windows", ["window: [4, null]", "window: [4, null], chunked: true"])
def test_windows_say_that_masking_computes_them(flops, tmp_path: Path, windows: str) -> None:
    spec = tmp_path / "windows.yaml"
    spec.write_text(TINY.replace("bias: true", windows))
    ran = flops(spec, "--count", "analytic")
    d, exact = (flops(spec, "--count", "analytic", "--format", "json", *more).document for more in ([], ["--causal", "exact"]))
    assert d["masked_windows"]["layers"] == [0, 2]
    saved = {row["path"]: row["flops"] for row in d["rows"] if row["kind"] == "attention"}
    seen = {row["path"]: row["flops"] for row in exact["rows"] if row["kind"] == "attention"}
    assert d["masked_windows"]["flops_outside"] == sum(saved[f"blocks.{i}.attn.core"] - seen[f"blocks.{i}.attn.core"] for i in (0, 2))
    assert "windows: blocks 0, 2 (from 0)" in ran.out and "--causal exact" in ran.out
    assert exact["masked_windows"]["layers"] == []
    trained = flops(spec, "--count", "analytic", "--backward").out
    less = 3 * d["masked_windows"]["flops_outside"]  # two products forward, four backward
    assert f"sees: {less:,} FLOPs less there" in trained or f"see: {less:,} FLOPs less there" in trained
    assert "windows:" not in flops(spec, "--count", "analytic", "--seq-len", 4).out  # nothing lies outside


def test_experts_that_choose_are_said_to_be_unable_to_sample(flops, tmp_path: Path) -> None:
    spec = tmp_path / "experts.yaml"
    for moe, said in (("choice: expert, capacity: 1.0", True), ("top_k: 1", False)):
        spec.write_text(TINY + f"moe: {{n_experts: 4, {moe}}}\n")
        assert ("the model cannot sample" in flops(spec, "--phase", "decode", "--context", 4).out) is said
        assert "cannot sample" not in flops(spec, "--count", "analytic").out


def test_windows_of_routed_blocks_are_an_upper_bound(flops, tmp_path: Path) -> None:
    spec = tmp_path / "windows.yaml"
    spec.write_text(TINY.replace("bias: true", "window: 4") + "mod: {capacity: 8, layers: [1]}\n")
    for more in (["--causal", "exact"], ["--causal", "half"], ["--convention", "olmo-core"]):
        assert "windows: block 1 (from 0), routed: a query is billed for up to" in flops(spec, "--count", "analytic", *more).out
    assert "routed: a query" not in flops(spec, "--count", "analytic").out
    spec.write_text(TINY.replace("bias: true", "window: 4") + "mod: {capacity: 1, layers: [1]}\n")  # one token sees itself
    assert "windows:" not in flops(spec, "--count", "analytic", "--causal", "exact").out
    spec.write_text(TINY.replace("bias: true", "window: 4") + "mod: {capacity: 8, layers: [1], granularity: mlp}\n")
    assert "windows:" not in flops(spec, "--count", "analytic", "--causal", "exact").out


def test_another_convention_is_named_and_says_what_is_free(flops, tiny: Path) -> None:
    out = flops(tiny, "--count", "analytic", "--convention", "chinchilla").out
    assert "convention chinchilla, causal full" in out and "\ncounts " in out
    free = next(line for line in out.splitlines() if line.startswith("free: "))
    assert "head" in free and "softmax" not in free


@pytest.mark.parametrize("how", [{}, {"recompute": "selective", "attention": "explicit"}, {"recompute": "full"}])
def test_hardware_flops_of_a_train_step(flops, tiny: Path, how: dict[str, str]) -> None:
    options = ["--count", "analytic", "--backward", *(word for name, value in how.items() for word in (f"--{name}", value))]
    d = flops(tiny, *options, "--format", "json").document
    scores = next(line["forward"] for line in d["lines"] if line["label"] == "scores")
    head = next(line["forward"] for line in d["lines"] if line["label"] == "head")
    forward = d["flops"]["forward"]
    # Scores are q k^T and its product with v, half each; every block, but not the head, runs again.
    again = {None: scores // 2, "selective": scores, "full": scores // 2 + forward - head}[how.get("recompute")]
    h = d["hardware"]
    assert (h["recompute"], h["attention"]) == (how.get("recompute", "none"), how.get("attention", "fused"))
    assert h["forward"] == forward and h["recomputed"] == again
    assert h["train_step"] == d["flops"]["train_step"] + again and h["backward"] == d["flops"]["backward"] + again
    assert f"hardware: {h['train_step']:,} FLOPs per train step" in flops(tiny, *options).out


def test_what_runs_again_where_attention_pairs_do_not_count(flops, tiny: Path) -> None:
    options = ("--count", "analytic", "--backward", "--convention", "6nd")
    assert "hardware: " not in flops(tiny, *options).out
    said = next(line for line in flops(tiny, *options, "--recompute", "full").out.splitlines() if line.startswith("hardware: "))
    assert said.endswith("(every block); attention pairs count nothing by this convention, nor when they are computed again)")


def test_hardware_flops_of_several_specs(flops, tiny: Path, tiny_mod: Path) -> None:
    d = flops(tiny, tiny_mod, "--count", "analytic", "--phase", "train", "--format", "json").document
    assert all(r["hardware"]["train_step"] > r["flops"]["train_step"] for r in d["reports"])
    assert flops(tiny, tiny_mod, "--count", "analytic", "--phase", "train").out.count("hardware: ") == 2


def test_what_a_run_that_took_so_long_reached(flops, tiny: Path) -> None:
    """As Llama 2 7B (see `test_how_long_a_run_takes`), and the other way around; more than all that a device can do is doubted."""
    words = ("llama-2-7b", "--count", "analytic", "--backward", "--tokens", "2T", "--gpu", "NVIDIA A100-SXM4-80GB", "--device-hours", "184320")
    run = flops(*words, "--format", "json").document["training"]
    assert run["spent"]["mfu"] == pytest.approx(run["flops"] / (184_320 * 3600 * 312e12), rel=1e-12) == pytest.approx(0.445, abs=5e-4)
    out = flops(*words).out
    assert "MFU: 44.5 %: 184,320 hours of NVIDIA A100-SXM4-80GB at 312 TFLOP/s (https://" in out and "more than it can do" not in out
    asked = (tiny, tiny, "--count", "analytic", "--backward", "--tokens", "1G", "--peak-tflops", 1e-3, "--device-hours")
    mfu = flops(*asked, "1", "--format", "json").document["reports"][0]["training"]["spent"]["mfu"]
    assert [float(row["mfu"]) for row in flops(*asked, "1", "--format", "csv").rows] == [mfu, mfu] and mfu > 1
    assert flops(*asked, "1").out.count("(--peak-tflops); more than it can do, so other FLOPs, hours or devices are meant\n") == 2


def test_what_parameters_pay_for_is_free_of_products_alone(flops, tiny: Path) -> None:
    products, parameters = (
        flops(tiny, "--count", "analytic", "--convention", name, "--format", "json").document["free"] for name in ("matmul", "6nd")
    )
    assert "bias additions" in products and "bias additions" not in parameters
    assert "attention pairs" in parameters and "attention" not in parameters


def test_several_specs_are_compared_in_multiply_adds_too(flops) -> None:
    macs = [row["forward_macs"] for row in flops("dense-small", "mod-small", "--macs", "--format", "csv").rows]
    assert [2 * int(n) for n in macs] == [account(load(name)).flops.forward for name in ("dense-small", "mod-small")]
    for words, rated in (((), "forward"), (("--backward",), "train step")):
        assert f"ratio: {rated} FLOPs over those of dense-small" in flops("dense-small", "mod-small", *words).out


def test_training_runs_side_by_side(flops, tiny: Path, tiny_mod: Path) -> None:
    """Where one spec plans a run and another does not, and on a cluster, for which all must."""
    tiny.write_text(tiny.read_text() + "train: {batch_size: 4, tokens: 1000}\n")
    asked = (tiny, tiny_mod, "--count", "analytic", "--backward")
    planned, none = csv.DictReader(io.StringIO(flops(*asked, "--format", "csv").out))
    run = flops(tiny, *asked[2:], "--format", "json").document["training"]
    assert (int(planned["training_flops"]), int(planned["training_tokens"])) == (run["flops"], run["tokens"])
    assert none["training_flops"] == none["training_tokens"] == "" and "device_hours" not in none
    timed = (*asked, "--tokens", "1K", "--gpus", 2, "--peak-tflops", 1e-3, "--mfu", 0.5, "--format")
    rows = list(csv.DictReader(io.StringIO(flops(*timed, "csv").out)))
    clusters = [r["training"]["cluster"] for r in flops(*timed, "json").document["reports"]]
    assert [float(row["device_hours"]) for row in rows] == [cluster["device_hours"] for cluster in clusters]


def test_the_training_run_of_a_spec(flops, tiny: Path) -> None:
    tiny.write_text(tiny.read_text() + "train: {batch_size: 4, tokens: 1000}\n")
    options = ("--count", "analytic", "--batch", 3)
    run = flops(tiny, *options, "--backward", "--format", "json").document["training"]
    step = flops(tiny, "--count", "analytic", "--format", "json").document["flops"]["train_step"]
    assert run == {"steps": 16, "batch_size": 4, "tokens": 1024, "flops": 16 * 4 * step}
    said = f"training: {run['flops']:,} FLOPs, {run['flops']:.4g}, in 16 steps of 4 sequences, 1,024 tokens (by the spec's `train`)"
    assert said in flops(tiny, *options, "--phase", "train").out
    assert "in 32 steps of 4 sequences" in flops(tiny, *options, "--backward", "--seq-len", 8).out
    assert flops(tiny, tiny, *options, "--backward", "--convention", "palm").out.count("training: ") == 2
    assert "training" not in flops(tiny, *options).out
    assert "training" not in flops(tiny, *options, "--format", "json").document


def test_how_long_a_run_takes(flops, tiny: Path) -> None:
    """As Llama 2 7B: 2 T tokens in 184,320 hours of an A100 (Touvron et al. 2023, arXiv 2307.09288, table 2), which is an MFU of 44.5 %."""
    words = ("llama-2-7b", "--count", "analytic", "--backward", "--tokens", "2T", "--gpus", 2048, "--gpu", "NVIDIA A100-SXM4-80GB", "--mfu", 0.445)
    run = flops(*words, "--format", "json").document["training"]
    assert run["tokens"] >= 2 * 10**12 and round(run["cluster"]["device_hours"]) == 184_405
    assert run["cluster"]["seconds"] == pytest.approx(run["flops"] / (2048 * 312e12 * 0.445), rel=1e-12)
    out = flops(*words).out
    assert "training time: 3.75 days, 184,405 device-hours: 2,048 x NVIDIA A100-SXM4-80GB at 44.5 % (--mfu) of 312 TFLOP/s (https://" in out
    tiny.write_text(tiny.read_text() + "train: {batch_size: 4, steps: 9}\n")
    own = ("--count", "analytic", "--backward", "--gpus", 1, "--mfu", 1)
    run = flops(tiny, *own, "--peak-tflops", 1e-6, "--format", "json").document["training"]
    assert run["cluster"]["seconds"] == run["flops"] / 1e6 == 3600 * run["cluster"]["device_hours"]
    said = f"training time: {run['flops'] / 6e7:.3g} minutes, {run['flops'] / 3.6e9:.3g} device-hours: 1 x a device at 100.0 % (--mfu) of 1e-06"
    assert said in flops(tiny, *own, "--peak-tflops", 1e-6).out
    long = (tiny, *own, "--tokens", "1M", "--peak-tflops")
    day = flops(*long, 1, "--format", "json").document["training"]["flops"] / 86400e12
    assert "training time: 1 day, 24 device-hours" in flops(*long, day).out
    assert "1 x NVIDIA H200 at" in flops(tiny, *own, "--gpu", "h200").out and "(by --tokens)" in flops(tiny, *own[:3], "--tokens", "1K").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tokens", "1K"], "--tokens without a train step: add --backward"),
        (["--backward", "--tokens", "x"], "--tokens: found 'x'"),
        (["--backward", "--mfu", "0.4", "--gpu", "h200"], "--mfu without --gpus: no run is timed; say how many there are\n"),
        (["--backward", "--device-hours", "9", "--mfu", "0.4"], "--device-hours with --mfu: it tells the MFU"),
        (["--backward", "--device-hours", "9", "--gpus", "8"], "--device-hours with --gpus: it tells the MFU"),
        (["--backward", "--device-hours", "9"], "--device-hours: give either --gpu NAME"),
        (["--backward", "--device-hours", "1.5", "--gpu", "h200"], "--device-hours: found '1.5'; allowed whole numbers"),
        (["--backward", "--device-hours", "9", "--gpu", "h200"], "--device-hours: tiny does not say how long it is trained"),
        (["--device-hours", "9", "--gpu", "h200"], "--device-hours without a train step: add --backward"),
        (["--backward", "--gpus", "8", "--gpu", "h200"], "--mfu: it is not given"),
        (["--backward", "--gpus", "8", "--gpu", "h200", "--mfu", "1.5"], "--mfu: found 1.5; allowed is a share above 0 and up to 1"),
        (["--backward", "--gpus", "8", "--mfu", "0.4"], "give either --gpu NAME"),
        (["--backward", "--gpus", "8", "--mfu", "0.4", "--peak-tflops", "nan"], "--peak-tflops nan: a finite number"),
        (["--backward", "--gpus", "8", "--mfu", "0.4", "--gpu", "h200", "--peak-tflops", "9"], "--gpu with --peak-tflops: each says"),
        (
            ["--backward", "--gpus", "8", "--mfu", "0.4", "--gpu", "h100", "--tokens", "1K"],
            "--gpu h100: which of NVIDIA H100 80GB HBM3, NVIDIA H100 PCIe",
        ),
        (
            ["--backward", "--gpus", "8", "--mfu", "0.4", "--gpu", "tpu", "--tokens", "1K"],
            "--gpu tpu: no datasheet of that name gives a peak in bf16",
        ),
        (
            ["--backward", "--gpus", "8", "--mfu", "0.4", "--gpu", "v100", "--tokens", "1K"],
            "--gpu v100: no datasheet of that name gives a peak in bf16",
        ),
        (["--backward", "--gpus", "8", "--mfu", "0.4", "--gpu", "", "--tokens", "1K"], "--gpu '': no datasheet of that name"),
        (["--phase", "decode", "--context", "3", "--tokens", "1K"], "--tokens with --phase decode: sampling has no backward pass"),
        (["--backward", "--gpus", "8", "--mfu", "0.4", "--gpu", "h200"], "tiny does not say how long it is trained; give --tokens"),
    ],
)
def test_a_run_that_cannot_be_timed(flops, tiny: Path, words: list[str], said: str) -> None:
    done = flops(tiny, "--count", "analytic", *words)
    assert (done.code, done.out) == (2, "") and said in done.err


def test_the_roofline_of_a_step(flops, tiny_mod: Path) -> None:
    """Of sampling by cases, beside the dense twin; the time is that of the fewest bytes, or of the FLOPs where those take longer."""
    asked = (tiny_mod, "--count", "analytic", "--phase", "decode", "--context", 9, "--batch", 4, "--gpu", "h200")
    d = flops(*asked, "--format", "json").document
    spec = load(str(tiny_mod))
    cases = [account(spec, phase="decode", context=9, batch=4, routing=routing) for routing in ("expected", "all", "none")]
    twin = account(dense_twin(spec), phase="decode", context=9, batch=4)
    steps = [*d["roofline"]["sampling"].values(), d["roofline"]["dense_twin"]]
    for said, report in zip(steps, [*cases, twin], strict=True):
        moved = step_bytes(report, 2)
        assert said["bytes"] == moved and said["bound"] == "memory" and said["step_s"] == said["memory_s"] == pytest.approx(moved / 4.8e12)
        assert said["compute_s"] == pytest.approx(report.flops.forward / 989e12)
    assert {key: d["roofline"][key] for key in steps[0]} == steps[0] and d["roofline"]["device"] == "NVIDIA H200"
    tables = flops(*asked, "--format", "csv").out.split("\n\n")
    assert len(tables) == 4 and len(flops(*asked, "--by", "total", "--format", "csv").out.split("\n\n")) == 3
    rows = tables[2].splitlines()
    assert [float(row["step_s"]) for row in csv.DictReader(rows)] == [one["step_s"] for one in steps]
    assert [float(row["tokens_per_s"]) for row in csv.DictReader(rows)] == pytest.approx([4 / one["step_s"] for one in steps])
    assert [float(row["ratio_to_dense_twin"]) for row in csv.DictReader(rows)] == pytest.approx([one["step_s"] / steps[3]["step_s"] for one in steps])
    out = flops(*asked).out
    assert "roofline of a decode step on NVIDIA H200 in bf16\n" in out and "FLOPs at 989 TFLOP/s; memory: bytes at 4,800 GB/s (https://" in out


@pytest.mark.parametrize("by", ["component", "layer", "path"])
def test_the_roofline_of_parts(flops, tiny_mod: Path, by: str) -> None:
    """Each waits for its own FLOPs or bytes, row by row; in sum that is longer than all at once, and the same by whatever parts."""
    asked = (tiny_mod, "--count", "analytic", "--peak-tflops", 1, "--gb-per-s", 400, "--by", by, "--causal", "exact", "--backward")
    d = flops(*asked, "--format", "json").document
    parts, flops_of = d["roofline"]["lines"], {line["label"]: line["forward"] + line["backward"] for line in d["lines"]}
    report = account(load(str(tiny_mod)), phase="train", causal="exact")
    assert sum(part["bytes"] for part in parts) == d["roofline"]["bytes"] == step_bytes(report, 2)
    assert parts[-1]["label"] == "optimizer" and parts[-1]["bytes"] == 2 * 7 * report.params.total
    assert by == "layer" or {part["bound"] for part in parts} == {"compute", "memory"}
    for part in parts:
        assert (part["compute_s"], part["memory_s"]) == pytest.approx((flops_of.get(part["label"], 0) / 1e12, part["bytes"] / 4e11))
        assert part["step_s"] == max(part["compute_s"], part["memory_s"]) > 0 and part["apart_s"] >= part["step_s"] * (1 - 1e-12)
    total = sum(part["apart_s"] for part in parts)
    rows = [(op, moved) for op in report.rows if (moved := 3 * 2 * elements_moved(op))]
    kernels = [max(float(report.convention.forward(op) + report.convention.backward(op)) / 1e12, moved / 4e11) for op, moved in rows]
    assert total == pytest.approx(d["roofline"]["apart_s"]) == pytest.approx(sum(kernels) + 2 * 7 * report.params.total / 4e11)
    assert total > d["roofline"]["step_s"]
    rows = list(csv.DictReader(flops(*asked, "--format", "csv").out.split("\n\n")[2].splitlines()))
    assert [float(row["apart_s"]) for row in rows] == [part["apart_s"] for part in parts]
    assert [float(row["share"]) for row in rows] == pytest.approx([part["apart_s"] / total for part in parts])
    twin = [float(row["dense_twin_s"]) for row in rows if row["dense_twin_s"]]
    ratios = [float(row["apart_s"]) / float(row["dense_twin_s"]) for row in rows if row["dense_twin_s"]]
    assert [float(row["ratio_to_dense_twin"]) for row in rows if row["ratio_to_dense_twin"]] == pytest.approx(ratios)
    out = flops(*asked).out
    assert f"roofline by {by}\n" in out
    assert sum(twin) == pytest.approx(d["roofline"]["dense_twin"]["apart_s"])
    last = [line for line in out.splitlines() if line.startswith("total ")][-1]
    assert last.split("  ")[-1] == f"{total / sum(twin):.4f}" and seconds(total) in last and seconds(sum(twin)) in last


def test_the_roofline_of_layers_that_recursions_share(flops, tiny_mod: Path) -> None:
    """The twin has blocks of its own for each recursion; they stand beside the one that does the same."""
    recursive = tiny_mod.read_text().replace("{capacity: 4, predictor_width: 8}", "{capacity: [1.0, 0.5], recursions: 2}")
    tiny_mod.write_text(recursive)
    asked = (tiny_mod, "--count", "analytic", "--gpu", "h200", "--by", "layer", "--format")
    d = flops(*asked, "json").document["roofline"]
    rows = list(csv.DictReader(flops(*asked, "csv").out.split("\n\n")[2].splitlines()))
    assert sum(float(row["dense_twin_s"] or 0) for row in rows) == pytest.approx(d["dense_twin"]["apart_s"])
    assert all(row["dense_twin_s"] for row in rows if row["layer"].startswith("blocks."))


def test_a_roofline_goes_by_what_no_kernel_leaves_out(flops, tiny_mod: Path) -> None:
    """Whatever the convention and the pairs of the table; a part without bytes, as a predictor that nobody asks, has no intensity."""
    asked = (tiny_mod, "--count", "analytic", "--gpu", "h200", "--format", "json")
    usual = flops(*asked).document["roofline"]
    for words in (["--convention", "fvcore"], ["--convention", "6nd"], ["--causal", "half"], ["--macs"]):
        assert flops(*asked, *words).document["roofline"] == usual
    tiny_mod.write_text(tiny_mod.read_text().replace("predictor_width: 8", "predictor_width: 8, decide: router"))
    done = flops(tiny_mod, "--phase", "decode", "--context", 9, "--gpu", "h200", "--convention", "6nd")
    assert done.code == 0 and "roofline by component" in done.out


def test_how_much_of_its_memory_a_step_takes(flops, tiny_mod: Path) -> None:
    """As modcalc memory bills it, all in bf16."""
    spec, gpu = load(str(tiny_mod)), 141 * 2**30
    decode = (tiny_mod, "--phase", "decode", "--context", 9, "--batch", 4, "--gpu", "h200")
    held = [memory_report(one, phase="decode", context=9, batch=4).memory for one in (spec, dense_twin(spec))]
    d = flops(*decode, "-f", "json").document["roofline"]
    assert (d["memory_bytes"], d["held_bytes"], d["dense_twin"]["held_bytes"]) == (gpu, *(m.total for m in held))
    assert d["sampling"]["none"]["held_bytes"] < d["held_bytes"] < d["sampling"]["all"]["held_bytes"]
    trained = flops(tiny_mod, "--count", "analytic", "--backward", "--gpu", "h200", "-f", "json").document["roofline"]
    assert trained["held_bytes"] == memory_report(spec, training=Training(master=False)).memory.total
    out = flops(*decode).out
    assert "of its memory: weights, cached keys and logits in bf16, of 141.00 GiB (modcalc memory says more)\n" in out
    (shares,) = (list(csv.DictReader(io.StringIO(part))) for part in flops(*decode, "-f", "csv").out.split("\n\n") if "memory_share" in part)
    assert [float(row["memory_share"]) for row in (shares[0], shares[-1])] == pytest.approx([m.total / gpu for m in held])
    large = flops("llama-2-7b", "--count", "analytic", "--backward", "--batch", 5, "--gpu", "h200").out
    assert "gradients, AdamW's moments and activations in bf16, of 141.00 GiB" in large and "; above 100 % it does not fit" in large
    unknown = (*decode[:-2], "--peak-tflops", 1, "--gb-per-s", 1)
    assert "of its memory" not in flops(*unknown).out and flops(*unknown, "-f", "json").document["roofline"]["memory_bytes"] is None


def test_rooflines_of_several_specs(flops, tiny: Path, tiny_mod: Path) -> None:
    """Of their train steps, each beside the first; on a device of which the peaks are given."""
    asked = (tiny_mod, tiny, "--count", "analytic", "--backward", "--peak-tflops", 0.001, "--gb-per-s", 100)
    lines = [r["roofline"] for r in flops(*asked, "--format", "json").document["reports"]]
    trained = [account(load(str(path)), causal="exact").flops.train_step for path in (tiny_mod, tiny)]
    assert [line["step_s"] for line in lines] == pytest.approx([n / 1e9 for n in trained]) and {line["bound"] for line in lines} == {"compute"}
    assert [line["bytes_per_s"] for line in lines] == [1e11, 1e11] and lines[0]["device"] is None
    out = flops(*asked).out
    assert "roofline of a train step on a device in bf16\n" in out and f"{trained[1] / trained[0]:.4f}\n" in out.split("roofline of")[1]
    said = "tokens/s: of all sequences; time ratio: to tiny-mod; "
    assert f"{said}modcalc profile measures" in out
    sampled = flops(tiny_mod, tiny, "--phase", "decode", "--context", 9, "--gpu", "h200").out
    assert f"{said}modcalc profile measures" in sampled and "\nwith routing: expected, at the capacity's share\n" in sampled
    drawn = "experts read: those that are expected under even use"
    tiny_mod.write_text(tiny_mod.read_text() + "moe: {n_experts: 4, top_k: 2}\n")
    assert drawn in flops(tiny_mod, "--phase", "decode", "--context", 9, "--gpu", "h200").out
    assert drawn not in sampled and drawn not in flops(tiny_mod, "--count", "analytic", "--gpu", "h200").out
    dense = flops(tiny, *asked[2:]).out.split("roofline of")[1]
    assert "ratio" not in dense and "(--peak-tflops, --gb-per-s)" in dense
    assert "roofline" not in flops(*asked[:-2], "--tokens", "1K", "--gpus", 1, "--mfu", 1).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--peak-tflops", "9"], "--peak-tflops: a roofline needs the memory's bandwidth too; give --gb-per-s, or"),
        (["--gpu", "h200", "--gb-per-s", "9"], "--gb-per-s: it belongs to the roofline of --peak-tflops; give --peak-tflops too"),
        (["--gb-per-s", "9"], "--gb-per-s: it belongs to the roofline of --peak-tflops; give --peak-tflops too"),
        (["--gpu", "h200", "--peak-tflops", "9"], "--gpu with --peak-tflops: each says what the device can do; give one or the other"),
        (["--gpu", "h200", "--peak-tflops", "9", "--gb-per-s", "9"], "--gpu with --peak-tflops: each says what the device can do"),
        (["--peak-tflops", "9", "--gb-per-s", "nan"], "--gb-per-s nan: a finite number"),
        (["--gpu", "h100"], "--gpu h100: which of NVIDIA H100 80GB HBM3"),
        (
            ["--backward", "--tokens", "1K", "--gpus", "1", "--mfu", "1", "--peak-tflops", "9", "--gb-per-s", "9"],
            "--gb-per-s: it belongs to the roofline of --peak-tflops; the time of a run goes by FLOPs",
        ),
    ],
)
def test_a_roofline_that_cannot_be_drawn(flops, tiny: Path, words: list[str], said: str) -> None:
    done = flops(tiny, "--count", "analytic", *words)
    assert (done.code, done.out) == (2, "") and said in done.err


@pytest.mark.parametrize("convention", ["fvcore", "megatron", "lingua"])
def test_a_run_is_timed_by_model_flops(flops, tiny: Path, convention: str) -> None:
    """Multiply-adds, or what is computed again, are none."""
    words = ("--count", "analytic", "--backward", "--tokens", "1K", "--gpus", 1, "--gpu", "h200", "--mfu", 1)
    done = flops(tiny, *words, "--convention", convention)
    assert (done.code, done.out) == (2, "") and f"--gpus with --convention {convention}: MFU is of the model's own FLOPs" in done.err
    assert flops(tiny, *words, "--convention", "6nd").code == 0


@pytest.mark.parametrize("convention", ["megatron", "6nd", "fvcore"])
def test_no_hardware_flops_where_recomputation_is_counted_already_or_no_pairs_are(flops, tiny: Path, convention: str) -> None:
    options = ["--count", "analytic", "--backward", "--convention", convention]
    assert "hardware" not in flops(tiny, *options, "--format", "json").document
    assert "hardware" not in flops(tiny, *options).out


def test_several_specs_side_by_side(flops, tiny: Path, tiny_mod: Path) -> None:
    one, two = (flops(p, "--count", "analytic", "--format", "json").document for p in (tiny, tiny_mod))
    rows = flops(tiny, tiny_mod, "gpt2", "--count", "analytic", "--format", "csv").rows
    assert [row["spec"] for row in rows] == ["tiny", "tiny-mod", "gpt2"]
    assert [int(row["forward_flops"]) for row in rows[:2]] == [one["flops"]["forward"], two["flops"]["forward"]]
    assert float(rows[1]["ratio_to_first"]) == two["flops"]["forward"] / one["flops"]["forward"]
    trained = flops(tiny, tiny_mod, "--count", "analytic", "--backward", "--format", "csv").rows
    assert float(trained[1]["ratio_to_first"]) == two["flops"]["train_step"] / one["flops"]["train_step"]
    assert [int(row["seq_len"]) for row in rows] == [16, 16, 1024]
    d = flops(tiny, tiny_mod, "--count", "analytic", "--format", "json").document
    assert d["schema"] == 1 and [r["spec"] for r in d["reports"]] == ["tiny", "tiny-mod"]
    assert d["reports"][1]["flops"] == two["flops"]
    beside = flops(tiny, tiny_mod, "--count", "analytic", "--by", "component", "--format", "csv").rows
    assert {len(row) for row in beside} == {4} and {row["component"] for row in beside} >= {"mlp", "mod router"}, "one table"
    (tiny.parent / "bar.yaml").write_text(tiny.read_text().replace("name: tiny", "name: a|b"))
    heads = flops(tiny, tiny.parent / "bar.yaml", "--count", "analytic", "--by", "component", "--format", "markdown").out
    assert r"| component | tiny [FLOPs] | a\|b [FLOPs] |" in re.sub(" +", " ", heads)
    text = flops(tiny, tiny_mod, "--count", "analytic", "--by", "component").out
    assert "forward by component" in text and re.search(r"^mod router +- +[\d,]+ +-$", text, re.MULTILINE)
    assert "\nnorms " not in text, "what is free has no line"
    assert re.search(r"^total( +[\d,]+){3}$", flops(tiny, tiny_mod, "gpt2", "--count", "analytic", "--by", "component").out, re.MULTILINE)


def test_csv_says_whose_routing_and_tells_names_apart(flops, tmp_path: Path) -> None:
    found = flops("mod-60m", "mod-220m", "--phase", "decode", "--context", 100, "--format", "csv").out.split("\n\n")[1]
    assert [row["spec"] for row in csv.DictReader(found.splitlines())] == ["mod-60m"] * 4 + ["mod-220m"] * 4
    for name in ("Model", "model"):
        (tmp_path / f"{name}.yaml").write_text(RECURSIVE.replace("name: rec", f"name: {name}"))
    files = [tmp_path / f"{name}.yaml" for name in ("Model", "model")]
    header = flops(*files, "--by", "component", "--count", "analytic", "--format", "csv").out.splitlines()[0]
    assert header == "component,Model_flops,model_flops,ratio_to_first"


def test_decode_of_gpt2(flops) -> None:
    for rule in ("causal-exact", "matmul"):
        assert "all keys of the one query count\n" in flops("gpt2", "--phase", "decode", "--context", 128, "--convention", rule).out
    assert "no attention pairs count\n" in flops("gpt2", "--phase", "decode", "--context", 128, "--convention", "6nd").out
    d = flops("gpt2", "--phase", "decode", "--context", 128, "--format", "json").document
    assert d["flops"]["forward"] == 251_819_520
    assert d["workload"] == {"batch": 1, "seq_len": 1, "context": 128, "phase": "decode", "routing": "expected"}
    assert d["expectation"] is False and "sampling" not in d
    row = flops("gpt2", "--phase", "decode", "--context", 128, "--batch", 2, "--format", "csv").rows[0]
    assert "flops_per_sequence" in row and "flops_per_token" not in row, "a sequence's token is all of it"


def test_any_model_as_mixture_of_depths(flops, tiny: Path) -> None:
    routed = tiny.with_name("routed.yaml")
    routed.write_text(TINY + "mod: {capacity: 4}\n")
    d = flops(tiny, "--mod", "capacity=4", "--count", "analytic", "--format", "json").document
    assert d["spec"] == "tiny-mod"
    assert d["flops"] == flops(routed, "--count", "analytic", "--format", "json").document["flops"]
    assert d["dense_twin"]["flops"] == flops(tiny, "--count", "analytic", "--format", "json").document["flops"]
    ran = flops(tiny, "--mod", "capacity=4,evry=2")
    assert (ran.code, ran.out) == (2, "") and "did you mean every?" in ran.err


def test_sampling_has_no_backward_pass(flops, tiny_mod: Path) -> None:
    d = flops(tiny_mod, "--phase", "prefill", "--macs", "--format", "json").document
    for figures in (d["flops"], d["macs"], d["dense_twin"]["flops"], *d["sampling"].values()):
        assert figures["backward"] is None and figures["train_step"] is None and figures["forward"] > 0
    assert {line["backward"] for line in d["lines"]} == {row["backward_flops"] for row in d["rows"]} == {None}


def test_kv_cache_of_llama_2(flops) -> None:
    ran = flops("llama-2-7b", "--phase", "prefill", "--seq-len", 4096)
    assert f"kv cache: {2 * 2**30:,} bytes (2.00 GiB) for 4,096 tokens in bf16" in ran.out


def test_a_cache_is_expected_where_blocks_are_routed(flops, tiny: Path, tiny_mod: Path) -> None:
    """Not where experts alone make the FLOPs an expectation."""
    experts = tiny.with_name("experts.yaml")
    experts.write_text(tiny.read_text() + "moe: {n_experts: 2, top_k: 2, n_noop: 2, capacity: 1.0}\n")
    ran = flops(experts, "--phase", "decode", "--context", 0)
    assert "expected FLOPs" in ran.out and "B) for 1 token in bf16" in ran.out
    assert "B) expected for 5 tokens in bf16" in flops(tiny_mod, "--phase", "decode", "--context", 4).out
    tables = [flops(tiny_mod, "--phase", "decode", "--context", 4, "--batch", n).out.partition("tiny-mod: decode\n")[2] for n in (1, 2)]
    assert ["per token" in table for table in tables] == [False, True]


def test_keys_of_all_tokens_are_said(flops, tiny_mod: Path) -> None:
    all_keys = tiny_mod.with_name("all.yaml")
    all_keys.write_text(tiny_mod.read_text().replace("capacity: 4", "capacity: 4, keys: all"))
    for path, keys in ((tiny_mod, "kept"), (all_keys, "all")):
        d = flops(path, "--count", "analytic", "--format", "json").document
        assert [r["keys"] for r in d["routed"]] == [keys]
        assert (", keys of all tokens; learned router" in flops(path, "--count", "analytic").out) == (keys == "all")
        # All of them are cached, whoever passes.
        decoded = flops(path, "--phase", "decode", "--context", 9).out
        assert (") expected for 10 tokens in bf16" in decoded) == (keys == "kept")
        sizes = flops(path, "--phase", "decode", "--context", 9, "--format", "json").document["sampling"]
        assert len({sizes[case]["kv_cache_bytes"] for case in ("expected", "all", "none")}) == (3 if keys == "kept" else 1)


@pytest.mark.parametrize("convention", ["palm", "olmo-core", "torchtitan", "matmul"])
@pytest.mark.parametrize("mod", ["keys: all", "recursions: 2, capacity: [0.5, 0.25]", "capacity: 4"])
def test_nothing_is_free_that_a_line_bills(flops, tiny: Path, mod: str, convention: str) -> None:
    """A norm of the keys' tokens, and weights that recursions share, count once by their parameters and are not free the second time."""
    tiny.write_text(f"{TINY}mod: {{{mod}}}\n")
    d = flops(tiny, "--count", "analytic", "--convention", convention, "--format", "json").document
    billed = {line["label"] for line in d["lines"] if line["forward"]}
    names = {"norm": "norms", "embedding": "token lookup", "scores": "attention pairs"}
    assert billed and not {names.get(label, label) for label in billed} & set(d["free"])


def test_no_case_is_called_worst_where_a_way_around_may_cost_more(flops, tiny: Path) -> None:
    tiny.write_text(f"{TINY}mod: {{capacity: 4, granularity: attention, bypass: {{d_ff: 4096}}}}\n")
    d = flops(tiny, "--phase", "decode", "--context", 15, "--format", "json").document["sampling"]
    ran = flops(tiny, "--phase", "decode", "--context", 15).out
    assert d["all"]["forward"] < d["expected"]["forward"] < d["none"]["forward"]
    for said, case in (("every token routed", "all"), ("no token routed", "none")):
        assert re.search(rf"^{said} +{d[case]['forward']:,} ", ran, re.MULTILINE)


@pytest.mark.parametrize("phase", [["--phase", "decode", "--context", "15"], ["--phase", "prefill"]])
def test_sampling_states_expectation_worst_and_best(flops, tiny_mod: Path, phase: list[str]) -> None:
    d = flops(tiny_mod, *phase, "--format", "json").document
    expected, worst, best = (d["sampling"][k]["forward"] for k in ("expected", "all", "none"))
    assert d["expectation"] is True and d["flops"]["forward"] == expected
    assert best < expected < worst
    extras = sum(line["forward"] for line in d["lines"] if line["label"] in ("router", "predictor"))
    assert worst == d["dense_twin"]["flops"]["forward"] + extras
    caches = [d["sampling"][k]["kv_cache_bytes"] for k in ("none", "expected", "all")]
    assert caches == [2 * 2 * 2 * 32 * 16, 2 * 2 * 32 * 16 * Fraction(9, 4), 2 * 2 * 3 * 32 * 16]  # bytes x (k, v) x layers x D x tokens
    ran = flops(tiny_mod, *phase)
    assert "expected FLOPs" in ran.out and ran.err == ""
    for said in ("expected, at the capacity's share", "worst: every token routed", "best: no token routed", f"{worst:,}", f"{best:,}"):
        assert said in ran.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--phase", "decode"], "--context"),
        (["--phase", "decode", "--context", "3", "--seq-len", "4"], "--seq-len"),
        (["--phase", "decode", "--context", "3", "--backward"], "--backward"),
        (["--phase", "decode", "--context", "3", "--causal", "half"], "--causal half with --phase decode: its one token sees all that is cached"),
        (["--phase", "prefill", "--count", "torch"], "--count torch"),
        (["--recompute", "full"], "add --backward"),
        (["--attention", "explicit", "--phase", "decode", "--context", "3"], "--attention"),
        (["--recompute", "some", "--backward"], "--recompute"),
        (["--recompute", "full", "--backward", "--convention", "megatron"], "megatron counts recomputation itself"),
        (["--context", "3"], "prefill and decode"),
        (["--convention", "chinchila"], "chinchilla"),
        (["--causal", "some"], "--causal"),
        (["--format", "yaml"], "--format"),
        (["--batch", "0"], "--batch"),
        (["--seq-len", "0"], "--seq-len"),
        (["--count", "perf"], "--count"),
        (["--by", "head"], "--by"),
        (["--plot", "plot.pdf"], ".svg"),
        (["--nothing"], "--nothing"),
    ],
)
def test_bad_usage(flops, tiny: Path, arguments: list[str], says: str) -> None:
    ran = flops(tiny, *arguments)
    assert ran.code == 2 and ran.out == ""
    assert says in ran.err and "Traceback" not in ran.err


def test_a_spec_that_is_not_there(flops) -> None:
    ran = flops("mod-220", "--count", "analytic")
    assert ran.code == 2 and "mod-220m" in ran.err


@pytest.mark.parametrize("spec", ["tiny", "tiny_mod"])
def test_plot(flops, request: pytest.FixtureRequest, tmp_path: Path, spec: str) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "breakdown.svg"
    ran = flops(request.getfixturevalue(spec), "--count", "analytic", "--plot", target)
    assert ran.code == 0 and str(target) in ran.err
    drawn = target.read_text()
    assert all(f">{label}<" in drawn for label in ("attention", "attention scores", "mlp", "head"))
    assert ("(dense twin)" in drawn) == (">mod router<" in drawn) == (spec == "tiny_mod")


def test_the_plot_of_layers(flops, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "rec.yaml").write_text(RECURSIVE)
    target = tmp_path / "p.svg"
    ran = flops(tmp_path / "rec.yaml", "--count", "analytic", "--by", "layer", "--plot", target)
    assert ran.code == 0
    drawn = target.read_text()
    for text in ("rec: Where the FLOPs of the forward pass go, by layer", "dense twin", "attention scores", "head", "4"):
        assert f">{text}</text>" in drawn, text
    flops(tmp_path / "rec.yaml", "--count", "analytic", "--plot", tmp_path / "components.svg")
    assert drawn != (tmp_path / "components.svg").read_text()
    for words in (["--by", "path"], ["--by", "total"], ["gpt2", "--by", "layer"]):
        ran = flops(tmp_path / "rec.yaml", *words, "--plot", target)
        assert ran.code == 2 and "it draws components, of any number of specs, or the layers of one (--by layer)" in ran.err


RECURSIVE = """\
name: rec
vocab_size: 100
seq_len: 32
d_model: 16
n_layers: 5
attention: {n_heads: 2}
mlp: {d_ff: 64}
mod: {recursions: 3, capacity: [1.0, 0.5, 0.25], layers: [1, 2]}
"""


@pytest.mark.parametrize("by", ["layer", "path"])
def test_the_dense_twin_of_recursions_stands_beside_the_blocks_that_they_share(flops, tmp_path: Path, by: str) -> None:
    """The twin has blocks of their own in place of each recursion; its rows add up to its total all the same."""
    (tmp_path / "rec.yaml").write_text(RECURSIVE)
    ran = flops(tmp_path / "rec.yaml", "--count", "analytic", "--by", by, "--format", "csv")
    said = "(same shape, no routing; recursions as so many blocks, each with weights of its own)"
    assert said in flops(tmp_path / "rec.yaml", "--count", "analytic").out
    twin = account(dense_twin(load(tmp_path / "rec.yaml"))).flops.forward
    assert sum(int(row["dense_twin_flops"] or 0) for row in ran.rows) == twin
    if by == "layer":
        dense = {row["layer"]: int(row["dense_twin_flops"] or 0) for row in ran.rows}
        assert dense["blocks.1"] == dense["blocks.2"] == 3 * dense["blocks.0"] and dense["blocks.4"] == dense["blocks.0"]


def test_windows_billed_for_all_pairs_are_named_beside_each_other(flops, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(RECURSIVE.partition("mod:")[0].replace("n_heads: 2", "n_heads: 2, window: 8"))
    said = "windows of rec are billed for all pairs; --causal exact bills what tokens see"
    assert said in flops("gpt2", tmp_path / "w.yaml", "--count", "analytic").out
    assert said not in flops("gpt2", tmp_path / "w.yaml", "--count", "analytic", "--causal", "exact").out


def test_a_routed_window_at_decode_is_a_bound(flops, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(RECURSIVE.partition("mod:")[0].replace("n_heads: 2", "n_heads: 2, window: 8") + "mod: {capacity: 0.5}\n")
    said = "routed: a cache is billed for the kept tokens that are expected, at most `window`"
    for context, bound in ((7, False), (8, True)):
        assert (said in flops(tmp_path / "w.yaml", "--count", "analytic", "--phase", "decode", "--context", context).out) == bound


def test_what_is_in_no_bill_is_said(flops, tmp_path: Path) -> None:
    (tmp_path / "rec.yaml").write_text(RECURSIVE + 'description: "Imported. Not carried: quantization."\n')
    ran = flops(tmp_path / "rec.yaml", "--count", "analytic", "--mod", "capacity=0.5")
    assert "note: rec: not in the bill, for a spec has no key for it: quantization (of its config.json)\n" in ran.err
    assert "note: rec: --mod replaces its own mod section\n" in ran.err


def test_a_convention_of_another_rule_for_pairs_does_not_quote_its_own(flops) -> None:
    out = flops("gpt2", "--count", "analytic", "--convention", "causal-half", "--causal", "full").out
    assert "convention causal-half, causal full" in out and "attention over half" not in out


def test_each_model_has_a_table_of_its_sampling(flops) -> None:
    out = flops("mod-60m", "mod-220m", "--phase", "decode", "--context", 100).out.splitlines()
    assert "mod-60m: decode" in out and "mod-220m: decode" in out


def test_learned_positions_are_looked_up_too(flops) -> None:
    free = [flops(name, "--count", "analytic", "--format", "json").document["free"] for name in ("gpt2", "llama-2-7b")]
    assert [("token lookup" in one, "position lookup" in one) for one in free] == [(True, True), (True, False)]
