"""Sampling: one full pass with causal routing, or prompt by prefill and then token by token with a cache."""

from numbers import Real

import torch
from torch import Tensor

from modcalc.errors import UsageError
from modcalc.units import whole_number

from .cache import Cache
from .causal import Pass, check_prompt
from .decoder import Decoder, Output, demand_sequences


@torch.no_grad()
def causal_forward(model: Decoder, tokens: Tensor, *, decide: str | None = None) -> Output:
    """One full forward pass with causal routing. tokens: [B, T] int64, T >= 1.

    decide: "router" or "predictor" (default: the spec's). CausalRouting.kept holds all T tokens, those that passed first, with
    -1 for the others. Raises UsageError for an empty sequence, one longer than learned positions, or a model that cannot
    decide causally (experts that choose tokens).
    """
    demand_sequences(tokens)
    x, routing = Pass(model, decide, None, tokens.shape[0]).whole(tokens)
    return Output(model.logits(x), tuple(routing))


@torch.no_grad()
def prefill(model: Decoder, tokens: Tensor, cache: Cache, *, decide: str | None = None) -> Tensor:
    """Fill an empty cache with the prompt `tokens` [B, T]; returns the last token's logits [B, V]. Raises as causal_forward."""
    demand_sequences(tokens)
    if cache.length:
        raise UsageError(f"the cache holds {cache.length} tokens: prefill starts with an empty one; feed further tokens with decode")
    return Pass(model, decide, cache, tokens.shape[0]).fill(tokens)


@torch.no_grad()
def decode(model: Decoder, token: Tensor, cache: Cache, *, decide: str | None = None) -> Tensor:
    """Logits [B, V] after one more token [B] of every sequence, which the cache then holds. Raises UsageError past learned positions, and for
    another shape.
    """
    if token.dim() != 1:
        raise UsageError(f"tokens of shape {list(token.shape)}: decode takes one of each sequence, [B]")
    return Pass(model, decide, cache, token.shape[0]).extend(token)


@torch.no_grad()
def generate(
    model: Decoder,
    tokens: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    decide: str | None = None,
) -> Tensor:
    """Continue prompts [B, T >= 1] to [B, T + max_new_tokens]. temperature 0: the likeliest token each time.

    Raises UsageError for an empty prompt, a negative temperature, a number of tokens that is not whole, or more tokens than learned
    positions (before any is computed).
    """
    max_new_tokens = whole_number(max_new_tokens, "max_new_tokens")
    if max_new_tokens < 0 or not isinstance(temperature, Real) or not temperature >= 0:
        raise UsageError(f"max_new_tokens {max_new_tokens}, temperature {temperature}: both are numbers from 0 on")
    demand_sequences(tokens)
    # The last token is only returned, never fed.
    check_prompt(model.plan, tokens.shape[1], max(max_new_tokens - 1, 0))
    if not max_new_tokens:
        return tokens
    cache = Cache(model.plan, tokens.shape[0])
    logits, new = prefill(model, tokens, cache, decide=decide), []
    for left in reversed(range(max_new_tokens)):
        new.append(choose(logits, float(temperature), generator))
        if left:
            logits = decode(model, new[-1], cache, decide=decide)
    return torch.cat([tokens, torch.stack(new, dim=1)], dim=1)


def choose(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """[B, V] -> [B]."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float()
    # From the highest down, so that a very low temperature gives -inf and no inf.
    below = (logits - logits.amax(-1, keepdim=True)) / max(temperature, torch.finfo(torch.float32).tiny)
    return torch.multinomial(below.softmax(-1), 1, generator=generator)[:, 0]
