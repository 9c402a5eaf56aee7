"""config.json files that are refused: one line a problem, with the file, and the line where it is known; never another exception."""

import json
import os
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hub_configs import CONFIGS

from modcalc.cost.account import account
from modcalc.errors import SpecError
from modcalc.spec.hub import from_config
from modcalc.spec.schema import Spec

GEMMA_4 = {"model_type": "gemma4_text", "hidden_size_per_layer_input": 0}
BESIDE = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 8}


def problems(source: Any) -> list[str]:
    with pytest.raises(SpecError) as refused:
        from_config(source)
    assert refused.value.exit_code == 2
    assert all("\n" not in problem for problem in refused.value.problems)
    return refused.value.problems


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "is an encoder-decoder"),
        ({"model_type": "llama", "is_encoder_decoder": True}, "is an encoder-decoder"),
        ({"model_type": "bart"}, "is an encoder-decoder"),
        ({"model_type": "vit", "image_size": 224, "patch_size": 16}, "is a model of images"),
        ({"model_type": "clip", "vision_config": {}, "text_config": {}}, "is a model of images"),
        (
            {"model_type": "gemma3", "vision_config": {}, "text_config": {"model_type": "gemma3_text"}},
            'its own is the section text_config (model_type "gemma3_text"): give config#text_config',
        ),
        ({"model_type": "internvl_chat", "vision_config": {}, "llm_config": {"model_type": "qwen2"}}, "give config#llm_config"),
        ({"model_type": "kimi_k25", "vision_config": {}, "text_config": {"model_type": "kimi_k2"}}, "give config#text_config"),
        ({"model_type": "llama", "vision_config": {}}, "reads images too"),
        ({"model_type": "mpt", "attn_config": {"alibi": False}}, "attn_config: alibi: false; the transformers library builds only true"),
        ({"model_type": "mpt", "attn_config": {"attn_type": "multiquery_attention"}}, 'builds only "multihead_attention" in any case'),
        ({"model_type": "mpt", "attn_config": {"kv_n_heads": 8}}, "attn_config: kv_n_heads: unknown, so it may change what the model costs"),
        ({"model_type": "mpt", "attn_config": {"softmax_scale": "1"}}, 'attn_config: softmax_scale: "1" is not a number above 0; write it without'),
        ({"model_type": "dbrx", "tie_word_embeddings": True}, "tie_word_embeddings: true: the transformers library has no such model"),
        ({"model_type": "dbrx", "attn_config": {"kv_n_heads": 3}}, "attn_config: 3 key/value heads do not divide num_attention_heads 16"),
        ({"model_type": "dbrx", "attn_config": {"kv_n_heads": None}}, "attn_config: kv_n_heads: null is not an integer from 1"),
        ({"model_type": "dbrx", "attn_config": {"qk_ln": True}}, "attn_config: qk_ln: unknown, so it may change what the model costs"),
        ({"model_type": "dbrx", "num_key_value_heads": 8}, "does not read it, but kv_n_heads of attn_config, which is 1; remove it"),
        ({"model_type": "dbrx", "ffn_config": {"moe_top_k": 5}}, "moe.top_k"),
        ({"model_type": "dbrx", "ffn_config": {"moe_top_k": "2"}}, 'ffn_config: moe_top_k: "2" is not an integer from 1'),
        ({"model_type": "dbrx", "ffn_config": {"moe_normalize_expert_weights": 2}}, "moe_normalize_expert_weights: 2 is neither 1 nor null"),
        ({"model_type": "dbrx", "ffn_config": {"moe_normalize_expert_weights": True}}, "true is neither 1 nor null"),
        ({"model_type": "dbrx", "ffn_config": {"ffn_act_fn": {"name": "tanh"}}}, 'ffn_config: activation "tanh" is not one of'),
        ({"model_type": "dbrx", "ffn_config": {"ffn_act_fn": {"name": "gelu", "approximate": "tanh"}}}, 'is not like {"name": "silu"}'),
        ({"model_type": "dbrx", "ffn_config": {"ffn_act_fn": {"name": ["gelu"]}}}, 'is not like {"name": "silu"}'),
        ({"model_type": "dbrx", "ffn_config": {"ffn_act_fn": "gelu"}}, 'ffn_act_fn: "gelu" is not an object'),
        ({"model_type": "deepseek_ocr2_text"}, "first_k_dense_replace: null, or left out, but a number is needed here"),
        (
            {"model_type": "deepseek_ocr2_text", "num_hidden_layers": 2, "mlp_layer_types": ["sparse"] * 2, "first_k_dense_replace": 1},
            "first_k_dense_replace: 1, but mlp_layer_types says otherwise; remove one of them",
        ),
        ({"model_type": "deepseek_v2", "use_mla": False, "norm_topk_prob": True}, "norm_topk_prob: true; models of this model_type have only false"),
        ({"model_type": "cohere_compass_text"}, "rope_parameters: no full_attention, of which there are layers: its rotary settings are needed, or"),
        ({"model_type": "cohere_compass_text", "rope_parameters": {"full_attention": {}}}, "no rope_theta in full_attention, of which there are"),
        ({"model_type": "cohere_compass_text", "rope_parameters": {"full_attention": 3}}, "rope_parameters: "),
        (
            {"model_type": "cohere2_moe", "num_shared_experts": 1},
            'shared_expert_combination_strategy: "average": the mean of routed and shared experts, which no spec can describe',
        ),
        ({"model_type": "cohere2_moe", "num_shared_experts": 1, "shared_expert_combination_strategy": "max"}, '"max" is not sum'),
        ({"model_type": "cohere2_moe", "expert_selection_fn": "relu"}, 'expert_selection_fn: "relu" is neither softmax nor sigmoid'),
        ({"model_type": "cohere2_moe", "sliding_window_pattern": "LLLG"}, '"LLLG" without layer_types, where a number is needed'),
        ({"model_type": "cohere2_moe", "sliding_window_pattern": None}, "sliding_window_pattern: null without layer_types, where a number is needed"),
        ({"model_type": "internlm3", "bias": True}, "bias: qkv_bias is false and bias true"),
        ({"model_type": "mpt", "attn_config": {"clip_qkv": -1}}, "attn_config: clip_qkv: -1 is not a number above 0"),
        ({"model_type": "mpt", "attn_config": 8}, "attn_config: 8 is not an object"),
        ({"model_type": "mpt", "expansion_ratio": 2}, "expansion_ratio: 2; models of this model_type have only 4 here"),
        ({"model_type": "persimmon", "num_key_value_heads": 8}, "8: this model_type has one key and value per head, so num_attention_heads (64)"),
        ({"model_type": "internlm3", "qkv_bias": True}, "qkv_bias: qkv_bias is true and bias false, but"),
        ({"model_type": "cwm", "rope_theta": 5e5}, "without rope_parameters the transformers library takes 1e+06"),
        ({"model_type": "cwm", "sliding_window": None}, "sliding_window: null"),
        ({"model_type": "lama"}, "did you mean llama?"),
        ({"model_type": "qwen3-moe"}, "did you mean qwen3_moe?"),
        ({"model_type": "LLaMA"}, "did you mean llama?"),
        ({"model_type": "qwen3_next"}, '"qwen3_next": its models may have layers without softmax attention'),
        ({"model_type": "llama4"}, "did you mean llama4_text?"),
        ({"model_type": "llama4_text", "attention_chunk_size": None}, "null, but layers have chunked_attention, which needs a window"),
        ({"model_type": "llama4_text", "layer_types": ["sliding_attention"] * 48}, "is neither chunked_attention nor full_attention"),
        ({"model_type": "granitemoehybrid"}, "layer_types: left out, and then every layer is a state space"),
        ({"model_type": "granitemoehybrid", "layer_types": ["attention", "mamba"] * 16}, 'layer_types: a layer is "mamba"; only attention'),
        ({"model_type": "granitemoehybrid", "layer_types": ["attention"] * 32, "intermediate_size": None}, "intermediate_size: null, or"),
        (
            {"model_type": "granitemoehybrid", "layer_types": ["attention"] * 32, "num_local_experts": 0, "shared_intermediate_size": 0},
            "shared_intermediate_size: 0, but without experts it is the width of the MLP",
        ),
        ({"model_type": "llama4_text", "intermediate_size": None}, "intermediate_size: null, or left out, but a number is needed here"),
        ({"model_type": "llama4_text", "attn_temperature_tuning": 0.5}, "attn_temperature_tuning: 0.5 is not true or false, or an integer"),
        ({"model_type": "mixtral", "num_local_experts": None}, "num_local_experts: null, or left out, but a number is needed here"),
        ({"model_type": "granitemoehybrid", "layer_types": ["attention"] * 3}, "3 entries for num_hidden_layers 32"),
        ({"model_type": "gemma3n"}, '"gemma3n": its models may have embeddings of their own for each layer, which no spec can describe; supported:'),
        ({"model_type": "bitnet"}, '"bitnet": its models may have norms within attention and MLP, which no spec can describe'),
        ({"model_type": "apertus1p5_text", "output_vocab_size": 131072}, "131072, but vocab_size is 266752: a spec has one vocabulary"),
        ({"model_type": "apertus", "qk_norm": False}, "only true here"),
        ({"model_type": "mixtral", "hidden_act": "xielu"}, "as a spec, mlp.activation"),
        ({"model_type": "mimo_v2_flash"}, "its models may have values narrower than keys, which no spec can describe"),
        ({"model_type": "muse_glimmer_text"}, "its models may have a norm without a weight on the embedding, beside norms with one"),
        ({"model_type": "beam"}, "its models may have residuals that are weighted by depth"),
        ({"model_type": "moshi"}, "its models may have more tokens in the embedding than in the head"),
        (
            {"model_type": "molmo2", "vision_config": {}, "text_config": {"model_type": "molmo2_text"}},
            'text_config (model_type "molmo2_text"), whose models may have more tokens in the embedding than in the head',
        ),
        ({"model_type": "llama", "activation": "gelu"}, 'activation: "gelu"; models of this model_type have only "swiglu" here'),
        ({"model_type": "llama4_text", "interleave_moe_layer_step": 0}, "interleave_moe_layer_step: null, or left out, but a number is needed"),
        ({"model_type": "llama4_text", "num_local_experts": 0}, "num_local_experts: null, or left out, but a number is needed"),
        ({"model_type": "bert"}, '"bert": its models may have attention to tokens that come later, which no spec can describe'),
        (
            {"model_type": "mllama", "vision_config": {}, "text_config": {"model_type": "mllama_text_model"}},
            'text_config (model_type "mllama_text_model"), whose models may have attention to images, which no spec can describe',
        ),
        ({"model_type": "x", "vision_config": {}, "text_config": {"model_type": "y"}}, 'text_config (model_type "y"), which is not supported'),
        ({"model_type": "minicpm"}, '"minicpm" is not supported; supported: '),  # and not MiniCPM3, with its latent attention
        ({"model_type": "nemotron-nas"}, '"nemotron-nas" is not supported; supported: '),
        ({"model_type": "deepseek_ref"}, '"deepseek_ref" is not supported; supported: '),
        ({"model_type": "mpnet"}, '"mpnet" is not supported; supported: '),
        ({"model_type": "gpt_nox"}, "did you mean gpt_neox?"),
        ({"model_type": "qwen3_meo"}, "did you mean qwen3_moe?"),
        ({"model_type": "deepseek.v3"}, "did you mean deepseek_v3?"),
        ({"model_type": "gptneox"}, "did you mean gpt_neox?"),
        ({"model_type": "qwen3_moe", "use_qk_norm": False}, "only true here"),
        ({"model_type": "qwen3_moe", "shared_expert_intermediate_size": 768}, "only 0 here"),
        ({"model_type": "qwen2_vl_text", "head_dim": 64}, "64 x 64 heads are not hidden_size 8192"),
        ({"model_type": "t5gemma"}, "is an encoder-decoder"),
        ({"model_type": "gemma3"}, "did you mean gemma3_text?"),
        *(({"model_type": name}, f'"{name}" is not supported; supported: ') for name in ("llada", "medgemma", "molmo")),
        ({"model_type": "ernie4_5_vl_moe"}, '"ernie4_5_vl_moe" is not supported; supported: '),
        ({"model_type": [1]}, "[1] is not supported"),
        ({"model_type": 7}, "7 is not supported"),
        ({}, "model_type: missing"),
        ({"model_type": "llama", "hidden_size": "4096"}, "write it without quotes"),
        ({"model_type": "llama", "hidden_size": 4096.0}, "4096.0 is not an integer"),
        ({"model_type": "llama", "hidden_size": True}, "true is not an integer"),
        ({"model_type": "llama", "hidden_size": -1}, "-1 is not an integer from 1"),
        ({"model_type": "llama", "hidden_size": 10**30}, "is not an integer from 1"),
        ({"model_type": "llama", "hidden_size": None}, "null, but an integer"),
        ({"model_type": "llama", "hidden_size": [1]}, "[1] is not an integer"),
        ({"model_type": "llama", "num_attention_heads": 24}, "24 heads do not divide hidden_size 4096"),
        ({"model_type": "llama", "num_key_value_heads": 5}, "5 key/value heads do not divide num_attention_heads 32"),
        ({"model_type": "llama", "attention_bias": "true"}, "write it without quotes"),
        ({"model_type": "llama", "attention_bias": 1}, "1 is not true or false"),
        ({"model_type": "llama", "rms_norm_eps": 0}, "0 is not a number above 0"),
        ({"model_type": "llama", "rms_norm_eps": float("nan")}, "NaN is not a number above 0"),
        ({"model_type": "llama", "rms_norm_eps": 2.0}, "norm.eps"),
        ({"model_type": "llama", "rope_theta": 10**400}, "is not a number above 0"),
        ({"model_type": "llama", "rope_theta": float("inf")}, "is not a number above 0"),
        ({"model_type": "llama", "num_hidden_layers": 10**8}, "n_layers"),
        ({"model_type": "llama", "hidden_act": "sulu"}, 'activation "sulu" is not one of'),
        ({"model_type": "llama", "num_key_value_head": 8}, "did you mean num_key_value_heads?"),
        ({"model_type": "llama", "num_layers": 8}, "did you mean num_hidden_layers?"),
        ({"model_type": "llama", "torch_dtyp": "x"}, "did you mean torch_dtype?"),
        ({"model_type": "gpt2", "n_layers": 8, "n_layer": 8}, "correct it, or remove it if it does not"),
        ({"model_type": "llama", "\x1b[31mred": 8}, r"config: \x1b[31mred: unknown for this model_type"),
        ({"model_type": "llama", 500 * "k": 8}, f"config: {60 * 'k'}: unknown for this model_type"),
        ({"model_type": "llama", "n_experts": 8}, "unknown for this model_type"),
        ({"model_type": "llama", "per_layer_config": {"0": {"intermediate_size": 8}}}, "only {} here"),
        ({"model_type": "gemma4_text"}, "hidden_size_per_layer_input: 256: embeddings of their own for each layer, which no spec can describe"),
        ({**GEMMA_4, "num_kv_shared_layers": 2}, "num_kv_shared_layers: 2: layers that take keys and values from another one"),
        ({**GEMMA_4, "enable_moe_block": True}, "num_experts: null, or left out, but a number is needed here"),
        ({**GEMMA_4, "enable_moe_block": True, "num_experts": 0}, "num_experts: null, or left out, but a number is needed here"),
        ({**GEMMA_4, **BESIDE, "expert_intermediate_size": 9}, "the transformers library does not read it, but moe_intermediate_size, which is 8"),
        ({"model_type": "gemma4_unified_text", **BESIDE}, "enable_moe_block: true; models of this model_type have only false here"),
        ({"model_type": "ministral3", "rope_theta": None}, "rope_theta: null, but a number above 0 is needed"),
        ({**GEMMA_4, "enable_moe_block": True, "num_experts": 4, "top_k_experts": 5, "moe_intermediate_size": 8}, "moe.top_k"),
        ({**GEMMA_4, "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2}, "moe_intermediate_size: null, or left out"),
        ({**GEMMA_4, "use_bidirectional_attention": "all"}, "only null here"),
        ({**GEMMA_4, "head_dim": None}, "head_dim: null, or left out, but a number is needed here"),
        ({**GEMMA_4, "sliding_window": None}, "sliding_window: null, but layers have sliding_attention"),
        ({**GEMMA_4, "layer_types": ["attention"] * 30}, '"attention" is neither sliding_attention nor full_attention'),
        ({**GEMMA_4, "rope_parameters": {}}, "rope_parameters: {}: the sections full_attention and sliding_attention are needed, or no such field"),
        ({**GEMMA_4, "rope_parameters": {"full_attention": {"partial_rotary_factor": "x"}}}, 'partial_rotary_factor: "x" is not a number above 0'),
        (
            {**GEMMA_4, "rope_parameters": {"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 2}}},
            "full_attention: partial_rotary_factor 2; these models rotate whole heads",
        ),
        ({"model_type": "sarvam_moe", "head_dim": None}, "head_dim: null, or left out"),
        ({"model_type": "gemma4", "text_config": {"model_type": "gemma4_text"}}, "give config#text_config"),
        ({"model_type": "gemma4_unified_assistant"}, "its models may have drafts of another model's tokens"),
        (
            {**GEMMA_4, "attention_k_eq_v": True, "num_global_key_value_heads": 3},
            "num_global_key_value_heads: 3 key/value heads do not divide num_attention_heads 8",
        ),
        ({**GEMMA_4, "num_key_value_heads": 3}, "num_key_value_heads: 3 key/value heads do not divide"),
        ({**GEMMA_4, "per_layer_config": {str(i): {"num_key_value_heads": 3} for i in range(5, 30, 6)}}, "per_layer_config: 3 key/value heads"),
        ({"model_type": "kolibri1", "sliding_window": None}, "sliding_window: null, or left out"),
        ({"model_type": "flint", "head_dim": None}, "head_dim: null, or left out"),
        ({"model_type": "qwen2_vl", "hidden_size": 24}, "did you mean qwen2_vl_text?"),
        ({"model_type": "foo", "text_config": {"model_type": "bert"}}, '"foo" is a larger model; its own is the section text_config'),
        ({"model_type": "kimi-k2"}, "did you mean kimi_k2?"),
        ({**GEMMA_4, "per_layer_config": {"6": {"head_dim": 8}}}, "layers of one type that differ"),
        ({**GEMMA_4, "per_layer_config": {"05": {"head_dim": 8}}}, "layers of one type that differ"),
        ({**GEMMA_4, "per_layer_config": {"30": {"head_dim": 8}}}, '"30" is no layer, which are 0 to 29'),
        ({**GEMMA_4, "per_layer_config": {"5": {"head_dim": "8"}}}, "understood are whole numbers for num_key_value_heads and head_dim"),
        ({**GEMMA_4, "per_layer_config": {"5": {"hidden_size": 8}}}, "understood are whole numbers for num_key_value_heads and head_dim"),
        (
            {**GEMMA_4, "rope_parameters": {"full_attention": {"rope_theta": 9.0, "partial_rotary_factor": 0.5}, "sliding_attention": {}}},
            "full_attention: partial_rotary_factor 0.5; these models rotate whole heads, but for a share of rope_type proportional",
        ),
        ({"model_type": "gemma4_unified_text", "hidden_size_per_layer_input": 256}, "only 0 here"),
        ({"model_type": "llama", "sliding_window": 9}, "only null here"),
        ({"model_type": "llama", "partial_rotary_factor": 0.5}, "only 1 here"),
        ({"model_type": "llama", "rope_parameters": {"partial_rotary_factor": 0.5}}, "rotates whole heads"),
        ({"model_type": "llama", "rope_parameters": {"partial_rotary_factor": 2.0}}, "rotates whole heads"),
        ({"model_type": "llama", "rope_parameters": {"rope_theta": "1e4"}}, "is not a number above 0"),
        ({"model_type": "llama", "rope_parameters": {"rope_theta": 0}}, "rope_theta: 0 is not a number above 0"),
        ({"model_type": "llama", "partial_rotary_factor": True}, "only 1 here"),
        ({"model_type": "gemma", "mlp_bias": 0}, "only false here"),
        ({"model_type": "gptj", "rotary_dim": 57}, "57 is no even number up to the 256 dims of a head"),
        ({"model_type": "stablelm", "partial_rotary_factor": 1.5}, "1.5 is above 1"),
        ({"model_type": "qwen2_moe", "use_sliding_window": False, "layer_types": ["sliding_attention"] * 24}, "use_sliding_window: false"),
        ({"model_type": "llama", "rope_scaling": "linear"}, "is not an object"),
        ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, "names no plain language model"),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLMEagle3"]}, "names no plain language model"),
        ({"model_type": "gemma", "hidden_act": "relu", "hidden_activation": "gelu_pytorch_tanh"}, 'but hidden_act is "relu": versions'),
        ({"model_type": "llama", "architectures": "LlamaForCausalLM"}, "is not a list"),
        ({"model_type": "gpt2", "n_embd": 768, "hidden_size": 1024}, "which means the same"),
        ({"model_type": "exaone4", "sliding_window_pattern": False}, "sliding_window_pattern: false is not an integer from 1, or text like LLLG"),
        ({"model_type": "exaone4", "window_pattern": 2}, "window_pattern: unknown for this model_type, so it may change what the model costs"),
        ({"model_type": "gemma3_text", "_sliding_window_pattern": 2}, "library does not read it, but sliding_window_pattern, which is 6"),
        ({"model_type": "gemma3_text", "sliding_window_pattern": "LG"}, '"LG" without layer_types, where a number is needed'),
        ({"model_type": "gpt_neox", "rope_theta": 100.0}, "not read it, but rotary_emb_base or rope_parameters, which is 10000.0; remove it"),
        ({"model_type": "gpt_neox", "partial_rotary_factor": 0.5}, "library does not read it, but rotary_pct or rope_parameters, which is 0.25"),
        ({"model_type": "ministral3", "rope_theta": 5000.0}, "without rope_parameters the transformers library takes 1e+06; write it in"),
        ({"model_type": "llama", "rope_parameters": {"full_attention": {"rope_theta": 9.0}}}, "has one set of rotary settings, and none by type"),
        ({"model_type": "llama", "rope_scaling": {"full_attention": {"rope_theta": 9.0}}}, "rope_scaling: "),
        ({"model_type": "llama", "rope_scaling": {"partial_rotary_factor": 0.5}}, "rope_scaling: partial_rotary_factor: 0.5: this model_type"),
        ({"model_type": "olmo3", "rope_parameters": {"sliding_attention": {"partial_rotary_factor": 0.5}}}, "rotates whole heads"),
        ({"model_type": "olmo3", "rope_parameters": {"full_attention": 9.0}}, "reads the sections full_attention and sliding_attention of it alone"),
        ({"model_type": "olmo3", "rope_parameters": {"rope_theta": 9.0}}, "reads the sections full_attention and sliding_attention of it alone"),
        ({"model_type": "mellum", "rope_theta": 5e5}, "rope_theta: 500000.0; models of this model_type have only null here"),
        ({"model_type": "mellum", "rope_parameters": {"sliding_attention": {"rope_theta": 9.0}}}, "no rope_theta in full_attention, of which"),
        ({"model_type": "mellum", "rope_parameters": {"rope_theta": 9.0}}, "reads the sections full_attention and sliding_attention of it alone"),
        ({"model_type": "mellum", "use_sliding_window": False}, "use_sliding_window: false; models of this model_type have only true here"),
        ({"model_type": "qwen2_moe", "num_hidden_layers": 1, "layer_types": ["sliding_attention"]}, "sliding_attention, which needs a window"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "only false here"),
        ({"model_type": "gemma2", "layer_types": ["full_attention"]}, "1 entries for num_hidden_layers 26"),
        ({"model_type": "gemma2", "layer_types": ["chunked_attention"] * 26}, "is neither sliding_attention nor full_attention"),
        ({"model_type": "gemma2", "sliding_window": None}, "null, but layers have sliding_attention"),
        ({"model_type": "gemma", "use_bidirectional_attention": True}, "only false here"),
        ({"model_type": "falcon", "new_decoder_architecture": True, "parallel_attn": False}, "cannot run such a model"),
        ({"model_type": "falcon", "num_ln_in_parallel_attn": 2}, "1 is possible"),
        ({"model_type": "codegen", "n_head": 2}, "n_head: 2 is no multiple of 4"),
        ({"model_type": "falcon", "multi_query": False, "num_kv_heads": 2}, "num_attention_heads (71) is needed"),
        ({"model_type": "olmoe", "head_dim": 64}, "are not hidden_size 2048"),
        ({"model_type": "hyperclovax", "hidden_size": 3, "attention_multiplier": 1}, "32 heads do not divide hidden_size 3"),
        ({"model_type": "granite", "attention_multiplier": None}, "attention_multiplier: null, or left out, but a number is needed here"),
        ({"model_type": "helium", "hidden_size": 2048}, "128 x 20 heads are not hidden_size 2048"),
        ({"model_type": "deepseek_v3", "num_key_value_heads": 8}, "one key and value per head"),
        ({"model_type": "deepseek_v3", "v_head_dim": None}, "v_head_dim: null, or left out, but a number is needed here"),
        ({"model_type": "minicpm3", "num_attention_heads": 48}, "num_attention_heads: 48 heads do not divide hidden_size 2560"),
        ({"model_type": "deepseek_v3", "scoring_func": "softmax"}, 'only "sigmoid" here'),
        ({"model_type": "mixtral", "num_experts_per_tok": 9}, "moe.top_k"),
        ({"model_type": "hunyuan_v1_dense"}, "head_dim: null, or left out, but a number is needed here"),
        ({"model_type": "hunyuan_v1_dense", "head_dim": 128, "attention_head_dim": 64}, "does not read it, but head_dim, which is 128; remove it"),
        ({"model_type": "hunyuan_v1_dense", "head_dim": 128, "use_cla": True}, "use_cla: true; models of this model_type have only false here"),
        ({"model_type": "hunyuan_v1_moe", "num_hidden_layers": 2, "moe_topk": [1, 2]}, "[1, 2] is not an integer from 1 to "),
        ({"model_type": "hunyuan_v1_moe", "num_hidden_layers": 3, "moe_topk": [2, 2]}, "[2, 2] is not an integer from 1 to "),
        ({"model_type": "hunyuan_v1_moe", "num_experts": [4, 8]}, ", the same for all layers"),
        ({"model_type": "hunyuan_v1_moe", "head_dim": 128, "moe_intermediate_size": 64}, "does not read it, but intermediate_size, which is 11008"),
        ({"model_type": "qwen3_moe", "moe_intermediate_size": None}, "moe_intermediate_size: null, but an integer"),
        ({"model_type": "hunyuan_v1_moe", "num_hidden_layers": 2, "num_shared_expert": [1, 2]}, "num_shared_expert: [1, 2]; models of this"),
        ({"model_type": "phimoe", "num_experts_per_tok": 4}, "num_experts_per_tok: 4; models of this model_type have only 2 here"),
        ({"model_type": "ernie4_5_moe", "use_bias": True}, "biases in shared but not in routed experts"),
        ({"model_type": "ernie4_5_moe", "moe_layer_end_index": -2}, "-2 is not an integer from -1"),
        ({"model_type": "phi3", "attention_bias": True}, "only false here"),
        ({"model_type": "mistral4", "rope_parameters": {"partial_rotary_factor": 0.25}}, "0.25 of 128 dims is not qk_rope_head_dim 64"),
        ({"model_type": "afmoe", "n_group": 2}, "n_group: 2; models of this model_type have only 1 here"),
        ({"model_type": "afmoe", "sliding_window": None}, "null, but layers have sliding_attention"),
        ({"model_type": "laguna"}, '"laguna": its models may have layers with more heads of queries than others, which no spec can describe'),
        ({"model_type": "hy_v3", "num_shared_experts": 0}, "num_shared_experts: 0, but this model_type has at least one"),
        ({"model_type": "hy_v3", "expert_hidden_dim": 8}, "the transformers library does not read it, but moe_intermediate_size"),
        ({"model_type": "hy_v3", "first_k_dense_replace": 3}, "first_k_dense_replace: 3: this model_type has one dense layer"),
        ({"model_type": "aria_text", "hidden_act": "gelu"}, '"gelu" in shared experts, but silu in routed ones'),
        ({"model_type": "glm4v_text", "attention_bias": False}, "attention_bias: false; models of this model_type have only true here"),
        ({"model_type": "granite_swa", "layer_rope_theta": [-1] * 24}, "is not a list of numbers >= 0"),
        ({"model_type": "openai-gpt", "afn": "tanh"}, 'afn: activation "tanh" is not one of'),
    ],
)  # fmt: skip
def test_refused(fields: dict, said: str) -> None:
    found = problems(fields)
    assert any(said in problem for problem in found), found


def test_all_problems_at_once_with_lines(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{\n "model_type": "llama",\n "hidden_size": "4096",\n "num_layers": 3,\n "attention_bias": 0\n}')
    assert [p.removeprefix(str(file)).split(": ")[0:2] for p in problems(file)] == [
        [":4", "num_layers"],
        [":3", "hidden_size"],
        [":5", "attention_bias"],
    ]


def test_what_several_knobs_need_is_refused_once() -> None:
    assert len(problems({"model_type": "smollm3", "no_rope_layers": [1]})) == 1


def test_no_line_for_a_key_that_stands_on_two(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "llama",\n"hidden_size": "4096",\n"rope_scaling": {"rope_type": "default",\n"hidden_size": 3}}')
    assert any(p.startswith(f"{file}: hidden_size: ") for p in problems(file))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"model_type": "llama",\n "hidden_size": 40', ":2: not JSON"),
        ('{"model_type": "llama",\n', "cut off"),
        ('{"model_type": "lla', "cut off"),
        ("", "not JSON"),
        ("[1, 2]", "holds one object"),
        ("null", "holds one object"),
        ('{"model_type": "llama", "vocab_size": 3, "vocab_size": 4}', "vocab_size: given twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"model_type": "llama", "vocab_size": ' + "1" * 5000 + "}", "not usable: a number of thousands of digits"),
        ("model_type: llama", "not JSON"),
    ],
)
def test_not_json(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    found = problems(file)
    assert len(found) == 1 and said in found[0] and found[0].startswith(str(file)), found


def test_not_a_file(tmp_path: Path) -> None:
    assert "No such file" in problems(tmp_path / "missing.json")[0]
    assert "No such file" in problems(tmp_path)[0], "a folder without config.json"
    (tmp_path / "weights.json").write_bytes(b'{\n"a": "\xff"}')
    assert "weights.json:2: found byte 0xff" in problems(tmp_path / "weights.json")[0]
    assert "not readable" in problems("\0")[0]


@pytest.mark.parametrize("seed", range(60))
def test_mutated_files_import_or_say_why(tmp_path: Path, seed: int) -> None:
    """Whatever stands in a file: a Spec or a SpecError, never another exception."""
    rng = random.Random(seed)
    text = rng.choice(sorted(CONFIGS.glob("*.json"))).read_text()
    file = tmp_path / "config.json"
    for _ in range(20):
        mutant = json.loads(text)
        for key in rng.sample(sorted(mutant), 3):
            mutant[key] = rng.choice([None, True, 0, -1, 3, 10**12, 0.5, "x", "7", [], [1], ["full_attention"], {}, {"rope_theta": 0}])
        cut = json.dumps(mutant)[: rng.choice((None, rng.randrange(2000)))]
        file.write_text(cut)
        try:
            assert isinstance(from_config(file), Spec)
        except SpecError as refused:
            assert refused.problems and all(p.startswith(str(file)) for p in refused.problems)


def test_problems_of_a_section_have_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(
        '{"vision_config": {"text_config": {"n_layer": 3},\n"n_layer": 3},\n"tie_word_embeddings": true,\n'
        '"text_config": {\n"model_type": "gpt2",\n"n_layer": "3"}}'
    )
    with pytest.raises(SpecError) as refused:
        from_config(file, "text_config")
    assert refused.value.problems == [f'{file}:6: n_layer: "3" is not an integer from 1 to 10,000; write it without quotes']


def test_a_section_is_tied_as_the_whole_model_is() -> None:
    """Versions of the library read one or the other, so both must say the same."""
    text = {"model_type": "gemma", "tie_word_embeddings": False}
    assert from_config({"tie_word_embeddings": False, "text_config": {"model_type": "gemma"}}, "text_config").head.tied is False
    assert from_config({"text_config": text}, "text_config").head.tied is False
    assert from_config({"text_config": {"model_type": "gemma"}}, "text_config").head.tied is True
    said = " version 5 of the library may go by its default for the whole."
    for tied, words in ((True, "Tied"), (False, "Not tied")):
        one = {"model_type": "internvl", "text_config": {**text, "tie_word_embeddings": tied}}
        assert from_config(one, "text_config").description.endswith(f" {words} as this section says;{said}")
    for one in ({"model_type": "internvl", "text_config": {"model_type": "gemma"}}, {"tie_word_embeddings": False, "text_config": text}):
        assert said not in from_config(one, "text_config").description
    with pytest.raises(SpecError, match="tie_word_embeddings: false, but true beside text_config: which of them counts depends"):
        from_config({"tie_word_embeddings": True, "text_config": text}, "text_config")


def test_a_whole_may_be_tied_otherwise_than_its_text_alone() -> None:
    text = {"model_type": "qwen3_vl_moe_text"}
    assert from_config(text).head.tied is True
    whole = {"model_type": "qwen3_vl_moe", "text_config": text}
    assert from_config(whole, "text_config").head.tied is False
    assert from_config({**whole, "tie_word_embeddings": True}, "text_config").head.tied is True


IDEFICS = dict(perceiver_config={"resampler_depth": 6}, pixel_shuffle_factor=4, qk_layer_norms=False, use_resampler=False, is_llama_config=True)
INTERN = dict(debug=False, ep_size=1, micro_forward=False, skip_checkpoint=False, use_deepep=False, use_sliding_window=False, head_dim=128)


@pytest.mark.parametrize(
    ("whole", "text", "billions"),
    [
        ("llava", dict(model_type="llama", vocab_size=32064, rms_norm_eps=1e-5), "6.74"),  # LLaVA 1.5: Vicuna
        ("mistral3", dict(model_type="mistral", head_dim=128, hidden_size=5120, intermediate_size=32768, num_hidden_layers=40, vocab_size=131072,
                          num_key_value_heads=8, num_attention_heads=32), "23.57"),  # Mistral Small 3.1
        ("internvl", dict(model_type="qwen2", hidden_size=5120, intermediate_size=27648, num_attention_heads=40, num_hidden_layers=64,
                          num_key_value_heads=8, vocab_size=151674, rope_scaling={"type": "dynamic", "factor": 2.0}), "32.76"),  # InternVL 3: Qwen2.5
        ("internvl", dict(model_type="qwen3", hidden_size=4096, intermediate_size=12288, num_attention_heads=32, num_hidden_layers=36,
                          num_key_value_heads=8, **INTERN), "8.19"),  # InternVL 3.5: Qwen3-8B
        ("aya_vision", dict(model_type="cohere2", hidden_size=4096, intermediate_size=14336, num_attention_heads=32, num_hidden_layers=32,
                            num_key_value_heads=8, use_qk_norm=False), "8.03"),  # Command R7B
        ("idefics3", dict(model_type="llama", head_dim=64, hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_hidden_layers=30,
                          num_key_value_heads=3, vocab_size=49280, **IDEFICS), "0.16"),  # SmolVLM 256M: SmolLM2 with a head of its own
        ("paligemma", dict(model_type="gemma", hidden_size=2048, intermediate_size=16384, num_attention_heads=8, num_hidden_layers=18,
                           num_key_value_heads=1, num_image_tokens=1024, vocab_size=257216), "2.51"),  # Gemma 2B
        ("paligemma", dict(model_type="gemma2", hidden_size=2304, intermediate_size=9216, num_hidden_layers=26, num_key_value_heads=4,
                           num_image_tokens=256, vocab_size=257216), "2.62"),  # Gemma 2 2B
    ],
)  # fmt: skip
def test_the_text_decoders_of_popular_models(whole: str, text: dict, billions: str) -> None:
    """Fields of the files of LLaVA 1.5 7B, Mistral Small 3.1, InternVL3-38B-hf, InternVL3.5-8B, Aya Vision 8B, SmolVLM-256M, PaliGemma 1 and 2."""
    file = {"model_type": whole, "vision_config": {"model_type": "some"}, "text_config": text}
    assert problems(file)[0].endswith(f'its own is the section text_config (model_type "{text["model_type"]}"): give config#text_config')
    assert f"{account(from_config(file, 'text_config'), seq_len=8).params.total / 1e9:.2f}" == billions


def test_the_text_decoder_of_a_file_without_sections() -> None:
    """Qwen2-VL as the hub has it, and as newer versions of the library save it, with the class of the whole in the section."""
    text = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96, vocab_size=50)
    whole = dict(model_type="qwen2_vl", architectures=["Qwen2VLForConditionalGeneration"], image_token_id=7, tie_word_embeddings=True)
    flat = from_config({**whole, **text, "vision_config": {"depth": 2}}, "text_config")
    section = {**text, "model_type": "qwen2_vl_text", "architectures": ["Qwen2VLForConditionalGeneration"], "image_token_id": None}
    saved = from_config({**whole, "vision_config": {"depth": 2}, "text_config": section}, "text_config")
    assert flat == msgspec.structs.replace(saved, name=flat.name) and flat.head.tied and flat.attention.n_kv_heads == 2
    paddle = from_config({"model_type": "paddleocr_vl", **text, "head_dim": 8, "vision_config": {}, "image_token_id": 7}, "text_config")
    assert paddle.attention.head_dim == 8 and paddle.head.tied
    (said,) = problems({**whole, **text, "vision_config": {"depth": 2}})
    assert said.endswith("only text decoders can be billed; its fields stand beside: give config#text_config")


def test_what_is_no_file_and_no_object_of_json(tmp_path: Path) -> None:
    assert problems({1: 2, "model_type": "llama"}) == ["config: every key of a config is a string"]
    assert problems({"model_type": "llama", "num_hidden_layers": 1j})[0].startswith("config: num_hidden_layers: 1j is not an integer")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "config.json")
        assert problems(tmp_path) == [f"{tmp_path / 'config.json'}: not a file"]
