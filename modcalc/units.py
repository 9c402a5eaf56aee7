"""Numbers as people write and read them: the only file that knows suffixes.

Inside modcalc every quantity is in base units: FLOPs, parameters, tokens, bytes, seconds. Counts use powers of 1000
(K, M, B or G, T, P), bytes powers of 1000 (KB, MB, …) or of 1024 (KiB, MiB, …), as the suffix says.
"""

import re
from decimal import Decimal
from fractions import Fraction
from math import isfinite
from operator import index
from typing import Any

from modcalc.errors import UsageError

# Far above any budget (1e26 FLOPs is the largest published), far below what makes arithmetic or printing slow.
MAX_AMOUNT = 10**36

STEPS = ("", "k", "M", "G", "T", "P", "E")
BINARY_STEPS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
PARAM_STEPS = ("", "K", "M", "B", "T")

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "b": 3, "t": 4, "p": 5, "e": 6}
_COUNTS = {s: 1000**p for s, p in _POWERS.items()}
# No bare B: it means billions as often as bytes.
_BYTES = {"": 1} | {f"{s}{i}b": base**p for s, p in _POWERS.items() if s not in ("", "b") for i, base in (("", 1000), ("i", 1024))}
_UNITS = re.compile(r"(flops?|params?|parameters|tokens?)$", re.IGNORECASE)
_NUMBER = re.compile(r"([-+]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:_[0-9]+)*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z]*)")


def parse_count(value: Any, name: str = "value") -> int:
    """FLOPs, parameters or tokens: 6e18, "1.5B", "300G", "291.65 GFLOPs", 124_439_808. At least 1, exact.

    Raises UsageError, which names `name`, for anything else: 0, negative, NaN, 1e400, "12.5%", a size in bytes.
    """
    examples = "6e18, 1.5B or 300G"
    return int(_demand_whole(_amount(value, name, _COUNTS, examples, "counts take K, M, B or G, T, P"), value, name, examples))


def parse_bytes(value: Any, name: str = "value") -> int:
    """A size in bytes: 80GiB, "24 GB", 1e9. At least 1; a fraction of a byte, as in 79.6GiB, is dropped. Raises UsageError as
    `parse_count` does.
    """
    return int(_bytes(value, name))


def parse_ratio(value: Any, name: str = "value") -> Fraction:
    """A positive number without unit: 0.5, "0.5". Exactly the decimal that was written. Raises UsageError as `parse_count` does."""
    return _amount(value, name, {"": 1}, "0.5", "a ratio takes no suffix")


def parse_difference(value: Any, name: str = "value") -> Fraction:
    """A relative difference: 0.001; "0" asks for equality. Raises UsageError as `parse_count` does."""
    zero = isinstance(value, str) and re.fullmatch(r"\s*(0+\.?0*|\.0+)\s*", value)
    return Fraction(0) if zero else parse_ratio(value, name)


def parse_bound(value: Any, metric: str, *, ratio: bool = False, name: str = "value") -> int | Fraction:
    """A bound on a budget's metric: a ratio, bytes for metrics in bytes (7.3GiB as the fraction that it is), else a count. Raises
    UsageError as `parse_count` does.
    """
    parse = parse_ratio if ratio else _bytes if metric.endswith("_bytes") else parse_count
    unit = _UNITS.search(value.strip()) if isinstance(value, str) else None
    if unit and unit[0][0].lower() != ("f" if "flops" in metric else "p"):
        raise UsageError(f"{name}: found {_shown(value)}; allowed what {metric} may be, which is no number of {unit[0].lower()}")
    bound = parse(value, name)
    return int(bound) if bound == int(bound) and not ratio else bound


def _bytes(value: Any, name: str) -> Fraction:
    """A size that is whole, unless it is written in a larger unit."""
    examples, rule = "80GiB, 24GB or 1e9", "bytes take KiB, MiB, GiB, TiB (powers of 1024) or KB, MB, GB, TB (powers of 1000)"
    amount = _amount(value, name, _BYTES, examples, rule)
    in_unit = isinstance(value, str) and value.strip()[-1:].isalpha()
    return amount if in_unit and amount >= 1 else _demand_whole(amount, value, name, examples)


def _demand_whole(amount: Fraction, value: Any, name: str, examples: str) -> Fraction:
    if amount.denominator != 1:
        raise UsageError(f"{name}: found {_shown(value)}; allowed whole numbers, such as {examples}")
    return amount


