"""Text decoders of models of images or audio, which stand in the section text_config of those models' files: Qwen2-VL to Qwen3-Omni, GLM-4.1V
to GLM-OCR, DeepSeek-OCR 2, PaddleOCR-VL, HunYuan-VL, Granite 4 Vision and Docling, Phi-4-multimodal, Emu3, Llama 4.

Their rotary positions count an image's tokens by time, height and width; those of text they count as any other model does.
"""

from dataclasses import replace

from modcalc.spec import hub_layers as layers
from modcalc.spec import hub_rules as r
from modcalc.spec import hub_sparse as sparse
from modcalc.spec.hub_deepseek import AFTER_DENSE, DEEPSEEK
from modcalc.spec.hub_experts import EXPERTS, LATENT_WIDTHS, QWEN_EXPERTS, ROUTED_FREE, experts
from modcalc.spec.hub_parts import (
    ATTENTION_BIAS,
    GLM,
    IF_BIASED,
    LLAMA,
    NO_BIAS,
    NO_MLP_BIAS,
    NO_WINDOW,
    PARTIAL,
    QK_HEAD,
    SILU,
    ModelType,
    like_llama,
    rope,
    sizes,
)
from modcalc.spec.hub_rmsnorm import RMSNORM
from modcalc.spec.hub_rules import of

_qwen2_vl = replace(
    RMSNORM["qwen2"],
    defaults=sizes(
        152064, 8192, 80, 64, max_position_embeddings=32768, intermediate_size=29568, num_key_value_heads=8, head_dim=None,
        rms_norm_eps=1e-5, use_sliding_window=False, sliding_window=4096, max_window_layers=80, layer_types=None, **SILU, **rope(1000000.0),
    ),
    checks=(r.equal_heads,),
    free=RMSNORM["qwen2"].free | {"image_token_id", "video_token_id", "vision_end_token_id", "vision_start_token_id", "vision_token_id"},
)  # fmt: skip
_deepseek_v2, _glm4_moe = DEEPSEEK["deepseek_v2"], DEEPSEEK["glm4_moe"]
_qwen3_moe = EXPERTS["qwen3_moe"]
_granite, _hunyuan, _llama, _phi3, _qwen2 = (RMSNORM[name] for name in ("granite", "hunyuan_v1_dense", "llama", "phi3", "qwen2"))

# Of the whole model, left beside the fields of the decoder in files without sections.
_IMAGE_TOKENS = frozenset({
    "image_end_token_id", "image_start_token_id", "image_token_id", "video_end_token_id", "video_start_token_id", "video_token_id",
    "vision_end_token_id", "vision_start_token_id",
})  # fmt: skip

