"""Model types with shared experts after some dense layers, most with latent attention: DeepSeek-V2 and V3, Mistral 4, GLM-4.5 and its kin,
Solar Open, dots.llm1, K-EXAONE, Hy3, Trinity, Sarvam; and Youtu-LLM and MiniCPM3, which have the attention alone."""

from dataclasses import replace

from modcalc.spec import hub_layers as layers
from modcalc.spec import hub_rope as rotary
from modcalc.spec import hub_rules as r
from modcalc.spec import hub_sparse as sparse
from modcalc.spec.hub_experts import ROUTED_FREE, experts
from modcalc.spec.hub_parts import (
    ATTENTION_BIAS,
    IF_BIASED,
    LLAMA,
    NO_BIAS,
    NO_MLP_BIAS,
    NO_WINDOW,
    PARTIAL,
    QK_HEAD,
    QKV_BIAS,
    SILU,
    ModelType,
    rope,
    sizes,
)
from modcalc.spec.hub_rules import of

MLA = {
    "attention.head_dim": None, "attention.n_kv_heads": None, "attention.latent.kv_rank": of("kv_lora_rank"),
    "attention.latent.q_rank": of("q_lora_rank"), "attention.latent.nope_dim": of("qk_nope_head_dim"),
    "attention.latent.rope_dim": of("qk_rope_head_dim"), "attention.latent.v_dim": r.needed("v_head_dim"),
    # Biases of the two down projections and of the output; the up projections have none.
    "attention.bias.q": lambda c: c["q_lora_rank"] is not None, "attention.bias.k": True, "attention.bias.o": True,
}  # fmt: skip
LATENT_EPS = 1e-6  # of the classes' latent norms, whatever the file says of the others
MLA_DROPPED = (lambda c: None if c["rms_norm_eps"] == LATENT_EPS else f"the latent norms' own eps of {LATENT_EPS:g}",)
SHARED = {
    "moe.d_ff": of("moe_intermediate_size"), "moe.n_shared": of("n_shared_experts"), "moe.scaling": of("routed_scaling_factor"),
}  # fmt: skip
SIGMOID = {
    **experts("n_routed_experts", "sigmoid"), "moe.balance_bias": True, "moe.groups": r.needed("n_group"),
    "moe.top_groups": r.needed("topk_group"), "moe.renormalize": of("norm_topk_prob"),
}  # fmt: skip
OFFSET = {"moe.offset": of("first_k_dense_replace")}
AFTER_DENSE = {"moe": r.experts_after_dense}
# The classes derive qk_head_dim; DeepSeek's head_dim, too.
MLA_FREE = frozenset({"pretraining_tp", "qk_head_dim", "rope_interleave"})
# Multi-token prediction adds modules for training and speculative decoding that the library's model, and so the spec, does not hold.
DEEPSEEK_FREE = ROUTED_FREE | {"num_mtp_layers", "num_nextn_predict_layers"}
AFMOE_WINDOW = layers.layered_window(layers.but_each("global_attn_every_n_layers"))
DEEPSEEK_FIXED = {"moe_layer_freq": (1,), "scoring_func": ("sigmoid",), "topk_method": ("noaux_tc",)}
# Sarvam's files keep names of their own training code.
SARVAM_NAMES = {"num_experts": "n_routed_experts", "num_local_experts": "n_routed_experts", "num_shared_experts": "n_shared_experts"}
SARVAM_FREE = {"default_theta", "embedding_dropout", "max_window_layers", "output_dropout", "router_dtype"}
SARVAM_FIXED = {"moe_router_enable_expert_bias": (True,), "score_function": ("sigmoid",), "use_bias": (False, None), "use_rmsnorm": (True,)}