def _amount(value: Any, name: str, suffixes: dict[str, int], examples: str, rule: str) -> Fraction:
    allowed = f"allowed a positive number up to 1e36, such as {examples}"
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Fraction)):
        raise UsageError(f"{name}: found {_shown(value)}; {allowed}")
    if isinstance(value, float):
        if not isfinite(value):
            raise UsageError(f"{name}: found {value}; {allowed}")
        value = repr(value)
    if isinstance(value, str):
        amount = _parsed(value, suffixes)
        if amount is None:
            raise UsageError(f"{name}: found {_shown(value)}; {allowed}; {rule}")
    else:
        amount = Fraction(value)
    if not 0 < amount <= MAX_AMOUNT:
        raise UsageError(f"{name}: found {_shown(value)}; {allowed}")
    return amount


def _parsed(text: str, suffixes: dict[str, int]) -> Fraction | None:
    """The number in `text`; 0 stands for one that is too large to be worth computing; None: not a number."""
    text = text.strip()
    bare = _UNITS.sub("", text) if "b" in suffixes else text  # of counts
    match = _NUMBER.fullmatch(bare.rstrip()) if len(text) <= 100 else None
    if not match:
        return None
    suffix = match[2].lower()
    if suffix == "e" and bare == text:
        return None  # 1e is an exponent cut short as often as an exa
    if suffix not in suffixes:
        return None
    number = Decimal(match[1].replace("_", "").replace(",", ""))
    if abs(number.adjusted()) > 100:
        return Fraction(0)
    return Fraction(number) * suffixes[suffix]


def _shown(value: Any) -> str:
    """A value in a message, never longer than a line."""
    if isinstance(value, int) and abs(value) > MAX_AMOUNT:
        return f"{value:.3e}" if abs(value) < 10**300 else "a number above 1e300"
    text = str(value) if isinstance(value, Fraction) else repr(value)
    return cut(text)


def cut(text: str) -> str:
    """At most 60 characters of it, for a message."""
    return text if len(text) <= 60 else f"{text[:57]}…"


def _endless(x: Any) -> bool:
    return isinstance(x, float) and not isfinite(x)


def whole_number(n: Any, name: str) -> int:
    """n as an int, which has no largest value, where numpy's would wrap around. Raises UsageError, in the name of `name`, for anything else."""
    try:
        if isinstance(n, bool):
            raise TypeError
        return index(n)
    except TypeError:
        raise UsageError(f"{name} {n!r}: a whole number is needed") from None


def grouped(n: Any) -> str:
    """291,648,307,200. What is not whole is rounded and marked: ~1,235. NaN and infinities have no digits: -."""
    if isinstance(n, int):
        return f"{n:,}"
    if _endless(n):
        return "-"
    return f"{int(n):,}" if n == int(n) else f"~{round(n):,}"


def scaled(x: Any, steps: tuple[str, ...], base: int, joint: str = " ") -> str:
    """x with the largest of `steps` that leaves at least 1, to two decimals: 2.62 G. Below the second step as it is."""
    if _endless(x):
        return "-"
    value, i = Fraction(x), 0
    while round(abs(value), 2) >= base and i < len(steps) - 1:
        value, i = value / base, i + 1
    if i == 0:
        return f"{round(value):,}{joint}{steps[0]}".rstrip()
    # In integers: the largest step has no upper end, and digits must not be lost to it.
    whole = round(value * 100)
    sign, whole = ("-" if whole < 0 else ""), abs(whole)
    return f"{sign}{whole // 100:,}.{whole % 100:02d}{joint}{steps[i]}"


def si(n: Any, unit: str = "") -> str:
    """Powers of 1000: 291.65 GFLOPs, 2.62 G; from 1e21 on 3.14e+23 FLOPs."""
    text = f"{float(n):.2e}" if abs(n) >= 10**21 and not _endless(n) else scaled(n, STEPS, 1000)
    return f"{text}{unit}" if text[-1].isalpha() or not unit else f"{text} {unit}"


def params(n: Any) -> str:
    """Parameters in the field's own suffixes: 124.44M, 6.74B."""
    return scaled(n, PARAM_STEPS, 1000, "")


def binary_bytes(n: Any) -> str:
    """Powers of 1024: 2.00 GiB."""
    return scaled(n, BINARY_STEPS, 1024)


def seconds(s: float) -> str:
    """A time in s, ms, us or ns, three digits: 12.3 ms."""
    if s == 0 or _endless(s):
        return "-" if s else "0 s"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)):
        value = float(f"{s / size:.3g}")
        if abs(value) >= 1 or unit == "ns":
            return f"{value:.3g} {unit}" if abs(value) < 1000 else f"{value:,.0f} {unit}"
    raise AssertionError("ns takes every time")
