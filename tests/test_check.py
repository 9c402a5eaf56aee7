"""`modcalc check`: every metric, bound and format; a wrong budget fails, a bad spec hides nothing."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
import yaml

from modcalc import account, load
from modcalc.cost import check as cost_check
from modcalc.cost.budget import METRICS, Costs, Rule, check, contradictions, parse_rule, rules_of
from modcalc.cost.training import training_run
from modcalc.errors import UsageError
from modcalc.spec.files import sources
from modcalc.spec.load import loads
from modcalc.spec.schema import Budget

ROOT = Path(__file__).parent.parent
MODEL = """\
name: a
vocab_size: 1000
seq_len: 512
d_model: 256
n_layers: 4
attention: {n_heads: 4}
mlp: {d_ff: 1024}
mod: {capacity: 64}
train: {batch_size: 8, tokens: 1e9}
budget:
"""
# What the model costs: 2,619,342,848 + 524,288 FLOPs (the worked example), 3,660,032 + 512 parameters.
FORWARD, PARAMS = 2_619_867_136, 3_660_544


@pytest.fixture
def spec(tmp_path: Path):
    def write(budget: str, name: str = "a.yaml") -> Path:
        path = tmp_path / name
        path.write_text(MODEL + "".join(f"  {line}\n" for line in budget.splitlines()))
        return path

    return write


@pytest.fixture
def run(modcalc):
    return lambda *args: subprocess.CompletedProcess(args, *modcalc("check", *args))


def test_every_metric_of_the_schema_is_measured() -> None:
    assert set(METRICS) == {f.name for f in msgspec.structs.fields(Budget)}


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        (f"forward_flops <= {FORWARD}", True),
        (f"forward_flops <= {FORWARD - 1}", False),
        (f"forward_flops >= {FORWARD}", True),
        (f"forward_flops >= {FORWARD + 1}", False),
        (f"forward_flops == {FORWARD}", True),
        (f"forward_flops == {FORWARD + 1}", False),
        (f"params == {PARAMS + 1} within 1e-6", True),
        (f"params == {PARAMS - 4} within 1e-6", False),
        (f"params == {PARAMS} within 0", True),
        (f"params == {PARAMS + 1} within 0.0", False),
        ("forward_flops_per_token <= 5.2M", True),
        ("train_step_flops == 62876811264", True),  # 8 sequences, 3 times forward
        ("active_params <= 2000000", False),
        ("kv_cache_bytes == 0.5625 * dense-small", True),
        ("kv_cache_bytes <= 0.5624 * dense-small", False),
        ("forward_flops <= 0.575 * dense-small", True),
        ("train_memory_bytes <= 80GiB", True),
        ("train_memory_bytes == 199215256", True),  # train.batch_size 8; see tests/test_memory.py
        ("train_memory_bytes >= 16 * dense-small", False),
    ],
)
def test_rules(spec, rule: str, holds: bool) -> None:
    result = check(Costs(load(spec("params: 1e9"))), parse_rule(rule), lambda name: Costs(load(name)))
    assert result.ok is holds, result


def test_a_schedule_is_whole_steps(spec) -> None:
    model = load(spec("params: 1e9"))
    costs = Costs(model)
    steps, report = -(-(10**9) // (8 * 512)), account(model, batch=8, phase="train")
    run = training_run(model, report)
    assert (run.steps, run.batch_size, run.tokens, run.flops) == (steps, 8, steps * 8 * 512, steps * report.flops.train_step)
    result = check(costs, parse_rule("train_flops <= 1.6e16"), lambda name: costs)
    assert result.actual == costs.train_flops == run.flops == training_run(model, account(model, batch=3)).flops
    assert training_run(load("dense-small"), account(load("dense-small"))) is None


def test_shipped_specs_pass(run) -> None:
    done = run(ROOT / "specs")
    assert done.returncode == 0, done.stderr
    assert "0 broken" in done.stdout


def test_broken_rule_names_file_line_expected_actual(run, spec) -> None:
    path = spec("params: 4M\nforward_flops: {max: 2.7e9, min: 2.62e9}")
    done = run(path)
    assert done.returncode == 1
    assert f"{path}:12: forward_flops >= 2,620,000,000: expected 2,620,000,000 FLOPs, actual {FORWARD:,}, difference -132,864" in done.stderr


def test_a_metric_that_is_asked_for_says_what_it_is_of(run, spec) -> None:
    out = run(spec("kv_cache_bytes: 1GiB\ntrain_step_flops: 1e15")).stdout
    assert "kv_cache_bytes: one sequence in bf16" in out and "train_step_flops: a step of train.batch_size" in out
    assert "train_memory_bytes" not in out


def test_json(run, spec) -> None:
    path = spec("params: 4M\nactive_params: 2e6")
    document = json.loads(run(path, "--format", "json").stdout)
    assert document["schema"] == 1 and document["ok"] is False
    assert [(r["spec"], r["metric"], r["expected"], r["ok"]) for r in document["results"]] == [
        (str(path), "params", 4_000_000, True),
        (str(path), "active_params", 2_000_000, False),
    ]


def test_github_annotations_and_summary(run, spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, wrong = spec("params: 3M"), spec("parms: 3M", "wrong.yaml")
    summary = tmp_path / "summary.md"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    done = run(path, wrong, "--format", "github")
    assert done.returncode == 2
    errors = [line for line in done.stdout.splitlines() if line.startswith("::error ")]
    assert errors[0].startswith(f"::error file={path},line=11,title=modcalc check::")
    assert f"actual {PARAMS:,}" in errors[0] and "%25" in errors[0]
    assert errors[1].startswith(f"::error file={wrong},line=11,title=modcalc check::") and "did you mean params?" in errors[1]
    assert "BROKEN" in summary.read_text() and "|" in summary.read_text()
    assert "::error file=a%2Cb%3A.yaml,line=11," in run(spec("params: 3M", "a,b:.yaml").relative_to(tmp_path), "--format", "github").stdout


def test_junit(run, spec) -> None:
    root = ElementTree.fromstring(run(spec("params: 3M\nforward_flops: 3G"), spec("parms: 1", "b.yaml"), "--format", "junit").stdout)
    first, second = root
    assert (first.get("tests"), first.get("failures"), first.get("errors")) == ("3", "1", "0")
    assert [case.find("failure") is not None for case in first] == [False, True, False]
    assert second.get("errors") == "1" and second[0].find("error") is not None


def test_junit_of_a_rule_that_cannot_be_read(run, spec) -> None:
    """The spec is valid, and its other rules are held to."""
    (suite,) = ElementTree.fromstring(run(spec("params: 4M"), "-r", "params <= 1.1 * dens-220m", "--format", "junit").stdout)
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "0", "1")
    assert [(case.get("name"), case.find("error") is not None) for case in suite] == [
        ("spec is valid", False), ("params <= 1.1 * dens-220m", True), ("params <= 4,000,000", False),
    ]  # fmt: skip


def test_a_bad_spec_loses_no_other_result(run, spec) -> None:
    good, bad = spec("params: 4M"), spec("params: much", "bad.yaml")
    assert re.search(r"bad.yaml +see the errors .* UNREAD\n", run(bad, good).stdout)
    done = run(bad, good, "missing.yaml", "--format", "json")
    assert done.returncode == 2
    document = json.loads(done.stdout)
    assert [(r["spec"], r["ok"]) for r in document["results"]] == [(str(good), True)]
    assert [s["ok"] for s in document["specs"]] == [False, True, False]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("metric", ["train_step_flops", "train_memory_bytes"])
def test_a_train_step_is_compared_with_one_of_as_many_sequences(metric: str) -> None:
    """Where only one of two specs says how many there are, in either order."""
    given, silent = Costs(loads(MODEL + "  params: 4M\n")), Costs(loads(MODEL.partition("train:")[0]))
    assert (given.batch_size, silent.batch_size) == (8, 1)
    assert silent.beside(given).report is silent.report  # an account is made once, whatever the batch
    for one, other in ((given, silent), (silent, given)):
        assert check(one, Rule(metric, "equals", Fraction(1), relative_to="x"), lambda name, other=other: other).ok


def test_relative_to_a_file_beside_the_spec(run, spec) -> None:
    spec("params: 1e9", "other.yaml")
    assert run(spec("forward_flops: {equals: 1, relative_to: other.yaml}")).returncode == 0
    done = run(spec("forward_flops: {max: 1, relative_to: othr.yaml}\nparams: 4M"))
    assert done.returncode == 2 and "othr.yaml" in done.stderr and "params <= 4,000,000" in done.stdout


def test_a_path_in_a_rule_is_from_the_file_or_from_the_current_folder(run, spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the command line it is the same for every spec, and a folder that holds no model hides no shipped name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dense-60m").mkdir()
    for folder, layers in ((tmp_path, 3), (tmp_path / "sub", 2)):
        folder.mkdir(exist_ok=True)
        (folder / "other.yaml").write_text(MODEL.replace("n_layers: 4", f"n_layers: {layers}").removesuffix("budget:\n"))
    files = [spec("forward_flops: {max: 9, relative_to: other.yaml}", name) for name in ("a.yaml", "sub/a.yaml")]
    done = run(*files, "-r", "params <= 9 * other.yaml", "-r", "params <= 1 * dense-60m", "--format", "json")
    assert done.returncode == 0, done.stderr
    expected = {(r["spec"], r["rule"]): r["expected"] for r in json.loads(done.stdout)["results"]}
    a, b = map(str, files)
    assert expected[a, "params <= 9 * other.yaml"] == expected[b, "params <= 9 * other.yaml"]
    assert expected[a, "forward_flops <= 9 * other.yaml"] > expected[b, "forward_flops <= 9 * other.yaml"]


def test_a_rule_may_compare_with_a_revision(run, spec, git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = spec("params: 4M")
    git("add", ".")
    git("commit", "-qm", "before")
    rules = ("-r", "params <= 1 * HEAD:", "-r", "params <= 1 * HEAD:a.yaml")
    assert run("a.yaml", *rules).returncode == run(file, *rules[:2]).returncode == 0
    file.write_text(file.read_text().replace("n_layers: 4", "n_layers: 5"))
    done = run("a.yaml", *rules)
    assert done.returncode == 1 and done.stderr.count(f"expected {PARAMS:,} parameters") == 2
    assert run(file, *rules[:2]).returncode == 1
    assert "git cannot show it" in run("a.yaml", "-r", "params <= 1 * nothing:").stderr
    spec("params: 4M", "new.yaml")
    done = run("new.yaml", *rules[:2])
    assert done.returncode == 0 and "new.yaml: params <= 1 * HEAD:: it is new since then, so nothing holds it" in done.stderr
    assert re.search(r"new.yaml +params <= 1 \* HEAD: .* new\n", done.stdout) and "1 spec, 2 rules: 1 held, 0 broken, 1 of new specs" in done.stdout
    assert json.loads(run("new.yaml", *rules[:2], "-f", "json").stdout)["specs"][0]["new"] == ["params <= 1 * HEAD:"]
    Path("bare.yaml").write_text(MODEL.removesuffix("budget:\n"))
    assert "no budget" not in run("bare.yaml", *rules[:2]).stdout
    assert "git cannot show it" in run("mod-220m", *rules[:2]).stderr, "a shipped spec is in no repository of the user's"


def test_an_empty_revision_is_a_variable_that_is_not_set(run, spec, git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not git's index, which holds whatever the file is becoming."""
    monkeypatch.chdir(tmp_path)
    spec("params: {max: 1.1, relative_to: ':'}", "own.yaml")
    spec("params: {max: 1G}", "a.yaml")
    git("add", "a.yaml")
    for words in (("own.yaml",), ("a.yaml", "-r", "params <= 1.05 * :"), ("a.yaml", "-r", "params <= 1.05 * :a.yaml"), ("",)):
        done = run(*words)
        assert done.returncode == 2 and "is a variable not set?" in done.stderr, done.stderr


