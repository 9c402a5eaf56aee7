"""What a mixture of experts keeps for the backward pass, beside its products: see `saved`, and modcalc.models.moe."""

from collections.abc import Iterator

from modcalc.cost.ops import Pointwise
from modcalc.cost.tensors import Tensor
from modcalc.spec.plan import MoePlan


def selected_by_router(op: Pointwise) -> Iterator[Tensor]:
    """Scores, the choice and its weights. op: the router's row, whose tokens are those that choose or are chosen."""
    m: MoePlan = op.part
    tokens = op.batch * op.tokens
    outputs = tokens * (m.n_experts + m.n_noop)
    if m.choice == "expert":
        chosen = op.batch * m.n_experts * m.slots(op.tokens)
        yield Tensor(f"{op.path}:scores", outputs, "wide")
        yield Tensor(f"{op.path}:chosen", 2 * chosen, "index")  # within their sequence, and among all tokens
        if m.renormalize:
            yield Tensor(f"{op.path}:shares", 3 * chosen, "wide")  # weights, their sums, and these kept from 0
        return
    chosen = tokens * m.top_k
    yield Tensor(f"{op.path}:scores", outputs, "wide")
    yield Tensor(f"{op.path}:chosen", chosen, "index")
    if m.score == "topk_softmax":
        yield Tensor(f"{op.path}:shares", chosen, "wide")
    elif m.renormalize:
        yield Tensor(f"{op.path}:shares", chosen + 2 * tokens, "wide")
    # The order in which tokens go to experts and come back; a buffer has one place more, for what is dropped.
    there = chosen if m.dropless else op.batch * m.n_experts * m.slots(op.tokens) + 1
    yield Tensor(f"{op.path}:order", there + chosen, "index")
    if not m.dropless:
        yield Tensor(f"{op.path}:dropped", chosen, "mask")


def moved_by_experts(op: Pointwise) -> Iterator[Tensor]:
    """The experts' outputs and the weights that they are multiplied by. op: the row that puts them back."""
    m: MoePlan = op.part
    rows = op.batch * op.tokens
    yield Tensor(f"{op.path}:outputs", rows * op.size)
    if m.choice == "expert":
        # Results are added to the tokens: torch keeps what was added.
        yield Tensor(f"{op.path}:source", rows * op.size)
    yield Tensor(f"{op.path}:weights", rows)
