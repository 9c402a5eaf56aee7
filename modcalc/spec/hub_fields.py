"""What a field of a config.json may hold, and which fields cost nothing.

Each field of a config is in one of three sets: understood (the tables that `hub` names map it to the spec), free (it
changes neither a weight's shape nor a matrix product), or unknown, which is an error.
"""

from collections.abc import Mapping
from typing import Any

from modcalc.spec.schema import MAX_LAYERS, MAX_SIZE
from modcalc.units import cut

# What understood fields hold. size: integer >= 1; count: integer >= 0; index: the same, or -1; flag: true or false; number: > 0.
KINDS = {
    **dict.fromkeys(
        (
            "attention_chunk_size", "attention_head_dim", "decoder_sparse_step", "dim_model_base", "expert_hidden_dim", "expert_intermediate_size",
            "ffn_dim", "ffn_hidden_size", "global_attn_every_n_layers", "global_head_dim", "head_dim", "hidden_size", "interleave_moe_layer_step",
            "intermediate_size", "intermediate_size_mlp", "kv_lora_rank", "max_position_embeddings", "max_seq_len", "moe_intermediate_size",
            "moe_layer_interval", "moe_num_experts", "moe_shared_expert_intermediate_size", "moe_topk", "n_group", "n_inner", "n_routed_experts",
            "no_rope_layer_interval", "num_attention_heads", "num_experts_per_tok", "num_global_key_value_heads", "num_key_value_heads",
            "num_kv_heads", "num_local_experts", "output_vocab_size", "prefix_dense_intermediate_size", "prefix_dense_sliding_window_pattern",
            "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "rotary_dim", "seq_length", "shared_expert_intermediate_size", "sliding_window",
            "_sliding_window_pattern", "top_k_experts", "topk_group", "v_head_dim", "vocab_size", "window_size", "word_embed_proj_dim",
        ),
        "size",
    ),
    **dict.fromkeys(
        (
            "first_k_dense_replace", "hidden_size_per_layer_input", "max_window_layers", "moe_layer_start_index", "moe_num_shared_experts",
            "n_shared_experts", "num_dense_layers", "num_experts", "num_kv_shared_layers", "num_ln_in_parallel_attn", "num_shared_experts",
            "shared_intermediate_size",
        ),
        "count",
    ),
    **dict.fromkeys(
        (
            "alibi", "attention_bias", "attention_k_eq_v", "attention_out_bias", "bias", "do_layer_norm_before", "enable_bias", "enable_moe_block",
            "layer_norm_elementwise_affine", "lm_head_bias", "mlp_bias", "multi_query", "mup_enabled", "new_decoder_architecture", "norm_topk_prob",
            "parallel_attn", "qk_layernorm", "qkv_bias", "_remove_final_layer_norm", "scale_attn_weights", "scale_embedding", "tie_word_embeddings",
            "use_bias", "use_parallel_residual", "use_post_norm", "use_qk_norm", "use_qkv_bias", "use_sliding_window",
        ),
        "flag",
    ),
    **dict.fromkeys(
        (
            "attention_multiplier", "attn_logit_softcapping", "embedding_multiplier", "final_logit_softcapping", "layer_norm_eps",
            "layer_norm_epsilon", "logit_scale", "logits_scaling", "norm_eps", "norm_epsilon", "partial_rotary_factor", "query_pre_attn_scalar",
            "residual_multiplier", "rms_norm_eps", "rope_local_base_freq", "rope_theta", "rotary_emb_base", "rotary_pct", "route_scale",
            "routed_scaling_factor", "router_scaling_factor", "scale_depth", "scale_emb",
        ),
        "number",
    ),
    **dict.fromkeys(
        ("activation", "activation_function", "afn", "expert_selection_fn", "hidden_act", "hidden_activation", "position_embedding_type",
         "shared_expert_combination_strategy", "topk_method"), "text"
    ),
    **dict.fromkeys(("attn_config", "ffn_config", "per_layer_config", "rope_parameters", "rope_scaling"), "section"),
    **dict.fromkeys(("attention_layers", "layer_types", "mlp_layer_types"), "texts"),
    **dict.fromkeys(("attn_type_list", "mlp_only_layers", "moe_layers", "no_rope_layers"), "counts"),
    "attn_temperature_tuning": "switch",
    "num_hidden_layers": "layers",
    "moe_layer_end_index": "index",
    "attention_types": "runs",
    "layer_rope_theta": "thetas",
    "sliding_window_pattern": "pattern",
}  # fmt: skip

