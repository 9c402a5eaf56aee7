"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): keys and values come from one small latent."""

import torch
from torch import Tensor

from modcalc.spec.plan import AttentionPlan

from .attention import Attending, split_heads
from .mlp import Linear
from .norms import Norm
from .positions import Positions


class LatentAttention(Attending):
    """Queries and keys are nope dims without position and then rope dims; all heads share one rope key."""

    def __init__(self, plan: AttentionPlan, d_model: int, fused: bool) -> None:
        super().__init__()
        self.plan, lat = plan, plan.latent
        H = plan.n_heads
        if lat.q_rank is None:
            self.q_proj = Linear(d_model, H * plan.head_dim, bias=plan.q_bias)
        else:
            self.q_down = Linear(d_model, lat.q_rank, bias=plan.q_bias)
            self.q_down_norm = Norm(lat.q_norm)
            self.q_up = Linear(lat.q_rank, H * plan.head_dim, bias=False)
        self.kv_down = Linear(d_model, lat.kv_rank + lat.rope_dim, bias=plan.k_bias)
        self.kv_down_norm = Norm(lat.kv_norm)
        self.kv_up = Linear(lat.kv_rank, H * (lat.nope_dim + plan.v_head_dim), bias=False)
        self.add_output(plan, d_model, fused)

    def queries(self, x: Tensor, at: Positions) -> Tensor:
        """[B, H, T, nope + rope], rotated."""
        flat = self.q_proj(x) if self.plan.latent.q_rank is None else self.q_up(self.q_down_norm(self.q_down(x)))
        q = split_heads(flat, None, self.plan.head_dim)
        return self.rotated(q, at, self.plan.latent.nope_dim).transpose(1, 2)

    def compress(self, x: Tensor, at: Positions) -> tuple[Tensor, Tensor]:
        """Latent [B, T, kv_rank], normed, and the shared key's rope dims [B, T, rope], rotated."""
        latent, key = self.kv_down(x).split((self.plan.latent.kv_rank, self.plan.latent.rope_dim), dim=-1)
        return self.kv_down_norm(latent), self.rotated(key[:, :, None], at)[:, :, 0]

    def cached(self, latent: Tensor, key: Tensor) -> list[Tensor]:
        """Side by side: [B, 1, T, kv_rank + rope]."""
        return [torch.cat([latent, key], dim=-1)[:, None]]

    def expand(self, latent: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """k: [B, H, S, nope + rope], v: [B, H, S, N_v] of compressed tokens."""
        heads = split_heads(self.kv_up(latent), None, self.plan.latent.nope_dim + self.plan.v_head_dim)
        nope, v = heads.split((self.plan.latent.nope_dim, self.plan.v_head_dim), dim=-1)
        k = torch.cat([nope, key[:, :, None].expand(-1, -1, heads.shape[2], -1)], dim=-1)
        return k.transpose(1, 2), v.transpose(1, 2)

    def absorbed(self, q: Tensor, held: Tensor, at: Positions, keys_at: Tensor, visible: Tensor | None, all_near: bool) -> Tensor:
        """Decode in the latent space, so that what a cache holds [B, 1, S, kv_rank + rope] is never expanded.

        q: [B, H, 1, nope + rope] -> [B, H, 1, N_v]. q k = (q W_k) latent, and the values' matrix comes after the sum
        (DeepSeek-V2, section 2.1.2 and appendix C).
        """
        lat = self.plan.latent
        up = self.kv_up.weight.view(self.plan.n_heads, lat.nope_dim + self.plan.v_head_dim, lat.kv_rank)
        up_k, up_v = up.split((lat.nope_dim, self.plan.v_head_dim), dim=1)
        nope, rope = q.split((lat.nope_dim, lat.rope_dim), dim=-1)
        q = torch.cat([nope @ up_k, rope], dim=-1)
        mixed = self.core(q, held, held[..., : lat.kv_rank], at, keys_at=keys_at, visible=visible, all_near=all_near)
        return mixed @ up_v.transpose(1, 2)
