"""Lines along a setting that was swept: its axis, and the legend below."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from modcalc.render.wording import AXES

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def swept(settings: Sequence[Any]) -> str:
    """The setting that takes most values."""
    return max(AXES, key=lambda name: len({getattr(s, name) for s in settings}))


def along_axis(axes: "Axes", name: str, found: set[int]) -> None:
    """The axis of the setting that was swept, with its values."""
    values = sorted(found)
    if values[0] > 0:
        axes.set_xscale("log", base=2)
    else:  # no tokens cached: logarithmic from the next value on
        axes.set_xscale("symlog", base=2, linthresh=next(iter(values[1:]), 1))
    axes.set_xticks(values, [f"{v:,}" for v in values])
    axes.minorticks_off()
    axes.set_xlabel(AXES[name][0])


def legend_below(axes: "Axes") -> None:
    from matplotlib.transforms import ScaledTranslation

    below_label = axes.transAxes + ScaledTranslation(0, -0.5, axes.figure.dpi_scale_trans)  # inches, however high the axes are
    columns = legend_columns(axes.get_legend_handles_labels()[1])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below_label, frameon=False, ncols=columns, fontsize=8)


def legend_columns(names: Iterable[str]) -> int:
    """Of a legend below one panel, which holds two names of 44 characters."""
    return 1 if max(map(len, names)) > 44 else 2
