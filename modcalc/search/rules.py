"""Which combinations are shapes that anyone would train, and how many each rule leaves out."""

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from modcalc.search.lattice import Chunk

# Rules on what a budget pays or a match misses, which only shapes within the other rules are held to.
ON_RESULTS = ("steps", "tokens per parameter", "relative error")

Band = tuple[Fraction, Fraction] | None

# rule -> the option that changes it
OPTIONS = {
    "heads": "--head-dim or --free d_model",
    "valid spec": "--free or --head-dim",
    "aspect": "--aspect",
    "d_ff ratio": "--ff-ratio",
    "parameters": "--params",
    "tokens per parameter": "the budget or --tokens-per-param",
    "steps": "the budget, --batch or --min-steps",
    "relative error": "--within or --free",
}


@dataclass(frozen=True)
class Rules:
    """Bounds, ends included; None: any. aspect: d_model / n_layers; ff_ratio: d_ff / d_model; params: parameters in all."""

    aspect: Band = None
    ff_ratio: Band = None
    params: Band = None


@dataclass
class Tally:
    """How a search went. broken: rule -> candidates that break it (one may break several)."""

    size: int
    looked: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    interrupted: bool = False
    problem: str = ""

    def worst(self, among: tuple[str, ...] = tuple(OPTIONS)) -> str | None:
        """The rule of `among` that excluded most, or None."""
        counts = {rule: n for rule, n in self.broken.items() if n and rule in among}
        return max(counts, key=lambda rule: counts[rule]) if counts else None


def outside(value: np.ndarray, unit: np.ndarray, bounds: tuple[Fraction, Fraction]) -> np.ndarray:
    """Where value / unit lies outside the bounds; exact, by cross-multiplication, for integers."""
    low, high = bounds
    return (value * low.denominator < unit * low.numerator) | (value * high.denominator > unit * high.numerator)


def broken(chunk: Chunk, rules: Rules, tally: Tally) -> np.ndarray | None:
    """[r, m] where a candidate breaks a rule, counted in the tally; None: no rule is set."""
    masks = {}
    if rules.aspect:
        masks["aspect"] = outside(chunk.d_model, chunk.n_layers, rules.aspect)
    if rules.ff_ratio:
        masks["d_ff ratio"] = outside(chunk.d_ff, chunk.d_model, rules.ff_ratio)
    if rules.params:
        masks["parameters"] = outside(chunk.costs["params"], np.float64(1), rules.params)
    bad = None
    for name, mask in masks.items():
        tally.broken[name] += int(np.count_nonzero(mask)) * (chunk.size // mask.size)
        bad = mask if bad is None else bad | mask
    return bad
