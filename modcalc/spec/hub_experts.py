"""Model types with experts in all layers or most: Mixtral, Qwen2-MoE and Qwen3-MoE, OLMoE, FlexOlmo, gpt-oss, MiniMax-M2, Granite-MoE
and Granite 4, Phi-3.5-MoE, HunYuan, Mellum, Aria, ERNIE 4.5, Flint, Kolibri."""

from dataclasses import replace

from modcalc.spec import hub_layers as layers
from modcalc.spec import hub_rope as rotary
from modcalc.spec import hub_rules as r
from modcalc.spec import hub_sparse as sparse
from modcalc.spec.hub_parts import (
    ATTENTION_BIAS,
    LLAMA,
    MULTIPLIERS,
    NO_BIAS,
    NO_MLP_BIAS,
    NO_MULTIPLIERS,
    NO_WINDOW,
    QK_FULL,
    QK_HEAD,
    QKV_BIAS,
    SILU,
    WINDOW,
    ModelType,
    like_llama,
    norm,
    rope,
    sizes,
)
from modcalc.spec.hub_rmsnorm import CHUNKS, RMSNORM, TRAINED_IN_PARALLEL
from modcalc.spec.hub_rules import of
from modcalc.spec.hub_thetas import GRANITE_SWA

ROUTED_FREE = {"output_router_logits", "router_aux_loss_coef"}


def experts(count: str, score: str = "softmax_topk") -> dict:
    """The expert section, `count` being the field that holds their number."""
    return {"moe.n_experts": r.needed(count), "moe.top_k": r.needed("num_experts_per_tok"), "moe.score": score}


