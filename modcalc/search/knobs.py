"""What the user may vary, in text: `n_layers=4:40:2,d_model=512:2048:64,capacity=0.125,0.25` -> values of each knob."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

from modcalc.errors import UsageError
from modcalc.search.family import KNOBS, Family
from modcalc.spec.near import hint
from modcalc.spec.resolve import up
from modcalc.spec.schema import MAX_LAYERS, MAX_SIZE

MAX_VALUES = 100_000
SYNTAX = "a value, a,b,c, low:high or low:high:step, the ends included"

Values = list[int] | list[float | int]


def parse_free(text: str, family: Family, default: Callable[[str, dict[str, Values]], Values]) -> dict[str, Values]:
    """The values of every knob in `text`, ascending. A knob without `=` takes default(knob, those before it).

    Raises UsageError for an unknown knob (naming the nearest), one that the family does not have, one given twice, and an
    empty or senseless range.
    """
    found: dict[str, Values] = {}
    texts = given("--free", [text])
    family.demand(set(texts))
    for name in (k for k in KNOBS if k in texts):
        if texts[name] is None:
            found[name] = default(name, found)
        elif name in ("d_model", "d_ff") and family.multiple:
            found[name] = _multiples(name, texts[name], family.multiple)
        else:
            found[name] = parse_values(name, texts[name], family.width_multiple if name == "d_model" else 1)
    return found


def stepped(text: str, family: Family) -> bool:
    """Whether widths in `text` say no values, or a range without a step, and so are multiples of what the family asks for."""
    texts = given("--free", [text])
    ranges = ["d_model", *(["d_ff"] if family.multiple else [])]
    bare = any(name in texts and texts[name] is None for name in ("d_model", "d_ff"))
    return bare or any(part.count(":") == 1 for name in ranges for part in _listed(texts.get(name) or ""))


def given(option: str, texts: Iterable[str]) -> dict[str, str | None]:
    """knob -> its values as text, None where it has none. Raises UsageError for an unknown knob and for one given twice."""
    found: dict[str, str | None] = {}
    for part in (part for text in texts for part in _knobs(text)):
        name, equals, values = (p.strip() for p in part.partition("="))
        known(option, name)
        if name in found:
            raise UsageError(f"{option}: {name} is given twice; join its values with commas")
        found[name] = values if equals else None
    return found


def _knobs(text: str) -> list[str]:
    """The parts of `text`, one a knob: what no knob's name can be is a further value of the knob before it."""
    parts: list[str] = []
    for part in text.split(","):
        if parts and "=" in parts[-1] and "=" not in part and not part.strip()[:1].isalpha():
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return parts


def _multiples(knob: str, text: str, multiple: int) -> Values:
    """As `parse_values`, where all must be multiples: a range that names no step begins at the first. Raises UsageError."""
    values = parse_values(knob, text, multiple, multiple)
    if odd := [value for value in values if value % multiple]:
        raise UsageError(f"--free {knob}={text}: {odd[0]:,} is no multiple of {multiple:,}, which --multiple-of asks for")
    return values


def known(option: str, name: str, allowed: Sequence[str] = KNOBS) -> str:
    """`name`, if it is a knob, one of those allowed. Raises UsageError, with the nearest one."""
    if name not in allowed:
        raise UsageError(f"{option}: found {name!r}; allowed knobs are {', '.join(allowed)}{hint(name, allowed)}")
    return name


def parse_values(knob: str, text: str, step: int = 1, multiple: int = 1) -> Values:
    """The values of one knob in `text`, ascending, each once. A range that gives no step has `step`, and begins at a multiple of
    `multiple`. Raises UsageError.
    """
    values: dict[tuple[float, bool], int | float] = {}  # in order of size; a share of 1.0 is another value than 1 token
    for part in _listed(text):
        ends = [number(knob, p) for p in part.split(":")]
        if len(ends) > 3:
            raise UsageError(f"{knob}={part}: give {SYNTAX}")
        if len(ends) == 1:
            ends = [ends[0], ends[0], 1]
        low, high = ends[:2]
        if len(ends) == 2 and knob == "capacity":
            raise UsageError(f"{knob}={part}: a range of capacities needs a step, such as {part}:0.125")
        by = ends[2] if len(ends) == 3 else step
        if low > high or by <= 0:
            raise UsageError(f"{knob}={part}: an empty range; give low:high:step with low <= high and step > 0")
        if len(ends) == 2:
            low = up(checked(knob, low), multiple)
            if low > high:
                raise UsageError(f"{knob}={part}: no multiple of {multiple:,} within it, which --multiple-of asks for")
        n = (high - low) // by + 1
        if n > MAX_VALUES:
            raise UsageError(f"{knob}={part}: {n:,} values; allowed are {MAX_VALUES:,}; take a larger step")
        for i in range(int(n)):
            value = checked(knob, low + i * by)
            values[value, isinstance(value, float)] = value
    return [values[key] for key in sorted(values)]


def _listed(text: str) -> list[str]:
    return text.replace("+", ",").split(",")


def number(knob: str, text: str) -> int | Fraction:
    """An integer, or for capacities also a share (a number with a point)."""
    text = text.strip()
    try:
        if knob == "capacity" and any(c in text for c in ".eE"):
            return decimal(text)
        return int(text)
    except ValueError:
        kind = "a share such as 0.125 or a number of tokens" if knob == "capacity" else "a whole number"
        raise UsageError(f"{knob}: found {text[:40]!r}; allowed {kind}, as {SYNTAX}") from None


def decimal(text: str) -> Fraction:
    """The decimal number in `text`, exactly. Raises ValueError for anything else, and for what is absurdly large or small."""
    found = float(text)  # refuses what Fraction would take, such as 1/3
    if len(text) > 30 or not (found == 0 or 1e-30 < abs(found) < 1e30):
        raise ValueError(text)
    return Fraction(text) if found else Fraction(0)


def checked(knob: str, value: int | Fraction) -> int | float:
    """`value` as a spec holds it. Raises UsageError outside the limits."""
    if isinstance(value, Fraction):
        if not 0 < value <= 1:
            raise UsageError(f"{knob}: found {float(value)!r}; a share is above 0 and at most 1 (a whole number without a point counts tokens)")
        return float(value)
    limit = MAX_LAYERS if knob in ("n_layers", "every") else MAX_SIZE
    if not 1 <= value <= limit:
        share = " tokens, or a share such as 0.125" if knob == "capacity" else ""
        raise UsageError(f"{knob}: found {value}; allowed are 1 to {limit:,}{share}")
    return value


def band(name: str, text: str | None, default: tuple[str, str] | None) -> tuple[Fraction, Fraction] | None:
    """`low:high` as exact bounds; 'none' for no bounds. Raises UsageError for anything else, and for low > high."""
    if text == "none" or text is None and default is None:
        return None
    parts = text.split(":") if text is not None else default
    try:
        low, high = (decimal(p) for p in parts)
    except ValueError:
        raise UsageError(f"{name} {text}: give low:high, such as 32:160, or none") from None
    if not 0 <= low <= high:
        raise UsageError(f"{name} {text}: contradicts itself; low is above high" if low > high else f"{name} {text}: bounds are not negative")
    return low, high
