"""One decoder block: attention and feed-forward with their norms and residuals, all of it or a part routed."""

from collections.abc import Callable

import torch
from torch import Tensor

from modcalc.spec.plan import BlockPlan, MoePlan

from .attention import Attention
from .latent import LatentAttention
from .mlp import Mlp
from .moe import Moe
from .norms import Norm
from .positions import Positions
from .routing import Routed, Routing

Attend = Callable[[Tensor, Positions], Tensor]


class Block(Routed):
    """x: [B, T, D] -> [B, T, D]. `attend` in the methods stands in for self.attn, where a cache takes part."""

    def __init__(self, plan: BlockPlan, fused: bool) -> None:
        super().__init__()
        self.plan = plan
        for name in plan.norm_names:
            self.add_module(name, Norm(plan.norm))
        self.attn = (LatentAttention if plan.attention.latent else Attention)(plan.attention, plan.d_model, fused)
        if isinstance(plan.ffn, MoePlan):
            self.moe = Moe(plan.ffn, plan.d_model)
        else:
            self.mlp = Mlp(plan.ffn, plan.d_model)
        if plan.routing:
            self.add_routing(plan.routing, plan.d_model, plan.norm)

    def forward(self, x: Tensor, at: Positions) -> tuple[Tensor, Routing | None]:
        """x: [B, T, D] -> [B, T, D], and what its router decided, if it has one."""
        routing = self.plan.routing
        if routing is None:
            return self.whole(x, at), None
        if routing.granularity == "mlp":
            return self.route(self.attend(x, at), at, self.feed)
        attend = self._to_all(x, at) if routing.all_keys else None
        if routing.granularity == "block":
            return self.route(x, at, lambda y, where: self.whole(y, where, attend))
        x, decided = self.route(x, at, lambda y, where: self.attend(y, where, attend))
        return self.feed(x, at), decided

    def prepare(self, at: Positions, dtype: torch.dtype) -> None:
        """Make what it reads of the positions of all tokens, if all of them attend here, or bring keys."""
        routing = self.plan.routing
        if self.plan.keys_of_all:
            self.attn.prepare(at, dtype, queries=routing is None or routing.granularity == "mlp")

    def whole(self, x: Tensor, at: Positions, attend: Attend | None = None) -> Tensor:
        """The block, its residuals included."""
        if self.plan.parallel == "none":
            return self.feed(self.attend(x, at, attend), at)
        normed = self.attn_norm(x)
        beside = normed if self.plan.parallel == "shared_norm" else self.mlp_norm(x)
        return self._add(self._add(x, self._attn(attend)(normed, at)), self.ffn(beside, x, at))

    def attend(self, x: Tensor, at: Positions, attend: Attend | None = None) -> Tensor:
        """The attention part with its residual."""
        return self._part("attn", x, lambda y: self._attn(attend)(y, at))

    def _attn(self, attend: Attend | None) -> Attend:
        return self.attn if attend is None else attend  # `or` would ask a function for its truth, which the compiler of torch 2.6 cannot

    def feed(self, x: Tensor, at: Positions) -> Tensor:
        """The feed-forward part with its residual."""
        return self._part("mlp", x, lambda y: self.ffn(y, x, at))

    def ffn(self, x: Tensor, stream: Tensor, at: Positions) -> Tensor:
        """x: [B, T, D]; stream: what x was before its norm."""
        return self.moe(x, stream, at.valid, at.sampling) if isinstance(self.plan.ffn, MoePlan) else self.mlp(x)

    def read(self, x: Tensor, name: str = "attn") -> Tensor:
        """What a part of the block reads of the stream x."""
        return self._norm(f"{name}_norm", x) if self.plan.norms_first else x

    def _to_all(self, x: Tensor, at: Positions) -> Attend:
        """Attention of some tokens to all of x."""
        over = self.read(x)
        return lambda y, where: self.attn(y, where, over, at)

    def _part(self, name: str, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """pre: x + f(norm(x)); output: x + norm(f(x)); sandwich: x + norm(f(norm(x))); post: norm(x + f(x))."""
        placement = self.plan.placement
        y = f(self.read(x, name))
        if placement in ("output", "sandwich"):
            y = self._norm(f"{name}_out_norm", y)
        x = self._add(x, y)
        return self._norm(f"{name}_norm", x) if placement == "post" else x

    def _add(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.add(x, y, alpha=self.plan.residual_scale)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return getattr(self, name)(x)