# Experts with a width of their own, in every decoder_sparse_step-th layer.
QWEN_EXPERTS = {
    **experts("num_experts"), "moe.d_ff": of("moe_intermediate_size"), "moe.every": sparse.qwen_every, "moe.layers": sparse.qwen_explicit_layers,
}  # fmt: skip
# Of files whose training code could have latent attention and groups of experts too, both off.
LATENT_WIDTHS = ("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
NO_LATENT = {
    **dict.fromkeys(LATENT_WIDTHS, (None,)),
    **dict.fromkeys(("n_group", "topk_group", "use_mla"), (False, None)),
}
WITHOUT_NULLS = tuple(r.needed(field) for field in ("head_dim", "num_key_value_heads", "sliding_window"))
MELLUM_WINDOW = layers.layered_window(lambda c, i: False)
GRANITE = ModelType(
    defaults=like_llama(32000, rms_norm_eps=1e-6, num_experts_per_tok=2, num_local_experts=8, **NO_MULTIPLIERS),
    knobs={**LLAMA, **MULTIPLIERS, **ATTENTION_BIAS, **experts("num_local_experts", "topk_softmax")},
    free=ROUTED_FREE,
    fixed=NO_MLP_BIAS,
)
GRANITE_SHARED = replace(
    GRANITE,
    defaults=GRANITE.defaults | {"shared_intermediate_size": 0},
    knobs={
        **GRANITE.knobs, "moe.n_shared": lambda c: int(c["shared_intermediate_size"] > 0),
        "moe.shared_d_ff": lambda c: c["shared_intermediate_size"] or None,
    },
)  # fmt: skip
# Granite 4, of which those without state spaces can be billed: dense, or with experts.
GRANITE_4 = replace(
    GRANITE_SHARED,
    defaults=GRANITE_SHARED.defaults | {"shared_intermediate_size": 1024, "position_embedding_type": None, "layer_types": None},
    knobs={
        **GRANITE_SHARED.knobs,
        **layers.unrotated(lambda c: [c["position_embedding_type"] == "rope"]),
        "mlp.d_ff": r.granite_inner,
    },
    only_if={"moe": of("num_local_experts")},
    checks=(layers.no_state_spaces, *GRANITE_SHARED.checks),
    names={"layers_block_type": "layer_types"},
    zeros=frozenset({"num_experts_per_tok", "num_local_experts"}),
    free=GRANITE_SHARED.free | {
        "init_method", "mamba_chunk_size", "mamba_conv_bias", "mamba_d_conv", "mamba_d_head", "mamba_d_state", "mamba_expand", "mamba_n_groups",
        "mamba_n_heads", "mamba_proj_bias", "time_step_limit",
    },
    fixed=GRANITE_SHARED.fixed | {"normalization_function": ("rmsnorm", None)},
)  # fmt: skip
HUNYUAN = RMSNORM["hunyuan_v1_dense"]

EXPERTS: dict[str, ModelType] = {
    "mixtral": ModelType(
        defaults=sizes(
            32000, 4096, 32, 32, max_position_embeddings=131072, intermediate_size=14336, num_key_value_heads=8, head_dim=None,
            rms_norm_eps=1e-5, sliding_window=None, num_experts_per_tok=2, num_local_experts=8, **SILU, **rope(1000000.0),
        ),
        knobs={**LLAMA, **WINDOW, **experts("num_local_experts")},
        names={"num_experts": "num_local_experts"},
        free=ROUTED_FREE | {"router_jitter_noise"},
        fixed=NO_BIAS,
    ),
    "qwen2_moe": ModelType(
        defaults=sizes(
            151936, 2048, 24, 16, max_position_embeddings=32768, intermediate_size=5632, num_key_value_heads=16, head_dim=None,
            rms_norm_eps=1e-6, qkv_bias=True, use_sliding_window=False, sliding_window=4096, max_window_layers=28, layer_types=None,
            decoder_sparse_step=1, moe_intermediate_size=1408, shared_expert_intermediate_size=5632, num_experts_per_tok=4, num_experts=60,
            norm_topk_prob=False, mlp_only_layers=None, **SILU, **rope(),
        ),
        knobs={
            **LLAMA, **QKV_BIAS, **QWEN_EXPERTS,
            "attention.window": layers.layered_window(lambda c, i: i % 2 == 0 and i < c["max_window_layers"], "use_sliding_window"),
            "moe.n_shared": 1, "moe.shared_d_ff": of("shared_expert_intermediate_size"), "moe.shared_gate": True,
            "moe.renormalize": of("norm_topk_prob"),
        },
        only_if={"attention.bias": of("qkv_bias"), "moe": sparse.qwen_sparse_layers},
        zeros=frozenset({"sliding_window"}),
        free=ROUTED_FREE,
        fixed=NO_MLP_BIAS,
    ),
    "qwen3_moe": ModelType(
        defaults=sizes(
            151936, 2048, 24, 32, max_position_embeddings=32768, intermediate_size=6144, num_key_value_heads=4, head_dim=None,
            rms_norm_eps=1e-6, attention_bias=False, use_sliding_window=False, sliding_window=4096, decoder_sparse_step=1,
            moe_intermediate_size=768, num_experts_per_tok=8, num_experts=128, norm_topk_prob=False, mlp_only_layers=None, **SILU, **rope(),
        ),
        knobs={
            **LLAMA, **QK_HEAD, **ATTENTION_BIAS, **QWEN_EXPERTS, "attention.window": layers.switched_window,
            "moe.renormalize": of("norm_topk_prob"),
        },
        only_if={"moe": sparse.qwen_sparse_layers},
        names={"num_local_experts": "num_experts"},
        free=ROUTED_FREE | TRAINED_IN_PARALLEL | CHUNKS | {"max_window_layers"},
        # Qwen3-Coder's file says what its class builds.
        fixed=NO_MLP_BIAS | {"qkv_bias": (False, None), "shared_expert_intermediate_size": (0, None), "use_qk_norm": (True,)},
    ),
    # Layers with a window alone are rotated; the shared expert has no gate, the first two layers no experts.
    "flint": ModelType(
        defaults=sizes(
            150144, 2048, 49, 32, max_position_embeddings=262144, intermediate_size=6144, num_key_value_heads=4, head_dim=128, rms_norm_eps=1e-6,
            attention_bias=False, sliding_window=513, layer_types=None, decoder_sparse_step=1, moe_intermediate_size=512,
            shared_expert_intermediate_size=1024, num_experts_per_tok=6, num_experts=256, norm_topk_prob=True, mlp_only_layers=None, **SILU,
            **rope(),
        ),
        knobs={
            **LLAMA, **layers.unrotated(layers.windowed(layers.flint_window)), **QK_HEAD, **ATTENTION_BIAS, **experts("num_experts", "sigmoid"),
            **sparse.to_the_end(sparse.flint_sparse_layers), "attention.window": layers.flint_window, "attention.sinks": True,
            "moe.d_ff": of("moe_intermediate_size"), "moe.n_shared": 1, "moe.shared_d_ff": of("shared_expert_intermediate_size"),
            "moe.renormalize": of("norm_topk_prob"),
        },
        only_if={"moe": sparse.flint_sparse_layers},
        checks=(*WITHOUT_NULLS,),
        free=ROUTED_FREE,
        fixed=NO_MLP_BIAS,
    ),
    # Layers with a window alone are rotated. Experts are chosen by logits and biases, ours by scores and biases.
    "kolibri1": ModelType(
        defaults=sizes(
            128000, 2560, 50, 48, max_position_embeddings=262144, num_key_value_heads=4, head_dim=128, rms_norm_eps=1e-6, sliding_window=513,
            layer_types=None, moe_intermediate_size=512, shared_expert_intermediate_size=512, num_experts_per_tok=6, num_experts=384,
            norm_topk_prob=False, **SILU, **rope(),
        ),
        knobs={
            **LLAMA, **layers.unrotated(layers.windowed(layers.kolibri_window)), **QK_HEAD, **experts("num_experts", "sigmoid"),
            "norm.placement": "sandwich", "attention.window": layers.kolibri_window, "mlp.d_ff": of("moe_intermediate_size"),
            "moe.n_shared": 1, "moe.shared_d_ff": of("shared_expert_intermediate_size"), "moe.renormalize": of("norm_topk_prob"),
            "moe.balance_bias": True,
        },
        checks=(*WITHOUT_NULLS,),
        names={"num_local_experts": "num_experts"},
        free=ROUTED_FREE,
        fixed=NO_BIAS,
        dropped=(lambda c: "balancing biases on logits",),
    ),
    "olmoe": ModelType(
        defaults=sizes(
            50304, 2048, 16, 16, max_position_embeddings=4096, intermediate_size=2048, num_key_value_heads=None, head_dim=None,
            rms_norm_eps=1e-5, attention_bias=False, num_experts_per_tok=8, num_experts=64, norm_topk_prob=False, **SILU, **rope(),
        ),
        knobs={**LLAMA, **QK_FULL, **ATTENTION_BIAS, **experts("num_experts"), "moe.renormalize": of("norm_topk_prob")},
        checks=(r.equal_heads,),
        names={"num_local_experts": "num_experts"},
        free=ROUTED_FREE | {"clip_qkv"},
        fixed=NO_WINDOW | NO_MLP_BIAS,
    ),
    "flex_olmo": ModelType(
        defaults=sizes(
            100352, 4096, 32, 32, max_position_embeddings=4096, intermediate_size=11008, num_key_value_heads=None, head_dim=None,
            rms_norm_eps=1e-6, attention_bias=False, num_experts_per_tok=5, num_experts=7, norm_topk_prob=False, **SILU, **rope(500000.0),
        ),
        knobs={
            **LLAMA, **QK_FULL, **ATTENTION_BIAS, **experts("num_experts"), "norm.placement": "output", "moe.renormalize": of("norm_topk_prob"),
        },
        names={"num_local_experts": "num_experts"},
        free=ROUTED_FREE,
        fixed=NO_MLP_BIAS,
    ),
    "gpt_oss": ModelType(
        defaults=sizes(
            201088, 2880, 36, 64, max_position_embeddings=131072, intermediate_size=2880, num_key_value_heads=8, head_dim=64,
            rms_norm_eps=1e-5, attention_bias=True, sliding_window=128, layer_types=None, num_experts_per_tok=4, num_local_experts=128,
            **(rope(150000.0) | {"rope_parameters": {"rope_type": "yarn"}}),
        ),
        knobs={
            **LLAMA, **ATTENTION_BIAS, **experts("num_local_experts", "topk_softmax"), "attention.sinks": True,
            "mlp.activation": "swiglu_clamped", "moe.bias": True, "moe.router_bias": True,
            "attention.window": layers.layered_window(lambda c, i: i % 2 == 0),
        },
        names={"num_experts": "num_local_experts"},
        # Its experts use the clamped SwiGLU whatever hidden_act says; the others repeat fields by older names.
        free=ROUTED_FREE | {"experts_per_token", "hidden_act", "initial_context_length", "swiglu_alpha", "swiglu_limit"},
        fixed=NO_MLP_BIAS,
    ),
    "minimax_m2": ModelType(
        defaults=sizes(
            200064, 3072, 62, 48, max_position_embeddings=196608, intermediate_size=1536, num_key_value_heads=8, head_dim=128,
            rms_norm_eps=1e-6, num_experts_per_tok=8, num_local_experts=256, rotary_dim=None, attn_type_list=None, **SILU,
            **rope(5000000.0, partial_rotary_factor=None),
        ),
        knobs={
            **LLAMA, **QK_FULL, **experts("num_local_experts", "sigmoid"), "positions.fraction": rotary.fraction_or_dims,
            "moe.balance_bias": True,
        },
        checks=(layers.all_softmax_attention,),
        names={"num_experts": "num_local_experts"},
        # The published file keeps fields of its predecessor, whose MLPs, shared experts and linear attention are gone.
        free=ROUTED_FREE | {
            "layernorm_full_attention_beta", "layernorm_linear_attention_beta", "layernorm_mlp_beta", "mlp_intermediate_size",
            "mtp_transformer_layers", "num_mtp_modules", "router_jitter_noise", "use_mtp",
        },
        fixed=NO_BIAS | NO_WINDOW | {
            "qk_norm_type": ("per_layer",), "scoring_func": ("sigmoid",), "shared_intermediate_size": (0,), "use_qk_norm": (True,),
            "use_routing_bias": (True,),
        },
    ),
    "granitemoe": GRANITE,
    "granitemoeshared": GRANITE_SHARED,
    "granitemoehybrid": GRANITE_4,
    "granitemoe_swa": replace(
        GRANITE_SHARED,
        defaults=GRANITE_SHARED.defaults | dict(sliding_window=128, layer_types=None, layer_rope_theta=None),
        knobs={**GRANITE_SHARED.knobs, **GRANITE_SWA},
    ),
    "phimoe": ModelType(
        defaults=sizes(
            32064, 4096, 32, 32, max_position_embeddings=131072, intermediate_size=6400, num_key_value_heads=8, head_dim=None,
            rms_norm_eps=1e-5, attention_bias=False, lm_head_bias=False, sliding_window=None, num_local_experts=16, **SILU, **rope(1000000.0),
        ),
        # Whatever num_experts_per_tok says, its router picks one expert, and then another among the rest.
        knobs={
            **LLAMA, **ATTENTION_BIAS, **WINDOW, **experts("num_local_experts"), **norm("layernorm", "rms_norm_eps"), "head.bias": of("lm_head_bias"),
            "moe.top_k": 2, "moe.renormalize": False,
        },
        free=ROUTED_FREE | {"expert_dropout", "hidden_dropout", "input_jitter_noise", "original_max_position_embeddings", "router_jitter_noise"},
        fixed=NO_MLP_BIAS | {"num_experts_per_tok": (2,)},
        dropped=(lambda c: "the experts' weights of SparseMixer",),
    ),
    # One width for the experts and the one that is shared.
    "hunyuan_v1_moe": replace(
        HUNYUAN,
        defaults=HUNYUAN.defaults | dict(num_experts=1, num_experts_per_tok=1, moe_intermediate_size=None),
        knobs={**HUNYUAN.knobs, **experts("num_experts"), "moe.n_shared": 1},
        checks=(*HUNYUAN.checks, r.read_instead("moe_intermediate_size", "intermediate_size", of("intermediate_size"))),
        names={"moe_topk": "num_experts_per_tok", "num_local_experts": "num_experts"},
        free=HUNYUAN.free | {
            "group_limited_greedy", "moe_drop_tokens", "moe_random_routing_dropped_token", "norm_topk_prob", "output_router_logits",
        },
        per_layer=frozenset({"moe_intermediate_size", "moe_topk", "num_experts", "num_experts_per_tok", "num_local_experts", "num_shared_expert"}),
        fixed=HUNYUAN.fixed | NO_LATENT | {
            "moe_layer_num_skipped": (0,), "num_shared_expert": (1,), "routed_scaling_factor": (False, None, 1), "use_mixed_mlp_moe": (True,),
        },
    ),
    "mellum": ModelType(
        defaults=sizes(
            98304, 2304, 28, 32, max_position_embeddings=131072, intermediate_size=7168, num_key_value_heads=4, head_dim=128, rms_norm_eps=1e-6,
            attention_bias=False, sliding_window=1024, layer_types=None, mlp_layer_types=None, moe_intermediate_size=896, num_experts_per_tok=8,
            num_experts=64, norm_topk_prob=True, rope_parameters=None, **SILU,
        ),
        knobs={
            **LLAMA, **QK_HEAD, **ATTENTION_BIAS, **experts("num_experts"), **sparse.to_the_end(sparse.mellum_sparse_layers),
            "positions.theta": rotary.theta_of_layers("full_attention", 500000.0, lambda c: not all(layers.windowed(MELLUM_WINDOW)(c))),
            "positions.local_theta": rotary.theta_of_layers("sliding_attention", 10000.0, lambda c: any(layers.windowed(MELLUM_WINDOW)(c))),
            "attention.window": MELLUM_WINDOW, "moe.d_ff": of("moe_intermediate_size"), "moe.renormalize": of("norm_topk_prob"),
        },
        only_if={"moe": sparse.mellum_sparse_layers},
        rotation=rotary.all_rotated_by_layer,
        names={"num_local_experts": "num_experts"},
        free=ROUTED_FREE | {"max_window_layers", "mtp_layer_types", "mtp_mlp_layer_types", "num_mtp_layers", "num_nextn_predict_layers"},
        # Rotary settings are read in rope_parameters alone.
        fixed=NO_MLP_BIAS | {"rope_scaling": (None,), "rope_theta": (None,), "use_sliding_window": (True, None)},
        by_layer=True,
    ),
    # The text decoder of Aria, whose routed experts are SiLU-gated in any case.
    "aria_text": ModelType(
        defaults=like_llama(32000, rms_norm_eps=1e-6, moe_num_experts=8, moe_topk=2, moe_num_shared_experts=2) | {"intermediate_size": 4096},
        knobs={
            **LLAMA, **ATTENTION_BIAS, "moe.n_experts": of("moe_num_experts"), "moe.top_k": of("moe_topk"), "moe.score": "topk_softmax",
            "moe.n_shared": of("moe_num_shared_experts"),
        },
        checks=(r.silu_alone,),
        # Aria's file repeats moe_topk by its usual name, which the library does not read.
        free=ROUTED_FREE | {"num_experts_per_tok", "pretraining_tp"},
        fixed=NO_MLP_BIAS,
    ),
    "ernie4_5_moe": ModelType(
        defaults=sizes(
            103424, 2560, 28, 20, tied=True, max_position_embeddings=131072, intermediate_size=12288, num_key_value_heads=4, head_dim=None,
            rms_norm_eps=1e-5, use_bias=False, moe_intermediate_size=1536, num_experts_per_tok=6, num_experts=64, moe_num_shared_experts=2,
            moe_layer_start_index=1, moe_layer_end_index=-1, moe_layer_interval=1, **SILU, **rope(500000.0),
        ),
        knobs={
            **LLAMA, **experts("num_experts"), **sparse.to_the_end(sparse.ernie_sparse_layers), "attention.head_dim": r.floored_head_dim,
            "attention.bias": of("use_bias"), "mlp.bias": sparse.ernie_mlp_bias, "head.bias": of("use_bias"),
            "moe.d_ff": of("moe_intermediate_size"), "moe.n_shared": of("moe_num_shared_experts"), "moe.balance_bias": True,
        },
        only_if={"moe": sparse.ernie_sparse_layers},
        checks=(sparse.ernie_biases,),
        names={"moe_k": "num_experts_per_tok", "moe_num_experts": "num_experts"},
        free=ROUTED_FREE | {"moe_capacity", "moe_gate", "moe_norm_min", "num_nextn_predict_layers"},
        fixed=NO_BIAS | {"moe_use_aux_free": (True,)},
    ),
}  # fmt: skip
