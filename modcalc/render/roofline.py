"""How long a step takes at least on a device: its FLOPs at the peak, or the fewest bytes at the memory's bandwidth."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import asdict

from modcalc.cost.account import Report
from modcalc.cost.roofline import Roof, Roofline, roofline, rooflines
from modcalc.render.breakdown import folded, heading, ordered
from modcalc.render.sampling import named_cases
from modcalc.render.table import Column, Table
from modcalc.render.wording import LABELS

Asked = tuple[Report, Report | None, Mapping[str, Report]]


def roofline_table(asked: Sequence[Asked], roof: Roof, backward: bool) -> Table:
    """One model (report, dense twin, cases of routing at sampling) beside its dense twin, or several beside the first."""
    (first, twin, cases), alone = asked[0], len(asked) == 1
    named = [(report.plan.name, report) for report, *_ in asked]
    if alone:
        named = named_cases(cases, twin) if cases else [*named, *([("dense twin", twin)] if twin else [])]
    lines = [roofline(report, roof, backward=backward) for _, report in named]
    against = lines[0] if not alone else lines[-1] if twin else None
    columns = [
        Column("routing, token by token" if alone and cases else "spec", key="case"),
        Column("bytes moved", "bytes", "bytes", drop=1),
        Column("FLOPs per byte", "real", drop=3),
        Column("compute", "seconds", "compute_s", drop=2),
        Column("memory", "seconds", "memory_s", drop=2),
        Column("step at least", "seconds", "step_s"),
        Column("bound by"),
        Column("tokens/s at most", "si", "tokens_per_s"),
        *([Column("time ratio", "ratio", f"ratio_to_{'dense_twin' if alone else 'first'}")] if against else []),
    ]

    def row(label: str, report: Report, line: Roofline) -> list[Any]:
        rate, ratio = report.work.tokens / line.step_s, [line.step_s / against.step_s] if against else []
        return [label, line.bytes, line.intensity, line.compute_s, line.memory_s, line.step_s, line.bound, rate, *ratio]

    phase = "train" if backward else first.work.phase
    title = f"roofline of a {phase} step on {roof.device or 'a device'} in bf16"
    notes = [
        f"compute: FLOPs at {roof.flops_per_s / 1e12:,g} TFLOP/s; memory: bytes at {roof.bytes_per_s / 1e9:,g} GB/s ({roof.source})",
        "FLOPs: of products of tokens and keys that they may see (matmul, causal exact); bytes: weights, inputs, outputs, cached keys, once each",
        "; ".join(
            [
                "tokens/s: of all sequences",
                *([f"time ratio: to {'the dense twin' if alone else first.plan.name}"] if against else []),
                *(["with routing: expected, at the capacity's share"] if not alone and any(cases for *_, cases in asked) else []),
                *(["experts read: those that are expected under even use"] if any(_draws_experts(report) for report, *_ in asked) else []),
                "modcalc profile measures real steps",
            ]
        ),
    ]
    return Table(title=title, columns=columns, rows=[row(*one, line) for one, line in zip(named, lines, strict=True)], notes=notes)


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
        return one(roofline(of, roof, backward=backward))

    parts = [{"label": label} | one(part) for label, part in _in_order(report, roof, by, backward).items()]
    document = asdict(roof) | {"dtype": "bf16"} | step(report) | {"dense_twin": twin and step(twin), "lines": parts}
    return document | {"sampling": {routing: step(of) for routing, of in cases.items()}} if cases else document


def _in_order(report: Report, roof: Roof, by: str, backward: bool) -> dict[str, Roofline]:
    """Parts as they are shown, without those that take no time."""
    parts = rooflines(report, roof, by, backward=backward)
    labels = [*ordered([label for label in parts if label != "optimizer"], by, str), *(parts.keys() & {"optimizer"})]
    return {label: parts[label] for label in labels if parts[label].apart_s}
