"""benchmarks/cpu.sh and gpu.sh with an interpreter that only notes what it is asked; and what the summary says of results."""

import json
import os
import shutil
import subprocess
import sys
import venv
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

import pytest

from modcalc.spec.load import load

ROOT = Path(__file__).parent.parent
if sys.platform == "win32":
    pytest.skip("shell scripts", allow_module_level=True)

NOTES = f"""#!{sys.executable}
import json, os, signal, sys, time
words = sys.argv[1:]
with open(os.environ["LOG"], "a") as log:
    log.write(json.dumps(words) + "\\n")
if words[0] == "-c":
    print("A Device (TM)" if "describe" in words[1] else 2)
    sys.exit()
if "isoflop" in words:
    os.makedirs(words[-1], exist_ok=True)
    open(words[-1] + "/other.yaml", "w").write("x")
if any(broken in " ".join(words) for broken in os.environ.get("BROKEN", "").split(",") if broken):
    if os.environ["CODE"] == "SIGINT":  # as ^C: to the script, too
        os.killpg(0, signal.SIGINT)
        time.sleep(60)
    sys.exit(int(os.environ["CODE"]))
print("done")
"""


@pytest.fixture
def script(tmp_path):
    """Run a script of benchmarks/; returns (exit code, stderr, commands)."""
    python = tmp_path / "python"
    python.write_text(NOTES)
    python.chmod(0o755)

    def run(name: str, *words: str, broken: str = "", code: int | str = 3, root: Path = ROOT) -> tuple[int, str, list[list[str]]]:
        log = tmp_path / "log"
        log.write_text("")
        env = {**os.environ, "PYTHON": str(python), "LOG": str(log), "BROKEN": broken, "CODE": str(code)}
        if root == ROOT:
            env["RESULTS"] = str(tmp_path / "results")
        done = subprocess.run(
            ["bash", str(root / "benchmarks" / name), *words], env=env, capture_output=True, text=True, timeout=60, start_new_session=True
        )
        commands = [json.loads(line) for line in log.read_text().splitlines()]
        return done.returncode, done.stderr, [words for words in commands if words[0] != "-c"]

    return run


def stages(name: str) -> list[str]:
    text = (ROOT / "benchmarks" / name).read_text()
    return next(line for line in text.splitlines() if "   stages: " in line).partition("stages: ")[2].partition(";")[0].split()


@pytest.mark.parametrize("name", ["cpu.sh", "gpu.sh"])
def test_every_stage_runs_and_what_it_names_is_there(script, tmp_path, name):
    code, err, commands = script(name)
    assert code == 0 and "failed" not in err
    assert commands[-1][:2] == ["-m", "benchmarks.summary"]
    points = [words for words in commands if "profile" in words]
    assert len(points) >= len(stages(name)) - 5
    for words in points:
        named = list(takewhile(lambda word: not word.startswith("--"), words[words.index("profile") + 1 :]))
        if "--baseline" in words:
            named.append(words[words.index("--baseline") + 1])
        for one in named:
            assert one == "dense" or one.endswith("other.yaml") or load(one if not one.startswith("benchmarks/") else str(ROOT / one))
    modules = {words[words.index("-m") + 1] for words in commands if "-m" in words}
    assert "benchmarks.summary" in modules and all(find_spec(module) for module in modules)
    for stage in stages(name):
        shutil.rmtree(tmp_path / "results")
        assert len(script(name, stage)[2]) > 1, stage


def test_what_was_done_is_not_done_again_but_points_resume(script):
    first, again = script("gpu.sh")[2], script("gpu.sh")[2]
    assert {"benchmarks.against_llama", "pytest", "isoflop"} <= {word for words in first for word in words}
    assert [words for words in first if "--out" in words and "profile" in words] == [words for words in again if "--out" in words]
    assert not any("benchmarks.against_llama" in words or "pytest" in words for words in again)


