"""Many specs held to their budgets: keeps going past a bad one, and says how it ended."""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from msgspec import Struct

from modcalc.cost.budget import Costs, Result, Rule, check, contradictions, rules_of
from modcalc.errors import ModcalcError
from modcalc.spec.files import sources
from modcalc.spec.imported import notes
from modcalc.spec.load import load_with_lines, sectioned
from modcalc.spec.revision import is_new, load_side
from modcalc.spec.schema import Spec


class Unread(Struct, frozen=True):
    """A rule that could not be evaluated, or the counters, and why: lines that begin with the source."""

    rule: str
    problems: tuple[str, ...]


class Checked(Struct, frozen=True):
    """One spec. wrong: what is wrong with itself, lines that begin with the source; unread: what of it could not be evaluated;
    unheld: rules that compare it with a revision before it; notes: what an import left out of it, and rules that no model can meet.
    """

    source: str
    results: tuple[Result, ...] = ()
    wrong: tuple[str, ...] = ()
    unread: tuple[Unread, ...] = ()
    unheld: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """All that is wrong."""
        return (*self.wrong, *(line for one in self.unread for line in one.problems))

    @property
    def ok(self) -> bool:
        return not self.problems and all(r.ok for r in self.results)


class Outcome(Struct, frozen=True):
    """Every spec that was asked for, in order; interrupted: those before an interrupt, which say nothing of the others."""

    checked: tuple[Checked, ...]
    interrupted: bool = False

    @property
    def ok(self) -> bool:
        return not self.interrupted and all(c.ok for c in self.checked)

    @property
    def exit_code(self) -> int:
        """0 all hold, 1 a rule does not, 2 a spec or rule could not be evaluated."""
        return 2 if any(c.problems for c in self.checked) else 0 if self.ok else 1


def check_all(paths: Iterable[str], require: Iterable[Rule] = (), extra: Callable[[Spec], list[Result]] | None = None) -> Iterator[Checked]:
    """Check each spec of `paths` against its own budget and `require`; extra: further results for a spec (the counters')."""
    require = list(require)
    others: dict[str, Costs] = {}
    for source in sources(paths):
        yield _check_one(source, require, extra, others)


def _check_one(source: str, require: list[Rule], extra: Callable[[Spec], list[Result]] | None, others: dict[str, Costs]) -> Checked:
    def other(folder: Path, name: str) -> Costs:
        near = Path(sectioned(folder / name)[0])
        revision, colon, file = name.partition(":")
        if os.path.isfile(near) or os.path.isfile(near / "config.json"):
            path = str(folder / name)
        elif colon:  # a file, or this one, as it was in a git revision
            path = f"{revision}:{folder / file if file else source}"
        else:
            path = name
        if path not in others:
            others[path] = Costs(load_side(path))
        return others[path]

    results: list[Result] = []
    unread: list[Unread] = []
    unheld: list[str] = []
    try:
        spec, lines = load_with_lines(source)
        rules = [*rules_of(spec, lines.__getitem__), *require]
    except ModcalcError as wrong:
        # What is not printable is no name that is loaded.
        return Checked(source if source.isprintable() else repr(source), wrong=tuple(str(wrong).splitlines()))
    costs = Costs(spec)
    told = [*notes(spec), *(f"{source}: {text}" for text in contradictions(rules))]  # one of each pair that contradicts is broken
    for rule in rules:
        # One rule that cannot be evaluated (no schedule, a missing other spec) must not hide the others' results.
        try:
            if rule.relative_to and rule.relative_to.endswith(":") and is_new(rule.relative_to[:-1], source):
                unheld.append(str(rule))
                continue
            # A path in a spec is one from its file; on the command line from the current folder, the same for every spec.
            results.append(check(costs, rule, partial(other, Path(source).parent if rule.line else Path())))
        except ModcalcError as wrong:
            where = f"{source}:{rule.line}" if rule.line else source
            unread.append(Unread(str(rule), tuple(f"{where}: {rule}: {line}" for line in str(wrong).splitlines())))
    if extra:
        try:
            results += extra(spec)
        except ModcalcError as wrong:
            unread.append(Unread("counters", tuple(f"{source}: {line}" for line in str(wrong).splitlines())))
    return Checked(source, tuple(results), unread=tuple(unread), unheld=tuple(unheld), notes=tuple(told))
