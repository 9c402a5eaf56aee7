"""Results as spec files that load back and cost the same."""

import re
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from itertools import count
from pathlib import Path

from msgspec import structs

from modcalc.cost.budget import Costs
from modcalc.errors import UsageError, demand_name
from modcalc.search.answers import Answer
from modcalc.search.costs import COSTS, Basis
from modcalc.search.results import OK, Candidate, Exact
from modcalc.spec.load import dump
from modcalc.spec.schema import Budget, Limits, Spec, Train

# cost of one sequence -> the budget rule of `modcalc check` that holds a spec to it
_RULES = {"forward": "forward_flops", "train": "train_step_flops", "params": "params", "active": "active_params", "kv": "kv_cache_bytes"}


def folder_for(name: str, force: bool) -> Path:
    """The folder to write to, made if it is not there. Raises UsageError where it holds something already (unless `force`)."""
    demand_name("--out", name)
    folder = Path(name)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {name}: is no folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not force and any(folder.iterdir()):
            raise UsageError(f"--out {name}: the folder is not empty; give another, or --force to overwrite specs of the same name")
    except OSError as wrong:
        raise UsageError(f"--out {name}: {wrong.strerror or wrong}") from None
    return folder


def write_specs(folder: Path, pairs: list[tuple[Candidate, Spec]]) -> dict[int, str]:
    """One file a spec, called by its name; returns the candidates' id() -> file. A name that another spec has gets a number.

    Raises UsageError where a file cannot be written.
    """
    files: dict[int, str] = {}
    taken: set[str] = set()
    for c, spec in pairs:
        names = (spec.name if n == 1 else f"{spec.name}-{n}" for n in count(1))
        name, stem = next((name, stem) for name in names if (stem := re.sub(r"[^A-Za-z0-9._-]+", "-", name)).lower() not in taken)
        taken.add(stem.lower())
        file = folder / f"{stem}.yaml"
        try:
            file.write_text(dump(structs.replace(spec, name=name)), encoding="utf-8")
        except OSError as wrong:
            raise UsageError(f"--out {file}: {wrong.strerror or wrong}") from None
        files[id(c)] = str(file)
    return files


def specs_of(answer: Answer) -> Iterator[tuple[Candidate, Spec]]:
    """Every OK row, and the shape beside it, with its spec: schedule under `train`, and what was asked as its `budget`."""
    basis, family = answer.asked.basis, answer.asked.terms.family.spec
    several = len(answer.founds) > 1
    for budget, found in answer.founds:
        spent = f"{Decimal(budget).normalize():e}".replace("+", "") if budget else ""
        for c in (c for c in found.candidates if c.status == OK):
            if answer.target:
                by, goal, of, name = answer.target.by, answer.target.cost, c.cost, answer.target.spec.name
                limits = equal(by, goal, answer.asked.within, basis, basis.batch if c.schedule else Costs(c.spec).batch_size)
                text = (
                    f"{COSTS[by]}: {of}, as many as {name} within {float(answer.asked.within):g}; {basis.convention.title}; a shape of {family.name}"
                )
                yield c, _spec(c, text, limits, c.spec.name, basis)
                continue
            suffix = f"-{spent}" if several else ""
            text = f"spends {spent} training FLOPs; {basis.convention.title}; a shape of {family.name}"
            yield c, _spec(c, text, {}, c.spec.name + suffix, basis)
            if c.matched and c.matched.status == OK:
                limits = equal("forward", c.forward, answer.asked.within, basis)
                text = f"spends {spent} training FLOPs; {COSTS['forward']} as {c.spec.name}; {basis.convention.title}; a shape of {answer.light.name}"
                yield c.matched, _spec(c.matched, text, limits, c.matched.spec.name + suffix, basis)


def _spec(c: Candidate, description: str, limits: dict[str, Limits], name: str, basis: Basis) -> Spec:
    train = c.spec.train
    if c.schedule:
        train = Train(batch_size=basis.batch, steps=c.schedule.steps)
        if _checkable(basis):
            limits = {**limits, "train_flops": Limits(max=c.schedule.budget)}
    return structs.replace(c.spec, name=name, description=description, budget=Budget(**limits) if limits else None, train=train)


def equal(by: str, goal: Exact, within: Fraction, basis: Basis, batch: int = 1) -> dict[str, Limits]:
    """The rule that a spec costs `goal` a sequence; none where `modcalc check` has no such rule, or counts by another convention.

    batch: sequences of the spec's train step, which is what `check` bills.
    """
    if by not in _RULES or not _checkable(basis) or Fraction(goal).denominator != 1:
        return {}
    return {_RULES[by]: Limits(equals=int(goal) * (batch if by == "train" else 1), within=float(within) if within else None)}


def _checkable(basis: Basis) -> bool:
    return (basis.convention.name, basis.convention.causal) == ("matmul", "full")
