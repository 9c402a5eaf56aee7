"""What `modcalc flops` says to a person: tables, the words below them, and plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from modcalc.cost.account import Report
    from modcalc.cost.recompute import Hardware
    from modcalc.cost.roofline import Roof
    from modcalc.cost.training import Cluster, Spent, TrainingRun
    from modcalc.render.comparison import Row
    from modcalc.render.wording import Unit


class Billed(NamedTuple):
    """One spec at one point by the ledger. cases: of routing at sampling; hardware and run: of a train step."""

    report: "Report"
    twin: "Report | None"
    cases: Mapping[str, "Report"]
    hardware: "Hardware | None"
    run: "TrainingRun | None"


class Bill(NamedTuple):
    """All that was billed, and what is asked of it. points: how many of a sweep each spec has; 0 without a sweep."""

    billed: Sequence[Billed]
    points: int
    unit: "Unit"
    by: str | None
    backward: bool
    timing: "Cluster | Spent | None"
    roof: "Roof | None"

    def rows(self) -> "list[Row]":
        """One spec at each point against its dense twin there, or several against the first of them there."""
        from modcalc.render.comparison import Row

        each = self.points or 1
        if len(self.billed) == each:
            return [Row("", one.report, one.twin, one.run) for one in self.billed]
        return [Row(one.report.plan.name, one.report, self.billed[i % each].report, one.run) for i, one in enumerate(self.billed)]


def show(bill: Bill, said: str, format: str) -> None:
    """All but what counters find. said: what says how long training goes on."""
    if bill.points:
        _show_sweep(bill, format)
        return
    _show_accounts(bill, format)
    _show_training(bill, said, format)
    if bill.roof:
        _show_roofline(bill, format)


def draw(bill: Bill, target: Path) -> None:
    """Bars of what the FLOPs are made of; of a sweep, lines along it."""
    from modcalc.render.plot_breakdown import plot_breakdown, plot_layers

    reports, dense = [one.report for one in bill.billed], bill.billed[0].twin
    if bill.points:
        from modcalc.render.plot_sweep import plot_sweep

        plot_sweep(target, bill.rows(), bill.unit, bill.roof, backward=bill.backward)
    elif bill.by == "layer":
        plot_layers(target, reports[0], bill.unit, dense, backward=bill.backward)
    else:
        plot_breakdown(target, [dense, *reports] if dense and len(reports) == 1 else reports, bill.unit, backward=bill.backward)


def _show_sweep(bill: Bill, format: str) -> None:
    from modcalc.render import output
    from modcalc.render.comparison import comparison
    from modcalc.render.roofline import roofline_of_several

    rows = bill.rows()
    tables = [comparison(rows, bill.unit, backward=bill.backward, timing=bill.timing)]
    output.show([*tables, roofline_of_several(rows, bill.roof, bill.backward)] if bill.roof else tables, format)


def _show_accounts(bill: Bill, format: str) -> None:
    from modcalc.render import output
    from modcalc.render.breakdown import breakdown
    from modcalc.render.comparison import comparison, side_by_side
    from modcalc.render.sampling import sampling_tables
    from modcalc.render.wording import remarks

    billed, unit, by, backward, more = bill.billed, bill.unit, bill.by, bill.backward, []
    if len(billed) == 1:
        report, dense = billed[0].report, billed[0].twin
        output.show([breakdown(report, by or "component", unit, backward=backward, twin=dense)], format)
        output.facts([("", ""), *remarks(report, unit, twin=dense, backward=backward)], format)
    else:
        beside = [side_by_side([one.report for one in billed], by, unit, backward=backward)] if by not in (None, "total") else []
        if format == "csv" and beside:  # for a program, the one that was asked for
            output.show(beside, format)
        else:
            output.show([comparison(bill.rows(), unit, backward=backward, timing=bill.timing)], format)
            more += beside
    more += sampling_tables([(one.cases, one.twin) for one in billed if one.cases], unit, format)
    if more:
        output.write("\n")
        output.show(more, format)


def _show_training(bill: Bill, said: str, format: str) -> None:
    """Below the FLOPs of a train step: what a device is asked for, and what the whole run costs."""
    from modcalc.render.hardware import hardware_facts
    from modcalc.render.output import facts
    from modcalc.render.wording import training

    for one in bill.billed:
        told = hardware_facts(one.report, one.hardware, bill.unit) if one.hardware else []
        told += training(one.run, bill.unit, said, bill.timing) if one.run else []
        if told:
            facts([*([] if len(bill.billed) == 1 else [("", ""), ("", one.report.plan.name)]), *told], format)


def _show_roofline(bill: Bill, format: str) -> None:
    """How long a step takes at least; and where, of one spec."""
    from modcalc.render import output
    from modcalc.render.roofline import parts_table, roofline_of_one, roofline_of_several

    output.write("\n")
    (report, dense, cases, *_), *others = bill.billed
    if others:
        tables = [roofline_of_several(bill.rows(), bill.roof, bill.backward)]
    else:
        tables = [roofline_of_one(report, dense, cases, bill.roof, bill.backward)]
        if bill.by != "total":
            tables.append(parts_table(report, dense, bill.roof, bill.by or "component", bill.backward))
    output.show(tables, format)
