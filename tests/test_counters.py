"""Counting any torch module: paths, lists of operators, and nothing left changed."""

from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from modcalc.errors import CountFailed, MissingDependency, UsageError
from modcalc.measure import counters, free_ops
from modcalc.measure.counters import COUNTERS, Counted, count
from modcalc.measure.running import paths_of


class Two(nn.Module):
    """Two uses of one layer, a layer of its own, work of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.again = self.first
        self.inner = nn.Sequential(nn.Linear(8, 4, bias=False), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        y = self.again(self.first(x))
        return self.inner(y @ y.transpose(-1, -2) @ y)


# --- operators ----------------------------------------------------------------------------------------------------------------------------------

PRODUCTS = """
    _addmm_activation _cdist_forward _conv_depthwise2d _convolution _cudnn_rnn _efficient_attention_forward _flash_attention_forward _grouped_mm
    _int_mm _mixed_dtypes_linear _native_multi_head_attention _scaled_dot_product_flash_attention _scaled_mm _sparse_mm _transformer_encoder_layer_fwd
    _trilinear _weight_int4pack_mm addbmm addmm addmm_ addmv addr baddbmm bilinear bmm cdist chain_matmul conv1d conv2d convolution
    convolution_backward cosine_similarity dot einsum fft_fft gru inner kron linalg_matmul linalg_multi_dot linalg_norm
    linear linear_backward lstm matmul
    matmul_backward mkldnn_linear mm mv scaled_dot_product_attention sparse_sampled_addmm tensordot vdot
"""


def test_no_product_is_taken_for_free() -> None:
    for name in PRODUCTS.split():
        assert not free_ops.is_free(f"aten::{name}"), name
    for name in ("custom::relu", "aten::no_such_operator", "prim::PythonOp.Gram", "prim::CallFunction", "higher_order::flex_attention"):
        assert not free_ops.is_free(name), name


def test_what_is_free() -> None:
    for name in (
        "add",
        "add_",
        "gelu",
        "gelu_backward",
        "_softmax_backward_data",
        "topk",
        "gather",
        "view",
        "view_copy",
        "embedding_dense_backward",
        "sort",
    ):
        assert free_ops.is_free(f"aten::{name}"), name
    assert free_ops.is_free("prim::Constant")


def test_what_is_not_worth_listing() -> None:
    """Views, bookkeeping and what is no tensor work; only torch's own."""
    for name in ("aten::view", "aten::_unsafe_view", "aten::size", "prim::Constant", "prim::PythonOp._NoopSaveInputs"):
        assert free_ops.is_silent(name), name
    for name in ("aten::gelu", "aten::topk", "custom::view", "custom::size", "prim::PythonOp", "prim::CallFunction"):
        assert not free_ops.is_silent(name), name


def test_products_of_torch_that_have_no_formula_anywhere_are_known_to_be_products() -> None:
    """Whatever its name says to be a matrix product, a convolution or attention must never be free."""
    words = ("mm", "matmul", "conv", "attention", "linear", "bilinear", "einsum", "lstm", "gru", "rnn", "dot")
    names = {full.split(".")[0] for full in torch._C._dispatch_get_all_op_names() if full.startswith("aten::")}
    suspects = {n for n in names if any(word in n.removeprefix("aten::").split("_") for word in words)}
    assert len(suspects) > 50
    assert {n for n in suspects if free_ops.is_free(n)} == set()


def test_free_operators_are_listed_sorted_without_views() -> None:
    for counter in COUNTERS:
        free = count(Two(), torch.randn(3, 8), counter).free
        assert free == {"aten::gelu": 1}
    free = count(Function(lambda x: (x + x).softmax(-1).topk(2).values.sum()), torch.randn(3, 8), "torch").free
    assert list(free.items()) == [("aten::_softmax", 1), ("aten::add", 1), ("aten::sum", 1), ("aten::topk", 1)]


