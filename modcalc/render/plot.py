"""What every plot shares: where it goes, how it looks, how amounts are labelled. matplotlib is imported here and in plot_*.py only.

    target = plot_target(file)                     # before any work: UsageError, MissingDependency
    with figure(target, "title", "what was counted") as axes:
        axes.plot(x, y, color=COLOURS[0])
        amounts(axes.yaxis, "FLOPs")               # 1.2 T instead of 1.2e12

No display is needed: figures are drawn by Agg (.png) or as text that stays text (.svg).
"""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from modcalc.errors import MissingDependency, UsageError, demand_name
from modcalc.render.numbers import si

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

SUFFIXES = (".svg", ".png")
# Told apart by people who do not see all colours: Okabe & Ito, Color Universal Design (2008), darkest grey added.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#666666")
MARKERS = ("o", "s", "^", "D")
LAYERS = 80  # names on an axis
LIGHT = ("#E69F00", "#56B4E9", "#F0E442")  # text on these is dark
_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "font.size": 10,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a model's name may have dollars
    "svg.hashsalt": "modcalc",  # the same plot is the same file
}


def plot_target(file: str | Path) -> Path:
    """The path to write, checked: its suffix, its folder, and that matplotlib is installed."""
    demand_name("--plot", str(file))
    path = Path(file)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--plot {file}: the suffix says the kind of picture; one of {', '.join(SUFFIXES)}")
    writable(path, "--plot")
    if find_spec("matplotlib") is None:
        raise MissingDependency(f"--plot {file}: matplotlib is not installed; run: pip install 'modcalc[plot]'")
    return path


def writable(path: Path, option: str) -> None:
    """Raises UsageError, in the name of `option`, where no file can be written."""
    if os.path.isdir(path) or not os.path.isdir(path.parent):
        raise UsageError(f"{option} {path}: {'a folder, not a file' if os.path.isdir(path) else f'no folder {path.parent}'}")
    there = os.path.exists(path)
    if there and not os.path.isfile(path):  # a pipe would wait for its reader, a device be replaced
        raise UsageError(f"{option} {path}: is no regular file")
    try:
        path.open("ab").close()
        if not there:
            path.unlink(missing_ok=True)  # another process of a torchrun may try the same
    except OSError as wrong:
        raise UsageError(f"{option} {path}: cannot be written: {wrong.strerror or wrong}") from None


@contextmanager
def figure(
    target: Path, title: str = "", subtitle: str = "", *, width: float = 8.0, height: float = 4.5, grid: tuple[int, int] = (1, 1)
) -> Iterator[Any]:
    """Axes to draw on (an array of them for a grid of rows and columns); if the block ends without an error, `target` is written, and
    stderr told so.

    width, height: inches. title stands above, subtitle (what was counted, by which convention) under it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        drawing = Figure(figsize=(width, height), layout="constrained")
        axes = drawing.subplots(*grid)
        yield axes
        if title:
            drawing.suptitle(title, x=0.01, ha="left", fontweight="bold")
        if subtitle:
            first = axes if grid == (1, 1) else axes.flat[0]
            wrapped = "\n".join(fill(line, int(15 * (width - 1.3))) for line in subtitle.splitlines())
            first.set_title(wrapped, fontsize=8, fontweight="normal", color="#555555")
        kind = target.suffix.lower()[1:]
        metadata = {"Date": None} if kind == "svg" else {}
        try:
            with warnings.catch_warnings(record=True) as found:
                drawing.savefig(target, format=kind, dpi=150, metadata=metadata)
        except OSError as wrong:
            raise UsageError(f"--plot {target}: {wrong.strerror or wrong}") from None
        if kind != "svg" and any("missing from font" in str(w.message) for w in found):
            print(f"warning: {target}: the font lacks some characters of the text; a .svg keeps them", file=sys.stderr)
    print(f"drawn into {target}", file=sys.stderr)


def amounts(axis: "Axis", name: str) -> None:
    """Label an axis `name`, its ticks in k, M, G, T …; on a logarithmic axis over little more than a power of ten, those between as well."""
    from matplotlib.ticker import FuncFormatter, LogFormatter

    class Between(LogFormatter):
        """Decides as its base which ticks have room for a label."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return _short(x) if super().__call__(x, pos) else ""

    axis.set_major_formatter(FuncFormatter(lambda x, _: _short(x)))
    if axis.get_scale() == "log":
        axis.set_minor_formatter(Between(minor_thresholds=(2, 0.4)))
    axis.set_label_text(name)


def layer_ticks(axes: "Axes", names: Sequence[str], **more: Any) -> None:
    """A tick for each layer, at 0, 1, …: blocks by their numbers, of more than LAYERS only some."""
    step = -(-len(names) // LAYERS)
    blocks = [name.removeprefix("blocks.") for name in names]
    ends = [i for i, name in enumerate(blocks) if not name.isdigit()]

    def hidden(i: int) -> bool:
        """Between the steps, or so near to a name that it would lie on it."""
        return step > 1 and i not in ends and (int(blocks[i]) % step > 0 or any(abs(i - end) < step for end in ends))

    shown = ["" if hidden(i) else name for i, name in enumerate(blocks)]
    axes.set_xticks(range(len(names)), shown, **more)
    axes.set_xlabel("block, by number, and what stands before and after")


def look(i: int) -> tuple[str, str]:
    """Colour and marker of line i: when the colours are used up, the next marker."""
    return COLOURS[i % len(COLOURS)], MARKERS[i // len(COLOURS) % len(MARKERS)]


def legend_beside(axes: "Axes", **more: Any) -> None:
    """A legend right of the axes, where it covers nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, **more)


def logarithmic(axis: "Axis", ticks: Sequence[float] = (1, 2, 5)) -> None:
    """A logarithmic axis with these ticks in each decade, so that short ranges have some too."""
    from matplotlib.ticker import LogLocator, NullLocator

    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=ticks))
    axis.set_minor_locator(NullLocator())


def _short(x: float) -> str:
    if abs(x) < 1000:
        return f"{x:g}"
    number, _, suffix = si(x).partition(" ")
    return f"{float(number):g} {suffix}".rstrip() if "e" not in number else number
