"""A candidate as it is printed: every number exact, from the account of its own spec."""

from dataclasses import dataclass, replace
from fractions import Fraction

from msgspec import structs

from modcalc.cost.account import Params, account
from modcalc.cost.ops import whole
from modcalc.search.costs import Basis, cost
from modcalc.search.family import Family, Shape
from modcalc.search.rules import ON_RESULTS, Tally
from modcalc.spec.schema import Spec
from modcalc.spec.validate import find_problems

OK, DROP = "OK", "DROP"
Exact = int | Fraction


@dataclass(frozen=True)
class Steps:
    """Whole steps that spend a budget. spent: FLOPs of `steps`; pays: tokens that the budget pays, before rounding."""

    budget: int
    steps: int
    tokens: int
    step_flops: Exact
    spent: Exact
    pays: Fraction

    @property
    def error(self) -> Fraction:
        """(spent - budget) / budget; steps are rounded down, so it is never above 0."""
        return Fraction(self.spent - self.budget) / self.budget


@dataclass(frozen=True)
class Candidate:
    """One shape. forward, train: FLOPs of one sequence; train is forward and backward.

    cost: what was matched, where something was; error: relative difference of it to the target, or of what is spent to the budget.
    """

    spec: Spec
    shape: Shape
    params: Params
    forward: Exact
    train: Exact
    seq_len: int
    status: str = OK
    reason: str = ""
    schedule: Steps | None = None
    cost: Exact | None = None
    error: Fraction | None = None
    marks: tuple[str, ...] = ()
    matched: "Candidate | None" = None

    @property
    def train_per_token(self) -> Exact:
        return whole(Fraction(self.train) / self.seq_len)

    def drop(self, reason: str) -> "Candidate":
        """The same, dropped for one more reason."""
        reasons = [self.reason] if self.reason else []
        return replace(self, status=DROP, reason="; ".join([*reasons, reason]))


@dataclass(frozen=True)
class Found:
    """What a search gives: candidates in order, and how many it looked at."""

    candidates: tuple[Candidate, ...]
    tally: Tally

    @property
    def ok(self) -> bool:
        """Whether any candidate is."""
        return any(c.status == OK for c in self.candidates)

    @property
    def to_blame(self) -> str | None:
        """Where no candidate is OK, the rule that excluded most: of those on results, if any candidate was left to them."""
        if self.ok:
            return None
        return (self.tally.worst(ON_RESULTS) if self.candidates else None) or self.tally.worst()


def candidate(family: Family, shape: Shape, basis: Basis, by: str | None = None) -> Candidate:
    """The exact account of one shape; `by` names the cost to match. A spec that cannot be run is dropped, with the reason."""
    spec = family.apply(shape)
    spec = structs.replace(spec, name=family.name(shape, spec))
    report = account(spec, seq_len=basis.seq_len, convention=basis.convention)
    own = None if by is None else cost(spec, by, basis)
    made = Candidate(spec, shape, report.params, report.flops.forward, report.flops.train_step, basis.seq_len, cost=own)
    problems = find_problems(spec)
    return made.drop("; ".join(map(str, problems))) if problems else made


def schedule(train: Exact, budget: int, basis: Basis) -> Steps:
    """The whole steps of B sequences, `train` FLOPs each, that `budget` FLOPs pay for."""
    step = whole(Fraction(train) * basis.batch)
    steps = int(budget // step)
    tokens = steps * basis.batch * basis.seq_len
    return Steps(budget, steps, tokens, step, whole(step * Fraction(steps)), Fraction(budget * basis.seq_len) / Fraction(train))
