"""Where a step's time goes, drawn: components as stacked bars, layers as a line for each model."""

from collections.abc import Sequence
from typing import Any

from modcalc.measure.records import Attribution, Result, Settings
from modcalc.render.breakdown import in_order
from modcalc.render.numbers import seconds
from modcalc.render.plot import COLOURS, legend_beside
from modcalc.render.plot_bars import parts, stacked
from modcalc.render.profile import AXES, OWN_LABELS

FEW = 4  # bars that have room for numbers
Times = list[tuple[str, dict[str, float]]]


def broken_down(records: Sequence[Result]) -> dict[str, Times]:
    """By what (component, layer; paths are too many to draw) -> name of each model and point, and its seconds by label."""
    found: dict[str, list[tuple[Attribution, Settings]]] = {}
    for r in records:
        for a in r.attribution:
            if a.by != "path":
                found.setdefault(a.by, []).append((a, r.settings))
    return {by: [(_name(a, s, [s for _, s in of]), {line.label: line.time_s for line in a.lines}) for a, s in of] for by, of in found.items()}


def _name(a: Attribution, s: Settings, all: Sequence[Settings]) -> str:
    """The model, with those settings in which the points differ."""
    values = [form.format(getattr(s, name)) for name, (_, form) in AXES.items() if len({getattr(other, name) for other in all}) > 1]
    return ", ".join([a.spec, *values])


def draw(axes: Any, by: str, times: Times) -> None:
    """A panel of seconds by component or layer."""
    labels = in_order(list(dict.fromkeys(label for _, of in times for label in of)), str)
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
            axes.plot(places, [of.get(label, float("nan")) for label in labels], marker=".", color=COLOURS[i % len(COLOURS)], label=name)
        axes.set_xticks(places, [label.removeprefix("blocks.") for label in labels], rotation=90 if len(labels) > 12 else 0, fontsize=8)
        axes.set_xlabel("block, by number, and what stands before and after")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8)
    axes.yaxis.set_major_formatter(lambda x, _: seconds(x) if x else "0")
    axes.set_ylabel(f"time of an eager step, by {by}")
