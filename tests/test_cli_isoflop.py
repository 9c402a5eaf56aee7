"""`modcalc isoflop` and `modcalc family` as a user runs them."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from modcalc.cli import app
from modcalc.cost.account import account
from modcalc.spec.load import load

KEYS = {"spec", "params", "forward_flops", "train_flops", "tokens", "steps", "relative_error", "status", "reason"}


class Runner:
    """Runs a command in this process: (exit code, stdout, stderr)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *args: object) -> tuple[int, str, str]:
        self.monkeypatch.setattr("sys.argv", ["modcalc", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            app.main()
        out, err = self.capsys.readouterr()
        return stop.value.code, out, err

    def document(self, *args: object) -> dict:
        code, out, err = self(*args, "--format", "json")
        found = json.loads(out)
        assert code == (0 if any(c["status"] == "OK" for c in found["candidates"]) else 1)
        assert all(line.startswith("wrote ") for line in err.splitlines()), err
        return found


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Runner:
    return Runner(monkeypatch, capsys)


def test_the_document_of_a_budget(run: Runner) -> None:
    document = run.document("isoflop", "dense-60m", "--budget", "1e18", "--batch", "64")
    assert (document["schema"], document["budget"], document["budgets"]) == (1, 10**18, [10**18])
    assert document["workload"] == {"batch": 64, "seq_len": 2048, "context": None} and document["convention"]["name"] == "matmul"
    assert {c["status"] for c in document["candidates"]} == {"OK", "DROP"}
    for c in document["candidates"]:
        assert set(c) >= KEYS and isinstance(c["params"], int) and isinstance(c["steps"], int)
        assert c["train_flops"] == c["steps"] * c["train_step_flops"] <= 10**18
        assert c["tokens"] == c["steps"] * 64 * 2048
        assert (c["reason"] is None) == (c["status"] == "OK")
    assert sum(len(c["marks"]) for c in document["candidates"]) == 2
    search = document["searches"][0]
    assert search["looked_at"] == search["size"] and not document["interrupted"]


def test_the_document_of_a_match(run: Runner) -> None:
    document = run.document("isoflop", "mod-60m", "--match", "dense-60m", "--limit", 5)
    target = account(load("dense-60m")).flops.forward
    assert document["match"]["target"] == document["match"]["forward_flops"] == target
    assert document["budget"] is None and len(document["candidates"]) == 5
    for c in document["candidates"]:
        assert c["relative_error"] == (c["forward_flops"] - target) / target
        assert c["tokens"] is c["steps"] is c["train_flops"] is None
    again = run.document("isoflop", "mod-60m", "--match", "dense-60m", "--limit", 5)
    assert again == document


COUNTS = """\
name: cnt
vocab_size: 1000
seq_len: 256
d_model: 128
n_layers: 4
attention: {n_heads: 2}
mlp: {ratio: 4}
mod: {capacity: 64, every: 2}
"""


def test_a_capacity_of_more_tokens_than_there_are_is_all_of_them(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "cnt.yaml").write_text(COUNTS)
    document = run.document("isoflop", tmp_path / "cnt.yaml", "--match", tmp_path / "cnt.yaml", "--seq-len", "40", "--limit", "3")
    best = document["candidates"][0]
    assert best["status"] == "OK" and best["shape"]["capacity"] == 40
    forward = account(load(tmp_path / "cnt.yaml"), seq_len=40).flops.forward
    assert abs(best["forward_flops"] / forward - 1) <= 0.001
    (tmp_path / "cnt.yaml").write_text(COUNTS.replace("capacity: 64", "capacity: 0.25, multiple_of: 48"))  # and so is a multiple
    again = run.document("isoflop", tmp_path / "cnt.yaml", "--match", tmp_path / "cnt.yaml", "--seq-len", "40", "--limit", "3")["candidates"][0]
    assert again == {**best, "shape": {**best["shape"], "capacity": 0.25}}


def test_files_are_told_also_of_several_budgets_and_of_the_shape_beside(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(COUNTS.replace("mod: {capacity: 64, every: 2}\n", ""))
    (tmp_path / "b.yaml").write_text(COUNTS)  # of the same name
    words = ("isoflop", tmp_path / "a.yaml", "--budget", "1e13", "--budget", "2e13", "--free", "n_layers=4,d_model=128", "--aspect", "none")
    document = run.document(*words, "--beside", tmp_path / "b.yaml", "--within", "0.9", "--out", tmp_path / "out")
    named = [one["file"] for c in document["candidates"] for one in (c, c["matched"])]
    assert len(set(named)) == 4 and {str(path) for path in (tmp_path / "out").iterdir()} == set(named)
    for c in document["candidates"]:
        assert load(c["file"]).mod is None and load(c["matched"]["file"]).mod is not None
    _, out, _ = run(*words, "--beside", tmp_path / "b.yaml", "--within", "0")
    assert out.count("beside: DROP ") == 2


def test_capacities_are_told_apart_where_blocks_are_listed(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "lay.yaml").write_text(COUNTS.replace("capacity: 64, every: 2", "capacity: 0.25, layers: [1, 2]"))
    code, out, err = run(
        "isoflop", tmp_path / "lay.yaml", "--match", tmp_path / "lay.yaml", "--free", "capacity=0.25+0.5", "--within", "1", "-f", "csv"
    )
    rows = list(csv.DictReader(io.StringIO(out)))
    assert sorted(row["capacity"] for row in rows) == ["0.25", "0.5"] and "every" not in rows[0]


def test_none_but_equals_within_nothing(run: Runner) -> None:
    words = ("isoflop", "dense-60m", "--match", "dense-60m", "--within", "0", "--limit", "6")
    document = run.document(*words)
    fine = [c["forward_flops"] for c in document["candidates"] if c["status"] == "OK"]
    assert set(fine) == {document["match"]["target"]} and len(fine) < 6
    assert "within 0 % of the target" in run(*words)[1] and "within 0.1 % of the target" in run(*words[:4])[1]


def test_rows_of_several_budgets_stand_under_one_header(run: Runner) -> None:
    code, out, err = run("isoflop", "mod-220m", "--budget", "1e18", "--budget", "1e19", "--limit", "2", "-f", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and {row["budget"] for row in rows} == {str(10**18), str(10**19)} and {row["capacity"] for row in rows} == {"0.125"}


def test_experts_show_their_own_width(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "moe.yaml").write_text(COUNTS.partition("mod:")[0] + "moe: {n_experts: 4, top_k: 2, d_ff: 96}\n")
    code, out, err = run(
        "isoflop", tmp_path / "moe.yaml", "--budget", "1e15", "--limit", "2", "-f", "csv", "--tokens-per-param", "none", "--out", tmp_path / "o"
    )
    rows = list(csv.DictReader(io.StringIO(out)))
    assert rows and all("d_ff" not in row and int(row["expert_d_ff"]) > 0 for row in rows)
    assert all(f"-f{row['expert_d_ff']}" in "".join(map(str, (tmp_path / "o").iterdir())) for row in rows if row["status"] == "OK")


@pytest.mark.parametrize("by, held", [("train", True), ("decode", False)])
def test_a_written_cost_is_held_by_check(run: Runner, tmp_path: Path, by: str, held: bool) -> None:
    (tmp_path / "cnt.yaml").write_text(COUNTS + "train: {batch_size: 4, steps: 10}\n")
    question = ("isoflop", tmp_path / "cnt.yaml", "--match", "dense-small", "--by", by, "--within", "0.05", "--limit", "2", "--out", tmp_path / "o")
    code, out, err = run(*question)
    assert (code, "without a budget" in err) == (0, not held)
    code, out, err = run("check", tmp_path / "o")
    assert code == 0 and out.count("train_step_flops == ") == (2 if held else 0)


def test_several_budgets_make_several_tables(run: Runner) -> None:
    code, out, err = run("isoflop", "dense-60m", "--budget", "1e18", "--budget", "3e18")
    assert (code, err) == (0, "")
    assert "spend 1e+18 training FLOPs" in out and "spend 3e+18 training FLOPs" in out
    assert out.count("<- 20 tokens per parameter: the OK row nearest to it") == 2
    assert "rule: d_model / n_layers 48 to 128 (--aspect)" in out and "convention matmul" in out
    assert run.document("isoflop", "dense-60m", "--budget", "1e18", "--budget", "3e18")["budget"] is None


def test_a_marked_row_that_is_far_off_is_said_to_be(run: Runner) -> None:
    _, out, _ = run("isoflop", "dense-60m", "--budget", "1e18", "--params", "150M:200M", "--count", "active")
    far = re.findall(
        r"^<- (.*): the OK row nearest to .*, by ratio; at (.*) it is far off: to come nearer, try .*--params.*--multiple-of$", out, re.M
    )
    assert [mark for mark, _ in far] == ["20 tokens per parameter", "sqrt(C/120)"] and "nearest to 91.29 M active parameters" in out
    assert far[0][1] in out.partition("<-")[0]
    _, out, _ = run("isoflop", "dense-60m", "--budget", "1e18")
    assert "<- sqrt(C/120): the OK row" in out and "far off" not in out
    _, out, _ = run("isoflop", "mod-60m", "--budget", "1e18", "--free", "capacity=0.125,0.25")
    assert "it is far off: to come nearer, try --free n_layers,d_model\n" in out  # widths that are not free have no multiple
    _, out, _ = run("isoflop", "dense-60m", "--budget", "1e14", "--free", "n_layers=2:4,d_model=64", "--aspect", "none")
    assert "it is far off: to come nearer, try other values in --free\n" in out  # nor have those that were given


def test_csv_holds_raw_values(run: Runner) -> None:
    code, out, err = run("isoflop", "mod-60m", "--match", "dense-60m", "--by", "kv", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 1 and rows and "convention matmul" in err
    assert all(int(r["forward_flops"]) > 10**11 and int(r["cost_kv"]) > 10**6 for r in rows)


@pytest.mark.parametrize(("by", "there"), [("kv", True), ("forward", False), ("params", False)])
def test_what_is_matched_has_a_column_of_its_own(run: Runner, by: str, there: bool) -> None:
    head = run("isoflop", "mod-60m", "--match", "dense-60m", "--by", by, "--free", "n_layers", "--format", "csv")[1].splitlines()[0]
    assert (f"cost_{by}" in head.split(",")) == there


@pytest.mark.parametrize("columns", [60, 80, 300])
def test_every_look_prints(run: Runner, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for look in ("table", "plain", "markdown", "latex"):
        code, out, err = run("isoflop", "dense-220m", "--budget", "6e18", "--beside", "mod-220m", "--limit", 4, "--format", look)
        assert code == 0, err
        assert "mod-220m-l" in out.replace("\\_", "_")


def test_conventions_and_lengths_change_the_plan_and_are_printed(run: Runner) -> None:
    plain = run.document("isoflop", "dense-60m", "--budget", "1e18")
    for options, name in ((("--convention", "6nd"), "6nd"), (("--causal", "half"), "matmul"), (("--seq-len", 1024), "matmul")):
        other = run.document("isoflop", "dense-60m", "--budget", "1e18", *options)
        assert other["convention"]["name"] == name and other["candidates"] != plain["candidates"]
    assert other["workload"]["seq_len"] == 1024
    code, out, _ = run("isoflop", "dense-60m", "--budget", "1e18", "--convention", "6nd")
    assert code == 0 and "convention 6nd: counts 6 FLOPs per parameter" in out


def test_each_rule_is_an_option_and_has_an_effect(run: Runner) -> None:
    def shapes(*options: object) -> list[dict]:
        return [c["shape"] | {"params": c["params"]} for c in run.document("isoflop", "dense-220m", "--budget", "6e18", *options)["candidates"]]

    plain = shapes()
    assert max(s["d_model"] / s["n_layers"] for s in shapes("--aspect", "30:40")) <= 40
    assert all(s["head_dim"] == 128 and s["d_model"] == 128 * s["n_heads"] for s in shapes("--head-dim", 128))
    assert all(s["d_model"] % 256 == 0 == s["d_ff"] % 256 for s in shapes("--multiple-of", 256))
    assert all(s["d_ff"] % 96 == 0 for s in shapes("--multiple-of", 96, "--free", "n_layers,d_ff"))
    assert {s["d_ff"] for s in shapes("--multiple-of", 96, "--free", "d_ff=1000:1300", "--ff-ratio", "none")} == {1056, 1152, 1248}
    assert all(10**8 <= s["params"] <= 3 * 10**8 for s in shapes("--params", "100M:300M"))
    assert {s["n_layers"] for s in shapes("--free", "n_layers=10:12,d_model")} == {10, 11, 12}
    assert len({s["d_ff"] / s["d_model"] for s in shapes("--free", "n_layers,d_model,d_ff")}) > 3
    for options in (("--tokens-per-param", "10:30"), ("--count", "non_embedding"), ("--min-steps", 20_000), ("--batch", 1024)):
        code, out, _ = run("isoflop", "dense-220m", "--budget", "6e18", *options)
        assert code == 0 and out != run("isoflop", "dense-220m", "--budget", "6e18")[1]
    assert len(shapes("--limit", 3)) in (3, 4) and len(plain) > 4


def test_device_hours_are_a_budget(run: Runner) -> None:
    """4,000 hours of an H200 at an MFU of 40 %: 4,000 x 3,600 x 989e12 x 0.4 FLOPs."""
    asked = ("isoflop", "dense-220m", "--device-hours", "4K", "--gpu", "h200", "--mfu", 0.4, "--limit", 2)
    paid, given = run.document(*asked), run.document("isoflop", "dense-220m", "--budget", "5.69664e21", "--limit", 2)
    assert paid["budget"] == 4000 * 3600 * 989 * 10**12 * 4 // 10 == given["budget"] and paid["candidates"] == given["candidates"]
    device = "NVIDIA H200 at 989 TFLOP/s (https://www.nvidia.com/en-us/data-center/h200/)"
    said = f"budget of 5.69664e+21 FLOPs: 4,000 device-hours of {device}, MFU 40 % (--mfu)"
    assert paid["rules"] == [said, *given["rules"]] and f"rule: {said}\n" in run(*asked)[1]
    planned = (
        "--batch",
        64,
        "--min-steps",
        2,
        "--tokens-per-param",
        "10:30",
        "--count",
        "active",
        "--beside",
        "mod-60m",
        "--free",
        "n_layers,d_model=512",
    )
    light = [
        run.document("isoflop", "dense-60m", *words, *planned)
        for words in (("--budget", "36e16"), ("--device-hours", "1", "--peak-tflops", 100, "--mfu", 1))
    ]
    assert light[0]["candidates"] == light[1]["candidates"] and light[0]["candidates"]
    own = ("--device-hours", "1", "--peak-tflops", 100, "--mfu", 1, "--limit", 2)
    assert run.document("isoflop", "dense-60m", *own)["budget"] == 36 * 10**16
    matched = run.document("isoflop", "mod-60m", "--match", "dense-60m", *own)
    assert (
        matched["budget"] == 36 * 10**16
        and matched["match"]["steps"]
        and matched["rules"][0].startswith("budget of 3.6e+17 FLOPs: 1 device-hour of a")
    )


def test_the_grid_of_inner_widths_follows_its_ratio(run: Runner) -> None:
    """A MoD model of the same depth and width spends on d_ff what it saves: far more than a quarter."""
    match = ("isoflop", "mod-60m", "--match", "dense-60m", "--free", "d_ff")
    usual = run.document(*match, "--within", "0.005")
    wide = run.document(*match, "--ff-ratio", "2:16", "--within", "0.005")
    assert not any(c["status"] == "OK" for c in usual["candidates"]) and any(c["status"] == "OK" for c in wide["candidates"])
    assert wide["searches"][0]["size"] > usual["searches"][0]["size"]


def test_differences_to_the_other_model_are_told(run: Runner) -> None:
    code, out, _ = run("isoflop", "mod-60m", "--match", "gpt2", "--seq-len", 1024)
    assert code == 0 and "vocabulary: gpt2 has V = 50,257, mod-60m 32,000" in out
    code, out, err = run("isoflop", "mod-60m", "--match", "gpt2")
    assert (code, out) == (2, "") and "1024 learned positions" in err
    code, out, _ = run("isoflop", "mod-small", "--match", "dense-60m")
    assert code == 1 and "is written for T = 2,048; both are billed at T = 512" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("dense-60m",), "give --budget"),
        (("dense-60m", "--budget", "0"), "--budget: found '0'"),
        (("dense-60m", "--budget", "-6e18"), "--budget: found '-6e18'"),
        (("dense-60m", "--budget=nan"), "--budget: found 'nan'"),
        (("dense-60m", "--budget", "1e400"), "--budget: found '1e400'"),
        (("dense-60m", "--budget", "lots"), "--budget: found 'lots'"),
        (("dense-60m", "--budget", "1e18", "--free", "n_layer"), "did you mean n_layers"),
        (("dense-60m", "--budget", "1e18", "--free", "capacity"), "dense family"),
        (("dense-60m", "--budget", "1e18", "--free", "n_layers=9:4"), "empty range"),
        (("dense-60m", "--budget", "1e18", "--free", "n_layers,n_layers"), "given twice"),
        (("dense-60m", "--budget", "1e18", "--aspect", "9:4"), "contradicts itself"),
        (("dense-60m", "--budget", "1e18", "--params", "1B:1M"), "contradicts itself"),
        (("dense-60m", "--budget", "1e18", "--params", "1B"), "low:high"),
        (("dense-60m", "--budget", "1e18", "--ff-ratio", "3:5"), "--ff-ratio: d_ff is not free"),
        (("dense-60m", "--budget", "1e18", "--multiple-of", 96, "--free", "d_ff=960+1000"), "d_ff=960+1000: 1,000 is no multiple of 96"),
        (("dense-60m", "--budget", "1e18", "--multiple-of", 64, "--free", "d_ff=3:4"), "d_ff=3:4: no multiple of 64 within it"),
        (("dense-60m", "--budget", "1e18", "--multiple-of", 64, "--free", "d_ff=-5:100"), "d_ff: found -5; allowed are 1 to"),
        (("dense-60m", "--budget", "1e18", "--match", ""), "--match '': an empty name"),
        (("mod-60m", "--budget", "1e18", "--free", "capacity=2.0"), "found 2.0; a share is"),
        (("dense-60m", "--budget", "1e18", "--device-hours", "9"), "--budget and --device-hours: each says what is spent"),
        (("dense-60m", "--budget", "1e18", "--gpu", "h200"), "--gpu: it belongs to --device-hours"),
        (("dense-60m", "--match", "mod-60m", "--mfu", "0.4"), "--mfu: it belongs to --device-hours"),
        (("dense-60m", "--device-hours", "9", "--gpu", "h200"), "--mfu: it is not given"),
        (("dense-60m", "--device-hours", "9", "--mfu", "0.4"), "--device-hours: give either --gpu NAME"),
        (("dense-60m", "--device-hours", "9", "--gpu", "h200", "--mfu", "0"), "--mfu: found 0; allowed is a share above 0"),
        (("dense-60m", "--device-hours", "1.5", "--gpu", "h200", "--mfu", "0.4"), "--device-hours: found '1.5'; allowed whole numbers"),
        (("dense-60m", "--device-hours", "1e30", "--gpu", "h200", "--mfu", "0.4"), "--device-hours 1e30: 1.42416e+48 FLOPs are no budget"),
        (("dense-60m", "--device-hours", "9", "--gpu", "h200", "--mfu", "1e-30"), "--device-hours 9: 0 FLOPs are no budget; allowed are 1 to 1e+36"),
        (("dense-60m", "--device-hours", "9", "--gpu", "h200", "--mfu", "0.4", "--convention", "fvcore"), "--device-hours with --convention fvcore"),
        (("dense-60m", "--budget", "1e18", "--context", 8), "--context: it belongs to --by decode"),
        (("dense-60m", "--budget", "1e18", "--multiple-of", 8, "--free", "n_layers"), "--multiple-of: neither d_model nor d_ff is free"),
        (("dense-60m", "--budget", "1e18", "--by", "kv"), "--by: it belongs to --match"),
        (("dense-60m", "--budget", "1e18", "--prefer", "deepest"), "--prefer: it belongs to"),
        (("dense-60m", "--budget", "1e18", "--within", "-1"), "--within"),
        (("dense-60m", "--budget", "1e18", "--force"), "--force: it belongs to --out"),
        (("dense-60m", "--match", "mod-60m", "--batch", 8), "--batch: it belongs to --budget"),
        (("dense-60m", "--match", "mod-60m", "--plot", "x.svg"), "--plot: it belongs to --budget"),
        (("dense-60m", "--match", "mod-60m", "--context", 8), "--context: it belongs to --by decode"),
        (("dense-60m", "--match", "mod-60m", "--min-steps", 8), "--min-steps: it belongs to --budget or --device-hours, without --match"),
        (("dense-60m", "--match", "mod-60m", "--beside", "mod-60m"), "--beside: it belongs to --budget or --device-hours, without --match"),
        (("dense-60m", "--match", "mod-60m", "--budget", "1e18", "--budget", "2e18"), "one budget"),
        (("dense-60m", "--match", "mod-60m", "--per", "d_mode"), "did you mean d_model"),
        (("mod-60m", "--match", "dense-60m", "--per", "capacity"), "it is not free"),
        (("mod-60m", "--match", "dense-60m", "--free", "d_ff=1:20000", "--per", "d_ff"), "20,000 combinations"),
        (("dense-60m", "--match", "mod-600m"), "no such file"),
        (("dense-600m", "--budget", "1e18"), "no such file"),
        (("dense-60m", "--budget", "1e18", "--convention", "7nd"), "did you mean 6nd"),
        (("dense-60m", "--budget", "1e18", "--plot", "x.gif"), "--plot x.gif"),
        (("gpt2", "--budget", "1e18", "--seq-len", 4096), "1024 learned positions"),
    ],
)
def test_bad_questions_get_one_message(run: Runner, args: tuple, message: str) -> None:
    code, out, err = run("isoflop", *args)
    assert (code, out) == (2, "") and message in err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err


@pytest.mark.parametrize(("budget", "rule"), [("1", "steps"), ("1e9", "steps"), ("1e33", "tokens per parameter")])
def test_a_budget_beyond_the_grid_says_which_rule_excluded_most(run: Runner, budget: str, rule: str) -> None:
    code, out, _ = run("isoflop", "dense-60m", "--budget", budget)
    assert code == 1 and " OK " not in out and f"no shape is OK; {rule} excluded most: change the budget" in out
    assert "at least 1 whole step (--min-steps)" in out and (rule != "steps" or "times the budget" in out)
    assert run.document("isoflop", "dense-60m", "--budget", budget)["searches"][0]["excluded_most"] == rule


def test_rules_that_leave_nothing_say_so(run: Runner) -> None:
    code, out, _ = run("isoflop", "dense-60m", "--match", "mod-60m", "--free", "n_layers=1,d_model=64", "--aspect", "500:600")
    assert code == 1 and "no shape is OK; aspect excluded most: change --aspect" in out
    code, out, _ = run("isoflop", "dense-60m", "--match", "mod-60m", "--free", "n_layers=1:3,d_model=64:128")
    assert code == 1 and "no shape is OK; relative error excluded most: change --within or --free" in out
    assert run.document("isoflop", "mod-60m", "--match", "dense-60m", "--free", "n_layers=1,d_model=64", "--aspect", "none")["candidates"] == []


def test_specs_are_written_once(run: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "found"
    document = run.document("isoflop", "mod-60m", "--match", "dense-60m", "--out", folder)
    files = sorted(folder.iterdir())
    assert sorted(c["file"] for c in document["candidates"] if c["status"] == "OK") == [str(f) for f in files]
    assert all(c["file"] is None for c in document["candidates"] if c["status"] != "OK")
    code, out, err = run("isoflop", "mod-60m", "--match", "dense-60m", "--out", folder)
    assert (code, out) == (2, "") and "not empty" in err
    code, out, err = run("isoflop", "mod-60m", "--match", "dense-60m", "--out", folder, "--force")
    assert code == 0 and f"wrote {len(files)} specs into {folder}" in err and "wrote" not in out
    assert run("check", folder)[0] == 0
    code, _, err = run("isoflop", "mod-60m", "--match", "dense-60m", "--out", files[0])
    assert code == 2 and "--out" in err


@pytest.mark.parametrize("args", [("dense-60m",), ("dense-60m", "--beside", "mod-60m"), ("mod-60m", "--match", "dense-60m")])
def test_a_plot_of_nothing_says_so(run: Runner, args: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "plot.svg"
    assert run("isoflop", *args, "--budget", "1", "--limit", 2, "--plot", file)[0] == 1
    text = file.read_text()
    assert "~" not in text and "no shape is OK" in text


def test_plots(run: Runner, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "slices.svg"
    code, _, err = run("isoflop", "dense-220m", "--budget", "6e18", "--budget", "2e19", "--beside", "mod-220m", "--limit", 10, "--plot", file)
    text = file.read_text()
    assert code == 0 and f"drawn into {file}" in err
    for words in (
        "dense-220m, 6e+18 FLOPs",
        "dense-220m, 2e+19 FLOPs",
        "mod-220m, same forward FLOPs",
        "training tokens",
        "convention matmul, causal full",
    ):
        assert words in text
    file = tmp_path / "match.svg"
    assert run("isoflop", "mod-220m", "--match", "dense-220m", "--budget", "6e18", "--plot", file)[0] == 0
    assert "same forward cost as dense-220m" in file.read_text()


def test_no_advice_from_a_part_of_the_lattice(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an interrupted search has not reached may be OK."""
    question = ("isoflop", "dense-60m", "--match", "mod-60m", "--free", "n_layers=1:3,d_model=64:128")
    assert "excluded most: change" in run(*question)[1]

    def stop(text: str, size: int) -> Any:
        return nullcontext(lambda n: (_ for _ in ()).throw(KeyboardInterrupt))

    monkeypatch.setattr("modcalc.cli.isoflop._progress", stop)
    code, out, err = run(*question)
    assert code == 130 and "better ones may be left" in out and "excluded most" not in out
    assert "(some break several; those of heads and valid spec are of all shapes, looked at or not)" in out


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to a child")
def test_control_c_prints_what_was_found_and_exits_with_130(tmp_path: Path) -> None:
    huge = "n_layers=2:40,d_model=64:16384:64,d_ff=64:65536:8,capacity=0.1:1.0:0.01,every"
    command = [sys.executable, "-m", "modcalc.cli.app", "isoflop", "mod-220m", "--match", "dense-220m", "--free", huge, "--format", "json"]
    told = tmp_path / "stderr"
    with told.open("w") as stderr, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as child:
        while child.poll() is None and "searching" not in told.read_text():
            time.sleep(0.05)
        time.sleep(2.0)  # the search is under way, and would take minutes
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=60)
    err = told.read_text()
    assert child.returncode == 130 and "interrupted after" in err and "Traceback" not in err
    document = json.loads(out)
    assert document["interrupted"] and document["candidates"]
    assert 0 < document["searches"][0]["looked_at"] < document["searches"][0]["size"]
    assert all(c["forward_flops"] == c["cost"] for c in document["candidates"])


def test_family(run: Runner, tmp_path: Path) -> None:
    document = run.document("family", "petty-41m", "--vary", "n_layers=1,2,3,4,5,6,7", "--solve", "d_ff", "--hold", "params", "--out", tmp_path / "f")
    assert (document["target"], document["hold"], document["solve"]) == (41_287_680, "params", "d_ff")
    assert [c["shape"]["d_ff"] for c in document["candidates"]] == [4779, 2048, 1138, 683, 410, 228, 98]
    assert all(c["params"] == 41_287_680 + c["drift"] and c["kv_cache_bytes"] > 0 and Path(c["file"]).is_file() for c in document["candidates"])
    code, out, err = run("family", "mod-60m", "--vary", "n_layers=4:16:4", "--hold", "forward")
    assert (code, err) == (0, "") and "held: forward FLOPs of one sequence" in out and "KV cache" in out
    _, out, _ = run("family", "mod-small", "--vary", "capacity=0.5,0.25,d_model=256", "-f", "csv")  # its blocks are listed
    assert out.splitlines()[0].split(",").count("capacity") == 1 and [line.split(",")[4] for line in out.splitlines()[1:]] == ["0.25", "0.5"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "give --vary"),
        (("--vary", "n_layer=1"), "did you mean n_layers"),
        (("--vary", "n_layers=1", "--solve", "n_layers"), "it is what --solve looks for"),
        (("--vary", "n_layers=1", "--context", 5), "--context: it belongs to --hold decode"),
        (("--vary", "n_layers=1", "--to", "-5"), "--to: found '-5'"),
        (("--vary", "n_layers=1", "--force"), "--force: it belongs to --out"),
        (("--vary", "n_layers=1", "--hold", "kv"), "do not change with it"),
    ],
)
def test_bad_families_get_one_message(run: Runner, args: tuple, message: str) -> None:
    code, out, err = run("family", "petty-41m", *args)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
