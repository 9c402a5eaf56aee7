"""Model types with experts: Mixtral, Qwen3-MoE, OLMoE, gpt-oss, DeepSeek-V3."""

from modcalc.spec import hub_rules as r
from modcalc.spec.hub_parts import (
    ATTENTION_DROPOUT,
    LLAMA,
    NO_BIAS,
    NO_MLP_BIAS,
    NO_WINDOW,
    QK_FULL,
    QK_HEAD,
    SILU,
    UNROTATED,
    WHOLE,
    WINDOW,
    ModelType,
    rope,
    sizes,
)
from modcalc.spec.hub_rules import of

ATTENTION_BIAS = {"attention.bias": of("attention_bias")}
FREE = ATTENTION_DROPOUT | {"output_router_logits", "router_aux_loss_coef"}


def experts(count: str, score: str = "softmax_topk") -> dict:
    """The expert section, `count` being the field that holds their number."""
    return {"moe.n_experts": of(count), "moe.top_k": of("num_experts_per_tok"), "moe.score": score}


EXPERTS: dict[str, ModelType] = {
    "mixtral": ModelType(
        defaults=sizes(
            32000, 4096, 32, 32, max_position_embeddings=131072, intermediate_size=14336, num_key_value_heads=8, head_dim=None,
            rms_norm_eps=1e-5, sliding_window=None, num_experts_per_tok=2, num_local_experts=8, **SILU, **rope(1000000.0),
        ),
        knobs={**LLAMA, **WINDOW, **experts("num_local_experts")},
        checks=WHOLE,
        names={"num_experts": "num_local_experts"},
        free=FREE | {"router_jitter_noise"},
        fixed=UNROTATED | NO_BIAS,
    ),
    "qwen3_moe": ModelType(
        defaults=sizes(
            151936, 2048, 24, 32, max_position_embeddings=32768, intermediate_size=6144, num_key_value_heads=4, head_dim=None,
            rms_norm_eps=1e-6, attention_bias=False, use_sliding_window=False, sliding_window=4096, decoder_sparse_step=1,
            moe_intermediate_size=768, num_experts_per_tok=8, num_experts=128, norm_topk_prob=False, mlp_only_layers=None, **SILU, **rope(),
        ),
        knobs={
            **LLAMA, **QK_HEAD, **ATTENTION_BIAS, **experts("num_experts"), "attention.window": r.switched_window,
            "moe.d_ff": of("moe_intermediate_size"), "moe.renormalize": of("norm_topk_prob"), "moe.every": r.qwen_every,
            "moe.layers": r.qwen_explicit_layers,
        },
        only_if={"moe": r.qwen_sparse_layers},
        checks=WHOLE,
        names={"num_local_experts": "num_experts"},
        free=FREE | {"max_window_layers"},
        fixed=UNROTATED | NO_MLP_BIAS,
    ),
    "olmoe": ModelType(
        defaults=sizes(
            50304, 2048, 16, 16, max_position_embeddings=4096, intermediate_size=2048, num_key_value_heads=None, head_dim=None,
            rms_norm_eps=1e-5, attention_bias=False, num_experts_per_tok=8, num_experts=64, norm_topk_prob=False, **SILU, **rope(),
        ),
        knobs={**LLAMA, **QK_FULL, **ATTENTION_BIAS, **experts("num_experts"), "moe.renormalize": of("norm_topk_prob")},
        checks=(*WHOLE, r.equal_heads),
        names={"num_local_experts": "num_experts"},
        free=FREE | {"clip_qkv"},
        fixed=UNROTATED | NO_WINDOW | NO_MLP_BIAS,
    ),
    "gpt_oss": ModelType(
        defaults=sizes(
            201088, 2880, 36, 64, max_position_embeddings=131072, intermediate_size=2880, num_key_value_heads=8, head_dim=64,
            rms_norm_eps=1e-5, attention_bias=True, sliding_window=128, layer_types=None, num_experts_per_tok=4, num_local_experts=128,
            **rope(150000.0),
        ),
        knobs={
            **LLAMA, **ATTENTION_BIAS, **experts("num_local_experts", "topk_softmax"), "attention.sinks": True,
            "mlp.activation": "swiglu_clamped", "moe.bias": True, "moe.router_bias": True,
            "attention.window": r.layered_window(lambda c, i: i % 2 == 0),
        },
        checks=WHOLE,
        names={"num_experts": "num_local_experts"},
        # Its experts use the clamped SwiGLU whatever hidden_act says; the others repeat fields by older names.
        free=FREE | {"experts_per_token", "hidden_act", "initial_context_length", "swiglu_alpha", "swiglu_limit"},
        fixed=UNROTATED | NO_MLP_BIAS,
    ),
    "deepseek_v3": ModelType(
        defaults=sizes(
            129280, 7168, 61, 128, max_position_embeddings=4096, intermediate_size=18432, num_key_value_heads=128,
            moe_intermediate_size=2048, n_shared_experts=1, n_routed_experts=256, routed_scaling_factor=2.5, kv_lora_rank=512,
            q_lora_rank=1536, qk_rope_head_dim=64, v_head_dim=128, qk_nope_head_dim=128, n_group=8, topk_group=4, num_experts_per_tok=8,
            first_k_dense_replace=3, norm_topk_prob=True, rms_norm_eps=1e-6, attention_bias=False, **SILU, **rope(),
        ),
        knobs={
            **LLAMA, **experts("n_routed_experts", "sigmoid"), "attention.head_dim": None, "attention.n_kv_heads": None,
            "attention.latent.kv_rank": of("kv_lora_rank"), "attention.latent.q_rank": of("q_lora_rank"),
            "attention.latent.nope_dim": of("qk_nope_head_dim"), "attention.latent.rope_dim": of("qk_rope_head_dim"),
            "attention.latent.v_dim": of("v_head_dim"),
            # Biases of the two down projections and of the output; the up projections have none.
            "attention.bias.q": lambda c: c["q_lora_rank"] is not None, "attention.bias.k": True, "attention.bias.o": True,
            "moe.d_ff": of("moe_intermediate_size"), "moe.n_shared": of("n_shared_experts"), "moe.renormalize": of("norm_topk_prob"),
            "moe.scaling": of("routed_scaling_factor"), "moe.balance_bias": True, "moe.groups": of("n_group"), "moe.top_groups": of("topk_group"),
            "moe.offset": of("first_k_dense_replace"),
        },
        only_if={"attention.bias": of("attention_bias"), "moe": lambda c: c["first_k_dense_replace"] < c["num_hidden_layers"]},
        checks=(*WHOLE, r.latent_kv_heads),
        names={"num_local_experts": "n_routed_experts"},
        # head_dim and qk_head_dim repeat the dims above. Multi-token prediction adds modules for training and speculative
        # decoding that the library's model, and so the spec, does not hold.
        free=FREE | {
            "aux_loss_alpha", "ep_size", "head_dim", "num_mtp_layers", "num_nextn_predict_layers", "pretraining_tp", "qk_head_dim",
            "rope_interleave", "seq_aux",
        },
        fixed=UNROTATED | NO_MLP_BIAS | {"moe_layer_freq": (1,), "scoring_func": ("sigmoid",), "topk_method": ("noaux_tc",)},
    ),
}  # fmt: skip
