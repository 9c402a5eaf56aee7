"""Text decoders of models of images, which stand in the section text_config of those models' files: Qwen2-VL to Qwen3-VL.

Their rotary positions count an image's tokens by time, height and width; those of text they count as any other model does.
"""

from dataclasses import replace

from modcalc.spec import hub_layers as layers
from modcalc.spec.hub_experts import QWEN_EXPERTS, ROUTED_FREE
from modcalc.spec.hub_parts import (
    ATTENTION_BIAS,
    ATTENTION_DROPOUT,
    LLAMA,
    NO_MLP_BIAS,
    NO_WINDOW,
    QK_HEAD,
    SILU,
    UNROTATED,
    WHOLE,
    ModelType,
    rope,
    sizes,
)
from modcalc.spec.hub_rmsnorm import RMSNORM

_qwen2_vl = replace(
    RMSNORM["qwen2"],
    defaults=sizes(
        152064, 8192, 80, 64, max_position_embeddings=32768, intermediate_size=29568, num_key_value_heads=8, head_dim=None,
        rms_norm_eps=1e-5, use_sliding_window=False, sliding_window=4096, max_window_layers=80, layer_types=None, **SILU, **rope(1000000.0),
    ),
    free=RMSNORM["qwen2"].free | {"image_token_id", "video_token_id", "vision_end_token_id", "vision_start_token_id", "vision_token_id"},
)  # fmt: skip

TEXT: dict[str, ModelType] = {
    "qwen2_vl_text": _qwen2_vl,
    "qwen2_5_vl_text": _qwen2_vl,
    "qwen3_vl_text": ModelType(
        defaults=sizes(
            151936, 4096, 32, 32, max_position_embeddings=128000, intermediate_size=22016, num_key_value_heads=32, head_dim=128,
            rms_norm_eps=1e-6, attention_bias=False, **SILU, **rope(500000.0),
        ),
        knobs={**LLAMA, **QK_HEAD, **ATTENTION_BIAS},
        checks=WHOLE,
        free=ATTENTION_DROPOUT,
        fixed=UNROTATED | NO_WINDOW | NO_MLP_BIAS,
    ),
    "qwen3_vl_moe_text": ModelType(
        defaults=sizes(
            151936, 2048, 24, 16, max_position_embeddings=128000, intermediate_size=5632, num_key_value_heads=16, head_dim=None,
            rms_norm_eps=1e-6, attention_bias=False, decoder_sparse_step=1, moe_intermediate_size=1408, num_experts_per_tok=4, num_experts=60,
            mlp_only_layers=None, **SILU, **rope(500000.0),
        ),
        knobs={**LLAMA, **QK_HEAD, **ATTENTION_BIAS, **QWEN_EXPERTS},
        only_if={"moe": layers.qwen_sparse_layers},
        checks=WHOLE,
        names={"num_local_experts": "num_experts"},
        free=ROUTED_FREE,
        fixed=UNROTATED | NO_WINDOW | NO_MLP_BIAS | {"norm_topk_prob": (True,)},
    ),
}  # fmt: skip
