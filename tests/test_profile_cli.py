"""`modcalc profile` as a user runs it."""

import csv
import io
import json
import os
import re
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import msgspec
import pytest

from modcalc.cost.account import account, dense_twin
from modcalc.cost.roofline import step_bytes
from modcalc.spec.load import loads

torch = pytest.importorskip("torch")
from modcalc.measure import compiling, heap, reach, steptime, sweep  # noqa: E402
from modcalc.measure.alike import alike  # noqa: E402
from modcalc.measure.hardware import Peak  # noqa: E402
from modcalc.measure.point import Job  # noqa: E402
from modcalc.measure.records import Settings  # noqa: E402
from modcalc.measure.results import read_results  # noqa: E402

YAML = """\
name: tiny
vocab_size: 50
seq_len: 16
d_model: 16
n_layers: 2
attention: {n_heads: 2}
mlp: {ratio: 4.0}
mod: {capacity: 0.25}
"""
QUICK = ["--device", "cpu", "-n", "6", "--warmup", "1"]


def full(*_args, **_kw):
    """Stands in for what finds no memory."""
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture
def profile(modcalc, monkeypatch, tmp_path):
    """Run the command in a folder with tiny.yaml, peaks measured in no time; returns (exit code, stdout, stderr)."""
    for module, name, value in (
        (reach, "SECONDS", 0.01), (reach, "MATMUL", {"cpu": 128}), (reach, "COPY_BYTES", {"cpu": 2**20}), (steptime, "WARM_S", 0.05),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(YAML)
    return partial(modcalc, "profile")


def test_the_keys_that_scripts_rely_on(profile):
    code, out, err = profile("tiny.yaml", "--mode", "train", "--baseline", "dense", "--peak-tflops", "1", "-B", "2", "--format", "json", *QUICK)
    assert code == 0
    d = json.loads(out)
    assert d["schema"] == 1 and d["spec"] == "tiny" and d["mode"] == "train" and d["dtype"] == "fp32"
    assert d["device"]["name"] and d["device"]["type"] == "cpu" and d["torch"] == str(torch.__version__)
    assert d["workload"] == {"batch": 2, "seq_len": 16, "context": 0}
    assert {"median", "p25", "p75", "min", "samples"} <= set(d["step_time_s"]) and len(d["step_time_s"]["samples"]) == 6
    flops = account(loads(YAML), batch=2, phase="train").flops.train_step
    assert d["flops"]["step"] == flops
    t = d["step_time_s"]["median"]
    assert d["tokens_per_s"] == pytest.approx(32 / t) and d["flops_per_s"] == pytest.approx(flops / t) and d["mfu"] == pytest.approx(flops / t / 1e12)
    assert d["peak_memory_bytes"] is None or isinstance(d["peak_memory_bytes"], int)
    base = d["baseline"]
    assert base["spec"] == "tiny (dense twin)" and 0.25 < base["flop_ratio"] < 1 and base["time_ratio"] > 0
    assert base["flop_ratio"] == flops / base["flops"]["step"]


def test_the_tables(profile):
    code, out, err = profile("tiny.yaml", "--baseline", "dense", "--by", "component", "--peak-tflops", "0.5", "-f", "plain", *QUICK)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "Measured step times"
    assert any(line.startswith("forward pass, all logits, no gradients; fp32, eager") for line in lines)
    assert "new random tokens each step; warm-up and compilation are not in the times" in lines
    assert any(line.startswith("convention matmul: 1 multiply-add = 2 FLOPs; ") for line in lines)
    assert "peak: 500.00 GFLOP/s, dense fp32 (--peak-tflops)" in lines
    assert "Against the baseline, run in turn" in lines and all(
        f"Where the time goes: {name}, forward, batch 1, 16 tokens" in lines for name in ("tiny", "tiny (dense twin)")
    )
    assert out.count("routing overhead (in the lines above):") == 1
    header = next(line for line in lines if line.startswith("model  ") and "step" in line)
    assert header.split()[:4] == ["model", "batch", "tokens", "step"] and "cached" not in header and "energy/token" not in header


@pytest.mark.parametrize("format", ["table", "markdown", "latex", "csv"])
def test_other_formats(profile, format):
    code, out, err = profile("tiny.yaml", "--baseline", "tiny.yaml", "--by", "layer", "-f", format, *QUICK)
    assert code == 0 and "tiny" in out and "blocks.1" in out


def test_unknown_device_no_mfu(profile):
    code, out, err = profile("tiny.yaml", "-f", "plain", *QUICK)
    assert code == 0 and "MFU " not in out
    assert "no fp32 peak is known for this device, so no MFU; give it with --peak-tflops; profile --peaks measures what is reached" in out


def test_several_specs_and_points_make_one_document(profile):
    pytest.importorskip("matplotlib")
    Path("b.yaml").write_text(YAML.replace("name: tiny", "name: b").replace("n_layers: 2", "n_layers: 3"))
    code, out, err = profile("tiny.yaml", "b.yaml", "--sweep", "batch=1,2", "--sweep", "seq-len=8,16", "-f", "json", "--plot", "p.svg", *QUICK)
    assert code == 0
    results = json.loads(out)["results"]
    assert [(r["spec"], r["workload"]["batch"], r["workload"]["seq_len"]) for r in results] == [
        (name, batch, length) for name in ("tiny", "b") for batch in (1, 2) for length in (8, 16)
    ]
    cost = account(loads(YAML), batch=2, seq_len=8).flops.forward
    assert f"measuring tiny, forward, batch 2, 8 tokens, {cost / 1000:.2f} kFLOPs a step ..." in err


def test_an_interrupted_sweep_has_the_shape_of_a_whole_one(profile, monkeypatch):
    own = sweep.measure

    def stopped(job, say):
        if job.settings.batch == 2:
            raise KeyboardInterrupt
        return own(job, say)

    monkeypatch.setattr(sweep, "measure", stopped)
    code, out, err = profile("tiny.yaml", "--sweep", "batch=1,2", "-f", "json", *QUICK)
    assert code == 130 and "interrupted: 1 of 2 points were measured" in err
    assert [r["workload"]["batch"] for r in json.loads(out)["results"]] == [1]


def test_a_dense_model_against_itself_with_routing(profile):
    Path("dense.yaml").write_text(YAML.replace("mod: {capacity: 0.25}\n", ""))
    asked = ("dense.yaml", "--mod", "capacity=4", "-f", "json", *QUICK)
    for baseline, name in (("dense.yaml", "tiny"), ("dense", "tiny-mod (dense twin)")):
        code, out, _ = profile(*asked, "--baseline", baseline)
        d = json.loads(out)
        assert (code, d["spec"], d["baseline"]["spec"]) == (0, "tiny-mod", name)
        assert d["flops"]["step"] == account(loads(YAML)).flops.forward < d["baseline"]["flops"]["step"]


def test_a_file_keeps_every_breakdown_of_a_point(profile):
    for by in ("component", "layer", "component"):
        assert profile("tiny.yaml", "--by", by, "--out", "r.jsonl", *QUICK)[0] == 0
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [[a["by"] for a in line["attribution"]] for line in lines] == [["component"], ["layer", "component"]]
    Path("again.yaml").write_text(YAML.replace("tiny", "again"))
    found = json.loads(profile("again.yaml", "--by", "path", "--out", "r.jsonl", "-f", "json", *QUICK)[1])["attribution"]
    assert [(a["spec"], a["by"]) for a in found] == [("again", by) for by in ("path", "layer", "component")]


def test_what_is_reached_is_that_of_as_many_threads(profile):
    assert profile("tiny.yaml", "--peaks", "--out", "r.jsonl", *QUICK)[0] == 0
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert json.loads(profile("tiny.yaml", "--out", "r.jsonl", "-f", "json", *QUICK)[1])["reached"] is None
    finally:
        torch.set_num_threads(threads)
    assert json.loads(profile("tiny.yaml", "-B", "2", "--out", "r.jsonl", "-f", "json", *QUICK)[1])["reached"]


def test_expectations_are_called_so(profile):
    """At sampling no-op experts are counted by their share; exact pairs of kept tokens among all at their mean."""
    Path("moe.yaml").write_text(YAML.replace("mod: {capacity: 0.25}", "moe: {n_experts: 3, top_k: 1, n_noop: 1, capacity: 1.25}"))
    assert "FLOPs are expectations" in profile("moe.yaml", "--mode", "prefill", "-f", "plain", *QUICK)[1]
    found = [json.loads(profile("moe.yaml", "--mode", mode, "-f", "json", *QUICK)[1]) for mode in ("prefill", "forward")]
    assert [(d["expectation"], d["drawn"]) for d in found] == [(True, False), (False, False)]
    Path("keys.yaml").write_text(YAML.replace("capacity: 0.25", "capacity: 0.25, keys: all"))
    assert "as many keys as a token sees in the mean" in profile("keys.yaml", "--causal", "exact", "-f", "plain", *QUICK)[1]
    assert "expectation" not in profile("keys.yaml", "-f", "plain", *QUICK)[1]


def test_what_to_make_smaller_is_an_option_of_the_mode(profile):
    code, _, err = profile("tiny.yaml", "--mode", "decode", "--context", "1000000000", *QUICK)
    assert code == 2 and err.endswith("try a smaller --batch or --context\n")


def test_an_interrupt_shows_only_what_answers(profile, monkeypatch):
    """Points known from a run that asked for less are not measured yet; the others are shown as they are asked for now."""
    asked = ("--sweep", "batch=1,2", "--out", "r.jsonl", *QUICK)
    assert profile("tiny.yaml", *asked)[0] == 0
    Path("again.yaml").write_text(YAML.replace("tiny", "again"))
    assert profile("again.yaml", "-B", "2", "--by", "layer", "--out", "r.jsonl", *QUICK)[0] == 0

    def stopped(job, say):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "measure", stopped)
    code, out, err = profile("again.yaml", *asked, "--by", "layer", "--peak-tflops", "1", "-f", "json")
    assert code == 130 and "interrupted: 1 of 2 points were measured" in err
    (only,) = json.loads(out)["results"]
    assert (only["spec"], only["workload"]["batch"], only["attribution"][0]["by"]) == ("again", 2, "layer") and only["mfu"] > 0


