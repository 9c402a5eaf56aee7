"""Models that fool naive counters: each is counted right, or refused with a reason; never counted too low in silence."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from modcalc.models.routing import Routed, Routing
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from modcalc import account, build
from modcalc.errors import CountFailed
from modcalc.measure import agreement
from modcalc.measure.counters import COUNTERS, count
from modcalc.spec.schema import Spec

B, T, D, F, H = 2, 6, 16, 32, 4
LINEAR = 2 * B * T * D  # FLOPs per output feature
ATTENTION = 2 * B * T * T * (D + D)


def x() -> Tensor:
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(0))


class Calls(nn.Module):
    """A module whose forward is a function of (module, x); submodules as given."""

    def __init__(self, function: Callable[..., Any], **children: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def two_layers() -> dict[str, nn.Module]:
    return dict(a=nn.Linear(D, F), b=nn.Linear(F, D))


@pytest.fixture(params=COUNTERS)
def counter(request: pytest.FixtureRequest) -> str:
    return request.param


def test_fast_path_of_an_encoder_layer(counter: str) -> None:
    """Under eval and no_grad torch runs one fused operator, which FlopCounterMode alone counts as 0."""
    layer = nn.TransformerEncoderLayer(D, H, F, batch_first=True).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as naive:
        layer(x())
    assert naive.get_total_flops() == 0
    with torch.no_grad():
        counted = count(nn.TransformerEncoder(layer, 2).eval(), x(), counter)
    block = {"self_attn": LINEAR * 4 * D + ATTENTION, "linear1": LINEAR * F, "linear2": LINEAR * F}
    assert counted.by_path == {f"layers.{i}.{name}": flops for i in (0, 1) for name, flops in block.items()}
    assert torch.backends.mha.get_fastpath_enabled()


def test_fast_path_of_multihead_attention(counter: str) -> None:
    attention = nn.MultiheadAttention(D, H, batch_first=True).eval()
    for need_weights in (True, False):
        with torch.no_grad():
            counted = count(attention, (x(),) * 3, counter, kwargs=dict(need_weights=need_weights))
        assert counted.total_flops == LINEAR * 4 * D + ATTENTION


@pytest.mark.skipif(not hasattr(torch, "_grouped_mm"), reason="this torch has no _grouped_mm")
def test_grouped_mm(counter: str) -> None:
    weight = torch.randn(3, D, F, dtype=torch.bfloat16)
    ends = torch.tensor([2, 5, B * T], dtype=torch.int32)
    model = Calls(lambda m, x: torch._grouped_mm(x.flatten(0, 1).bfloat16(), weight, offs=ends))
    assert count(model, x(), counter).total_flops == LINEAR * F


def test_inference_mode(counter: str) -> None:
    with torch.inference_mode():
        counted = count(nn.Sequential(nn.Linear(D, F), nn.Linear(F, D)), x(), counter)
        assert torch.is_inference_mode_enabled()
    assert counted.by_path == {"0": LINEAR * F, "1": LINEAR * F}


def boolean_mask(m: Calls, x: Tensor) -> Tensor:
    kept = x[..., 0] > 0
    out = torch.zeros(*x.shape[:2], D, device=x.device)
    out[kept] = m.b(m.a(x[kept]))
    return out


def test_boolean_mask_routing_counts_this_input_only(counter: str) -> None:
    kept = int((x()[..., 0] > 0).sum())
    assert 0 < kept < B * T
    assert count(Calls(boolean_mask, **two_layers()), x(), counter).total_flops == 2 * kept * 2 * D * F


def test_boolean_mask_routing_has_no_count_without_data(counter: str) -> None:
    with pytest.raises(CountFailed, match="nonzero"):
        count(Calls(boolean_mask, **two_layers()).to("meta"), x().to("meta"), counter)


def test_routing_by_item_has_no_count_without_data(counter: str) -> None:
    model = Calls(lambda m, x: m.b(m.a(x[:, : int(x.sum().item())])), **two_layers()).to("meta")
    with pytest.raises(CountFailed, match="meta"):
        count(model, x().to("meta"), counter)


def test_einsum_attention(counter: str) -> None:
    def attend(m: Calls, x: Tensor) -> Tensor:
        q = x.unflatten(-1, (H, -1))
        return torch.einsum("b h t s, b s h n -> b t h n", torch.einsum("bthn,bshn->bhts", q, q).softmax(-1), q)

    assert count(Calls(attend), x(), counter).total_flops == ATTENTION


def test_einsum_of_three_operands_is_refused_by_fvcore_and_run_by_torch() -> None:
    model = Calls(lambda m, x: torch.einsum("btd,bsd,bse->bte", x, x, x))
    with pytest.raises(CountFailed, match="order of contraction"):
        count(model, x(), "fvcore")
    assert count(model, x(), "torch").total_flops > 0


@pytest.mark.parametrize("how", ["wrapped", "in place", "inner", "function"])
def test_compiled_modules(how: str, counter: str) -> None:
    model: nn.Module = nn.Sequential(nn.Linear(D, F), nn.Linear(F, D))
    if how == "wrapped":
        model = torch.compile(model)
    elif how == "in place":
        model.compile()
    elif how == "inner":
        model = nn.Sequential(torch.compile(model[0]), model[1])
    else:
        product = torch.compile(lambda a, b: a @ b)
        model = Calls(lambda m, x: product(x, x.transpose(1, 2)))
    if how == "function" and counter == "fvcore":
        with pytest.raises(CountFailed, match="dynamo-optimized"):
            count(model, x(), counter)
        return
    before = [dict(vars(module)) for module in model.modules()]
    counted = count(model, x(), counter)
    assert counted.by_path == ({"": ATTENTION // 2} if how == "function" else {"0": LINEAR * F, "1": LINEAR * F})
    after = [dict(vars(module)) for module in model.modules()]
    assert [{k: v for k, v in m.items() if k in ("forward", "_compiled_call_impl")} for m in before] == [
        {k: v for k, v in m.items() if k in ("forward", "_compiled_call_impl")} for m in after
    ]


def test_outputs_of_any_nesting(counter: str) -> None:
    model = Calls(lambda m, x: {"y": [m.b(m.a(x)), None], "n": 3, "who": "x"}, **two_layers())
    assert count(model, x(), counter).by_path == {"a": LINEAR * F, "b": LINEAR * F}


def test_outputs_that_hide_their_tensors(counter: str) -> None:
    class Box:
        def __init__(self, y: Tensor) -> None:
            self.y = y

    with pytest.raises(CountFailed, match="returns Box"):
        count(Calls(lambda m, x: Box(m.a(x)), **two_layers()), x(), counter)


def test_work_that_no_output_depends_on(counter: str) -> None:
    """A trace prunes it: a router that only steers control flow, an unused head."""

    def steered(m: Calls, x: Tensor) -> Tensor:
        m.a(x)
        return m.b(x)

    assert count(Calls(steered, a=nn.Linear(D, F), b=nn.Linear(D, D)), x(), counter).by_path == {"a": LINEAR * F, "b": LINEAR * D}


def test_checkpointing_counts_as_hardware_flops() -> None:
    """Recomputation is work that is done: HFU, not MFU. torch stops recomputing after the last tensor that backward needs."""

    def block(m: Calls, x: Tensor) -> Tensor:
        return checkpoint(lambda y: m.b(m.a(y).relu()), x, use_reentrant=False)

    model = Calls(lambda m, x: block(m, m.first(x)), first=nn.Linear(D, D), **two_layers())
    counted = count(model, x(), "torch", backward=True)
    assert counted.by_path == {"first": 2 * LINEAR * D, "a": 4 * LINEAR * F, "b": 3 * LINEAR * F}
    assert count(model, x(), "fvcore").by_path == {"first": LINEAR * D, "a": LINEAR * F, "b": LINEAR * F}


def test_reentrant_checkpointing_cannot_be_traced() -> None:
    model = Calls(lambda m, x: checkpoint(lambda y: m.b(m.a(y)), m.first(x), use_reentrant=True), first=nn.Linear(D, D), **two_layers())
    with pytest.raises(CountFailed, match="fvcore"):
        count(model, x(), "fvcore")
    assert count(model, x(), "torch", backward=True).by_path == {"first": 2 * LINEAR * D, "a": 4 * LINEAR * F, "b": 4 * LINEAR * F}


class Gram(torch.autograd.Function):
    """Hides a matrix product from a trace."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        return a @ a.transpose(-1, -2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


