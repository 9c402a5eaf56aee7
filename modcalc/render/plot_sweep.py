"""Accounts drawn along a setting that was swept: FLOPs, how long a step takes at least, and both as ratios."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modcalc.cost.account import Report
from modcalc.cost.remarks import is_expectation
from modcalc.cost.roofline import Roof, roofline
from modcalc.render.comparison import Row, differing, over
from modcalc.render.numbers import seconds
from modcalc.render.plot import amounts, figure, logarithmic, look
from modcalc.render.plot_lines import along_axis, legend_below, legend_columns, swept
from modcalc.render.wording import Unit, at, headline, varying

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Lines = dict[str, list[Row]]


def plot_sweep(target: Path, rows: Sequence[Row], unit: Unit, roof: Roof | None, *, backward: bool = False) -> None:
    """FLOPs of a step; with `roof` the least time of one; where rows have bases, the ratios to these. Of one model, its dense twin is dashed."""
    works = [row.report.work for row in rows]
    along = swept(works)
    others = varying(works, but=along)
    lines: Lines = {}
    for row in sorted(rows, key=lambda row: getattr(row.report.work, along)):
        lines.setdefault(at(row.report.plan.name, row.report.work, others), []).append(row)
    ratios = {label: of for label, of in lines.items() if of[0].base not in (None, of[0].report)}
    panels = 1 + bool(roof) + bool(ratios)
    height = 4.5 + 0.2 * (-(-2 * len(lines) // legend_columns(lines)))  # legends stand below the axes

    def flops(report: Report) -> float:
        return float(unit.of(report.flops.of(backward)))

    def step_s(report: Report) -> float:
        return roofline(report, roof, backward=backward).step_s

    title = f"{unit.name} {'and time ' if roof else ''}of a step"
    counted = headline(rows[0].report, unit, differ=differing(rows), backward=backward)[:2]
    if roof:
        rates = f"{roof.flops_per_s / 1e12:,g} TFLOP/s and {roof.bytes_per_s / 1e9:,g} GB/s"
        counted.append(f"least time: by the roofline of {roof.device or 'a device'} in bf16, {rates} ({roof.source})")
    with figure(target, title, "\n".join(counted), width=6.5 * panels, height=height, grid=(1, panels)) as grid:
        first, *more = grid.flat if panels > 1 else [grid]
        _costs(first, lines, flops, along)
        amounts(first.yaxis, f"{'expected ' if any(is_expectation(row.report) for row in rows) else ''}{unit.name} of a step")
        if roof:
            _costs(more[0], lines, step_s, along)
            more[0].yaxis.set_major_formatter(lambda x, _: seconds(x))
            more[0].set_ylabel("least time of a step")
        if ratios:
            _ratios(more[-1], lines, ratios, flops, step_s if roof else None, along, over(rows))


def _costs(axes: "Axes", lines: Lines, cost: Callable[[Report], float], along: str) -> None:
    """Every line, and of one model the dense twin's."""
    for i, (label, rows) in enumerate(lines.items()):
        colour, marker = look(i)
        x = [getattr(row.report.work, along) for row in rows]
        axes.plot(x, [cost(row.report) for row in rows], color=colour, marker=marker, label=label)
        if rows[0].base and not rows[0].model:
            axes.plot(x, [cost(row.base) for row in rows], color=colour, marker=".", linestyle="--", label=f"{label}: dense twin")
    _along(axes, lines, along)
    logarithmic(axes.yaxis)


def _ratios(
    axes: "Axes", lines: Lines, ratios: Lines, flops: Callable[[Report], float], step_s: Callable[[Report], float] | None, along: str, whose: str
) -> None:
    """Ratios of FLOPs, dashed where those of times are drawn too; every line in its colour of the other panels."""
    for i, (label, rows) in enumerate(lines.items()):
        if label not in ratios:
            continue
        colour, marker = look(i)
        x = [getattr(row.report.work, along) for row in rows]
        for cost, what in ((step_s, "time"), (flops, "FLOPs")) if step_s else ((flops, "FLOPs"),):
            style = dict(linestyle="--", marker=".") if step_s and cost is flops else dict(marker=marker)
            axes.plot(x, [cost(row.report) / cost(row.base) for row in rows], color=colour, label=f"{label}: {what}", **style)
    axes.axhline(1.0, color="#999999", linewidth=0.8)
    _along(axes, lines, along)
    axes.set_ylabel(f"ratio to {whose}")


def _along(axes: "Axes", lines: Lines, along: str) -> None:
    along_axis(axes, along, {getattr(row.report.work, along) for rows in lines.values() for row in rows})
    legend_below(axes)
