"""Gemma 4: layers without a window have other heads, whose values may be what the key projection makes; experts may stand beside the MLP.
Only models without embeddings of their own for each layer and without layers that take their keys from another one can be billed.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from modcalc.spec import hub_layers as layers
from modcalc.spec import hub_rope as rotary
from modcalc.spec import hub_rules as r
from modcalc.spec.hub_fields import show
from modcalc.spec.hub_outnorm import GEMMA_2
from modcalc.spec.hub_parts import NO_MLP_BIAS, QK_HEAD, ModelType, sizes
from modcalc.spec.hub_rules import Config, Refused, Rule, of

SLIDING, FULL = "sliding_attention", "full_attention"


def windows(c: Config) -> list[bool]:
    """Which layers have a window: by layer_types, or all but each sixth; never the last one, whatever layer_types says."""
    types = layers.each_layer(c, "layer_types") or [SLIDING if (i + 1) % 6 else FULL for i in range(c["num_hidden_layers"])]
    for given in types:
        if given not in (SLIDING, FULL):
            raise Refused("layer_types", f"{show(given)} is neither {SLIDING} nor {FULL}")
    return [*(given == SLIDING for given in types[:-1]), False]


def window(c: Config) -> Any:
    slides = windows(c)
    if c["sliding_window"] is None and any(slides):
        raise Refused("sliding_window", "null, but layers have sliding_attention, which needs a window")
    return layers.pattern([c["sliding_window"] if has_one else None for has_one in slides])


class Heads(NamedTuple):
    n_kv_heads: int
    head_dim: int
    values_from_keys: bool = False


def heads(c: Config) -> tuple[Heads, Heads]:
    """Of layers with a window (or of all, where none has one), and of those without: as per_layer_config says for each layer, or as
    two fields of older files do.
    """
    K, N, same, slides = c["num_key_value_heads"], c["head_dim"], c["attention_k_eq_v"], windows(c)
    if c["per_layer_config"] is None:
        full = Heads((c["num_global_key_value_heads"] if same else None) or K, c["global_head_dim"], same)
        return (Heads(K, N) if any(slides) else full), full
    own = [(K, N)] * len(slides)
    for layer, said in c["per_layer_config"].items():
        if not str(layer).isdecimal() or int(layer) >= len(own):  # in files with zeros before: "05"
            raise Refused("per_layer_config", f"{show(layer)} is no layer, which are 0 to {len(own) - 1}")
        own[int(layer)] = _own_heads(c, layer, said)
    windowed, others = ({h for h, has_one in zip(own, slides, strict=True) if has_one == kind} for kind in (True, False))
    if len(windowed) > 1 or len(others) > 1:
        raise Refused("per_layer_config", "layers of one type that differ, which no spec can describe")
    full = Heads(*others.pop(), same)
    return (Heads(*windowed.pop()) if windowed else full), full


def _own_heads(c: Config, layer: object, said: Any) -> tuple[int, int]:
    """Key/value heads and head_dim of a layer."""
    known = ("num_key_value_heads", "head_dim")
    if not isinstance(said, Mapping) or not said.keys() <= set(known) or not all(type(v) is int and v > 0 for v in said.values()):
        raise Refused("per_layer_config", f"{layer}: {show(said)}; understood are whole numbers for {' and '.join(known)}")
    return tuple(said.get(field, c[field]) for field in known)


def where_full_differs(field: str) -> Rule:
    """What layers without a window have otherwise."""

    def rule(c: Config) -> Any:
        others, full = (getattr(kind, field) for kind in heads(c))
        return None if full == others else full

    return rule


def kv_heads(c: Config, at: int = 0) -> int | None:
    K = heads(c)[at].n_kv_heads
    try:
        return r.kv_heads(Config(c, num_key_value_heads=K))
    except Refused as refused:
        field = "num_global_key_value_heads" if c["per_layer_config"] is None else "per_layer_config"
        raise Refused("num_key_value_heads" if c["num_key_value_heads"] == K else field, refused.text) from None


def full_kv_heads(c: Config) -> int | None:
    kv_heads(c, 1)  # which must divide the heads
    return where_full_differs("n_kv_heads")(c)


def whole_heads_turn(c: Config) -> None:
    """A proportional share turns the rest by nothing, and where positions are not scaled no share is read."""
    if c["rope_parameters"] == {}:
        raise Refused("rope_parameters", f"{{}}: the sections {' and '.join(rotary.LAYERS)} are needed, or no such field")
    for kind in rotary.LAYERS:
        given = (c["rope_parameters"] or {}).get(kind) or {}
        share = rotary.Section("rope_parameters", given if isinstance(given, Mapping) else {}).number("partial_rotary_factor")
        proportional = isinstance(given, Mapping) and given.get("rope_type") == "proportional"
        if share is not None and (share > 1 or (share < 1 and not proportional)):
            said = f"{kind}: partial_rotary_factor {share:g}; these models rotate whole heads, but for a share of rope_type proportional"
            raise Refused("rope_parameters", said)


def has_no(field: str, what: str) -> Rule:
    """A check that a model has no such part."""

    def rule(c: Config) -> None:
        if c[field]:
            raise Refused(field, f"{show(c[field])}: {what}, which no spec can describe")

    return rule


OF_EXPERTS = dict.fromkeys(("num_experts", "top_k_experts", "moe_intermediate_size", "expert_intermediate_size"))
GEMMA4_FIXED = NO_MLP_BIAS | {"rope_scaling": (None,), "rope_theta": (None,), "use_bidirectional_attention": (None, "vision")}
DENSE = ModelType(
    defaults=sizes(
        262144, 2304, 30, 8, tied=True, max_position_embeddings=262144, intermediate_size=9216, num_key_value_heads=4, head_dim=256,
        hidden_activation="gelu_pytorch_tanh", rms_norm_eps=1e-6, attention_bias=False, sliding_window=1024, layer_types=None,
        final_logit_softcapping=None, rope_parameters=None, attention_k_eq_v=False, global_head_dim=512, num_global_key_value_heads=None,
        per_layer_config=None, num_kv_shared_layers=0,
    ),
    knobs={
        **GEMMA_2, **QK_HEAD, "norm.unit_offset": None, "attention.scale": 1.0, "attention.softcap": None, "attention.v_norm": True,
        "attention.window": window, "attention.n_kv_heads": kv_heads,
        "attention.head_dim": lambda c: r.head_dim(Config(c, head_dim=heads(c)[0].head_dim)),
        "attention.values_from_keys": lambda c: heads(c)[0].values_from_keys or None, "attention.full.n_kv_heads": full_kv_heads,
        "attention.full.head_dim": where_full_differs("head_dim"),
        "attention.full.values_from_keys": where_full_differs("values_from_keys"),
        "positions.theta": rotary.theta_of_layers(FULL, 1000000.0, lambda c: True),
        "positions.local_theta": rotary.theta_of_layers(SLIDING, 10000.0, lambda c: any(windows(c))),
    },
    rotation=whole_heads_turn,
    checks=(
        r.needed("head_dim"),
        r.needed("num_key_value_heads"),
        has_no("num_kv_shared_layers", "layers that take keys and values from another one"),
    ),
    # Of parts that these models do not have.
    free={*OF_EXPERTS, "use_double_wide_mlp", "vocab_size_per_layer_input"},
    fixed=GEMMA4_FIXED | {"enable_moe_block": (False, None), "hidden_size_per_layer_input": (0, None)},
    dropped=(lambda c: "a factor on what each layer returns", lambda c: None if c["rope_parameters"] else "proportional RoPE scaling"),
    by_layer=True,
)  # fmt: skip


def old_width(c: Config) -> None:
    """A name of the experts' width that the class does not read."""
    if c["enable_moe_block"]:
        r.read_instead("expert_intermediate_size", "moe_intermediate_size", of("moe_intermediate_size"))(c)


GEMMA4: dict[str, ModelType] = {
    # The decoder of the model without encoders for images and audio.
    "gemma4_unified_text": DENSE,
    # Experts may stand beside the MLP, which is then the one that is shared.
    "gemma4_text": replace(
        DENSE,
        defaults=DENSE.defaults | dict(max_position_embeddings=131072, sliding_window=512, hidden_size_per_layer_input=256, enable_moe_block=False)
        | OF_EXPERTS,
        knobs={
            **DENSE.knobs, "moe.n_experts": r.needed("num_experts"), "moe.top_k": r.needed("top_k_experts"),
            "moe.d_ff": r.needed("moe_intermediate_size"), "moe.n_shared": 1, "moe.shared_d_ff": of("intermediate_size"), "moe.own_norms": True,
        },
        only_if={"moe": of("enable_moe_block")},
        checks=(*DENSE.checks, has_no("hidden_size_per_layer_input", "embeddings of their own for each layer"), old_width),
        zeros=frozenset(OF_EXPERTS),
        nulls=frozenset(OF_EXPERTS),
        free=DENSE.free - OF_EXPERTS.keys(),
        fixed=GEMMA4_FIXED,
    ),
}  # fmt: skip
