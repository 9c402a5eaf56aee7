"""`modcalc results`: results files shown, without torch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from modcalc.cli import app
from modcalc.measure.alike import alike, conditions, facts, told_apart
from modcalc.measure.records import Failed, Settings
from modcalc.measure.results import read_results

MEASURED = Path(__file__).parent.parent / "benchmarks" / "results"
H200 = MEASURED / "nvidia-h200-2026-11-26"
CPU = MEASURED / "intel-xeon-2026-11-29-batches"


@pytest.fixture
def results(monkeypatch, capsys, tmp_path):
    """Run the command; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["modcalc", "results", *map(str, words)])
        with pytest.raises(SystemExit) as done:
            app.main()
        out, err = capsys.readouterr()
        return done.value.code or 0, out, err

    return run


def records(*files: Path) -> list:
    return [record for file in files for record in read_results(file).records.values()]


def test_what_a_gpu_measured_is_shown_without_torch():
    """On a machine that has neither."""
    code = "import sys; sys.modules['torch'] = None; from modcalc.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "results", H200 / "train.jsonl"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "NVIDIA H200, SM clock 1875 of 1980 MHz; torch 2.11.0+cu130, CUDA 13.0, driver 580.159.04; measured 2026-11-26\n" in done.stdout
    rows = re.findall(r"^(mod-\S+)(?: \(dense twin\))? +(4|16) +2,048 +\S", done.stdout, re.MULTILINE)
    assert len(rows) == 10 and "mod-3b with mod-3b (dense twin)     16   2,048  out of memory" in done.stdout
    assert "warning: mod-220m, train, batch 4, 2,048 tokens: the host needs" in done.stderr
    assert "warning: mod-3b, train, batch 16, 2,048 tokens: out of memory: CUDA out of memory" in done.stderr


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


def test_records_are_rated_by_the_last_peak(results):
    first, last = records(H200 / "repeat-1.jsonl", H200 / "repeat-2.jsonl")
    (one, two) = alike([msgspec.structs.replace(first, peak=None, mfu=None, hfu=None), last])[0]
    assert (one.peak, two) == (last.peak, last)
    assert one.mfu == one.flops.step / one.step_time_s.median / last.peak.flops_per_s


@pytest.mark.parametrize(
    "words, kept",
    [
        (["spec=mod-3b"], [("mod-3b", 4), ("mod-3b", 16)]),
        (["spec=mod-3b,mod-1b", "batch=16"], [("mod-1b", 16), ("mod-3b", 16)]),
        (["cuda_graph=no", "spec=mod-1b"], [("mod-1b", 4), ("mod-1b", 16)]),
        (["device=NVIDIA H200", "seq-len=2048", "baseline=mod-220m (dense twin)"], [("mod-220m", 4), ("mod-220m", 16)]),
    ],
)
def test_only_those_that_are_asked_for(results, words, kept):
    asked = [word for fact in words for word in ("--only", fact)]
    code, out, err = results(H200 / "train.jsonl", *asked, "-f", "json")
    assert code == 0, err
    assert [(d["spec"], d["settings"]["batch"]) for d in json.loads(out)["results"]] == kept


def test_a_name_with_commas(results, tmp_path):
    line = (H200 / "self.jsonl").read_text().replace("NVIDIA H200", "A, B")
    Path("r.jsonl").write_text(line)
    assert results("r.jsonl", "--only", "device=A, B")[0] == 0


@pytest.mark.parametrize("format", ["plain", "markdown", "latex", "csv", "table"])
def test_every_format(results, format):
    code, out, err = results(CPU / "where.jsonl", "-f", format)
    assert code == 0 and "attention" in out and "realised saving" in out.replace("_", " "), err


def test_a_plot(results):
    code, _, err = results(H200 / "train.jsonl", "--plot", "t.svg")
    assert code == 0, err
    assert "mod-1b" in Path("t.svg").read_text() and "out of memory: mod-3b" in Path("t.svg").read_text()
    code, out, err = results(H200 / "train.jsonl", H200 / "forward.jsonl", "--plot", "both.svg")
    assert code == 2 and out == "" and not Path("both.svg").exists()
    assert err.endswith("error: --plot: one plot shows results of one kind, and these differ; choose with --only: mode train, forward\n")
    assert results(H200 / "train.jsonl", H200 / "forward.jsonl", "--plot", "both.svg", "--only", "mode=forward")[0] == 0


def test_what_differs_is_named():
    groups = alike(records(H200 / "self.jsonl", CPU / "self.jsonl"))
    assert told_apart(groups).startswith("device NVIDIA H200, Intel(R) Xeon(R) Processor")
    assert "mode" not in told_apart(groups)


def test_everything_but_the_length_of_a_measurement_tells_records_apart():
    """A setting that is new must be known to `facts`, or tables would mix what it parts."""
    (record,) = records(H200 / "self.jsonl")
    named = {name.replace("-", "_") for name in facts(record)}
    assert set(Settings.__struct_fields__) - named == {"seconds", "iterations", "warmup", "builds"}
    assert set(conditions(record)) < set(facts(record))
    failed = next(r for r in records(H200 / "train.jsonl") if isinstance(r, Failed))
    assert facts(failed)["baseline"] == "mod-3b (dense twin)"


@pytest.mark.parametrize(
    "words, said",
    [
        (["--only", "mod=train"], "NAME=VALUE,VALUE,… with NAME one of spec, baseline, batch, seq-len"),
        (["--only", "mod=train"], "did you mean mode?"),
        (["--only", "mode"], "NAME=VALUE,VALUE,… with NAME one of"),
        (["--only", "mode=trian"], "no result has mode 'trian'; there are train; did you mean train?"),
        (["--only", "spec=mod-1b,"], "no result has spec ''; there are mod-220m, mod-1b, mod-3b"),
        (["--only", "batch=16", "--only", "batch=4"], "--only: no result has all of batch=16 and batch=4"),
        (["--plot", "p.pdf"], "p.pdf"),
    ],
)
def test_bad_words(results, words, said):
    code, out, err = results(H200 / "train.jsonl", *words)
    assert code == 2 and out == "" and said in err and "Traceback" not in err


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
    assert code == 0 and "mod-220m" in out and "warning: cut.jsonl: a line is cut off; its point is not shown" in err
    assert Path("cut.jsonl").read_text() == line + line[:40]
    Path("r.svg").write_text(line)
    code, _, err = results("r.svg", "--plot", "r.svg")
    assert code == 2 and "--plot r.svg: that is a results file, which it would overwrite" in err and Path("r.svg").read_text() == line


def test_a_file_that_cannot_be_written_can_be_read(results, tmp_path):
    Path("r.jsonl").write_text((H200 / "self.jsonl").read_text())
    Path("r.jsonl").chmod(0o444)
    assert results("r.jsonl")[0] == 0
