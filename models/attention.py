"""Causal self-attention: project, attend, output. Whoever keeps a cache puts it between the three."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modcalc.spec.plan import AttentionPlan, NormPlan

from .mlp import Linear
from .norms import Norm
from .positions import Positions, near, rotate
from .precision import wide


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

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        at: Positions,
        over: Positions | None = None,
        keys_at: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Attend. Keys are the queries' own tokens in the same order, or `over`, of which they are some; with `keys_at` see `_decode`."""
        if keys_at is not None:
            return self._decode(q, k, v, at, keys_at, visible)
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            # Repeated in the open: fused kernels and counters differ in what they make of K < H.
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        view = self.plan.window, self.plan.chunked
        if over is None and self.fused and not self.plan.alibi and at.seen(*view) is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        seen = at.causal(*view) if over is None else at.before(over, *view)
        bias = self._alibi(q, at, (over or at).index) if self.plan.alibi else None
        return self._masked(q, k, v, seen[:, None], bias, self.fused)

    def _decode(self, q: Tensor, k: Tensor, v: Tensor, at: Positions, keys_at: Tensor, visible: Tensor | None) -> Tensor:
        """One new token a row over its cache: q [B, H, 1, N] -> [B, H, 1, N_v].

        keys_at: [1 or B, S] original positions of the keys, none of them past the query's and one its own. visible: [B, S] bool,
        which of them are there; None: all.
        """
        (B, H, _, N), (_, K, S, Nv) = q.shape, v.shape
        seen, window = visible, self.plan.window
        if window is not None:
            reached = near(at.index, keys_at, window, self.plan.chunked)
            seen = reached if seen is None else seen & reached
        seen = None if seen is None else seen[:, None, None]
        bias = self._alibi(q, at, keys_at).view(-1, K, H // K, S) if self.plan.alibi else None
        # The heads that share a key stand as so many queries of it: a cache is read where it lies, never repeated.
        # Kernels for widths that differ would copy it, to scale the keys.
        y = self._masked(q.reshape(B, K, H // K, N), k, v, seen, bias, self.fused and Nv == N)
        return y.reshape(B, H, 1, Nv)

    def _masked(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, bias: Tensor | None, fused: bool) -> Tensor:
        """q: [B, K, T, N] over as many key heads; seen: bool (None: all) and bias (None: 0), both to go with [B, K, T, S]."""
        if fused:
            mask = seen if bias is None else bias if seen is None else bias.masked_fill(~seen, float("-inf"))
            mask = mask if bias is None else mask.to(q.dtype)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        scores = q @ k.transpose(-2, -1) * self.scale
        scores = scores.to(wide(q.dtype))
        if self.plan.softcap is not None:
            scores = self.plan.softcap * torch.tanh(scores / self.plan.softcap)
        if bias is not None:
            scores = scores + bias
        if seen is not None:
            scores = scores.masked_fill(~seen, float("-inf"))
        if self.sinks is None:
            weights = scores.softmax(-1)
        else:
            # One more logit in the softmax, without a value of its own.
            sinks = self.sinks.to(scores.dtype).view(k.shape[1], -1, 1).expand(*scores.shape[:-1], 1)
            weights = torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1]
        return weights.to(v.dtype) @ v

    def _alibi(self, q: Tensor, at: Positions, keys_at: Tensor) -> Tensor:
        """[1 or B, H, T, S]: -slope * distance in original positions."""
        slopes = at.slopes(self.plan.n_heads, q.dtype)
        return slopes[:, None, None] * (keys_at[:, None, None, :] - at.index[:, None, :, None])


class Attending(nn.Module):
    """What plain and latent attention share: the order of their steps, the core, gates on what it brings, and the output projection.

    Each has `queries` (q [B, H, T, N]), `compress` (what a cache may hold of tokens, in parts), `cached` (those parts as a cache
    holds them, [B, heads, T, width] each) and `expand` (k [B, K, T, N] and v [B, K, T, N_v] of them).
    """

    def forward(self, x: Tensor, at: Positions, over: Tensor | None = None, over_at: Positions | None = None) -> Tensor:
        """x: [B, T, D] -> [B, T, D]. over: [B, S, D] at `over_at`, all tokens whose keys and values these attend to; None: one another."""
        q = self.queries(x, at)
        k, v = self.expand(*(self.compress(x, at) if over is None else self.compress(over, over_at)))
        return self.output(self.core(q, k, v, at, over_at), x)

    def add_output(self, plan: AttentionPlan, d_model: int, fused: bool) -> None:
        self.core = Core(plan, fused)
        self.gate_proj = Linear(d_model, plan.n_heads * plan.gate, bias=False) if plan.gate else None
        self.o_proj = Linear(plan.n_heads * plan.v_head_dim, d_model, bias=plan.o_bias)

    def output(self, mixed: Tensor, x: Tensor) -> Tensor:
        """mixed: [B, H, T, N_v], x: [B, T, D], which came in and makes the gates -> [B, T, D]."""
        y = mixed.transpose(1, 2)
        if self.gate_proj is not None:
            y = y * self.gate_proj(x).sigmoid().unflatten(-1, (y.shape[2], -1))
        return self.o_proj(y.flatten(2))


class Attention(Attending):
    """q, k, v projections with K <= H key/value heads, or values that the key projection makes."""

    def __init__(self, plan: AttentionPlan, d_model: int, fused: bool) -> None:
        super().__init__()
        self.plan = plan
        H, K, N, Nv = plan.n_heads, plan.n_kv_heads, plan.head_dim, plan.v_head_dim
        self.q_proj = Linear(d_model, H * N, bias=plan.q_bias)
        self.k_proj = Linear(d_model, K * N, bias=plan.k_bias)
        self.v_proj = None if plan.values_from_keys else Linear(d_model, K * Nv, bias=plan.v_bias)
        self.q_norm = Norm(plan.q_norm) if plan.q_norm else None
        self.k_norm = Norm(plan.k_norm) if plan.k_norm else None
        self.v_norm = Norm(plan.v_norm) if plan.v_norm else None
        self.add_output(plan, d_model, fused)

    def queries(self, x: Tensor, at: Positions) -> Tensor:
        """[B, H, T, N], normed and rotated."""
        return self._rotate(split_heads(self.q_proj(x), self.q_norm, self.plan.head_dim), at).transpose(1, 2)

    def compress(self, x: Tensor, at: Positions) -> tuple[Tensor, Tensor]:
        """k: [B, K, T, N], v: [B, K, T, N_v], normed and rotated."""
        keys = self.k_proj(x)
        k = self._rotate(split_heads(keys, self.k_norm, self.plan.head_dim), at)
        v = split_heads(keys if self.v_proj is None else self.v_proj(x), self.v_norm, self.plan.v_head_dim)
        return k.transpose(1, 2), v.transpose(1, 2)

    def cached(self, k: Tensor, v: Tensor) -> list[Tensor]:
        return [k, v]

    def expand(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v

    def _rotate(self, x: Tensor, at: Positions) -> Tensor:
        return rotate(x, at.rotary(self.plan.theta, self.plan.rotary_dim, x.dtype)) if self.plan.rotary_dim else x


def split_heads(x: Tensor, norm: nn.Module | None, head_dim: int) -> Tensor:
    """[B, T, heads * head_dim] -> [B, T, heads, head_dim]; the norm acts on all heads at once, or on each, as its width says."""
    heads = x.unflatten(-1, (-1, head_dim))
    if norm is None:
        return heads
    plan: NormPlan = norm.plan
    return norm(heads) if plan.width == head_dim else norm(x).unflatten(-1, (-1, head_dim))
