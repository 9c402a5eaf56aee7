"""Raw values -> text: the kinds of cells. Integers stay exact; only Fractions and floats are rounded."""

from math import isfinite
from typing import Any

from modcalc.cost.ops import number
from modcalc.units import binary_bytes, seconds, si
from modcalc.units import grouped as count

UNKNOWN = "-"


def several(n: int, what: str) -> str:
    """1 spec, 2,048 specs."""
    return f"{n:,} {what}{'s' if n != 1 else ''}"


def share(x: Any) -> str:
    """A part of 1 as 12.5 %; a positive one that would print as 0.0 as < 0.1 %."""
    return "< 0.1 %" if 0 < x < 0.0005 else f"{float(100 * x):.1f} %"


def change(x: Any) -> str:
    """A relative difference as +1.71 %; from a factor of ten on without decimals, +1,864 %; no more digits than a float has."""
    if abs(x) >= 10**12:
        return f"{float(100 * x):+.2e} %"
    return f"{float(100 * x):+,.{0 if abs(x) >= 10 else 2}f} %"


def ratio(x: Any) -> str:
    """0.5749, with as many digits as tell neighbours apart; a positive one that would print as 0 as < 0.0001."""
    if 0 < x < 0.00005:
        return "< 0.0001"
    return f"{float(x):.4f}" if abs(x) < 10 else f"{float(x):,.2f}"


def capacity(x: float | int) -> str:
    """A share of the tokens, or a number of them."""
    return share(x) if isinstance(x, float) else several(x, "token")


def interval(ends: tuple[Any, Any]) -> str:
    """Two ratios as 0.5922 to 0.6017."""
    return f"{ratio(ends[0])} to {ratio(ends[1])}"


def real(x: Any) -> str:
    """Four significant digits."""
    return f"{float(x):,.4g}"


KINDS = {
    "text": str, "count": count, "share": share, "change": change, "ratio": ratio, "interval": interval, "capacity": capacity, "real": real,
    "bytes": binary_bytes, "si": si, "seconds": seconds,
}  # fmt: skip


def machine(x: Any) -> Any:
    """A value for csv and json: whole Fractions as int, others as float; nothing infinite."""
    x = number(x)
    return None if isinstance(x, float) and not isfinite(x) else x