@pytest.mark.parametrize("rule", ["params <= 60 GFLOPs", "forward_flops <= 5 tokens", "params <= 5 tokens", "train_flops <= 6e18 params"])
def test_a_bound_is_of_its_metrics_unit(run, spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    monkeypatch.chdir(tmp_path)
    spec("params: {max: 1G}", "a.yaml")
    done = run("a.yaml", "-r", rule)
    assert done.returncode == 2 and re.search(r"is no number of (gflops|flops|tokens|params)", done.stderr), done.stderr
    assert "2 held" in run("a.yaml", "-r", "params <= 1G params").stdout
    spec("params: 5 tokens", "b.yaml")
    assert re.search(r"b.yaml:\d+: budget.params: found '5 tokens'; allowed what params may be, which is no number of tokens", run("b.yaml").stderr)


def test_a_revision_is_looked_up_where_the_file_is(run, spec, git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the current folder, its repository, and links; a folder is its config.json; in a spec paths start at its file."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "llama").mkdir()
    config = '{"model_type": "llama", "vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}'
    (tmp_path / "llama" / "config.json").write_text(config)
    file = spec("params: {max: 1.1, relative_to: 'HEAD:other.yaml'}", "sub/a.yaml")
    (tmp_path / "sub" / "other.yaml").write_text(MODEL.removesuffix("budget:\n"))
    (tmp_path / "sub" / "self.yaml").write_text(MODEL + "  params: {max: 1, relative_to: 'HEAD:'}\n")
    git("add", ".")
    git("commit", "-qm", "before")
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "link").symlink_to(tmp_path)
    rule = ("-r", "params <= 1 * HEAD:")
    for folder in (tmp_path, tmp_path / "sub", outside):
        monkeypatch.chdir(folder)
        for source in (
            file,
            outside / "link" / "sub" / "a.yaml",
            tmp_path / "sub" / "self.yaml",
            tmp_path / "llama",
            tmp_path / "llama" / "config.json",
        ):
            done = run(source, *rule)
            assert done.returncode == 0 and "nothing holds it" not in done.stderr, done.stderr
    file.write_text(file.read_text().replace("n_layers: 4", "n_layers: 5"))
    (tmp_path / "llama" / "config.json").write_text(config.replace("99", "100"))
    for source in (file, outside / "link" / "sub" / "a.yaml", tmp_path / "llama"):
        assert run(source, *rule).returncode == 1


def test_a_revision_in_a_hook_and_in_a_clone_without_old_files(run, spec, git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """git names the repository to its hooks, but not the top of the files; and what a clone lacks is not new."""
    (tmp_path / "sub").mkdir()
    file = spec("params: 4M", "sub/a.yaml")
    git("add", ".")
    git("commit", "-qm", "before")
    file.write_text(file.read_text().replace("n_layers: 4", "n_layers: 5"))
    rule = ("sub/a.yaml", "-r", "params <= 1 * HEAD~1:")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert run(rule[0], "-r", "params <= 1 * HEAD:").returncode == 1
    # Said as a whole, it is taken at its word.
    (tmp_path / ".git").rename(tmp_path / "apart")
    monkeypatch.setenv("GIT_DIR", "apart")
    monkeypatch.setenv("GIT_WORK_TREE", ".")
    assert run(rule[0], "-r", "params <= 1 * HEAD:").returncode == 1
    (tmp_path / "apart").rename(tmp_path / ".git")
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_WORK_TREE")
    git("commit", "-qam", "after")
    git("config", "uploadpack.allowFilter", "true")
    clone = tmp_path.parent / f"{tmp_path.name}-clone"
    git("clone", "-q", "--filter=blob:none", f"file://{tmp_path}", str(clone))
    (tmp_path / ".git").rename(tmp_path / "away")
    monkeypatch.chdir(clone)
    done = run(*rule)
    assert done.returncode == 2 and "git cannot show it: fatal: " in done.stderr and "nothing holds it" not in done.stderr
    (tmp_path / "away").rename(tmp_path / ".git")
    assert run(*rule).returncode == 1


def test_a_name_that_cannot_be_shown_costs_no_other_result(run, spec, tmp_path: Path) -> None:
    spec("params: 4M", "good.yaml")
    for odd in (b"lat\xe9in.yaml", b"ctl\x01\x1b[31m.yaml", b"two\nlines.yaml"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + odd)).write_text("")
    for format in ("plain", "json", "github", "junit"):
        done = run(tmp_path, "--format", format)
        assert done.returncode == 2 and "internal error" not in done.stderr
        assert ("good.yaml" in done.stdout or format == "github") and r"udce9in.yaml" in done.stdout and "\x1b" not in done.stdout
    ElementTree.fromstring(run(tmp_path, "--format", "junit").stdout)


def test_an_interrupt_keeps_what_was_checked(modcalc, spec, monkeypatch: pytest.MonkeyPatch) -> None:
    own = cost_check.check_all

    def some(*words: object) -> Iterator[cost_check.Checked]:
        yield next(own(*words))
        raise KeyboardInterrupt

    monkeypatch.setattr(cost_check, "check_all", some)
    files = [spec("params: 4M", name) for name in ("a.yaml", "b.yaml")]
    code, out, _ = modcalc("check", *files, "--format", "json")
    assert code == 130 and [r["spec"] for r in json.loads(out)["results"]] == [str(files[0])] and json.loads(out)["ok"] is False
    code, out, _ = modcalc("check", *files)
    assert code == 130 and "1 held, 0 broken; interrupted, so further specs were not checked" in out


def test_notes_reach_machines(run, spec) -> None:
    words = (spec("params: {max: 5M}"), "-r", "params >= 6M")
    (told,) = json.loads(run(*words, "--format", "json").stdout)["specs"][0]["notes"]
    assert "cannot both hold" in told
    assert f"::notice file={words[0]},title=modcalc check::{told}" in run(*words, "--format", "github").stdout
    assert ElementTree.fromstring(run(*words, "--format", "junit").stdout).findtext("testsuite/system-out") == told


def test_bytes_in_a_unit_are_the_fraction_that_they_are(run, spec) -> None:
    """16 KiB and a bit: a cache of 16,384 bytes is below it."""
    model = MODEL.replace("n_layers: 4", "n_layers: 1").replace("d_model: 256", "d_model: 8").replace("mod: {capacity: 64}\n", "")
    for bound, code in (("{max: 16.0009KiB}", 0), ("{min: 16.0009KiB}", 1), ("{min: 16KiB}", 0), ("{equals: 16KiB}", 0)):
        path = spec("params: 4M", "b.yaml")
        path.write_text(f"{model}  kv_cache_bytes: {bound}\n")
        assert run(path).returncode == code, bound


def test_rules_that_contradict(run, spec) -> None:
    assert contradictions([Rule("params", "max", 5), Rule("params", "min", 6)])
    assert contradictions([Rule("params", "equals", 100, Fraction(1, 10)), Rule("params", "max", 89)])
    assert not contradictions([Rule("params", "equals", 100, Fraction(1, 10)), Rule("params", "max", 90)])
    assert not contradictions([Rule("params", "max", 5), Rule("params", "min", 6, relative_to="x")])
    for bounds, found in (("min 5, min 10", 0), ("max 5, max 10", 0), ("max 10, max 20, min 15", 1), ("min 15, min 5, max 10", 1)):
        given = (bound.split() for bound in bounds.split(", "))
        assert len(contradictions([Rule("params", bound, int(value)) for bound, value in given])) == found, "the tightest count"
    done = run(spec("params: {max: 5M, min: 6M}"))
    assert done.returncode == 2 and "budget.params" in done.stderr
    done = run(spec("params: {max: 5M}"), "-r", "params >= 6M")
    assert done.returncode == 1 and "1 held, 1 broken" in done.stdout
    assert "params >= 6,000,000 (not from the file) and params <= 5,000,000 (line 11) cannot both hold" in done.stderr


@pytest.mark.parametrize(
    "rule",
    [
        "params",
        "params < 5",
        "params <= 1 <= 2",
        "params <= 1 *",
        "params == 1 within ",
        "parms <= 5",
        "params <= five",
        "params <= 5 within 0.1",
        "params == 5 within x",
        "params <= -1",
        "params <= 1GiB",
    ],
)
def test_rules_that_cannot_be_read(rule: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"rule {rule!r}: ")):
        parse_rule(rule)


