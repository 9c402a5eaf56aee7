"""`modcalc diff`: what changed, which component caused it, and revisions of one file."""

import json
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from modcalc import account, load
from modcalc.cost.diff import Change, diff
from modcalc.errors import SpecError
from modcalc.render.diff import tables
from modcalc.spec.load import dump
from modcalc.spec.revision import is_new, load_side
from modcalc.spec.schema import Spec, Train


@pytest.fixture
def run(modcalc):
    return lambda *args: subprocess.CompletedProcess(args, *modcalc("diff", *args))


def test_components_explain_the_total() -> None:
    before, after = load("dense-small"), load("mod-small")
    found = diff(before, after)
    forward = next(c for c in found.totals if c.label == "forward FLOPs")
    assert (forward.before, forward.after) == (account(before).flops.forward, account(after).flops.forward)
    assert sum(c.difference for c in found.flops) == forward.difference
    assert [c.label for c in found.flops][:1] == ["mlp"]
    assert found.keys["mod.capacity"] == (None, 64)


def test_a_convention_is_told_in_words_and_what_it_leaves_unchanged_by_name() -> None:
    cost, forward, _ = tables("a", "b", diff(load("dense-220m"), load("mod-220m"), convention="kaplan"))[1:]
    assert cost.headline[1].startswith("counts 2 FLOPs per parameter and token forward")
    assert [row[0] for row in forward.rows] == ["mod router"] and forward.notes == ["unchanged: norms, attention, mlp"]
    assert len(tables("a", "b", diff(load("dense-220m"), load("mod-220m")))[1].headline) == 1


def test_the_same_spec_differs_in_nothing() -> None:
    found = diff(load("gpt2"), load("gpt2"))
    assert found.same and not found.keys


def test_a_window_changes_the_cache_alone() -> None:
    plain = load("dense-small")
    windowed = replace(plain, attention=replace(plain.attention, window=[64, None]))
    found = diff(plain, windowed)
    assert not found.same and [c.label for c in found.totals if c.difference] == ["KV cache in bf16 [bytes]"]
    assert ("attention.window", "-", "[64, null]") in tables("a", "b", found)[0].rows


def test_json_and_another_length(run) -> None:
    document = json.loads(run("dense-small", "mod-small", "--seq-len", "128", "--format", "json").stdout)
    assert document["schema"] == 1 and document["same"] is False
    assert {c["label"] for c in document["totals"]} >= {"parameters", "forward FLOPs"}


def trained(**train: int) -> Spec:
    return replace(load("dense-small"), train=Train(**train))


