"""Stacked bars, one a model: what a total is made of."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from textwrap import fill
from typing import Any

from modcalc.render.numbers import share
from modcalc.render.plain import places
from modcalc.render.plot import COLOURS, LIGHT, legend_beside


def stacked(axes: Any, names: Sequence[str], sums: Sequence[Mapping[str, Any]], labels: Mapping[str, str], amount: Callable[[Any], str]) -> None:
    """A bar for each of `names`, its parts from the bottom up in the order of `labels` (key -> legend), the total on top as `amount` writes it."""
    totals = [sum(one.values()) for one in sums]
    for colour, bars in parts(axes, sums, labels, 0.62):
        for bar, total in zip(bars, totals, strict=True):
            height = bar.get_height()
            if height > 0.06 * max(totals):
                at = (bar.get_x() + bar.get_width() / 2, bar.get_y() + height / 2)
                look = dict(fontsize=8, color="black" if colour in LIGHT else "white")
                behind = dict(facecolor=colour, edgecolor="none", pad=1) if bar.get_hatch() else None  # no digits among the stripes
                axes.annotate(share(height / total), at, ha="center", va="center", bbox=behind, **look)
    for i, total in enumerate(totals):
        times = Fraction(total) / Fraction(totals[0])
        relative = "" if not i else f"\n{share(times)} of the first" if times < 2 else f"\n{float(times):,.1f} x the first"
        axes.annotate(
            f"{amount(total)}{relative}", (i, float(total)), xytext=(0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=9
        )
    axes.set_xticks(range(len(sums)), [_folded(name, 24 if len(names) < 5 else 17) for name in names])
    axes.set_ylim(0, 1.15 * float(max(totals)))
    legend_beside(axes, reverse=True)


def _folded(name: str, width: int) -> str:
    """On lines of `width` places, of which wide characters take two."""
    return fill(name, max(1, width * len(name) // max(places(name), 1)))


def with_length(name: str, tokens: int) -> str:
    """A model and the T that it is billed at, with spaces at which no label is broken."""
    return f"{name}, T\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{tokens:,}"


def parts(axes: Any, sums: Sequence[Mapping[str, Any]], labels: Mapping[str, str], width: float) -> list[tuple[str, Any]]:
    """The bars of `stacked` alone, one above the other: (colour, bars) of each part."""
    drawn, bottoms = [], [0.0] * len(sums)
    for i, key in enumerate(labels):
        colour = COLOURS[i % len(COLOURS)]
        style = dict(color=colour, hatch="///" if i >= len(COLOURS) else None, edgecolor="white", linewidth=0)
        heights = [float(one.get(key, 0)) for one in sums]
        drawn.append((colour, axes.bar(range(len(sums)), heights, width, bottom=bottoms, label=labels[key], **style)))
        bottoms = [b + h for b, h in zip(bottoms, heights, strict=True)]
    return drawn
