"""Model types with RMSNorm and one gated MLP: the Llama family, Gemma, Phi-3, OLMo 2."""

from modcalc.spec import hub_rules as r
from modcalc.spec.hub_parts import (
    ATTENTION_DROPOUT,
    LLAMA,
    NO_BIAS,
    NO_MLP_BIAS,
    NO_WINDOW,
    PARTIAL,
    QK_FULL,
    QK_HEAD,
    QKV_BIAS,
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
QWEN_WINDOW = {"attention.window": r.layered_window(lambda c, i: i >= c["max_window_layers"], "use_sliding_window")}
GEMMA = {**LLAMA, **ATTENTION_BIAS, "norm.unit_offset": True, "embedding.scale": lambda c: c["hidden_size"] ** 0.5}
GEMMA_2 = {
    **GEMMA,
    "norm.placement": "sandwich",
    "attention.scale": r.score_scale,
    "attention.softcap": of("attn_logit_softcapping"),
    "head.softcap": of("final_logit_softcapping"),
    "mlp.activation": r.activation("hidden_activation"),
}
GEMMA_3_WINDOW = r.layered_window(lambda c, i: (i + 1) % c["sliding_window_pattern"] != 0)
GEMMA_2_DEFAULTS = dict(
    intermediate_size=9216,
    num_key_value_heads=4,
    head_dim=256,
    hidden_activation="gelu_pytorch_tanh",
    rms_norm_eps=1e-6,
    attention_bias=False,
    query_pre_attn_scalar=256,
    sliding_window=4096,
    layer_types=None,
)

RMSNORM: dict[str, ModelType] = {
    "llama": ModelType(
        defaults=sizes(
            32000, 4096, 32, 32, max_position_embeddings=2048, intermediate_size=11008, num_key_value_heads=None, head_dim=None,
            rms_norm_eps=1e-6, attention_bias=False, mlp_bias=False, **SILU, **rope(),
        ),
        knobs={**LLAMA, **ATTENTION_BIAS, "mlp.bias": of("mlp_bias")},
        checks=WHOLE,
        free=ATTENTION_DROPOUT | {"max_sequence_length", "pretraining_tp", "rope_interleaved"},
        fixed=UNROTATED | NO_WINDOW | {"is_llama_config": (True,)},
    ),
    "mistral": ModelType(
        defaults=sizes(
            32000, 4096, 32, 32, max_position_embeddings=131072, intermediate_size=14336, num_key_value_heads=8, head_dim=None,
            rms_norm_eps=1e-6, sliding_window=4096, **SILU, **rope(),
        ),
        knobs={**LLAMA, **WINDOW},
        checks=WHOLE,
        free=ATTENTION_DROPOUT,
        fixed=UNROTATED | NO_BIAS,
    ),
    "qwen2": ModelType(
        defaults=sizes(
            151936, 4096, 32, 32, max_position_embeddings=32768, intermediate_size=22016, num_key_value_heads=32, head_dim=None,
            rms_norm_eps=1e-6, use_sliding_window=False, sliding_window=4096, max_window_layers=28, layer_types=None, **SILU, **rope(),
        ),
        knobs={**LLAMA, **QKV_BIAS, **QWEN_WINDOW},
        checks=WHOLE,
        free=ATTENTION_DROPOUT,
        fixed=UNROTATED | NO_MLP_BIAS | {"use_mrope": (False, None)},
    ),
    "qwen3": ModelType(
        defaults=sizes(
            151936, 4096, 32, 32, max_position_embeddings=32768, intermediate_size=22016, num_key_value_heads=32, head_dim=128,
            rms_norm_eps=1e-6, attention_bias=False, use_sliding_window=False, sliding_window=4096, max_window_layers=28, layer_types=None,
            **SILU, **rope(),
        ),
        knobs={**LLAMA, **QK_HEAD, **ATTENTION_BIAS, **QWEN_WINDOW},
        checks=WHOLE,
        free=ATTENTION_DROPOUT,
        fixed=UNROTATED | NO_MLP_BIAS,
    ),
    "gemma": ModelType(
        defaults=sizes(
            256000, 3072, 28, 16, tied=True, max_position_embeddings=8192, intermediate_size=24576, num_key_value_heads=16, head_dim=256,
            hidden_act="gelu_pytorch_tanh", hidden_activation=None, rms_norm_eps=1e-6, attention_bias=False, **rope(),
        ),
        # The first files said gelu and meant its tanh form; the library reads them so.
        knobs={**GEMMA, "mlp.activation": r.activation("hidden_activation", "hidden_act", renamed={"gelu": "gelu_pytorch_tanh"})},
        checks=WHOLE,
        free=ATTENTION_DROPOUT,
        fixed=UNROTATED | NO_MLP_BIAS,
    ),
    "gemma2": ModelType(
        defaults=sizes(
            256000, 2304, 26, 8, tied=True, max_position_embeddings=8192, final_logit_softcapping=30.0, attn_logit_softcapping=50.0,
            **GEMMA_2_DEFAULTS, **rope(),
        ),
        knobs={**GEMMA_2, "attention.window": r.layered_window(lambda c, i: i % 2 == 0)},
        checks=WHOLE,
        # Gemma-2-9b's file says its window twice; the library reads sliding_window.
        free=ATTENTION_DROPOUT | {"hidden_act", "sliding_window_size"},
        fixed=UNROTATED | NO_MLP_BIAS,
    ),
    "gemma3_text": ModelType(
        defaults=sizes(
            262208, 2304, 26, 8, tied=True, max_position_embeddings=131072, final_logit_softcapping=None,
            sliding_window_pattern=6, rope_local_base_freq=10000.0, **GEMMA_2_DEFAULTS, **rope(1000000.0),
        ),
        knobs={
            **GEMMA_2, **QK_HEAD, "attention.softcap": None, "attention.window": GEMMA_3_WINDOW,
            "positions.local_theta": lambda c: None if GEMMA_3_WINDOW(c) is None else r.rope_local_theta(c),
        },
        checks=WHOLE,
        names={"_sliding_window_pattern": "sliding_window_pattern"},
        # The library keeps Gemma 2's cap on the scores as a field, but no layer applies it.
        free=ATTENTION_DROPOUT | {"attn_logit_softcapping", "hidden_act"},
        fixed=UNROTATED | NO_MLP_BIAS,
    ),
    "phi3": ModelType(
        defaults=sizes(
            32064, 3072, 32, 32, max_position_embeddings=4096, intermediate_size=8192, num_key_value_heads=None, head_dim=None,
            rms_norm_eps=1e-5, sliding_window=None, **SILU, **rope(partial_rotary_factor=1.0),
        ),
        knobs={**LLAMA, **PARTIAL, **WINDOW},
        free=ATTENTION_DROPOUT | {"embd_pdrop", "original_max_position_embeddings", "resid_pdrop"},
        fixed=NO_BIAS | {"lm_head_bias": (False, None), "full_attn_mod": (1,), "interpolate_factor": (1,)},
    ),
    "olmo2": ModelType(
        defaults=sizes(
            50304, 4096, 32, 32, max_position_embeddings=2048, intermediate_size=11008, num_key_value_heads=None, head_dim=None,
            rms_norm_eps=1e-5, attention_bias=False, **SILU, **rope(),
        ),
        knobs={**LLAMA, **QK_FULL, **ATTENTION_BIAS, "norm.placement": "output"},
        checks=WHOLE,
        free=ATTENTION_DROPOUT,
        fixed=UNROTATED | NO_MLP_BIAS | {"clip_qkv": (None,)},
    ),
}  # fmt: skip
