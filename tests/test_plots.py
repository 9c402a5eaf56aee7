"""Plots: files that are the same each time, axes that can be read, and what cannot be drawn."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from modcalc import account, load
from modcalc.errors import MissingDependency, UsageError
from modcalc.render import plot_breakdown
from modcalc.render.plot import COLOURS, LAYERS, MARKERS, amounts, figure, layer_ticks, look, plot_target
from modcalc.render.plot_bars import parts, stacked
from modcalc.render.wording import Unit


@pytest.mark.parametrize(("file", "says"), [("plot.pdf", ".svg, .png"), ("plot", ".svg, .png"), ("missing/plot.svg", "no folder")])
def test_plots_that_cannot_be_written(file: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        plot_target(tmp_path / file)


def test_a_plot_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependency, match=re.escape("pip install 'modcalc[plot]'")):
        plot_target(tmp_path / "plot.svg")


@pytest.mark.parametrize(("suffix", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_figure_is_the_same_file_each_time(suffix: str, start: bytes, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = []
    for i in range(2):
        target = plot_target(tmp_path / f"{i}.{suffix}")
        with figure(target, "a title", "what was counted") as axes:
            axes.plot([0, 1], [0, 1])
        files.append(target.read_bytes())
    assert files[0] == files[1] and files[0].startswith(start)
    if suffix == "svg":
        assert b"a title" in files[0] and b"what was counted" in files[0]  # text stays text


def test_a_figure_that_fails_leaves_no_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    target = plot_target(tmp_path / "plot.svg")
    with pytest.raises(ZeroDivisionError), figure(target):
        1 / 0  # noqa: B018
    assert not target.exists()


@pytest.mark.parametrize(
    ("ends", "labels"),
    [((2e8, 4e8), {"200 M", "300 M", "400 M"}), ((1e8, 3e9), {"100 M", "1 G"}), ((1e3, 1e12), {"1 M", "1 T"}), ((0.05, 20), {"0.1", "10"})],
)
def test_a_logarithmic_axis_is_labelled_in_suffixes(ends: tuple[float, float], labels: set[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with figure(plot_target(tmp_path / "plot.svg")) as axes:
        axes.set_xscale("log")
        axes.plot(ends, [0, 1])
        amounts(axes.xaxis, "parameters")
    shown = set(re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "plot.svg").read_text()))
    assert labels <= shown and not any("times" in text for text in shown)


def test_dollars_in_a_name_are_dollars(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with figure(plot_target(tmp_path / "plot.svg"), r"m $\foo{$ a") as axes:
        axes.plot([0, 1], [0, 1], label="$x$")
        axes.legend()
    drawn = (tmp_path / "plot.svg").read_text()
    assert r">m $\foo{$ a</text>" in drawn and ">$x$</text>" in drawn


def test_characters_that_the_font_lacks_are_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    for suffix, said in (("png", 1), ("svg", 0)):
        with figure(plot_target(tmp_path / f"plot.{suffix}"), "模型") as axes:
            axes.plot([0, 1], [0, 1])
        assert capsys.readouterr().err.count("the font lacks some characters") == said
    assert "模型" in (tmp_path / "plot.svg").read_text(encoding="utf-8")


def test_bars_say_their_parts_where_there_is_room_and_what_they_are_of_the_first(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with figure(tmp_path / "p.svg") as axes:
        stacked(axes, ["a", "b"], [{"x": 99, "y": 1}, {"x": 50}], {"x": "x", "y": "y"}, str)
    text = (tmp_path / "p.svg").read_text()
    assert text.count(" of the first") == 1 and "50.0 % of the first" in text
    assert ">99.0 %<" in text and ">1.0 %<" not in text


def test_layers_of_a_train_step_are_drawn_with_their_backward_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    drawn = []
    monkeypatch.setattr(plot_breakdown, "parts", lambda axes, sums, *more: drawn.extend(sums) or parts(axes, sums, *more))
    report = account(load("dense-small"), phase="train")
    plot_breakdown.plot_layers(tmp_path / "p.svg", report, Unit(), backward=True)
    assert sum(sum(one.values()) for one in drawn) == report.flops.train_step


def test_lines_are_told_apart_by_colour_first() -> None:
    assert [look(i) for i in (0, 1, len(COLOURS))] == [(COLOURS[0], MARKERS[0]), (COLOURS[1], MARKERS[0]), (COLOURS[0], MARKERS[1])]


def test_of_many_layers_some_are_named() -> None:
    shown: list[str] = []
    axes = SimpleNamespace(set_xticks=lambda places, names: shown.extend(names), set_xlabel=lambda text: None)
    layer_ticks(axes, ["embedding", *(f"blocks.{i}" for i in range(LAYERS)), "head"])
    assert [name for name in shown if name] == ["embedding", *map(str, range(2, LAYERS - 1, 2)), "head"] and len(shown) == LAYERS + 2
