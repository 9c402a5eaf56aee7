"""Mixture of experts in place of the MLP: token choice with or without a buffer, expert choice, no-op and shared experts."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modcalc.spec.plan import MlpPlan, MoePlan

from .grouped import grouped_mm
from .mlp import Linear, Mlp, activate
from .norms import Norm
from .precision import computed, full_precision, wide


class ExpertLinear(nn.Module):
    """The same projection of E experts. weight: [E, d_out, d_in], bias: [E, d_out]."""

    def __init__(self, n_experts: int, d_in: int, d_out: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_experts, d_out, d_in))
        self.bias = nn.Parameter(torch.empty(n_experts, d_out)) if bias else None

    def forward(self, x: Tensor, runs: tuple[Tensor, Tensor] | None) -> Tensor:
        """x: [E, n, d_in], n rows for each expert; or [M, d_in] sorted by expert, with runs = (expert of each row [M], ends [E])."""
        if runs is None:
            y = torch.bmm(x, self.weight.transpose(1, 2))
            return y if self.bias is None else y + self.bias[:, None].to(y.dtype)
        dtype = computed(x)  # autocast knows bmm, but not our operator
        y = grouped_mm(x.to(dtype), self.weight.to(dtype), runs[1])
        return y if self.bias is None else y + self.bias.to(dtype).index_select(0, runs[0])


class Experts(nn.Module):
    """E networks like Mlp."""

    def __init__(self, plan: MoePlan, d_model: int) -> None:
        super().__init__()
        self.plan: MlpPlan = plan.expert
        shape = (plan.n_experts, d_model, self.plan.d_ff, self.plan.bias)
        self.gate_proj = ExpertLinear(*shape) if self.plan.gated else None
        self.up_proj = ExpertLinear(*shape)
        self.down_proj = ExpertLinear(plan.n_experts, self.plan.d_ff, d_model, self.plan.bias)

    def forward(self, x: Tensor, runs: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """x: [E, n, D], or [M, D] with runs, as ExpertLinear has them -> the same shape."""
        gate = None if self.gate_proj is None else self.gate_proj(x, runs)
        return self.down_proj(activate(self.plan, self.up_proj(x, runs), gate), runs)


class ExpertRouter(Linear):
    """Logits of every expert and no-op, in full precision. [..., D] -> [..., E + noop]."""

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x.device):
            dtype = wide(x.dtype)
            return F.linear(x.to(dtype), self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))


class Moe(nn.Module):
    """x: [B, T, D] -> [B, T, D]. stream: [B, T, D], what x was before its norm; read where there are norms of their own.

    Experts 0 … E - 1 do work, E … E + noop - 1 are no-ops that return 0. `balance_bias` shifts the selection only; it
    is a buffer that training may move (DeepSeek-V3, arXiv 2412.19437, section 2.1.2); `initialise` sets it to 0.
    """

    def __init__(self, plan: MoePlan, d_model: int) -> None:
        super().__init__()
        self.plan = plan
        outputs = plan.n_experts + plan.n_noop
        self.router = ExpertRouter(d_model, outputs, bias=plan.router_bias)
        self.register_buffer("balance_bias", torch.empty(outputs, dtype=torch.float32) if plan.balance_bias else None)
        self.experts = Experts(plan, d_model)
        self.shared = Mlp(plan.shared, d_model) if plan.shared else None
        self.shared_gate = Linear(d_model, 1, bias=False) if plan.shared_gate else None
        own = plan.own_norm is not None
        for name in ("router_norm", "experts_norm", "experts_out_norm", "shared_out_norm"):
            self.add_module(name, Norm(plan.own_norm) if own else None)
        self.factors = nn.Parameter(torch.empty(plan.n_experts)) if own else None

    def forward(self, x: Tensor, stream: Tensor, valid: Tensor | None = None, dropless: bool = False) -> Tensor:
        """valid: [B, T] bool; tokens that only fill a buffer take no expert's place from others. dropless: token choice without a buffer."""
        logits = self.logits(x, stream)
        read = x if self.experts_norm is None else self.experts_norm(stream)
        if self.plan.choice == "expert":
            y = self._by_expert(read, logits, valid)
        else:
            experts, weights = self.choose(logits)
            slots = None if dropless else self.plan.slots(x.shape[1])
            y = self._dropless(read, experts, weights) if slots is None else self._buffered(read, experts, weights, slots)
        if self.shared is None:
            return y
        shared = self.shared(x)
        if self.experts_out_norm is not None:
            return self.experts_out_norm(y) + self.shared_out_norm(shared)
        return y + (shared if self.shared_gate is None else self.shared_gate(x).sigmoid() * shared)

    def logits(self, x: Tensor, stream: Tensor) -> Tensor:
        """[B, T, E + noop] in full precision; behind a norm of its own the router reads it times D ** -0.5 (Gemma 4)."""
        if self.router_norm is None:
            return self.router(x)
        return self.router(self.router_norm(stream) * x.shape[-1] ** -0.5)

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Token choice. logits: [B, T, E + noop] -> experts [B, T, k] int64 and weights [B, T, k]."""
        p = self.plan
        scores = logits if p.score == "topk_softmax" else logits.sigmoid() if p.score == "sigmoid" else logits.softmax(-1)
        ranked = scores.detach() if self.balance_bias is None else scores.detach() + self.balance_bias
        if p.groups > 1:
            # A group counts by the sum of its two best experts (DeepSeek-V3, section 2.1.2).
            grouped = ranked.unflatten(-1, (p.groups, -1))
            best = grouped.topk(min(2, grouped.shape[-1]), dim=-1).values.sum(-1).topk(p.top_groups, dim=-1, sorted=False).indices
            closed = torch.ones_like(grouped[..., 0]).scatter(-1, best, 0)
            ranked = grouped.masked_fill(closed[..., None] > 0, float("-inf")).flatten(-2)
        experts = ranked.topk(p.top_k, dim=-1, sorted=False).indices
        weights = scores.gather(-1, experts)
        if p.score == "topk_softmax":
            weights = weights.softmax(-1)
        elif p.renormalize:
            weights = weights / weights.sum(-1, keepdim=True).clamp_min(TINY)
        weights = weights * p.scaling
        if self.factors is not None:
            weights = weights * self.factors.to(weights.dtype).index_select(0, experts.flatten()).view_as(weights)
        return experts, weights

    def _dropless(self, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """All tokens * top_k assignments, sorted by expert."""
        B, T, k = experts.shape
        expert, order = experts.flatten().sort(stable=True)
        E = self.plan.n_experts
        ends = torch.searchsorted(expert, torch.arange(E, device=x.device), right=True)
        if not ends.is_meta:
            ends = ends.cpu()  # once: the host reads them for every product, forward and backward
        if self.plan.n_noop:
            # Assignments to no-ops stand last, past the last expert's end; whatever a bias adds there must not count.
            weights, expert = weights * (experts < E), expert.clamp(max=E - 1)
        y = self.experts(x.flatten(0, 1).index_select(0, order // k), (expert, ends))
        back = torch.empty_like(order).scatter(0, order, torch.arange(B * T * k, device=x.device))
        y = y.index_select(0, back).unflatten(0, (B, T, k))
        return (y * weights[..., None].to(y.dtype)).sum(2)

    def _buffered(self, x: Tensor, experts: Tensor, weights: Tensor, slots: int) -> Tensor:
        """Each expert computes `slots` places per sequence. Earlier tokens go first, so that a drop depends on nothing later."""
        B, T, k = experts.shape
        E = self.plan.n_experts
        expert, nth = experts.flatten(1), torch.arange(T * k, device=x.device)
        ranked, order = expert.sort(dim=1, stable=True)
        place = torch.empty_like(order).scatter(1, order, nth - torch.searchsorted(ranked, ranked))
        kept = (place < slots) & (expert < E)
        # One place more than there are: where dropped assignments and those of no-ops go. Places that nobody takes read a row of zeros.
        size = B * E * slots
        row = torch.arange(B, device=x.device)[:, None]
        slot = torch.where(kept, expert * (B * slots) + row * slots + place, size).flatten()
        source = slot.new_full((size + 1,), B * T).index_copy(0, slot, (row * T + nth // k).flatten())[:size]
        y = self.experts(F.pad(x.flatten(0, 1), (0, 0, 0, 1)).index_select(0, source).view(E, B * slots, -1))
        y = y.reshape(size, y.shape[-1]).index_select(0, slot.clamp(max=size - 1))
        y = y.masked_fill_(~kept.view(-1, 1), 0.0).unflatten(0, (B, T, k))
        return (y * weights[..., None].to(y.dtype)).sum(2)

    def _by_expert(self, x: Tensor, logits: Tensor, valid: Tensor | None) -> Tensor:
        """Expert choice (Zhou et al. 2022, arXiv 2202.09368): each expert takes its `slots` best tokens of each sequence."""
        p, (B, T, D) = self.plan, x.shape
        E, slots = p.n_experts, p.slots(T)
        scores = (logits.sigmoid() if p.score == "sigmoid" else logits.softmax(-1))[..., :E]
        ranked = scores.detach() if valid is None else scores.detach().masked_fill(~valid[..., None], -1.0)
        token = ranked.topk(slots, dim=1, sorted=False).indices.permute(2, 0, 1)
        weights = scores.permute(2, 0, 1).gather(2, token)
        flat = (token + T * torch.arange(B, device=x.device)[:, None]).flatten()
        if p.renormalize:
            total = weights.new_zeros(B * T).index_add(0, flat, weights.flatten())
            weights = weights / total.index_select(0, flat).view_as(weights).clamp_min(TINY)
        y = self.experts(x.flatten(0, 1).index_select(0, flat).view(E, B * slots, D))
        y = y * (weights * p.scaling).reshape(E, B * slots, 1).to(y.dtype)
        return y.new_zeros(B * T, D).index_add(0, flat, y.flatten(0, 1)).view(B, T, D)


# Keeps 0 / 0 away where every chosen score underflowed.
TINY = 1e-20
