"""Values of free knobs where the user gives none."""

from collections.abc import Callable

from modcalc.search.family import HARDWARE_MULTIPLE, Family, Shape
from modcalc.search.knobs import Values
from modcalc.search.rules import Band
from modcalc.spec.schema import MAX_LAYERS

# Mixture-of-Depths (arXiv 2404.02258, section 4.1) tried 12.5 % to 95 % of the tokens, in every block or every other one.
CAPACITIES = [0.125, 0.25, 0.5, 0.75]
FREQUENCIES = [1, 2]
# d_model / n_layers: 64 to 128 in GPT-3 (arXiv 2005.14165, table 2.1) and 51 to 90 in Chinchilla's table A4 (2203.15556).
GRID_ASPECT = ("48", "128")
# Around another model, for models that depth makes large.
MATCH_ASPECT = (16, 256)
FF_SPREAD = (0.75, 1.25)  # d_ff / d_model, as a multiple of the family's
DEEPEST, WIDEST = 128, 16384
STEP_BATCH = 128


def quarters(multiple: int, most: int) -> list[int]:
    """1 to 7 times `multiple`, then four values an octave, up to `most`."""
    values = [multiple * n for n in range(1, 8)]
    while values[-4] * 2 <= most:
        values.append(values[-4] * 2)
    return [v for v in values if v <= most] or [multiple]


def grid(family: Family, ff_ratio: Band = None) -> Callable[[str, dict[str, Values]], Values]:
    """Depths and widths a quarter of an octave apart: depths in multiples of the routing's period. ff_ratio: what d_ff / d_model may be."""
    mod = family.spec.mod
    period = mod.every if mod and not mod.recursions else 1

    def values(knob: str, before: dict[str, Values]) -> Values:
        if knob == "n_layers":
            return quarters(period, DEEPEST)
        if knob == "d_model":
            return quarters(family.width_multiple, WIDEST)
        return _common(knob, family, before, ff_ratio)

    return values


def around(family: Family, other: Shape, ff_ratio: Band = None) -> Callable[[str, dict[str, Values]], Values]:
    """From half of `other`'s width to twice, from half of its depth to four times: routing may free 7 of 8 FLOPs, best used for depth."""

    def values(knob: str, before: dict[str, Values]) -> Values:
        if knob == "n_layers":
            return list(range(max(1, other.n_layers // 2), min(4 * other.n_layers, MAX_LAYERS) + 1))
        if knob == "d_model":
            return _multiples(family.width_multiple, other.d_model / 2, other.d_model * 2)
        return _common(knob, family, before, ff_ratio)

    return values


def match_aspect(other: Shape) -> tuple[str, str]:
    """The default bounds of d_model / n_layers around `other`, which may be unusual itself."""
    low, high = MATCH_ASPECT
    return str(min(low, other.d_model // other.n_layers)), str(max(high, -(-other.d_model // other.n_layers)))


def ff_band(family: Family) -> tuple[str, str]:
    """The default bounds of d_ff / d_model."""
    low, high = (round(float(family.ff_ratio) * x, 4) for x in FF_SPREAD)
    return str(low), str(high)


def _common(knob: str, family: Family, before: dict[str, Values], ff_ratio: Band) -> Values:
    if knob == "d_ff":
        widths = before.get("d_model", [family.spec.d_model])
        low, high = (float(b) for b in ff_ratio or ff_band(family))
        return _multiples(family.multiple or HARDWARE_MULTIPLE, low * min(widths), high * max(widths))
    return list(CAPACITIES if knob == "capacity" else FREQUENCIES)


def _multiples(step: int, low: float, high: float) -> list[int]:
    """The multiples of `step` in [low, high]; the next one above if there is none."""
    first = max(1, -int(-low // step))
    return [step * n for n in range(first, max(first, int(high // step)) + 1)]
