"""IsoFLOP slices: tokens against parameters, one curve a budget."""

from math import log
from pathlib import Path

from modcalc.render.isoflop import SIZES
from modcalc.render.plot import amounts, figure, legend_beside, logarithmic, look
from modcalc.search.answers import Answer
from modcalc.search.isoflop import MARKS, TOKENS_PER_PARAM, chinchilla_size
from modcalc.search.results import OK, Candidate

PLATE = dict(facecolor="white", edgecolor="none", alpha=0.8, pad=1)  # under text that lines may cross


def plot_isoflop(target: Path, answer: Answer) -> None:
    """Every OK row as a point, the shape beside it as a hollow one of the same colour; the row that 20 tokens per parameter choose stands out.

    A matched model is a star among the shapes that cost as much. Both axes are logarithmic.
    """
    basis, family = answer.asked.basis, answer.asked.terms.family.spec.name
    what = f"whole steps of {basis.batch:,} x {basis.seq_len:,} tokens; {basis.convention.title}"
    if answer.light or not answer.target:
        what += f"; diamond: the row nearest to {MARKS[0]}"
    if answer.target:
        what += f"; same {answer.target.by} cost as {answer.target.spec.name} within {float(answer.asked.within):g}"
    with figure(target, f"{family}: what a budget trains", what, width=9.0, height=5.5) as axes:
        sizes: list[float] = []
        marked: list[tuple[tuple[float, int], str]] = []
        for i, (budget, found) in enumerate(answer.founds):
            colour, marker = look(i)
            rows = [c for c in found.candidates if c.status == OK and c.schedule]
            beside = [c.matched for c in rows if c.matched and c.matched.status == OK]
            label = f"{float(budget):.3g} FLOPs"
            sizes += _curve(axes, rows, answer, color=colour, marker=marker, linestyle="" if answer.target else "-", label=f"{family}, {label}")
            if answer.light:
                sizes += _curve(
                    axes,
                    beside,
                    answer,
                    color=colour,
                    marker=marker,
                    markerfacecolor="white",
                    linestyle="--",
                    label=f"{answer.light.name}, same forward FLOPs",
                )
            for c in rows:
                if MARKS[0] in c.marks:
                    at = (float(c.params.of(answer.count)), c.schedule.tokens)
                    axes.plot(*at, marker="D", markersize=9, color=colour, markeredgecolor="black")
                    marked.append((at, f"{c.spec.n_layers} x {c.spec.d_model}"))
            if answer.target and answer.target.schedule.steps:
                axes.plot(
                    answer.target.params,
                    answer.target.schedule.tokens,
                    marker="*",
                    markersize=15,
                    color="black",
                    linestyle="",
                    label=answer.target.spec.name,
                )
                sizes.append(float(answer.target.params))
            sizes.append(float(chinchilla_size(budget)))
        if not any(found.ok for _, found in answer.founds):
            axes.text(0.5, 0.5, "no shape is OK", transform=axes.transAxes, ha="center", bbox=PLATE)
        ends = (min(sizes), max(sizes))
        for axis, ticks in zip((axes.xaxis, axes.yaxis), _ticks(ends[1] / ends[0]), strict=True):
            logarithmic(axis, ticks)
        named: list[tuple[float, int]] = []
        span = log(ends[1] / ends[0])
        for at, name in marked:
            if any(abs(log(at[0] / x)) < 0.12 * span and abs(log(at[1] / y)) < 0.06 * span for x, y in named):
                continue  # it would lie on that one's
            named.append(at)
            # Left of it, as budgets fall to the right and tokens per parameter to the left; but not over the scale.
            left = at[0] > ends[0] * (ends[1] / ends[0]) ** 0.1
            style = dict(ha="right" if left else "left", va="center", textcoords="offset points", fontsize=8, bbox=PLATE, zorder=3)
            axes.annotate(name, at, xytext=(-10 if left else 10, -2), **style)
        axes.plot(
            ends, [TOKENS_PER_PARAM * x for x in ends], color="#666666", linewidth=1, linestyle=":", label=f"{TOKENS_PER_PARAM} tokens per parameter"
        )
        amounts(axes.xaxis, SIZES[answer.count])
        axes.tick_params(axis="x", labelsize=8)
        amounts(axes.yaxis, "training tokens")
        legend_beside(axes, fontsize=8)


def _ticks(ratio: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Ticks in each decade of sizes and of tokens, as many as have room where sizes span this ratio."""
    if ratio < 4:
        return (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    if ratio > 1000:
        return (1,), (1,)
    return ((1, 2, 5), (1, 2, 5)) if ratio > 100 else ((1, 2, 3, 5), (1, 1.5, 2, 3, 5, 7))


def _curve(axes: object, rows: list[Candidate], answer: Answer, **style: object) -> list[float]:
    """Points in order of size; returns the sizes."""
    points = sorted((float(c.params.of(answer.count)), c.schedule.tokens) for c in rows)
    if points:
        axes.plot(*zip(*points, strict=True), markersize=5, linewidth=1.2, **style)
    return [size for size, _ in points]
