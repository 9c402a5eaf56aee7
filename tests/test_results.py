"""What README.md and docs/measurements.md show as measured stands in the results that are committed, and these follow from their samples."""

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
README = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Measurements\n")[2].partition("\n## ")[0]
PAGE = (ROOT / "docs" / "measurements.md").read_text(encoding="utf-8")
PLACES = pytest.mark.parametrize(("folder", "text"), [(ROOT, README), (ROOT / "docs", PAGE)], ids=["README", "measurements"])


def rows(text: str) -> list[str]:
    """The rows of every Markdown table, cells stripped, without the lines below the heads."""
    found = ["|".join(cell.strip() for cell in line.split("|")) for line in text.splitlines() if line.startswith("|")]
    return [row for row in found if set(row) - set("|-:")]


def test_there_are_results() -> None:
    assert TIMED and LEARNED and all(len(rows(text)) > 10 for text in (README, PAGE))
    assert set(rows(README)) <= set(rows(PAGE))


@pytest.mark.parametrize("folder", TIMED, ids=lambda folder: folder.name)
def test_a_summary_follows_from_the_samples_beside_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "summary.md").unlink()
    monkeypatch.setattr(sys, "argv", ["summary", str(copy)])
    summary.main()
    assert (copy / "summary.md").read_text(encoding="utf-8") == (folder / "summary.md").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="its statistics.stdev differs in the last digit")
@pytest.mark.parametrize("file", LEARNED, ids=lambda file: file.parent.name)
def test_a_summary_follows_from_its_points(file: Path) -> None:
    held = json.loads(file.read_text(encoding="utf-8"))
    p = Preset(**held["preset"])
    assert p in PRESETS.values(), "the preset has changed since: measure again"
    assert report.summary(p, arms(p), held["points"], held["routing"]) == held["summary"]


@PLACES
def test_the_pages_show_what_was_measured(folder: Path, text: str) -> None:
    measured = {row for folder in TIMED for row in rows((folder / "summary.md").read_text(encoding="utf-8"))}
    for file in LEARNED:
        measured.update(rows(markdown(report.table(json.loads(file.read_text(encoding="utf-8"))["summary"]))))
    for row in rows(text):
        assert row in measured, row


@PLACES
def test_what_the_pages_link_to_is_there(folder: Path, text: str) -> None:
    links = re.findall(r"\(((?:\.\./)?benchmarks/[^)#]*)", text)
    assert links
    for link in links:
        assert (folder / link).exists(), link