# null stands for "derive it" or "without" in these; in a flag it is false, as the library takes it.
NULLABLE = {
    "attention_chunk_size", "attention_head_dim", "attention_layers", "attention_multiplier", "attention_types", "attn_config",
    "attn_logit_softcapping", "attn_temperature_tuning", "attn_type_list", "dim_model_base", "expert_hidden_dim", "ffn_config", "ffn_hidden_size",
    "final_logit_softcapping", "head_dim", "hidden_activation", "hidden_size_per_layer_input", "intermediate_size", "layer_rope_theta",
    "layer_types", "mlp_layer_types", "mlp_only_layers", "moe_layers", "moe_shared_expert_intermediate_size", "n_group", "n_inner",
    "no_rope_layers", "num_experts_per_tok", "num_global_key_value_heads", "num_key_value_heads", "num_kv_heads", "num_ln_in_parallel_attn",
    "num_local_experts", "output_vocab_size", "partial_rotary_factor", "per_layer_config", "position_embedding_type",
    "prefix_dense_intermediate_size", "q_lora_rank", "rope_parameters", "rope_scaling", "rotary_dim", "scale_depth", "sliding_window",
    "sliding_window_pattern", "_sliding_window_pattern", "topk_group", "v_head_dim", "word_embed_proj_dim",
}  # fmt: skip

# Free in every type: what the library writes or once wrote into any config, generation settings of version 4, tokens, storage.
FREE = {
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "_commit_hash", "_experts_implementation",
    "_experts_implementation_internal", "_flash_attn_2_enabled", "_name_or_path", "_num_labels", "architectures", "attention_dropout",
    "attn_implementation", "auto_map", "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "cache_implementation", "chunk_size_feed_forward",
    "cls_token_id", "custom_pipelines", "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype", "early_stopping",
    "encoder_no_repeat_ngram_size", "eos_token_id", "experts_implementation", "exponential_decay_length_penalty", "finetuning_task",
    "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "id2label", "initializer_range", "is_composition", "is_decoder",
    "label2id", "length_penalty", "max_length", "min_length", "model_max_length", "model_type", "name_or_path", "neftune_noise_alpha",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_image_tokens", "num_labels", "num_return_sequences", "output_attentions",
    "output_hidden_states", "output_past", "output_scores", "pad_token_id", "prefix", "problem_type", "quantization", "quantization_config",
    "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate", "sep_token_id", "suppress_tokens",
    "task_specific_params", "temperature", "tf_legacy_loss", "tie_last_hidden_states", "tokenizer_class", "top_k", "top_p", "torch_dtype",
    "torchscript", "transformers.js_config", "transformers_version", "typical_p", "unk_token_id", "unsloth_fixed", "unsloth_version",
    "use_bfloat16", "use_cache",
}  # fmt: skip

# Fields of every type whose other values would make another model; the values that leave a plain causal decoder.
FIXED: dict[str, tuple] = {
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
    "per_layer_config": ({}, None),
    "use_bidirectional_attention": (False, None),
}