def test_a_quick_run_leaves_nothing_that_a_real_one_would_keep(script, tmp_path):
    root = tmp_path / "repo"
    shutil.copytree(ROOT / "benchmarks", root / "benchmarks", ignore=shutil.ignore_patterns("results"))
    script("cpu.sh", "--quick", "llama", root=root)
    assert any("benchmarks.against_llama" in words for words in script("cpu.sh", "llama", root=root)[2])
    folders = sorted(path.name for path in (root / "benchmarks" / "results").iterdir())
    assert len(folders) == 2 and folders[1] == f"{folders[0]}-quick"


def test_a_failing_check_does_not_stop_the_others_and_is_named(script):
    code, err, commands = script("gpu.sh", "--quick", "tests", "peaks", "decode", "self", "learn", broken="batch=1,self.jsonl")
    assert code == 1 and any("benchmarks.train_mod" in words for words in commands)
    assert commands[-1][:2] == ["-m", "benchmarks.summary"]
    assert err.splitlines()[-1] == "failed: decode self", "in the order in which they were asked for"


@pytest.mark.parametrize("how", [130, "SIGINT"])
@pytest.mark.parametrize("where, sign", [("repeat", "repeat-1.jsonl"), ("self", "self-1.jsonl"), ("tests", "-m pytest"), ("llama", "against_llama")])
def test_an_interrupt_ends_the_run_with_a_summary(script, where, sign, how):
    code, err, commands = script("gpu.sh", "peaks", where, "graph", broken=sign, code=how)
    assert code == 130 and "--peaks" in commands[0] and err.endswith("done\n")
    assert sign in " ".join(commands[-2]) and commands[-1][:2] == ["-m", "benchmarks.summary"]


def test_what_is_too_large_alone_is_a_row_of_a_later_sweep(script):
    code, err, _ = script("gpu.sh", "largest", "train", broken="batch=12 --", code=2)
    assert (code, err.count("train-3b: exit code 2"), "failed" in err) == (0, 1, False)
    assert script("gpu.sh", "largest", "forward", broken="batch=12 --", code=2)[1].endswith("failed: train-3b\n")


def test_a_failed_check_is_tried_again(script):
    code, err, _ = script("gpu.sh", "peaks", broken="--peaks")
    assert code == 1 and err.endswith("failed: peaks\n")
    code, err, commands = script("gpu.sh", "peaks")
    assert code == 0 and any("--peaks" in words for words in commands)


@pytest.mark.parametrize("words, says", [(["nonsense"], "no stage is called nonsense"), (["--fast"], "unknown option --fast")])
def test_bad_words(script, words, says):
    code, err, commands = script("cpu.sh", *words)
    assert code == 2 and says in err and commands == []


