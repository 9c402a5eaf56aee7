"""One account as a table: by component, layer or path."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from operator import attrgetter
from typing import Any

from modcalc.cost.account import Line, Report
from modcalc.cost.remarks import is_expectation
from modcalc.render.table import Column, Table
from modcalc.render.wording import LABELS, Unit, headline
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
            (Column("ratio", "ratio", "ratio_to_dense_twin", drop=1), lambda line: ratio_of(cost(line), dense.get(line.label))),
        ]
    lines = [line for line in ordered(report.lines(by), by) if by != "total" and (line.params or line.forward or line.backward)]
    rows = [[value(line) for _, value in fields] for line in [*lines, total]]
    return Table(
        title=report.plan.name, headline=headline(report, unit, backward=backward), columns=[c for c, _ in fields], rows=rows[:-1], total=rows[-1]
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


def ratio_of(value: Any, base: Any) -> Fraction | None:
    """value / base; None where either is missing, or the base is 0."""
    return Fraction(value) / Fraction(base) if base and value is not None else None
