"""Model types with an RMSNorm on what a part adds: Gemma 2 (and VaultGemma, which dropped it) and 3, OLMo 2 and 3, EXAONE 4, GLM-4,
HyperCLOVA X (where it is an option)."""

from modcalc.spec import hub_layers as layers
from modcalc.spec import hub_rope as rotary
from modcalc.spec import hub_rules as r
from modcalc.spec.hub_parts import (
    ATTENTION_BIAS,
    GEMMA,
    GLM,
    GLM_DEFAULTS,
    IF_BIASED,
    LLAMA,
    LLAMA_BIASES,
    MULTIPLIERS,
    NO_BIAS,
    NO_MLP_BIAS,
    NO_MULTIPLIERS,
    QK_FULL,
    QK_HEAD,
    SILU,
    ModelType,
    like_llama,
    rope,
    sizes,
)
from modcalc.spec.hub_rules import of

GEMMA_2 = {
    **LLAMA,
    **GEMMA,
    "norm.placement": "sandwich",
    "attention.scale": r.score_scale,
    "attention.softcap": of("attn_logit_softcapping"),
    "head.softcap": of("final_logit_softcapping"),
    "mlp.activation": r.activation("hidden_activation"),
}
GEMMA_3_WINDOW = layers.layered_window(layers.but_each("sliding_window_pattern"))
OLMO_3_WINDOW = layers.layered_window(lambda c, i: (i + 1) % 4 != 0)
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
GEMMA_2_SIZES = sizes(
    256000, 2304, 26, 8, tied=True, max_position_embeddings=8192, final_logit_softcapping=30.0, attn_logit_softcapping=50.0,
    **GEMMA_2_DEFAULTS, **rope(),
)  # fmt: skip
GEMMA_2_WINDOW = layers.layered_window(lambda c, i: i % 2 == 0)

OUTNORM: dict[str, ModelType] = {
    "gemma2": ModelType(
        defaults=GEMMA_2_SIZES,
        knobs={**GEMMA_2, "attention.window": GEMMA_2_WINDOW},
        # Gemma-2-9b's file says its window twice; the library reads sliding_window.
        free={"hidden_act", "sliding_window_size"},
        fixed=NO_MLP_BIAS,
    ),
    # Gemma 2 without the norms on what a part adds.
    "vaultgemma": ModelType(
        defaults=GEMMA_2_SIZES,
        knobs={**GEMMA_2, "norm.placement": "pre", "attention.window": GEMMA_2_WINDOW},
        fixed=NO_MLP_BIAS,
    ),
    "gemma3_text": ModelType(
        defaults=sizes(
            262208, 2304, 26, 8, tied=True, max_position_embeddings=131072, final_logit_softcapping=None,
            sliding_window_pattern=6, _sliding_window_pattern=None, rope_local_base_freq=10000.0, **GEMMA_2_DEFAULTS, **rope(1000000.0),
        ),
        knobs={
            **GEMMA_2, **QK_HEAD, "positions.theta": rotary.full_theta, "attention.softcap": None, "attention.window": GEMMA_3_WINDOW,
            "positions.local_theta": lambda c: None if GEMMA_3_WINDOW(c) is None else rotary.gemma_local_theta(c),
        },
        rotation=rotary.all_rotated_by_layer,
        checks=(layers.gemma_pattern,),
        by_layer=True,
        # The library keeps Gemma 2's cap on the scores as a field, but no layer applies it.
        free={"attn_logit_softcapping", "hidden_act"},
        fixed=NO_MLP_BIAS,
    ),
    "olmo2": ModelType(
        defaults=like_llama(50304, rms_norm_eps=1e-5),
        knobs={**LLAMA, **QK_FULL, **ATTENTION_BIAS, "norm.placement": "output"},
        fixed=NO_MLP_BIAS | {"clip_qkv": (None,)},
    ),
    "olmo3": ModelType(
        defaults=like_llama(50304, rotary.OLMO_3_THETA, rms_norm_eps=1e-5, sliding_window=4096, layer_types=None),
        knobs={
            **LLAMA, **QK_FULL, **ATTENTION_BIAS, "norm.placement": "output", "positions.theta": rotary.full_theta, "attention.window": OLMO_3_WINDOW,
            "positions.local_theta": lambda c: None if OLMO_3_WINDOW(c) is None else rotary.olmo_local_theta(c),
        },
        rotation=rotary.all_rotated_by_layer,
        by_layer=True,
        fixed=NO_MLP_BIAS,
    ),
    "exaone4": ModelType(
        defaults=sizes(
            102400, 4096, 32, 32, max_position_embeddings=2048, intermediate_size=16384, num_key_value_heads=32, head_dim=None,
            rms_norm_eps=1e-5, sliding_window=4096, sliding_window_pattern=4, layer_types=None, **SILU, **rope(),
        ),
        # Where some layers have windows, these alone are rotated.
        knobs={
            **LLAMA, **layers.unrotated(layers.exaone_rotates), **QK_HEAD, "norm.placement": "output", "attention.window": layers.exaone_window,
        },
        zeros=frozenset({"sliding_window_pattern"}),
        # Multi-token prediction in the file of EXAONE 4.5.
        free={"_num_mtp_layers", "mtp_loss_scaling_factor", "mtp_share_layers", "num_nextn_predict_layers"},
        fixed=NO_BIAS,
    ),
    # Its logits are multiplied where Granite's are divided.
    "hyperclovax": ModelType(
        defaults=like_llama(32000, rms_norm_eps=1e-6, mlp_bias=False, use_post_norm=True, **(NO_MULTIPLIERS | {"attention_multiplier": None})),
        knobs={
            **LLAMA, **MULTIPLIERS, **LLAMA_BIASES, "norm.placement": lambda c: "sandwich" if c["use_post_norm"] else "pre",
            "attention.scale": r.score_multiplier, "head.scale": r.factor("logits_scaling"),
        },
        free={"embd_pdrop", "end_token_id", "pretraining_tp", "resid_pdrop", "summary_first_dropout"},
    ),
    "glm4": ModelType(
        defaults=GLM_DEFAULTS,
        knobs={**GLM, "norm.placement": "sandwich"},
        only_if=IF_BIASED,
        fixed=NO_MLP_BIAS,
    ),
}  # fmt: skip
