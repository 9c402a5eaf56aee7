"""The dense twin: what a model would cost without routing, recursions written out."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modcalc.cost.account import account, dense_twin
from modcalc.cost.memory import kv_cache_bytes
from modcalc.cost.remarks import routing_flops
from modcalc.spec.resolve import by_layer, expert_layers
from modcalc.spec.schema import Spec
from modcalc.spec.validate import find_problems

EXPERTS = dict(n_experts=4, top_k=2, d_ff=64, layers=[1, 2])


def spec_of(**changes: object) -> Spec:
    shape = dict(name="rec", vocab_size=100, seq_len=16, d_model=8, n_layers=4, attention=dict(n_heads=2), mlp=dict(d_ff=16))
    return msgspec.convert({**shape, **changes}, Spec)


def test_shared_blocks_are_copied_as_they_are() -> None:
    """The layers 0 1 2 1 2 3, by hand."""
    twin = dense_twin(spec_of(moe=EXPERTS, mod=dict(recursions=2, capacity=[1.0, 0.5], layers=[1, 2])))
    by_hand = spec_of(n_layers=6, moe={**EXPERTS, "layers": [1, 2, 3, 4]})
    assert account(twin).by_path() == account(by_hand).by_path()
    assert account(twin).flops.forward == 406_528 and account(twin).params == account(by_hand).params
    for kind in ("learned", "rotary"):
        twin = dense_twin(spec_of(positions=dict(kind=kind), attention=dict(n_heads=2, window=5), mod=dict(recursions=2, capacity=[1.0, 0.5])))
        plain = spec_of(positions=dict(kind=kind), attention=dict(n_heads=2, window=5))
        assert (twin.positions, twin.attention, twin.moe) == (plain.positions, plain.attention, None), "without a pattern there is none to copy"


@st.composite
def recursive(draw: st.DrawFn) -> Spec:
    n = draw(st.integers(1, 5))
    first = draw(st.integers(0, n - 1))
    last = draw(st.integers(first, n - 1))
    times = draw(st.integers(1, 3))
    pattern = st.lists(st.sampled_from([None, 2, 5]), min_size=1, max_size=n)
    changes: dict = dict(
        n_layers=n,
        attention=dict(n_heads=2, window=draw(st.none() | pattern)),
        positions=dict(rotated=draw(st.none() | st.lists(st.booleans(), min_size=1, max_size=n))),
        mod=dict(recursions=times, capacity=[1.0] * times, layers=draw(st.sampled_from([None, list(range(first, last + 1))]))),
    )
    if draw(st.booleans()):
        chosen = draw(st.sets(st.integers(0, n - 1), min_size=1))
        changes["moe"] = {**EXPERTS, "layers": sorted(chosen)} if draw(st.booleans()) else dict(n_experts=4, top_k=2, every=draw(st.integers(1, n)))
    return spec_of(**changes)


@given(recursive().filter(lambda spec: not find_problems(spec)))
def test_at_full_capacity_routers_are_the_only_difference(spec: Spec) -> None:
    twin = dense_twin(spec)
    assert find_problems(twin) == [] and twin.mod is None
    shared = spec.mod.layers or list(range(spec.n_layers))
    order = [*range(shared[0]), *shared * spec.mod.recursions, *range(shared[-1] + 1, spec.n_layers)]
    assert by_layer(twin) == [by_layer(spec)[i] for i in order]
    assert [n in expert_layers(twin) for n in range(len(order))] == [i in expert_layers(spec) for i in order]
    for causal in ("full", "half", "exact"):
        own = account(spec, phase="train", causal=causal)
        dense = account(twin, phase="train", causal=causal).flops
        assert own.flops.forward - routing_flops(own) == dense.forward and own.flops.train_step - routing_flops(own, True) == dense.train_step
    assert kv_cache_bytes(account(spec).plan, 40) == kv_cache_bytes(account(twin).plan, 40)


@pytest.mark.parametrize("capacity", [0.5, 3])
def test_without_recursions_only_routing_goes(capacity: float) -> None:
    spec = spec_of(moe=EXPERTS, mod=dict(capacity=capacity), budget=dict(params=1))
    assert dense_twin(spec) == msgspec.structs.replace(spec, name="rec (dense twin)", mod=None, budget=None)
    assert dense_twin(dense_twin(spec)) is not spec and dense_twin(spec_of()) == spec_of()
