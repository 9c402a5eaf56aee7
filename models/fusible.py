"""Gather, scatter and the router's product as a compiler can fuse them with what stands beside: for steps compiled block by block.

As operators of their own they are passes over all T tokens: a scatter copies and then writes into the copy, a gather's gradient is added into
zeros, a product with one column needs x in fp32. Here rows are only read by index, forward and backward, which is pointwise work.
Gathered and scattered values are the same; the product's sum may have another order.

Routing takes these forms where `allow` was called and a compiler traces. They are not for torch.export (which may drop an autograd.Function's
gradient), nor for sampling, where no token may pass; a gradient of the gradient is not theirs to give.
"""

import torch
from torch import Tensor, nn


def allow(module: nn.Module) -> None:
    """Let the routing within `module` take these forms when it is compiled."""
    for part in module.modules():
        if hasattr(part, "fusible"):
            part.fusible = True


def fusing(module: nn.Module) -> bool:
    """Whether `module` is to take these forms now."""
    return module.fusible and torch.compiler.is_compiling()


class Take(torch.autograd.Function):
    """y[i] = x[index[i]], or 0 where index[i] < 0; the gradient is taken back by `inverse`. Indices from 0 on are unique.

    x: [N, D], index: [M] int64, inverse: [N] int64, -1 for rows of x that are not taken -> [M, D]; N, M >= 1.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return take(x, index)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        return take(grad, *ctx.saved_tensors), None, None


def take(x: Tensor, index: Tensor) -> Tensor:
    """As `Take`, without a gradient of its own. Rows that are not taken are not read, nor what makes them computed, and no index is
    checked: most of a scatter's are none, and all others come from a top-k.
    """
    there = (index >= 0)[:, None].expand(-1, x.shape[1])
    return torch.ops.aten._unsafe_masked_index(x, there, [index], 0)


def inverse(rows: Tensor, length: int) -> Tensor:
    """[length]: which of `rows` [M] (unique) each number below `length` is, -1: none."""
    return torch.full((length,), -1, device=rows.device).index_copy(0, rows, torch.arange(rows.shape[0], device=rows.device))


def gather(x: Tensor, rows: Tensor) -> Tensor:
    """x: [N, D], rows: [M] unique -> [M, D]."""
    return Take.apply(x, rows, inverse(rows, x.shape[0]))


def scatter(x: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """x [N, D] with its `rows` [M] (unique) replaced by new [M, D]: in x itself where no gradient is wanted, as nothing reads a block's
    input after the block.
    """
    if not torch.is_grad_enabled():
        return x.index_copy_(0, rows, new)
    back = inverse(rows, x.shape[0])
    return torch.where(back[:, None] >= 0, Take.apply(new, back, rows), x)


def dot(x: Tensor, weight: Tensor) -> Tensor:
    """x: [..., D], weight: [1, D] -> [...]."""
    return (x * weight).sum(-1)
