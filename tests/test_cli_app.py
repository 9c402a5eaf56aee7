"""The frame of every command: help, version, mistyped names, and failures that nobody foresaw."""

import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest

from modcalc.cli import app, flops, memory, options, profile_options, search_options
from modcalc.cost import tensors
from modcalc.cost.account import LEVELS
from modcalc.cost.workload import ATTENTION, DEVICES, OPTIMIZERS, PHASES, RECOMPUTE
from modcalc.measure import hardware
from modcalc.render.output import FORMATS
from modcalc.search import answers, defaults
from modcalc.search.costs import COSTS


@pytest.fixture
def run(modcalc):
    return modcalc


def test_every_command_is_there_and_described() -> None:
    for name in app.COMMANDS:
        module = import_module(f"modcalc.cli.{name}{'_' if name == 'import' else ''}")
        assert getattr(module, f"{name}_" if name == "import" else name).__doc__


def test_help_lists_the_commands_and_loads_none() -> None:
    code = "import atexit, sys; atexit.register(lambda: print([m for m in sys.modules if m.startswith('modcalc.')], file=sys.stderr))\n"
    code += "sys.argv = ['modcalc', '--help']; from modcalc.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    listed = done.stdout.partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in listed if re.match(r"  \w", line)] == list(app.COMMANDS)
    assert sorted(eval(done.stderr)) == ["modcalc.cli", "modcalc.cli.app", "modcalc.errors"]


def values(annotation: Any) -> set[str]:
    """The strings of the Literal somewhere in an option's type."""
    return set().union(*({part} if isinstance(part, str) else values(part) for part in get_args(annotation)))


def test_help_names_the_values_that_the_code_takes() -> None:
    """Names and defaults stand there as text, for help loads no more than it shows."""
    for said, taken in (
        (options.PhaseName, PHASES),
        (options.Format, FORMATS),
        (options.Recompute, RECOMPUTE),
        (options.AttentionKernel, ATTENTION),
        (memory.Optimizer, OPTIMIZERS),
        (memory.Device, DEVICES),
        (memory.Dtype, tensors.DTYPES),
        (profile_options.Dtype, hardware.DTYPES),
        (flops.By, LEVELS),
        (search_options.CostName, COSTS),
    ):
        assert values(said) == set(taken), said
    grid, match = ":".join(defaults.GRID_ASPECT), "{}:{}".format(*defaults.MATCH_ASPECT)
    for option, said in (
        (search_options.Aspect, f"[default: {grid}; with --match {match},"),
        (search_options.Ratio, f"[default: {':'.join(answers.RATIO)}]"),
        (search_options.StepBatch, f"else {defaults.STEP_BATCH}]"),
        (search_options.Limit, f"[default: the {answers.ROWS} nearest to 20 tokens per parameter; with --match {answers.MATCHES}]"),
    ):
        assert said in get_args(option)[1].help


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["flosp"], "Did you mean flops?"),
        (["qqq"], "There are flops, conventions, "),
        (["--verbose"], "No such option"),
        (["flops", "--seqlen", "3", "gpt2"], "No such option"),
        (["flops"], "Missing argument"),
        (["flops", "gpt2", "--seq-len", "1e4"], "'1e4' is not a valid integer"),
        (["profile", "gpt2", "--seq-len", "8,16"], "'8,16' is not a valid integer. Several values: --sweep seq-len=8,16"),
        (["flops", "gpt2", "--batch", "1" + "0" * 30], "not in the range"),
    ],
)
def test_what_is_mistyped(run, arguments: list[str], said: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and said in err.splitlines()[0]
    assert err.startswith("error: ") and re.fullmatch(r"  options: modcalc( flops| profile)? --help", err.splitlines()[1])


def test_an_option_given_twice_is_not_half_taken(run) -> None:
    for words, said in (
        (("--seq-len", "16", "-T", "32"), "error: --seq-len: given 2 times, and takes one value\n"),
        (("--mod", "capacity=0.5", "--mod", "every=3"), "its pairs are joined by commas: --mod KEY=VALUE,…\n"),
    ):
        code, out, err = run("flops", "gpt2", *words)
        assert (code, out) == (2, "") and err.endswith(said)
    code, out, err = run("flops", "gpt2", "--attention", "fused", "-T", "1", "-T", "2", "--help")
    assert code == 0 and "Usage: " in out
    for words in (("--compile", "--no-compile"), ("--no-compile", "--compile")):
        assert run("profile", "gpt2", *words)[::2] == (2, "error: --compile and --no-compile: they contradict each other; leave one out\n")
    # A flag says the same twice, and some options take several values.
    assert run("flops", "gpt2", "--count", "analytic", "--macs", "--macs")[0] == 0
    assert run("check", "gpt2", "-r", "params <= 1e9", "-r", "params >= 1")[0] == 0


def test_one_thing_has_the_same_names_everywhere(run, tmp_path: Path) -> None:
    """--phase and --mode, --out and -o."""
    assert run("flops", "gpt2", "--mode", "prefill")[1] == run("flops", "gpt2", "--phase", "prefill")[1]
    assert run("memory", "gpt2", "--mode", "prefill")[1] == run("memory", "gpt2", "--phase", "prefill")[1]
    assert "--mode decode: say how many tokens" in run("profile", "gpt2", "--phase", "decode")[2]
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "gpt2"}')
    for i, option in enumerate(("-o", "--out", "--output")):
        assert run("import", config, option, tmp_path / f"{i}.yaml")[0] == 0 and (tmp_path / f"{i}.yaml").is_file()
    assert run("family", "petty-41m", "--vary", "n_layers=1", "-o", tmp_path / "specs")[0] == 0 and (tmp_path / "specs").is_dir()