def test_a_longer_schedule_costs_more() -> None:
    spec = trained(batch_size=8, tokens=10**6)
    found = diff(spec, trained(batch_size=8, tokens=2 * 10**6))
    steps = [-(-tokens // (8 * spec.seq_len)) for tokens in (10**6, 2 * 10**6)]
    one = account(spec).flops.train_step
    assert not found.same and found.batch_size is None
    assert (found.train_flops.before, found.train_flops.after) == tuple(n * 8 * one for n in steps)
    assert next(c.difference for c in found.totals if c.label == "train step FLOPs, one sequence") == 0
    assert diff(spec, spec).same


def test_the_schedule_goes_by_the_length_and_convention_asked_for() -> None:
    a, b = trained(batch_size=8, tokens=10**6), trained(batch_size=8, steps=100)
    found = diff(a, b, seq_len=64, convention="6nd")
    one = account(a, seq_len=64, convention="6nd").flops.train_step
    assert (found.train_flops.before, found.train_flops.after) == (-(-(10**6) // (8 * 64)) * 8 * one, 100 * 8 * one)


def test_a_larger_step_costs_more() -> None:
    found = diff(trained(batch_size=8), trained(batch_size=16))
    assert not found.same and found.train_flops is None
    assert (found.batch_size.before, found.batch_size.after, found.batch_size.relative) == (8, 16, 1.0)


def test_a_schedule_on_one_side_has_no_difference(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.yaml").write_text(dump(trained(batch_size=8, steps=10)))
    document = json.loads(run("dense-small", "m.yaml", "--format", "json").stdout)
    after = 80 * account(load("dense-small")).flops.train_step
    assert document["same"] is False
    assert document["train_flops"] == {"before": None, "after": after, "difference": None, "relative": None}
    assert document["batch_size"]["before"] is None and document["batch_size"]["after"] == 8
    shown = run("dense-small", "m.yaml").stdout
    assert "training FLOPs, whole schedule" in shown and "sequences of a train step" in shown and "nothing that costs" not in shown


def test_what_is_unknown_on_a_side_or_begins_at_0_has_no_ratio() -> None:
    found = [
        (c.difference, c.relative) for c in (Change("x", 8, None), Change("x", None, 8), Change("x", 0, 8), Change("x", 8, 6), Change("x", 8, 8))
    ]
    assert found == [(None, None), (None, None), (8, None), (-2, -0.25), (0, 0.0)]


def test_a_revision_of_a_config(run, git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sub" / "config.json"
    file.parent.mkdir()
    for n, layers in enumerate((12, 6)):
        file.write_text(json.dumps({"model_type": "gpt2", "n_layer": layers}))
        git("add", ".")
        git("commit", "-qm", str(n))
    monkeypatch.chdir(tmp_path)
    done = run("HEAD~1:sub/config.json", "HEAD:sub/config.json", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["keys"] == {"n_layers": {"before": 12, "after": 6}}
    assert load_side("HEAD:sub/config.json") == load("sub/config.json")
    (tmp_path / "config.json").write_text(file.read_text())  # of the repository's own folder, as the hub has them
    git("add", ".")
    git("commit", "-qm", "top")
    assert load_side("HEAD:.") == load_side("HEAD:config.json") == load(".")
    assert is_new("HEAD", ".") is False and is_new("HEAD~1", ".") is True
    with pytest.raises(SpecError, match=r"^HEAD:sub/config\.json#part: part: found no such section"):
        load_side("HEAD:sub/config.json#part")
    file.write_text('{"model_type": "gpt2",\n"n_layr": 6}')
    git("commit", "-qam", "wrong")
    with pytest.raises(SpecError, match=r"^HEAD:sub/config\.json:2: n_layr: "):
        load_side("HEAD:sub/config.json")


def test_a_revision_of_a_file(run, git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "specs"
    folder.mkdir()
    (folder / "m.yaml").write_text(dump(load("dense-small")))
    git("add", ".")
    git("commit", "-qm", "one")
    (folder / "m.yaml").write_text(dump(load("mod-small")))
    monkeypatch.chdir(folder)
    done = run("HEAD:m.yaml", "m.yaml", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["keys"]["mod.capacity"] == {"before": None, "after": 64}
    for wrong, word in (("HEAD~7:m.yaml", "HEAD~7"), ("HEAD:n.yaml", "n.yaml"), ("nowhere.yaml", "no such file")):
        done = run(wrong, "m.yaml")
        assert done.returncode == 2 and word in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(SpecError, match=r"^HEAD:m\.yaml#part: found #part behind a YAML spec"):
        load_side("HEAD:m.yaml#part")


def test_names_with_a_colon_are_files_first_and_none_is_an_option_of_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:b.yaml").write_text(dump(load("dense-small")))
    assert load_side("a:b.yaml") == load("dense-small")
    with pytest.raises(SpecError, match="no such file"):
        load_side("--output=x:y")
    assert [path.name for path in tmp_path.iterdir()] == ["a:b.yaml"]


def test_a_side_that_is_no_spec(run, tmp_path: Path) -> None:
    done = run("gpt2", "gpt3")
    assert done.returncode == 2 and "gpt3" in done.stderr
