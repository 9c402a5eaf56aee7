"""Command R and its kin, in parallel blocks with one norm: Command R and A, Aya, Command A+ (with experts), Compass."""

from typing import Any

from modcalc.spec import hub_layers as layers
from modcalc.spec import hub_rope as rotary
from modcalc.spec import hub_rules as r
from modcalc.spec import hub_sparse as sparse
from modcalc.spec.hub_experts import ROUTED_FREE, experts
from modcalc.spec.hub_fields import show
from modcalc.spec.hub_parts import ATTENTION_BIAS, DECODER, GATED, GROUPED, NO_MLP_BIAS, ROTARY, SILU, ModelType, norm, rope, sizes
from modcalc.spec.hub_rules import of
from modcalc.spec.hub_thetas import COMPASS

COHERE = {
    **DECODER, **GROUPED, **GATED, **ATTENTION_BIAS, **norm("layernorm", "layer_norm_eps"), "norm.bias": False, "parallel": "shared_norm",
    "head.scale": r.factor("logit_scale"),
}  # fmt: skip


def _like_command_r(**more: Any) -> dict[str, Any]:
    """Defaults of its kin, whose classes have its sizes."""
    usual = dict(
        max_position_embeddings=8192, intermediate_size=22528, num_key_value_heads=None, head_dim=None, layer_norm_eps=1e-5, logit_scale=0.0625,
        attention_bias=False,
    )  # fmt: skip
    return sizes(256000, 8192, 40, 64, tied=True, **usual | more, **SILU)


COHERE_2_WINDOW = layers.layered_window(layers.but_each("sliding_window_pattern"))


def _behind_prefix(c: r.Config, i: int) -> bool:
    """Cohere 2 with experts: the layers of the dense prefix have a pattern of windows of their own."""
    prefix = c["first_k_dense_replace"]
    return layers.not_last(c, "prefix_dense_sliding_window_pattern", i) if i < prefix else layers.not_last(c, "sliding_window_pattern", i - prefix)


MOE_WINDOW = layers.layered_window(_behind_prefix)


def _moe_rotates(c: r.Config) -> list[bool]:
    """Layers with a window, and dense ones too, if their pattern has no windows."""
    routed, dense_too = sparse.after_dense(c), c["prefix_dense_sliding_window_pattern"] == 1
    return [has or (dense_too and i not in routed) for i, has in enumerate(layers.windowed(MOE_WINDOW)(c))]


def _summed(c: r.Config) -> None:
    how = c["shared_expert_combination_strategy"]
    if c["num_shared_experts"] and how != "sum":
        text = f"{show(how)}: the mean of routed and shared experts, which no spec can describe" if how == "average" else f"{show(how)} is not sum"
        raise r.Refused("shared_expert_combination_strategy", text)


def _moe_score(c: r.Config) -> str:
    scores = {"softmax": "topk_softmax", "sigmoid": "sigmoid"}
    if c["expert_selection_fn"] not in scores:
        raise r.Refused("expert_selection_fn", f"{show(c['expert_selection_fn'])} is neither softmax nor sigmoid")
    return scores[c["expert_selection_fn"]]


COHERE_TYPES: dict[str, ModelType] = {
    "cohere": ModelType(
        defaults=_like_command_r(use_qk_norm=False, **rope(500000.0)),
        knobs={**COHERE, **ROTARY, "attention.qk_norm.scope": "per_head"},
        only_if={"attention.qk_norm": of("use_qk_norm")},
        free={"pretraining_tp"},
        fixed=NO_MLP_BIAS,
    ),
    "cohere2": ModelType(
        defaults=_like_command_r(sliding_window=4096, sliding_window_pattern=4, layer_types=None, **rope()),
        # Layers without a window have no positions.
        knobs={**COHERE, **layers.unrotated(layers.windowed(COHERE_2_WINDOW)), "attention.window": COHERE_2_WINDOW},
        # The published file says in the words of its training code what the library's class always is.
        free={"_sliding_window_pattern", "layer_switch", "order_of_interleaved_layers", "use_parallel_embedding"},
        fixed=NO_MLP_BIAS | {
            "position_embedding_type": ("rope_gptj",), "rotary_pct": (1,), "use_embedding_sharing": (True,), "use_gated_activation": (True,),
            "use_parallel_block": (True,), "use_qk_norm": (False, None),
        },
    ),
    # Cohere Compass: Command R with rotary settings by type of layer, without which its class cannot do.
    "cohere_compass_text": ModelType(
        defaults=_like_command_r(logit_scale=None, sliding_window=4096, layer_types=None, rope_parameters=None),
        knobs={**COHERE, **COMPASS, "attention.head_dim": r.floored_head_dim},
        rotation=rotary.all_rotated_by_layer,
        nulls=frozenset({"logit_scale"}),
        free={"pooling"},
        # Rotary settings are read in rope_parameters alone.
        fixed=NO_MLP_BIAS | {"rope_scaling": (None,), "rope_theta": (None,)},
        by_layer=True,
    ),
    # Command A+, whose default is the mean of routed and shared experts.
    "cohere2_moe": ModelType(
        defaults=_like_command_r(
            head_dim=128, rms_norm_eps=None, sliding_window=4096, sliding_window_pattern=4, layer_types=None, mlp_layer_types=None,
            first_k_dense_replace=0, prefix_dense_sliding_window_pattern=1, prefix_dense_intermediate_size=None, num_experts_per_tok=2,
            num_experts=8, num_shared_experts=0, norm_topk_prob=True, shared_expert_combination_strategy="average",
            expert_selection_fn="softmax", rope_theta=10000.0, rope_parameters=None,
        ),
        knobs={
            **COHERE, **layers.unrotated(_moe_rotates), **experts("num_experts"), **sparse.to_the_end(sparse.after_dense),
            "norm.kind": lambda c: "layernorm" if c["rms_norm_eps"] is None else "rmsnorm",
            "norm.eps": lambda c: c["layer_norm_eps"] if c["rms_norm_eps"] is None else c["rms_norm_eps"],
            "norm.bias": lambda c: False if c["rms_norm_eps"] is None else None,
            "attention.window": MOE_WINDOW, "mlp.d_ff": lambda c: c["prefix_dense_intermediate_size"] or c["intermediate_size"],
            "moe.d_ff": of("intermediate_size"), "moe.score": _moe_score, "moe.n_shared": of("num_shared_experts"),
            "moe.renormalize": lambda c: c["norm_topk_prob"] if c["expert_selection_fn"] == "sigmoid" else None,
        },
        only_if={"moe": sparse.after_dense},
        checks=(_summed, r.needed("head_dim")),
        nulls=frozenset({"rms_norm_eps"}),
        free=ROUTED_FREE,
        # The class reads no scaling of positions.
        fixed=NO_MLP_BIAS | {"rope_scaling": (None,)},
    ),
}  # fmt: skip
