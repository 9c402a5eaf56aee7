"""fvcore's count: a trace of the forward pass, its matrix products by fvcore's formulas, in FLOPs (fvcore counts multiply-adds).

fvcore knows no formula for attention, grouped or batched-matrix-plus-bias products, and rounds einsum to 4 digits: those
are ours. Its formulas for norms and pooling are left out, they are no matrix products.
"""

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from modcalc.errors import CountFailed, reason
from modcalc.measure.counters import Counted
from modcalc.measure.free_ops import free_or_fail
from modcalc.measure.products import attention_macs, einsum_macs, grouped_linear_macs, grouped_macs, matmul_macs
from modcalc.measure.running import is_fake, outputs_of, paths_of

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")  # torch 2.15 says so of fvcore's losses
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import addmm_flop_jit, bmm_flop_jit, conv_flop_jit, get_shape, linear_flop_jit, matmul_flop_jit

Handle = Callable[[list[Any], list[Any]], Any]


def _by_shape(macs: Callable[..., int], first: int, last: int) -> Handle:
    """A handle that computes from the shapes of the inputs first..last-1."""
    return lambda inputs, outputs: macs(*(get_shape(value) for value in inputs[first:last]))


def _einsum(inputs: list[Any], outputs: list[Any]) -> int:
    return einsum_macs(inputs[0].toIValue(), [get_shape(value) for value in inputs[1].node().inputs()])


HANDLES: dict[str, Handle] = {
    "aten::_convolution": conv_flop_jit,
    "aten::_grouped_mm": _by_shape(grouped_macs, 0, 2),
    "aten::addbmm": _by_shape(matmul_macs, 1, 3),
    "aten::addmm": addmm_flop_jit,
    "aten::addmv": _by_shape(matmul_macs, 1, 3),
    "aten::baddbmm": _by_shape(matmul_macs, 1, 3),
    "aten::bmm": bmm_flop_jit,
    "aten::dot": _by_shape(matmul_macs, 0, 2),
    "aten::einsum": _einsum,
    "aten::linear": linear_flop_jit,
    "aten::matmul": _by_shape(matmul_macs, 0, 2),
    "aten::mm": matmul_flop_jit,
    "aten::mv": _by_shape(matmul_macs, 0, 2),
    "aten::scaled_dot_product_attention": _by_shape(attention_macs, 0, 3),
    "modcalc::grouped_mm": _by_shape(grouped_linear_macs, 0, 2),
}


class _Flat(nn.Module):
    """The model with its outputs as a tuple of tensors, which is all that a trace can return.

    What every module returns is among them: a trace drops work that no output depends on.
    """

    def __init__(self, model: nn.Module, kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.kwargs = kwargs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        made: list[Tensor] = []
        for module in self.model.modules():
            # No handles are kept: running.undisturbed restores all hooks.
            module.register_forward_hook(lambda _module, _inputs, output: made.extend(t for t in tree_leaves(output) if isinstance(t, Tensor)))
        outputs = outputs_of(self.model(*inputs, **self.kwargs))
        return (*outputs, *made)


def count(model: nn.Module, inputs: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Counted:
    """Forward FLOPs of `model(*inputs, **kwargs)`; see modcalc.measure.counters.count, which prepares and restores the model."""
    if is_fake(model, inputs):
        raise CountFailed("fvcore cannot trace fake tensors (it would break every later trace of the process); build the model on the meta device")
    analysis = FlopCountAnalysis(_Flat(model, kwargs), inputs).clear_op_handles().set_op_handle(**HANDLES)
    # fvcore skips some operators in silence: let it report all of them, our list says which are free.
    analysis._ignored_ops.clear()
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    try:
        inclusive = analysis.by_module()
    except CountFailed:
        raise
    except Exception as wrong:
        raise CountFailed(f"fvcore cannot trace the model: {reason(wrong)}; counter 'torch' runs it without a trace") from wrong
    free = free_or_fail("fvcore", analysis.unsupported_ops(), set(HANDLES))
    paths = {f"model.{name}".rstrip("."): path for name, path in paths_of(model).items()} | {"": ""}
    by_path = dict.fromkeys(paths.values(), 0)
    for name, macs in inclusive.items():
        # What a module counts with its children is taken off the module above it.
        by_path[paths[name]] += 2 * macs
        if name:
            by_path[paths[name.rpartition(".")[0]]] -= 2 * macs
    return Counted("fvcore", False, 2 * inclusive[""], {path: flops for path, flops in by_path.items() if flops}, free)
