"""FLOPs by component as stacked bars, models beside each other."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from textwrap import fill

from modcalc.cost.account import Report
from modcalc.render.breakdown import ordered
from modcalc.render.numbers import share, si
from modcalc.render.plot import COLOURS, LIGHT, amounts, figure, legend_beside
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
    totals = [sum(one.values()) for one in sums]
    labels = [c for c in dict.fromkeys(label for one in sums for label in one) if any(one.get(c) for one in sums)]
    labels.sort(key=lambda c: list(LABELS).index(c) if c in LABELS else len(LABELS))
    what = "train step" if backward else "forward pass"
    own_length = len({r.work.seq_len for r in reports}) > 1
    counted = "\n".join(headline(reports[0], unit, own_length=own_length, backward=backward)[:2])
    with figure(target, f"Where the {unit.name} of the {what} go", counted, width=max(7.0, 3.6 + 1.6 * len(reports))) as axes:
        bottoms = [0.0] * len(reports)
        for i, label in enumerate(labels):
            colour = COLOURS[i % len(COLOURS)]
            style = dict(color=colour, hatch="///" if i >= len(COLOURS) else None, edgecolor="white", linewidth=0)
            heights = [float(one.get(label, 0)) for one in sums]
            bars = axes.bar(range(len(reports)), heights, 0.62, bottom=bottoms, label=LABELS.get(label, label), **style)
            for bar, height, bottom, total in zip(bars, heights, bottoms, totals, strict=True):
                if height > 0.06 * max(totals):
                    at = (bar.get_x() + bar.get_width() / 2, bottom + height / 2)
                    axes.annotate(share(height / total), at, ha="center", va="center", fontsize=8, color="black" if colour in LIGHT else "white")
            bottoms = [b + h for b, h in zip(bottoms, heights, strict=True)]
        for i, total in enumerate(totals):
            times = Fraction(total) / Fraction(totals[0])
            relative = "" if not i else f"\n{share(times)} of the first" if times < 2 else f"\n{float(times):,.1f} x the first"
            axes.annotate(f"{si(total)}{relative}", (i, bottoms[i]), xytext=(0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=9)
        axes.set_xticks(range(len(reports)), [fill(r.plan.name, 24) for r in reports])
        axes.set_ylim(0, 1.15 * float(max(totals)))
        amounts(axes.yaxis, unit.name)
        legend_beside(axes, reverse=True)
