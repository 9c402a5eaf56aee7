"""Families at constant parameters (Petty et al. 2023, arXiv 2310.19956), or at any other constant cost: some knobs vary, one is solved for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import product
from math import lcm, prod

from msgspec import structs

from modcalc.cost.budget import Costs
from modcalc.cost.fits import largest
from modcalc.cost.ops import whole
from modcalc.errors import UsageError
from modcalc.search.costs import COSTS, Basis, cost
from modcalc.search.family import Family, Shape
from modcalc.search.knobs import given, known, parse_values
from modcalc.search.results import DROP, OK, Candidate, Exact, candidate
from modcalc.search.write import equal
from modcalc.spec.schema import MAX_LAYERS, MAX_SIZE, Budget, Spec
from modcalc.spec.validate import find_problems

SOLVABLE = ("n_layers", "d_model", "d_ff")
MAX_MEMBERS = 10_000
FARTHEST = 100  # steps of depth, where the nearest makes no spec


@dataclass(frozen=True)
class Member:
    """One shape of the family. drift: its cost minus the constant, left by rounding; kv_bytes: of one sequence, bf16."""

    candidate: Candidate
    drift: Exact
    kv_bytes: Exact


@dataclass(frozen=True)
class _Held:
    """What every member is asked: n, in `solve` = n steps, whose cost `hold` comes nearest to `target`."""

    family: Family
    solve: str
    hold: str
    target: Exact
    basis: Basis
    step: int
    within: Fraction

    @property
    def largest(self) -> int:
        return MAX_LAYERS if self.solve == "n_layers" else MAX_SIZE

    @property
    def most(self) -> int:
        return self.largest // self.step

    def at(self, shape: Shape, n: int) -> Shape:
        return shape._replace(**{self.solve: n * self.step})

    def cost(self, shape: Shape, n: int) -> Exact:
        return cost(self.family.apply(self.at(shape, n)), self.hold, self.basis)

    def follows(self, shape: Shape) -> bool:
        """Whether the cost of this shape changes with what is solved for: a model of experts alone has no d_ff."""
        return self.cost(shape, 1) != self.cost(shape, 2)

    def member(self, shape: Shape) -> Member:
        if not self.follows(shape):
            return self._of(self._candidate(shape).drop(f"{COSTS[self.hold]} do not change with {self.solve}"))
        n = nearest(partial(self.cost, shape), self.target, self.most)
        c = self._candidate(self.at(shape, n))
        if c.status == DROP and self.solve == "n_layers" and (valid := self._valid(shape, n)):
            return self._of(self._candidate(self.at(shape, valid)))
        if c.status == OK and abs(c.error) > self.within:
            if n == (1 if c.error > 0 else self.most) and 2 * abs(c.cost - self.target) > self.cost(shape, n + 1) - self.cost(shape, n):
                # more than rounding leaves
                c = c.drop(f"even {self.solve} {n * self.step:,} is {'above' if c.error > 0 else 'below'} the target")
            else:
                c = c.drop(f"steps of {self.step:,} in {self.solve} are too coarse for --within {float(self.within):g}")
        return self._of(c)

    def _valid(self, shape: Shape, n: int) -> int | None:
        """Where n layers break a rule of specs (a period of routing does not fit): as many as cost nearest among those that break none, as far
        as costs are near enough.
        """
        found = []
        for steps in (range(n - 1, max(n - FARTHEST, 0), -1), range(n + 1, min(n + FARTHEST, self.most + 1))):
            for other in steps:
                if abs(off := self.cost(shape, other) - self.target) > self.within * self.target:
                    break
                if not find_problems(self.family.apply(self.at(shape, other))):
                    found.append((abs(off), other))
                    break
        return min(found)[1] if found else None

    def _candidate(self, shape: Shape) -> Candidate:
        c = candidate(self.family, shape, self.basis, self.hold)
        return replace(c, error=Fraction(c.cost - self.target) / self.target)

    def _of(self, c: Candidate) -> Member:
        return Member(c, whole(Fraction(c.cost) - self.target), cost(c.spec, "kv", self.basis))


@dataclass(frozen=True)
class Constant(_Held):
    """A family: `hold` (see COSTS) stays at `target` while `vary` goes through its values and `solve` follows, in multiples of `step`."""

    vary: dict[str, list]
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
    known("--solve", solve, SOLVABLE)
    if solve in vary:
        raise UsageError(f"--vary {solve}: it is what --solve looks for; vary another knob")
    family.demand({*vary, solve})
    n = prod(map(len, vary.values()))
    if n > MAX_MEMBERS:
        raise UsageError(f"--vary: {n:,} combinations; at most {MAX_MEMBERS:,}")
    goal = cost(family.spec, hold, basis) if target is None else target
    step = multiple_of or (lcm(family.width_multiple, family.head_multiple) if solve == "d_model" else 1)
    shapes = [family.own._replace(**dict(zip(vary, values, strict=True))) for values in product(*vary.values())]
    held = _Held(family, solve, hold, goal, basis, step, within)
    if held.most < 2:
        raise UsageError(f"--multiple-of {step:,}: {solve} is {held.largest:,} at most, which leaves nothing to choose from")
    if not any(map(held.follows, shapes)):
        raise UsageError(f"--solve {solve}: {COSTS[hold]} do not change with it; solve for another knob or hold another cost")
    return Constant(**vars(held), vary=vary, members=tuple(map(held.member, shapes)))


def parse_vary(texts: list[str]) -> dict[str, list]:
    """n_layers=1,2,4 (or low:high:step) of each text -> values. Raises UsageError."""
    found = given("--vary", texts)
    for name, values in found.items():
        if not values:
            raise UsageError(f"--vary {name}: give values, such as {name}=1,2,4 or {name}=4:40:4")
    return {name: parse_values(name, values) for name, values in found.items()}


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
    low = max(1, min(largest(cost, goal, most), most - 1))
    return min((low, min(low + 1, most)), key=lambda n: (abs(cost(n) - goal), n))
