"""What a reader must know of an account beside its sums: what is routed, what is expected only, what is free, what windows leave out."""

from msgspec.structs import replace

from modcalc.cost.account import Report, count_flops
from modcalc.cost.ops import AttentionCore, Linear, Lookup, Op, Pointwise, whole
from modcalc.cost.saved import picked
from modcalc.spec.plan import Dim, RoutingPlan


def is_expectation(report: Report) -> bool:
    """Whether the FLOPs are expected ones: at sampling, tokens decide on their own about blocks, no-op experts, or experts that choose them.

    So are pairs that count exactly where some of the tokens that bring keys ask: how many they see depends on which they are.
    """
    plan, work = report.plan, report.work
    if not work.sampling:
        cores = [op for op in report.rows if isinstance(op, AttentionCore) and op.among is not None]
        return report.convention.causal == "exact" and any(op.tokens < op.among and op.window != 1 for op in cores)
    return plan.experts_choose or (work.routing == "expected" and (plan.is_mod or any(e.n_noop for e in plan.experts)))


def routed(report: Report) -> dict[tuple[str, ...], RoutingPlan]:
    """Paths of the routed blocks (or recursions) that keep the same number of tokens -> their routing, in order."""
    plan = report.plan
    if plan.recursion:
        each = {f"recursions.{i}": r for i, r in enumerate(plan.recursion.routings)}
    else:
        each = {f"blocks.{i}": r for i, r in plan.routed.items()}
    alike: dict[Dim, list[str]] = {}
    for path, r in each.items():
        alike.setdefault(r.capacity, []).append(path)
    return {tuple(paths): each[paths[0]] for paths in alike.values()}


def routing_flops(report: Report, backward: bool = False) -> Dim:
    """FLOPs of routers and predictors, what Mixture-of-Depths adds to the model: forward, or of a train step."""
    return sum(line.flops(backward) for line in report.lines("component") if line.label in ("router", "predictor"))


def masked_windows(report: Report, backward: bool = False) -> tuple[list[int], Dim]:
    """(layers whose window is computed in full and then masked, FLOPs that skipping it would save: forward, or of a train step)."""
    if report.convention.causal != "full":
        return [], 0
    windows = [op for op in report.rows if isinstance(op, AttentionCore) and op.window is not None and not op.decode and op.window < op.context]
    now, exact = (count_flops(windows, report.work, one) for one in (report.convention, replace(report.convention, causal="exact")))
    return sorted({i for op in windows for i in op.layers}), whole(now.of(backward) - exact.of(backward))


def routed_windows(report: Report) -> list[int]:
    """Layers of routed blocks whose window bounds the pairs that count (at decode, those that are cached): by the tokens kept, as
    positions are the data's. Where all tokens bring keys, their positions are known.
    """
    cores = [op for op in report.rows if isinstance(op, AttentionCore) and op.window is not None and op.among is None and picked(op)]
    bounded = report.convention.causal in ("window", "half", "exact")
    held = report.work.context + 1
    return sorted({i for op in cores if (op.window < held if op.decode else bounded and op.context > 1) for i in op.layers})


_FREE = {
    "activation": "activations",
    "residual": "residual additions",
    "rotary": "rotary positions",
    "select": "top-k selection",
    "gate": "gates",
    "factors": "factors of experts",
    "scale": "scaling",
}


def free_work(report: Report) -> list[str]:
    """What the model does and the convention bills at 0 FLOPs, in the order of the model."""
    convention, found, billed = report.convention, {}, set()
    for op in report.rows:
        if convention.forward(op) == 0:
            found[_work(op)] = None
        else:
            billed.add(_work(op))  # another row of the same work may have no parameters of its own
        if isinstance(op, Linear) and op.bias and convention.forward(replace(op, bias=False)) == convention.forward(op):
            found["bias additions"] = None
    return [work for work in found if work not in billed]


def _work(op: Op) -> str:
    if isinstance(op, Lookup):
        return "token lookup" if op.path == "embedding.tokens" else "position lookup"
    if isinstance(op, Pointwise):
        return _FREE.get(op.what, op.what)
    if op.kind == "norm":
        return "norms"
    return "attention pairs" if isinstance(op, AttentionCore) else op.component
