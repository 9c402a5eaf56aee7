"""A whole answer: one search for each budget, or one around another model, with everything that a report says about it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod

from modcalc.cost.account import account
from modcalc.errors import UsageError
from modcalc.search.costs import Basis, cost
from modcalc.search.family import KNOBS
from modcalc.search.isoflop import MATCHES, MAX_GROUPS, ROWS, Advance, match, plan
from modcalc.search.knobs import band, known
from modcalc.search.question import Terms, at_length, differences, shown, terms
from modcalc.search.results import OK, Exact, Found, Steps, schedule
from modcalc.search.rules import Band
from modcalc.spec.schema import Spec

RATIO = ("1", "400")  # tokens per parameter: sizes from a 4.5th of sqrt(C/120) to 4.5 times it

Progress = Callable[[str, int], AbstractContextManager[Advance]]


@dataclass(frozen=True)
class Asked:
    """The question. within: relative difference; prefer, per, limit: None for the defaults. paid: what the budget comes from, in words."""

    terms: Terms
    basis: Basis
    within: Fraction
    budgets: tuple[int, ...] = ()
    prefer: str | None = None
    per: str | None = None
    limit: int | None = None
    paid: str | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """Its rules, each as a line to print."""
        return (*([self.paid] if self.paid else []), *self.terms.words)


@dataclass(frozen=True)
class Target:
    """The model that was matched. cost: its `by`; forward, train: FLOPs of one sequence; schedule: what a budget pays for it."""

    spec: Spec
    by: str
    cost: Exact
    params: int
    forward: Exact
    train: Exact
    schedule: Steps | None


@dataclass(frozen=True)
class Answer:
    """founds: what each budget (None: no budget) gave. count: the parameters in tokens per parameter."""

    asked: Asked
    founds: tuple[tuple[int | None, Found], ...]
    rules: tuple[str, ...]
    notes: tuple[str, ...] = ()
    target: Target | None = None
    count: str = "params"
    light: Spec | None = None

    @property
    def interrupted(self) -> bool:
        return any(found.tally.interrupted for _, found in self.founds)


def matched(asked: Asked, other: Spec, by: str, progress: Progress) -> Answer:
    """Shapes of the family that cost as much as `other`, billed for as many tokens."""
    family, basis = asked.terms.family, asked.basis
    there = at_length(other, basis.seq_len)
    budget = asked.budgets[0] if asked.budgets else None
    report = account(there, convention=basis.convention)
    train = report.flops.train_step
    target = Target(
        there, by, cost(there, by, basis), report.params.total, report.flops.forward, train,
        schedule(train, budget, basis) if budget else None,
    )  # fmt: skip
    prefer = asked.prefer or preference(family.spec)
    per = knobs_apart(asked.per, prefer, asked.terms)
    with progress(f"searching {asked.terms.size:,} shapes", asked.terms.size) as advance:
        found = match(
            family, asked.terms.axes, target.cost, by, basis, asked.terms.rules,
            within=asked.within, prefer=prefer, per=per, limit=asked.limit or MATCHES, budget=budget, advance=advance,
        )  # fmt: skip
    order = f"{'most parameters' if prefer == 'params' else prefer} first" + (f", the best of each {' x '.join(per)}" if per else "")
    words = (*asked.words, f"within {percent(asked.within)} of the target (--within), {order} (--prefer, --per)")
    return Answer(asked, ((budget, found),), words, tuple(differences(family.spec, other, basis.seq_len)), target)


def planned(asked: Asked, light: Spec | None, ratio: str | None, count: str, min_steps: int, progress: Progress) -> Answer:
    """Shapes, tokens and steps that spend each budget; with `light`, the shape of that family beside each one."""
    bounds: Band = band("--tokens-per-param", ratio, RATIO)
    founds = []
    for budget in asked.budgets:
        with progress(f"searching {asked.terms.size:,} shapes for {float(budget):.3g} FLOPs", asked.terms.size) as advance:
            found = plan(
                asked.terms.family, asked.terms.axes, budget, asked.basis, asked.terms.rules,
                within=asked.within, ratio=bounds, min_steps=min_steps, count=count, limit=asked.limit or ROWS, advance=advance,
            )  # fmt: skip
        if light is not None and not found.tally.interrupted:
            found = _with_light(found, light, asked, budget)
        founds.append((budget, found))
        if found.tally.interrupted:
            break
    words = [*asked.words, f"tokens per parameter {shown(bounds)} (--tokens-per-param; {COUNTED[count]}, --count)"]
    words += [f"at least {min_steps:,} whole {'step' if min_steps == 1 else 'steps'} (--min-steps)"]
    notes = () if light is None else tuple(differences(asked.terms.family.spec, light, asked.basis.seq_len))
    return Answer(asked, tuple(founds), tuple(words), notes, count=count, light=light)


COUNTED = {"params": "all parameters", "active": "active parameters", "non_embedding": "parameters outside the tables of vocabulary and positions"}


def preference(spec: Spec) -> str:
    """Depth is the better use of FLOPs that routing frees (Mixture-of-Depths, arXiv 2404.02258, section 4.1)."""
    return "deepest" if spec.mod else "closest"


def knobs_apart(text: str | None, prefer: str, scope: Terms) -> tuple[str, ...]:
    """The knobs of `--per`, by default those that `prefer` orders, and what routing has free. Raises UsageError."""
    if text == "none":
        return ()
    if text is None:
        first = {"deepest": "n_layers", "widest": "d_model"}.get(prefer)
        apart = [k for k in KNOBS if first and k in scope.axes and k in (first, "capacity", "every")]
        return tuple(apart if prod(len(scope.axes[k]) for k in apart) <= MAX_GROUPS else [k for k in apart if k == first])
    found = [known("--per", k.strip()) for k in text.split(",")]
    for knob in found:
        if knob not in scope.axes:
            raise UsageError(f"--per {knob}: it is not free, so it would change nothing; free are {', '.join(scope.axes)}")
    return tuple(k for k in KNOBS if k in found)


def percent(x: Fraction) -> str:
    return f"{float(100 * x):g} %"


def _with_light(found: Found, light: Spec, asked: Asked, budget: int) -> Found:
    """Every OK row with the preferred shape of `light`'s family that has the same forward FLOPs; an interrupt ends it."""
    prefer, rows = asked.prefer or preference(light), []
    for c in found.candidates:
        if c.status == OK and not found.tally.interrupted:
            near = terms(light, other=c.spec)
            best = match(
                near.family, near.axes, c.forward, "forward", asked.basis, near.rules,
                within=asked.within, prefer=prefer, per=knobs_apart(None, prefer, near), limit=1, budget=budget,
            )  # fmt: skip
            found.tally.interrupted = best.tally.interrupted
            c = replace(c, matched=best.candidates[0] if best.candidates else None)
        rows.append(c)
    return replace(found, candidates=tuple(rows))
