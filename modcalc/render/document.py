"""An account as the JSON document of `modcalc flops`; numbers are FLOPs in base units, whatever a table shows."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from msgspec.structs import asdict

from modcalc.cost.account import Report
from modcalc.cost.compare import kv_bytes
from modcalc.cost.ops import whole
from modcalc.cost.remarks import free_work, is_expectation, masked_windows, routed
from modcalc.cost.tensors import DTYPE
from modcalc.cost.training import Cluster, Spent, TrainingRun
from modcalc.render.breakdown import in_order, ordered
from modcalc.render.conventions import convention_document


def account_document(
    report: Report, by: str = "component", *, twin: Report | None = None, sampling: Mapping[str, Report] | None = None, macs: bool = False
) -> dict[str, Any]:
    """Keys as docs/json.md promises them; `counters` and `agree` are those of an account without counters."""
    work, convention, p = report.work, report.convention, report.params
    layers, saved = masked_windows(report)
    document = {
        "spec": report.plan.name,
        "workload": {"batch": work.batch, "seq_len": work.seq_len, "context": work.context, "phase": work.phase, "routing": work.routing},
        "convention": convention_document(convention) | {"flops_per_multiply_add": convention.multiply_add},
        "params": {"total": p.total, "active": p.active, "embedding": p.embedding, "non_embedding": p.non_embedding},
        "flops": flops(report),
        "expectation": is_expectation(report),
        "by": by,
        "lines": [
            {"label": x.label, "params": x.params, "forward": x.forward, "backward": _trained(report, x.backward)}
            for x in ordered(report.lines(by), by)
        ],
        "routed": [
            {
                "paths": list(paths),
                "capacity": r.capacity,
                "share": float(r.share),
                "granularity": r.granularity,
                "keys": r.keys,
                "router": r.router,
            }
            for paths, r in routed(report).items()
        ],
        "dense_twin": None,
        "masked_windows": {"layers": layers, "flops_outside": saved},
        "free": free_work(report),
        "rows": rows(report),
    }
    if work.sampling:
        document["kv_cache"] = {"bytes": kv_bytes(report), "dtype": DTYPE, "tokens": work.context + work.seq_len}
    if macs:
        document["macs"] = {
            name: value if value is None else whole(Fraction(value) / convention.multiply_add) for name, value in flops(report).items()
        }
    if twin:
        ratio = Fraction(report.flops.forward) / Fraction(twin.flops.forward)
        document["dense_twin"] = {"params": {"total": twin.params.total}, "flops": flops(twin), "forward_ratio": float(ratio)}
    if sampling:
        document["sampling"] = {routing: flops(r) | {"kv_cache_bytes": kv_bytes(r)} for routing, r in sampling.items()}
    return document


def training_document(run: TrainingRun, timing: Cluster | Spent | None) -> dict[str, Any]:
    """The key `training`: a whole run, and how long it takes a cluster, or how well it used the time that it took."""
    document = asdict(run)
    if isinstance(timing, Cluster):
        document["cluster"] = asdict(timing) | {"seconds": timing.seconds(run.flops), "device_hours": timing.device_hours(run.flops)}
    elif timing:
        document["spent"] = asdict(timing) | {"mfu": timing.mfu(run.flops)}
    return document


def flops(report: Report) -> dict[str, Any]:
    f = report.flops
    return {
        "forward": f.forward,
        "backward": _trained(report, f.backward),
        "train_step": _trained(report, f.train_step),
        "forward_per_token": f.forward_per_token,
    }


def _trained(report: Report, value: Any) -> Any:
    """A figure of the backward pass; None at sampling, which has none."""
    return None if report.work.sampling else value


def rows(report: Report) -> list[dict[str, Any]]:
    """Every operation of every module: path, kind, forward FLOPs, parameters."""
    convention, found = report.convention, []
    for op in report.rows:
        one = Fraction(1, op.repeat)
        values = {
            "flops": whole(convention.forward(op) * one),
            "backward_flops": _trained(report, whole(convention.backward(op) * one)),
            "params": whole(op.params * one),
        }
        kind = getattr(op, "what", op.kind)
        found += [{"path": path, "kind": kind, "component": op.component, **values} for path in op.paths()]
    return in_order(found, lambda row: row["path"])
