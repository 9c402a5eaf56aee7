"""The two questions: which shapes spend a budget, and which cost as much as another model."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import reduce
from math import isqrt, prod

import numpy as np

from modcalc.errors import UsageError
from modcalc.search.costs import Basis
from modcalc.search.family import KNOBS, Family
from modcalc.search.lattice import Chunk, Lattice
from modcalc.search.results import DROP, OK, Candidate, Exact, Found, candidate, schedule
from modcalc.search.rules import Band, Rules, Tally, broken
from modcalc.search.select import LARGEST, Best

TOKENS_PER_PARAM = 20  # Hoffmann et al. 2022 (arXiv 2203.15556, table 3)
MARKS = (f"{TOKENS_PER_PARAM} tokens per parameter", "sqrt(C/120)")
ROWS, MATCHES = 50, 20  # shown of a plan and of a match
MAX_GROUPS = 10_000
EXACT = 2**51  # below this, sums of integers and their differences to a target are exact in float64

Advance = Callable[[int], None]


def match(
    family: Family,
    axes: dict[str, list],
    target: Exact,
    by: str,
    basis: Basis,
    rules: Rules,
    *,
    within: Fraction,
    prefer: str = "closest",
    per: tuple[str, ...] = (),
    limit: int = MATCHES,
    budget: int | None = None,
    advance: Advance = lambda n: None,
) -> Found:
    """Shapes whose cost `by` (see COSTS) equals `target`, up to the relative difference `within`.

    Those within it come first, by `prefer` and then by closeness; the closest others follow, dropped. per: knobs of which
    each combination of values gives its best shape only. budget: training FLOPs, whose whole steps each shape gets; one that it pays none
    of is dropped. Ties go to the first in the lattice: fewer layers first, then narrower, in the order of the knobs. An interrupt ends
    the search with what was found.
    """
    names = tuple(dict.fromkeys((by, *(("params",) if prefer == "params" or rules.params else ()), *(("train",) if budget else ()))))
    lattice = Lattice(family, axes, basis, names)
    goal, bound = float(target), float(within * target)
    slack = 0.0 if target < EXACT and _integral(by, family, basis) else goal * 1e-12
    if budget:
        # One sequence of a step; where float64 is not exact, the exact count decides on near ties.
        exact = budget < EXACT and _integral("train", family, basis)
        pays = budget // basis.batch if exact else budget / basis.batch * (1 + 1e-12)
    groups = _Groups(lattice, per)
    best = Best(1 if per else limit, groups.n, slack)
    tally = Tally(lattice.size)

    def look(chunk: Chunk) -> None:
        away = np.abs(chunk.costs[by] - goal)
        bad = broken(chunk, rules, tally)
        if bad is not None:
            np.copyto(away, np.inf, where=bad)
        off = {"relative error": away > bound + slack}
        if budget:
            off = {"steps": chunk.costs["train"] > pays, **off}
        dropped = _tallied(off, away <= LARGEST, tally)
        first = None
        if prefer != "closest" or budget:
            size = {"closest": 0.0, "deepest": chunk.n_layers, "widest": chunk.d_model, "params": chunk.costs.get("params")}[prefer]
            first = np.where(dropped, 1.0, -size)
        best.offer(chunk, away, first, groups.of(chunk) if per else None)

    _sweep(lattice, look, tally, advance)
    found = []
    for index in best.top(limit):
        c = candidate(family, lattice.shape(index), basis, by)
        error = Fraction(c.cost - target) / target
        c = replace(c, error=error, schedule=schedule(c.train, budget, basis) if budget else None)
        c = c if abs(error) <= within else c.drop(f"{_percent(error)} from the target")
        found.append((c if c.schedule is None or c.schedule.steps else c.drop("the budget pays no whole step"), index))
    found.sort(key=lambda f: (f[0].status != OK, _preference(f[0], prefer), abs(f[0].error), f[1]))
    if per:  # the exact count has told near ties apart
        first: dict[tuple, tuple[Candidate, int]] = {}
        for c, index in found:
            values = (getattr(c.shape, knob) for knob in per)
            first.setdefault(tuple((v, isinstance(v, float)) for v in values), (c, index))  # a capacity of 1.0 is all tokens, and of 1 one
        found = list(first.values())
    return Found(tuple(c for c, _ in found[:limit]), tally)


def plan(
    family: Family,
    axes: dict[str, list],
    budget: int,
    basis: Basis,
    rules: Rules,
    *,
    within: Fraction,
    ratio: Band = None,
    min_steps: int = 1,
    count: str = "params",
    limit: int = ROWS,
    advance: Advance = lambda n: None,
) -> Found:
    """Shapes, and the whole steps of each that spend `budget` training FLOPs.

    ratio: bounds of tokens per parameter, where `count` (params, active or non_embedding) says which. Steps are rounded down, so no
    plan spends more than the budget. Shown are the `limit` shapes nearest to 20 tokens per parameter, smallest first. Marks:
    `20 tokens per parameter`, the OK row nearest to it in the tokens that the budget pays; `sqrt(C/120)`, the OK row
    nearest to that many parameters: 20 tokens per parameter at 6 FLOPs per parameter and token.
    """
    names = tuple(dict.fromkeys(("train", count, *(("params",) if rules.params else ()))))
    lattice = Lattice(family, axes, basis, names)
    rows, mark = Best(limit), Best(1)
    tally = Tally(lattice.size)
    size, pays, B, T = chinchilla_size(budget), float(budget), basis.batch, basis.seq_len

    def look(chunk: Chunk) -> None:
        train, params = chunk.costs["train"], chunk.costs[count]
        bad = broken(chunk, rules, tally)
        steps = np.floor(pays / (train * B))
        off = {"steps": steps < min_steps}
        if ratio:
            tokens = steps * (B * T)
            off["tokens per parameter"] = (tokens < params * float(ratio[0])) | (tokens > params * float(ratio[1]))
        dropped = _tallied(off, None if bad is None else ~bad, tally)
        x = (pays * T / TOKENS_PER_PARAM) / (train * params)
        far = np.maximum(x, 1 / x)
        if bad is not None:
            np.copyto(far, np.inf, where=bad)
        rows.offer(chunk, far, dropped.astype(float))
        y = params / size
        mark.offer(chunk, np.where(dropped | np.isinf(far), np.inf, np.maximum(y, 1 / y)))

    _sweep(lattice, look, tally, advance)
    found = {}
    for index in {*rows.top(limit), *mark.top(1)}:
        c = candidate(family, lattice.shape(index), basis)
        c = replace(c, schedule=schedule(c.train, budget, basis))
        found[index] = _judged(c, within, ratio, min_steps, count)
    fine = sorted(i for i, c in found.items() if c.status == OK)
    if fine:
        sizes = {i: Fraction(found[i].params.of(count)) for i in fine}
        by_tokens = min(fine, key=lambda i: times_off(found[i].schedule.pays / TOKENS_PER_PARAM / sizes[i]))
        by_size = min(fine, key=lambda i: times_off(sizes[i] / size))
        for i, name in ((by_tokens, MARKS[0]), (by_size, MARKS[1])):
            found[i] = replace(found[i], marks=(*found[i].marks, name))
    order = sorted(found, key=lambda i: (found[i].params.of(count), i))
    return Found(tuple(found[i] for i in order), tally)


def chinchilla_size(budget: int) -> int:
    """Parameters N that 20 N tokens at 6 N FLOPs each spend the budget: C = 6 N x 20 N."""
    return max(1, isqrt(budget // (6 * TOKENS_PER_PARAM)))


def tokens_per_param(c: Candidate, count: str = "params") -> Fraction:
    """Tokens of the schedule's whole steps, for each of the parameters of `count`."""
    return Fraction(c.schedule.tokens) / Fraction(c.params.of(count))