TEXT: dict[str, ModelType] = {
    "qwen2_vl_text": _qwen2_vl,
    "qwen2_5_vl_text": _qwen2_vl,
    "qwen3_vl_text": ModelType(
        defaults=sizes(
            151936, 4096, 32, 32, max_position_embeddings=128000, intermediate_size=22016, num_key_value_heads=32, head_dim=128,
            rms_norm_eps=1e-6, attention_bias=False, **SILU, **rope(500000.0),
        ),
        knobs={**LLAMA, **QK_HEAD, **ATTENTION_BIAS},
        fixed=NO_WINDOW | NO_MLP_BIAS,
    ),
    "qwen3_vl_moe_text": ModelType(
        defaults=sizes(
            151936, 2048, 24, 16, max_position_embeddings=128000, intermediate_size=5632, num_key_value_heads=16, head_dim=None,
            rms_norm_eps=1e-6, attention_bias=False, decoder_sparse_step=1, moe_intermediate_size=1408, num_experts_per_tok=4, num_experts=60,
            mlp_only_layers=None, tied=True, **SILU, **rope(500000.0),
        ),
        knobs={**LLAMA, **QK_HEAD, **ATTENTION_BIAS, **QWEN_EXPERTS},
        only_if={"moe": sparse.qwen_sparse_layers},
        names={"num_local_experts": "num_experts"},
        free=ROUTED_FREE,
        fixed=NO_WINDOW | NO_MLP_BIAS | {"norm_topk_prob": (True,)},
    ),
    # The thinker's; the talker's embedding has a width of its own.
    "qwen2_5_omni_text": replace(
        _qwen2,
        defaults=_qwen2.defaults | sizes(
            152064, 3584, 28, 28, tied=True, num_key_value_heads=4, intermediate_size=18944, sliding_window=32768, rope_theta=1000000.0,
        ),
        free=_qwen2.free | {"init_std"},
    ),
    "qwen3_omni_moe_text": ModelType(
        defaults=sizes(
            3584, 2048, 28, 28, max_position_embeddings=32768, intermediate_size=18944, num_key_value_heads=4, head_dim=None, rms_norm_eps=1e-6,
            attention_bias=False, decoder_sparse_step=1, moe_intermediate_size=768, num_experts_per_tok=8, num_experts=128, norm_topk_prob=True,
            mlp_only_layers=None, **SILU, **rope(1000000.0),
        ),
        knobs={
            **LLAMA, **QK_HEAD, **ATTENTION_BIAS, **QWEN_EXPERTS, "attention.head_dim": r.floored_head_dim,
            "moe.renormalize": of("norm_topk_prob"),
        },
        only_if={"moe": sparse.qwen_sparse_layers},
        free=_qwen3_moe.free,
        fixed=_qwen3_moe.fixed | NO_WINDOW,
    ),
    # GLM-4.1V: the decoder of GLM-4, with biases in any case.
    "glm4v_text": ModelType(
        defaults=sizes(
            151552, 4096, 40, 32, max_position_embeddings=32768, intermediate_size=13696, num_key_value_heads=2, rms_norm_eps=1e-5, **SILU,
            **rope(partial_rotary_factor=1.0),
        ),
        knobs={**GLM, "norm.placement": "sandwich"},
        free=_IMAGE_TOKENS,
        fixed=NO_MLP_BIAS | {"attention_bias": (True,)},
    ),
    "glm_ocr_text": ModelType(
        defaults=sizes(
            59392, 1024, 16, 16, max_position_embeddings=131072, intermediate_size=4096, num_key_value_heads=8, head_dim=None, rms_norm_eps=1e-5,
            **SILU, **rope(partial_rotary_factor=1.0),
        ),
        knobs={**LLAMA, **PARTIAL, "norm.placement": "sandwich"},
        free=_IMAGE_TOKENS | {"num_nextn_predict_layers"},
        fixed=NO_BIAS,
    ),
    # GLM-4.5V, without GLM-4.5's option of norms of queries and keys.
    "glm4v_moe_text": replace(
        _glm4_moe,
        defaults={field: value for field, value in _glm4_moe.defaults.items() if field != "use_qk_norm"} | dict(
            vocab_size=151424, max_position_embeddings=65536, attention_bias=True,
        ),
        knobs={**_glm4_moe.knobs, "attention.qk_norm.scope": None},
        only_if=IF_BIASED | AFTER_DENSE,
        free=_glm4_moe.free | _IMAGE_TOKENS,
        fixed=_glm4_moe.fixed | {"qk_layernorm": (False,), "use_qk_norm": (False,)},
    ),
    # The experts of DeepSeek-V2, without its attention.
    "deepseek_ocr2_text": ModelType(
        defaults=like_llama(
            102400, rms_norm_eps=1e-6, moe_intermediate_size=1407, n_shared_experts=2, n_routed_experts=64, routed_scaling_factor=1.0, n_group=None,
            topk_group=None, num_experts_per_tok=None, topk_method="greedy", mlp_layer_types=None, first_k_dense_replace=None,
        ),
        knobs={
            **LLAMA, **ATTENTION_BIAS, **{path: rule for path, rule in _deepseek_v2.knobs.items() if path.startswith("moe.")},
            **sparse.to_the_end(sparse.ocr_sparse_layers),
        },
        only_if={"moe": sparse.ocr_sparse_layers},
        checks=(r.equal_heads, sparse.dense_alike),
        names={"num_experts": "n_routed_experts"},
        nulls=frozenset({"first_k_dense_replace"}),
        # Also of DeepSeek-OCR and the smallest DeepSeek-VL2, whose files call this a deepseek_v2 without latent attention.
        free=ROUTED_FREE | {"aux_loss_alpha", "ep_size", "pretraining_tp", "seq_aux"},
        fixed=_deepseek_v2.fixed | NO_MLP_BIAS | {
            **dict.fromkeys(LATENT_WIDTHS, (None, 0)),
            "lm_head": (True,), "norm_topk_prob": (False,), "rm_head": (False,), "use_mla": (False,),
        },
    ),
    # PaddleOCR-VL: the decoder of ERNIE 4.5, whose file says in the words of its training code what the library's class always is.
    "paddleocr_vl_text": replace(
        RMSNORM["ernie4_5"],
        free=RMSNORM["ernie4_5"].free | _IMAGE_TOKENS | {
            "attention_probs_dropout_prob", "compression_ratio", "hidden_dropout_prob", "ignored_index", "max_sequence_length", "use_flash_attention",
        },
        fixed=RMSNORM["ernie4_5"].fixed | NO_WINDOW | {"rope_is_neox_style": (True,), "use_3d_rope": (True,), "weight_share_add_bias": (True,)},
    ),
    # HunYuan-VL: its class reads the older name of head_dim.
    "hunyuan_vl_text": replace(
        _hunyuan,
        defaults={field: value for field, value in _hunyuan.defaults.items() if field != "attention_head_dim"} | {"tie_word_embeddings": True},
        checks=(r.needed("head_dim"),),
        names={"attention_head_dim": "head_dim", "org_vocab_size": "vocab_size"},
        free=_hunyuan.free - {"org_vocab_size"},
    ),
    "granite4_vision_text": _granite,
    "granite_docling_text": replace(
        _granite,
        defaults=_granite.defaults | sizes(
            133800, 1024, 28, 16, tied=True, max_position_embeddings=32768, intermediate_size=2048, num_key_value_heads=4, rms_norm_eps=1e-5,
            embedding_multiplier=12.0, logits_scaling=4.0, residual_multiplier=0.263, attention_multiplier=0.015625,
        ),
    ),
    # Phi-4-multimodal has no section for its decoder. The library's class has no LoRAs.
    "phi4_multimodal": replace(
        _phi3, defaults=_phi3.defaults | sizes(200064, 3072, 32, 32, max_position_embeddings=131072, num_key_value_heads=8),
    ),
    "emu3_text_model": replace(
        _llama,
        defaults=_llama.defaults | sizes(
            184622, 4096, 32, 32, max_position_embeddings=9216, intermediate_size=14336, num_key_value_heads=8, rms_norm_eps=1e-5,
            rope_theta=1000000.0,
        ),
        free=frozenset(),
        fixed=NO_WINDOW,
    ),
    # The library's class computes all experts for each token and weighs those that were not chosen by 0; the bill is that of the chosen.
    "llama4_text": ModelType(
        defaults=sizes(
            202048, 5120, 48, 40, max_position_embeddings=131072, intermediate_size=8192, intermediate_size_mlp=16384, num_key_value_heads=8,
            head_dim=128, rms_norm_eps=1e-5, attention_bias=False, num_experts_per_tok=1, num_local_experts=16, moe_layers=None,
            interleave_moe_layer_step=1, use_qk_norm=True, no_rope_layers=None, no_rope_layer_interval=4, attention_chunk_size=8192,
            layer_types=None, attn_temperature_tuning=True, **SILU, **rope(500000.0),
        ),
        knobs={
            **LLAMA, **ATTENTION_BIAS, **layers.unrotated(layers.llama4_rotates), **experts("num_local_experts", "sigmoid"),
            "mlp.d_ff": of("intermediate_size_mlp"), "moe.d_ff": r.needed("intermediate_size"), "moe.n_shared": 1, "moe.renormalize": False,
            "moe.every": sparse.llama4_every, "moe.layers": lambda c: None if sparse.llama4_every(c) else sparse.llama4_sparse_layers(c),
            "attention.window": layers.LLAMA4_WINDOW, "attention.chunked": lambda c: any(layers.windowed(layers.LLAMA4_WINDOW)(c)) or None,
            "attention.qk_norm.affine": False, "attention.qk_norm.rotated_only": lambda c: not all(layers.llama4_rotates(c)) or None,
        },
        only_if={
            "attention.qk_norm": lambda c: c["use_qk_norm"] and any(layers.llama4_rotates(c)), "moe": sparse.llama4_sparse_layers,
        },
        # Of dense ones.
        zeros=frozenset({"interleave_moe_layer_step", "num_experts_per_tok", "num_local_experts"}),
        nulls=frozenset({"interleave_moe_layer_step"}),
        free=ROUTED_FREE | {"attn_scale", "floor_scale", "for_llm_compressor", "router_jitter_noise"},
        fixed=NO_WINDOW | NO_MLP_BIAS,
        dropped=(
            lambda c: "the experts' weights on what goes in (they are on what comes out)" if sparse.llama4_sparse_layers(c) else None,
            lambda c: "queries scaled by position" if c["attn_temperature_tuning"] and not all(layers.llama4_rotates(c)) else None,
        ),
    ),
}  # fmt: skip