def test_peaks_where_no_memory_is_free(profile, monkeypatch):
    monkeypatch.setattr(reach, "reached", full)
    for words in ([], ["tiny.yaml", *QUICK]):
        code, out, err = profile("--peaks", *words)
        assert code == 2 and out == "" and err.endswith("error: --peaks: memory ran out on the cpu; does something else use it?\n")


def test_no_trace_of_another_run_is_left(profile, monkeypatch):
    from modcalc.measure import attribution

    Path("t.json").write_text("{}\n")
    monkeypatch.setattr(attribution, "profiled", full)
    code, out, err = profile("tiny.yaml", "--trace", "t.json", *QUICK)
    assert code == 0 and "memory ran out" in err and not Path("t.json").exists()


def test_what_is_reached_needs_no_advice_to_measure_it(profile):
    code, out, err = profile("tiny.yaml", "--peaks", "-f", "plain", *QUICK)
    assert code == 0 and "reached: " in out and "give it with --peak-tflops\n" in out


def test_the_plot(profile):
    pytest.importorskip("matplotlib")
    code, out, err = profile("tiny.yaml", "--baseline", "dense", "--sweep", "batch=1,2,4", "--plot", "p.svg", "--peak-tflops", "0.2", *QUICK)
    assert code == 0
    drawn = Path("p.svg").read_text()
    for text in (
        "batch, sequences",
        "time of a step (solid)",
        "FLOPs a step (dashed)",
        "FLOPs per byte that a step must move",
        "peak given by --peak-tflops",
        "tiny (dense twin)",
    ):
        assert f">{text}</text>" in drawn, text


