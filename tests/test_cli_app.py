"""The frame of every command: help, version, mistyped names, and failures that nobody foresaw."""

import re
import subprocess
import sys
from importlib import import_module

import pytest

from modcalc.cli import app


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs `modcalc` with some arguments, in this process: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["modcalc", *arguments])
        with pytest.raises(SystemExit) as stop:
            app.main()
        return stop.value.code, *capsys.readouterr()

    return run


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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["flosp"], "Did you mean flops?"),
        (["qqq"], "There are flops, conventions, "),
        (["--verbose"], "No such option"),
        (["flops", "--seqlen", "3", "gpt2"], "No such option"),
        (["flops"], "Missing argument"),
    ],
)
def test_what_is_mistyped(run, arguments: list[str], said: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and said in err


def test_version(run) -> None:
    code, out, err = run("--version")
    assert (code, err) == (0, "") and out.startswith("modcalc 0.")


def test_a_defect_is_one_message_and_with_debug_a_traceback(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("what")

    monkeypatch.setattr("modcalc.spec.load.load", broken)
    code, out, err = run("flops", "gpt2", "--count", "analytic")
    assert (code, out) == (2, "") and "ZeroDivisionError: what" in err and "defect of modcalc" in err
    monkeypatch.setattr(sys, "argv", ["modcalc", "flops", "gpt2", "--count", "analytic", "--debug"])
    with pytest.raises(ZeroDivisionError):
        app.main()
