"""`modcalc flops` run in this process, and two small models to run it on."""

import csv
import gc
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from modcalc.cli import app

# The same draws everywhere; `--hypothesis-profile explore` draws anew, which is how to look for what they miss.
with suppress(ImportError):  # the tests of a GPU do without
    from hypothesis import settings

    settings.register_profile("repeat", derandomize=True, deadline=None, database=None)
    settings.register_profile("explore", derandomize=False, deadline=None, database=None)
    settings.load_profile("repeat")

# Workers share the cores: more threads in each would only wait for one another. Read when torch is first imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what runs in the background deaf to Ctrl-C, and so would be the children that tests send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _what_is_there_stays() -> None:
    """Imports and collection stay to the end: a measured point, which collects garbage at every build, need not look through them each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def git(tmp_path: Path) -> Callable[..., None]:
    """git in a new repository in tmp_path."""

    def git(*args: str) -> None:
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *args], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    return git


TINY = """
name: tiny
vocab_size: 50
seq_len: 16
d_model: 32
n_layers: 3
attention: {n_heads: 4, bias: true}
mlp: {d_ff: 64}
"""


class Ran:
    """Exit code, stdout and stderr of a command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> dict:
        return json.loads(self.out)

    @property
    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.out)))


@pytest.fixture
def modcalc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs `modcalc` with some words, in this process: (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["modcalc", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            app.main()
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def flops(monkeypatch: pytest.MonkeyPatch, modcalc):
    """Runs `modcalc flops` with some arguments, in this process."""
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object) -> Ran:
        return Ran(*modcalc("flops", *arguments))

    return run


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def tiny_mod(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-mod.yaml"
    path.write_text(TINY.replace("tiny", "tiny-mod") + "mod: {capacity: 4, predictor_width: 8}\n")
    return path
