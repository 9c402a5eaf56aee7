"""Causal self-attention: project, attend, output. Whoever keeps a cache puts it between the three."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modcalc.spec.plan import AttentionPlan, NormPlan

from .mlp import Linear
from .norms import Norm
from .positions import Positions, additive, near, rotate
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
        all_near: bool = False,
    ) -> Tensor:
        """Attend. Keys are the queries' own tokens in the same order, or `over`, of which they are some; with `keys_at` see `_decode`."""
        if keys_at is not None:
            return self._decode(q, k, v, at, keys_at, visible, all_near)
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            # Repeated in the open: fused kernels and counters differ in what they make of K < H.
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        if over is None and self.fused:
            mask = self.mask(at, q.dtype)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=self.scale)
        hidden = at.hidden(*self._reach(at)) if over is None else at.hidden_of(over, self.plan.window, self.plan.chunked)
        return self._masked(q, k, v, hidden, self._bias(q, at, (over or at).index), self.fused)

    def prepare(self, at: Positions, dtype: torch.dtype) -> None:
        """Make the mask for queries of `dtype` that attend to one another at `at`, if there is to be one."""
        if self.fused:
            self.mask(at, dtype)
        else:
            at.hidden(*self._reach(at))

    def mask(self, at: Positions, dtype: torch.dtype) -> Tensor | None:
        """What a fused kernel adds to the scores of tokens that attend to one another; None where causal order says it all. Made once for
        all layers that share the positions.
        """
        window, chunked = self._reach(at)
        if window is None and not self.plan.alibi:
            return None
        return at.mask(window, chunked, self.plan.n_heads if self.plan.alibi else 0, dtype)

    def _reach(self, at: Positions) -> tuple[int | None, bool]:
        """(window, whether in chunks) as far as these hide anything at `at`."""
        return (self.plan.window, self.plan.chunked) if at.hides(self.plan.window) else (None, False)

    def _decode(self, q: Tensor, k: Tensor, v: Tensor, at: Positions, keys_at: Tensor, visible: Tensor | None, all_near: bool) -> Tensor:
        """One new token a row over its cache: q [B, H, 1, N] -> [B, H, 1, N_v].

        keys_at: [1 or B, S] original positions of the keys, none of them past the query's and one its own. visible: [B, S] bool,
        which of them are there; None: all. all_near: none of them stands outside the window.
        """
        (B, H, _, N), (_, K, S, Nv) = q.shape, v.shape
        seen, window = visible, self.plan.window
        if at.hides(window) and not all_near:
            reached = near(at.index, keys_at, window, self.plan.chunked)
            seen = reached if seen is None else seen & reached
        bias = self._bias(q, at, keys_at)
        bias = None if bias is None else bias.view(-1, K, H // K, S)
        # The heads that share a key stand as so many queries of it: a cache is read where it lies, never repeated.
        # Kernels for widths that differ would copy it, to scale the keys.
        hidden = None if seen is None else ~seen[:, None, None]
        return self._masked(q.reshape(B, K, H // K, N), k, v, hidden, bias, self.fused and Nv == N).reshape(B, H, 1, Nv)

    def _masked(self, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, bias: Tensor | None, fused: bool) -> Tensor:
        """q: [B, K, T, N] over as many key heads; hidden: bool (None: nothing) and bias (None: 0), both to go with [B, K, T, S]."""
        if fused:
            mask = additive(hidden, bias, q.dtype) if hidden is not None else None if bias is None else bias.to(q.dtype)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        scores = q @ k.transpose(-2, -1) * self.scale
        scores = scores.to(wide(q.dtype))
        if self.plan.softcap is not None:
            scores = self.plan.softcap * torch.tanh(scores / self.plan.softcap)
        if bias is not None:
            scores = scores + bias
        if hidden is not None:
            scores = scores.masked_fill(hidden, float("-inf"))
        if self.sinks is None:
            weights = scores.softmax(-1)
        else:
            # One more logit in the softmax, without a value of its own.
            sinks = self.sinks.to(scores.dtype).view(k.shape[1], -1, 1).expand(*scores.shape[:-1], 1)
            weights = torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1]
        return weights.to(v.dtype) @ v

    def _bias(self, q: Tensor, at: Positions, keys_at: Tensor) -> Tensor | None:
        return at.bias(keys_at, self.plan.n_heads, q.dtype) if self.plan.alibi else None


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

    def prepare(self, at: Positions, dtype: torch.dtype, queries: bool) -> None:
        """Make what this reads of the positions of all tokens, for keys and, if they attend as well, for `queries` of `dtype`."""
        if self.plan.rotary_dim:
            at.rotary(self.plan.theta, self.plan.rotary_dim, dtype)
        if queries:
            self.core.prepare(at, dtype)

    def rotated(self, x: Tensor, at: Positions, start: int = 0) -> Tensor:
        """x [B, T, H, N] with dims from `start` on turned to where its tokens stand, as many as the plan says."""
        return rotate(x, at.rotary(self.plan.theta, self.plan.rotary_dim, x.dtype), start) if self.plan.rotary_dim else x

    def add_output(self, plan: AttentionPlan, d_model: int, fused: bool) -> None:
        """The modules behind queries, keys and values."""
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
        return self.rotated(split_heads(self.q_proj(x), self.q_norm, self.plan.head_dim), at).transpose(1, 2)

    def compress(self, x: Tensor, at: Positions) -> tuple[Tensor, Tensor]:
        """k: [B, K, T, N], v: [B, K, T, N_v], normed and rotated."""
        keys = self.k_proj(x)
        k = self.rotated(split_heads(keys, self.k_norm, self.plan.head_dim), at)
        v = split_heads(keys if self.v_proj is None else self.v_proj(x), self.v_norm, self.plan.v_head_dim)
        return k.transpose(1, 2), v.transpose(1, 2)

    def cached(self, k: Tensor, v: Tensor) -> list[Tensor]:
        return [k, v]

    def expand(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v


def split_heads(x: Tensor, norm: nn.Module | None, head_dim: int) -> Tensor:
    """[B, T, heads * head_dim] -> [B, T, heads, head_dim]; the norm acts on all heads at once, or on each, as its width says."""
    heads = x.unflatten(-1, (-1, head_dim))
    if norm is None:
        return heads
    plan: NormPlan = norm.plan
    return norm(heads) if plan.width == head_dim else norm(x).unflatten(-1, (-1, head_dim))
