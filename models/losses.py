"""What training minimises. Every loss is computed in fp32 (fp64 in a double model)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modcalc.errors import UsageError
from modcalc.spec.plan import Plan, RoutingPlan

from .decoder import Output
from .precision import wide
from .routing import CausalRouting, Routing


def cross_entropy(output: Output, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token. targets: [B, T] int64, the token that follows each position; -100: not counted. Raises
    UsageError for targets of another shape.
    """
    logits = output.logits.to(wide(output.logits.dtype))
    if targets.shape != logits.shape[:-1]:
        raise UsageError(f"targets of shape {list(targets.shape)}: one for each token is needed, {list(logits.shape[:-1])}")
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def membership(routing: Routing) -> Tensor:
    """[..., B, T'] 1.0 where a token is among the top-k of its own sequence: what the router learns, and the predictor."""
    return torch.zeros_like(routing.scores).scatter(-1, routing.kept, 1.0)


def passing(routing: Routing) -> Tensor:
    """The same of tokens above the threshold, without those that only fill a buffer: what a predictor learns with selection by threshold."""
    return membership(routing) * (routing.scores > 0)


def auxiliary(plan: Plan, output: Output) -> dict[str, Tensor]:
    """Unweighted means over all tokens, sequences and routed blocks (or recursions), of what the plan has; tokens that only fill a
    buffer of the recursion before do not count:

    router_bce: binary cross-entropy of router outputs as logits against `membership` (arXiv 2404.02258, section 3.5).
    predictor_bce: the same of the predictor's, with selection by threshold against `passing`; its gradient reaches the predictor only.
    router_z: mean squared router output (z-loss, ST-MoE, arXiv 2202.08906, section 3.3, for a single logit).

    Raises UsageError for an output of causal_forward, which chose no top-k.
    """
    if any(isinstance(routing, CausalRouting) for routing in output.routing):
        raise UsageError(f"{plan.name}: routing of causal_forward; these losses are of the training forward, model(tokens)")
    # All routings of a shape at once: launches of a few small kernels for each block would be time in which nothing computes.
    alike: dict[tuple, list[Routing]] = {}
    for r, routing in zip(routings(plan), output.routing, strict=True):
        alike.setdefault((r.router, routing.scores.shape, routing.kept.shape, routing.seen is None), []).append(routing)
    threshold = any(r.selection == "threshold" for r in routings(plan))
    sums: dict[str, list[Tensor]] = {"router_bce": [], "predictor_bce": [], "router_z": []}
    for (router, *_), group in alike.items():
        if router != "learned" and group[0].predicted is None:
            continue
        stacked = Routing(*map(_stacked, zip(*group, strict=True)))
        scores, target, share = stacked.scores, membership(stacked), _shares(stacked.seen, stacked.scores.dtype)
        if router == "learned":
            sums["router_bce"].append(_means(F.binary_cross_entropy_with_logits(scores, target, reduction="none"), share))
            sums["router_z"].append(_means(scores.square(), share))
        if stacked.predicted is not None:
            target = passing(stacked) if threshold else target
            sums["predictor_bce"].append(_means(F.binary_cross_entropy_with_logits(stacked.predicted, target, reduction="none"), share))
    return {name: torch.stack(values).sum() / len(output.routing) for name, values in sums.items() if values}


def _shares(seen: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """[n, B, T'], of each token in the mean over those of its routing that are there."""
    return None if seen is None else seen.to(dtype) / seen.sum((-2, -1), keepdim=True).clamp_min(1)


def _means(losses: Tensor, share: Tensor | None) -> Tensor:
    """The sum over routings of the means of their losses [n, B, T']."""
    return len(losses) * losses.mean() if share is None else (losses * share).sum()


def _stacked(tensors: tuple[Tensor | None, ...]) -> Tensor | None:
    return None if tensors[0] is None else torch.stack(tensors)


def routings(plan: Plan) -> tuple[RoutingPlan, ...]:
    """The plan's routings in the order of Output.routing."""
    return tuple(r for _, r in plan.routings)


def training_loss(model: nn.Module, tokens: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss to minimise, its unweighted parts with "cross_entropy"). tokens, targets: [B, T] int64.

    The router's losses are weighted by the spec's aux_loss and z_loss; the predictor's by 1, as its gradient reaches
    nothing else.
    """
    return objective(model.plan, model(tokens), targets)


def objective(plan: Plan, output: Output, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """As `training_loss`, of what the model put out: also where it is wrapped, as in DDP, and the wrapper has no plan."""
    loss = cross_entropy(output, targets)
    parts = {"cross_entropy": loss.detach()}
    extra = auxiliary(plan, output)
    if extra:
        r = routings(plan)[0]
        weights = {"router_bce": r.aux_loss, "predictor_bce": 1.0, "router_z": r.z_loss}
        for name, value in extra.items():
            parts[name] = value.detach()
            # A weight of 0 leaves no trace in the graph.
            if weights[name]:
                loss = loss + weights[name] * value
    return loss, parts
