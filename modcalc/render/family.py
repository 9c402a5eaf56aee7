"""Families at a constant cost, as a table and as a document."""

from collections.abc import Mapping
from typing import Any

from modcalc.render.conventions import convention_document
from modcalc.render.isoflop import UNITS, inner_cells, routing_cells, shape
from modcalc.render.isoflop_document import candidate_document
from modcalc.render.numbers import several
from modcalc.render.table import Column, Table, bad, good
from modcalc.search.costs import COSTS
from modcalc.search.families import Constant, Member
from modcalc.search.results import OK
from modcalc.units import grouped


def table(family: Constant) -> Table:
    """One row a member; drift is what rounding to whole steps leaves."""
    spec, basis, unit = family.family.spec, family.basis, UNITS.get(family.hold, "FLOPs")
    rows = [m.candidate for m in family.members]
    knobs = [*inner_cells(rows), *routing_cells(rows)]
    columns = [
        Column("layers", "count", "n_layers"),
        Column("d_model", "count"),
        Column("heads", "count", "n_heads", drop=2),
        *(column for column, _ in knobs),
        Column("parameters", "count", "params"),
        *([Column(family.hold, "count", f"cost_{family.hold}", unit)] if family.hold not in ("params", "forward") else []),
        Column("drift", "count", unit=unit),
        Column("relative", "change", "relative_error", drop=1),
        Column("forward FLOPs", "count", "forward_flops"),
        Column("KV cache", "bytes", "kv_cache_bytes", drop=3),
        Column("", key="status"),
        Column("why", key="reason"),
    ]

    def row(m: Member) -> list[Any]:
        c, s = m.candidate, shape(m.candidate)
        return [
            s["n_layers"], s["d_model"], s["n_heads"], *(value(c) for _, value in knobs), c.params.total,
            *([c.cost] if family.hold not in ("params", "forward") else []), m.drift, c.error, c.forward, m.kv_bytes,
            (good if c.status == OK else bad)(c.status), c.reason,
        ]  # fmt: skip

    steps = f" in multiples of {family.step}" if family.step > 1 else ""
    headline = [
        f"held: {COSTS[family.hold]}, {grouped(family.target)} {unit}".rstrip(),
        f"varied: {', '.join(family.vary)}; solved for: {family.solve}{steps}",
        f"one sequence of {several(basis.seq_len, 'token')}; KV cache of as many in bf16",
        f"{basis.convention.title}: counts {basis.convention.counts}",
        f"rule: relative difference to what is held at most {float(family.within):g} (--within)",
        *(f"rule: {line}" for line in family.family.rules({*family.vary, family.solve})),
    ]
    return Table(title=f"{spec.name}: a family at constant {family.hold}", headline=headline, columns=columns, rows=[row(m) for m in family.members])


def document(family: Constant, files: Mapping[int, str]) -> dict[str, Any]:
    """Parameters, FLOPs and bytes in base units. files: id() of a candidate -> where it was written."""
    return {
        "spec": family.family.spec.name,
        "hold": family.hold,
        "target": family.target,
        "vary": family.vary,
        "solve": family.solve,
        "multiple_of": family.step,
        "within": float(family.within),
        "workload": {"seq_len": family.basis.seq_len, "context": family.basis.context if family.hold == "decode" else None},
        "convention": convention_document(family.basis.convention),
        "candidates": [candidate_document(m.candidate, files, kv_cache_bytes=m.kv_bytes, drift=m.drift) for m in family.members],
    }
