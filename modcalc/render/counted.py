"""What counters said about an account: a line for each, and the modules where they differ."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modcalc.cost.account import Report, count_flops
from modcalc.cost.conventions import MATMUL
from modcalc.render.numbers import change, count
from modcalc.render.table import Column, Styled, Table, bad, dim, good
from modcalc.render.wording import Facts, Unit

if TYPE_CHECKING:
    from modcalc.measure.agreement import Verdict


def counted_as(report: Report, unit: Unit) -> Facts:
    """Where a report's convention does not give what counters count: the number that they are held against."""
    theirs = count_flops(report.rows, report.work, MATMUL).forward
    if theirs == report.flops.forward:
        return []
    return [("counters", f"see every product in full; they are held against {MATMUL.title}: {count(unit.of(theirs))} {unit.name} forward")]


def verdict_facts(v: "Verdict", unit: Unit) -> list[tuple[str, str | Styled]]:
    """The number and whether it is the ledger's; what could not be seen; what was seen and costs nothing."""
    what = " train step" if v.backward else ""
    if v.counted is None:
        said = bad(f"failed{f' on the{what}' if what else ''}: {v.reason}")
    elif v.agrees:
        said = good(f"{count(unit.of(v.counted))} {unit.name}{what}, equal to the ledger in total and in every module")
    else:
        off = v.counted - v.analytic
        relative = f" ({change(off / v.analytic)})" if v.analytic else ""
        difference = f"{'+' if off >= 0 else '-'}{count(unit.of(abs(off)))}{relative} against the ledger"
        said = bad(f"{count(unit.of(v.counted))} {unit.name}{what}, {difference}; modules that differ: {len(v.differences)}")
    facts: list[tuple[str, str | Styled]] = [(v.counter, said)]
    if v.unseen:
        facts.append(("", bad(f"not seen: {_operators(v.unseen)}")))
    if v.free:
        facts.append(("", dim(f"at no cost: {_operators(v.free)}")))
    return facts


def differences_table(v: "Verdict", unit: Unit) -> Table:
    """The modules where a counter and the ledger differ."""
    columns = [Column("module"), Column("ledger", "count", unit=unit.name), Column(v.counter, "count", unit=unit.name), Column("difference", "count")]
    rows = [[d.path or "(the model itself)", *map(unit.of, (d.analytic, d.counted, d.counted - d.analytic))] for d in v.differences]
    return Table(columns=columns, rows=rows)


def verdicts_document(report: Report, verdicts: Sequence["Verdict"]) -> dict[str, Any]:
    """The keys `counters` (matmul convention, all pairs; null where not run or failed), `agree` and `counting` of a JSON document.

    agree: false where some counter differs; null where none does, but not every one could count, or none ran.
    """
    answers = [v.agrees for v in verdicts]
    forward = {v.counter: v.counted for v in verdicts if not v.backward}
    return {
        "counters": {"analytic": count_flops(report.rows, report.work, MATMUL).forward, **{name: forward.get(name) for name in ("fvcore", "torch")}},
        "agree": False if False in answers else None if None in answers or not answers else True,
        "counting": [
            {
                "counter": v.counter,
                "of": "train_step" if v.backward else "forward",
                "analytic": v.analytic,
                "counted": v.counted,
                "agrees": v.agrees,
                "reason": v.reason,
                "differences": [{"path": d.path, "analytic": d.analytic, "counted": d.counted} for d in v.differences],
                "unseen": v.unseen,
                "free": v.free,
            }
            for v in verdicts
        ],
    }


def _operators(calls: dict[str, int]) -> str:
    return ", ".join(sorted(name.removeprefix("aten::") for name in calls))
