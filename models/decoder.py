"""The whole model: embedding, blocks, recursions, head."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modcalc.errors import UsageError
from modcalc.spec.plan import EmbeddingPlan, NormPlan, Plan, RoutingPlan

from .block import Block
from .initialise import initialise
from .mlp import Linear
from .norms import Norm
from .positions import Positions
from .precision import computed
from .routing import Routed, Routing

ATTENTION = ("sdpa", "explicit")


class Output(NamedTuple):
    """logits: [B, T, V]. routing: one entry per routed block, or per recursion, in order of depth."""

    logits: Tensor
    routing: tuple[Routing, ...]


def demand_sequences(tokens: Tensor) -> None:
    """Raises UsageError for tokens that are not [B, T]."""
    if tokens.dim() != 2:
        raise UsageError(f"tokens of shape {list(tokens.shape)}: sequences of them, [B, T], are needed")


class Embedding(nn.Module):
    """tokens: [B, T] int64 -> [B, T, D]."""

    def __init__(self, plan: EmbeddingPlan, d_model: int) -> None:
        super().__init__()
        self.plan = plan
        self.tokens = nn.Embedding(plan.vocab_size, plan.width, _weight=torch.empty(plan.vocab_size, plan.width))
        self.positions = nn.Embedding(plan.position_rows, d_model, _weight=torch.empty(plan.position_rows, d_model)) if plan.position_rows else None
        self.project = Linear(plan.width, d_model, bias=False) if plan.width != d_model else None
        self.norm = Norm(plan.norm) if plan.norm else None

    def forward(self, tokens: Tensor, at: Positions) -> Tensor:
        x = self.tokens(tokens)
        if self.plan.scale is not None:
            x = x * self.plan.scale
        if self.project is not None:
            x = self.project(x)
        if self.positions is not None:
            x = x + self.positions(at.index + self.plan.position_offset)
        return x if self.norm is None else self.norm(x)


class Recursion(Routed):
    """One recursion's router; the blocks belong to the decoder."""

    def __init__(self, plan: RoutingPlan, d_model: int, norm: NormPlan) -> None:
        super().__init__()
        self.add_routing(plan, d_model, norm)


class Decoder(nn.Module):
    """A decoder-only transformer built from a Plan; recomputes no dim.

    attention: "sdpa" (torch's scaled_dot_product_attention wherever the spec allows it) or "explicit" (q k^T, softmax
    and v as plain matrix products, which every counter sees, backward too). Raises UsageError for another value, for what is no Plan, and in
    `forward` for a sequence that the plan is not for. Parameters are drawn from torch's generator (see `initialise`).
    """

    def __init__(self, plan: Plan, *, attention: str = "sdpa") -> None:
        super().__init__()
        if not isinstance(plan, Plan):
            raise UsageError(f"{plan!r:.100} is no Plan: modcalc.resolve makes one from a Spec, and modcalc.build the model")
        if attention not in ATTENTION:
            raise UsageError(f"attention {attention!r}: one of {', '.join(ATTENTION)}")
        self.plan = plan
        self.embedding = Embedding(plan.embedding, plan.d_model)
        self.blocks = nn.ModuleList(Block(block, attention == "sdpa") for block in plan.blocks)
        steps = plan.recursion.routings if plan.recursion else ()
        self.recursions = nn.ModuleList(Recursion(r, plan.d_model, plan.blocks[0].norm) for r in steps)
        self.final_norm = Norm(plan.final_norm) if plan.final_norm else None
        self.head_proj = Linear(plan.d_model, plan.embedding.width, bias=False) if plan.embedding.width != plan.d_model else None
        self.head = Linear(plan.embedding.width, plan.embedding.vocab_size, bias=plan.head.bias)
        if plan.head.tied:
            self.head.weight = self.embedding.tokens.weight
        initialise(self)

    def _apply(self, fn: Callable, recurse: bool = True) -> "Decoder":
        """What moves or converts a model, in place or, as to_empty of one on the meta device does, by new parameters."""
        with self._tied():
            return super()._apply(fn, recurse)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of any module; with `assign`, too, a tied head stays tied."""
        with self._tied():
            return super().load_state_dict(state_dict, strict, assign)

    @contextmanager
    def _tied(self) -> Iterator[None]:
        """Where the head is tied, it is so afterwards: new parameters would come out twice. The head's is taken where it alone is new."""
        table, head = self.embedding.tokens, self.head
        ours, its = (part._parameters.get("weight") for part in (table, head))
        try:
            yield
        finally:
            if ours is not None and ours is its:
                if table.weight is ours:
                    table.weight = head.weight
                else:
                    head.weight = table.weight

    def forward(self, tokens: Tensor) -> Output:
        """tokens: [B, T] int64. A plan with routing is for sequences of exactly plan.seq_len tokens."""
        demand_sequences(tokens)
        self._check_length(tokens.shape[1])
        at = Positions.of_sequence(tokens.shape[1], tokens.device)
        x = self.embedding(tokens, at)
        # Before the blocks, so that the first of them is the same function as the others: a compiler makes one graph of all.
        rec, dtype = self.plan.recursion, computed(x)
        for i, block in enumerate(self.blocks):
            if rec is None or not rec.holds(i):
                block.prepare(at, dtype)
        x, routing = self.run(x, at)
        return Output(self.logits(x), tuple(routing))

    def run(self, x: Tensor, at: Positions) -> tuple[Tensor, list[Routing]]:
        """All blocks. x: [B, T, D]."""
        if self.plan.recursion is None:
            return self._stack(self.blocks, x, at)
        first, last = self.plan.recursion.first, self.plan.recursion.last
        x, before = self._stack(self.blocks[:first], x, at)
        x, inside = self._recurse(0, x, at)
        x, after = self._stack(self.blocks[last + 1 :], x, at)
        return x, before + inside + after

    def logits(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        if self.final_norm is not None:
            x = self.final_norm(x)
        if self.head_proj is not None:
            x = self.head_proj(x)
        x, scale, cap = self.head(x), self.plan.head.scale, self.plan.head.softcap
        if scale is not None:
            x = x * scale
        return x if cap is None else cap * torch.tanh(x / cap)

    def _stack(self, blocks: Sequence[Block], x: Tensor, at: Positions) -> tuple[Tensor, list[Routing]]:
        routing = []
        for block in blocks:
            x, decided = block(x, at)
            routing += [decided] if decided else []
        return x, routing

    def _recurse(self, step: int, x: Tensor, at: Positions) -> tuple[Tensor, list[Routing]]:
        """Recursion `step` and those inside it: each sees only the tokens that the one before kept."""
        if step == len(self.recursions):
            return x, []
        rec = self.plan.recursion
        inner: list[Routing] = []

        def shared(x: Tensor, at: Positions) -> Tensor:
            return self._stack(self.blocks[rec.first : rec.last + 1], x, at)[0]

        def deeper(x: Tensor, at: Positions) -> Tensor:
            x, decided = self._recurse(step + 1, x, at)
            inner.extend(decided)
            return x

        x, decided = self.recursions[step].route(x, at, shared, then=deeper)
        return x, [decided, *inner]

    def _check_length(self, length: int) -> None:
        p = self.plan
        p.demand_room(length)
        if p.is_mod and length != p.seq_len:
            advice = f"; build it with seq_len={length}" if length else ""
            raise UsageError(f"{p.name}: its capacities are for {p.seq_len} tokens, these are {length}{advice}")
