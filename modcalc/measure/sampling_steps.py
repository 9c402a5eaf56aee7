"""Steps of sampling: prefill of a prompt, and decode of one token a sequence after a context of fixed length.

Random weights make random decisions: an untrained router passes half of the tokens (r = w x has no bias), where a trained one
passes its capacity. So each token passes by chance of the plan's share, with new chances each step; what would decide
is computed all the same.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from modcalc.measure.ranges import MODULE, Range
from modcalc.measure.records import Settings
from modcalc.measure.steps import Tokens
from modcalc.models.cache import Cache, Place
from modcalc.models.causal import Pass
from modcalc.models.positions import Positions
from modcalc.models.routing import Routed, Sub

if TYPE_CHECKING:
    from collections.abc import Callable

    from modcalc.models.block import Block
    from modcalc.models.decoder import Decoder
    from modcalc.models.routing import Routing


class DrawnPass(Pass):
    """A pass whose decisions are drawn. Under the profiler, work between modules is named after the module that it serves."""

    def __init__(self, model: "Decoder", cache: Cache, tokens: Tokens) -> None:
        super().__init__(model, None, cache, tokens.buffer.shape[0])
        self.generator = tokens.generator

    def _decide(self, routed: Routed, index: int, x: Tensor, at: Positions) -> tuple[Tensor | None, Tensor, Tensor | None]:
        r, passes, predicted = super()._decide(routed, index, x, at)
        drawn = torch.rand(passes.shape, device=x.device, generator=self.generator)
        return r, drawn < self.chance(routed, index), predicted

    def _attend(self, block: "Block", place: Place, x: Tensor, at: Positions, over: Any) -> Tensor:
        with _range(f"blocks.{place[1]}.attn"):
            return super()._attend(block, place, x, at, over)

    def _keys(self, block: "Block", place: Place, x: Tensor, at: Positions) -> tuple[Tensor, ...]:
        with _range(f"blocks.{place[1]}.attn"):
            return super()._keys(block, place, x, at)

    def _block(self, block: "Block", place: Place, *rest: Any) -> Tensor:
        with _range(f"blocks.{place[1]}"):
            return super()._block(block, place, *rest)

    def _blocks(self, x: Tensor, at: Positions, route: "Callable") -> "tuple[Tensor, list[Routing]]":
        def named(routed: Routed, index: int, x: Tensor, at: Positions, sub: Sub, then: Sub | None = None) -> "tuple[Tensor, Routing]":
            path = f"recursions.{index}" if self.model.plan.recursion else f"blocks.{index}"

            def within(x: Tensor, at: Positions) -> Tensor:
                with _range(path):
                    return sub(x, at)

            with _range(f"{path}.select"):
                return route(routed, index, x, at, within, then)

        return super()._blocks(x, at, named)


def _range(path: str) -> AbstractContextManager:
    """A profiler range of a module's path; nothing while nobody profiles."""
    return Range(f"{MODULE}{path}") if torch.autograd._profiler_enabled() else nullcontext()


class PrefillStep:
    """Prompts of T tokens into empty caches, and the last token's logits."""

    def __init__(self, model: "Decoder", tokens: Tokens) -> None:
        self.model, self.tokens = model.eval(), tokens
        self.loss: Tensor | None = None
        self.prepare()

    def prepare(self) -> None:
        self.tokens.fill()
        self.cache = Cache(self.model.plan, self.tokens.buffer.shape[0])

    def run(self) -> None:
        with torch.no_grad():
            DrawnPass(self.model, self.cache, self.tokens).fill(self.tokens.buffer)


class DecodeStep:
    """One token of each sequence after `context` cached ones; each step starts from the same context again."""

    def __init__(self, model: "Decoder", tokens: Tokens, context: int) -> None:
        self.model, self.tokens, self.context = model.eval(), tokens, context
        self.loss: Tensor | None = None
        self.cache = filled(model, tokens, context)
        self.held = {place: layer.count.clone() for place, layer in self.cache.layers.items()}

    def prepare(self) -> None:
        self.tokens.fill()
        self.cache.length = self.context
        for place, layer in self.cache.layers.items():
            layer.count.copy_(self.held[place])

    def run(self) -> None:
        with torch.no_grad():
            DrawnPass(self.model, self.cache, self.tokens).extend(self.tokens.buffer[:, 0])


@torch.no_grad()
def filled(model: "Decoder", tokens: Tokens, context: int) -> Cache:
    """A cache as after `context` tokens: normal random keys and values, in routed blocks of a random share of the tokens if not of all."""
    batch, plan = tokens.buffer.shape[0], model.plan
    cache = Cache(plan, batch)
    if not context:
        return cache
    where = next(model.parameters())
    place = torch.arange(context, device=where.device)
    for (step, i), layer in cache.layers.items():
        a, routing = plan.blocks[i].attention, plan.blocks[i].routing
        if plan.recursion and plan.recursion.holds(i):
            routing = plan.recursion.routings[step]
        share = float(routing.share) if routing and not routing.all_keys else 1.0
        passed = torch.rand(batch, context, device=where.device, generator=tokens.generator) < share
        order = torch.where(passed, place, place + context).sort(dim=1).values
        heads, widths = (1, (a.latent.kv_rank + a.latent.rope_dim,)) if a.latent else (a.n_kv_heads, (a.head_dim, a.v_head_dim))
        parts = [torch.randn(batch, heads, context, width, device=where.device, dtype=where.dtype) for width in widths]
        layer.add(parts, order % context, valid=order < context)
        layer.reserve(int(layer.count.max()) + 1)  # the step's own token, for which the room would double
    cache.length = context
    return cache


def sampling_step(model: "Decoder", settings: Settings, device: torch.device, seed: int) -> PrefillStep | DecodeStep:
    """The step of `model` for mode prefill or decode."""
    tokens = Tokens(settings.batch, settings.seq_len, model.plan.embedding.vocab_size, device, seed)
    return PrefillStep(model, tokens) if settings.mode == "prefill" else DecodeStep(model, tokens, settings.context)
