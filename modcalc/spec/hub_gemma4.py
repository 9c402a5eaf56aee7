"""Gemma 4: layers without a window have other heads, whose values may be what the key projection makes. Only models without embeddings of
their own for each layer, without layers that take their keys from another one, and without experts can be billed.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from modcalc.spec import hub_layers as layers
from modcalc.spec import hub_rope as rotary
from modcalc.spec import hub_rules as r
from modcalc.spec.hub_fields import show
from modcalc.spec.hub_outnorm import GEMMA_2
from modcalc.spec.hub_parts import ATTENTION_DROPOUT, NO_MLP_BIAS, QK_HEAD, UNROTATED, ModelType, sizes
from modcalc.spec.hub_rules import Config, Refused, Rule


def _but_each_sixth(c: Config, i: int) -> bool:
    return (i + 1) % 6 != 0 and i + 1 < c["num_hidden_layers"]


_BY_TYPES = layers.layered_window(_but_each_sixth)


def window(c: Config) -> Any:
    """By layer_types, or but for each sixth layer; the last one never has one, whatever layer_types says."""
    types = layers.each_layer(c, "layer_types")
    return _BY_TYPES(c if types is None else Config(c, layer_types=[*types[:-1], "full_attention"]))


windows = layers.windowed(window)


class Heads(NamedTuple):
    n_kv_heads: int
    head_dim: int
    values_from_keys: bool = False


def full(c: Config) -> Heads:
    """Of layers without a window: as per_layer_config says for each of them, or as two fields of older files do."""
    K, N, same = c["num_key_value_heads"], c["head_dim"], c["attention_k_eq_v"]
    if c["per_layer_config"] is None:
        return Heads((c["num_global_key_value_heads"] if same else None) or K, c["global_head_dim"], same)
    own = [(K, N)] * c["num_hidden_layers"]
    for layer, said in c["per_layer_config"].items():
        if not str(layer).isdecimal() or int(layer) >= len(own):  # in files with zeros before: "05"
            raise Refused("per_layer_config", f"{show(layer)} is no layer, which are 0 to {len(own) - 1}")
        own[int(layer)] = _own(c, layer, said)
    found = {heads for heads, has_window in zip(own, windows(c), strict=True) if not has_window}
    if len(found) > 1 or any(heads != (K, N) for heads, has_window in zip(own, windows(c), strict=True) if has_window):
        raise Refused("per_layer_config", "layers of one type that differ, which no spec can describe")
    return Heads(*found.pop(), same)


def _own(c: Config, layer: object, said: Any) -> tuple[int, int]:
    """Key/value heads and head_dim of a layer."""
    known = ("num_key_value_heads", "head_dim")
    if not isinstance(said, Mapping) or not said.keys() <= set(known) or not all(type(v) is int and v > 0 for v in said.values()):
        raise Refused("per_layer_config", f"{layer}: {show(said)}; understood are whole numbers for {' and '.join(known)}")
    return tuple(said.get(field, c[field]) for field in known)


def first(c: Config) -> Heads:
    """Of layers with a window, or of all where none has one."""
    return Heads(c["num_key_value_heads"], c["head_dim"]) if any(windows(c)) else full(c)


def otherwise(field: str) -> Rule:
    """What layers without a window have otherwise."""

    def rule(c: Config) -> Any:
        own, others = getattr(full(c), field), getattr(first(c), field)
        return None if own == others else own

    return rule


def kv_heads(heads: Heads, c: Config) -> int | None:
    return r.kv_heads(Config(c, num_key_value_heads=heads.n_kv_heads))


def full_kv_heads(c: Config) -> int | None:
    kv_heads(full(c), c)  # which must divide the heads
    return otherwise("n_kv_heads")(c)


def whole_heads_turn(c: Config) -> None:
    """A proportional share turns the others by nothing, and any other type reads no share."""
    for kind in rotary.LAYERS:
        section = (c["rope_parameters"] or {}).get(kind)
        if isinstance(section, Mapping) and section.get("rope_type") != "proportional" and section.get("partial_rotary_factor") not in (None, 1):
            said = f"{kind}: partial_rotary_factor {show(section['partial_rotary_factor'])}, which only rope_type proportional reads"
            raise Refused("rope_parameters", said)


def without(field: str, what: str) -> Rule:
    """A check that a model has no such part."""

    def rule(c: Config) -> None:
        if c[field]:
            raise Refused(field, f"{show(c[field])}: {what}, which no spec can describe")

    return rule


GEMMA_4 = ModelType(
    defaults=sizes(
        262144, 2304, 30, 8, tied=True, max_position_embeddings=131072, intermediate_size=9216, num_key_value_heads=4, head_dim=256,
        hidden_activation="gelu_pytorch_tanh", rms_norm_eps=1e-6, attention_bias=False, sliding_window=512, layer_types=None,
        final_logit_softcapping=None, rope_parameters=None, attention_k_eq_v=False, global_head_dim=512, num_global_key_value_heads=None,
        per_layer_config=None, hidden_size_per_layer_input=256, num_kv_shared_layers=0, enable_moe_block=False,
    ),
    knobs={
        **GEMMA_2, **QK_HEAD, "norm.unit_offset": None, "attention.scale": 1.0, "attention.softcap": None, "attention.v_norm": True,
        "attention.window": window, "attention.n_kv_heads": lambda c: kv_heads(first(c), c),
        "attention.head_dim": lambda c: r.head_dim(Config(c, head_dim=first(c).head_dim)),
        "attention.values_from_keys": lambda c: first(c).values_from_keys or None, "attention.full.n_kv_heads": full_kv_heads,
        "attention.full.head_dim": otherwise("head_dim"), "attention.full.values_from_keys": otherwise("values_from_keys"),
        "positions.theta": rotary.theta_of_layers("full_attention", 1000000.0, lambda c: True),
        "positions.local_theta": rotary.theta_of_layers("sliding_attention", 10000.0, lambda c: any(windows(c))),
    },
    checks=(
        without("hidden_size_per_layer_input", "embeddings of their own for each layer"),
        without("num_kv_shared_layers", "layers that take keys and values from another one"),
        without("enable_moe_block", "experts beside an MLP, each between norms of its own"),
        whole_heads_turn,
    ),
    # Of parts that these models do not have.
    free=ATTENTION_DROPOUT | {
        "expert_intermediate_size", "moe_intermediate_size", "num_experts", "top_k_experts", "use_double_wide_mlp", "vocab_size_per_layer_input",
    },
    fixed=UNROTATED | NO_MLP_BIAS | {"rope_scaling": (None,), "rope_theta": (None,), "use_bidirectional_attention": (False, None, "vision")},
    dropped=(lambda c: "a factor on what each layer returns", lambda c: None if c["rope_parameters"] else "proportional RoPE scaling"),
    by_layer=True,
)  # fmt: skip

GEMMA4: dict[str, ModelType] = {
    "gemma4_text": GEMMA_4,
    # The decoder of the model without encoders for images and audio, which has neither of the parts that are refused.
    "gemma4_unified_text": replace(
        GEMMA_4,
        defaults={k: v for k, v in GEMMA_4.defaults.items() if k not in ("hidden_size_per_layer_input", "enable_moe_block")}
        | dict(max_position_embeddings=262144, sliding_window=1024),
        checks=(GEMMA_4.checks[1], whole_heads_turn),
        free=GEMMA_4.free | {"enable_moe_block"},
        fixed=GEMMA_4.fixed | {"hidden_size_per_layer_input": (0, None)},
    ),
}
