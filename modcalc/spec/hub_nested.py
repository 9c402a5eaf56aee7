"""Model types whose files keep fields in sections of their own: MPT (attn_config) and DBRX (attn_config, ffn_config)."""

from dataclasses import dataclass, field
from typing import Any

from modcalc.spec import hub_rope as rotary
from modcalc.spec import hub_rules as r
from modcalc.spec.hub_experts import ROUTED_FREE
from modcalc.spec.hub_fields import FIXED, FREE, misfit, same, show
from modcalc.spec.hub_parts import DECODER, GATED, ROTARY, ModelType, norm, rope, sizes
from modcalc.spec.hub_rules import Config, Refused, Rule


@dataclass(frozen=True, kw_only=True)
class Nested:
    """A field with fields of its own. understood: of which kind (of `hub_fields`) each is, and its default, which alone may be null.
    fixed: what files say of a model as the library's class builds it. free: what costs nothing, beside what does in any config.
    """

    name: str
    understood: dict[str, tuple[str, Any]]
    fixed: dict[str, tuple] = field(default_factory=dict)
    free: frozenset[str] = frozenset()

    def check(self, c: Config) -> None:
        for key, value in (c[self.name] or {}).items():
            if key in self.fixed and not any(same(value, allowed) for allowed in self.fixed[key]):
                raise Refused(self.name, f"{key}: {show(value)}; the transformers library builds only {show(self.fixed[key][0])} in any case")
            if not any(key in known for known in (self.understood, self.fixed, self.free, FREE, FIXED)):
                raise Refused(self.name, f"{key}: unknown, so it may change what the model costs; correct it, or remove it if it does not")
        for key in self.understood:
            self.of(key)(c)

    def of(self, key: str) -> Rule:
        """The field, checked."""
        kind, default = self.understood[key]

        def rule(c: Config) -> Any:
            value = (c[self.name] or {}).get(key, default)
            problem = None if value is None and default is None else misfit(kind, value)
            if problem:
                raise Refused(self.name, f"{key}: {problem}")
            return value

        return rule


MPT_ATTENTION = Nested(
    name="attn_config",
    understood={"clip_qkv": ("number", None), "softmax_scale": ("number", None)},
    fixed={"alibi": (True,), "alibi_bias_max": (8,), "attn_type": ("multihead_attention",), "prefix_lm": (False,), "qk_ln": (False,)},
    free=frozenset({"attn_impl", "attn_pdrop", "attn_uses_sequence_id"}),
)
DBRX_ATTENTION = Nested(
    name="attn_config",
    understood={"clip_qkv": ("number", None), "kv_n_heads": ("size", 1), "rope_theta": ("number", None)},
    free=frozenset({"attn_pdrop"}),
)
DBRX_EXPERTS = Nested(
    name="ffn_config",
    understood={
        "ffn_act_fn": ("section", None),
        "ffn_hidden_size": ("size", 3584),
        "moe_num_experts": ("size", 4),
        "moe_top_k": ("size", 1),
    },
    # The class writes the width of the model into hidden_size.
    free=frozenset({"hidden_size", "moe_jitter_eps", "moe_loss_weight", "moe_normalize_expert_weights"}),
)


def mpt_score_scale(c: Config) -> float | None:
    scale = MPT_ATTENTION.of("softmax_scale")(c)
    return None if scale is None else float(scale)


def clipped(attention: Nested) -> Rule:
    """A note on what a spec does not carry."""
    return lambda c: "clip_qkv" if attention.of("clip_qkv")(c) else None


def never_tied(c: Config) -> None:
    if c["tie_word_embeddings"]:
        raise Refused("tie_word_embeddings", "true: the transformers library has no such model of this model_type")


def dbrx_kv_heads(c: Config) -> int | None:
    try:
        return r.kv_heads(Config(c, num_key_value_heads=DBRX_ATTENTION.of("kv_n_heads")(c)))
    except Refused as refused:
        raise Refused("attn_config", refused.text) from None


def dbrx_activation(c: Config) -> str:
    named = {"name": "silu", **(DBRX_EXPERTS.of("ffn_act_fn")(c) or {})}
    if named.keys() != {"name"} or not isinstance(named["name"], str):
        raise Refused("ffn_config", f'ffn_act_fn: {show(named)} is not like {{"name": "silu"}}')
    return r.activation("ffn_config")(Config(ffn_config=named["name"]))


def dbrx_renormalizes(c: Config) -> bool:
    """The class divides the experts' weights by their norm of this order; that of order 1 is their sum."""
    order = (c["ffn_config"] or {}).get("moe_normalize_expert_weights", 1)
    if order is not None and not same(order, 1):
        raise Refused("ffn_config", f"moe_normalize_expert_weights: {show(order)} is neither 1 nor null, which alone a spec can describe")
    return order is not None


def dbrx_theta_unread(c: Config) -> str | None:
    """Version 4 of the library rotated by that of attn_config, version 5 by that of rope_parameters."""
    own, read = DBRX_ATTENTION.of("rope_theta")(c), rotary.rope_theta(c)
    return None if own in (None, read) else f"rope_theta {own:g} of attn_config, in place of which version 5 of the library takes {read:g}"


_NAMES = {"d_model": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads"}
_DECODER = {**DECODER, "norm.kind": "layernorm", "norm.bias": False, "seq_len": r.of("max_seq_len")}

NESTED: dict[str, ModelType] = {
    "mpt": ModelType(
        defaults=sizes(50368, 2048, 24, 16, tied=True, max_seq_len=2048, layer_norm_epsilon=1e-5, attn_config=None),
        # Published files also say learned_pos_emb, which counts only without ALiBi.
        knobs={
            **_DECODER, **norm("layernorm", "layer_norm_epsilon"), "positions.kind": "alibi", "mlp.d_ff": r.inner(), "mlp.activation": "gelu",
            "attention.scale": mpt_score_scale,
        },
        checks=(MPT_ATTENTION.check,),
        names=_NAMES,
        free=frozenset({
            "emb_pdrop", "embedding_fraction", "init_config", "init_device", "learned_pos_emb", "resid_pdrop", "tokenizer_name", "verbose",
        }),
        fixed={
            "expansion_ratio": (4,), "logit_scale": (None,), "no_bias": (True,), "norm_type": ("low_precision_layernorm", "layernorm"),
        },
        dropped=(clipped(MPT_ATTENTION),),
    ),
    "dbrx": ModelType(
        defaults=sizes(
            32000, 2048, 24, 16, max_seq_len=2048, num_key_value_heads=None, attn_config=None, ffn_config=None, **rope(),
        ),
        knobs={
            **_DECODER, **ROTARY, **GATED, "attention.n_kv_heads": dbrx_kv_heads, "mlp.d_ff": DBRX_EXPERTS.of("ffn_hidden_size"),
            "mlp.activation": dbrx_activation, "moe.n_experts": DBRX_EXPERTS.of("moe_num_experts"), "moe.top_k": DBRX_EXPERTS.of("moe_top_k"),
            "moe.score": "softmax_topk", "moe.renormalize": dbrx_renormalizes,
        },
        checks=(
            never_tied, DBRX_ATTENTION.check, DBRX_EXPERTS.check,
            r.read_instead("num_key_value_heads", "kv_n_heads of attn_config", DBRX_ATTENTION.of("kv_n_heads")),
        ),
        names=_NAMES,
        free=ROUTED_FREE | {"emb_pdrop", "resid_pdrop"},
        dropped=(clipped(DBRX_ATTENTION), dbrx_theta_unread),
    ),
}  # fmt: skip
