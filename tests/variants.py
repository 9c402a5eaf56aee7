"""Named variants of one tiny model: every way of routing, and what it meets in attention and feed-forward."""

import msgspec
import pytest
import torch
from modcalc.models import Decoder

import modcalc
from modcalc.spec.schema import Spec

BASE = dict(
    name="tiny",
    vocab_size=20,
    seq_len=12,
    d_model=16,
    n_layers=4,
    attention=dict(n_heads=4, n_kv_heads=2),
    mlp=dict(d_ff=24),
)
MOE = dict(n_experts=4, top_k=2)
LATENT = dict(kv_rank=6, q_rank=5, nope_dim=4, rope_dim=4, v_dim=5)

VARIANTS: dict[str, dict] = {
    "dense": {},
    "gated, sandwich": dict(mlp=dict(d_ff=24, kind="gated", activation="silu"), norm=dict(placement="sandwich")),
    "xielu": dict(mlp=dict(d_ff=24, activation="xielu"), mod=dict(capacity=0.5, bypass=dict(d_ff=3))),
    "post": dict(norm=dict(placement="post", kind="layernorm")),
    "windows": dict(attention=dict(n_heads=4, window=[3, None])),
    "chunks": dict(
        attention=dict(n_heads=4, window=[5, None], chunked=True, qk_norm=dict(affine=False, rotated_only=True)),
        positions=dict(rotated=[True, False]),
    ),
    "other heads without a window": dict(
        attention=dict(
            n_heads=4, n_kv_heads=2, window=[3, None], qk_norm={}, v_norm=True, full=dict(n_kv_heads=1, head_dim=6, values_from_keys=True)
        ),
    ),
    "alibi": dict(positions=dict(kind="alibi"), attention=dict(n_heads=3, head_dim=6)),
    "sinks, softcap": dict(attention=dict(n_heads=4, sinks=True, softcap=5.0)),
    "latent": dict(attention=dict(n_heads=4, latent=LATENT)),
    "gates": dict(attention=dict(n_heads=4, n_kv_heads=2, gate="elementwise")),
    "moe": dict(moe=MOE),
    "moe with drops": dict(moe=dict(MOE, capacity=0.5)),
    "moe, own norms": dict(
        moe=dict(MOE, n_shared=1, own_norms=True, capacity=1.0), norm=dict(placement="sandwich"), mod=dict(capacity=0.5, granularity="mlp")
    ),
    "mod": dict(mod=dict(capacity=0.25)),
    "mod, one token": dict(mod=dict(capacity=1)),
    "mod, all tokens": dict(mod=dict(capacity=1.0)),
    "mod, post": dict(mod=dict(capacity=0.25), norm=dict(placement="post")),
    "mod, attention": dict(mod=dict(capacity=0.25, granularity="attention")),
    "mod, all keys": dict(mod=dict(capacity=0.25, keys="all")),
    "mod, all keys, one token": dict(mod=dict(capacity=1, keys="all", granularity="attention"), norm=dict(placement="post")),
    "mod, all keys, chunks": dict(mod=dict(capacity=0.5, keys="all"), attention=dict(n_heads=4, window=[None, 5], chunked=True, qk_norm={})),
    "mod, all keys, alibi": dict(
        mod=dict(capacity=0.5, keys="all"), positions=dict(kind="alibi"), attention=dict(n_heads=4, window=3), norm=dict(placement="sandwich")
    ),
    "mod, all keys, latent": dict(mod=dict(capacity=0.5, keys="all", predictor_width=3), attention=dict(n_heads=4, latent=LATENT, gate="headwise")),
    "mod, all keys, threshold": dict(
        mod=dict(capacity=0.5, keys="all", selection="threshold", bypass=dict(d_ff=3)),
        attention=dict(n_heads=4, n_kv_heads=2, sinks=True, softcap=5.0),
        parallel="two_norms",
        positions=dict(kind="learned"),
    ),
    "mod, mlp": dict(mod=dict(capacity=0.25, granularity="mlp")),
    "mod, window": dict(mod=dict(capacity=0.5), attention=dict(n_heads=4, window=3)),
    "mod, values from keys": dict(
        mod=dict(capacity=0.5),
        attention=dict(n_heads=4, window=[None, 5], qk_norm={}, v_norm=True, values_from_keys=True, full=dict(values_from_keys=False, n_kv_heads=2)),
    ),
    "mod, chunks": dict(mod=dict(capacity=0.5), attention=dict(n_heads=4, window=5, chunked=True)),
    "mod, alibi": dict(mod=dict(capacity=0.5), positions=dict(kind="alibi")),
    "mod, latent": dict(mod=dict(capacity=0.5), attention=dict(n_heads=4, latent=LATENT)),
    "mod, latent, gates": dict(mod=dict(capacity=0.5), attention=dict(n_heads=4, latent=LATENT, gate="headwise")),
    "mod, learned positions": dict(mod=dict(capacity=0.5), positions=dict(kind="learned")),
    "mod, sinks, softcap": dict(mod=dict(capacity=0.5), attention=dict(n_heads=4, n_kv_heads=2, sinks=True, softcap=5.0, window=4)),
    "mod, list": dict(mod=dict(capacity=0.5, layers=[0, 3])),
    "mod, capacities": dict(mod=dict(every=1, capacity=[1.0, 0.5, 2, 0.25])),
    "mod, schedule": dict(mod=dict(every=1, capacity=dict(kind="cosine", start=0.9, end=0.2))),
    "mod, predictor": dict(mod=dict(capacity=0.25, predictor_width=5)),
    "mod, bypass": dict(mod=dict(capacity=0.25, bypass=dict(d_ff=3))),
    "mod, threshold": dict(mod=dict(capacity=0.5, selection="threshold")),
    "mod, threshold, bypass": dict(mod=dict(capacity=0.5, selection="threshold", bypass=dict(d_ff=3))),
    "mod, random": dict(mod=dict(capacity=0.25, router="random")),
    "mod, parallel": dict(mod=dict(capacity=0.25), parallel="shared_norm"),
    "mode, staged": dict(mod=dict(capacity=0.5), moe=MOE),
    "mode, integrated": dict(moe=dict(MOE, n_noop=2, capacity=1.0)),
    "mode, staged and integrated": dict(mod=dict(capacity=0.5), moe=dict(MOE, n_noop=2, capacity=1.0)),
    "mod, mlp, experts": dict(mod=dict(capacity=0.5, granularity="mlp"), moe=dict(MOE, n_shared=1)),
    "mod, attention, experts": dict(mod=dict(capacity=0.5, granularity="attention"), moe=dict(MOE, capacity=0.5)),
    "mod, expert choice": dict(mod=dict(selection="threshold", capacity=0.5), moe=dict(n_experts=4, choice="expert", capacity=1.0)),
    "recursions": dict(mod=dict(recursions=3, capacity=[1.0, 0.5, 0.25], layers=[1, 2])),
    "recursions, predictor": dict(mod=dict(recursions=2, capacity=[0.75, 0.25], predictor_width=3), attention=dict(n_heads=4, window=[3, None])),
    "recursions, experts": dict(mod=dict(recursions=2, capacity=[0.75, 0.5]), moe=MOE),
    "recursions, threshold": dict(mod=dict(recursions=3, capacity=[0.75, 0.5, 0.25], selection="threshold", bypass=dict(d_ff=3))),
}
# Whose layers are named one by one, or differ in more than being routed.
BY_LAYER = ("mod", "mod, threshold", "mod, list", "mod, capacities", "mod, schedule", "recursions")
each_variant = pytest.mark.parametrize("name", VARIANTS)


def spec_of(variant: str | dict) -> Spec:
    return msgspec.convert({**BASE, **(VARIANTS[variant] if isinstance(variant, str) else variant)}, Spec)


def short_of(name: str) -> dict:
    """A variant of two layers where these show what four do: one of them is routed."""
    return VARIANTS[name] if name in BY_LAYER else {**VARIANTS[name], "n_layers": 2}


def model_of(variant: str | dict, **options) -> Decoder:
    return modcalc.build(spec_of(variant), **options)


def scramble(model: torch.nn.Module, std: float = 0.5) -> None:
    """Every parameter and buffer random, so that none can be left out unnoticed."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in [*model.parameters(), *model.buffers()]:
            p.normal_(0, std, generator=generator)


def tokens_of(spec: Spec, batch: int = 2) -> torch.Tensor:
    """Distinct tokens in a sequence where the vocabulary allows it: equal tokens could tie in expert choice."""
    generator = torch.Generator().manual_seed(3)
    return torch.stack([torch.randperm(max(spec.vocab_size, spec.seq_len), generator=generator)[: spec.seq_len] for _ in range(batch)])
