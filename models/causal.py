"""One pass with causal routing: a token's own router or predictor decides whether it passes, never a later token.

Top-k routing looks ahead (it ranks a whole sequence), so it cannot sample. Here a token passes a routed block if
sigmoid(r) > 1/2, or if the predictor says so (arXiv 2404.02258, section 3.5); the output is the training one,
x + r * (sub(x) - x). Each row of a batch decides alone, and only tokens that pass are computed, but for keys and values where all
bring some. Experts drop nothing here.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from modcalc.errors import UsageError
from modcalc.spec.plan import CANNOT_SAMPLE, Plan, RoutingPlan

from .block import Block
from .cache import Cache, Place, Rows
from .decoder import Decoder
from .latent import LatentAttention
from .losses import routings
from .positions import Positions
from .routing import CausalRouting, Routed, Routing, Sub, blend

DECIDE = ("router", "predictor")
# Shapes follow the decisions, and rows that differ bring masks. torch may send masked attention to cuDNN, which plans anew for every
# shape; on a GPU that took many times as long as the step.
ANY_SHAPE = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def check_prompt(plan: Plan, prompt: int, more: int = 0) -> None:
    """Raises UsageError for a prompt of no token, and where it and `more` tokens are more than the learned positions."""
    if prompt < 1:
        raise UsageError("an empty prompt: sampling needs at least one token to start from")
    plan.demand_room(prompt + more)


class Pass:
    """One pass with causal routing, with or without a cache."""

    def __init__(self, model: Decoder, decide: str | None, cache: Cache | None, batch: int) -> None:
        if decide not in (None, *DECIDE):
            raise UsageError(f"decide {decide!r}: one of {', '.join(DECIDE)}")
        if batch < 1:
            raise UsageError("no sequence: a batch has at least one")
        if cache is not None and cache.batch != batch:
            raise UsageError(f"{batch} sequences, but the cache is for {cache.batch}")
        if cache is not None and cache.plan is not model.plan and cache.plan != model.plan:
            raise UsageError(f"{model.plan.name}: the cache is of {cache.plan.name}, another model")
        if decide == "predictor" and any(r.router == "learned" and r.predictor_width is None for r in routings(model.plan)):
            raise UsageError(f"{model.plan.name}: it has no predictor (mod.predictor_width); decide by the router")
        if model.plan.experts_choose:
            raise UsageError(f"{model.plan.name}: its experts {CANNOT_SAMPLE}")
        self.model, self.decide, self.cache = model, decide, cache
        self.rows: Rows | None = None  # rows of the batch at hand; None: all

    @sdpa_kernel(ANY_SHAPE)
    def whole(self, tokens: Tensor) -> tuple[Tensor, list[Routing]]:
        """All tokens [B, T] at once -> x [B, T, D] before the head."""
        check_prompt(self.model.plan, tokens.shape[1])
        at = Positions.of_sequence(tokens.shape[1], tokens.device, sampling=True)
        return self._blocks(self.model.embedding(tokens, at), at, self._route)

    @sdpa_kernel(ANY_SHAPE)
    def one(self, token: Tensor) -> tuple[Tensor, list[Routing]]:
        """One token [B] of every sequence -> x [B, 1, D]."""
        length = self.cache.length
        self.model.plan.demand_room(length + 1)
        at = Positions.of_sequence(1, token.device, start=length, sampling=True)
        return self._blocks(self.model.embedding(token[:, None], at), at, self._route_rows)

    def fill(self, tokens: Tensor) -> Tensor:
        """The prompt [B, T] into an empty cache -> logits [B, V] of its last token."""
        x, _ = self.whole(tokens)
        self.cache.length = tokens.shape[1]
        return self.model.logits(x[:, -1])

    def extend(self, token: Tensor) -> Tensor:
        """One more token [B] of every sequence, which the cache then holds -> logits [B, V]."""
        x, _ = self.one(token)
        self.cache.length += 1
        return self.model.logits(x[:, -1])

    def _blocks(self, x: Tensor, at: Positions, route: Callable) -> tuple[Tensor, list[Routing]]:
        routing: list[Routing] = []
        blocks, rec = self.model.blocks, self.model.plan.recursion

        def run(first: int, last: int, step: int, x: Tensor, at: Positions) -> Tensor:
            for i in range(first, last):
                x = self._block(blocks[i], (step, i), x, at, route, routing)
            return x

        def recurse(step: int, x: Tensor, at: Positions) -> Tensor:
            if step == len(self.model.recursions):
                return x
            here = len(routing)
            x, decided = route(
                self.model.recursions[step], step, x, at,
                lambda x, at: run(rec.first, rec.last + 1, step, x, at),
                lambda x, at: recurse(step + 1, x, at),
            )  # fmt: skip
            routing.insert(here, decided)
            return x

        if rec is None:
            return run(0, len(blocks), 0, x, at), routing
        x = run(0, rec.first, 0, x, at)
        x = recurse(0, x, at)
        return run(rec.last + 1, len(blocks), 0, x, at), routing

    def _block(self, block: Block, place: Place, x: Tensor, at: Positions, route: Callable, routing: list[Routing]) -> Tensor:
        plan: RoutingPlan | None = block.plan.routing
        # Of all tokens at hand, in a block that lets all of them bring keys to some.
        over = (self._keys(block, place, block.read(x), at), at) if plan and plan.keys == "all" else None

        def attend(y: Tensor, at: Positions) -> Tensor:
            return self._attend(block, place, y, at, over)

        if plan is None:
            return block.whole(x, at, attend)
        if plan.granularity == "block":
            x, decided = route(block, place[1], x, at, lambda x, at: block.whole(x, at, attend))
        elif plan.granularity == "attention":
            x, decided = route(block, place[1], x, at, lambda x, at: block.attend(x, at, attend))
            x = block.feed(x, at)
        else:
            x, decided = route(block, place[1], block.attend(x, at, attend), at, block.feed)
        routing.append(decided)
        return x

    def chance(self, routed: Routed, index: int) -> float:
        """Of a token that comes here to pass, at the plan's share; a recursion sees only what the one before passed."""
        rec = self.model.plan.recursion
        before = rec.routings[index - 1].share if rec and index else 1
        return float(routed.routing.share / before)

    def _decide(self, routed: Routed, index: int, x: Tensor, at: Positions) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """(r [B, T] or None: 1, passes [B, T] bool, predictor's logits)."""
        if routed.router is None:
            # The control passes a token by chance, but always the same one by position, so that a row does not depend on its batch.
            return None, (noise(at.index, index) < self.chance(routed, index)).expand(x.shape[:2]), None
        r = routed.router(x)
        predicted = routed.predictor(x) if (self.decide or routed.routing.decide) == "predictor" else None
        return r, (r if predicted is None else predicted) > 0, predicted

    def _route(self, routed: Routed, index: int, x: Tensor, at: Positions, sub: Sub, then: Sub | None = None) -> tuple[Tensor, Routing]:
        """As Routed.route, of whole sequences: as many places as the row has in which most tokens pass."""
        T = x.shape[1]
        r, passes, predicted = self._decide(routed, index, x, at)
        go_around = ~passes if at.valid is None else ~passes & at.valid
        passes = passes if at.valid is None else passes & at.valid
        place = torch.arange(T, device=x.device)
        order = torch.where(passes, place, place + T).sort(dim=1).values
        counts = passes.sum(1).tolist()
        C, alike = max(counts), len(set(counts)) == 1
        kept, valid = order[:, :C] % T, order[:, :C] < T
        chosen, where = routed.gather(x, kept), at.pick(kept, None if alike else valid)
        new = blend(chosen, sub(chosen, where), None if r is None else r.gather(1, kept)) if C else chosen
        if then is not None:
            new = then(new, where)
        if routed.bypass is not None:
            places = go_around.nonzero(as_tuple=True)
            x = x.index_put(places, routed.around(x[places]))
        if not alike:
            new = torch.where(valid[..., None], new, chosen if routed.bypass is None else routed.gather(x, kept))
        scores = passes.float() if r is None else r
        return routed.scatter(x, kept, new), CausalRouting(scores, (order % T).masked_fill(order >= T, -1), predicted, at.valid)

    def _route_rows(self, routed: Routed, index: int, x: Tensor, at: Positions, sub: Sub, then: Sub | None = None) -> tuple[Tensor, Routing]:
        """One token a row: the rows that pass are computed, the others are not."""
        r, passes, predicted = self._decide(routed, index, x, at)
        passed = passes[:, 0].cpu()
        some, all_go = bool(passed.any()), bool(passed.all())
        out = x
        if not all_go and routed.bypass is not None:
            stay = Rows.of((~passed).nonzero()[:, 0], x.device).there
            out = out.index_put((stay,), routed.around(x[stay]))
        if some:
            outer = self.rows
            chosen, weight = x, r
            if not all_go:
                go = Rows.of(passed.nonzero()[:, 0], x.device)
                self.rows = go if outer is None else outer.pick(go)
                chosen, weight = x[go.there], None if r is None else r[go.there]
            new = blend(chosen, sub(chosen, at), weight)
            new = new if then is None else then(new, at)
            out = new if all_go else out.index_put((go.there,), new)
            self.rows = outer
        scores = passes.float() if r is None else r
        return out, CausalRouting(scores, torch.where(passes, 0, -1), predicted)

    def _keys(self, block: Block, place: Place, x: Tensor, at: Positions) -> tuple[Tensor, ...]:
        """Keys and values of x [B, T, D], normed, as `compress` makes them; the cache holds them from then on."""
        new = block.attn.compress(x, at)
        if self.cache is not None:
            self.cache.layers[place].add(block.attn.cached(*new), at.index, self.rows, at.valid)
        return new

    def _attend(self, block: Block, place: Place, x: Tensor, at: Positions, over: tuple[tuple[Tensor, ...], Positions] | None) -> Tensor:
        """The block's attention over the cache and the tokens at hand. x: [B, T, D], normed; at decode [R, 1, D].

        over: what `_keys` made of all tokens, of which these are some, and where those stand; None: these bring their own.
        """
        attn = block.attn
        q = attn.queries(x, at)
        keys, stand = over or (self._keys(block, place, x, at), None)
        if self.cache is not None and self.cache.length:
            layer = self.cache.layers[place]
            held, places, visible = layer.read(self.rows)
            core = attn.absorbed if isinstance(attn, LatentAttention) else attn.core
            return attn.output(core(q, *held, at, keys_at=places, visible=visible, all_near=layer.all_near), x)
        return attn.output(attn.core(q, *attn.expand(*keys), at, stand), x)


def noise(index: Tensor, layer: int) -> Tensor:
    """Uniform in [0, 1), a fixed function of position [1 or B, T] and layer: the finalizer of MurmurHash3 on 32 bits."""
    mask = 0xFFFFFFFF
    h = (index * 0x9E3779B1 + (layer + 1) * 0x85EBCA77) & mask
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h = ((h ^ (h >> shift)) * factor) & mask
    return h.double() / 2.0**32
