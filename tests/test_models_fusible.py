"""What a compiler gets in place of routing's operators: the same values and gradients, and no pass over all tokens for each of them."""

from collections.abc import Callable

import torch
from functorch.compile import make_boxed_func
from hypothesis import given, settings
from hypothesis import strategies as st
from modcalc.models import fusible
from modcalc.models.positions import Positions
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd
from variants import spec_of

from modcalc.measure.build import build
from modcalc.spec.resolve import resolve


def plain(x: Tensor, at: Tensor) -> Tensor:
    """Rows taken, changed and put back, operator by operator."""
    return x.index_copy(0, at, x.index_select(0, at).sin())


def fused(x: Tensor, at: Tensor) -> Tensor:
    return fusible.scatter(x, at, fusible.gather(x, at).sin())


@settings(max_examples=20)
@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), min_size=1, unique=True))), st.integers(0, 99))
def test_rows_and_their_gradients_are_the_same(case: tuple[int, list[int]], seed: int) -> None:
    (length, kept), random = case, torch.Generator().manual_seed(seed)
    x, grad = (torch.randn(length, 3, generator=random) for _ in range(2))
    found = []
    for run in (plain, fused):
        leaf = x.clone().requires_grad_()
        y = run(leaf, torch.tensor(kept, dtype=torch.int64))
        y.backward(grad)
        found += [(y.detach(), leaf.grad)]
    (y, g), (other_y, other_g) = found
    assert torch.equal(y, other_y)
    assert torch.equal(g, other_g)


def test_without_gradients_rows_are_put_into_what_they_came_from() -> None:
    x = torch.arange(8.0).view(4, 2)
    with torch.no_grad():
        y = fusible.scatter(x, torch.tensor([2, 0]), -torch.ones(2, 2))
    assert y.data_ptr() == x.data_ptr() and y.tolist() == [[-1, -1], [2, 3], [-1, -1], [6, 7]]


def test_a_compiled_block_makes_no_pass_over_all_tokens_for_gather_scatter_or_router() -> None:
    """Forward and backward: nothing as large as x is written or added into, and no product runs in fp32."""
    made: list[tuple[str, Tensor]] = []

    def keep(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable:
        made.extend(
            (node.target.__name__, value) for node in graph.graph.nodes if isinstance(value := node.meta.get("val"), Tensor) and callable(node.target)
        )
        return make_boxed_func(graph.forward)

    plan = resolve(spec_of(dict(n_layers=2, mod=dict(capacity=0.5))))
    model = build(plan, dtype="bf16")
    fusible.allow(model)
    x = torch.randn(2, plan.seq_len, plan.d_model, dtype=torch.bfloat16, requires_grad=True)
    block = torch.compile(model.blocks[1], fullgraph=True, dynamic=False, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep))
    y, routing = block(x, Positions.of_sequence(plan.seq_len, x.device))
    (y.sum() + routing.scores.sum()).backward()

    products = [value.dtype for name, value in made if name == "mm.default"]
    assert len(products) >= 18  # six projections, three products each
    assert set(products) == {torch.bfloat16}
    large = {name.partition(".")[0] for name, value in made if value.numel() >= x.numel()}
    assert "where" in large
    assert not large & {"index_copy", "index_add", "index_fill", "index_put", "new_zeros", "zeros", "full"}
