"""Where a step's time goes, drawn: components as stacked bars, layers as a line for each model."""

from collections.abc import Sequence
from typing import Any

from modcalc.measure.records import Result
from modcalc.render.breakdown import in_order
from modcalc.render.numbers import seconds
from modcalc.render.plot import legend_beside, look
from modcalc.render.plot_bars import parts, stacked
from modcalc.render.profile import AXES, OWN_LABELS, varying

FEW = 4  # bars that have room for numbers
Times = list[tuple[str, dict[str, float]]]


def broken_down(records: Sequence[Result]) -> dict[str, Times]:
    """By what (component, layer; paths are too many to draw) -> name of each model and point, and its seconds by label."""
    found: dict[str, Times] = {}
    differ = varying([r.settings for r in records if r.attribution])
    for r in records:
        point = [AXES[name][1].format(getattr(r.settings, name)) for name in differ]
        for a in r.attribution:
            if a.by != "path":
                times = found.setdefault(a.by, [])
                name = ", ".join([a.spec, *point])
                again = " (as baseline)" if times and times[-1][0] == name else ""
                times.append((f"{name}{again}", {line.label: line.time_s for line in a.lines}))
    return found


def draw(axes: Any, by: str, times: Times) -> None:
    """A panel of seconds by component or layer."""
    labels = list(dict.fromkeys(label for _, of in times for label in of))
    order = {label: i for i, label in enumerate(OWN_LABELS)}
    labels = sorted(labels, key=lambda label: order.get(label, len(order))) if by == "component" else in_order(labels, str)
    if by == "component":
        names, sums = [name for name, _ in times], [of for _, of in times]
        legend = {label: OWN_LABELS.get(label, label) for label in labels}
        if len(times) <= FEW:
            stacked(axes, names, sums, legend, seconds)
            axes.tick_params(axis="x", labelsize=8)
        else:
            parts(axes, sums, legend, 0.8)
            axes.set_xticks(range(len(times)), names, rotation=90, fontsize=8)
            legend_beside(axes, reverse=True)
    else:
        places = range(len(labels))
        for i, (name, of) in enumerate(times):
            colour, marker = look(i)
            axes.plot(places, [of.get(label, float("nan")) for label in labels], marker=marker, markersize=4, color=colour, label=name)
        axes.set_xticks(places, [label.removeprefix("blocks.") for label in labels], rotation=90, fontsize=8)
        axes.set_xlabel("block, by number, and what stands before and after")
        axes.set_ylim(bottom=0)
        legend_beside(axes)
    axes.yaxis.set_major_formatter(lambda x, _: seconds(x) if x else "0")
    axes.set_ylabel(f"time of an eager step, by {by}")
