"""docs/json.md against the documents that commands really write: no key that it leaves out, none that there is not."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modcalc.cli import app
from modcalc.measure.counters import installed

PAGE = (Path(__file__).parent.parent / "docs" / "json.md").read_text(encoding="utf-8")
TINY = """
name: tiny
vocab_size: 50
seq_len: 16
d_model: 64
n_layers: 4
attention: {n_heads: 4, window: [null, 8]}
mlp: {d_ff: 128}
mod: {capacity: 4, predictor_width: 8}
train: {batch_size: 2, tokens: 100}
budget: {params: 1M}
"""
# Together they show every part of a command's document.
COMMANDS = {
    "flops": [
        "tiny.yaml --count analytic --macs",
        "tiny.yaml --count all --backward",
        "tiny.yaml --count analytic --backward --tokens 1M --gpus 8 --gpu h200 --mfu 0.4",
        "tiny.yaml --count analytic --backward --tokens 1M --device-hours 9 --gpu h200",
        "tiny.yaml --phase decode --context 3 --gpu h200",
    ],
    "conventions": ["tiny.yaml"],
    "memory": ["tiny.yaml --gpu-memory 1GiB", "dense-small --phase decode --context 3"],
    "isoflop": [
        "dense-60m --budget 6e18 --limit 1 --beside mod-60m --free n_layers=10,d_model=512",
        "mod-60m --match dense-60m --free n_layers=10:20,d_model=512:640:64 --limit 1 --within 0.5",
    ],
    "family": ["petty-41m --vary n_layers=1,2"],
    "check": ["tiny.yaml"],
    "diff": ["dense-small mod-small"],
    "specs": [""],
    "profile": ["tiny.yaml --device cpu --mode train --baseline dense --iterations 4 --warmup 1 --by component --peak-tflops 1"],
}
NEEDS_TORCH = {"flops", "profile"}


def documented(command: str) -> set[str]:
    """Keys in the first column of the command's table."""
    section = re.search(rf"^## modcalc {command}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section, f"docs/json.md has no section on {command}"
    cells = re.findall(r"^\| (`.*?`) \| ", section[1], re.MULTILINE)
    return {key for cell in cells for key in re.findall(r"`(.*?)`", cell)}


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of a document; [] stands for each element; an empty section or list is a leaf."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value or [None]:
            yield from leaves(inner, f"{path}[]")
    else:
        yield path


def names(pattern: str, path: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".+"), path) is not None


def is_section_of(path: str, pattern: str) -> bool:
    """Whether `path`, null or empty in a document, is what holds `pattern`."""
    return pattern.startswith((f"{path}.", f"{path}["))


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Paths in all documents that a command's examples write."""
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def run(command: str) -> set[str]:
        found: set[str] = set()
        for arguments in COMMANDS[command]:
            monkeypatch.setattr(sys, "argv", ["modcalc", command, *arguments.split(), "--format", "json"])
            with pytest.raises(SystemExit) as stop:
                app.main()
            out, err = capsys.readouterr()
            assert stop.value.code == 0, err
            document = json.loads(out)
            assert next(iter(document.items())) == ("schema", 1)
            found |= set(leaves(document))
        return found - {"schema"}

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_has_the_keys_that_there_are(command: str, written) -> None:
    if command in NEEDS_TORCH and len(installed()) < 2:
        pytest.skip("needs torch and fvcore")
    said, there = documented(command), written(command)
    assert said
    missing = [path for path in there if not any(names(s, path) or is_section_of(path, s) for s in said)]
    invented = [s for s in said if not any(names(s, path) or is_section_of(path, s) for path in there)]
    assert not missing, f"docs/json.md leaves out {sorted(missing)}"
    assert not invented, f"docs/json.md promises {sorted(invented)}"


def test_every_command_is_on_the_page() -> None:
    """`import` and `schema` write no such document and `results` those of `profile`, which the page says."""
    assert set(COMMANDS) == set(app.COMMANDS) - {"import", "schema", "results"}
    assert all(f"`modcalc {name}` prints" in PAGE for name in ("import", "schema", "results"))