_DEEPSEEK: dict[str, ModelType] = {
    "deepseek_v2": ModelType(
        defaults=sizes(
            102400, 4096, 32, 32, max_position_embeddings=2048, intermediate_size=11008, num_key_value_heads=None,
            moe_intermediate_size=1407, n_shared_experts=2, n_routed_experts=64, routed_scaling_factor=1.0, kv_lora_rank=512,
            q_lora_rank=1536, qk_rope_head_dim=64, v_head_dim=128, qk_nope_head_dim=128, n_group=None, topk_group=None,
            num_experts_per_tok=None, first_k_dense_replace=0, topk_method="greedy", rms_norm_eps=1e-6, attention_bias=False,
            mlp_bias=False, **SILU, **rope(),
        ),
        # Its router does not renormalise, whatever norm_topk_prob says.
        knobs={
            **LLAMA, **MLA, **SHARED, **OFFSET, **experts("n_routed_experts"), "mlp.bias": of("mlp_bias"), "moe.groups": sparse.if_grouped("n_group"),
            "moe.top_groups": sparse.if_grouped("topk_group"), "moe.renormalize": False,
        },
        only_if=IF_BIASED | AFTER_DENSE,
        checks=(r.own_kv_heads, r.no_bias_in_shared_experts_alone),
        names={"num_experts": "n_routed_experts"},
        free=DEEPSEEK_FREE | MLA_FREE | {"aux_loss_alpha", "ep_size", "head_dim", "norm_topk_prob", "seq_aux"},
        fixed={"moe_layer_freq": (1,), "scoring_func": ("softmax",), "use_mla": (True,)},
        dropped=MLA_DROPPED,
    ),
    "deepseek_v3": ModelType(
        defaults=sizes(
            129280, 7168, 61, 128, max_position_embeddings=4096, intermediate_size=18432, num_key_value_heads=128,
            moe_intermediate_size=2048, n_shared_experts=1, n_routed_experts=256, routed_scaling_factor=2.5, kv_lora_rank=512,
            q_lora_rank=1536, qk_rope_head_dim=64, v_head_dim=128, qk_nope_head_dim=128, n_group=8, topk_group=4, num_experts_per_tok=8,
            first_k_dense_replace=3, norm_topk_prob=True, rms_norm_eps=1e-6, attention_bias=False, **SILU, **rope(),
        ),
        knobs={**LLAMA, **MLA, **SHARED, **SIGMOID, **OFFSET},
        only_if=IF_BIASED | AFTER_DENSE,
        checks=(r.own_kv_heads,),
        names={"num_local_experts": "n_routed_experts"},
        free=DEEPSEEK_FREE | MLA_FREE | {"aux_loss_alpha", "ep_size", "head_dim", "seq_aux"},
        fixed=NO_MLP_BIAS | DEEPSEEK_FIXED,
        dropped=MLA_DROPPED,
    ),
    # DeepSeek-V3 with the scores of Mixtral.
    "mistral4": ModelType(
        defaults=sizes(
            131072, 4096, 36, 32, max_position_embeddings=1048576, intermediate_size=12288, num_key_value_heads=32, moe_intermediate_size=2048,
            n_shared_experts=1, n_routed_experts=128, routed_scaling_factor=1.0, kv_lora_rank=256, q_lora_rank=1024, qk_rope_head_dim=64,
            v_head_dim=128, qk_nope_head_dim=64, n_group=1, topk_group=1, num_experts_per_tok=4, first_k_dense_replace=0, norm_topk_prob=True,
            rms_norm_eps=1e-6, attention_bias=False, **SILU, **(rope(None) | {"rope_parameters": rotary.MISTRAL_4}),
        ),
        knobs={
            **LLAMA, **MLA, **SHARED, **SIGMOID, **OFFSET, "positions.theta": rotary.theta_or_that_of(rotary.MISTRAL_4),
            "moe.score": "softmax_topk", "moe.balance_bias": None,
        },
        only_if=IF_BIASED | AFTER_DENSE,
        rotation=rotary.latent_rotated,
        checks=(r.own_kv_heads,),
        names={"num_local_experts": "n_routed_experts"},
        free=DEEPSEEK_FREE | MLA_FREE | {"head_dim"},
        fixed=NO_WINDOW | NO_MLP_BIAS,
        dropped=MLA_DROPPED,
    ),
    # Latent attention without experts.
    "youtu": ModelType(
        defaults=sizes(
            128256, 2048, 32, 16, tied=True, max_position_embeddings=131072, intermediate_size=6144, num_key_value_heads=16, kv_lora_rank=512,
            q_lora_rank=1536, qk_rope_head_dim=64, v_head_dim=128, qk_nope_head_dim=128, rms_norm_eps=1e-6, attention_bias=False, **SILU, **rope(),
        ),
        knobs={**LLAMA, **MLA},
        only_if=IF_BIASED,
        checks=(r.own_kv_heads,),
        free=MLA_FREE | {"embedding_initializer_range", "head_dim"},
        fixed=NO_MLP_BIAS,
        dropped=MLA_DROPPED,
    ),
    "minicpm3": ModelType(
        defaults=sizes(
            73448, 2560, 62, 40, tied=True, max_position_embeddings=32768, intermediate_size=6400, num_key_value_heads=40, kv_lora_rank=256,
            q_lora_rank=768, qk_rope_head_dim=32, v_head_dim=None, qk_nope_head_dim=64, rms_norm_eps=1e-5, attention_bias=False, mlp_bias=False,
            scale_emb=12, scale_depth=1.4, dim_model_base=256, **SILU, **rope(),
        ),
        knobs={
            **LLAMA, **MLA, "mlp.bias": of("mlp_bias"), "attention.latent.v_dim": lambda c: c["v_head_dim"] or r.head_width(c),
            "embedding.scale": r.factor("scale_emb"), "residual_scale": r.scaled_by_depth, "head.scale": r.scaled_by_width,
        },
        only_if=IF_BIASED,
        checks=(r.own_kv_heads, r.head_dim),
        free=MLA_FREE | {"head_dim"},
        dropped=MLA_DROPPED,
    ),
    "glm4_moe": ModelType(
        defaults=sizes(
            151552, 4096, 46, 96, max_position_embeddings=131072, intermediate_size=10944, num_key_value_heads=8, head_dim=None,
            rms_norm_eps=1e-5, attention_bias=False, moe_intermediate_size=1408, num_experts_per_tok=8, n_shared_experts=1,
            n_routed_experts=128, routed_scaling_factor=1.0, n_group=1, topk_group=1, first_k_dense_replace=1, norm_topk_prob=True,
            use_qk_norm=False, **SILU, **rope(partial_rotary_factor=0.5),
        ),
        knobs={
            **LLAMA, **PARTIAL, **QKV_BIAS, **QK_HEAD, **SHARED, **SIGMOID, **OFFSET, "attention.head_dim": r.floored_head_dim,
        },
        only_if=IF_BIASED | {"attention.qk_norm": of("use_qk_norm")} | AFTER_DENSE,
        names={"num_local_experts": "n_routed_experts"},
        free=DEEPSEEK_FREE,
        fixed=NO_MLP_BIAS | DEEPSEEK_FIXED,
    ),
    "solar_open": ModelType(
        defaults=sizes(
            196608, 4096, 48, 64, max_position_embeddings=131072, num_key_value_heads=8, head_dim=128, moe_intermediate_size=1280,
            num_experts_per_tok=8, n_shared_experts=1, n_routed_experts=128, routed_scaling_factor=1.0, n_group=1, topk_group=1,
            norm_topk_prob=True, rms_norm_eps=1e-5, attention_bias=False, **SILU, **rope(1000000.0),
        ),
        knobs={**LLAMA, **QKV_BIAS, **SHARED, **SIGMOID, "mlp.d_ff": of("moe_intermediate_size")},
        only_if=IF_BIASED,
        names={"num_local_experts": "n_routed_experts"},
        # No layer is dense.
        free=DEEPSEEK_FREE | {"intermediate_size"},
        fixed=NO_MLP_BIAS | DEEPSEEK_FIXED | {"first_k_dense_replace": (0,), "use_qk_norm": (False,)},
    ),
    "glm4_moe_lite": ModelType(
        defaults=sizes(
            154880, 2048, 47, 20, max_position_embeddings=202752, intermediate_size=10240, num_key_value_heads=20,
            moe_intermediate_size=1536, n_shared_experts=1, n_routed_experts=64, routed_scaling_factor=1.8, kv_lora_rank=512,
            q_lora_rank=768, qk_rope_head_dim=64, v_head_dim=256, qk_nope_head_dim=192, n_group=1, topk_group=1, num_experts_per_tok=4,
            norm_topk_prob=True, mlp_layer_types=None, first_k_dense_replace=1, rms_norm_eps=1e-5, attention_bias=False, **SILU, **rope(),
        ),
        knobs={
            **LLAMA, **MLA, **SHARED, **SIGMOID, **sparse.to_the_end(sparse.glm_sparse_layers),
        },
        only_if=IF_BIASED | {"moe": sparse.glm_sparse_layers},
        checks=(r.own_kv_heads,),
        # Its head_dim is another name of the rotated part.
        names={"num_local_experts": "n_routed_experts", "head_dim": "qk_rope_head_dim"},
        free=DEEPSEEK_FREE | MLA_FREE,
        fixed=NO_MLP_BIAS | DEEPSEEK_FIXED,
        dropped=MLA_DROPPED,
    ),
    "dots1": ModelType(
        defaults=sizes(
            152064, 4608, 62, 32, max_position_embeddings=2048, intermediate_size=10944, num_key_value_heads=32, head_dim=None,
            moe_intermediate_size=1408, n_shared_experts=None, n_routed_experts=None, routed_scaling_factor=1.0, n_group=1, topk_group=1,
            num_experts_per_tok=None, first_k_dense_replace=0, norm_topk_prob=False, rms_norm_eps=1e-6, attention_bias=False,
            sliding_window=4096, max_window_layers=62, layer_types=None, **SILU, **rope(),
        ),
        knobs={
            **LLAMA, **QK_HEAD, **ATTENTION_BIAS, **SHARED, **SIGMOID, **OFFSET, "attention.head_dim": r.floored_head_dim,
            "attention.window": layers.layered_window(lambda c, i: c["sliding_window"] is not None and i >= c["max_window_layers"]),
            "moe.n_experts": r.needed("n_routed_experts"), "moe.n_shared": r.needed("n_shared_experts"),
        },
        only_if=AFTER_DENSE,
        names={"num_local_experts": "n_routed_experts"},
        free=DEEPSEEK_FREE | {"pretraining_tp"},
        fixed=NO_MLP_BIAS | DEEPSEEK_FIXED | {"use_sliding_window": (False, None)},
    ),
    "hy_v3": ModelType(
        defaults=sizes(
            120832, 4096, 80, 64, max_position_embeddings=131072, intermediate_size=13312, num_key_value_heads=8, head_dim=128,
            moe_intermediate_size=1536, num_shared_experts=1, num_experts=192, router_scaling_factor=2.826, num_experts_per_tok=8,
            mlp_layer_types=None, first_k_dense_replace=1, expert_hidden_dim=None, rms_norm_eps=1e-5, attention_bias=False, **SILU,
            **rope(11158840.0),
        ),
        knobs={
            **LLAMA, **QK_HEAD, **ATTENTION_BIAS, **experts("num_experts", "sigmoid"), **sparse.to_the_end(sparse.glm_sparse_layers),
            "moe.d_ff": of("moe_intermediate_size"), "moe.n_shared": r.one_or_more("num_shared_experts"), "moe.scaling": of("router_scaling_factor"),
            "moe.balance_bias": True,
        },
        only_if={"moe": sparse.glm_sparse_layers},
        checks=(r.read_instead("expert_hidden_dim", "moe_intermediate_size", of("moe_intermediate_size")),),
        names={"num_local_experts": "num_experts"},
        free=DEEPSEEK_FREE | {"enable_attention_fp32_softmax", "enable_lm_head_fp32", "enable_moe_fp32_combine", "eod_token_id", "use_grouped_mm"},
        fixed=NO_MLP_BIAS | {
            "moe_router_enable_expert_bias": (True,), "moe_router_use_sigmoid": (True,), "qk_norm": (True,), "route_norm": (True,),
        },
    ),
    "exaone_moe": ModelType(
        defaults=sizes(
            102400, 4096, 32, 32, max_position_embeddings=2048, intermediate_size=16384, num_key_value_heads=32, head_dim=None,
            moe_intermediate_size=1024, num_shared_experts=1, num_experts=64, routed_scaling_factor=2.5, n_group=1, topk_group=1,
            num_experts_per_tok=8, norm_topk_prob=True, mlp_layer_types=None, first_k_dense_replace=1, rms_norm_eps=1e-5,
            sliding_window=4096, sliding_window_pattern=4, layer_types=None, **SILU, **rope(),
        ),
        # As EXAONE 4, but with the norms before: where some layers have windows, these alone are rotated.
        knobs={
            **LLAMA, **layers.unrotated(layers.exaone_rotates), **QK_HEAD, **SHARED, **SIGMOID, **experts("num_experts", "sigmoid"),
            **sparse.to_the_end(sparse.after_dense), "attention.window": layers.exaone_window, "moe.n_shared": of("num_shared_experts"),
        },
        only_if={"moe": sparse.after_dense},
        zeros=frozenset({"sliding_window_pattern"}),
        # Of the release before the library had the class, which reads neither.
        free=DEEPSEEK_FREE | {"first_last_k_dense_replace", "is_moe_layer"},
        fixed=NO_BIAS | DEEPSEEK_FIXED,
    ),
    # Arcee's Trinity: gated attention; layers with a window alone are rotated.
    "afmoe": ModelType(
        defaults=sizes(
            200192, 2048, 32, 16, max_position_embeddings=16384, intermediate_size=6144, num_key_value_heads=None, head_dim=128,
            moe_intermediate_size=1408, num_shared_experts=2, num_experts=64, route_scale=1.0, num_experts_per_tok=6, num_dense_layers=1,
            rms_norm_eps=1e-5, attention_bias=False, mup_enabled=False, sliding_window=1024, global_attn_every_n_layers=4, layer_types=None,
            **SILU, **rope(),
        ),
        knobs={
            **LLAMA, **layers.unrotated(layers.windowed(AFMOE_WINDOW)), **QK_HEAD, **ATTENTION_BIAS, **experts("num_experts", "sigmoid"),
            "attention.window": AFMOE_WINDOW, "attention.gate": "elementwise", "norm.placement": "sandwich",
            "embedding.scale": lambda c: c["hidden_size"] ** 0.5 if c["mup_enabled"] else None, "moe.d_ff": of("moe_intermediate_size"),
            "moe.n_shared": of("num_shared_experts"), "moe.scaling": of("route_scale"), "moe.balance_bias": True,
            "moe.offset": of("num_dense_layers"),
        },
        only_if={"moe": r.follow("num_dense_layers")},
        # Of the training code's own class.
        free=ROUTED_FREE | {"load_balance_coeff", "use_grouped_mm"},
        fixed=NO_MLP_BIAS | {
            **dict.fromkeys(("n_group", "num_expert_groups", "num_limited_groups", "topk_group"), (1,)), "route_norm": (True,),
            "score_func": ("sigmoid",),
        },
    ),
}  # fmt: skip