def test_a_list_where_nothing_is_swept(run) -> None:
    assert run("memory", "gpt2", "--seq-len", "8,16")[2].splitlines()[0].endswith("'8,16' is not a valid integer.")


def test_nothing_asked_shows_the_help(run) -> None:
    code, out, err = run()
    assert (code, out) == (2, "") and err.startswith("Usage: modcalc") and "flops" in err


def test_version(run) -> None:
    code, out, err = run("--version")
    assert (code, err) == (0, "") and out.startswith("modcalc 0.")


COMMAND = [sys.executable, "-m", "modcalc.cli.app", "flops", "llama-2-7b", "--by", "path", "--count", "analytic", "--format", "json"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_one_message() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(COMMAND, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: cannot write: No space left on device\n"


@pytest.mark.skipif(os.name != "posix", reason="closes a stream by a shell")
@pytest.mark.parametrize(("closed", "name"), [(">&-", "llama-2-7b"), ("2>&-", "no-such")])
def test_a_closed_stream_is_as_good_as_a_null_device(closed: str, name: str) -> None:
    command = shlex.join([name if word == "llama-2-7b" else word for word in COMMAND])
    done = subprocess.run(f"{command} {closed}", shell=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert done.returncode == (0 if name == "llama-2-7b" else 2)


def test_a_reader_that_goes_is_no_error() -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "{\n"
        child.stdout.close()  # far more is to come than a pipe holds
        assert child.stderr.read() == ""
    assert child.returncode == 0


def test_what_a_command_does_beside_stdout_is_done_without_a_reader(tmp_path: Path) -> None:
    plot, written = tmp_path / "p.svg", tmp_path / "t.yaml"
    written.write_text("{name: t, vocab_size: 10, seq_len: 8, d_model: 8, n_layers: 1, attention: {n_heads: 1}, mlp: {d_ff: 8}}")
    for words, code in ((("flops", "gpt2", "--count", "analytic", "--plot", plot), 0), (("check", written, "-r", "params <= 1"), 1)):
        ends = os.pipe()
        os.close(ends[0])  # nobody reads
        done = subprocess.run([*COMMAND[: COMMAND.index("flops")], *map(str, words)], stdout=ends[1], stderr=subprocess.PIPE, text=True)
        os.close(ends[1])
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    assert plot.exists()


@pytest.mark.skipif(os.name != "posix", reason="names a device")
def test_what_stderr_cannot_take_changes_nothing() -> None:
    start = COMMAND[: COMMAND.index("flops")]
    with open("/dev/full", "w") as full:
        failed = subprocess.run([*start, "flops", "no-such"], stdout=subprocess.PIPE, stderr=full, text=True)
        done = subprocess.run([*start, "check", "mod-small", "-r", "params <= 1e9"], stdout=subprocess.PIPE, stderr=full, text=True)
    assert (failed.returncode, failed.stdout) == (2, "") and done.returncode == 0 and "2 held" in done.stdout


def test_a_defect_is_one_message_and_with_debug_a_traceback(run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("what")

    monkeypatch.setattr("modcalc.cli.loading.load", broken)
    code, out, err = run("flops", "gpt2", "--count", "analytic")
    assert (code, out) == (2, "") and "ZeroDivisionError: what" in err and "defect of modcalc" in err
    monkeypatch.setattr(sys, "argv", ["modcalc", "flops", "gpt2", "--count", "analytic", "--debug"])
    with pytest.raises(SystemExit) as done:
        app.main()
    assert done.value.code == 2
    assert re.search(r"(?s)^Traceback .*ZeroDivisionError: what\ninternal error: .*report what is printed above", capsys.readouterr().err)


def test_python_m_modcalc(run) -> None:
    done = subprocess.run([sys.executable, "-m", "modcalc", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == run("--version")