def test_a_plot_of_two_settings_has_a_line_for_each_value_of_the_second(profile):
    pytest.importorskip("matplotlib")
    Path("plain.yaml").write_text(YAML.replace("mod: {capacity: 0.25}", "").replace("name: tiny", "name: plain"))
    words = ("tiny.yaml", "plain.yaml", "--baseline", "plain.yaml", "--sweep", "batch=1,2", "--sweep", "seq-len=8,16", "--plot", "p.svg", *QUICK)
    assert profile(*words)[0] == 0
    drawn = Path("p.svg").read_text()
    for text in ("tiny, T = 8", "tiny, T = 16", "plain (with itself), T = 8", "plain (beside tiny), T = 8", "plain (as baseline), T = 16"):
        assert f">{text}</text>" in drawn, text


def test_results_are_found_again(profile):
    words = ("tiny.yaml", "--sweep", "batch=1,2", "--out", "r.jsonl", "-f", "json", *QUICK)
    first, again = profile(*words), profile(*words)
    assert first[0] == again[0] == 0
    assert json.loads(first[1]) == json.loads(again[1])
    assert "tiny, forward, batch 1, 16 tokens: already in r.jsonl" in again[2] and "measuring" not in again[2]


def test_results_that_do_not_tell_what_is_asked_are_measured_again(profile):
    words = ("tiny.yaml", "--out", "r.jsonl", "-f", "json", *QUICK)

    def measured(*more: str) -> bool:
        code, out, err = profile(*words, *more)
        assert code == 0
        return "measuring tiny" in err

    assert measured() and not measured()
    assert measured("--by", "component") and not measured("--by", "component") and not measured()
    assert measured("--by", "layer")
    assert measured("--trace", "t.json") and measured("--trace", "t.json")


def test_a_peak_given_later_rates_what_was_measured(profile):
    words = ("tiny.yaml", "--baseline", "dense", "--out", "r.jsonl", "-f", "json", *QUICK)

    def found(*more: str) -> dict:
        code, out, err = profile(*words, *more)
        assert code == 0
        return json.loads(out)

    first, rated = found(), found("--peak-tflops", "1")
    assert first["mfu"] is None and rated["peak"]["flops_per_s"] == 1e12
    for model in (rated, rated["baseline"]):
        assert model["mfu"] == model["flops"]["step"] / model["step_time_s"]["median"] / 1e12
    assert rated["step_time_s"] == first["step_time_s"] and rated["time"] == first["time"]
    assert found() == rated  # a peak that was given is kept
    doubted = found("--peak-tflops", "0.000001")
    assert doubted["mfu"] == pytest.approx(rated["mfu"] * 1e6)
    assert [w for w in doubted["warnings"] if w not in rated["warnings"]][0].startswith("tiny: MFU")
    assert {**found("--peak-tflops", "1"), "rated": None} == {**rated, "rated": None}  # no doubt about the other peak is left
    assert len(Path("r.jsonl").read_text().splitlines()) == 4  # none for what changed nothing
    assert found("--peak-tflops", "1", "--gb-per-s", "2")["peak"]["bytes_per_s"] == 2e9
    assert "--gb-per-s: the bandwidth of the device" in profile("tiny.yaml", "--gb-per-s", "2", *QUICK)[2]
    reached = found("--peaks")
    assert reached["step_time_s"] == first["step_time_s"] and reached["mfu_reached"] and reached["mfu"] == rated["mfu"]


