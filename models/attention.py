"""Causal self-attention: project, attend, output. Whoever keeps a cache puts it between the three."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modcalc.spec.plan import AttentionPlan, NormPlan

from .mlp import Linear
from .norms import Norm
from .positions import Positions, alibi_slopes, rotate


class Core(nn.Module):
    """softmax(q k^T scale + bias) v, the two products of which the ledger's `attn.core` row counts.

    q: [B, H, T, N], k: [B, K, S, N], v: [B, K, S, N_v] -> [B, H, T, N_v]. Head h reads key/value head h // (H / K).
    fused: through scaled_dot_product_attention; a soft cap and sinks change the softmax and need explicit products.
    """

    def __init__(self, plan: AttentionPlan, fused: bool) -> None:
        super().__init__()
        self.plan = plan
        self.fused = fused and plan.softcap is None and not plan.sinks
        self.scale = plan.head_dim**-0.5 if plan.scale is None else plan.scale
        self.sinks = nn.Parameter(torch.empty(plan.n_heads)) if plan.sinks else None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, at: Positions, keys_at: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
        """Attend. Without `keys_at`, keys are the queries' own tokens in the same order.

        With it ([1 or B, S] original positions of cached and new keys), a query sees the keys at its position and before,
        of which `visible` ([1 or B, S] bool) may hide some; every query must see a key.
        """
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            # Repeated in the open: fused kernels and counters differ in what they make of K < H.
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        plain = keys_at is None and at.seen(self.plan.window) is None and not self.plan.alibi
        if self.fused and plain:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        if keys_at is None:
            seen, keys_at = at.causal(self.plan.window), at.index
        else:
            distance = at.index[:, :, None] - keys_at[:, None, :]
            seen = distance >= 0 if self.plan.window is None else (distance >= 0) & (distance < self.plan.window)
            seen = seen if visible is None else seen & visible[:, None, :]
        bias = self._alibi(at.index, keys_at) if self.plan.alibi else None
        seen = seen[:, None]
        if self.fused:
            mask = seen if bias is None else bias.masked_fill(~seen, float("-inf")).to(q.dtype)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return self._explicit(q, k, v, seen, bias)

    def _explicit(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, bias: Tensor | None) -> Tensor:
        scores = q @ k.transpose(-2, -1) * self.scale
        scores = scores.to(torch.promote_types(q.dtype, torch.float32))
        if self.plan.softcap is not None:
            scores = self.plan.softcap * torch.tanh(scores / self.plan.softcap)
        if bias is not None:
            scores = scores + bias
        scores = scores.masked_fill(~seen, float("-inf"))
        if self.sinks is None:
            weights = scores.softmax(-1)
        else:
            # One more logit in the softmax, without a value of its own.
            sinks = self.sinks.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:-1], 1)
            weights = torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1]
        return weights.to(v.dtype) @ v

    def _alibi(self, queries: Tensor, keys: Tensor) -> Tensor:
        """[1 or B, H, T, S]: -slope * distance in original positions."""
        slopes = torch.tensor(alibi_slopes(self.plan.n_heads), device=queries.device)
        return slopes[None, :, None, None] * (keys[:, None, None, :] - queries[:, None, :, None])


class Attention(nn.Module):
    """x: [B, T, D] -> [B, T, D], by q, k, v projections with K <= H key/value heads."""

    def __init__(self, plan: AttentionPlan, d_model: int, fused: bool) -> None:
        super().__init__()
        self.plan = plan
        H, K, N, Nv = plan.n_heads, plan.n_kv_heads, plan.head_dim, plan.v_head_dim
        self.q_proj = Linear(d_model, H * N, bias=plan.q_bias)
        self.k_proj = Linear(d_model, K * N, bias=plan.k_bias)
        self.v_proj = Linear(d_model, K * Nv, bias=plan.v_bias)
        self.q_norm = Norm(plan.q_norm) if plan.q_norm else None
        self.k_norm = Norm(plan.k_norm) if plan.k_norm else None
        self.core = Core(plan, fused)
        self.o_proj = Linear(H * Nv, d_model, bias=plan.o_bias)

    def project(self, x: Tensor, at: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """q: [B, H, T, N], k: [B, K, T, N], v: [B, K, T, N_v], normed and rotated: what a cache may hold."""
        N = self.plan.head_dim
        q = split_heads(self.q_proj(x), self.q_norm, N)
        k = split_heads(self.k_proj(x), self.k_norm, N)
        v = split_heads(self.v_proj(x), None, self.plan.v_head_dim)
        if self.plan.rotary_dim:
            tables = at.rotary(self.plan.theta, self.plan.rotary_dim, torch.promote_types(x.dtype, torch.float32))
            q, k = rotate(q, tables), rotate(k, tables)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def output(self, mixed: Tensor) -> Tensor:
        """[B, H, T, N_v] -> [B, T, D]."""
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, at: Positions) -> Tensor:
        q, k, v = self.project(x, at)
        return self.output(self.core(q, k, v, at))


def split_heads(x: Tensor, norm: nn.Module | None, head_dim: int) -> Tensor:
    """[B, T, heads * head_dim] -> [B, T, heads, head_dim]; the norm acts on all heads at once, or on each, as its width says."""
    heads = x.unflatten(-1, (-1, head_dim))
    if norm is None:
        return heads
    plan: NormPlan = norm.plan
    return norm(heads) if plan.width == head_dim else norm(x).unflatten(-1, (-1, head_dim))
