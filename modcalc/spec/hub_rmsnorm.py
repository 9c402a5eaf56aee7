"""Model types with RMSNorm before each part and one MLP: the Llama family, Gemma, CWM, Phi-3, SmolLM3, GLM, Granite, HunYuan, IQuest-Coder and
others."""

from dataclasses import replace

from modcalc.spec import hub_layers as layers
from modcalc.spec import hub_rope as rotary
from modcalc.spec import hub_rules as r
from modcalc.spec.hub_fields import show
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
    NO_WINDOW,
    PARTIAL,
    QK_HEAD,
    QKV_BIAS,
    SILU,
    UNGATED,
    WINDOW,
    ModelType,
    like_llama,
    rope,
    sizes,
)
from modcalc.spec.hub_rules import of
from modcalc.spec.hub_thetas import GRANITE_SWA

MISTRAL_DEFAULTS = sizes(
    32000, 4096, 32, 32, max_position_embeddings=131072, intermediate_size=14336, num_key_value_heads=8, head_dim=None,
    rms_norm_eps=1e-6, sliding_window=4096, **SILU, **rope(),
)  # fmt: skip
QWEN_WINDOW = {"attention.window": layers.layered_window(lambda c, i: i >= c["max_window_layers"], "use_sliding_window")}


def gemma_activation(c: r.Config) -> str:
    """hidden_act, where the first files said gelu and meant its tanh form. Version 4 of the library reads hidden_activation first."""
    own, other = (r.activation(field, renamed={"gelu": "gelu_pytorch_tanh"}) for field in ("hidden_act", "hidden_activation"))
    if c["hidden_activation"] is not None and other(c) != own(c):
        raise r.Refused(
            "hidden_activation", f"{show(c['hidden_activation'])}, but hidden_act is {show(c['hidden_act'])}: versions of the library differ"
        )
    return own(c)


CHUNKS = frozenset({"dual_chunk_attention_config"})  # of Qwen's files for a million tokens, which the library does not read
# Of the decoders of InternVL 3.5.
TRAINED_IN_PARALLEL = {"debug", "ep_size", "micro_forward", "skip_checkpoint", "use_deepep"}
_LLAMA = ModelType(
    defaults=like_llama(32000, rms_norm_eps=1e-6, mlp_bias=False),
    knobs={**LLAMA, **LLAMA_BIASES},
    # Also of the decoders of Idefics3 and SmolVLM, whose files keep their predecessor's resampler, unused.
    free={"max_sequence_length", "perceiver_config", "pixel_shuffle_factor", "pretraining_tp", "rope_interleaved"},
    # Falcon 3 says what the activation is for.
    fixed=NO_WINDOW | {"activation": ("swiglu",), "is_llama_config": (True,), "qk_layer_norms": (False,), "use_resampler": (False,)},
)

_APERTUS = ModelType(
    defaults=sizes(
        131072, 4096, 32, 32, max_position_embeddings=65536, intermediate_size=14336, num_key_value_heads=None, head_dim=None, rms_norm_eps=1e-5,
        attention_bias=False, hidden_act="xielu", **(rope(12000000.0) | {"rope_parameters": rotary.APERTUS}),
    ),
    knobs={
        **UNGATED, **QK_HEAD, **ATTENTION_BIAS, "positions.theta": rotary.theta_or_that_of(rotary.APERTUS),
        "attention.head_dim": r.floored_head_dim,
    },
    free={"hidden_dropout", "pretraining_tp"},
    fixed=NO_WINDOW | NO_MLP_BIAS | {"post_norm": (False,), "qk_norm": (True,)},
)  # fmt: skip

