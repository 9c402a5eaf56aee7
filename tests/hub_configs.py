"""Small random configs of every model_type that can be imported, and the transformers library's own count of them."""

import json
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from shallow import shallow

from modcalc.spec.hub import from_config
from modcalc.spec.schema import Spec

CONFIGS = Path(__file__).parent / "data" / "configs"

KV_FREE = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2", "olmo3", "starcoder2", "mixtral", "qwen2_moe",
    "qwen3_moe", "gpt_oss", "smollm3", "seed_oss", "glm", "glm4", "glm4_moe", "ernie4_5", "arcee", "exaone4", "nanochat", "minimax_m2", "granite",
    "ministral", "ministral3", "dots1", "solar_open", "exaone_moe", "nemotron", "cwm", "vaultgemma", "internlm3", "qwen3_vl_text",
    "qwen3_vl_moe_text", "phimoe", "hunyuan_v1_dense", "hunyuan_v1_moe", "jais2", "hyperclovax", "mellum",
    "iquestcoder", "hy_v3", "granite_swa", "granitemoe_swa", "aria_text", "glm4v_moe_text", "paddleocr_vl_text", "afmoe",
    "llama4_text", "exaone", "sarvam_moe", "gemma4_text", "gemma4_unified_text", "apertus", "apertus1p5_text", "flint",
    "kolibri1", "qwen2_5_omni_text", "qwen3_omni_moe_text", "glm_ocr_text", "hunyuan_vl_text", "granite4_vision_text", "granite_docling_text",
    "emu3_text_model", "phi4_multimodal", "cohere_compass_text", "cohere2_moe",
)  # fmt: skip
KV_HEADS = (
    *KV_FREE, "phi", "stablelm", "olmo", "olmoe", "cohere", "cohere2", "granitemoe", "helium", "ernie4_5_moe", "flex_olmo", "qwen2_vl_text",
    "qwen2_5_vl_text", "granitemoeshared", "granitemoehybrid", "glm4v_text", "deepseek_ocr2_text",
)  # fmt: skip
# Types whose own default of head_dim is no width of D / H, or that have no default.
OWN_HEAD_DIM = (
    "qwen3", "gemma", "gemma2", "gemma3_text", "gpt_oss", "seed_oss", "glm", "glm4", "ernie4_5", "minimax_m2", "ministral", "ministral3",
    "solar_open", "cwm", "vaultgemma", "internlm3", "qwen3_vl_text", "hunyuan_v1_dense", "hunyuan_v1_moe", "mellum",
    "iquestcoder", "hy_v3", "paddleocr_vl_text", "afmoe", "llama4_text", "sarvam_moe", "gemma4_text",
    "gemma4_unified_text", "flint", "kolibri1", "hunyuan_vl_text", "cohere2_moe",
)  # fmt: skip
# Whose class wants a width that is a multiple of the heads, whatever head_dim says.
MULTIPLE = ("llama", "exaone", "arcee", "gemma2", "gemma3_text", "cwm", "vaultgemma", "internlm3", "jais2", "hyperclovax", "iquestcoder", "aria_text")
ROTARY_PARTIAL = {
    "gpt_neox": "rotary_pct",
    **dict.fromkeys(
        ("phi", "phi3", "stablelm", "glm", "glm4", "glm4_moe", "nemotron", "persimmon", "glm4v_text", "glm4v_moe_text", "glm_ocr_text",
         "phi4_multimodal"),
        "partial_rotary_factor",
    ),
}  # fmt: skip
# The library's own names where they differ from hidden_size, num_hidden_layers, num_attention_heads, max_position_embeddings.
GPT = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "max_position_embeddings": "n_positions"}
NAMES = {
    "gpt2": GPT,
    "gptj": GPT,
    "codegen": GPT,
    "openai-gpt": GPT,
    "gpt_bigcode": GPT,
    "gpt_neo": {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"},
    "exaone": {"num_hidden_layers": "num_layers"},
    **dict.fromkeys(("sarvam_mla", "sarvam_moe"), {"n_routed_experts": "num_experts", "n_shared_experts": "num_shared_experts"}),
    "bloom": {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "max_position_embeddings": "seq_length"},
    **dict.fromkeys(
        ("mpt", "dbrx"),
        {"hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads", "max_position_embeddings": "max_seq_len"},
    ),
}
INNER = {
    **dict.fromkeys(("gpt2", "gptj", "codegen", "gpt_bigcode"), "n_inner"), "opt": "ffn_dim", "falcon": "ffn_hidden_size", "bloom": None, "mpt": None,
    "openai-gpt": None, "kolibri1": None, "dbrx": None,
}  # fmt: skip


BALANCE = ("e_score_correction_bias", "expert_bias")
TEXT_DECODERS = (
    "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "qwen3_vl_moe_text", "glm4v_text", "glm4v_moe_text", "paddleocr_vl_text", "mistral4",
    "qwen2_5_omni_text", "qwen3_omni_moe_text", "glm_ocr_text", "hunyuan_vl_text", "granite4_vision_text", "granite_docling_text",
    "emu3_text_model", "phi4_multimodal", "deepseek_ocr2_text",
)  # fmt: skip
# Of these, classes that the library's AutoModel does not know.
TEXT_CLASSES = {
    "paddleocr_vl_text": "PaddleOCRTextModel", "qwen2_5_omni_text": "Qwen2_5OmniThinkerTextModel",
    "qwen3_omni_moe_text": "Qwen3OmniMoeThinkerTextModel", "granite4_vision_text": "Granite4VisionTextModel", "emu3_text_model": "Emu3TextModel",
    "deepseek_ocr2_text": "DeepseekOcr2TextModel",
}  # fmt: skip


def named(name: str) -> Spec:
    """The spec of a published model's text decoder."""
    path = CONFIGS / f"{name}.json"
    return from_config(path, section_of(path))


def section_of(path: Path) -> str | None:
    """Where the file of a larger model holds its text decoder."""
    return "text_config" if "text_config" in json.loads(path.read_text()) else None


def draw(model_type: str, rng: random.Random) -> dict[str, Any]:
    """A config as a file would hold it, every flag of the type drawn, all sizes small."""

    def flag() -> bool:
        return rng.random() < 0.5

    H = rng.choice((4, 8) if model_type == "codegen" else (1, 2, 4, 6))
    N = 4 * rng.randint(1, 3)  # half of it is rotated in pairs
    free = model_type in KV_FREE and flag()
    # Without a head_dim of its own a model's width is that of its heads.
    D = 2 * rng.randint(4, 20) if free else H * N
    if free and model_type in MULTIPLE:
        D = H * 2 * rng.randint(2, 8)
    L = rng.randint(1, 5)
    c: dict[str, Any] = dict(vocab_size=rng.randint(10, 90), hidden_size=D, num_hidden_layers=L, num_attention_heads=H, max_position_embeddings=64)
    c["tie_word_embeddings"] = flag()
    inner = INNER.get(model_type, "intermediate_size")
    if inner:
        c[inner] = rng.randint(3, 50)
    if model_type in KV_HEADS:
        c["num_key_value_heads"] = rng.choice([k for k in range(1, H + 1) if H % k == 0])
    if model_type in KV_FREE:
        c["head_dim"] = N if free or model_type in OWN_HEAD_DIM else None
    if model_type in ROTARY_PARTIAL:
        c[ROTARY_PARTIAL[model_type]] = rng.choice((0.5, 1.0))
    c.update(_own(model_type, rng, flag, c))
    names = NAMES.get(model_type, {})
    return {"model_type": model_type, **{names.get(k, k): v for k, v in c.items() if v is not None}}


def _own(model_type: str, rng: random.Random, flag: Any, c: dict[str, Any]) -> dict[str, Any]:
    """The fields that only some types have."""
    L, H = c["num_hidden_layers"], c["num_attention_heads"]
    window = rng.randint(2, 9)
    layers = [rng.choice(("sliding_attention", "full_attention")) for _ in range(L)]
    top = rng.randint(1, 3)
    match model_type:
        case "llama":
            return dict(attention_bias=flag(), mlp_bias=flag())
        case "openai-gpt":
            return dict(afn=rng.choice(("gelu", "relu", "silu")))
        case "biogpt":
            return dict(scale_embedding=flag())
        case "iquestcoder":
            return dict(attention_bias=flag(), mlp_bias=flag())
        case "emu3_text_model":
            return dict(attention_bias=flag(), mlp_bias=flag())
        case "glm4v_text" | "glm4v_moe_text" | "paddleocr_vl_text" | "glm_ocr_text" | "hunyuan_vl_text":
            N = c.get("head_dim") or c["hidden_size"] // H
            rotated = int(N * c.get("partial_rotary_factor", 1)) // 2
            more = {rng.choice(("rope_scaling", "rope_parameters")): dict(type="default", mrope_section=[rotated - rotated // 2, rotated // 2, 0])}
            if model_type == "glm4v_moe_text":
                more |= dict(
                    n_group=2, topk_group=rng.randint(1, 2), n_routed_experts=6, num_experts_per_tok=2, moe_intermediate_size=rng.randint(3, 20)
                )
                more |= dict(first_k_dense_replace=rng.randint(0, L), norm_topk_prob=flag(), attention_bias=flag())
            more |= dict(attention_bias=flag()) if model_type == "hunyuan_vl_text" else {}
            return more | (dict(use_bias=flag()) if model_type == "paddleocr_vl_text" else {})
        case "aria_text":
            return dict(attention_bias=flag(), moe_num_experts=top + rng.randint(0, 3), moe_topk=top, moe_num_shared_experts=rng.randint(1, 2))
        case "llama4_text":
            experts = dict(num_local_experts=top + rng.randint(0, 3), num_experts_per_tok=top, intermediate_size_mlp=rng.randint(3, 50))
            experts |= dict(moe_layers=[i for i in range(L) if flag()]) if flag() else dict(interleave_moe_layer_step=rng.randint(1, 3))
            rotated = dict(no_rope_layers=[rng.randint(0, 1) for _ in range(L)]) if flag() else dict(no_rope_layer_interval=rng.randint(1, 4))
            kinds = dict(layer_types=[rng.choice(("chunked_attention", "full_attention")) for _ in range(L)]) if flag() else {}
            return dict(attention_bias=flag(), use_qk_norm=flag(), attention_chunk_size=window, **experts, **rotated, **kinds)
        case "hy_v3":
            experts = dict(num_experts=top + rng.randint(0, 3), num_experts_per_tok=top, moe_intermediate_size=rng.randint(3, 20))
            listed = dict(mlp_layer_types=[rng.choice(("dense", "sparse")) for _ in range(L)]) if flag() else {}
            return dict(attention_bias=flag(), num_shared_experts=rng.randint(1, 2), router_scaling_factor=2.0, **experts, **listed)
        case "afmoe":
            where = dict(layer_types=layers) if flag() else dict(global_attn_every_n_layers=rng.randint(1, 4))
            experts = dict(num_experts=top + rng.randint(0, 3), num_experts_per_tok=top, moe_intermediate_size=rng.randint(3, 20))
            experts |= dict(num_shared_experts=rng.randint(1, 2), route_scale=rng.choice((1.0, 2.5)), num_dense_layers=rng.randint(0, L))
            return dict(attention_bias=flag(), mup_enabled=flag(), sliding_window=window, **experts, **where)
        case "internlm3":
            return dict(zip(("qkv_bias", "bias"), [flag()] * 2, strict=True))
        case "mistral" | "phi3" | "phi4_multimodal" | "starcoder2" | "mixtral":
            more = dict(use_bias=flag()) if model_type == "starcoder2" else {}
            more |= dict(num_local_experts=top + rng.randint(0, 3), num_experts_per_tok=top) if model_type == "mixtral" else {}
            return dict(sliding_window=window, **more)
        case "qwen3_vl_text":
            return dict(attention_bias=flag())
        case "qwen2" | "qwen3" | "qwen2_vl_text" | "qwen2_5_vl_text" | "qwen2_5_omni_text":
            more = dict(attention_bias=flag()) if model_type == "qwen3" else {}
            if model_type.endswith("_text"):  # pairs of rotated dims that count time, height and width
                N = c.get("head_dim") or c["hidden_size"] // H
                kind = "mrope" if "vl" in model_type else "default"
                more[rng.choice(("rope_scaling", "rope_parameters"))] = dict(type=kind, mrope_section=[N // 2 - 2, 1, 1])
            on = flag()
            more |= dict(layer_types=layers) if on and flag() else dict(max_window_layers=rng.randint(0, L))
            return dict(use_sliding_window=on, sliding_window=window, **more)
        case "gpt2":
            return dict(scale_attn_weights=flag(), activation_function=rng.choice(("gelu_new", "relu", "gelu")))
        case "gpt_neox":
            return dict(use_parallel_residual=flag(), attention_bias=flag())
        case "opt":
            narrow = rng.choice((None, c["hidden_size"], 2 * rng.randint(2, 8)))
            names = ("do_layer_norm_before", "_remove_final_layer_norm", "enable_bias", "layer_norm_elementwise_affine")
            return dict(word_embed_proj_dim=narrow, **{name: flag() for name in names})
        case "apertus" | "apertus1p5_text":
            return dict(attention_bias=flag(), hidden_act=rng.choice(("xielu", "xielu", "silu")))
        case "gemma" | "olmo" | "olmo2" | "glm" | "glm4" | "nanochat":
            return dict(attention_bias=flag())
        case "ministral3":
            return dict(sliding_window=rng.choice((window, "null")))
        case "ministral":  # the library's class makes the windows' mask in any case
            return dict(sliding_window=window, **(dict(layer_types=layers) if flag() else {}))
        case "helium":
            return dict(head_dim=c["hidden_size"] // H, attention_bias=flag(), mlp_bias=flag())
        case "olmo3":
            return dict(attention_bias=flag(), sliding_window=window, **(dict(layer_types=layers) if flag() else {}))
        case "arcee" | "nemotron" | "jais2":
            return dict(attention_bias=flag(), mlp_bias=flag())
        case "ernie4_5":
            return dict(use_bias=flag())
        case "seed_oss":
            return dict(attention_bias=flag(), attention_out_bias=flag(), mlp_bias=flag())
        case "smollm3":
            more = dict(no_rope_layers=[rng.randint(0, 1) for _ in range(L + rng.randint(0, 1))]) if flag() else {}
            more |= dict(no_rope_layer_interval=rng.randint(1, 3)) if flag() else {}
            more |= dict(use_sliding_window=True, sliding_window=window) if flag() else {}
            more |= dict(layer_types=layers) if "sliding_window" in more and flag() else {}
            return dict(attention_bias=flag(), mlp_bias=flag(), **more)
        case "exaone4" | "exaone_moe":
            if model_type == "exaone4" and flag():
                return dict(sliding_window="null", layer_types=["full_attention"] * L)
            where = dict(layer_types=layers) if flag() else dict(sliding_window_pattern=rng.randint(1, 4))
            if model_type == "exaone_moe":
                groups = rng.choice((1, 2))
                where |= dict(n_group=groups, topk_group=rng.randint(1, groups), num_experts=groups * rng.randint(2, 4), num_experts_per_tok=2)
                where |= dict(num_shared_experts=rng.randint(1, 2), moe_intermediate_size=rng.randint(3, 20), norm_topk_prob=flag())
                listed = dict(mlp_layer_types=[rng.choice(("dense", "sparse")) for _ in range(L)])
                where |= listed if flag() else dict(first_k_dense_replace=rng.randint(0, L))
            return dict(sliding_window=window, **where)
        case "granite" | "hyperclovax" | "granite4_vision_text" | "granite_docling_text":
            more = dict(use_post_norm=flag()) if model_type == "hyperclovax" else {}
            return dict(**more, attention_bias=flag(), mlp_bias=flag(), **_multipliers(rng, flag))
        case "cohere":
            return dict(attention_bias=flag(), use_qk_norm=flag(), logit_scale=rng.choice((0.0625, 1.0)))
        case "cohere_compass_text":
            by_type = {kind: rng.choice((None, dict(rope_theta=base))) for kind, base in (("full_attention", 300.0), ("sliding_attention", 30.0))}
            more = dict(layer_types=layers) if flag() else {}
            more |= dict(logit_scale=0.25) if flag() else {}
            return dict(attention_bias=flag(), sliding_window=window, rope_parameters=by_type, **more)
        case "cohere2_moe":
            shared = rng.randint(0, 2)
            experts = dict(num_experts=top + rng.randint(0, 3), num_experts_per_tok=top, num_shared_experts=shared, norm_topk_prob=flag())
            experts |= dict(shared_expert_combination_strategy="sum") if shared else {}
            experts |= dict(prefix_dense_intermediate_size=rng.randint(3, 20)) if flag() else {}
            experts |= dict(expert_selection_fn=rng.choice(("softmax", "sigmoid")))
            more = dict(layer_types=layers) if flag() else dict(sliding_window_pattern=rng.randint(1, 4))
            more |= dict(mlp_layer_types=[rng.choice(("dense", "sparse")) for _ in range(L)]) if flag() else {}
            more |= dict(first_k_dense_replace=rng.randint(0, L), prefix_dense_sliding_window_pattern=rng.randint(1, 2)) if flag() else {}
            more |= dict(rms_norm_eps=1e-6) if flag() else {}
            return dict(attention_bias=flag(), sliding_window=window, logit_scale=0.25, **experts, **more)
        case "cohere2":
            more = dict(layer_types=layers) if flag() else dict(sliding_window_pattern=rng.randint(1, 4)) if flag() else {}
            return dict(attention_bias=flag(), sliding_window=window, logit_scale=0.25, **more)
        case "gptj" | "codegen":
            return dict(rotary_dim=rng.choice((2, 4)))
        case "gpt_bigcode":
            return dict(multi_query=flag(), scale_attn_weights=flag())
        case "gpt_neo":
            runs = [[[rng.choice(("global", "local"))], 1] for _ in range(L)] if flag() else [[[rng.choice(("global", "local"))], L]]
            return dict(attention_types=runs, window_size=window)
        case "mpt":
            return dict(attn_config=dict(softmax_scale=rng.choice((0.25, 1.5)))) if flag() else {}
        case "dbrx":
            experts = dict(ffn_hidden_size=rng.randint(3, 20), moe_num_experts=top + rng.randint(0, 3), moe_top_k=top)
            experts |= dict(ffn_act_fn=dict(name=rng.choice(("silu", "gelu"))) if flag() else None)
            experts |= dict(moe_normalize_expert_weights=rng.choice((1.0, None))) if flag() else {}
            # The class cannot run without clip_qkv, here one that clips nothing.
            groups = dict(kv_n_heads=rng.choice([k for k in range(1, H + 1) if H % k == 0]), rope_theta=10000.0, clip_qkv=1e6)
            return dict(tie_word_embeddings=False, attn_config=groups, ffn_config=experts)
        case "cwm":
            return dict(mlp_bias=flag(), sliding_window=window, **(dict(layer_types=layers) if flag() else {}))
        case "gemma2" | "gemma3_text" | "vaultgemma":
            more = dict(layer_types=layers) if flag() else {}
            if model_type == "gemma3_text" and not more:
                more = dict(sliding_window_pattern=rng.randint(1, 4))
            caps = dict(attn_logit_softcapping=20.0, final_logit_softcapping=10.0) if flag() else {}
            return dict(attention_bias=flag(), sliding_window=window, query_pre_attn_scalar=rng.randint(4, 40), **more, **caps)
        case "gemma4_text" | "gemma4_unified_text":
            more = dict(layer_types=layers) if flag() else {}
            more |= dict(num_global_key_value_heads=rng.choice([k for k in range(1, H + 1) if H % k == 0])) if flag() else {}
            more |= dict(hidden_size_per_layer_input=0) if model_type == "gemma4_text" else {}
            more |= dict(final_logit_softcapping=10.0) if flag() else {}
            if flag():
                each = {kind: dict(head_dim=4 * rng.randint(1, 3)) for kind in ("sliding_attention", "full_attention")}
                types = more.get("layer_types") or ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(L)]
                more |= dict(per_layer_config={str(i): each[kind] for i, kind in enumerate([*types[:-1], "full_attention"])})
            if model_type == "gemma4_text" and flag():
                E = rng.randint(2, 5)
                more |= dict(enable_moe_block=True, num_experts=E, top_k_experts=rng.randint(1, E), moe_intermediate_size=4 * rng.randint(1, 5))
            return dict(attention_bias=flag(), sliding_window=window, attention_k_eq_v=flag(), global_head_dim=4 * rng.randint(1, 3), **more)
        case "phi" | "persimmon":
            return dict(qk_layernorm=flag())
        case "stablelm":
            return dict(qk_layernorm=flag(), use_qkv_bias=flag(), use_parallel_residual=flag())
        case "falcon":
            new = flag()
            if new:
                groups = rng.choice([k for k in range(1, H + 1) if H % k == 0])
                more = dict(num_kv_heads=groups, num_ln_in_parallel_attn=rng.choice((None, 1, 2)))
            else:
                more = dict(multi_query=flag(), parallel_attn=flag())
            return dict(new_decoder_architecture=new, alibi=flag(), bias=flag(), **more)
        case "qwen3_moe" | "qwen3_vl_moe_text" | "qwen3_omni_moe_text":
            more = dict(mlp_only_layers=sorted(rng.sample(range(L), rng.randint(0, L)))) if flag() else {}
            if model_type == "qwen3_moe":
                more |= dict(use_sliding_window=True, sliding_window=window) if flag() else {}
            if model_type != "qwen3_vl_moe_text":
                more |= dict(norm_topk_prob=flag())
            experts = dict(num_experts=top + rng.randint(0, 3), num_experts_per_tok=top, moe_intermediate_size=rng.randint(3, 20))
            return dict(attention_bias=flag(), decoder_sparse_step=rng.randint(1, 3), **experts, **more)
        case "flint" | "kolibri1":
            experts = dict(num_experts=top + rng.randint(0, 3), num_experts_per_tok=top, moe_intermediate_size=rng.randint(3, 20))
            experts |= dict(shared_expert_intermediate_size=rng.randint(3, 20), norm_topk_prob=flag(), sliding_window=window)
            more = dict(layer_types=layers) if flag() else {}
            if model_type == "flint":
                more |= dict(mlp_only_layers=sorted(rng.sample(range(L), rng.randint(0, L)))) if flag() else {}
                more |= dict(attention_bias=flag(), decoder_sparse_step=rng.randint(1, 3))
            return dict(**experts, **more)
        case "qwen2_moe":
            more = dict(mlp_only_layers=sorted(rng.sample(range(L), rng.randint(0, L)))) if flag() else {}
            if flag():
                more |= dict(use_sliding_window=True, sliding_window=window)
                more |= dict(layer_types=layers) if flag() else dict(max_window_layers=rng.randint(0, L))
            experts = dict(num_experts=top + rng.randint(0, 3), num_experts_per_tok=top, moe_intermediate_size=rng.randint(3, 20))
            experts |= dict(shared_expert_intermediate_size=rng.randint(3, 20))
            return dict(qkv_bias=flag(), norm_topk_prob=flag(), decoder_sparse_step=rng.randint(1, 3), **experts, **more)
        case "minimax_m2":
            half = dict(rotary_dim=c["head_dim"] // 2) if flag() else {}
            return dict(num_local_experts=top + rng.randint(0, 3), num_experts_per_tok=top, **half)
        case "ernie4_5_moe":
            shared, ends = rng.randint(0, 2), (-1, *range(L))
            experts = dict(moe_num_experts=top + rng.randint(0, 3), moe_k=top, moe_intermediate_size=rng.randint(3, 20))
            where = dict(moe_layer_start_index=rng.randint(0, L), moe_layer_end_index=rng.choice(ends), moe_layer_interval=rng.randint(1, 3))
            return dict(use_bias=flag() and not shared, moe_num_shared_experts=shared, **experts, **where)
        case "granitemoehybrid":
            experts = dict(num_local_experts=rng.choice((0, top + rng.randint(0, 3))), num_experts_per_tok=top, attention_bias=flag())
            kinds = dict(layer_types=[rng.choice(("attention", "full_attention"))] * L, position_embedding_type=rng.choice(("rope", "nope", None)))
            return dict(shared_intermediate_size=rng.randint(3, 20), mamba_n_heads=1, **experts, **kinds, **_multipliers(rng, flag))
        case "granitemoe" | "granitemoeshared" | "granite_swa" | "granitemoe_swa":
            more = {}
            if model_type.endswith("_swa"):
                types = layers if flag() else ["sliding_attention" if i % 4 else "full_attention" for i in range(L)]
                base = {kind: rng.choice((0, 100.0, 300.0)) for kind in dict.fromkeys(types)}
                more = dict(sliding_window=window, layer_types=types)
                more |= dict(layer_rope_theta=[base[kind] * rng.choice((0, 1)) for kind in types]) if flag() else {}
            if model_type == "granite_swa":
                more |= dict(mlp_bias=flag())
            else:
                more |= dict(num_local_experts=top + rng.randint(0, 3), num_experts_per_tok=top)
            if model_type in ("granitemoeshared", "granitemoe_swa"):
                more |= dict(shared_intermediate_size=rng.choice((0, rng.randint(3, 20))))
            return dict(attention_bias=flag(), **more, **_multipliers(rng, flag))
        case "hunyuan_v1_dense":
            return dict(attention_bias=flag())
        case "hunyuan_v1_moe":
            chosen = [top] * L if flag() else top
            return dict(attention_bias=flag(), num_experts=top + rng.randint(0, 3), moe_topk=chosen)
        case "mellum":
            theta = {kind: dict(rope_type="default", rope_theta=base) for kind, base in (("full_attention", 300.0), ("sliding_attention", 30.0))}
            more = dict(rope_parameters=theta) if flag() else {}
            more |= dict(layer_types=layers) if flag() else {}
            more |= dict(mlp_layer_types=[rng.choice(("dense", "sparse")) for _ in range(L)]) if flag() else {}
            experts = dict(num_experts=top + rng.randint(0, 3), num_experts_per_tok=top, moe_intermediate_size=rng.randint(3, 20))
            return dict(attention_bias=flag(), norm_topk_prob=flag(), sliding_window=window, **experts, **more)
        case "phimoe":
            return dict(
                attention_bias=flag(), lm_head_bias=flag(), num_local_experts=rng.randint(2, 5), **(dict(sliding_window=window) if flag() else {})
            )
        case "olmoe" | "flex_olmo":
            return dict(attention_bias=flag(), norm_topk_prob=flag(), num_experts=top + rng.randint(0, 3), num_experts_per_tok=top)
        case "gpt_oss":
            more = dict(layer_types=layers) if flag() else {}
            return dict(num_local_experts=top + rng.randint(0, 3), num_experts_per_tok=top, sliding_window=window, attention_bias=flag(), **more)
        case "youtu" | "minicpm3":
            more = {}
            if model_type == "minicpm3":
                more = dict(
                    mlp_bias=flag(), scale_emb=rng.choice((1, 0.5)), scale_depth=rng.choice(("null", 0.7)), dim_model_base=rng.choice(("null", 9))
                )
            dims = dict(kv_lora_rank=rng.randint(2, 9), q_lora_rank=rng.choice(("null", rng.randint(2, 9))), qk_rope_head_dim=2 * rng.randint(1, 4))
            widths = (rng.randint(2, 9),) if model_type == "youtu" else ("null", rng.randint(2, 9))
            dims |= dict(v_head_dim=rng.choice(widths), qk_nope_head_dim=rng.randint(2, 9))
            return dict(num_key_value_heads=H, attention_bias=flag(), **dims, **more)
        case (
            "deepseek_v2"
            | "deepseek_v3"
            | "mistral4"
            | "glm4_moe"
            | "glm4_moe_lite"
            | "dots1"
            | "solar_open"
            | "sarvam_mla"
            | "sarvam_moe"
            | "deepseek_ocr2_text"
        ):
            groups = rng.choice((1, 2))
            # Groups are ranked by their two best experts, so each needs two.
            chosen = dict(n_group=groups, topk_group=rng.randint(1, groups), n_routed_experts=groups * rng.randint(2, 4), num_experts_per_tok=2)
            chosen |= dict(n_shared_experts=rng.randint(1, 2), moe_intermediate_size=rng.randint(3, 20))
            if model_type == "glm4_moe_lite":
                chosen |= dict(mlp_layer_types=[rng.choice(("dense", "sparse")) for _ in range(L)]) if flag() else {}
            elif model_type == "deepseek_ocr2_text":
                chosen |= dict(mlp_layer_types=[rng.choice(("dense", "sparse")) for _ in range(L)])
            elif model_type != "solar_open":
                chosen |= dict(first_k_dense_replace=rng.randint(0, L))
            if model_type in ("deepseek_v2", "deepseek_ocr2_text"):
                chosen |= dict(topk_method=rng.choice(("greedy", "group_limited_greedy")), routed_scaling_factor=2.0)
            else:
                chosen |= dict(norm_topk_prob=flag())
            if model_type == "dots1":
                more = dict(layer_types=layers) if flag() else dict(max_window_layers=rng.randint(0, L))
                return dict(attention_bias=flag(), sliding_window=window, **more, **chosen)
            if model_type in ("solar_open", "deepseek_ocr2_text"):
                return dict(attention_bias=flag(), **chosen)
            if model_type in ("glm4_moe", "sarvam_moe"):
                return dict(attention_bias=flag(), use_qk_norm=flag(), **chosen)
            dims = dict(kv_lora_rank=rng.randint(2, 9), q_lora_rank=rng.choice(("null", rng.randint(2, 9))), qk_rope_head_dim=2 * rng.randint(1, 4))
            dims |= dict(v_head_dim=rng.randint(2, 9), qk_nope_head_dim=rng.randint(2, 9))
            if model_type == "deepseek_v2":  # its class rotates complex numbers, which must not stand at odd places
                dims |= dict(kv_lora_rank=2 * rng.randint(1, 4), qk_nope_head_dim=2 * rng.randint(1, 4))
            return dict(num_key_value_heads=H, attention_bias=flag(), **dims, **chosen)
    return {}


def _multipliers(rng: random.Random, flag: Any) -> dict[str, Any]:
    """Granite's factors, each on or off."""
    names = ("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier")
    return {name: rng.choice((0.25, 3.0)) for name in names if flag()}


def nulled(config: dict[str, Any]) -> dict[str, Any]:
    """The config with "null" as a real null (draw leaves out what is None)."""
    return {key: None if value == "null" else value for key, value in config.items()}


def library_config(config: dict[str, Any]) -> Any:
    """The transformers library's config object."""
    from transformers import CONFIG_MAPPING

    fields = {key: value for key, value in config.items() if key != "model_type"}
    return CONFIG_MAPPING[config["model_type"]](**fields, bos_token_id=0, eos_token_id=0, pad_token_id=0)


def library_model(config: Any, device: str) -> Any:
    """The library's own class, with attention as plain matrix products and one expert after the other."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device(device):
        if config.model_type in TEXT_DECODERS:
            return _with_head(config).eval()
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", experts_implementation="eager")
    model.tie_weights()
    return model.eval()


def _with_head(config: Any) -> Any:
    """A text decoder under the head that the class of the whole model puts on it."""
    import torch
    import transformers

    own = TEXT_CLASSES.get(config.model_type)
    of_config = getattr(transformers, own)._from_config if own else transformers.AutoModel.from_config

    class NoTowers(torch.nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()

        def forward(self, ids: torch.Tensor, embedded: torch.Tensor, **_: Any) -> torch.Tensor:
            return embedded

    class WithHead(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = config
            with patch("transformers.models.phi4_multimodal.modeling_phi4_multimodal.Phi4MultimodalFeatureEmbedding", NoTowers):
                self.model = of_config(config, attn_implementation="eager", experts_implementation="eager")
            self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            if getattr(config, "tie_word_embeddings", False):
                self.lm_head.weight = self.model.embed_tokens.weight

        def forward(self, input_ids: torch.Tensor, use_cache: bool, return_dict: bool = True) -> Any:
            logits = self.lm_head(self.model(input_ids=input_ids, use_cache=use_cache)[0]) / getattr(config, "logits_scaling", 1)
            return SimpleNamespace(logits=logits) if return_dict else (logits,)

    return WithHead()


def library_params(config: Any) -> int:
    from transformers.initialization import no_init_weights

    with no_init_weights():  # no values: on meta torch's Python code draws them
        model = library_model(config, "meta")
    # ERNIE's bias for the experts' selection is a frozen parameter there, that of the others a buffer.
    return sum(p.numel() for name, p in model.named_parameters() if not name.endswith(BALANCE))


@shallow
def library_flops(config: Any, batch: int, tokens: int, device: str) -> int:
    """2 x fvcore's multiply-adds of all matrix products of one forward pass; the rotary angles' outer product left out."""
    import torch
    from fvcore.nn import FlopCountAnalysis

    model = library_model(config, device)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=ids, use_cache=False, return_dict=False)[0]

    def baddbmm(inputs: list, outputs: list) -> Counter:
        left, right = (value.type().sizes() for value in inputs[1:3])
        return Counter(baddbmm=left[0] * left[1] * left[2] * right[2])

    ids = torch.zeros(batch, tokens, dtype=torch.long, device=device)
    count = FlopCountAnalysis(Logits(), ids).set_op_handle("aten::baddbmm", baddbmm)
    count.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    products = ("linear", "addmm", "mm", "matmul", "bmm", "baddbmm")

    def macs(operators: Counter) -> int:
        return sum(n for name, n in operators.items() if name in products)

    angles = sum(macs(ops) for path, ops in count.by_module_and_operator().items() if path.endswith("rotary_emb"))
    return 2 * (macs(count.by_operator()) - angles)
