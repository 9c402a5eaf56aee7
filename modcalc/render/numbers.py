"""Raw values -> text. Integers stay exact; only Fractions and floats are rounded."""

from fractions import Fraction
from math import isfinite
from typing import Any

UNKNOWN = "-"
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_POWERS = ("", "k", "M", "G", "T", "P", "E")


def count(n: Any) -> str:
    """1,234,567. A Fraction or float that is not whole is rounded and marked: ~1,234,568."""
    if isinstance(n, int):
        return f"{n:,}"
    if isinstance(n, float) and not isfinite(n):
        return UNKNOWN
    return f"{int(n):,}" if n == int(n) else f"~{round(n):,}"


def share(x: Any) -> str:
    """A part of 1 as 12.5 %; a positive one that would print as 0.0 as < 0.1 %."""
    return "< 0.1 %" if 0 < x < 0.0005 else f"{float(100 * x):.1f} %"


def change(x: Any) -> str:
    """A relative difference as +1.71 %."""
    return f"{float(100 * x):+.2f} %"


def ratio(x: Any) -> str:
    """0.5749, with as many digits as tell neighbours apart."""
    return f"{float(x):.4f}" if abs(x) < 10 else f"{float(x):,.2f}"


def real(x: Any) -> str:
    """Four significant digits."""
    return f"{float(x):,.4g}"


def scaled(x: Any, steps: tuple[str, ...], base: int) -> str:
    """x with the largest suffix of `steps` that leaves at least 1, in three or four digits."""
    value, i = Fraction(x), 0
    while abs(value) >= base and i < len(steps) - 1:
        value, i = value / base, i + 1
    number = f"{float(value):.2f}" if i else count(x)
    return f"{number} {steps[i]}".rstrip()


def binary_bytes(n: Any) -> str:
    """13.48 GiB, powers of 1024."""
    return scaled(n, _BYTES, 1024)


def si(n: Any) -> str:
    """2.62 G, powers of 1000."""
    return f"{float(n):.2e}" if abs(n) >= 10**21 else scaled(n, _POWERS, 1000)


def seconds(s: float) -> str:
    """A time in s, ms or us."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if abs(s) >= size or unit == "us":
            return f"{s / size:.3g} {unit}" if abs(s / size) < 1000 else f"{s / size:,.0f} {unit}"
    return UNKNOWN


KINDS = {
    "text": str, "count": count, "share": share, "change": change, "ratio": ratio, "real": real, "bytes": binary_bytes, "si": si, "seconds": seconds,
}  # fmt: skip


def machine(x: Any) -> Any:
    """A value for csv and json: whole Fractions as int, others as float; nothing infinite; numpy scalars as Python's."""
    if isinstance(x, Fraction):
        return x.numerator if x.denominator == 1 else float(x)
    if isinstance(x, float):
        return x if isfinite(x) else None
    if x is None or isinstance(x, (int, str)):
        return x
    return machine(x.item())
