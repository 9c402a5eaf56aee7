"""FLOPs by component as stacked bars, models beside each other."""

from collections.abc import Sequence
from pathlib import Path

from modcalc.cost.account import Report
from modcalc.render.breakdown import ordered
from modcalc.render.numbers import si
from modcalc.render.plot import amounts, figure
from modcalc.render.plot_bars import stacked
from modcalc.render.wording import LABELS, Unit, headline


def plot_breakdown(target: Path, reports: Sequence[Report], unit: Unit | None = None, *, backward: bool = False) -> None:
    """One bar a model: components that cost something from the bottom up in the order of the tables, the total on top.

    reports: for a Mixture-of-Depths model, itself and its dense twin. backward: the train step instead of the forward pass.
    """
    unit = unit or Unit()
    sums = [
        {line.label: unit.of(line.forward + (line.backward if backward else 0)) for line in ordered(r.lines("component"), "component")}
        for r in reports
    ]
    keys = [c for c in dict.fromkeys(label for one in sums for label in one) if any(one.get(c) for one in sums)]
    keys.sort(key=lambda c: list(LABELS).index(c) if c in LABELS else len(LABELS))
    what = "train step" if backward else "forward pass"
    own_length = len({r.work.seq_len for r in reports}) > 1
    counted = "\n".join(headline(reports[0], unit, own_length=own_length, backward=backward)[:2])
    with figure(target, f"Where the {unit.name} of the {what} go", counted, width=max(7.0, 3.6 + 1.6 * len(reports))) as axes:
        stacked(axes, [r.plan.name for r in reports], sums, {c: LABELS.get(c, c) for c in keys}, si)
        amounts(axes.yaxis, unit.name)
