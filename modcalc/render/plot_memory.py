"""Memory by part as stacked bars, models beside each other."""

from collections.abc import Sequence
from pathlib import Path

from modcalc.cost.memory_report import MemoryReport
from modcalc.render.memory import AGAIN, BACKWARD, OUTSIDE, headline, parts
from modcalc.render.numbers import binary_bytes
from modcalc.render.plot import figure
from modcalc.render.plot_bars import stacked, with_length
from modcalc.render.wording import lengths_differ
from modcalc.units import BINARY_STEPS


def plot_memory(target: Path, reports: Sequence[MemoryReport]) -> None:
    """One bar a model, with its T where lengths differ; a Mixture-of-Depths model alone stands beside its dense twin."""
    differ = lengths_differ(reports)
    shown = [(with_length(r.plan.name, r.work.seq_len) if differ else r.plan.name, r.memory) for r in reports]
    if len(reports) == 1 and reports[0].twin:
        shown = [("dense twin", reports[0].twin), *shown]
    sums = []
    for _, memory in shown:
        one: dict = {}
        for label, value in parts(memory).items():
            key = label.partition(":")[0]  # activations in one
            one[key] = one.get(key, 0) + value
        sums.append(one)
    fixed = ("weights", "gradients", "fp32 weights", "optimizer states", "gathered weights")
    order = (*fixed, "activations", "KV cache", "logits", "logits and loss", AGAIN, BACKWARD, OUTSIDE)
    labels = {key: key for key in order if any(one.get(key) for one in sums)}
    largest = max(sum(one.values()) for one in sums)
    step = max(i for i in range(len(BINARY_STEPS)) if i == 0 or largest >= 1024**i)
    with figure(target, "Where the memory goes", "\n".join(headline(reports)), width=max(7.0, 3.6 + 1.6 * len(shown))) as axes:
        stacked(axes, [name for name, _ in shown], sums, labels, binary_bytes)
        axes.yaxis.set_major_locator(_round_ticks(1024**step))
        axes.yaxis.set_major_formatter(lambda x, _: f"{x / 1024**step:g}")
        axes.set_ylabel(BINARY_STEPS[step])


def _round_ticks(unit: int) -> object:
    """Ticks at round numbers of `unit` bytes."""
    from matplotlib.ticker import MaxNLocator

    class Scaled(MaxNLocator):
        def tick_values(self, vmin: float, vmax: float) -> object:
            return super().tick_values(vmin / unit, vmax / unit) * unit

    return Scaled(nbins=6)
