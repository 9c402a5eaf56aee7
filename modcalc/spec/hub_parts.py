"""What the tables of model types are made of; `hub` names the tables."""

from dataclasses import dataclass, field
from typing import Any

from modcalc.spec import hub_rope as rotary
from modcalc.spec import hub_rules as r
from modcalc.spec.hub_rules import of


@dataclass(frozen=True, kw_only=True)
class ModelType:
    """One model_type of the transformers library.

    defaults: the understood fields, with the value that the library's class takes where a file omits them (a test holds
    them to the installed classes). knobs: dotted path of the spec -> a rule over those fields, or a constant of the
    type. only_if: section -> a rule; where it is false the section is left out. checks: rules that only refuse. rotation: the one of
    these about the share of a head that is rotated, of types with `whole_heads`. names:
    other names of understood fields. zeros: fields in which the library writes 0 for null. nulls: fields that may be
    null in this type, beside those that may in any. free: fields that cost nothing. per_layer: fields that may be a list
    with one value, the same, for each layer. fixed: fields that the library does not read for this type, with the values
    that agree with what it builds. dropped: rules that say what of the model a spec does not carry, or None. by_layer:
    whether rotary settings are by type of layer.
    """

    defaults: dict[str, Any]
    knobs: dict[str, Any]
    only_if: dict[str, r.Rule] = field(default_factory=dict)
    checks: tuple[r.Rule, ...] = ()
    rotation: r.Rule = rotary.all_rotated
    names: dict[str, str] = field(default_factory=dict)
    zeros: frozenset[str] = frozenset()
    nulls: frozenset[str] = frozenset()
    free: frozenset[str] = frozenset()
    per_layer: frozenset[str] = frozenset()
    fixed: dict[str, tuple] = field(default_factory=dict)
    dropped: tuple[r.Rule, ...] = ()
    by_layer: bool = False

    @property
    def whole_heads(self) -> bool:
        """Whether the class rotates all of a head, so that a share in the file must be 1, which `rotation` holds it to."""
        return "rope_parameters" in self.defaults and "partial_rotary_factor" not in self.defaults


# Knobs

DECODER = {
    "vocab_size": of("vocab_size"),
    "seq_len": of("max_position_embeddings"),
    "d_model": of("hidden_size"),
    "n_layers": of("num_hidden_layers"),
    "attention.n_heads": of("num_attention_heads"),
    "attention.head_dim": r.head_dim,
    "mlp.d_ff": r.needed("intermediate_size"),
    "mlp.activation": r.activation("hidden_act"),
    "head.tied": of("tie_word_embeddings"),
}
GROUPED = {"attention.n_kv_heads": r.kv_heads}
ROTARY = {"positions.kind": "rotary", "positions.theta": rotary.rope_theta}
PARTIAL = {**ROTARY, "positions.fraction": rotary.rope_fraction}
LEARNED = {"positions.kind": "learned", "positions.max_len": of("max_position_embeddings")}
GATED = {"mlp.kind": "gated"}
BIASES = {"attention.bias": True, "mlp.bias": True}
QKV_BIAS = {"attention.bias.q": True, "attention.bias.k": True, "attention.bias.v": True}
ATTENTION_BIAS = {"attention.bias": of("attention_bias")}
IF_BIASED = ATTENTION_BIAS  # as a condition: the section, with what it says, only where the field is true
LLAMA_BIASES = {**ATTENTION_BIAS, "mlp.bias": of("mlp_bias")}
GEMMA = {**ATTENTION_BIAS, "norm.unit_offset": True, "embedding.scale": lambda c: c["hidden_size"] ** 0.5}
WINDOW = {"attention.window": of("sliding_window")}
QK_HEAD = {"attention.qk_norm.scope": "head"}
QK_FULL = {"attention.qk_norm.scope": "full"}


def norm(kind: str, eps: str) -> dict[str, Any]:
    """The model's norm, with eps from the field of that name."""
    return {"norm.kind": kind, "norm.eps": of(eps)}


# Factors on embeddings, scores, what blocks add, and logits (maximal update parametrisation, as Granite uses it).
MULTIPLIERS = {
    "embedding.scale": r.factor("embedding_multiplier"),
    "attention.scale": r.needed("attention_multiplier"),
    "residual_scale": of("residual_multiplier"),
    "head.scale": lambda c: None if c["logits_scaling"] == 1 else 1 / c["logits_scaling"],
}

# The decoder that Llama made usual: pre-RMSNorm, grouped heads, rotary positions, and its gated MLP.
UNGATED = {**DECODER, **GROUPED, **ROTARY, **norm("rmsnorm", "rms_norm_eps")}
LLAMA = {**UNGATED, **GATED}

# GLM-4, whose two types differ in their norms alone.
GLM = {**LLAMA, **PARTIAL, **QKV_BIAS}

# Defaults


def sizes(vocab_size: int, hidden_size: int, num_hidden_layers: int, num_attention_heads: int, *, tied: bool = False, **more: Any) -> dict[str, Any]:
    """Defaults that every type has."""
    return dict(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        tie_word_embeddings=tied,
        **more,
    )


def rope(theta: float | None = rotary.THETA, **more: Any) -> dict[str, Any]:
    """Rotary defaults: theta stands in rope_parameters (version 5) or beside rope_scaling (version 4)."""
    return dict(rope_theta=theta, rope_parameters=None, rope_scaling=None, **more)


SILU = {"hidden_act": "silu"}


def like_llama(vocab_size: int, theta: float = rotary.THETA, **more: Any) -> dict[str, Any]:
    """Defaults of the many types whose class has the sizes of Llama's."""
    return sizes(
        vocab_size, 4096, 32, 32, max_position_embeddings=2048, intermediate_size=11008, num_key_value_heads=None, head_dim=None,
        attention_bias=False, **more, **SILU, **rope(theta),
    )  # fmt: skip


GLM_DEFAULTS = sizes(
    151552, 4096, 40, 32, max_position_embeddings=131072, intermediate_size=13696, num_key_value_heads=2, head_dim=128,
    rms_norm_eps=1.5625e-07, attention_bias=True, **SILU, **rope(partial_rotary_factor=0.5),
)  # fmt: skip
NO_MULTIPLIERS = dict(embedding_multiplier=1.0, logits_scaling=1.0, residual_multiplier=1.0, attention_multiplier=1.0)

# Checks, free and fixed fields

UNROTATED = {"partial_rotary_factor": (1, None)}
NO_MLP_BIAS = {"mlp_bias": (False, None)}
NO_BIAS = {"attention_bias": (False, None), **NO_MLP_BIAS}
NO_WINDOW = {"sliding_window": (None,), "use_sliding_window": (False, None)}