def test_one_peak_for_all_rows(profile):
    """What was measured under other peaks, or none, is a share of the same one."""
    words = ("tiny.yaml", "--out", "r.jsonl", "-f", "json", *QUICK)
    for more in (["--batch", "1", "--peak-tflops", "1"], ["--batch", "2", "--peak-tflops", "2"], ["--batch", "3"]):
        assert profile(*words, *more)[0] == 0
    for more, peak in ((), 2e12), (("--peak-tflops", "4"), 4e12):
        found = json.loads(profile(*words, "--sweep", "batch=1,2,3", *more)[1])["results"]
        assert [r["peak"]["flops_per_s"] for r in found] == [peak] * 3
        assert all(r["mfu"] == r["flops"]["step"] / r["step_time_s"]["median"] / peak for r in found)


def test_a_model_is_known_again_under_another_name(profile):
    words = ("--out", "r.jsonl", "-f", "json", "--by", "layer", *QUICK)
    first = json.loads(profile("tiny.yaml", *words)[1])
    Path("other.yaml").write_text(YAML.replace("name: tiny", "name: other"))
    code, out, err = profile("other.yaml", *words)
    assert "other, forward, batch 1, 16 tokens: already in r.jsonl" in err
    d = json.loads(out)
    assert (d["spec"], d["attribution"][0]["spec"]) == ("other", "other") and d["step_time_s"] == first["step_time_s"]


def test_the_default_written_out_is_the_default():
    settings = Settings(mode="forward", batch=1, seq_len=16, context=0, dtype="fp32", compile=False, cuda_graph=False)
    job = Job(spec=loads(YAML), baseline=None, settings=settings, device=torch.device("cpu"))
    assert job.seconds == 5.0
    alike = [replace(job, settings=msgspec.structs.replace(job.settings, seconds=s, iterations=n)) for s, n in ((5.0, None), (4.0, None), (None, 7))]
    assert [job.key() == other.key() for other in alike] == [True, False, False]


def test_a_full_disk_costs_no_result(profile, monkeypatch):
    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, out, err = profile("tiny.yaml", "--sweep", "batch=1,2", "--out", "r.jsonl", "-f", "plain", *QUICK)
    assert code == 2 and err.splitlines()[-1] == "error: r.jsonl: cannot be written: No space left on device"
    assert out.count("\ntiny ") == 1
    synced = iter([None, None, None, full])  # of a file that holds both: the second point finds no room
    monkeypatch.setattr(os, "fsync", lambda fd: (next(synced) or str)(fd))
    words = ("tiny.yaml", "--sweep", "batch=1,2", "--out", "s.jsonl", "-f", "plain", *QUICK)
    assert profile(*words)[0] == 0
    code, out, err = profile(*words, "--again")
    assert code == 2 and "cannot be written" in err and out.count("\ntiny ") == 2


def test_what_lacks_memory_on_a_cpu_is_not_begun(profile, monkeypatch):
    from modcalc.measure import room

    free = room.free_bytes
    words = ("tiny.yaml", "--baseline", "dense", "--sweep", "batch=1,1000000000", "-f", "json", *QUICK)
    code, out, err = profile(*words)
    small, large = json.loads(out)["results"]
    assert (small["status"], large["status"]) == ("ok", "out_of_memory") or free() is None
    monkeypatch.setattr(room, "free_bytes", lambda: 1000)
    code, out, err = profile(*words)
    assert code == 2 and out.count('"out_of_memory"') == 2
    assert re.search(r"warning: tiny, forward, batch 1, 16 tokens: out of memory: it takes [0-9.]+ KiB or more, and 1,000 B are free\n", err)


@pytest.mark.parametrize(
    "failure, code, said",
    [
        (ImportError("cxy.so: file too short"), 2, "error: --compile: torch.compile fails here: ImportError: cxy.so: file too short; --no-compile"),
        (
            RuntimeError("C++ compile error\n\nOutput:\nx.cpp:1: fatal error: boom\n"),
            2,
            "RuntimeError: C++ compile error: x.cpp:1: fatal error: boom; --no-",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "error: no point fitted into memory"),
    ],
)
def test_a_compiler_that_fails_is_told(profile, monkeypatch, failure, code, said):
    def broken(graph, inputs):
        raise failure

    monkeypatch.setattr(compiling, "compiled", lambda f: torch.compile(f, fullgraph=True, dynamic=False, backend=broken))
    found, _, err = profile("tiny.yaml", "--compile", *QUICK)
    assert found == code and said in err, err


