"""Model types with LayerNorm: the GPT family, CodeGen, OPT, BioGPT, BLOOM, Phi, Persimmon, StarCoder, StableLM, Falcon, OLMo,
Nemotron, Jais 2."""

from modcalc.spec import hub_layers as layers
from modcalc.spec import hub_rope as rotary
from modcalc.spec import hub_rules as r
from modcalc.spec.hub_parts import (
    ATTENTION_BIAS,
    BIASES,
    DECODER,
    GATED,
    GROUPED,
    LEARNED,
    LLAMA_BIASES,
    NO_MLP_BIAS,
    PARTIAL,
    QK_HEAD,
    QKV_BIAS,
    ROTARY,
    SILU,
    WINDOW,
    ModelType,
    like_llama,
    norm,
    rope,
    sizes,
)
from modcalc.spec.hub_rules import of

GPT = {
    **DECODER, **norm("layernorm", "layer_norm_epsilon"), "mlp.d_ff": r.inner("n_inner"), "mlp.bias": True,
    "mlp.activation": r.activation("activation_function"),
}  # fmt: skip
GPT2 = {**GPT, **LEARNED, "attention.bias": True, "attention.scale": lambda c: None if c["scale_attn_weights"] else 1.0}
GPT2_NAMES = {
    "n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_positions": "max_position_embeddings",
}  # fmt: skip
# What files of GPT-2's family carry: dropout, and heads for other tasks.
GPT2_FREE = frozenset({
    "attn_pdrop", "embd_pdrop", "n_ctx", "resid_pdrop", "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type",
    "summary_use_proj",
})  # fmt: skip
GPTJ = {
    **GPT, "positions.kind": "rotary", "positions.fraction": rotary.rotary_dims, "head.bias": True, "parallel": "shared_norm",
}  # fmt: skip
GPTJ_DEFAULTS = sizes(
    50400, 4096, 28, 16, max_position_embeddings=2048, n_inner=None, activation_function="gelu_new", layer_norm_epsilon=1e-5, rotary_dim=64,
)  # fmt: skip
NEOX_THETA, NEOX_FRACTION = rotary.theta_beside("rotary_emb_base"), rotary.fraction_beside("rotary_pct")

