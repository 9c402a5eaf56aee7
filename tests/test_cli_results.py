"""`modcalc results`: results files shown, without torch."""

import csv
import io
import json
import re
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import msgspec
import pytest

from modcalc.errors import UsageError
from modcalc.measure.alike import alike, conditions, differences, facts, told_apart
from modcalc.measure.rating import named
from modcalc.measure.records import Failed, Ranks, Result, Settings
from modcalc.measure.results import ResultsFile, read_results
from modcalc.render.points import attributed, models, warnings
from modcalc.render.profile import comparison, ranks, tables

MEASURED = Path(__file__).parent.parent / "benchmarks" / "results"
H200 = MEASURED / "nvidia-h200-2026-11-26"
CPU = MEASURED / "intel-xeon-2026-11-29-batches"


@pytest.fixture
def results(modcalc, monkeypatch, tmp_path):
    """Run the command; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    return partial(modcalc, "results")


def records(*files: Path) -> list:
    return [record for file in files for record in read_results(file).records.values()]


def test_what_a_gpu_measured_is_shown_without_torch():
    """On a machine that has neither."""
    code = "import sys; sys.modules['torch'] = None; from modcalc.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "results", H200 / "train.jsonl"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "NVIDIA H200, SM clock 1560 to 1965 of 1980 MHz; torch 2.11.0+cu130, CUDA 13.0, driver 580.159.04; measured 2026-11-26\n" in done.stdout
    rows = re.findall(r"^(mod-\S+)(?: \(dense twin\))? +(4|16) +2,048 +\S", done.stdout, re.MULTILINE)
    assert len(rows) == 10 and "mod-3b with mod-3b (dense twin)     16   2,048  out of memory" in done.stdout
    assert "warning: mod-220m, train, batch 4, 2,048 tokens: the host needs" in done.stderr
    assert "warning: mod-3b, train, batch 16, 2,048 tokens: out of memory: CUDA out of memory. Tried to allocate 1.95 GiB\n" in done.stderr


@pytest.mark.parametrize(
    "path, value, said",
    [
        (("step_time_s", "median"), 0, "`float` > 0.0 - at `$.step_time_s.median`"),
        (("step_time_s", "samples", 0), -1.0, "`float` > 0.0"),
        (("settings", "batch"), -3, "`int` >= 1"),
        (("baseline", "time_ratio_interval"), [3, 1], "time_ratio_interval begins above its end"),
        (("spec",), "\x1b[31mred", "regex"),
        (("device", "name"), "two\nlines", "regex"),
        (("warnings",), ["\x07"], "regex"),
        (("spec",), "two\n", "regex"),
        (("memory", "source"), "\x9b31m", "regex"),
        (("settings", "causal"), "\x1b", "regex"),
        (("mfu",), -0.1, "`float` >= 0.0"),
    ],
)
def test_no_result_is_so(results, tmp_path, path, value, said):
    record = json.loads((H200 / "self.jsonl").read_text())
    inner = record
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    (tmp_path / "r.jsonl").write_text(json.dumps(record, separators=(",", ":")))
    code, out, err = results("r.jsonl")
    assert (code, out) == (2, "") and err.startswith("error: r.jsonl:1: not a result of modcalc profile (") and said in err


def test_the_document_is_that_of_the_file(results):
    file = CPU / "rows-train.jsonl"
    code, out, _ = results(file, "-f", "json")
    d = json.loads(out)
    assert code == 0 and d["schema"] == 1
    assert d["results"] == json.loads(msgspec.json.encode(records(file)))
    # One result is a list too: what reads it need not count.
    code, out, _ = results(H200 / "self.jsonl", "-f", "json")
    assert len(json.loads(out)["results"]) == 1


def test_tables_of_their_own(results):
    """Forward and train of one machine, and forward of another."""
    files = [H200 / "forward.jsonl", H200 / "train.jsonl", H200 / "self.jsonl", CPU / "self.jsonl"]
    code, out, _ = results(*files)
    assert code == 0 and out.count("Measured step times") == 3
    groups = alike(records(*files))
    assert [{r.settings.mode for r in group} for group in groups] == [{"forward"}, {"train"}, {"forward"}]
    assert [len(group) for group in groups] == [7, 6, 1]
    # Intervals of many points are not equally sure: no more is said than holds for all.
    sure = [r.baseline.confidence for r in groups[0] if r.baseline]
    assert f"with at least {100 * min(sure):.1f} %" in out and len(set(sure)) > 1


def test_no_bandwidth_is_rated_by_bytes_that_were_counted_otherwise(results):
    """Before protocol 10 a routed block was thought to read all caches at decode."""
    old = next(r for r in records(H200 / "decode.jsonl") if isinstance(r, Result) and r.baseline)
    new = msgspec.structs.replace(old, protocol=10)
    for record, known in ((old, False), (new, True)):
        (one,) = alike([record], peak_tflops=9.0)[0]
        assert one.mfu and [m.mbu is not None for m in (one, one.baseline)] == [known, known]
        shown = tables([one])[0]
        titles = [column.title for column in shown.columns]
        assert ("MBU" in titles) == known
        assert not known or [row[titles.index("MBU")] for row in shown.rows] == [one.mbu, one.baseline.mbu]


def test_records_are_rated_by_the_last_peak(results):
    first, last = records(H200 / "repeat-1.jsonl", H200 / "repeat-2.jsonl")
    replace = msgspec.structs.replace
    bare = replace(first, peak=None, mfu=None, hfu=None)
    (one, two) = alike([bare, last])[0]
    # The records are older than MBU, and know what it needs.
    assert (one.peak, two) == (last.peak, replace(last, mbu=last.step_bytes / last.step_time_s.median / 4.8e12)) and last.mbu is None
    assert one.mfu == one.flops.step / one.step_time_s.median / last.peak.flops_per_s
    # Whatever the order of the files: the newest counts.
    peak, reached = replace(first.peak, flops_per_s=2e15), replace(first.peak, flops_per_s=1e15)
    newer = replace(first, peak=peak, reached=reached, time="2027-01-01T00:00:00+00:00")
    for group in (*alike([newer, last]), *alike([last, newer])):
        assert {(r.peak.flops_per_s, r.reached.flops_per_s) for r in group} == {(2e15, 1e15)}
        assert all(r.mfu == r.flops.step / r.step_time_s.median / 2e15 for r in group)
    unrated = replace(newer, peak=None, reached=None, mfu=None, hfu=None, time="2027-01-02T00:00:00+00:00")
    assert {(r.peak.flops_per_s, r.reached.flops_per_s) for r in alike([newer, unrated])[0]} == {(2e15, 1e15)}
    (given,) = alike([bare], peak_tflops=500.0)[0]
    assert (given.peak.flops_per_s, given.peak.source, given.peak.bytes_per_s) == (5e14, "--peak-tflops", 4.8e12)
    assert "MFU" in results(CPU / "self.jsonl", "--peak-tflops", "1")[1]
    rated = json.loads(results(H200 / "repeat-1.jsonl", "--peak-tflops", "500", "--gb-per-s", "9.6", "-f", "json")[1])["results"][0]
    assert rated["peak"] == {"flops_per_s": 5e14, "bytes_per_s": 9.6e9, "source": "--peak-tflops, --gb-per-s"}
    assert rated["mbu"] == first.step_bytes / first.step_time_s.median / 9.6e9
    # A doubt about the peak is that of the last one.
    (small,) = alike([first], peak_tflops=1.0)[0]
    (again,) = alike([small], peak_tflops=2.0)[0]
    doubts = [[w for w in r.warnings if "more than all" in w] for r in (small, again, *alike([small], peak_tflops=5000.0)[0])]
    assert [len(one) for one in doubts] == [1, 1, 0] and doubts[0] != doubts[1]


@pytest.mark.parametrize(
    "words, kept",
    [
        (["spec=mod-3b"], [("mod-3b", 4), ("mod-3b", 16)]),
        (["spec=mod-3b,mod-1b", "batch=16"], [("mod-1b", 16), ("mod-3b", 16)]),
        (["tokens=2,048", "model=mod-1b", "cached=0"], [("mod-1b", 4), ("mod-1b", 16)]),
        (["cuda_graph=no", "spec=mod-1b"], [("mod-1b", 4), ("mod-1b", 16)]),
        (["device=NVIDIA H200", "seq-len=2048", "baseline=mod-220m (dense twin)"], [("mod-220m", 4), ("mod-220m", 16)]),
    ],
)
def test_only_those_that_are_asked_for(results, words, kept):
    asked = [word for fact in words for word in ("--only", fact)]
    code, out, err = results(H200 / "train.jsonl", *asked, "-f", "json")
    assert code == 0, err
    assert [(d["spec"], d["settings"]["batch"]) for d in json.loads(out)["results"]] == kept


def test_a_spec_goes_by_its_name_where_its_source_stands_behind_it(results, tmp_path):
    line = (H200 / "self.jsonl").read_text()
    Path("r.jsonl").write_text(line.replace('"spec":"mod-220m"', '"spec":"mod-220m (a.yaml)"'))
    assert results("r.jsonl", "--only", "spec=mod-220m")[0] == 0
    assert "no result has spec 'mod-220'" in results("r.jsonl", "--only", "spec=mod-220")[2]


def test_a_name_with_commas(results, tmp_path):
    line = (H200 / "self.jsonl").read_text()
    Path("r.jsonl").write_text(line.replace("NVIDIA H200", "A, B"))
    assert results("r.jsonl", "--only", "device=A, B")[0] == 0
    Path("r.jsonl").write_text(line.replace("NVIDIA H200", "A (B)"))
    assert "no result has device 'A'" in results("r.jsonl", "--only", "device=A")[2], "only specs have their source behind their names"


@pytest.mark.parametrize("format", ["plain", "markdown", "latex", "csv", "table"])
def test_every_format(results, format):
    code, out, err = results(CPU / "where.jsonl", "-f", format)
    assert code == 0 and "attention" in out and "realised saving" in out.replace("_", " "), err


def test_csv_says_in_every_row_what_it_is(results):
    """Results of all kinds in one table."""
    code, out, _ = results(H200 / "train.jsonl", H200 / "forward.jsonl", CPU / "self.jsonl", "-f", "csv")
    times, compared = (list(csv.DictReader(io.StringIO(part))) for part in out.split("\n\n"))
    assert code == 0 and len(times) == 11 + 12 + 2 and len(compared) == 5 + 6 + 1
    assert {(row["mode"], row["dtype"], row["device"]) for row in times} == {
        ("train", "bf16", "NVIDIA H200"), ("forward", "bf16", "NVIDIA H200"), ("forward", "fp32", "Intel(R) Xeon(R) Processor"),
    }  # fmt: skip
    (full,) = (row for row in times if row["status"] != "ok")
    assert (full["status"], full["step_s"], full["torch"]) == ("out_of_memory", "", "2.11.0+cu130")
    assert all(float(row["step_s"]) > 0 for row in times if row["status"] == "ok")


def test_a_plot(results):
    code, _, err = results(H200 / "train.jsonl", "--plot", "t.svg")
    assert code == 0, err
    assert "mod-1b" in Path("t.svg").read_text() and "out of memory: mod-3b" in Path("t.svg").read_text()
    code, out, err = results(H200 / "train.jsonl", H200 / "forward.jsonl", "--plot", "both.svg")
    assert code == 2 and out == "" and not Path("both.svg").exists()
    assert err.endswith("error: --plot: one plot shows results of one kind, and these differ; choose with --only: mode train, forward\n")
    assert results(H200 / "train.jsonl", H200 / "forward.jsonl", "--plot", "both.svg", "--only", "mode=forward")[0] == 0


@pytest.mark.parametrize("line", ["[" * 100_000, ""], ids=["deep", "rule"])
def test_a_line_that_nobody_can_show(results, line):
    whole = (H200 / "self.jsonl").read_text()
    Path("r.jsonl").write_text(whole + line if line else whole.replace('{"name":"matmul","causal":"full"', '{"name":"matmul","causal":"fuller"'))
    code, out, err = results("r.jsonl")
    assert code == 2 and out == "" and re.search(r"error: r.jsonl:[12]: not a result of modcalc profile", err) and "internal" not in err, err


def test_models_beside_several_others_say_beside_which(results):
    """Else one line of a plot would join times of several measurements."""
    files = [H200 / name for name in ("decode.jsonl", "context.jsonl")]
    assert results(*files, "--plot", "d.svg")[0] == 0
    twin, matched = "mod-220m (dense twin)", "dense-220m-l10-d896-f4288"
    drawn = set(re.findall(r">([^<>]*220m[^<>]*), [0-9,]+ cached</text>", Path("d.svg").read_text()))
    drawn = {name for name in drawn if " / " not in name}  # ratios
    assert drawn == {f"mod-220m (with {twin})", f"mod-220m (with {matched})", twin, matched}
    _, out, _ = results(*files, "-f", "csv")
    assert {row["model"] for row in csv.DictReader(out.split("\n\n")[0].splitlines())} == drawn


def test_a_breakdown_and_its_plot_have_the_names_of_the_times(tmp_path):
    """Also beside itself, or beside a model of any name."""
    one = next(r for r in records(*sorted(CPU.glob("where*.jsonl"))) if r.attribution)
    replace = msgspec.structs.replace
    (own,) = records(H200 / "self.jsonl")

    def beside(name: str, spec: str = one.spec) -> Result:
        parts = [replace(one.attribution[0], spec=spec), replace(one.attribution[0], spec=name)]
        return replace(one, spec=spec, baseline=replace(own.baseline, spec=name), attribution=parts)

    assert [name for name, _, _ in attributed([beside("a")])] == [one.spec, "a"]
    assert [name for name, _, _ in attributed([beside("itself")])] == [one.spec, "itself"]
    both = [beside("a"), beside(one.spec)]
    said = [f"{one.spec} (with a)", "a", f"{one.spec} (with itself)", f"{one.spec} (as baseline)"]
    assert [name for name, _, _ in attributed(both)] == [name for name, _, _ in models(both)] == said
    assert [row[0] for row in tables(both, "csv")[-1].rows][:: len(one.attribution[0].lines)] == said
    assert [name for name, _, _ in models([own])] == [own.spec, f"{own.spec} (as baseline)"]


def test_a_ratio_without_an_interval_is_drawn_as_well(tmp_path):
    from modcalc.render.plot_profile import plot_profile

    (one,) = records(H200 / "self.jsonl")
    plot_profile(tmp_path / "p.svg", [msgspec.structs.replace(one, baseline=msgspec.structs.replace(one.baseline, time_ratio_interval=None))])
    assert "time ratio (solid), FLOP ratio (dashed)" in (tmp_path / "p.svg").read_text()


def test_a_roofline_says_which_way_the_points_go(results):
    assert results(H200 / "decode.jsonl", "--plot", "t.svg")[0] == 0
    assert "time (solid), FLOP (dashed), byte ratio (dotted)" in Path("t.svg").read_text()
    assert Path("t.svg").read_text().count("numbers at the ends: batch, sequences") == 1
    lines = (H200 / "decode.jsonl").read_text().splitlines(keepends=True)
    Path("mixed.jsonl").write_text("".join([lines[2], *lines[:2], *lines[3:]]))  # batch 16 first
    assert results("mixed.jsonl", "--plot", "mixed.svg")[0] == 0
    told, mixed = (Counter(re.findall(r">([0-9]+)</text>", Path(file).read_text())) for file in ("t.svg", "mixed.svg"))
    assert told == mixed and told["16"] == told["4"] == 2 and told["256"] == 4  # ticks have all, two lines their ends
    assert results(H200 / "self.jsonl", "--plot", "one.svg")[0] == 0  # one point has no ends
    assert "numbers at the ends" not in Path("one.svg").read_text()


def test_a_warning_of_many_points_is_told_once(results):
    _, _, err = results(H200 / "decode.jsonl")
    launch = [line for line in err.splitlines() if "the host needs" in line]
    assert len(launch) == 2 and launch[0].startswith("warning: mod-220m, decode, batch 1, 1 token after 2,048 cached: the host needs 72.38 ms")
    told = [len(re.findall("the host needs", doubt)) for r in records(H200 / "decode.jsonl") for doubt in r.warnings]
    more = [int(re.search(r"\(likewise at (\d+) more points\)$", line)[1]) for line in launch]
    assert sum(more) + len(more) == sum(told)


def test_what_differs_is_named():
    groups = alike(records(H200 / "self.jsonl", CPU / "self.jsonl"))
    assert differences(groups).startswith("device NVIDIA H200, Intel(R) Xeon(R) Processor")
    assert "mode" not in differences(groups)


@pytest.mark.parametrize(
    "of, change",
    [
        ("device", dict(name="another")), ("device", dict(cores=1)), ("device", dict(threads=1)), ("device", dict(keeps_freed=True)),
        ("device", dict(driver="1")), ("device", dict(cuda="1")), ("", dict(torch="1")), ("settings", dict(mode="forward")),
        ("settings", dict(dtype="fp32")), ("settings", dict(compile=False)), ("settings", dict(cuda_graph=True)),
        ("settings", dict(causal="half")), ("settings", dict(parallel="ddp")), ("", dict(ranks=Ranks(2, "nccl", "none", [1.0], 0.0, 0.0, 0.0, None))),
    ],
)  # fmt: skip
def test_what_parts_tables(of, change):
    record, other = records(H200 / "train.jsonl")[:2]
    replace = msgspec.structs.replace
    changed = replace(other, **(change if not of else {of: replace(getattr(other, of), **change)}))
    assert len(alike([record, other])) == 1 and len(alike([record, changed])) == 2


def test_every_setting_is_a_fact():
    """One that is new must be known to `facts`, or tables would mix what it parts."""
    (record,) = records(H200 / "self.jsonl")
    assert set(Settings.__struct_fields__) <= {name.replace("-", "_") for name in facts(record)}
    assert set(conditions(record)) < set(facts(record))
    failed = next(r for r in records(H200 / "train.jsonl") if isinstance(r, Failed))
    assert facts(failed)["baseline"] == "mod-3b (dense twin)"
    shared = msgspec.structs.replace(failed, settings=msgspec.structs.replace(failed.settings, parallel="fsdp"), world_size=2)
    assert facts(failed)["ranks"] == "1" and facts(shared)["ranks"] == "2"


@pytest.mark.parametrize(
    "words, said",
    [
        (["--only", "mod=train"], "NAME=VALUE,VALUE,… with NAME one of spec, baseline, batch, seq-len"),
        (["--only", "mod=train"], "did you mean mode?"),
        (["--only", "mode"], "NAME=VALUE,VALUE,… with NAME one of"),
        (["--only", "mode=trian"], "no result has mode 'trian'; there are train; did you mean train?"),
        (["--only", "spec=mod-1b,"], "no result has spec ''; there are mod-220m, mod-1b, mod-3b"),
        (["--only", "batch=64"], "no result has batch '64'; there are 4, 16\n"),
        (["--only", "batch=16", "--only", "batch=4"], "--only: no result has all of batch=16 and batch=4"),
        (["--plot", "p.pdf"], "p.pdf"),
    ],
)
def test_bad_words(results, words, said):
    code, out, err = results(H200 / "train.jsonl", *words)
    assert code == 2 and out == "" and said in err and "Traceback" not in err


def test_rows_that_look_alike_say_what_parts_them():
    replace = msgspec.structs.replace
    one, two = records(H200 / "repeat-1.jsonl", H200 / "repeat-2.jsonl")
    file = [("r.jsonl", one), ("r.jsonl", one)]
    assert told_apart(file) == [one]
    failed = next(r for r in records(H200 / "train.jsonl") if isinstance(r, Failed))
    assert [r.error for r in told_apart([("r.jsonl", failed), ("s.jsonl", replace(failed, error="last"))])] == ["last"]
    assert [r.spec for r in told_apart([("r.jsonl", one), ("s.jsonl", two)])] == ["dense-220m (r.jsonl)", "dense-220m (s.jsonl)"]
    edited = replace(one, key="other", spec_sha256="abcdef0123", time=two.time)
    assert [r.spec for r in told_apart([("r", one), ("r", edited)])] == [f"dense-220m (spec {one.spec_sha256[:8]})", "dense-220m (spec abcdef01)"]
    longer = replace(one, key="other", settings=replace(one.settings, seconds=9.0))
    assert [r.spec for r in told_apart([("r", one), ("r", longer)])] == ["dense-220m (seconds 4.0)", "dense-220m (seconds 9.0)"]
    assert [r.spec for r in told_apart([("r", one), ("r", two)])] == [f"dense-220m (at {r.time})" for r in (one, two)]
    # Of three: as many marks as it takes.
    three = told_apart([("r", one), ("r", longer), ("s", replace(longer, time=two.time))])
    assert [r.spec for r in three] == [f"dense-220m ({mark})" for mark in ("r, seconds 4.0", "r, seconds 9.0", "s, seconds 9.0")]
    mod = records(H200 / "train.jsonl")
    assert told_apart([("r", r) for r in mod]) == mod, "other points are no repeats"
    again = told_apart([("r", mod[0]), ("s", replace(mod[0], time=two.time))])
    assert [(r.spec, r.baseline.spec) for r in again] == [(f"mod-220m ({file})", f"mod-220m (dense twin) ({file})") for file in "rs"]


def test_a_file_is_one_line_though_another_has_one_of_its_points(results):
    """Its models have its name at all points, and so do warnings about them."""
    first, second = (r for r in records(H200 / "forward.jsonl") if r.spec == "mod-220m")
    doubt = f"{first.baseline.spec}: they rose"
    again = msgspec.structs.replace(first, time="2026-11-27T00:00:00Z", warnings=[doubt])
    found = told_apart([("a.jsonl", first), ("a.jsonl", second), ("b.jsonl", again)])
    assert [r.spec for r in found] == ["mod-220m (a.jsonl)", "mod-220m (a.jsonl)", "mod-220m (b.jsonl)"]
    assert [r.baseline.spec for r in found][1:] == ["mod-220m (dense twin) (a.jsonl)", "mod-220m (dense twin) (b.jsonl)"]
    assert found[-1].warnings == ["mod-220m (dense twin) (b.jsonl): they rose"]
    (table, _) = tables([again])
    counted = [row[[c.title for c in table.columns].index("warnings")] for row in table.rows]
    assert counted == [None, 1]


def test_a_warning_is_told_once_for_each_model_and_never_left_out_of_a_point():
    one, two = (r for r in records(H200 / "forward.jsonl") if r.spec == "mod-220m")
    other = named(two, "mod-220m", "dense-60m")
    spread = "the step times spread {} %"
    both = [f"mod-220m: {spread.format(11)}", f"{one.baseline.spec}: {spread.format(12)}"]
    replace = msgspec.structs.replace
    told = warnings([replace(one, warnings=both), replace(two, warnings=both), replace(other, warnings=[f"dense-60m: {spread.format(13)}"])])
    assert [line.endswith("% (likewise at 1 more point)") for line in told] == [True, True, False] and "dense-60m: the step times" in told[2]
    itself = named(one, "mod-220m", "mod-220m")
    assert len(warnings([replace(itself, warnings=[f"mod-220m: {spread.format(n)}" for n in (11, 12)])])) == 2


def test_a_name_may_hold_a_colon():
    (one, *_) = records(H200 / "forward.jsonl")
    odd = named(msgspec.structs.replace(one, warnings=["mod-220m: it", "mod-220m (dense twin): it", "all: it"]), "a: b", "c: d")
    assert odd.warnings == ["a: b: it", "c: d: it", "all: it"]
    assert named(odd, "x", "y").warnings == ["x: it", "y: it", "all: it"]
    nested = named(odd, "a", "a: b")
    assert nested.warnings[:2] == ["a: it", "a: b: it"] and named(nested, "x", "y").warnings[:2] == ["x: it", "y: it"]


def test_a_baseline_is_not_told_apart_by_the_specs_hash():
    (one, *_) = records(H200 / "forward.jsonl")
    other = msgspec.structs.replace(one, spec_sha256="b" * 64, key="other")
    found = told_apart([("s", one), ("s", other)])
    twin = f"mod-220m (dense twin) (spec {one.baseline.spec_sha256[:8]})"
    assert found[1].spec == "mod-220m (spec bbbbbbbb)" and {r.baseline.spec for r in found} == {twin}
    (itself,) = records(H200 / "self.jsonl")
    assert all(r.spec == r.baseline.spec for r in told_apart([("s", itself), ("s", msgspec.structs.replace(itself, key="other", time="later"))]))
    longer = msgspec.structs.replace(one, settings=msgspec.structs.replace(one.settings, seconds=5.0), key="longer")
    third = msgspec.structs.replace(one, settings=msgspec.structs.replace(one.settings, batch=64), key="third")
    assert [r.spec for r in told_apart([("s", one), ("s", longer), ("s", third)])][2] == "mod-220m"


def test_a_folder_is_its_results_files(results, tmp_path):
    code, out, _ = results(H200)
    assert code == 0 and out.count("Measured step times") == 3
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "self.jsonl").write_text((H200 / "self.jsonl").read_text().replace("2026-11-26T", f"2026-11-2{int(folder == 'a')}T"))
    code, out, _ = results("a", "b")
    assert code == 0 and "mod-220m (a/self.jsonl)" in out and "mod-220m (b/self.jsonl)" in out
    assert "; measured 2026-11-20 to 2026-11-21\n" in out
    Path("b", "c", "a").mkdir(parents=True)
    Path("b", "c", "a", "self.jsonl").write_text(Path("b", "self.jsonl").read_text())
    out = results(Path("a").resolve(), Path("b", "c", "a").resolve())[1]
    assert f"mod-220m ({Path('a').resolve()}/self.jsonl)" in out, "two parts are not enough to tell them apart"
    Path("c").mkdir()
    assert results("c")[::2] == (2, "error: c: no .jsonl file in this folder; profile --out FILE.jsonl writes one\n")


def test_of_how_many_builds_a_ratio_is():
    later = MEASURED / "intel-xeon-2026-11-29-later"
    both = ["self-01", "self-once-01"]
    six, once, both = (comparison(records(*(later / f"{name}.jsonl" for name in names))) for names in (both[:1], both[1:], both))
    assert once.notes[0].startswith("time ratio: median over pairs of steps that ran next to each other;") and "of the pairs)" in once.notes[-2]
    assert six.notes[0].startswith("time ratio: median of 6 builds of both models, each the median over pairs") and "of the builds)" in six.notes[-1]
    assert "of several builds, the median of theirs" in both.notes[0] and "of the builds, or pairs of one)" in both.notes[-2]
    assert all("that of one build is this build's own" in table.notes[-1] for table in (once, both))
    at = [column.title for column in both.columns].index("builds")
    assert [row[at] for row in both.rows] == [6, 1] and not any(c.title == "builds" for one in (once, six) for c in one.columns)


def test_ratios_of_bytes_of_older_protocols_are_doubted():
    old = records(H200 / "decode.jsonl")[0]
    assert old.protocol is None and "measured by a protocol that it does not name; below 10 the ratio of bytes" in old.doubts[-1]
    assert "measured by protocol 9; below 10" in msgspec.structs.replace(old, protocol=9).doubts[-1]
    assert msgspec.structs.replace(old, protocol=10).doubts == old.warnings
    assert all(r.doubts == r.warnings for r in records(H200 / "forward.jsonl"))


def test_bytes_are_compared_where_they_set_the_pace():
    for file, told in (("forward", False), ("decode", True)):
        table = comparison(records(H200 / f"{file}.jsonl"))
        assert any(c.title == "byte ratio" for c in table.columns) == any(note.startswith("byte ratio: ") for note in table.notes) == told
        assert next(c.drop for c in table.columns if c.title == "baseline") == 3, "each has one of its own"


def test_none_is_saved_where_no_flops_are():
    one, two = [r for r in records(H200 / "forward.jsonl") if r.spec == "mod-220m"]
    none = msgspec.structs.replace(two, baseline=msgspec.structs.replace(two.baseline, flop_ratio=1.0, realised_saving=None))
    assert comparison([one, none]).notes[0].endswith("realised saving = (1 - time ratio) / (1 - FLOP ratio), none where no FLOPs are saved")
    assert comparison([none]).notes[0].endswith("; no realised saving, as no FLOPs are saved")
    assert comparison([one, two]).notes[0].endswith("/ (1 - FLOP ratio)")


def test_csv_of_several_kinds_has_no_headline_of_one(results):
    err = results(H200 / "train.jsonl", H200 / "forward.jsonl", "-f", "csv")[2]
    assert "under several conditions, by the columns behind status\n" in err and "train step:" not in err
    assert "train step:" in results(H200 / "train.jsonl", "-f", "csv")[2]


def test_the_ratio_of_models_alone():
    """Steps of the runs that measure energy: joules over watts."""
    one, two = [r for r in records(H200 / "forward.jsonl") if r.spec == "mod-220m"]
    unknown = msgspec.structs.replace(two, energy=None)
    both = comparison([one, unknown])
    at = [column.key for column in both.columns].index("time_ratio_alone")
    line = json.loads((H200 / "forward.jsonl").read_text().partition("\n")[0])
    own, base = line["energy"], line["baseline"]["energy"]
    assert line["key"] == one.key
    assert both.rows[0][at] == own["joules_per_step"] / own["watts"] / (base["joules_per_step"] / base["watts"]) == pytest.approx(0.6610, abs=1e-4)
    assert both.rows[1][at] is None and any(note.startswith("alone: ") for note in both.notes)
    assert not any(c.key == "time_ratio_alone" for c in comparison([unknown]).columns) and "alone" not in " ".join(comparison([unknown]).notes)


def test_a_narrow_terminal_keeps_what_differs(monkeypatch, capsys):
    from modcalc.render.terminal import fitting

    context = comparison(records(H200 / "context.jsonl"))
    kept = {context.columns[i].title for i in fitting(context, 80)[0]}
    assert {"batch", "cached"} <= kept and "tokens" not in kept
    two = records(H200 / "decode.jsonl")[:1] + [r for r in records(H200 / "context.jsonl") if r.settings.batch == 1 and r.settings.context == 2048]
    assert "baseline" in {two_columns.title for two_columns in comparison(two).columns if not two_columns.drop}
    of_ranks = Ranks(16, "nccl", "fsdp", [0.123456, 0.1324], 0.0725, 0.0451, 0.365, 0.0123)
    rows = ranks([msgspec.structs.replace(r, ranks=of_ranks) for r in records(H200 / "forward.jsonl")])
    keep, wide = fitting(rows, 80)
    assert sum(wide[i] + 3 for i in keep) + 1 <= 80
    (equal, *_) = records(H200 / "forward.jsonl")
    table = ranks([msgspec.structs.replace(equal, ranks=Ranks(2, "gloo", "ddp", [0.1, 0.1], 0.0, 0.0, 0.0, None))])
    assert "skew" in {c.title for c in table.columns}, "0 is known"


def test_bad_files(results, tmp_path):
    assert results("no.jsonl")[::2] == (2, "error: no.jsonl: cannot be read: No such file or directory\n")
    Path("notes.jsonl").write_text('{"loss": 3}\n')
    code, out, err = results(H200 / "self.jsonl", "notes.jsonl")
    assert code == 2 and out == "" and "notes.jsonl:1: not a result of modcalc profile" in err and "--out" not in err
    Path("empty.jsonl").touch()
    assert results("empty.jsonl")[::2] == (2, "error: empty.jsonl: no result yet\n")
    line = (H200 / "self.jsonl").read_text()
    Path("cut.jsonl").write_text(line + line[:40])
    code, out, err = results("cut.jsonl")
    assert code == 0 and "mod-220m" in out and "warning: cut.jsonl: a line is cut off, and points that were not measured again are missing" in err
    assert Path("cut.jsonl").read_text() == line + line[:40]
    Path("middle.jsonl").write_text(line[:40] + "\n" + line + line[:60] + "\n")
    code, out, err = results("middle.jsonl")
    assert code == 0 and "mod-220m" in out and "warning: middle.jsonl: 2 lines are cut off" in err
    Path("bom.jsonl").write_bytes(b"\xef\xbb\xbf" + line.encode())
    assert results("bom.jsonl")[0] == 0
    Path("latin.jsonl").write_bytes(b'{"status":"ok","spec":"\xff"}\n')
    code, _, err = results("latin.jsonl")  # could have been cut off within a character
    assert code == 2 and err.endswith("error: latin.jsonl: no result yet\n") and "a line is cut off" in err
    Path("latin.txt").write_bytes(b"caf\xe9\n")
    assert results("latin.txt")[2].startswith("error: latin.txt:1: not a result of modcalc profile (")
    for document in ('{\n"schema": 1,\n"results": []}', '{"schema": 1, "kind": "profile"}', '{\n"status": "ok",\n"schema": 1}'):
        Path("d.json").write_text(document)
        assert "(it is a document of --format json; name the file that --out wrote)" in results("d.json")[2]
    Path("spaced.jsonl").write_text(json.dumps({**json.loads(line), "batch": 1, "step_time_s": None}) + "\n")
    assert "spaced.jsonl:1: not a result of modcalc profile (Expected `object`, got `null` - at `$.step_time_s`)" in results("spaced.jsonl")[2]
    Path("new.jsonl").write_text(line.replace('"schema":1', '"schema":2') + line)
    assert "new.jsonl:1: not a result of modcalc profile (its schema is 2, and this modcalc reads 1)" in results("new.jsonl")[2]
    assert results(H200 / "self.jsonl", "--peak-tflops", "nan")[::2] == (2, "error: --peak-tflops nan: a finite number\n")
    assert results(H200 / "self.jsonl", "--peak-tflops", "1", "--gb-per-s", "nan")[::2] == (2, "error: --gb-per-s nan: a finite number\n")
    assert (
        results(H200 / "self.jsonl", "--gb-per-s", "1")[2]
        == "error: --gb-per-s: the bandwidth of the device that --peak-tflops is of; give that too\n"
    )
    assert "'--peak-tflops': inf is not in the range" in results(H200 / "self.jsonl", "--peak-tflops", "inf")[2]
    assert results("")[::2] == (2, "error: FILE '': an empty name; is a variable not set?\n")
    assert "--plot '': an empty name; is a variable not set?" in results(H200 / "self.jsonl", "--plot", "")[2]
    Path("mixed").mkdir()
    Path("mixed/ours.jsonl").write_text(line)
    Path("mixed/log.jsonl").write_text('{"loss": 3}\n')
    code, out, err = results("mixed")
    assert code == 0 and "mod-220m" in out and re.search(r"warning: mixed/log.jsonl:1: not a result of modcalc profile .*; left out\n", err)
    Path("mixed/gone.jsonl").symlink_to("nowhere")
    code, out, err = results("mixed")
    assert code == 0 and "mod-220m" in out and "warning: mixed/gone.jsonl: a link to a file that is not there; left out\n" in err
    assert results("mixed/gone.jsonl")[0] == 2, "it was named"
    Path("mixed/gone.jsonl").unlink()
    for words in (("mixed/log.jsonl", "mixed"), ("mixed", "mixed/log.jsonl")):
        assert results(*words)[0] == 2, "it was named"
    for mark in ("", "\ufeff"):
        Path("mixed/log.jsonl").write_text(mark + line.replace('"schema":1', '"schema":2'), encoding="utf-8")
        assert "its schema is 2" in results("mixed")[2] and results("mixed")[0] == 2, "one of ours is not left out"
    code, out, err = results(H200 / "train.jsonl", "--only", "spec=mod-3b", "--only", "batch=16", "--plot", "p.svg")
    assert (code, out, err) == (2, "", "error: --plot: nothing to draw, as memory ran out at every point\n")
    Path("r.svg").write_text(line)
    code, _, err = results("r.svg", "--plot", "r.svg")
    assert code == 2 and "--plot r.svg: that is a results file, which it would overwrite" in err and Path("r.svg").read_text() == line


def test_a_file_that_cannot_be_written_can_be_read(results, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied")

    Path("r.jsonl").write_text((H200 / "self.jsonl").read_text())
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refused)
        said = "r.jsonl: cannot be written: Permission denied; modcalc results r.jsonl shows what it holds"
        with pytest.raises(UsageError, match=said), ResultsFile("r.jsonl"):
            pass
    assert results("r.jsonl")[0] == 0