@pytest.mark.parametrize("mode, compile, dtype", [("forward", False, "fp32"), ("train", False, "bf16"), ("train", True, "fp32")])
def test_what_two_models_hold_at_least(monkeypatch, mode, compile, dtype):
    """Both hold their own; of what a step adds there is only one at a time, of which a compiled step is sure to have logits alone."""
    from modcalc.cost.memory import train_memory
    from modcalc.cost.workload import Training
    from modcalc.measure import room

    settings = Settings(mode=mode, batch=3, seq_len=16, context=0, dtype=dtype, compile=compile, cuda_graph=False)
    spec = loads(YAML)
    job = Job(spec=spec, baseline=dense_twin(spec), settings=settings, device=torch.device("cpu"))
    both = [account(one, batch=3, phase=mode) for one in job.specs]
    logits = 3 * 16 * 50 * 4
    if mode == "train":
        bills = [train_memory(r.plan, 3, Training(master=False, device="cpu"), dtype) for r in both]
        needed = sum(b.fixed for b in bills) + (logits if compile else max(b.total - b.fixed for b in bills))
    else:
        needed = sum(4 * r.params.total for r in both) + logits
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(room, "free_bytes", lambda free=free: free)
        assert (room.lacking(job) is None) == fits


def test_six_builds_are_enough_for_an_interval(profile):
    assert profile("tiny.yaml", "--baseline", "dense", "--builds", "6", *QUICK)[0] == 0
    assert profile("tiny.yaml", "--baseline", "dense", "--builds", "5", *QUICK)[0] == 2


def test_what_is_reached_is_counted_both_ways(monkeypatch):
    """2 FLOPs per multiply-add; a copy reads and writes."""
    monkeypatch.setattr(reach, "_median", lambda step, device: 0.5)
    monkeypatch.setitem(reach.MATMUL, "cpu", 10)
    monkeypatch.setitem(reach.COPY_BYTES, "cpu", 4000)
    found = reach.reached(torch.device("cpu"), "fp32")
    assert (found.flops_per_s, found.bytes_per_s) == (2 * 10**3 / 0.5, 2 * 4000 / 0.5)


def test_free_memory(tmp_path):
    from modcalc.measure.room import free_bytes

    assert free_bytes(tmp_path) is None  # no such system
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:   4000 kB\nSwapFree: 1000 kB\nHugePages_Total: 0\n")
    assert free_bytes(tmp_path) == 5000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    for limit, free in (("max", 5000 * 1024), ("3000000", 2200000), ("99000000", 5000 * 1024)):
        for name, text in (("max", limit), ("current", "1000000"), ("stat", "anon 800000\ninactive_file 200000\n")):
            (group / f"memory.{name}").write_text(text)
        assert free_bytes(tmp_path) == free


def test_intervals_are_two_columns_of_csv(profile):
    code, out, err = profile("tiny.yaml", "--baseline", "dense", "-f", "csv", *QUICK)
    header, row = out.split("\n\n")[1].splitlines()
    got = dict(zip(header.split(","), row.split(","), strict=True))
    assert float(got["interval_low"]) <= float(got["time_ratio"]) <= float(got["interval_high"])
    assert float(got["saving_interval_low"]) <= float(got["saving_interval_high"])


def test_csv_says_of_which_model_a_time_is(profile):
    code, out, err = profile("tiny.yaml", "--baseline", "dense", "--sweep", "batch=1,2", "--by", "layer", "-f", "csv", *QUICK)
    times = list(csv.DictReader(io.StringIO(out.split("\n\n")[2])))
    assert {(row["model"], row["batch"], row["by"]) for row in times} == set(product(("tiny", "tiny (dense twin)"), "12", ["layer"]))
    assert {row["part"] for row in times} >= {"blocks.0", "blocks.1", "head"}


def test_models_of_one_name_are_told_apart(profile):
    Path("other.yaml").write_text(YAML.replace("n_layers: 2", "n_layers: 3"))
    code, out, err = profile("tiny.yaml", "--baseline", "other.yaml", "-f", "json", *QUICK)
    assert (json.loads(out)["spec"], json.loads(out)["baseline"]["spec"]) == ("tiny (tiny.yaml)", "tiny (other.yaml)")


def test_warm_up_is_reported_apart(profile):
    code, out, err = profile("tiny.yaml", "-f", "csv", *QUICK)
    header, row = out.splitlines()[:2]
    cells = dict(zip(header.split(","), row.split(","), strict=True))
    assert float(cells["warm_up_s"]) >= float(cells["first_step_s"]) > 0


def test_a_cut_off_line_is_mentioned(profile):
    words = ("tiny.yaml", "--out", "r.jsonl", *QUICK)
    profile(*words)
    whole = Path("r.jsonl").read_bytes()
    Path("r.jsonl").write_bytes(whole[:50])
    code, out, err = profile(*words)
    assert code == 0 and "warning: r.jsonl: its last line is cut off; the point there counts as not measured" in err
    code, out, err = profile(*words)
    assert code == 0 and "cut off" not in err and "already in r.jsonl" in err


def test_a_foreign_file_is_refused_before_anything_is_measured(profile):
    Path("notes.txt").write_text("mine\n")
    code, out, err = profile("tiny.yaml", "--out", "notes.txt", *QUICK)
    assert code == 2 and out == "" and "measuring" not in err
    assert err.startswith("error: notes.txt:1: not a result of modcalc profile") and Path("notes.txt").read_text() == "mine\n"


@pytest.mark.parametrize(
    "words, says",
    [
        ((), "nothing to measure: name a SPEC, or give --peaks"),
        (("tiny.yaml", "--device", "cuda"), "--device cuda: "),
        (("tiny.yaml", "--batch", "0"), "--batch"),
        (("tiny.yaml", "--dtype", "fp8"), "--dtype"),
        (("tiny.yaml", "--sweep", "layers=2"), "sweep 'layers=2': NAME=VALUE"),
        (("tiny.yaml", "--sweep", "bacth=2"), "did you mean batch?"),
        (("dense-60m", "--baseline", "dense"), "--baseline dense: dense-60m routes no tokens, so it is its own dense twin"),
        (("tiny.yaml", "--out", "/dev/zero"), "/dev/zero: cannot be read again"),
        (("tiny.yaml", "--trace", "/proc/trace.json"), "--trace /proc/trace.json: cannot be written"),
        (("tiny.yaml", "--context", "4"), "--context with --mode forward: only decode attends to cached tokens"),
        (("tiny.yaml", "--mode", "decode"), "--mode decode: say how many tokens are already cached"),
        (("tiny.yaml", "--mode", "decode", "-S", "4", "-T", "4"), "--seq-len with --mode decode"),
        (("tiny.yaml", "--mode", "decode", "-S", "4", "--compile"), "runs eagerly"),
        (("tiny.yaml", "--mode", "decode", "-S", "4", "--causal", "exact"), "--causal exact with --mode decode"),
        (("gpt2", "--seq-len", "2000"), "2000 tokens are more than its 1024 learned positions"),
        (("tiny.yaml", "--sweep", "batch=1,4611686018427387904"), "batch 4611686018427387904: at most 1,000,000,000"),
        (("tiny.yaml", "--sweep", "batch=1,2", "--batch", "1"), "--batch: swept and given"),
        (("tiny.yaml", "--sweep", "seq-len=8,16", "-T", "8"), "--seq-len: swept and given"),
        (("tiny.yaml", "--seconds", "1", "--iterations", "3"), "--seconds and --iterations: each says how long"),
        (("tiny.yaml", "--seconds", "nan"), "--seconds nan: a finite number"),
        (("tiny.yaml", "--seconds", "inf"), "--seconds inf: a finite number"),
        (("tiny.yaml", "--trace", "tiny.yaml"), "--trace tiny.yaml: that is the spec, which it would overwrite"),
        (("dense-60m", "--baseline", "tiny.yaml", "--out", "tiny.yaml"), "--out tiny.yaml: that is the spec"),
        (("tiny.yaml", "--out", "x.svg", "--plot", "./x.svg"), "--plot ./x.svg: that is --out"),
        (("tiny.yaml", "--peak-tflops", "nan"), "--peak-tflops nan: a finite number"),
        (("--peaks", "--baseline", "dense", "--batch", "2"), "--baseline, --batch with --peaks alone: it measures the device and no model"),
        (("--peaks", "--out", "r.jsonl"), "--out with --peaks alone"),
        (("tiny.yaml", "--cuda-graph"), "--cuda-graph: only a GPU has them"),
        (("tiny.yaml", "--builds", "0"), "--builds"),
        (("tiny.yaml", "--baseline", "dense", "--builds", "3"), "--builds 3 with --baseline: the interval is over builds, and needs 6 at least"),
        (("tiny.yaml", "--builds", "3", "--iterations", "2"), "--builds 3 with --iterations 2: every build takes a sample at least"),
        (("tiny.yaml", "--parallel", "ddp"), "--parallel: start it under torchrun"),
        (("tiny.yaml", "--trace", "no/folder.json"), "--trace no/folder.json: "),
        (("tiny.yaml", "--trace", "t.jsonl"), "--trace t.jsonl: a Chrome trace is JSON; name it .json, or .json.gz"),
        (("tiny.yaml", "--trace", "pipe.json"), "--trace pipe.json: is no regular file"),
        (("tiny.yaml", "--trace", "t.json", "--sweep", "batch=1,2"), "one point a trace, and these are 2"),
        (("tiny.yaml", "--plot", "p.pdf"), "--plot p.pdf: the suffix"),
        (("tiny.yaml", "--plot", "pipe.svg"), "--plot pipe.svg: is no regular file"),
        (("tiny.yaml", "--seconds", "-1"), "--seconds"),
        (("tiny.yaml", "--iterations", "0"), "--iterations"),
        (("missing.yaml",), "missing.yaml: no such file"),
        (("tiny.yaml", "--baseline", "missing.yaml"), "missing.yaml: no such file"),
    ],
)
def test_bad_input(profile, monkeypatch, words, says):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for pipe in ("pipe.json", "pipe.svg"):
        os.mkfifo(pipe)
    code, out, err = profile(*words)
    assert code == 2 and out == "" and says in err and "Traceback" not in err
    assert "measuring" not in err


def test_the_plot_of_no_cached_tokens(profile):
    pytest.importorskip("matplotlib")
    words = ("tiny.yaml", "--mode", "decode", "--sweep", "context=0,37,133", "--plot", "p.svg", "--device", "cpu", "-n", "1", "--warmup", "1")
    assert profile(*words)[0] == 0
    drawn = Path("p.svg").read_text()
    # The first text that says it is the tick; its place is an x or in a translation.
    at = [float(re.search(rf'(?: x="|translate\()([0-9.]+)[^>]*>{n}</text>', drawn).group(1)) for n in (0, 37, 133)]
    assert at[0] + 20 < at[1] and at[1] + 20 < at[2]


def test_nothing_fits(profile, monkeypatch):
    monkeypatch.setattr(sweep, "measure", full)
    words = ("tiny.yaml", "--baseline", "dense", "--sweep", "batch=1,2", "-f", "plain", "--out", "r.jsonl", *QUICK)
    code, out, err = profile(*words)
    assert code == 2 and out.count("out of memory") == 2 and out.count("tiny with tiny (dense twin)") == 2
    assert "error: no point fitted into memory: CUDA out of memory; try a smaller --batch or --seq-len" in err
    code, out, err = profile(*words)
    assert code == 2 and out.count("out of memory") == 2
    assert "batch 2, 16 tokens: already in r.jsonl; memory ran out then; --again measures all points of a command once more" in err


@pytest.mark.parametrize("asked, lacks", [(("--by", "component"), "--by component"), (("--trace", "t.json"), "--trace t.json")])
def test_what_a_file_lacks_is_measured_again_and_said(profile, asked, lacks):
    words = ("tiny.yaml", "--out", "r.jsonl", *QUICK)
    assert "measured again" not in profile(*words)[2]
    assert f"tiny, forward, batch 1, 16 tokens: in r.jsonl without {lacks}, so measured again\n" in profile(*words, *asked)[2]
    assert "measured again" not in profile(*words, *asked, "--again")[2]


def test_what_does_not_fit_is_of_the_same_kind_whenever_it_was_tried(profile):
    """In a process that has built no model yet."""
    heap.keep.cache_clear()
    for batch in ("batch=1000000000", "batch=1"):
        profile("tiny.yaml", "--out", "r.jsonl", *QUICK, "--sweep", batch)
    kept = list(read_results(Path("r.jsonl")).records.values())
    assert len(kept) == 2 and {r.device.keeps_freed for r in kept} == {heap._glibc() is not None}
    assert len(alike(kept)) == 1
    assert [r.settings.batch for r in alike(kept)[0]] == [1, 1_000_000_000], "from small to large"


def test_peaks_alone_and_beside(profile):
    code, out, err = profile("--peaks", "--device", "cpu", "-f", "json")
    d = json.loads(out)
    assert code == 0 and d["peak"] is None and d["dtype"] == "fp32"
    assert d["reached"]["flops_per_s"] > 1e8 and d["reached"]["bytes_per_s"] > 1e7
    assert d["reached"]["source"] == "measured: 128 x 128 x 128 fp32 product, copy of 1,048,576 bytes"
    code, out, err = profile("--peaks", "--device", "cpu", "-f", "plain", "--peak-tflops", "1000")
    assert code == 0 and "What the device reaches" in out and "fp32 matrix product, FLOP/s" in out and "more than all" not in err
    assert "warning: matrix product: MFU" in profile("--peaks", "--device", "cpu", "--peak-tflops", "0.00001")[2]
    code, out, err = profile("tiny.yaml", "--peaks", "-f", "json", *QUICK)
    d = json.loads(out)
    assert d["mfu"] is None and d["mfu_reached"] == pytest.approx(d["flops_per_s"] / d["reached"]["flops_per_s"])


def test_what_is_reached_is_measured_anew_and_doubted(profile, monkeypatch):
    asked = ("tiny.yaml", "--peaks", "--out", "r.jsonl", "-f", "json", *QUICK)
    rates = iter((1.0, 1e15))
    monkeypatch.setattr("modcalc.measure.reach.reached", lambda device, dtype: Peak(next(rates), 1e9, "a test"))
    monkeypatch.setattr("modcalc.measure.caveats.busy", lambda *_: "others work")
    code, out, err = profile(*asked)
    assert code == 0 and "warning: --peaks: others work" in err and "of what the device reached, so that was measured when it was slower" in err
    assert json.loads(profile(*asked)[1])["reached"]["flops_per_s"] == 1.0
    code, out, err = profile(*asked, "--again")
    d = json.loads(out)
    assert (code, d["reached"]["flops_per_s"]) == (0, 1e15) and "of what the device reached" not in err + str(d["warnings"])


def test_a_trace(profile):
    code, out, err = profile("tiny.yaml", "--trace", "t.json", "-f", "json", *QUICK)
    assert code == 0
    # A step as all others, not the profiler's first.
    names = [event.get("name") for event in json.loads(Path("t.json").read_text())["traceEvents"]]
    assert names.count("modcalc:step") == 1 and json.loads(out)["attribution"][0]["rounds"] >= 3
    assert all(line["time_s"] >= 0 for line in json.loads(out)["attribution"][0]["lines"] if line["label"] != "other")
    assert json.loads(out)["attribution"][0]["by"] == "component"


