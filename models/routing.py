"""Mixture-of-Depths (Raposo et al. 2024, arXiv 2404.02258): choose C of T tokens, let them pass, put them back.

For a kept token out = x + r * (sub(x) - x), where sub is a block, a part of it or a stack of blocks, residual
included, and r the router's output; the others keep x, or pass a light MLP. All shapes are static.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modcalc.spec.plan import NormPlan, RoutingPlan

from . import fusible
from .mlp import Linear, Mlp
from .norms import Norm
from .positions import Positions
from .precision import full_precision, wide

Sub = Callable[[Tensor, Positions], Tensor]


class Routing(NamedTuple):
    """What one routed block (or recursion) decided about the T' tokens that it saw.

    scores: [B, T'] router outputs in fp32 (fp64 in a double model), noise for the random router. kept: [B, C] int64
    indices, ascending; with selection by threshold those of r > 0 come first and those that only fill the buffer
    last, each part ascending. predicted: [B, T'] logits of the
    predictor, or None. seen: [B, T'] bool, False for tokens that only fill the buffer of the recursion before; None: all are there.
    """

    scores: Tensor
    kept: Tensor
    predicted: Tensor | None
    seen: Tensor | None = None


class CausalRouting(Routing):
    """What one routed block decided in causal routing: as Routing, but kept holds all T' tokens, those that passed first, with -1 for the others."""


class Router(Linear):
    """r = w x in full precision whatever the model's: in bf16 the ranking would have 8 bits. [B, T, D] -> [B, T]."""

    fusible = False

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x.device):
            dtype = wide(x.dtype)
            x, weight = x.to(dtype), self.weight.to(dtype)
            return fusible.dot(x, weight) if fusible.fusing(self) else F.linear(x, weight).squeeze(-1)


class Predictor(nn.Module):
    """A small MLP that learns, behind a stop-gradient, which tokens will be chosen (section 3.5 of the paper; see `losses`). [B, T, D] -> [B, T]."""

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.up_proj = Linear(d_model, width)
        self.down_proj = Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.down_proj(F.gelu(self.up_proj(x.detach()))).squeeze(-1)
        return logits.to(wide(logits.dtype))


class Select(nn.Module):
    """The C tokens of highest score per sequence, in their order in the sequence. Ties never change their number."""

    def __init__(self, plan: RoutingPlan) -> None:
        super().__init__()
        self.capacity, self.threshold = plan.capacity, plan.selection == "threshold"

    def forward(self, scores: Tensor, eligible: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """scores: [B, T], eligible: [B, T] bool or None (all) -> (kept [B, C], valid [B, C] bool or None: all).

        valid: False where an eligible token above the threshold was not to be had.
        """
        T = scores.shape[1]
        if eligible is not None:
            scores = scores.masked_fill(~eligible, float("-inf"))
        top = scores.detach().topk(self.capacity, dim=1, sorted=False)
        if not self.threshold:
            return top.indices.sort(dim=1).values, None
        # sigmoid(r) > 1/2 is r > 0. Fillers stand last: in causal order no chosen token sees them.
        order = torch.where(top.values > 0, top.indices, top.indices + T).sort(dim=1).values
        return order % T, order < T


class Gather(nn.Module):
    """[B, T, D], [B, C] -> [B, C, D]: whole rows at once."""

    fusible = False

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        flat, at = x.flatten(0, 1), rows(kept, x.shape[1])
        chosen = fusible.gather(flat, at) if fusible.fusing(self) else flat.index_select(0, at)
        return chosen.view(*kept.shape, x.shape[2])


class Scatter(nn.Module):
    """x with the rows `kept` replaced by `new`. Indices are unique: a copy, no atomic addition."""

    fusible = False

    def forward(self, x: Tensor, kept: Tensor, new: Tensor) -> Tensor:
        flat, at, new = x.flatten(0, 1), rows(kept, x.shape[1]), new.flatten(0, 1).to(x.dtype)
        y = fusible.scatter(flat, at, new) if fusible.fusing(self) else flat.index_copy(0, at, new)
        return y.view(x.shape)


def rows(kept: Tensor, length: int) -> Tensor:
    """[B, C] indices into sequences of `length` -> [B * C] rows of all sequences laid end to end."""
    return (kept + length * torch.arange(kept.shape[0], device=kept.device)[:, None]).flatten()


def others(kept: Tensor, length: int) -> Tensor:
    """[B, T - C] indices of the tokens not kept, ascending."""
    taken = torch.zeros(kept.shape[0], length, dtype=torch.uint8, device=kept.device).scatter(1, kept, 1)
    return taken.argsort(dim=1, stable=True)[:, : length - kept.shape[1]]


def blend(x: Tensor, y: Tensor, r: Tensor | None) -> Tensor:
    """x + r * (y - x) in full precision; x, y: [B, C, D], r: [B, C], None: 1.

    lerp gives exactly y at r = 1, where a written-out y - x would round. So full capacity is the dense model bit for bit.
    """
    return y if r is None else torch.lerp(x.to(r.dtype), y.to(r.dtype), r[..., None]).to(x.dtype)


class Routed(nn.Module):
    """Base of a module that can route: a block, or one recursion. Holds router, predictor and the way around."""

    def add_routing(self, plan: RoutingPlan, d_model: int, norm: NormPlan) -> None:
        self.routing = plan
        self.router = Router(d_model) if plan.router == "learned" else None
        self.predictor = Predictor(d_model, plan.predictor_width) if plan.predictor_width is not None else None
        self.bypass_norm = Norm(norm) if plan.bypass else None
        self.bypass = Mlp(plan.bypass, d_model) if plan.bypass else None
        self.select, self.gather, self.scatter = Select(plan), Gather(), Scatter()

    def around(self, x: Tensor) -> Tensor:
        """What the other tokens pass: [..., D] -> [..., D]."""
        return x if self.bypass is None else x + self.bypass(self.bypass_norm(x))

    def route(self, x: Tensor, at: Positions, sub: Sub, then: Sub | None = None) -> tuple[Tensor, Routing]:
        """Let the chosen tokens of x [B, T, D] pass `sub`, the others `around`; `then` goes on with the chosen alone."""
        T = x.shape[1]
        noise = self.router is None
        scores = torch.randn(x.shape[:2], device=x.device, dtype=torch.float32) if noise else self.router(x)
        predicted = None if self.predictor is None else self.predictor(x)
        kept, valid = self.select(scores, at.valid)

        chosen = self.gather(x, kept)
        where = at.pick(kept, valid)
        new = blend(chosen, sub(chosen, where), None if noise else scores.gather(1, kept))
        if then is not None:
            new = then(new, where)
        if valid is not None:
            # Any token may turn out to go around, so the way around has room for all.
            x = self.around(x)
            new = torch.where(valid[..., None], new, chosen if self.bypass is None else self.gather(x, kept))
        elif self.bypass is not None and kept.shape[1] < T:
            rest = others(kept, T)
            x = self.scatter(x, rest, self.around(self.gather(x, rest)))
        return self.scatter(x, kept, new), Routing(scores, kept, predicted, at.valid)