def test_values_and_paths_may_have_blanks() -> None:
    rules = {
        "kv_cache_bytes <= 1.5 MiB": Rule("kv_cache_bytes", "max", 3 * 2**19),
        "params<=1.1*sub dir/b.yaml": Rule("params", "max", Fraction(11, 10), relative_to="sub dir/b.yaml"),
        "params <= 1" + " " * 5000 + "* a=b.yaml": Rule("params", "max", 1, relative_to="a=b.yaml"),
        " params == 1 * a b.yaml within 0.01 ": Rule("params", "equals", 1, Fraction(1, 100), "a b.yaml"),
        "kv_cache_bytes == 2 KiB within 0.5": Rule("kv_cache_bytes", "equals", 2048, Fraction(1, 2)),
    }
    assert {text: parse_rule(text) for text in rules} == rules


@pytest.mark.parametrize("rule", ["params >= gpt2", "params >= gpt2 * 1.1"])
def test_another_spec_has_its_factor_in_front(rule: str) -> None:
    with pytest.raises(UsageError, match=r"found 'gpt2'; allowed a number; of another spec, with a factor in front: params >= 1 \* gpt2"):
        parse_rule(rule)


def test_a_schedule_that_is_missing_is_said(run, spec, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(MODEL.replace("train: {batch_size: 8, tokens: 1e9}\n", "") + "  train_flops: 1e18\n  params: 4M\n")
    done = run(path)
    assert done.returncode == 2 and "train.steps or train.tokens" in done.stderr and f"{path}:10" in done.stderr
    done = run("dense-small", "-r", "train_flops <= 1e18", "-r", "params <= 4M")
    assert done.returncode == 2 and "train.steps or train.tokens" in done.stderr and "params <= 4,000,000" in done.stdout
    assert done.stderr.startswith("error: dense-small: train_flops <= ") and "; 1 spec could not be fully evaluated" in done.stdout


def test_rules_that_hold_are_no_problems(run) -> None:
    done = run("dense-small", "-r", "params <= 1", "-r", "active_params >= 2")
    assert done.returncode == 1 and "params <= 1" in done.stderr and "active_params" not in done.stderr


def test_specs_beside_a_config_are_checked_as_well(run, tmp_path: Path, spec) -> None:
    config = (ROOT / "tests" / "data" / "configs" / "gpt2.json").read_text()
    (tmp_path / "config.json").write_text(config)
    assert list(sources([str(tmp_path)])) == [str(tmp_path)]
    broken = spec("params: 10")
    assert list(sources([str(tmp_path)])) == [str(tmp_path / "config.json"), str(broken)]
    assert run(tmp_path).returncode == 1


def test_ratios_of_other_lengths_say_so(run, tmp_path: Path, spec) -> None:
    longer = tmp_path / "longer.yaml"
    longer.write_text(MODEL.partition("budget")[0].replace("seq_len: 512", "seq_len: 1024"))
    rules = [f"{metric} <= 1 * {longer}" for metric in ("forward_flops", "params")]
    found = [check(Costs(load(spec("params: 1e9"))), parse_rule(rule), lambda name: Costs(load(name))) for rule in rules]
    assert [result.detail for result in found] == [f"T = 512 against 1,024 of {longer}", ""]
    assert f"forward_flops: {found[0].detail}" in run(tmp_path / "a.yaml", "-r", rules[0]).stdout


def test_a_rule_that_cannot_be_evaluated_keeps_its_name(run, spec) -> None:
    path = spec("params: 4M")
    path.write_text(path.read_text().replace("train: {batch_size: 8, tokens: 1e9}\n", ""))
    done = run(path, "-r", "train_flops <= 1e25", "-r", "params >= 1", "--format", "plain")
    assert done.returncode == 2 and "1 spec, 3 rules: 2 held, 0 broken, 1 unread" in done.stdout
    assert re.search(r"train_flops <= 10,000,\S+ +- .*UNREAD", done.stdout), done.stdout
    assert "give train.steps or train.tokens in a spec" in done.stderr
    specs = json.loads(run(path, "-r", "train_flops <= 1e25", "--format", "json").stdout)["specs"]
    assert len(specs[0]["unread"]) == 1 and specs[0]["unread"][0].startswith("train_flops <= ")


def test_folders(run, tmp_path: Path, spec, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b.yaml", "deep/c.yml", ".hidden/d.yaml"):
        spec("params: 1e9", name)
    assert [Path(s).name for s in sources([str(tmp_path)])] == ["b.yaml", "c.yml"]
    models = [tmp_path / "deep" / "llama" / "config.json", tmp_path / "zoo" / "config.json", tmp_path / "web" / "config.json"]
    for file, text in zip(models, ['{"model_type": "llama"}', '{"model_type": "lla', '{"port": 80}'], strict=True):
        file.parent.mkdir()
        file.write_text(text)
    assert list(sources([str(tmp_path)]))[1:] == [str(tmp_path / "deep" / "c.yml"), *map(str, models[:2])], "that of no model left out"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run(empty).returncode == 2
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert list(sources(["gpt2"])) == ["gpt2"] and run("gpt2").returncode == 0, "the shipped spec, as for other commands"
    spec("params: 1e9", "gpt2/e.yaml")
    assert list(sources(["gpt2"])) == ["gpt2/e.yaml"]


def test_a_folder_that_cannot_be_listed_is_no_empty_one(tmp_path: Path, spec, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shut").mkdir()
    own = spec("params: 1e9")
    listed = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name == "shut":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert list(sources(["x" * 300])) == ["x" * 300], "nor is a name that no file can have"
    assert list(sources([str(tmp_path)])) == sorted([str(own), str(tmp_path / "shut")])
    assert list(sources([str(tmp_path / "shut")])) == [str(tmp_path / "shut")], "and to load it says why"


def test_counters_must_agree(run, spec) -> None:
    pytest.importorskip("torch")
    done = run(spec("params: 4M"), "--counters", "--format", "json")
    assert done.returncode == 0
    assert sum("counter" in r["rule"] or "by " in r["rule"] for r in json.loads(done.stdout)["results"]) == 2


def test_line_of_each_rule(spec) -> None:
    from modcalc.spec.load import load_with_lines

    model, lines = load_with_lines(spec("params:\n  max: 5M\n  min: 1M\nforward_flops: 3G"))
    assert [(str(r), r.line) for r in rules_of(model, lines.__getitem__)] == [
        ("params <= 5,000,000", 12),
        ("params >= 1,000,000", 13),
        ("forward_flops <= 3,000,000,000", 14),
    ]


def test_the_action_runs(spec, tmp_path: Path) -> None:
    """Runs the shell of action.yml's check step, word for word, with the environment that GitHub would give it."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    step = next(s for s in action["runs"]["steps"] if s.get("name") == "Check budgets")
    for budget, code in (("params: 4M", 0), ("params: 3M", 1)):
        values = {"paths": f"dense-small\n{spec(budget).parent}/*.yaml\n", "require": "params <= 4M\n \t\n", "counters": "false"}
        env = {name: values[expression.split("inputs.")[1].split("}")[0].strip()] for name, expression in step["env"].items()}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", step["run"]], env={**os.environ, **env, "PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "::notice title=modcalc check::2 specs" in done.stdout


def test_the_hook_runs(spec) -> None:
    """pre-commit calls `entry` with the changed files."""
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    program, *rest = hook["entry"].split()
    entry = [str(Path(sys.executable).parent / program), *rest]
    assert subprocess.run([*entry, str(spec("params: 4M"))], capture_output=True, check=False).returncode == 0
    assert subprocess.run([*entry, str(spec("params: 3M"))], capture_output=True, check=False).returncode == 1