# --- counting -----------------------------------------------------------------------------------------------------------------------------------


class Function(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> object:
        return self.function(*inputs)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("counter", COUNTERS)
def test_paths_own_to_each_module(counter: str, device: str) -> None:
    counted = count(Two().to(device), torch.randn(3, 8, device=device), counter)
    by_path = {"first": 2 * 2 * 3 * 8 * 8, "": 2 * 2 * 3 * 3 * 8, "inner.0": 2 * 3 * 8 * 4}
    assert counted == Counted(counter, False, sum(by_path.values()), by_path, {"aten::gelu": 1})


def test_backward_by_path() -> None:
    """Modules that share an input, which FlopCounterMode alone mixes up; an input without gradient saves a product."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 8, bias=False)
            self.out, self.side = nn.Linear(8, 2), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.q(x) * self.v(x) + self.k(x).sum(-1, keepdim=True)
            return self.out(y), self.side(y.detach())

    for device, needs in product(("cpu", "meta"), (False, True)):
        counted = count(Shared().to(device), torch.randn(5, 8, device=device, requires_grad=needs), "torch", backward=True)
        times = 3 if needs else 2
        assert counted.by_path == {
            "q": times * 2 * 5 * 8 * 8,
            "k": times * 2 * 5 * 8 * 4,
            "v": times * 2 * 5 * 8 * 8,
            "out": 3 * 2 * 5 * 8 * 2,
            "side": 2 * 2 * 5 * 8 * 3,
        }
        assert counted.total_flops == sum(counted.by_path.values())


def test_frozen_weights_cost_no_gradient() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    model[1].weight.requires_grad_(False)
    assert count(model, torch.randn(5, 8), "torch", backward=True).by_path == {"0": 2 * 2 * 5 * 8 * 8, "1": 2 * 2 * 5 * 8 * 4}


@pytest.mark.parametrize("counter", COUNTERS)
def test_inputs(counter: str) -> None:
    embed = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 3))
    assert count(embed, (2, 7), counter).total_flops == 2 * 14 * 8 * 3
    assert count(embed, torch.ones(2, 7, dtype=torch.long), counter).total_flops == 2 * 14 * 8 * 3
    pair = Function(lambda a, b: a @ b)
    assert count(pair, (torch.randn(2, 3), torch.randn(3, 4)), counter).total_flops == 2 * 2 * 3 * 4

    class Scaled(nn.Module):
        def forward(self, x: Tensor, *, times: int) -> Tensor:
            for _ in range(times):
                x = x @ x
            return x

    assert count(Scaled(), torch.randn(3, 3), counter, kwargs=dict(times=4)).total_flops == 4 * 2 * 27


def test_products_with_vectors_count() -> None:
    """torch computes them by mv and dot, which FlopCounterMode leaves out."""
    a = torch.randn(2, 5, 3)
    for function, macs in (
        (lambda x: x @ x[0, 0], 2 * 5 * 3),
        (lambda x: torch.mv(x[0], x[0, 1]), 5 * 3),
        (lambda x: torch.addmv(x[0, :, 0], x[0], x[0, 1]), 5 * 3),
        (lambda x: torch.dot(x[0, 0], x[0, 1]), 3),
        (lambda x: torch.addbmm(torch.zeros(5, 5), x, x.transpose(1, 2)), 2 * 5 * 5 * 3),
        (lambda x: torch.baddbmm(torch.zeros(5, 5), x, x.transpose(1, 2)), 2 * 5 * 5 * 3),
    ):
        assert [count(Function(function), a, counter).total_flops for counter in COUNTERS] == [2 * macs] * 2


@pytest.mark.parametrize("counter", COUNTERS)
def test_tuples_with_none(counter: str) -> None:
    class Out(NamedTuple):
        y: Tensor
        aux: tuple[Tensor | None, ...]

    assert count(Function(lambda x: Out(x @ x, (None, x))), torch.randn(3, 3), counter).total_flops == 54


def test_a_shared_module_keeps_its_first_path() -> None:
    assert paths_of(Two()) == {"": "", "first": "first", "again": "first", "inner": "inner", "inner.0": "inner.0", "inner.1": "inner.1"}


@pytest.mark.parametrize("counter", COUNTERS)
def test_names_of_wrappers_are_no_part_of_a_path(counter: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.DataParallel(nn.Sequential(nn.Linear(8, 4))))
    assert list(count(model, torch.randn(2, 8), counter).by_path) == ["0", "1.0"]
    own = nn.Sequential()
    own.add_module("module", nn.Linear(8, 8))  # a module that is merely called so keeps its name
    assert list(count(own, torch.randn(2, 8), counter).by_path) == ["module"]


@pytest.mark.parametrize("counter", COUNTERS)
def test_the_model_is_left_as_it_was(counter: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 4))
    model[2].eval()
    calls: list[str] = []
    model[0].register_forward_hook(lambda *_: calls.append("after"))
    model[0].register_forward_pre_hook(lambda *_: calls.append("before"))
    model(torch.randn(2, 8)).sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    weights = [p.clone() for p in model.parameters()]
    hooks = [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()]
    calls.clear()
    torch.manual_seed(5)
    state = torch.get_rng_state()

    def check() -> None:
        assert torch.equal(torch.get_rng_state(), state)
        assert [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()] == hooks
        assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
        assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
        assert [m.training for m in model.modules()] == [True, True, True, False]
        assert torch.is_grad_enabled()

    count(model, torch.randn(2, 8, generator=torch.Generator()), counter, backward=counter == "torch")
    assert calls == ["before", "after"]
    check()
    with pytest.raises(CountFailed):
        count(model, torch.zeros(2, 9), counter)
    check()


def test_gradients_are_recorded_for_a_backward_pass_alone() -> None:
    """Whatever the caller's own mode is."""
    recorded: list[bool] = []
    model = nn.Sequential(nn.Linear(8, 4), Function(lambda x: recorded.append(torch.is_grad_enabled()) or x))
    for enabled, backward in product((True, False), repeat=2):
        with torch.set_grad_enabled(enabled):
            assert count(model, torch.zeros(2, 8), "torch", backward=backward).total_flops == (1 + backward) * 2 * 2 * 8 * 4
            assert recorded.pop() == backward and torch.is_grad_enabled() == enabled


# --- refusals -----------------------------------------------------------------------------------------------------------------------------------


def test_bad_arguments() -> None:
    with pytest.raises(UsageError, match="counter 'thop': one of fvcore, torch"):
        count(nn.Linear(2, 2), torch.zeros(1, 2), "thop")
    with pytest.raises(UsageError, match="forward pass only"):
        count(nn.Linear(2, 2), torch.zeros(1, 2), "fvcore", backward=True)
    with pytest.raises(CountFailed, match="no output of the model requires a gradient"):
        count(nn.Linear(2, 2).requires_grad_(False), torch.zeros(1, 2), "torch", backward=True)
    for counter in COUNTERS:
        with pytest.raises(CountFailed, match="shapes cannot be multiplied"):
            count(nn.Linear(2, 2), torch.zeros(1, 3), counter)


@pytest.mark.parametrize("missing", ["torch", "fvcore"])
def test_without_torch_or_fvcore(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    present = counters.find_spec
    monkeypatch.setattr(counters, "find_spec", lambda name: None if name == missing else present(name))
    assert counters.installed() == ([] if missing == "torch" else ["torch"])
    with pytest.raises(MissingDependency, match=rf"needs {missing}, which is not installed; run: pip install 'modcalc\[torch\]'"):
        count(nn.Linear(2, 2), torch.zeros(1, 2), "fvcore")


def test_what_is_installed() -> None:
    assert counters.installed() == ["fvcore", "torch"]