def _integral(by: str, family: Family, basis: Basis) -> bool:
    """Whether float64 bills `by` in integers alone; shares of routed blocks are none, nor means over where kept tokens stand."""
    convention, mod = basis.convention, family.spec.mod
    if by in ("forward", "train"):
        means = mod is not None and mod.keys == "all" and convention.causal not in ("full", "window")
        return not means and all(
            term.basis != "active params" for term in (*convention.forward_terms, *convention.backward_terms, *convention.recompute_terms)
        )
    return by in ("params", "non_embedding") or (by == "kv" and mod is None)


def _judged(c: Candidate, within: Fraction, ratio: Band, min_steps: int, count: str) -> Candidate:
    s = c.schedule
    c = replace(c, error=s.error)
    if s.steps < min_steps:
        c = c.drop(f"{s.steps:,} whole steps, fewer than {min_steps:,}: one costs {float(s.step_flops / Fraction(s.budget)):.3g} times the budget")
    tokens = tokens_per_param(c, count)
    if ratio and not ratio[0] <= tokens <= ratio[1]:
        side = f"fewer than {float(ratio[0]):g}" if tokens < ratio[0] else f"more than {float(ratio[1]):g}"
        c = c.drop(f"{float(tokens):.3g} tokens per parameter, {side}")
    if c.status == OK and abs(s.error) > within:
        c = replace(c, reason=f"within one step, which is {_percent(Fraction(s.step_flops) / s.budget)} of the budget")
    return c


def times_off(x: Fraction) -> Fraction:
    """How many times x is off 1, either way."""
    return max(x, 1 / x)


def _preference(c: Candidate, prefer: str) -> Exact:
    if c.status == DROP or prefer == "closest":
        return 0
    return -{"deepest": c.shape.n_layers, "widest": c.shape.d_model, "params": c.params.total}[prefer]


def _percent(x: Fraction) -> str:
    return f"{abs(float(100 * x)):.3g} %"


def _tallied(off: dict[str, np.ndarray], among: np.ndarray | None, tally: Tally) -> np.ndarray:
    """Where any rule of `off` is broken; each is counted in the tally, among these shapes (None: all)."""
    for rule, mask in off.items():
        tally.broken[rule] += int(np.count_nonzero(mask if among is None else mask & among))
    return reduce(np.logical_or, off.values())


def _sweep(lattice: Lattice, look: Callable[[Chunk], None], tally: Tally, advance: Advance) -> None:
    """Every chunk once; an interrupt ends it and is noted."""
    try:
        for chunk in lattice.chunks():
            look(chunk)
            tally.looked += chunk.size
            advance(chunk.size)
    except KeyboardInterrupt:
        tally.interrupted = True
    tally.broken.update(lattice.excluded)
    tally.problem = lattice.problem


class _Groups:
    """Numbers for the combinations of values of some knobs."""

    def __init__(self, lattice: Lattice, per: tuple[str, ...]) -> None:
        self.knobs = [(lattice.stride[k], len(lattice.axes[k]), k in ("n_layers", "every")) for k in KNOBS if k in per]
        self.n = prod(n for _, n, _ in self.knobs)
        if self.n > MAX_GROUPS:
            raise UsageError(f"--per {','.join(per)}: {self.n:,} combinations; at most {MAX_GROUPS:,} rows can be kept apart")

    def of(self, chunk: Chunk) -> np.ndarray:
        group = np.zeros((1, 1), np.int64)
        for stride, n, row in self.knobs:
            group = group * n + (chunk.row if row else chunk.column) // stride % n
        return np.broadcast_to(group, (chunk.row.size, chunk.column.size))