def test_the_summary_of_results(tmp_path, monkeypatch, capsys):
    """One point measured, and files of the other checks."""
    torch = pytest.importorskip("torch")
    import msgspec

    from benchmarks import summary
    from modcalc.cost.account import dense_twin
    from modcalc.measure.point import Job, measure
    from modcalc.measure.records import Settings
    from modcalc.spec.schema import Attention, Mlp, Mod, Spec

    spec = Spec(
        name="tiny", vocab_size=50, seq_len=16, d_model=16, n_layers=2, attention=Attention(n_heads=2), mlp=Mlp(ratio=4.0), mod=Mod(capacity=0.25)
    )
    one = Settings(mode="forward", batch=1, seq_len=16, context=0, dtype="fp32", compile=False, cuda_graph=False, iterations=6, warmup=1)
    done = measure(Job(spec=spec, baseline=dense_twin(spec), settings=one, device=torch.device("cpu"), by="component"))
    later = msgspec.structs.replace(done.step_time_s, median=1.03 * done.step_time_s.median)
    saved = msgspec.structs.replace(done, baseline=msgspec.structs.replace(done.baseline, realised_saving=0.91))
    for name, record in (("saving-a-forward", saved), ("where", done), ("repeat-1", done)):
        (tmp_path / f"{name}.jsonl").write_bytes(msgspec.json.encode(record) + b"\n")
    (tmp_path / "repeat-2.jsonl").write_bytes(msgspec.json.encode(msgspec.structs.replace(done, step_time_s=later)))
    for n, middle in enumerate((0.99, 1.15), start=1):
        itself = msgspec.structs.replace(done.baseline, time_ratio=middle, time_ratio_interval=(middle - 0.1, middle + 0.1))
        (tmp_path / f"self-{n}.jsonl").write_bytes(msgspec.json.encode(msgspec.structs.replace(done, baseline=itself)))
    with (tmp_path / "where.jsonl").open("ab") as file:  # memory ran out while it was profiled
        file.write(msgspec.json.encode(msgspec.structs.replace(done, key="other", attribution=[])) + b"\n")
    (tmp_path / "tests.txt").write_text("...\n===== 3 passed, 1 skipped in 1 s =====\n")
    slower = {"time_ratio": 1.2, "interval": [1.1, 1.3]}
    faster = {"time_ratio": 0.9, "interval": [0.8, 1.1]}
    (tmp_path / "llama.json").write_text(json.dumps({"transformers": "5", "dtype": "fp32", "batch": 4, "forward": faster, "train": slower}))
    monkeypatch.setattr(sys, "argv", ["summary", str(tmp_path)])
    summary.main()
    out = capsys.readouterr().out
    assert out == (tmp_path / "summary.md").read_text() + "\n"
    met = {row[1].split(",")[0].strip(): row[4].strip() for row in (line.split("|") for line in out.splitlines()) if len(row) == 6}
    assert {"attribution of tiny", "attribution of tiny (dense twin)"} <= met.keys()
    assert met["realised saving"] == "yes" and met["two runs of the same command"] == "no" and met["tests that need a GPU"] == "no"
    assert (
        "| tiny against itself, forward, built 6 times, 2 runs | 96.9 % of the intervals contain 1 | 1 of 2 runs; time ratios 0.9900 to 1.1500 |"
        in " ".join(out.split())
    )
    llama = {row[1].split(",")[1].strip(): row[4].strip() for row in (line.split("|") for line in out.splitlines() if "Llama" in line)}
    assert llama == {"forward": "yes", "train": "no"}


def test_an_interpreter_that_lacks_a_package_is_told(tmp_path):
    """Before anything is measured, where nothing may be installed into it."""
    bare = tmp_path / "bare"
    venv.create(bare, symlinks=True)
    ran = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "forward"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(bare / "bin" / "python"), "RESULTS": str(tmp_path / "r")},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 2 and "lacks torch msgspec numpy yaml rich tabulate typer; install that" in ran.stderr
    assert "Traceback" not in ran.stderr and not (tmp_path / "r").exists()


def test_the_summary_of_how_fast_modcalc_is(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    from benchmarks import check_many, summary

    monkeypatch.setattr(sys, "argv", ["check_many", "--repeat", "1", "--out", str(tmp_path / "new" / "check_many.json")])
    with pytest.raises(SystemExit):
        check_many.main()
    part = {"limit": 2.5, "ratio": 2.6, "ok": False}
    account = {"median_s": {"dense": 1e-4, "mod": 3e-4}, "limit_s": 1e-3, "ok": True}
    count = {"count_s": 5.0, "limit_s": 10.0, "peak_memory_bytes": 1.5e9, "limit_bytes": 2e9, "ok": True}
    (tmp_path / "new" / "startup.json").write_text(json.dumps({"startup": part, "account": account, "count": count}))
    monkeypatch.setattr(sys, "argv", ["summary", str(tmp_path / "new")])
    summary.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")][2:]
    assert rows[0] == ["flops --count analytic over import typer, yaml", "at most 2.5 x", "2.60 x", "no"]
    assert rows[1] == ["account() of a spec of 126 layers", "at most 1 ms", "300 us", "yes"]
    assert rows[2][1:] == ["under 10 s and 2 GB", "5 s, 1.50 GB", "yes"]
    assert rows[3][:2] == ["check of 100 specs over one", "at most 3 x"]


def test_a_folder_without_results(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    from benchmarks import summary

    monkeypatch.setattr(sys, "argv", ["summary", str(tmp_path)])
    with pytest.raises(SystemExit) as done:
        summary.main()
    assert done.value.code == 2 and "no results there" in capsys.readouterr().err
