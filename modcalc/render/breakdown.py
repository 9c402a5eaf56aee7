"""Accounts as tables: one model by component, layer or path, and several models side by side."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from operator import attrgetter
from typing import Any

from modcalc.cost.account import Line, Report
from modcalc.cost.remarks import is_expectation, masked_windows
from modcalc.cost.training import Cluster, Spent, TrainingRun
from modcalc.render.table import Column, Table
from modcalc.render.wording import LABELS, Unit, headline, lengths_differ
from modcalc.spec.plan import Plan

Field = tuple[Column, Callable[[Any], Any]]


def breakdown(report: Report, by: str, unit: Unit, *, backward: bool = False, twin: Report | None = None) -> Table:
    """One model: parameters and FLOPs by component, layer or path, with shares, per sequence and per token; total last."""
    total = report.lines("total")[0]
    B, tokens = report.work.batch, report.work.tokens
    label = LABELS if by == "component" else {}

    def cost(line: Line) -> Any:
        return Fraction(line.flops(backward))

    dense = folded({line.label: cost(line) for line in (*twin.lines(by), *twin.lines("total"))}, report.plan) if twin else {}

    def column(title: str, key: str, unit_shown: bool = False, **more: Any) -> Column:
        return Column(title, "count", key.format(unit.key), unit.name if unit_shown else "", **more)

    expected = "expected " if is_expectation(report) else ""
    fields: list[Field] = [
        (Column(heading(by)), lambda line: label.get(line.label, line.label)),
        (column("parameters", "params"), lambda line: line.params),
        (Column("share", "share", "params_share", drop=7), lambda line: Fraction(line.params, total.params)),
    ]
    if backward:
        fields += [
            (column(f"{expected}forward", "forward_{}", True, drop=2), lambda line: unit.of(line.forward)),
            (column("backward", "backward_{}", True, drop=3), lambda line: unit.of(line.backward)),
            (column("train step", "train_step_{}", True), lambda line: unit.of(cost(line))),
        ]
    else:
        fields.append((column(f"{expected}{unit.name}", "forward_{}"), lambda line: unit.of(cost(line))))
    fields.append((Column("share", "share", "share"), lambda line: cost(line) / cost(total)))
    if B > 1:
        fields.append((column("per sequence", "{}_per_sequence", drop=6), lambda line: unit.of(cost(line) / B)))
    if tokens > B:
        fields.append((column("per token", "{}_per_token", drop=5), lambda line: unit.of(cost(line) / tokens)))
    if twin:
        fields += [
            (column("dense twin", "dense_twin_{}", drop=4), lambda line: unit.of(dense.get(line.label))),
            (Column("ratio", "ratio", "ratio_to_dense_twin", drop=1), lambda line: _ratio(cost(line), dense.get(line.label))),
        ]
    lines = [line for line in ordered(report.lines(by), by) if by != "total" and (line.params or line.forward or line.backward)]
    rows = [[value(line) for _, value in fields] for line in [*lines, total]]
    return Table(
        title=report.plan.name, headline=headline(report, unit, backward=backward), columns=[c for c, _ in fields], rows=rows[:-1], total=rows[-1]
    )


def comparison(
    reports: Sequence[Report], unit: Unit, *, backward: bool = False, runs: Sequence[TrainingRun | None] = (), timing: Cluster | Spent | None = None
) -> Table:
    """Several models: parameters, FLOPs, per token, and the ratio of each to the first: of forward passes, or with `backward` of train steps.

    runs: that of each report, where it is known; timing: the devices of all.
    """
    first = reports[0]
    run_of = {id(report): run for report, run in zip(reports, runs, strict=False) if run}
    own_length = lengths_differ(reports)
    rated = "train step" if backward else "forward"
    expected = "expected " if any(map(is_expectation, reports)) else ""
    per_token = "forward per token" if backward else "per token"
    fields: list[Field] = [(Column("spec"), lambda r: r.plan.name), (Column("parameters", "count", "params", drop=1), lambda r: r.params.total)]
    if any(r.params.active != r.params.total for r in reports):
        fields.append((Column("active", "count", "active_params", drop=3), lambda r: r.params.active))
    if own_length:
        fields.append((Column("T", "count", "seq_len"), lambda r: r.work.seq_len))
    fields.append((Column(f"{expected}forward", "count", f"forward_{unit.key}", unit.name), lambda r: unit.of(r.flops.forward)))
    if backward:
        fields.append((Column("train step", "count", f"train_step_{unit.key}", unit.name), lambda r: unit.of(r.flops.train_step)))
    if run_of:
        fields += [
            (Column("tokens", "count", "training_tokens", drop=5), lambda r: (run := run_of.get(id(r))) and run.tokens),
            (Column("training", "count", f"training_{unit.key}", unit.name, drop=4), lambda r: (run := run_of.get(id(r))) and unit.of(run.flops)),
        ]
    if run_of and isinstance(timing, Cluster):
        fields.append((Column("device-hours", "real", "device_hours"), lambda r: timing.device_hours(run_of[id(r)].flops)))
    elif run_of and timing:
        fields.append((Column("MFU", "share", "mfu"), lambda r: timing.mfu(run_of[id(r)].flops)))
    fields += [
        (Column(per_token, "count", f"forward_{unit.key}_per_token", drop=2), lambda r: unit.of(r.flops.forward_per_token)),
        (Column("ratio", "ratio", "ratio_to_first"), lambda r: _ratio(r.flops.of(backward), first.flops.of(backward))),
    ]
    masked = [r.plan.name for r in reports if masked_windows(r)[0]]
    windows = [f"windows of {', '.join(masked)} are billed for all pairs; --causal exact bills what tokens see"] if masked else []
    return Table(
        headline=headline(first, unit, own_length=own_length, backward=backward),
        columns=[c for c, _ in fields],
        rows=[[value(r) for _, value in fields] for r in reports],
        notes=[f"ratio: {rated} {unit.name} over those of {first.plan.name}" + ("; sequence lengths T differ" if own_length else ""), *windows],
    )


def side_by_side(reports: Sequence[Report], by: str, unit: Unit, *, backward: bool = False) -> Table:
    """Several models by component, layer or path: forward FLOPs of each (with `backward`: of the train step)."""
    sums = [{line.label: line.flops(backward) for line in r.lines(by)} for r in reports]
    labels = dict.fromkeys(label for one in sums for label, value in one.items() if value)
    columns = [Column(heading(by)), *(Column(r.plan.name, "count", f"{r.plan.name}_{unit.key}", unit.name) for r in reports)]
    columns += [Column("ratio", "ratio", "ratio_to_first")] if len(reports) == 2 else []

    def row(label: str, values: Sequence[Any]) -> list[Any]:
        return [label, *map(unit.of, values), *([_ratio(values[1], values[0])] if len(values) == 2 else [])]

    names = LABELS if by == "component" else {}
    return Table(
        title=f"{'train step' if backward else 'forward'} by {by}",
        columns=columns,
        rows=[row(names.get(label, label), [one.get(label) for one in sums]) for label in ordered(labels, by, str)],
        total=row("total", [sum(one.values()) for one in sums]),
    )


def ordered(items: Iterable[Any], by: str, label: Callable[[Any], str] = attrgetter("label")) -> list[Any]:
    """Items in display order by their labels: components as LABELS has them, layers and paths by number."""
    if by == "component":
        order = list(LABELS)
        return sorted(items, key=lambda item: order.index(label(item)))
    return in_order(list(items), label)


def in_order(items: Sequence[Any], path: Callable[[Any], str]) -> list[Any]:
    """What stands before the blocks, the blocks by number, what stands after them; otherwise as it was."""
    stacked = [i for i, item in enumerate(items) if _number(path(item))]
    first = stacked[0] if stacked else len(items)
    keys = [(0,) if i < first else _number(path(item)) or (2,) for i, item in enumerate(items)]
    return [items[i] for i in sorted(range(len(items)), key=lambda i: keys[i])]


def folded(costs: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Costs of the dense twin by component, layer or path, as `plan` calls these."""
    sums: dict[str, Any] = {}
    for label, cost in costs.items():
        label = _shared(label, plan)
        sums[label] = sums.get(label, 0) + cost
    return sums


def _shared(path: str, plan: Plan) -> str:
    """A layer or path of the dense twin as `plan` calls it: the twin has blocks of their own in place of each recursion."""
    kind, _, rest = path.partition(".")
    if plan.recursion is None or kind != "blocks":
        return path
    number, dot, rest = rest.partition(".")
    return f"blocks.{plan.passes[int(number)]}{dot}{rest}"


def heading(by: str) -> str:
    """What the first column is called."""
    return "module" if by == "path" else by


def _number(label: str) -> tuple | None:
    """Sort key of a line of the stack: blocks.10 after blocks.9, recursions before the blocks that they share."""
    kind, _, rest = label.partition(".")
    return (1, kind == "blocks", int(rest.partition(".")[0])) if kind in ("blocks", "recursions") else None


def _ratio(value: Any, base: Any) -> Fraction | None:
    return Fraction(value) / Fraction(base) if base and value is not None else None
