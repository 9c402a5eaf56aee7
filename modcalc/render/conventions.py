"""Looks of `modcalc conventions`."""

from collections.abc import Sequence
from typing import Any

from modcalc.cost.account import Report
from modcalc.cost.convention import Convention
from modcalc.cost.survey import Entry
from modcalc.render.numbers import several
from modcalc.render.table import Column, Table

COLUMNS = (
    Column("convention"),
    Column("forward", "count", "forward_flops", "FLOPs"),
    Column("trained, per token", "count", "train_flops_per_token", "FLOPs"),
    Column("to matmul", "change", "train_difference"),
    Column("counts", drop=1, below=True),
    Column("citation", drop=2),
)


def table(report: Report, entries: Sequence[Entry]) -> Table:
    """One row a convention. `to matmul` compares train steps."""
    w = report.work
    notes = [f"to matmul: relative difference of a train step to the matmul count, {report.flops.train_step:,} FLOPs"]
    own = [f"{e.convention.name} 1 per multiply-add" for e in entries if e.convention.multiply_add == 1]
    if own:
        notes.append(f"1 multiply-add = 2 FLOPs, but for {', '.join(own)}")
    return Table(
        title=report.plan.name,
        headline=[f"{several(w.batch, 'sequence')} of {several(w.seq_len, 'token')}; {report.params.total:,} parameters"],
        columns=COLUMNS,
        rows=[
            (e.convention.name, e.flops.forward, e.train_per_token, e.train_difference, e.convention.counts, e.convention.citation) for e in entries
        ],
        notes=notes,
    )


def document(report: Report, entries: Sequence[Entry]) -> dict[str, Any]:
    """The same for machines: FLOPs of all sequences, differences as fractions of the matmul count."""
    w = report.work
    return {
        "spec": report.plan.name,
        "workload": {"batch": w.batch, "seq_len": w.seq_len},
        "params": {"total": report.params.total},
        "conventions": [
            {
                **convention_document(e.convention),
                "flops_per_multiply_add": e.convention.multiply_add,
                "forward": e.flops.forward,
                "train_step": e.flops.train_step,
                "train_per_token": e.train_per_token,
                "forward_difference": e.forward_difference,
                "train_difference": e.train_difference,
            }
            for e in entries
        ],
    }


def convention_document(convention: Convention) -> dict[str, Any]:
    """What every document says of a convention."""
    return {"name": convention.name, "causal": convention.causal, "counts": convention.counts, "citation": convention.citation}