def test_at_decode_the_bytes_are_compared_too(profile):
    """Four tokens of chance 1/4 read the weights of a routed block in 68 % of the steps: more bytes are left than FLOPs."""
    code, out, _ = profile("tiny.yaml", "--mode", "decode", "--baseline", "dense", "-B", "4", "--context", "8", "--format", "csv", *QUICK)
    assert code == 0
    (row,) = csv.DictReader(io.StringIO(out.split("\n\n")[1]))
    moved = [step_bytes(account(spec, batch=4, phase="decode", context=8), 4) for spec in (loads(YAML), dense_twin(loads(YAML)))]
    assert float(row["byte_ratio"]) == pytest.approx(float(moved[0] / moved[1])) and float(row["byte_ratio"]) > float(row["flop_ratio"])
    assert "byte" not in profile("tiny.yaml", "--baseline", "dense", "-B", "4", *QUICK)[1]


def test_at_decode_the_bandwidth_is_rated_too(profile, monkeypatch):
    monkeypatch.setattr("modcalc.measure.reach.reached", lambda device, dtype: Peak(1e15, 1e9, "a test"))
    asked = ("tiny.yaml", "--peaks", "--baseline", "dense", "--out", "r.jsonl", *QUICK)
    sampling = ("--mode", "decode", "--context", "8")
    d = json.loads(profile(*asked, *sampling, "-f", "json")[1])
    for model in (d, d["baseline"]):
        assert model["mbu"] is None and model["mbu_reached"] == model["step_bytes"] / model["step_time_s"]["median"] / 1e9
    rows = csv.DictReader(io.StringIO(profile(*asked, *sampling, "-f", "csv")[1].split("\n\n")[0]))
    assert [float(row["mbu_reached"]) for row in rows] == [d["mbu_reached"], d["baseline"]["mbu_reached"]] and "mbu" not in rows.fieldnames
    assert "MBU: the fewest bytes that a step moves, over its time" in profile(*asked, *sampling, "-f", "plain")[1]
    assert "MBU" not in profile(*asked, "-f", "plain")[1], "where whole sequences pass, products set the pace"


def test_again(profile, monkeypatch):
    """Points of the file are measured once more and their new lines count; an interrupt shows those alone that were measured."""
    words = ["tiny.yaml", "--sweep", "batch=1,2", "--out", "r.jsonl", *QUICK]
    assert profile(*words)[0] == 0
    assert profile(*words, "--by", "component")[0] == 0
    code, _, err = profile(*words, "--again")
    assert code == 0 and "already in" not in err
    assert "its time by component in r.jsonl is of the measurement that this one replaces" in err
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [d["settings"]["batch"] for d in lines] == [1, 2] * 3
    assert [d["key"] for d in lines[:2]] == [d["key"] for d in lines[4:]]
    assert lines[2]["attribution"] and not lines[4]["attribution"], "what is measured again is not told with figures of before"

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "measure", stop)
    code, out, err = profile(*words, "--again")
    assert code == 130 and out == "" and err.endswith("interrupted: 0 of 2 points were measured\n")
    code, _, err = profile("tiny.yaml", "--again", *QUICK)
    assert code == 2 and "--again: measures points of a results file once more; name it with --out" in err


def test_the_plot_of_a_breakdown(profile, monkeypatch):
    """A panel for each: components as bars, numbers in them where they are few; layers as lines; paths are too many."""
    pytest.importorskip("matplotlib")
    words = ("tiny.yaml", "--baseline", "dense", "--out", "r.jsonl", "--plot", "p.svg", *QUICK)
    assert profile(*words, "--by", "component")[0] == 0
    said = set(texts("p.svg"))
    assert {"time ratio (solid), FLOP ratio (dashed)", "tiny / tiny (dense twin)"} <= said
    assert {"time of an eager step, by component", "mod router", "mlp", "tiny", "tiny (dense twin)"} <= said
    assert any(re.fullmatch(r"\d+\.\d %", text) for text in said), "shares stand in the bars"
    code, _, err = profile(*words, "--by", "path")
    assert code == 0 and err.startswith("warning: --plot: a breakdown by path has too many lines to draw")
    assert profile(*words, "--by", "layer")[0] == 0
    drawn = texts("p.svg")
    said = set(drawn)
    assert {"time of an eager step, by component", "time of an eager step, by layer", "final_norm"} <= said
    layers = [drawn.index(name) for name in ("embedding.tokens", "final_norm")]
    assert drawn[layers[0] : layers[1] + 1] == ["embedding.tokens", "0", "1", "final_norm"]
    assert not any("by path" in text for text in said)
    assert profile(*words, "--by", "component", "--sweep", "batch=1,2,3")[0] == 0
    said = set(texts("p.svg"))
    assert {"tiny, batch 3", "tiny (dense twin), batch 1"} <= said and not any(re.fullmatch(r"\d+\.\d %", text) for text in said)


def texts(file: str) -> list[str]:
    """What a plot says, in the order in which it was drawn."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", Path(file).read_text())


def test_the_dtype_asked_for_is_measured(profile):
    d = json.loads(profile("tiny.yaml", "--dtype", "bf16", "-f", "json", *QUICK)[1])
    assert d["dtype"] == d["settings"]["dtype"] == "bf16"
