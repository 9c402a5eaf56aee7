"""Where a step's time goes, drawn: components as stacked bars, layers as a line for each model."""

from collections.abc import Sequence
from typing import Any

from modcalc.measure.records import Result
from modcalc.render.breakdown import in_order
from modcalc.render.numbers import seconds
from modcalc.render.plot import layer_ticks, legend_beside, look
from modcalc.render.plot_bars import parts, stacked
from modcalc.render.points import attributed
from modcalc.render.profile import OWN_LABELS
from modcalc.render.wording import at, varying

FEW = 4  # bars that have room for numbers
Times = list[tuple[str, dict[str, float]]]


def broken_down(records: Sequence[Result]) -> dict[str, Times]:
    """By what (component, layer; paths are too many to draw) -> name of each model and point, and its seconds by label."""
    found: dict[str, Times] = {}
    differ = varying([r.settings for r in records if r.attribution])
    for name, a, r in attributed(records):
        if a.by != "path":
            found.setdefault(a.by, []).append((at(name, r.settings, differ), {line.label: line.time_s for line in a.lines}))
    return found


def draw(axes: Any, by: str, times: Times) -> None:
    """A panel of seconds by component or layer."""
    labels = list(dict.fromkeys(label for _, of in times for label in of))
    (_components if by == "component" else _layers)(axes, labels, times)
    axes.yaxis.set_major_formatter(lambda x, _: seconds(x) if x else "0")
    axes.set_ylabel(f"time of an eager step, by {by}")


def _components(axes: Any, labels: Sequence[str], times: Times) -> None:
    # A results file by another version may have labels that this one does not know: they come last.
    legend = {label: OWN_LABELS.get(label, label) for label in dict.fromkeys((*OWN_LABELS, *labels)) if label in labels}
    names, sums = [name for name, _ in times], [of for _, of in times]
    if len(times) <= FEW:
        stacked(axes, names, sums, legend, seconds)
        axes.tick_params(axis="x", labelsize=8)
    else:
        parts(axes, sums, legend, 0.8)
        axes.set_xticks(range(len(times)), names, rotation=90, fontsize=8)
        legend_beside(axes, reverse=True)


def _layers(axes: Any, labels: Sequence[str], times: Times) -> None:
    labels = in_order(labels, str)
    for i, (name, of) in enumerate(times):
        colour, marker = look(i)
        seconds_of = [of.get(label, float("nan")) for label in labels]
        axes.plot(range(len(labels)), seconds_of, marker=marker, markersize=4, color=colour, label=name)
    layer_ticks(axes, [OWN_LABELS.get(label, label) for label in labels], rotation=90, fontsize=8)
    axes.set_ylim(bottom=0)
    legend_beside(axes)
