"""Two operators of torch.ops.modcalc: matrix products of rows sorted by group, with static shapes and a FLOP formula.

`grouped_mm` multiplies each run of rows by its own expert's matrix; `grouped_outer` is its gradient towards the
matrices. The reference loops over experts inside the operator, so neither a graph nor a counter sees a data-dependent
shape: M rows cost 2 M K N FLOPs however they are shared out.
"""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


@torch.library.custom_op("modcalc::grouped_mm", mutates_args=())
def grouped_mm(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """x: [M, K], weight: [E, N, K], offsets: [E] int64, best on the host, which reads them -> [M, N].

    Rows offsets[e - 1] … offsets[e] - 1 are multiplied by weight[e] transposed; rows from offsets[E - 1] on are 0.
    """
    out = x.new_zeros(x.shape[0], weight.shape[1])
    for expert, start, stop in _runs(offsets):
        torch.mm(x[start:stop], weight[expert].t(), out=out[start:stop])
    return out


@grouped_mm.register_fake
def _(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


@torch.library.custom_op("modcalc::grouped_outer", mutates_args=())
def grouped_outer(a: Tensor, b: Tensor, offsets: Tensor) -> Tensor:
    """a: [M, N], b: [M, K], offsets: [E] int64 -> [E, N, K]: of each run of rows, a transposed times b."""
    out = a.new_zeros(offsets.shape[0], a.shape[1], b.shape[1])
    for expert, start, stop in _runs(offsets):
        torch.mm(a[start:stop].t(), b[start:stop], out=out[expert])
    return out


@grouped_outer.register_fake
def _(a: Tensor, b: Tensor, offsets: Tensor) -> Tensor:
    return a.new_empty(offsets.shape[0], a.shape[1], b.shape[1])


def _runs(offsets: Tensor) -> list[tuple[int, int, int]]:
    """(expert, first row, row after the last), empty runs left out."""
    stops = offsets.tolist()
    return [(e, start, stop) for e, (start, stop) in enumerate(zip([0, *stops], stops, strict=False)) if stop > start]


def _keep(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _grad_mm(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight, offsets = ctx.saved_tensors
    grad = grad.contiguous()
    gx = grouped_mm(grad, weight.transpose(1, 2), offsets) if ctx.needs_input_grad[0] else None
    gw = grouped_outer(grad, x, offsets) if ctx.needs_input_grad[1] else None
    return gx, gw, None


def _grad_outer(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    a, b, offsets = ctx.saved_tensors
    ga = grouped_mm(b, grad, offsets) if ctx.needs_input_grad[0] else None
    gb = grouped_mm(a, grad.transpose(1, 2), offsets) if ctx.needs_input_grad[1] else None
    return ga, gb, None


grouped_mm.register_autograd(_grad_mm, setup_context=_keep)
grouped_outer.register_autograd(_grad_outer, setup_context=_keep)


@register_flop_formula(torch.ops.modcalc.grouped_mm)
def _mm_flops(x: tuple[int, ...], weight: tuple[int, ...], offsets: tuple[int, ...], *args: object, out_shape: object = None, **kw: object) -> int:
    return 2 * x[0] * weight[1] * weight[2]


@register_flop_formula(torch.ops.modcalc.grouped_outer)
def _outer_flops(a: tuple[int, ...], b: tuple[int, ...], offsets: tuple[int, ...], *args: object, out_shape: object = None, **kw: object) -> int:
    return 2 * a[0] * a[1] * b[1]
