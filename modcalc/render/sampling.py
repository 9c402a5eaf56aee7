"""Causal routing costs a random number of FLOPs at sampling: its expectation, its worst and its best case, side by side."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

from modcalc.cost.account import Report
from modcalc.cost.compare import kv_bytes
from modcalc.cost.remarks import routed
from modcalc.cost.tensors import DTYPE
from modcalc.render.table import Column, Table
from modcalc.render.wording import Unit

ROUTED = {"expected": "expected, at the capacity's share", "all": "every token routed", "none": "no token routed"}
CASES = ROUTED | {"all": f"worst: {ROUTED['all']}", "none": f"best: {ROUTED['none']}"}


def sampling_tables(asked: Sequence[tuple[Mapping[str, Report], Report | None]], unit: Unit, format: str) -> list[Table]:
    """`sampling_table` of each of several models; csv: all in one."""
    tables = [sampling_table(cases, unit, twin) for cases, twin in asked]
    if format != "csv" or len(tables) < 2:
        return tables
    names = [reports["expected"].plan.name for reports, _ in asked]
    rows = [[name, *row] for name, table in zip(names, tables, strict=True) for row in table.rows]
    return [Table(title="routing, token by token", columns=[Column("spec"), *tables[0].columns], rows=rows)]


def sampling_table(reports: Mapping[str, Report], unit: Unit, twin: Report | None) -> Table:
    """reports: those of `sampling_range`; twin: the dense twin under the same workload."""
    named = named_cases(reports, twin)
    several = reports["expected"].work.tokens > 1

    def row(label: str, report: Report) -> list[object]:
        forward = report.flops.forward
        per_token = [unit.of(report.flops.forward_per_token)] if several else []
        return [label, unit.of(forward), *per_token, *([Fraction(forward) / Fraction(twin.flops.forward)] if twin else []), kv_bytes(report)]

    columns = [Column("routing, token by token", key="routing"), Column(unit.name, "count", f"forward_{unit.key}")]
    columns += [Column("per token", "count", f"{unit.key}_per_token", drop=1)] if several else []
    columns += [Column("ratio to dense", "ratio", "ratio_to_dense_twin")] if twin else []
    columns.append(Column(f"KV cache ({DTYPE})", "bytes", "kv_cache_bytes"))
    return Table(title=f"{reports['expected'].plan.name}: {reports['expected'].work.phase}", columns=columns, rows=[row(*one) for one in named])


def named_cases(reports: Mapping[str, Report], twin: Report | None) -> list[tuple[str, Report]]:
    """Those of `sampling_range` and the dense twin, as their rows are called."""
    # A way around may cost more than a token with few keys to see, and less than one with many: neither case bounds the others.
    cases = ROUTED if any(routing.bypass for routing in routed(reports["expected"]).values()) else CASES
    return [(cases[routing], report) for routing, report in reports.items()] + ([("dense twin", twin)] if twin else [])
