"""Families at constant parameters (Petty et al. 2023, arXiv 2310.19956), or at any other constant cost: some knobs vary, one is solved for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from math import lcm, prod

from msgspec import structs

from modcalc.cost.budget import Costs
from modcalc.cost.ops import whole
from modcalc.errors import UsageError
from modcalc.search.costs import COSTS, Basis, bill
from modcalc.search.family import Family, Shape
from modcalc.search.knobs import given, known, parse_values
from modcalc.search.results import OK, Candidate, Exact, candidate
from modcalc.search.write import equal
from modcalc.spec.resolve import resolve
from modcalc.spec.schema import MAX_LAYERS, MAX_SIZE, Budget, Spec

SOLVABLE = ("n_layers", "d_model", "d_ff")
MAX_MEMBERS = 10_000


@dataclass(frozen=True)
class Member:
    """One shape of the family. drift: its cost minus the constant, left by rounding; kv_bytes: of one sequence, bf16."""

    candidate: Candidate
    drift: Exact
    kv_bytes: Exact


@dataclass(frozen=True)
class Constant:
    """A family: `hold` (see COSTS) stays at `target` while `vary` goes through its values and `solve` follows, in multiples of `step`."""

    family: Family
    vary: dict[str, list]
    solve: str
    hold: str
    target: Exact
    basis: Basis
    step: int
    within: Fraction
    members: tuple[Member, ...]

    @property
    def found(self) -> bool:
        """Whether any member is one."""
        return any(m.candidate.status == OK for m in self.members)


def constant(
    family: Family,
    vary: dict[str, list],
    solve: str,
    hold: str,
    basis: Basis,
    *,
    target: Exact | None = None,
    multiple_of: int | None = None,
    within: Fraction = Fraction(1, 20),
) -> Constant:
    """The shapes whose cost `hold` comes nearest to `target` (default: the family's own spec's), one for each combination in `vary`;
    what drifts by a larger share of it than `within` is no member.

    Raises UsageError where a knob is not there, stands on both sides, or cannot be solved for.
    """
    if known("--solve", solve) not in SOLVABLE:
        raise UsageError(f"--solve {solve}: allowed {', '.join(SOLVABLE)}: costs grow with them")
    if solve in vary:
        raise UsageError(f"--vary {solve}: it is what --solve looks for; vary another knob")
    family.demand({*vary, solve})
    n = prod(map(len, vary.values()))
    if n > MAX_MEMBERS:
        raise UsageError(f"--vary: {n:,} combinations; at most {MAX_MEMBERS:,}")
    goal = whole(bill(resolve(family.spec, basis.seq_len), (hold,), basis)[hold]) if target is None else target
    step = multiple_of or (lcm(family.width_multiple, family.head_multiple) if solve == "d_model" else 1)
    members = []
    for values in product(*vary.values()):
        shape = family.own._replace(**dict(zip(vary, values, strict=True)))
        members.append(_member(family, shape, solve, hold, goal, basis, step, within))
    return Constant(family, vary, solve, hold, goal, basis, step, within, tuple(members))


def parse_vary(texts: list[str]) -> dict[str, list]:
    """n_layers=1,2,4 (or low:high:step) of each text -> values. Raises UsageError."""
    found = given("--vary", texts)
    for name, values in found.items():
        if not values:
            raise UsageError(f"--vary {name}: give values, such as {name}=1,2,4 or {name}=4:40:4")
    return {name: parse_values(name, values) for name, values in found.items()}


def _member(family: Family, shape: Shape, solve: str, hold: str, goal: Exact, basis: Basis, step: int, within: Fraction) -> Member:
    def cost(n: int) -> Exact:
        spec = family.apply(shape._replace(**{solve: n * step}))
        return whole(bill(resolve(spec, basis.seq_len), (hold,), basis)[hold])

    largest = MAX_LAYERS if solve == "n_layers" else MAX_SIZE
    most = largest // step
    if most < 2:
        raise UsageError(f"--multiple-of {step:,}: {solve} is {largest:,} at most, which leaves nothing to choose from")
    if cost(1) == cost(2):
        raise UsageError(f"--solve {solve}: {COSTS[hold]} do not change with it; solve for another knob or hold another cost")
    n = nearest(cost, goal, most)
    c = candidate(family, shape._replace(**{solve: n * step}), basis, hold)
    drift = whole(Fraction(c.cost) - goal)
    c = replace(c, error=Fraction(drift) / goal)
    if c.status == OK and abs(drift) > within * goal:
        if n == (1 if drift > 0 else most) and 2 * abs(drift) > cost(n + 1) - cost(n):  # more than rounding leaves
            c = c.drop(f"even {solve} {n * step:,} is {'above' if drift > 0 else 'below'} the target")
        else:
            c = c.drop(f"steps of {step:,} in {solve} are too coarse for --within {float(within):g}")
    kv = whole(bill(resolve(c.spec, basis.seq_len), ("kv",), basis)["kv"])
    return Member(c, drift, kv)


def specs_of(family: Constant) -> Iterator[tuple[Candidate, Spec]]:
    """Every OK member with its spec; what it costs is its budget, where `modcalc check` counts so."""
    for m in family.members:
        c = m.candidate
        if c.status == OK:
            limits = equal(family.hold, c.cost, Fraction(0), family.basis, Costs(c.spec).batch_size)
            text = f"{COSTS[family.hold]}: {c.cost}, near {family.target}; a shape of {family.family.spec.name}"
            yield c, structs.replace(c.spec, description=text, budget=Budget(**limits) if limits else None)


def nearest(cost: Callable[[int], Exact], goal: Exact, most: int) -> int:
    """The n in 1 … most whose cost is nearest to `goal`, the smaller of two; cost does not fall with n."""
    low, high = 1, 2
    while high < most and cost(high) <= goal:
        low, high = high, 2 * high
    high = min(high, most)
    while high - low > 1:  # cost(low) <= goal, unless low is 1
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= goal else (low, middle)
    return min((low, high), key=lambda n: (abs(cost(n) - goal), n))