# Free, but not carried into the spec: what its description says about a field that holds anything but these values.
DROPPED: dict[str, tuple[str, tuple]] = {
    "alibi": ("Falcon's ALiBi divided by sqrt(head_dim)", (False, None)),
    "apply_residual_connection_post_layernorm": ("the residual taken after the norm", (False, None)),
    "clip_qkv": ("clip_qkv", (None,)),
    "dual_chunk_attention_config": ("dual chunk attention", (None,)),
    "moe_norm_min": ("a least sum of the experts' weights", (1e-12,)),
    "num_mtp_layers": ("the modules for multi-token prediction", (0, None)),
    "num_mtp_modules": ("the modules for multi-token prediction", (0, None)),
    "num_nextn_predict_layers": ("the modules for multi-token prediction", (0, None)),
    "quantization_config": ("quantization", (None,)),
    "scale_attn_by_inverse_layer_idx": ("scores scaled by layer", (False, None)),
    "swiglu_alpha": ("swiglu_alpha", (1.702,)),
    "swiglu_limit": ("swiglu_limit", (7.0,)),
    "topk_method": ("expert groups ranked by their best expert alone", ("greedy", "noaux_tc")),
}

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
    "xielu": "xielu",
}


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and least <= value <= MAX_SIZE


def _all(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(v) is kind for v in value)


_CHECKS = {
    "size": (lambda v: _whole(v, 1), f"an integer from 1 to {MAX_SIZE:,}"),
    "layers": (lambda v: _whole(v, 1) and v <= MAX_LAYERS, f"an integer from 1 to {MAX_LAYERS:,}"),
    "count": (lambda v: _whole(v, 0), f"an integer from 0 to {MAX_SIZE:,}"),
    "index": (lambda v: _whole(v, -1), f"an integer from -1 to {MAX_SIZE:,}"),
    "flag": (lambda v: isinstance(v, bool), "true or false"),
    "switch": (lambda v: isinstance(v, bool) or _whole(v, 0), "true or false, or an integer"),  # Llama 4's first files say 4
    "number": (lambda v: type(v) in (int, float) and 0 < v < 10**300, "a number above 0"),
    "text": (lambda v: isinstance(v, str), "a string"),
    "section": (lambda v: isinstance(v, Mapping), "an object"),
    "texts": (lambda v: _all(v, str), "a list of strings"),
    "counts": (lambda v: _all(v, int) and all(i >= 0 for i in v), "a list of integers >= 0"),
    "thetas": (lambda v: isinstance(v, list) and all(type(n) in (int, float) and 0 <= n < 10**300 for n in v), "a list of numbers >= 0"),
    "pattern": (lambda v: _whole(v, 1) or (isinstance(v, str) and v != "" and set(v) <= set("LG")), "an integer from 1, or text like LLLG"),
    "runs": (
        lambda v: _all(v, list) and all(len(run) == 2 and _all(run[0], str) and _whole(run[1], 1) for run in v),
        'like [[["global", "local"], 12]]',
    ),
}


def same(a: Any, b: Any) -> bool:
    """Equal, and not only because true == 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def show(value: Any) -> str:
    """A value as JSON spells it, cut short."""
    import json

    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return cut(text)


def alike(value: Any, n: Any) -> Any:
    """What a list with one value for each of n layers says of all of them, if that is the same; else what it was."""
    return value[0] if isinstance(value, list) and len(value) == n and value and all(same(v, value[0]) for v in value) else value


def wrong(field: str, value: Any) -> str | None:
    """What is wrong with the value of an understood field; None if nothing is."""
    if value is None:
        if field in NULLABLE or KINDS[field] == "flag":
            return None
        return f"null, but {_CHECKS[KINDS[field]][1]} is needed"
    return misfit(KINDS[field], value)


def misfit(kind: str, value: Any) -> str | None:
    """What is wrong with a value of this kind, which is no null; None if nothing is."""
    good, allowed = _CHECKS[kind]
    if good(value):
        return None
    hint = ""
    if isinstance(value, str) and kind in ("size", "layers", "count", "index", "number", "flag"):
        hint = "; write it without quotes" if value.strip().replace(".", "", 1).isdigit() or value in ("true", "false") else ""
    if isinstance(value, list) and kind in ("size", "count"):
        hint = ", the same for all layers"
    return f"{show(value)} is not {allowed}{hint}"