UNSEEN: dict[str, tuple[nn.Module, str, str]] = {
    "lstm": (nn.LSTM(D, F, batch_first=True), "aten::lstm", "rnn_layer|aten::lstm"),
    "cdist": (Calls(lambda m, x: torch.cdist(x, x)), "aten::cdist", "aten::_cdist_forward|aten::_euclidean_dist"),
    "int_mm": (
        Calls(lambda m, x: torch._int_mm(torch.ones(32, 16, dtype=torch.int8), torch.ones(16, 32, dtype=torch.int8)) + x.sum()),
        "aten::_int_mm",
        "aten::_int_mm",
    ),
    "solve": (Calls(lambda m, x: torch.linalg.inv(x @ x.transpose(1, 2))), "aten::linalg_inv", "aten::linalg_inv"),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_operators_without_a_formula_fail_loudly(name: str, counter: str) -> None:
    model, traced, dispatched = UNSEEN[name]
    with pytest.raises(CountFailed, match="has no formula for .*" + (traced if counter == "fvcore" else f"({dispatched})")) as failed:
        count(model, x(), counter)
    assert failed.value.unseen and set(failed.value.unseen.values()) == {1}
    assert list(failed.value.unseen) == sorted(failed.value.unseen)


def test_hidden_autograd_functions() -> None:
    model = Calls(lambda m, x: Gram.apply(x))
    with pytest.raises(CountFailed, match="PythonOp.Gram"):
        count(model, x(), "fvcore")
    assert count(model, x(), "torch").total_flops == ATTENTION // 2


def test_fake_tensors_are_refused_and_leave_no_trace(counter: str) -> None:
    with FakeTensorMode():
        model = nn.Linear(D, F)
        if counter == "fvcore":
            with pytest.raises(CountFailed, match="meta device"):
                count(model, torch.randn(B, T, D), counter)
        else:
            assert count(model, torch.randn(B, T, D), counter).total_flops == LINEAR * F
    assert count(nn.Linear(D, F), x(), counter).total_flops == LINEAR * F


def mask_multiply(self: Routed, tokens: Tensor, at: Any, sub: Callable[..., Tensor], then: Any = None) -> tuple[Tensor, Routing]:
    """The common mistake: compute every token, multiply by 0 or 1."""
    scores = self.router(tokens)
    kept = scores.topk(self.routing.capacity, dim=1).indices.sort(dim=1).values
    mask = torch.zeros_like(scores).scatter(1, kept, 1.0)
    return tokens + (mask * scores)[..., None] * (sub(tokens, at) - tokens), Routing(scores, kept, None)


@pytest.mark.parametrize("backward", [False, True])
def test_mask_multiply_mod_counts_as_dense(backward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = dict(name="mask", vocab_size=11, seq_len=16, d_model=8, n_layers=4, attention=dict(n_heads=2), mlp=dict(d_ff=12))
    dense, routed = account(msgspec.convert(raw, Spec)), account(msgspec.convert({**raw, "mod": dict(capacity=0.25)}, Spec))
    routers = sum(op.flops() for op in routed.rows if op.component == "router")
    assert routers > 0
    monkeypatch.setattr(Routed, "route", mask_multiply)
    for counter in ("torch",) if backward else COUNTERS:
        verdict = agreement.run(routed, counter, backward=backward)
        assert verdict.agrees is False
        times = 3 if backward else 1
        assert verdict.counted == times * (dense.flops.forward + routers)
        assert {d.path.split(".")[1] for d in verdict.differences} == {"1", "3"}
        assert {d.path for d in verdict.differences} >= {"blocks.1.attn.core", "blocks.1.mlp.up_proj", "blocks.3.attn.q_proj"}


def test_counts_do_not_depend_on_earlier_ones(counter: str) -> None:
    """Twice the same, whatever failed in between."""
    raw = dict(name="again", vocab_size=11, seq_len=16, d_model=8, n_layers=2, attention=dict(n_heads=2), mlp=dict(d_ff=12), mod={})
    model = build(msgspec.convert(raw, Spec))
    first = count(model, (2, 16), counter)
    for bad in (boolean_mask, lambda m, x: torch.cdist(x, x), lambda m, x: m.a(x) @ m.a(x)):
        with pytest.raises(CountFailed):
            count(Calls(bad, **two_layers()).to("meta"), x().to("meta"), counter)
    assert count(model, (2, 16), counter) == first
    assert torch._C._get_tracing_state() is None
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks
