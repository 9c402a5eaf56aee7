"""Several accounts as tables: models side by side, or one or more at every point of a sweep."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from modcalc.cost.account import Report
from modcalc.cost.compare import kv_bytes
from modcalc.cost.remarks import is_expectation, masked_windows, routed
from modcalc.cost.tensors import DTYPE
from modcalc.cost.training import Cluster, Spent, TrainingRun
from modcalc.render.breakdown import Field, heading, ordered, ratio_of
from modcalc.render.table import Column, Table
from modcalc.render.wording import LABELS, Unit, headline, varying

# Columns of settings, by the letters of the headline.
LETTERS = {"batch": "B", "seq_len": "T", "context": "S"}


class Row(NamedTuple):
    """An account in a comparison. model: its name, where rows are of several models, else empty; base: what its cost is divided by, if
    anything; run: the training that it is part of, where that is known.
    """

    model: str
    report: Report
    base: Report | None
    run: TrainingRun | None = None


def differing(rows: Sequence[Row]) -> list[str]:
    """The settings in which rows differ."""
    return varying([row.report.work for row in rows])


def setting_fields(rows: Sequence[Row]) -> list[Field]:
    """A column for each setting in which rows differ."""

    def field(name: str) -> Field:
        return Column(LETTERS[name], "count", name), lambda row: getattr(row.report.work, name)

    return [field(name) for name in differing(rows)]


def over(rows: Sequence[Row]) -> str:
    """What the ratios of rows are over; empty where there are none."""
    bases = [row.base for row in rows if row.base]
    if not bases:
        return ""
    whose = bases[0].plan.name if rows[0].model else "the dense twin"
    swept = " at the same point" if any(base is not bases[0] for base in bases) else ""
    lengths = any(row.base and row.base.work.seq_len != row.report.work.seq_len for row in rows)
    return f"{whose}{swept}" + ("; sequence lengths T differ" if lengths else "")


def ratio_key(rows: Sequence[Row]) -> str:
    """The csv header of ratios."""
    return "ratio_to_first" if rows[0].model else "ratio_to_dense_twin"


def comparison(rows: Sequence[Row], unit: Unit, *, backward: bool = False, timing: Cluster | Spent | None = None) -> Table:
    """Several models, or points of a sweep: parameters, FLOPs, per token, and the ratio of each to its base: of forward passes, or with
    `backward` of train steps. timing: the devices of all runs.
    """
    reports, several = [row.report for row in rows], bool(rows[0].model)
    rated = "train step" if backward else "forward"
    expected = "expected " if any(map(is_expectation, reports)) else ""
    per_token = "forward per token" if backward else "per token"
    fields: list[Field] = []
    if several:
        fields += [
            (Column("spec"), lambda row: row.model),
            (Column("parameters", "count", "params", drop=1), lambda row: row.report.params.total),
        ]
        if any(r.params.active != r.params.total for r in reports):
            fields.append((Column("active", "count", "active_params", drop=3), lambda row: row.report.params.active))
    fields += setting_fields(rows)
    fields.append((Column(f"{expected}forward", "count", f"forward_{unit.key}", unit.name), lambda row: unit.of(row.report.flops.forward)))
    if backward:
        fields.append((Column("train step", "count", f"train_step_{unit.key}", unit.name), lambda row: unit.of(row.report.flops.train_step)))
    if any(row.run for row in rows):
        fields += [
            (Column("tokens", "count", "training_tokens", drop=5), lambda row: row.run and row.run.tokens),
            (Column("training", "count", f"training_{unit.key}", unit.name, drop=4), lambda row: row.run and unit.of(row.run.flops)),
        ]
    if isinstance(timing, Cluster):
        fields.append((Column("device-hours", "real", "device_hours"), lambda row: timing.device_hours(row.run.flops)))
    elif timing:
        fields.append((Column("MFU", "share", "mfu"), lambda row: timing.mfu(row.run.flops)))
    fields.append((Column(per_token, "count", f"forward_{unit.key}_per_token", drop=2), lambda row: unit.of(row.report.flops.forward_per_token)))
    if reports[0].work.sampling:
        fields.append((Column(f"KV cache ({DTYPE})", "bytes", "kv_cache_bytes", drop=4), lambda row: kv_bytes(row.report)))
    if above := over(rows):
        fields.append((Column("ratio", "ratio", ratio_key(rows)), lambda row: row.base and _ratio(row.report, row.base, backward)))
    masked = dict.fromkeys(r.plan.name for r in reports if masked_windows(r)[0])
    windows = [f"windows of {', '.join(masked)} are billed for all pairs; --causal exact bills what tokens see"] if masked else []
    decides = any(r.work.sampling and routed(r) for r in reports)
    expectations = ["with routing: expected, at the capacity's share"] if decides else []
    return Table(
        title="" if several else reports[0].plan.name,
        headline=headline(reports[0], unit, differ=differing(rows), backward=backward),
        columns=[c for c, _ in fields],
        rows=[[value(row) for _, value in fields] for row in rows],
        notes=[*([f"ratio: {rated} {unit.name} over those of {above}"] if above else []), *expectations, *windows],
    )


def _ratio(report: Report, base: Report, backward: bool) -> Any:
    return ratio_of(report.flops.of(backward), base.flops.of(backward))


def side_by_side(reports: Sequence[Report], by: str, unit: Unit, *, backward: bool = False) -> Table:
    """Several models by component, layer or path: forward FLOPs of each (with `backward`: of the train step)."""
    sums = [{line.label: line.flops(backward) for line in r.lines(by)} for r in reports]
    labels = dict.fromkeys(label for one in sums for label, value in one.items() if value)
    columns = [Column(heading(by)), *(Column(r.plan.name, "count", f"{r.plan.name}_{unit.key}", unit.name) for r in reports)]
    columns += [Column("ratio", "ratio", "ratio_to_first")] if len(reports) == 2 else []

    def row(label: str, values: Sequence[Any]) -> list[Any]:
        return [label, *map(unit.of, values), *([ratio_of(values[1], values[0])] if len(values) == 2 else [])]

    names = LABELS if by == "component" else {}
    return Table(
        title=f"{'train step' if backward else 'forward'} by {by}",
        columns=columns,
        rows=[row(names.get(label, label), [one.get(label) for one in sums]) for label in ordered(labels, by, str)],
        total=row("total", [sum(one.values()) for one in sums]),
    )
