"""FLOPs by component as stacked bars: models beside each other, or the layers of one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from modcalc.cost.account import Report, layer
from modcalc.cost.remarks import is_expectation
from modcalc.render.breakdown import folded, in_order, ordered
from modcalc.render.numbers import si
from modcalc.render.plot import amounts, figure, layer_ticks, legend_beside
from modcalc.render.plot_bars import parts, stacked, with_length
from modcalc.render.wording import LABELS, Unit, headline, varying


def plot_breakdown(target: Path, reports: Sequence[Report], unit: Unit, *, backward: bool = False) -> None:
    """One bar a model: components that cost something from the bottom up in the order of the tables, the total on top.

    reports: for a Mixture-of-Depths model, itself and its dense twin. backward: the train step instead of the forward pass.
    """
    sums = [{line.label: unit.of(line.flops(backward)) for line in ordered(r.lines("component"), "component")} for r in reports]
    differ = varying([r.work for r in reports])
    counted = "\n".join(headline(reports[0], unit, differ=differ, backward=backward)[:2])
    with figure(target, _title(reports, unit, backward), counted, width=max(7.0, 3.6 + 1.6 * len(reports))) as axes:
        names = [with_length(r.plan.name, r.work.seq_len) if differ else r.plan.name for r in reports]
        stacked(axes, names, sums, _components(sums), si)
        amounts(axes.yaxis, unit.name)


def plot_layers(target: Path, report: Report, unit: Unit, twin: Report | None = None, *, backward: bool = False) -> None:
    """One bar a layer, in the order of the model; a line above or across it: the same layer of the dense twin, if there is one."""

    rule = report.convention
    sums: dict[str, Counter[str]] = {}
    for op in report.rows:
        each = unit.of(Fraction(rule.forward(op) + (rule.backward(op) if backward else 0)) / op.repeat)
        for path in op.paths():
            sums.setdefault(layer(path), Counter())[op.component] += each
    names = [name for name in in_order(list(sums), str) if any(sums[name].values())]
    places = range(len(names))
    title = f"{report.plan.name}: {_title([report], unit, backward)}, by layer"
    counted = "\n".join(headline(report, unit, backward=backward)[:2])
    with figure(target, title, counted, width=max(7.0, 4.0 + 0.25 * len(names))) as axes:
        shown = [sums[name] for name in names]
        parts(axes, shown, _components(shown), 0.8)
        tops = [float(sum(one.values())) for one in shown]
        if twin:
            dense = folded({line.label: unit.of(line.flops(backward)) for line in twin.lines("layer")}, report.plan)
            across = [float(dense.get(name, 0)) for name in names]
            axes.hlines(across, [i - 0.4 for i in places], [i + 0.4 for i in places], "black", label="dense twin")
            tops += across
        axes.set_ylim(0, 1.05 * max(tops))
        layer_ticks(axes, names, rotation=90 if len(names) > 12 or max(map(len, names)) > 10 else 0)
        amounts(axes.yaxis, unit.name)
        legend_beside(axes, reverse=True)


def _title(reports: Sequence[Report], unit: Unit, backward: bool) -> str:
    what = "train step" if backward else {"prefill": "prefill", "decode": "decode step"}.get(reports[0].work.phase, "forward pass")
    return f"Where the {'expected ' if any(map(is_expectation, reports)) else ''}{unit.name} of the {what} go"


def _components(sums: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Those that cost something, in the order of the tables -> as readers call them."""
    return {c: name for c, name in LABELS.items() if any(one.get(c) for one in sums)}
