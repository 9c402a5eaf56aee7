"""What the training loss keeps for the backward pass, and holds at the most: see modcalc.models.losses."""

from collections.abc import Iterator

from modcalc.cost.tensors import Tensor
from modcalc.cost.workload import Workload
from modcalc.spec.plan import Plan, RoutingPlan


def saved_by_loss(plan: Plan, work: Workload) -> Iterator[Tensor]:
    """Tensors of the cross-entropy over all logits, and of the auxiliary losses of routers and predictors, which see copies of all scores."""
    yield Tensor("loss:log_softmax", work.tokens * plan.embedding.vocab_size, "wide")
    yield Tensor("loss:targets", work.tokens, "index")
    yield Tensor("loss:counted", 1, "wide")
    for i, (tokens, r) in enumerate(plan.routings):
        entries = work.batch * tokens
        for label in _labels(r):
            yield Tensor(f"loss:{label} {i}", entries, "wide")
        if r.predictor_width is not None:
            yield Tensor(f"loss:predicted {i}", entries, "wide")
        if r.router == "learned" and (r.aux_loss or r.z_loss):
            yield Tensor(f"loss:scores {i}", entries, "wide")
        # The recursion before may have passed fewer tokens than its buffer holds: those that are there share the mean.
        if i and plan.recursion and r.selection == "threshold" and (_labels(r) or r.z_loss):
            yield Tensor(f"loss:shares {i}", entries, "wide")


def in_its_backward_pass(plan: Plan, work: Workload) -> Tensor:
    """What comes on top when the loss runs backward: gradients of log-probabilities and of logits, both at once. By then gradients have
    taken the place of what the auxiliary losses keep, but for their labels.
    """
    labels = work.batch * sum(tokens * len(_labels(r)) for tokens, r in plan.routings)
    return Tensor("loss:gradients", max(0, 2 * work.tokens * plan.embedding.vocab_size - labels), "wide")


def _labels(r: RoutingPlan) -> set[str]:
    """What router and predictor learn: which tokens are among the top k, and with selection by threshold which of them pass."""
    labels = {"membership"} if r.router == "learned" and r.aux_loss else set()
    if r.predictor_width is not None:
        labels.add("passing" if r.selection == "threshold" else "membership")
    return labels
