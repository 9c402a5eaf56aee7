"""`modcalc diff`: what changed, which component caused it, and revisions of one file."""

import json
import subprocess
import sys
from pathlib import Path

from modcalc import account, load
from modcalc.cost.diff import diff
from modcalc.spec.load import dump


def run(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "modcalc.cli.app", "diff", *args], capture_output=True, text=True, cwd=cwd, check=False)


def test_components_explain_the_total() -> None:
    before, after = load("dense-small"), load("mod-small")
    found = diff(before, after)
    forward = next(c for c in found.totals if c.label == "forward FLOPs")
    assert (forward.before, forward.after) == (account(before).flops.forward, account(after).flops.forward)
    assert sum(c.difference for c in found.flops) == forward.difference
    assert [c.label for c in found.flops][:1] == ["mlp"]
    assert found.keys["mod.capacity"] == (None, 64)


def test_the_same_spec_differs_in_nothing() -> None:
    found = diff(load("gpt2"), load("gpt2"))
    assert found.same and not found.keys


def test_json_and_another_length() -> None:
    document = json.loads(run("dense-small", "mod-small", "--seq-len", "128", "--format", "json").stdout)
    assert document["schema"] == 1 and document["same"] is False
    assert {c["label"] for c in document["totals"]} >= {"parameters", "forward FLOPs"}


def test_a_revision_of_a_file(tmp_path: Path) -> None:
    def git(*args: str) -> None:
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *args], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    folder = tmp_path / "specs"
    folder.mkdir()
    (folder / "m.yaml").write_text(dump(load("dense-small")))
    git("add", ".")
    git("commit", "-qm", "one")
    (folder / "m.yaml").write_text(dump(load("mod-small")))
    done = run("HEAD:m.yaml", "m.yaml", "--format", "json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["keys"]["mod.capacity"] == {"before": None, "after": 64}
    for wrong, word in (("HEAD~7:m.yaml", "HEAD~7"), ("HEAD:n.yaml", "n.yaml"), ("nowhere.yaml", "no such file")):
        done = run(wrong, "m.yaml", cwd=folder)
        assert done.returncode == 2 and word in done.stderr and "Traceback" not in done.stderr


def test_a_side_that_is_no_spec(tmp_path: Path) -> None:
    done = run("gpt2", "gpt3")
    assert done.returncode == 2 and "gpt3" in done.stderr