_V3, _GLM_4 = _DEEPSEEK["deepseek_v3"], _DEEPSEEK["glm4_moe"]
DEEPSEEK: dict[str, ModelType] = _DEEPSEEK | {
    "sarvam_mla": replace(
        _V3,
        defaults=_V3.defaults | sizes(
            262144, 4096, 32, 64, intermediate_size=16384, num_key_value_heads=None, n_routed_experts=128, q_lora_rank=None, n_group=1,
            topk_group=1, first_k_dense_replace=1,
        ),
        names=SARVAM_NAMES,
        free=_V3.free | SARVAM_FREE | {"q_head_dim"},
        fixed=_V3.fixed | SARVAM_FIXED | {"use_qk_norm": (True,)},
    ),
    "sarvam_moe": replace(
        _GLM_4,
        defaults=_GLM_4.defaults | sizes(
            262144, 4096, 19, 64, intermediate_size=8192, num_key_value_heads=4, head_dim=64, rms_norm_eps=1e-6, moe_intermediate_size=1024,
            num_experts_per_tok=6, routed_scaling_factor=2.5, use_qk_norm=True, rope_theta=8000000.0, partial_rotary_factor=1.0,
            moe_shared_expert_intermediate_size=None,
        ),
        checks=(r.needed("head_dim"), r.read_instead("moe_shared_expert_intermediate_size", "moe_intermediate_size", of("moe_intermediate_size")),),
        names=SARVAM_NAMES | {"use_qkv_bias": "attention_bias"},
        free=_GLM_4.free | SARVAM_FREE,
        fixed=_GLM_4.fixed | SARVAM_FIXED,
    ),
}  # fmt: skip
