"""What README.md shows as measured stands in the results that are committed, and these follow from their samples."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from benchmarks import summary
from benchmarks.train_mod import report
from benchmarks.train_mod.arms import PRESETS, Preset, arms
from modcalc.render.markup import markdown

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TIMED = sorted(path.parent for path in RESULTS.glob("*/summary.md"))
LEARNED = sorted(RESULTS.glob("*/results.json"))
MEASUREMENTS = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Measurements\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[str]:
    """The rows of every Markdown table, cells stripped, without the lines below the heads."""
    found = ["|".join(cell.strip() for cell in line.split("|")) for line in text.splitlines() if line.startswith("|")]
    return [row for row in found if set(row) - set("|-:")]


def test_there_are_results() -> None:
    assert TIMED and LEARNED and len(rows(MEASUREMENTS)) > 10


@pytest.mark.parametrize("folder", TIMED, ids=lambda folder: folder.name)
def test_a_summary_follows_from_the_samples_beside_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "summary.md").unlink()
    monkeypatch.setattr(sys, "argv", ["summary", str(copy)])
    summary.main()
    assert (copy / "summary.md").read_text(encoding="utf-8") == (folder / "summary.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", LEARNED, ids=lambda file: file.parent.name)
def test_a_summary_follows_from_its_points(file: Path) -> None:
    held = json.loads(file.read_text(encoding="utf-8"))
    p = Preset(**held["preset"])
    assert p in PRESETS.values(), "the preset has changed since: measure again"
    assert report.summary(p, arms(p), held["points"], held["routing"]) == held["summary"]


def test_the_readme_shows_what_was_measured() -> None:
    measured = {row for folder in TIMED for row in rows((folder / "summary.md").read_text(encoding="utf-8"))}
    for file in LEARNED:
        measured.update(rows(markdown(report.table(json.loads(file.read_text(encoding="utf-8"))["summary"]))))
    for row in rows(MEASUREMENTS):
        assert row in measured, row


def test_what_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\((benchmarks/[^)]*)\)", MEASUREMENTS)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
