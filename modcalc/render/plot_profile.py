"""Measured steps drawn: time against the setting that was swept, with the FLOPs, and the roofline."""

from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

from modcalc.measure.hardware import Peak
from modcalc.measure.records import Failed, Measured, Record, Result, Settings
from modcalc.render.numbers import real, seconds
from modcalc.render.plot import amounts, figure, logarithmic, look
from modcalc.render.plot_attribution import FEW, broken_down, draw
from modcalc.render.plot_lines import along_axis, legend_below, legend_columns, swept
from modcalc.render.points import headline, models, point_name
from modcalc.render.wording import AXES, at, varying

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

Lines = dict[str, list[tuple[Settings, Measured]]]


def plot_profile(target: Path, records: Sequence[Record]) -> None:
    """Left: median step time with quartiles (solid) and FLOPs of a step (dashed, right scale). Beside it the roofline, the time ratio
    against the FLOP ratio where there are baselines, and a panel for each breakdown that the records have. Some of them are results.
    """
    done = [r for r in records if not isinstance(r, Failed)]
    lost = ", ".join(point_name(r.spec, r.settings) for r in records if isinstance(r, Failed))
    subtitle = "\n".join([*headline(done), *([f"out of memory: {lost}"] if lost else [])])
    breakdowns = broken_down(done)
    compared = [r for r in done if r.baseline]
    panels = 2 + bool(compared) + len(breakdowns)
    height = 6.5 if any(len(times) > FEW for times in breakdowns.values()) else 5.0  # names of many bars stand upright below them
    along = swept([r.settings for r in done])
    lines = _lines(done, along)
    height += 0.2 * max(0, -(-len(lines) // legend_columns(lines)) - 2)  # legends stand below the axes
    layers = max((len({label for _, of in times for label in of}) for by, times in breakdowns.items() if by == "layer"), default=0)
    width = min(max(6.5, 0.14 * layers), 12.0)
    with figure(target, "Step time and FLOPs", subtitle, width=width * panels, height=height, grid=(1, panels)) as axes:
        _times(axes[0], lines, along)
        _roofline(axes[1], lines, along, done[-1])
        if compared:
            _ratios(axes[2], compared, along)
        for panel, (by, times) in zip(axes[panels - len(breakdowns) :], breakdowns.items(), strict=True):
            draw(panel, by, times)


def _lines(records: Sequence[Result], along: str) -> Lines:
    """Label -> points of one line, in order: of one model, alone or beside one other, that differ in the setting `along` alone."""
    others = varying([r.settings for r in records], but=along)
    found: Lines = {}
    for name, r, measured in models(records):
        found.setdefault(at(name, r.settings, others), []).append((r.settings, measured))
    return {label: sorted(points, key=lambda point: getattr(point[0], along)) for label, points in found.items()}


def _times(axes: "Axes", lines: Lines, name: str) -> None:
    beside = axes.twinx()
    for i, (model, points) in enumerate(lines.items()):
        colour, marker = look(i)
        x = [getattr(s, name) for s, _ in points]
        times = [m.step_time_s for _, m in points]
        spread = [[t.median - t.p25 for t in times], [t.p75 - t.median for t in times]]
        axes.errorbar(x, [t.median for t in times], yerr=spread, color=colour, marker=marker, capsize=3, label=model)
        beside.plot(x, [m.flops.step for _, m in points], color=colour, linestyle="--", marker=".", alpha=0.6)
    along_axis(axes, name, {getattr(s, name) for points in lines.values() for s, _ in points})
    logarithmic(axes.yaxis)
    axes.yaxis.set_major_formatter(lambda x, _: seconds(x))
    axes.set_ylabel("time of a step (solid)")
    logarithmic(beside.yaxis)
    amounts(beside.yaxis, "FLOPs a step (dashed)")
    beside.spines["right"].set_visible(True)
    _same_decades(axes, beside)
    legend_below(axes)


def _ratios(axes: "Axes", compared: Sequence[Result], name: str) -> None:
    """Time ratios with their intervals (solid), and what the FLOPs promise (dashed), at decode also the bytes (dotted)."""
    others = varying([r.settings for r in compared], but=name)
    moved = compared[0].mode == "decode"  # where bytes set the pace
    lines: dict[str, list[Result]] = {}
    for r in compared:
        lines.setdefault(at(f"{r.spec} / {r.baseline.spec}", r.settings, others), []).append(r)
    for i, (label, points) in enumerate(lines.items()):
        colour, marker = look(i)
        points = sorted(points, key=lambda r: getattr(r.settings, name))
        x = [getattr(r.settings, name) for r in points]
        y = [r.baseline.time_ratio for r in points]
        ends = [r.baseline.time_ratio_interval or (r.baseline.time_ratio,) * 2 for r in points]
        spread = [[value - low for value, (low, _) in zip(y, ends, strict=True)], [high - value for value, (_, high) in zip(y, ends, strict=True)]]
        axes.errorbar(x, y, yerr=spread, color=colour, marker=marker, capsize=3, label=label)
        axes.plot(x, [r.baseline.flop_ratio for r in points], color=colour, linestyle="--", marker=".", alpha=0.6)
        if moved:
            axes.plot(x, [r.byte_ratio for r in points], color=colour, linestyle=":", marker=".", alpha=0.6)
    axes.axhline(1.0, color="#999999", linewidth=0.8)
    along_axis(axes, name, {getattr(r.settings, name) for r in compared})
    axes.set_ylabel("time (solid), FLOP (dashed), byte ratio (dotted)" if moved else "time ratio (solid), FLOP ratio (dashed)")
    legend_below(axes)


def _roofline(axes: "Axes", lines: Lines, name: str, last: Result) -> None:
    intensities, rates = [], []
    numbered = len(lines) <= 3 and any(len(points) > 1 for points in lines.values())  # numbers of more would lie on one another
    for i, (model, points) in enumerate(lines.items()):
        x = [m.flops.step / m.step_bytes for _, m in points]
        y = [m.flops.step / m.step_time_s.median for _, m in points]
        intensities, rates = intensities + x, rates + y
        colour, marker = look(i)
        axes.plot(x, y, marker=marker, color=colour, linewidth=0.6, label=model)
        for end in (0, -1) if numbered and len(points) > 1 else ():
            axes.annotate(
                f"{getattr(points[end][0], name):,}",
                (x[end], y[end]),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=colour,
            )
    low, high = min(intensities) / 4, max(intensities) * 4
    for peak, style, label in ((last.peak, "-", "datasheet"), (last.reached, ":", "reached")):
        if peak:
            _roof(axes, peak, low, high, style, f"peak given by {peak.source}" if peak.given else label)
            rates.append(peak.flops_per_s)
    logarithmic(axes.xaxis)
    axes.xaxis.set_major_formatter(lambda x, _: real(x))
    axes.set_xlabel("FLOPs per byte that a step must move")
    if numbered:
        axes.set_title(f"numbers at the ends: {AXES[name][0]}", fontsize=8, fontweight="normal", loc="right")
    logarithmic(axes.yaxis)
    axes.set_ylim(min(rates) / 3, max(rates) * 3)
    if not (last.peak or last.reached):
        axes.set_xlim(low, high)
    amounts(axes.yaxis, "FLOP/s of one device")
    legend_below(axes)


def _same_decades(axes: "Axes", beside: "Axes") -> None:
    """Both scales over as many decades: equal slopes are equal factors."""
    ends = [ax.get_ylim() for ax in (axes, beside)]
    wide = max(sqrt(high / low) for low, high in ends)
    for ax, (low, high) in zip((axes, beside), ends, strict=True):
        middle = sqrt(low * high)
        ax.set_ylim(middle / wide, middle * wide)
        _ticked(ax.yaxis)


def _ticked(axis: "Axis") -> None:
    """Evenly spaced ticks where the range is too short for two of a logarithmic axis."""
    from matplotlib.ticker import AutoLocator

    low, high = axis.get_view_interval()
    if sum(low <= tick <= high for tick in axis.get_majorticklocs()) < 2:
        axis.set_major_locator(AutoLocator())


def _roof(axes: "Axes", peak: Peak, low: float, high: float, style: str, name: str) -> None:
    """min(peak, intensity * bandwidth): flat where the bandwidth is not known."""
    knee = peak.flops_per_s / peak.bytes_per_s if peak.bytes_per_s else low
    x = [min(low, knee), knee, max(high, knee)]
    slope = peak.bytes_per_s or 0.0
    axes.plot(x, [min(peak.flops_per_s, v * slope) if slope else peak.flops_per_s for v in x], style, color="#666666", label=name)
