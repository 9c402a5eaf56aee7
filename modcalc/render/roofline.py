"""How long a step takes at least on a device: its FLOPs at the peak, or the fewest bytes at the memory's bandwidth."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import asdict

from modcalc.cost.account import Report
from modcalc.cost.roofline import Roof, Roofline, held_bytes, roofline, rooflines
from modcalc.render.breakdown import Field, folded, heading, ordered
from modcalc.render.comparison import Row, over, ratio_key, setting_fields
from modcalc.render.numbers import binary_bytes
from modcalc.render.sampling import named_cases
from modcalc.render.table import Column, Table
from modcalc.render.wording import LABELS


def roofline_of_one(report: Report, twin: Report | None, cases: Mapping[str, Report], roof: Roof, backward: bool) -> Table:
    """One model beside its dense twin. cases: of routing at sampling."""
    named = named_cases(cases, twin) if cases else [(report.plan.name, report), *([("dense twin", twin)] if twin else [])]
    over_twin = ("the dense twin", "ratio_to_dense_twin") if twin else ("", "")
    label = _label("routing, token by token" if cases else "spec")
    return _steps([label], [Row(name, one, twin) for name, one in named], over_twin, roof, backward)


def roofline_of_several(rows: Sequence[Row], roof: Roof, backward: bool) -> Table:
    """Several models beside each other, or points of a sweep."""
    names = [_label("spec")] if rows[0].model else []
    return _steps([*names, *setting_fields(rows)], rows, (over(rows), ratio_key(rows)), roof, backward)


def _label(title: str) -> Field:
    return Column(title, key="case"), lambda row: row.model


def _steps(labels: Sequence[Field], rows: Sequence[Row], compared: tuple[str, str], roof: Roof, backward: bool) -> Table:
    """A line for each row. labels: what tells them apart; compared: what their ratios are over, if they have any, and the csv header of them."""
    whose, key = compared
    columns = [
        *(column for column, _ in labels),
        *([Column("of its memory", "share", "memory_share", drop=1)] if roof.memory_bytes else []),
        Column("bytes moved", "bytes", "bytes", drop=1),
        Column("FLOPs per byte", "real", drop=3),
        Column("compute", "seconds", "compute_s", drop=2),
        Column("memory", "seconds", "memory_s", drop=2),
        Column("step at least", "seconds", "step_s"),
        Column("bound by"),
        Column("tokens/s at most", "si", "tokens_per_s"),
        *([Column("time ratio", "ratio", key)] if whose else []),
    ]

    shares = [held_bytes(row.report, backward=backward) / roof.memory_bytes for row in rows] if roof.memory_bytes else []

    def cells(row: Row, *held: Any) -> list[Any]:
        line = roofline(row.report, roof, backward=backward)
        ratio = [row.base and line.step_s / roofline(row.base, roof, backward=backward).step_s] if whose else []
        rate = row.report.work.tokens / line.step_s
        names = [value(row) for _, value in labels]
        return [*names, *held, line.bytes, line.intensity, line.compute_s, line.memory_s, line.step_s, line.bound, rate, *ratio]

    phase = "train" if backward else rows[0].report.work.phase
    title = f"roofline of a {phase} step on {roof.device or 'a device'} in bf16"
    notes = [
        f"compute: FLOPs at {roof.flops_per_s / 1e12:,g} TFLOP/s; memory: bytes at {roof.bytes_per_s / 1e9:,g} GB/s ({roof.source})",
        *([_held(rows[0].report, roof, backward, max(shares))] if shares else []),
        "FLOPs: of products of tokens and keys that they may see (matmul, causal exact); bytes: weights, inputs, outputs, cached keys, once each",
        "; ".join(
            [
                "tokens/s: of all sequences",
                *([f"time ratio: to {whose}"] if whose else []),
                *(["experts read: those that are expected under even use"] if any(_draws_experts(row.report) for row in rows) else []),
                "modcalc profile measures real steps",
            ]
        ),
    ]
    return Table(title=title, columns=columns, rows=[cells(*row) for row in zip(rows, *([shares] if shares else []), strict=True)], notes=notes)


def _held(report: Report, roof: Roof, backward: bool, most: Any) -> str:
    """What the shares of the memory are of."""
    trains = backward or report.work.phase == "train"
    what = (
        "weights, gradients, AdamW's moments and activations"
        if trains
        else "weights, cached keys and logits"
        if report.work.sampling
        else "weights and logits"
    )
    full = "; above 100 % it does not fit, and times are those of a device that held it" if most > 1 else ""
    return f"of its memory: {what} in bf16, of {binary_bytes(roof.memory_bytes)} (modcalc memory says more){full}"


def _draws_experts(report: Report) -> bool:
    return report.work.sampling and any(op.kind == "experts" for op in report.rows)


def parts_table(report: Report, twin: Report | None, roof: Roof, by: str, backward: bool) -> Table:
    """The roofline of each component, layer or path, and their sum: a step whose parts run one after another."""
    parts = _in_order(report, roof, by, backward)
    dense = rooflines(twin, roof, by, backward=backward) if twin else {}
    beside = folded({label: part.apart_s for label, part in dense.items()}, report.plan)
    whole = roofline(report, roof, backward=backward)
    columns = [
        Column(heading(by)),
        Column("bytes moved", "bytes", "bytes", drop=2),
        Column("FLOPs per byte", "real", drop=3),
        Column("bound by"),
        Column("one by one", "seconds", "apart_s"),
        Column("share", "share"),
        *([Column("dense twin", "seconds", "dense_twin_s", drop=1), Column("time ratio", "ratio", "ratio_to_dense_twin")] if twin else []),
    ]

    def row(label: str, part: Roofline, there: float | None) -> list[Any]:
        time_s, ratio = part.apart_s, there and part.apart_s / there
        return [label, part.bytes, part.intensity, part.bound, time_s, time_s / whole.apart_s, *([there, ratio] if twin else [])]

    names = LABELS if by == "component" else {}
    return Table(
        title=f"roofline by {by}",
        columns=columns,
        rows=[row(names.get(n, n), part, beside.get(n)) for n, part in parts.items()],
        total=row("total", whole, sum(beside.values())),
        notes=[
            "one by one: each product and each norm by itself takes the longer of compute and memory, as kernels run; the step above overlaps them"
        ],
    )


def roofline_document(report: Report, twin: Report | None, cases: Mapping[str, Report], roof: Roof, by: str, backward: bool) -> dict[str, Any]:
    """The key `roofline` of the JSON document."""

    def one(line: Roofline) -> dict[str, Any]:
        return {
            "bytes": line.bytes,
            "compute_s": line.compute_s,
            "memory_s": line.memory_s,
            "step_s": line.step_s,
            "apart_s": line.apart_s,
            "bound": line.bound,
        }

    def step(of: Report) -> dict[str, Any]:
        return one(roofline(of, roof, backward=backward)) | {"held_bytes": held_bytes(of, backward=backward)}

    parts = [{"label": label} | one(part) for label, part in _in_order(report, roof, by, backward).items()]
    document = asdict(roof) | {"dtype": "bf16"} | step(report) | {"dense_twin": twin and step(twin), "lines": parts}
    return document | {"sampling": {routing: step(of) for routing, of in cases.items()}} if cases else document


def _in_order(report: Report, roof: Roof, by: str, backward: bool) -> dict[str, Roofline]:
    """Parts as they are shown, without those that take no time."""
    parts = rooflines(report, roof, by, backward=backward)
    labels = [*ordered([label for label in parts if label != "optimizer"], by, str), *(parts.keys() & {"optimizer"})]
    return {label: parts[label] for label in labels if parts[label].apart_s}