LAYERNORM: dict[str, ModelType] = {
    "gpt2": ModelType(
        defaults=sizes(
            50257, 768, 12, 12, tied=True, max_position_embeddings=1024, n_inner=None, activation_function="gelu_new", layer_norm_epsilon=1e-5,
            scale_attn_weights=True,
        ),
        knobs=GPT2,
        names=GPT2_NAMES,
        free=GPT2_FREE
        | {"n_special", "predict_special_tokens", "reorder_and_upcast_attn", "scale_attn_by_inverse_layer_idx"}
        | {"apply_query_key_layer_scaling", "normalize_attention_scores"},  # of GPT-SW3, which nothing reads
    ),
    # The first GPT, with norms after the residual, whose gelu is GPT-2's.
    "openai-gpt": ModelType(
        defaults=sizes(40478, 768, 12, 12, tied=True, max_position_embeddings=512, afn="gelu", layer_norm_epsilon=1e-5),
        knobs={
            **GPT, **LEARNED, "mlp.d_ff": r.inner(), "mlp.activation": r.activation("afn", renamed={"gelu": "gelu_new"}), "attention.bias": True,
            "norm.placement": "post", "norm.final": False,
        },
        names=GPT2_NAMES,
        free=GPT2_FREE | {"n_special", "predict_special_tokens"},
    ),
    "gpt_neox": ModelType(
        defaults=sizes(
            50432, 6144, 44, 64, max_position_embeddings=2048, intermediate_size=24576, hidden_act="gelu", layer_norm_eps=1e-5,
            use_parallel_residual=True, attention_bias=True, rotary_emb_base=10000.0, rotary_pct=0.25, **rope(None, partial_rotary_factor=None),
        ),
        knobs={
            **DECODER, "positions.kind": "rotary", "positions.theta": NEOX_THETA, "positions.fraction": NEOX_FRACTION,
            **norm("layernorm", "layer_norm_eps"),
            "attention.bias": of("attention_bias"), "mlp.bias": True,
            "parallel": lambda c: "two_norms" if c["use_parallel_residual"] else "none",
        },
        # Some releases wrote the usual names too.
        checks=(
            r.read_instead("rope_theta", "rotary_emb_base or rope_parameters", NEOX_THETA),
            r.read_instead("partial_rotary_factor", "rotary_pct or rope_parameters", lambda c: NEOX_FRACTION(c) or 1.0),
        ),
        free={"attention_probs_dropout_prob", "classifier_dropout", "hidden_dropout", "hidden_dropout_prob"},
    ),
    "opt": ModelType(
        defaults=sizes(
            50272, 768, 12, 12, tied=True, max_position_embeddings=2048, ffn_dim=3072, do_layer_norm_before=True,
            _remove_final_layer_norm=False, word_embed_proj_dim=None, activation_function="relu", enable_bias=True,
            layer_norm_elementwise_affine=True,
        ),
        knobs={
            **DECODER, **LEARNED, "positions.offset": 2, "mlp.d_ff": of("ffn_dim"), "mlp.activation": r.activation("activation_function"),
            "attention.bias": of("enable_bias"), "mlp.bias": of("enable_bias"), "embedding.dim": r.opt_embedding,
            "norm.kind": "layernorm", "norm.affine": of("layer_norm_elementwise_affine"),
            "norm.placement": lambda c: "pre" if c["do_layer_norm_before"] else "post",
            "norm.final": lambda c: c["do_layer_norm_before"] and not c["_remove_final_layer_norm"],
        },
        free={"activation_dropout", "dropout", "init_std", "layerdrop"},
        # Galactica's files carry these two; the library reads neither.
        fixed={"learned_embeddings": (True, None), "scale_embeddings": (False, None)},
    ),
    "biogpt": ModelType(
        defaults=sizes(
            42384, 1024, 24, 16, tied=True, max_position_embeddings=1024, intermediate_size=4096, hidden_act="gelu", scale_embedding=True,
        ),
        knobs={
            **DECODER, **LEARNED, **BIASES, "positions.offset": 2, "norm.kind": "layernorm",
            "embedding.scale": lambda c: c["hidden_size"] ** 0.5 if c["scale_embedding"] else None,
        },
        # Its norms have torch's own eps, whatever the file says.
        free=frozenset({"activation_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob", "layer_norm_eps", "layerdrop"}),
    ),
    "bloom": ModelType(
        # No field of the library's class limits the length; seq_length of the published files is 2048.
        defaults=sizes(250880, 64, 2, 8, tied=True, layer_norm_epsilon=1e-5, seq_length=2048),
        knobs={
            **DECODER, **BIASES, **norm("layernorm", "layer_norm_epsilon"), "seq_len": of("seq_length"), "positions.kind": "alibi",
            "mlp.d_ff": r.inner(), "mlp.activation": "gelu_tanh", "embedding.norm": True,
        },
        names={"n_embed": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"},
        free={
            "apply_residual_connection_post_layernorm", "attention_softmax_in_fp32", "bias_dropout_fusion", "hidden_dropout",
            "masked_softmax_fusion", "offset_alibi", "pretraining_tp", "skip_bias_add", "skip_bias_add_qkv", "slow_but_exact",
        },
        fixed={"n_inner": (None,)},
    ),
    "persimmon": ModelType(
        defaults=sizes(
            262144, 4096, 36, 64, max_position_embeddings=16384, intermediate_size=16384, num_key_value_heads=None, hidden_act="relu2",
            layer_norm_eps=1e-5, qk_layernorm=True, **rope(partial_rotary_factor=0.5),
        ),
        knobs={**DECODER, **PARTIAL, **BIASES, **QK_HEAD, **norm("layernorm", "layer_norm_eps")},
        only_if={"attention.qk_norm": of("qk_layernorm")},
        checks=(r.own_kv_heads,),
        free={"hidden_dropout"},
    ),
    "phi": ModelType(
        defaults=sizes(
            51200, 2048, 24, 32, max_position_embeddings=2048, intermediate_size=8192, num_key_value_heads=None, hidden_act="gelu_new",
            layer_norm_eps=1e-5, qk_layernorm=False, **rope(partial_rotary_factor=0.5),
        ),
        knobs={
            **DECODER, **GROUPED, **PARTIAL, **BIASES, **QK_HEAD, **norm("layernorm", "layer_norm_eps"), "parallel": "shared_norm", "head.bias": True,
        },
        only_if={"attention.qk_norm": of("qk_layernorm")},
        free={"embd_pdrop", "resid_pdrop"},
    ),
    "starcoder2": ModelType(
        defaults=sizes(
            49152, 3072, 30, 24, tied=True, max_position_embeddings=4096, intermediate_size=12288, num_key_value_heads=2, head_dim=None,
            hidden_act="gelu_pytorch_tanh", norm_epsilon=1e-5, sliding_window=None, use_bias=True, **rope(),
        ),
        knobs={
            **DECODER, **GROUPED, **ROTARY, **WINDOW, **norm("layernorm", "norm_epsilon"), "attention.bias": of("use_bias"),
            "mlp.bias": of("use_bias"),
        },
        # Left in the published files by the training code; the library reads hidden_act and norm_epsilon.
        free={
            "activation_function", "attention_softmax_in_fp32", "embedding_dropout", "layer_norm_epsilon", "residual_dropout",
            "scale_attention_softmax_in_fp32",
        },
        fixed={"mlp_type": ("default",), "norm_type": ("layer_norm",), "scale_attn_weights": (True,)},
    ),
    "nemotron": ModelType(
        defaults=sizes(
            256000, 6144, 32, 48, max_position_embeddings=4096, intermediate_size=24576, num_key_value_heads=None, head_dim=None,
            hidden_act="relu2", norm_eps=1e-5, attention_bias=False, mlp_bias=False, **rope(partial_rotary_factor=0.5),
        ),
        knobs={**DECODER, **GROUPED, **PARTIAL, **LLAMA_BIASES, **norm("layernorm", "norm_eps"), "norm.unit_offset": True},
        # Left in the published files by the training code; the library reads head_dim.
        free={"kv_channels"},
    ),
    "jais2": ModelType(
        defaults=sizes(
            150272, 3328, 32, 26, max_position_embeddings=8192, intermediate_size=26624, num_key_value_heads=None, head_dim=None,
            hidden_act="relu2", layer_norm_eps=1e-5, attention_bias=True, mlp_bias=True, **rope(),
        ),
        knobs={**DECODER, **GROUPED, **ROTARY, **LLAMA_BIASES, **norm("layernorm", "layer_norm_eps")},
    ),
    "stablelm": ModelType(
        defaults=sizes(
            50304, 2560, 32, 32, max_position_embeddings=4096, intermediate_size=6912, num_key_value_heads=32, layer_norm_eps=1e-5,
            use_qkv_bias=False, qk_layernorm=False, use_parallel_residual=False, **SILU, **rope(partial_rotary_factor=0.25),
        ),
        knobs={
            **DECODER, **GROUPED, **PARTIAL, **GATED, **QKV_BIAS, **norm("layernorm", "layer_norm_eps"), "attention.qk_norm.scope": "per_head",
            "attention.qk_norm.bias": False, "parallel": lambda c: "shared_norm" if c["use_parallel_residual"] else "none",
        },
        only_if={"attention.qk_norm": of("qk_layernorm"), "attention.bias": of("use_qkv_bias")},
        free={"hidden_dropout", "norm_eps", "rope_pct", "rotary_scaling_factor"},
    ),
    "falcon": ModelType(
        defaults=sizes(
            65024, 4544, 32, 71, tied=True, max_position_embeddings=2048, num_kv_heads=None, num_ln_in_parallel_attn=None, layer_norm_epsilon=1e-5,
            alibi=False, new_decoder_architecture=False, multi_query=True, parallel_attn=True, bias=False, ffn_hidden_size=None,
            activation="gelu", **rope(),
        ),
        knobs={
            **DECODER, **norm("layernorm", "layer_norm_epsilon"), "attention.n_kv_heads": r.falcon_kv_heads,
            "positions.kind": lambda c: "alibi" if c["alibi"] else "rotary", "positions.theta": rotary.falcon_theta,
            "mlp.d_ff": r.inner("ffn_hidden_size"), "mlp.activation": r.activation("activation"),
            "attention.bias": of("bias"), "mlp.bias": of("bias"), "parallel": r.falcon_parallel,
        },
        names={"n_embed": "hidden_size"},
        free={"hidden_dropout"},
        # Falcon2-11B's file says ff_factor beside ffn_hidden_size, which alone is read.
        fixed={"apply_residual_connection_post_layernorm": (False, None), "ff_factor": (4, None)},
    ),
    "gpt_neo": ModelType(
        defaults=sizes(
            50257, 2048, 24, 16, tied=True, max_position_embeddings=2048, intermediate_size=None, activation_function="gelu_new",
            layer_norm_epsilon=1e-5, attention_types=None, attention_layers=None, window_size=256,
        ),
        # Its scores are not scaled.
        knobs={
            **GPT, **LEARNED, "mlp.d_ff": r.inner("intermediate_size"), "attention.bias.o": True, "attention.scale": 1.0,
            "attention.window": layers.neo_window,
        },
        names={"num_heads": "num_attention_heads", "num_layers": "num_hidden_layers"},
        free=GPT2_FREE | {"classifier_dropout", "embed_dropout", "resid_dropout"},
    ),
    "gptj": ModelType(
        defaults=GPTJ_DEFAULTS,
        knobs=GPTJ,
        checks=(r.needed("rotary_dim"),),
        names=GPT2_NAMES,
        free=GPT2_FREE,
        fixed={"rotary": (True,), "scale_attn_weights": (True,)},
    ),
    "codegen": ModelType(
        defaults=GPTJ_DEFAULTS,
        knobs=GPTJ,
        checks=(r.needed("rotary_dim"), r.heads_in_four_parts),
        names=GPT2_NAMES,
        free=GPT2_FREE,
        fixed={"scale_attn_weights": (True,)},
    ),
    "gpt_bigcode": ModelType(
        defaults=sizes(
            50257, 768, 12, 12, tied=True, max_position_embeddings=1024, n_inner=None, activation_function="gelu_pytorch_tanh",
            layer_norm_epsilon=1e-5, scale_attn_weights=True, multi_query=True,
        ),
        knobs={**GPT2, "attention.n_kv_heads": lambda c: 1 if c["multi_query"] and c["num_attention_heads"] > 1 else None},
        names=GPT2_NAMES,
        free=GPT2_FREE | {
            "attention_softmax_in_fp32", "inference_runner", "max_batch_size", "max_sequence_length", "num_key_value_heads", "pad_key_length",
            "pre_allocate_kv_cache", "runner_max_sequence_length", "scale_attention_softmax_in_fp32", "validate_runner_input",
        },
    ),
    "olmo": ModelType(
        defaults=like_llama(50304),
        knobs={**DECODER, **GROUPED, **ROTARY, **GATED, **ATTENTION_BIAS, "norm.kind": "layernorm", "norm.affine": False},
        free={"clip_qkv", "pretraining_tp"},
        fixed=NO_MLP_BIAS,
    ),
}  # fmt: skip