RMSNORM: dict[str, ModelType] = {
    "llama": _LLAMA,
    "apertus": _APERTUS,
    "apertus1p5_text": replace(
        _APERTUS,
        defaults=_APERTUS.defaults | dict(vocab_size=266752, output_vocab_size=None),
        checks=(*_APERTUS.checks, r.same_vocabulary),
    ),
    # EXAONE 3 and 3.5: Llama under other names.
    "exaone": replace(
        _LLAMA,
        defaults=_LLAMA.defaults | sizes(
            102400, 4096, 32, 32, max_position_embeddings=4096, intermediate_size=14336, num_key_value_heads=8, rms_norm_eps=1e-5,
            rope_theta=500000.0,
        ),
        names={"activation_function": "hidden_act", "layer_norm_epsilon": "rms_norm_eps", "num_layers": "num_hidden_layers"},
        free={"embed_dropout", "resid_dropout"},
        fixed=NO_WINDOW,
    ),
    "internlm3": ModelType(
        defaults=sizes(
            128512, 4096, 48, 32, max_position_embeddings=32768, intermediate_size=10240, num_key_value_heads=2, head_dim=128,
            rms_norm_eps=1e-5, attention_bias=False, mlp_bias=False, **SILU, **rope(),
        ),
        knobs={**LLAMA, **LLAMA_BIASES},
        checks=(r.biased_alike,),
        names={"qkv_bias": "attention_bias", "bias": "mlp_bias"},
        free={"pretraining_tp"},
    ),
    "iquestcoder": ModelType(
        defaults=sizes(
            76800, 5120, 80, 40, max_position_embeddings=131072, intermediate_size=27648, num_key_value_heads=8, head_dim=128,
            rms_norm_eps=1e-5, attention_bias=False, mlp_bias=False, **SILU, **rope(),
        ),
        knobs={**LLAMA, **LLAMA_BIASES},
        free={"max_window_layers", "pretraining_tp"},
        fixed=NO_WINDOW | {"clip_qkv": (None,)},
    ),
    "mistral": ModelType(
        defaults=MISTRAL_DEFAULTS,
        knobs={**LLAMA, **WINDOW},
        fixed=NO_BIAS,
    ),
    "ministral": ModelType(
        defaults={**MISTRAL_DEFAULTS, "layer_types": None},
        knobs={**LLAMA, "attention.window": layers.layered_window(lambda c, i: c["sliding_window"] is not None)},
        # The library's layers cannot do without head_dim.
        checks=(r.needed("head_dim"),),
        fixed=NO_BIAS,
    ),
    "ministral3": ModelType(
        defaults=sizes(
            131072, 4096, 34, 32, max_position_embeddings=262144, intermediate_size=14336, num_key_value_heads=8, head_dim=128,
            rms_norm_eps=1e-5, sliding_window=None, **SILU, **(rope(None) | {"rope_parameters": rotary.MINISTRAL_3}),
        ),
        knobs={**LLAMA, **WINDOW, "positions.theta": rotary.theta_or_that_of(rotary.MINISTRAL_3)},
        fixed=NO_BIAS,
    ),
    "qwen2": ModelType(
        defaults=sizes(
            151936, 4096, 32, 32, max_position_embeddings=32768, intermediate_size=22016, num_key_value_heads=32, head_dim=None,
            rms_norm_eps=1e-6, use_sliding_window=False, sliding_window=4096, max_window_layers=28, layer_types=None, **SILU, **rope(),
        ),
        knobs={**LLAMA, **QKV_BIAS, **QWEN_WINDOW},
        free=CHUNKS,
        fixed=NO_MLP_BIAS | {"use_mrope": (False, None)},
    ),
    "qwen3": ModelType(
        defaults=sizes(
            151936, 4096, 32, 32, max_position_embeddings=32768, intermediate_size=22016, num_key_value_heads=32, head_dim=128,
            rms_norm_eps=1e-6, attention_bias=False, use_sliding_window=False, sliding_window=4096, max_window_layers=28, layer_types=None,
            **SILU, **rope(),
        ),
        knobs={**LLAMA, **QK_HEAD, **ATTENTION_BIAS, **QWEN_WINDOW},
        free=TRAINED_IN_PARALLEL,
        fixed=NO_MLP_BIAS,
    ),
    "gemma": ModelType(
        defaults=sizes(
            256000, 3072, 28, 16, tied=True, max_position_embeddings=8192, intermediate_size=24576, num_key_value_heads=16, head_dim=256,
            hidden_act="gelu_pytorch_tanh", hidden_activation=None, rms_norm_eps=1e-6, attention_bias=False, **rope(),
        ),
        knobs={**LLAMA, **GEMMA, "mlp.activation": gemma_activation},
        fixed=NO_MLP_BIAS,
    ),
    "cwm": ModelType(
        defaults=sizes(
            128256, 6144, 64, 48, max_position_embeddings=131072, intermediate_size=21504, num_key_value_heads=8, head_dim=128,
            rms_norm_eps=1e-5, mlp_bias=False, sliding_window=8192, layer_types=None, **SILU,
            **(rope(1000000.0) | {"rope_parameters": rotary.CWM}),
        ),
        knobs={
            **LLAMA, "positions.theta": rotary.theta_or_that_of(rotary.CWM), "mlp.bias": of("mlp_bias"),
            "attention.window": layers.layered_window(lambda c, i: i % 4 != 0),
        },
        checks=(r.needed("sliding_window"),),
        free={"pretraining_tp"},
        fixed={"attention_bias": (False, None)},
    ),
    "phi3": ModelType(
        defaults=sizes(
            32064, 3072, 32, 32, max_position_embeddings=4096, intermediate_size=8192, num_key_value_heads=None, head_dim=None,
            rms_norm_eps=1e-5, sliding_window=None, **SILU, **rope(partial_rotary_factor=1.0),
        ),
        knobs={**LLAMA, **PARTIAL, **WINDOW},
        free={"embd_pdrop", "original_max_position_embeddings", "resid_pdrop"},
        fixed=NO_BIAS | {"lm_head_bias": (False, None), "full_attn_mod": (1,), "interpolate_factor": (1,)},
    ),
    "smollm3": ModelType(
        defaults=sizes(
            128256, 2048, 36, 16, tied=True, max_position_embeddings=32768, intermediate_size=11008, num_key_value_heads=4, head_dim=None,
            rms_norm_eps=1e-6, attention_bias=False, mlp_bias=False, use_sliding_window=False, sliding_window=None, layer_types=None,
            no_rope_layers=None, no_rope_layer_interval=4, **SILU, **rope(2000000.0),
        ),
        knobs={
            **LLAMA, **layers.unrotated(layers.smollm_rotates), **LLAMA_BIASES, "attention.window": layers.smollm_window,
        },
        free={"max_window_layers", "pretraining_tp"},
    ),
    "seed_oss": ModelType(
        defaults=sizes(
            155136, 4096, 64, 80, max_position_embeddings=524288, intermediate_size=27648, num_key_value_heads=8, head_dim=128,
            rms_norm_eps=1e-6, attention_bias=True, attention_out_bias=False, mlp_bias=False, **SILU, **rope(),
        ),
        knobs={
            **LLAMA, "attention.bias.q": of("attention_bias"), "attention.bias.k": of("attention_bias"), "attention.bias.v": of("attention_bias"),
            "attention.bias.o": of("attention_out_bias"), "mlp.bias": of("mlp_bias"),
        },
        free={"pretraining_tp", "residual_dropout"},
        fixed=NO_WINDOW,
    ),
    "glm": ModelType(
        defaults=GLM_DEFAULTS,
        knobs=GLM,
        only_if=IF_BIASED,
        fixed=NO_MLP_BIAS,
    ),
    "ernie4_5": ModelType(
        defaults=sizes(
            103424, 1024, 18, 16, tied=True, max_position_embeddings=131072, intermediate_size=3072, num_key_value_heads=2, head_dim=128,
            rms_norm_eps=1e-5, use_bias=False, **SILU, **rope(500000.0),
        ),
        knobs={**LLAMA, "attention.bias": of("use_bias"), "mlp.bias": of("use_bias")},
        fixed=NO_BIAS,
    ),
    "helium": ModelType(
        defaults=sizes(
            48000, 2560, 24, 20, max_position_embeddings=4096, intermediate_size=7040, num_key_value_heads=20, head_dim=128,
            rms_norm_eps=1e-8, attention_bias=False, mlp_bias=False, **SILU, **rope(100000.0),
        ),
        # Its output projection has no bias, and the width of the model on both sides.
        knobs={**LLAMA, **QKV_BIAS, "mlp.bias": of("mlp_bias")},
        only_if=IF_BIASED,
        checks=(r.equal_heads,),
        free={"pretraining_tp"},
    ),
    "granite": ModelType(
        defaults=like_llama(32000, rms_norm_eps=1e-6, mlp_bias=False, **NO_MULTIPLIERS),
        knobs={**LLAMA, **MULTIPLIERS, **LLAMA_BIASES},
    ),
    "granite_swa": ModelType(
        defaults=sizes(
            100352, 2560, 24, 20, tied=True, max_position_embeddings=8192, intermediate_size=8192, num_key_value_heads=4, head_dim=None,
            rms_norm_eps=1e-5, attention_bias=False, mlp_bias=False, sliding_window=128, layer_types=None, layer_rope_theta=None,
            **SILU, **rope(), **NO_MULTIPLIERS,
        ),
        knobs={**LLAMA, **MULTIPLIERS, **LLAMA_BIASES, **GRANITE_SWA},
    ),
    "hunyuan_v1_dense": ModelType(
        defaults=like_llama(290943, rms_norm_eps=1e-5, attention_head_dim=None),
        knobs={**LLAMA, **QK_HEAD, **ATTENTION_BIAS},
        # The library's layers cannot do without head_dim.
        checks=(r.needed("head_dim"), r.read_instead("attention_head_dim", "head_dim", r.head_width)),
        # The files say much that the library's class takes for granted.
        free={
            "anyres_pooling_size", "anyres_vit_max_image_size", "anyres_vit_two_views", "cla_share_factor", "class_num", "dense_list",
            "eod_token_id", "im_end_id", "im_newline_id", "im_start_id", "image_token_id", "mask_init_id", "num_media_embeds", "org_vocab_size",
            "pad_id", "pool_type", "pretraining_tp", "skip_cls_token", "text_end_id", "text_start_id", "video_end_id", "video_start_id",
            "vit_add_patchemb_bias", "vit_input_resolution", "vit_mapping_type", "vit_norm_type", "vit_patch", "vit_path", "vit_remove_prenorm",
            "vit_token", "vit_used_rms_norm",
        },
        fixed={
            **NO_MLP_BIAS, "add_classification_head": (False, None), "norm_type": ("rms",), "position_embedding_xdrope": (False, None),
            "use_cla": (False, None), "use_qk_norm": (True,), "use_rotary_pos_emb": (True,), "vit_type": (None,), "xdrope_section": (None,),
        },
        dropped=(lambda c: "norms of queries and keys after the rotation",),
    ),
    "arcee": ModelType(
        defaults=sizes(
            32000, 2560, 32, 32, max_position_embeddings=4096, intermediate_size=18432, num_key_value_heads=None, head_dim=None,
            hidden_act="relu2", rms_norm_eps=1e-5, attention_bias=False, mlp_bias=False, **rope(),
        ),
        knobs={**UNGATED, **LLAMA_BIASES},
    ),
    "nanochat": ModelType(
        defaults=sizes(
            50304, 768, 12, 6, max_position_embeddings=2048, intermediate_size=8192, num_key_value_heads=None, head_dim=None,
            hidden_act="relu2", rms_norm_eps=1e-6, attention_bias=False, final_logit_softcapping=15.0, **rope(),
        ),
        # None of its norms has a weight, so that those of queries and keys may stand before the rotation.
        knobs={
            **UNGATED, **ATTENTION_BIAS, **QK_HEAD, "norm.affine": False, "embedding.norm": True, "head.softcap": of("final_logit_softcapping"),
        },
    ),
}  # fmt: skip
