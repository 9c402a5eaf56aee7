"""What the user asked, from text to the terms of a search, each rule as a line to print."""

from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

from msgspec import structs

from modcalc.errors import UsageError
from modcalc.search.defaults import GRID_ASPECT, around, ff_band, grid, match_aspect
from modcalc.search.family import Family, Shape
from modcalc.search.knobs import Values, band, parse_free, stepped
from modcalc.search.rules import Band, Rules
from modcalc.spec.resolve import exact, resolve
from modcalc.spec.schema import Spec
from modcalc.units import parse_count


@dataclass(frozen=True)
class Terms:
    """A family, the values of its free knobs, the rules, and all of it in words. stepped: whether some of the widths are multiples that
    --multiple-of sets, rather than values that were given.
    """

    family: Family
    axes: dict[str, Values]
    rules: Rules
    words: tuple[str, ...]
    stepped: bool

    @property
    def size(self) -> int:
        return prod(map(len, self.axes.values()))


def terms(
    spec: Spec,
    *,
    other: Spec | None = None,
    free: str | None = None,
    aspect: str | None = None,
    ff_ratio: str | None = None,
    params: str | None = None,
    multiple_of: int | None = None,
    head_dim: int | None = None,
) -> Terms:
    """The terms of a search over the shapes of `spec`: around `other` where there is one, else over a grid.

    The others are as the options of `modcalc isoflop` give them; None: the default. Raises UsageError.
    """
    family = Family(spec, head_dim, multiple_of)
    centre = None if other is None else Shape(other.n_layers, other.d_model)
    inner = band("--ff-ratio", ff_ratio, ff_band(family))
    values = grid(family, inner) if centre is None else around(family, centre, inner)
    free = free if free is not None else _default_free(family, other)
    axes = parse_free(free, family, values)
    if ff_ratio is not None and "d_ff" not in axes:
        raise UsageError("--ff-ratio: d_ff is not free, so it would change nothing; add d_ff to --free")
    if multiple_of is not None and not {"d_model", "d_ff"} & axes.keys():
        raise UsageError("--multiple-of: neither d_model nor d_ff is free, so it would change nothing; add one to --free")
    fixed = not {"n_layers", "d_model"} & axes.keys()
    rules = Rules(
        band("--aspect", aspect, None if fixed else GRID_ASPECT if centre is None else match_aspect(centre)),
        inner if "d_ff" in axes else None,
        None if params is None else _counts("--params", params),
    )
    words = [f"{knob} {_range(v)}" for knob, v in axes.items()]
    words += family.rules(axes)
    words += [f"d_model / n_layers {shown(rules.aspect)} (--aspect)"]
    words += [f"d_ff / d_model {shown(rules.ff_ratio)} (--ff-ratio)"] if "d_ff" in axes else []
    words += [f"parameters {shown(rules.params)} (--params)"] if rules.params else []
    return Terms(family, axes, rules, tuple(words), stepped(free, family))


def shown(bounds: Band) -> str:
    """low to high, in words."""
    return "any" if bounds is None else f"{_number(bounds[0])} to {_number(bounds[1])}"


def differences(spec: Spec, other: Spec, seq_len: int) -> list[str]:
    """What makes `other` another kind of model than the family of `spec`, and how it counts."""
    lines = []
    if other.vocab_size != spec.vocab_size:
        lines.append(
            f"vocabulary: {other.name} has V = {other.vocab_size:,}, {spec.name} {spec.vocab_size:,}; each is billed with its own "
            "(head 2 T D V FLOPs, tables V D parameters)"
        )
    if other.seq_len != seq_len:
        lines.append(f"sequence: {other.name} is written for T = {other.seq_len:,}; both are billed at T = {seq_len:,} (--seq-len)")
    if other.head.tied != spec.head.tied:
        tied, free = (other.name, spec.name) if other.head.tied else (spec.name, other.name)
        lines.append(f"head: tied in {tied}, a table of its own in {free}: the same FLOPs, more parameters")
    return lines


def at_length(spec: Spec, seq_len: int) -> Spec:
    """The same model for sequences of `seq_len` tokens: a capacity of more tokens, or a multiple, is all of them. Its position table keeps its size.
    Raises UsageError beyond it.
    """
    if spec.seq_len == seq_len:
        return spec
    positions = spec.positions
    if positions.kind == "learned":
        plan = resolve(spec)
        plan.demand_room(seq_len)
        positions = structs.replace(positions, max_len=plan.max_len)

    def kept(capacity: Any) -> Any:
        return [kept(c) for c in capacity] if isinstance(capacity, list) else min(capacity, seq_len) if isinstance(capacity, int) else capacity

    mod = spec.mod and structs.replace(spec.mod, capacity=kept(spec.mod.capacity), multiple_of=min(spec.mod.multiple_of, seq_len))
    return structs.replace(spec, seq_len=seq_len, positions=positions, mod=mod)


def _default_free(family: Family, other: Spec | None) -> str:
    """Depth and width; around another model also d_ff; as far as the family has them."""
    found = []
    for knob in ("n_layers", "d_model") if other is None else ("n_layers", "d_model", "d_ff"):
        try:
            family.demand({knob})
        except UsageError:
            continue
        found.append(knob)
    return ",".join(found)


def _counts(name: str, text: str) -> tuple[Fraction, Fraction]:
    """low:high as parameters: 100M:1.5B."""
    parts = text.split(":")
    if len(parts) != 2:
        raise UsageError(f"{name} {text}: give low:high, such as 100M:1.5B")
    low, high = (Fraction(parse_count(p, name)) for p in parts)
    if low > high:
        raise UsageError(f"{name} {text}: contradicts itself; low is above high")
    return low, high


def _range(values: Values) -> str:
    if len(values) <= 6:
        return ", ".join(str(v) for v in values)  # 1.0 is a share, 1 a number of tokens
    steps = {exact(b) - exact(a) for a, b in zip(values, values[1:], strict=False)}
    return f"{values[0]} to {values[-1]}" + (f" in steps of {_number(steps.pop())}" if len(steps) == 1 else f", {len(values)} values")


def _number(x: Fraction) -> str:
    return f"{x.numerator:,}" if x.denominator == 1 else f"{float(x):g}"
