"""config.json -> Spec: what each field becomes, and older and newer forms of a file."""

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hub_configs import CONFIGS, draw, named, nulled

from modcalc.cost.account import account
from modcalc.errors import SpecError
from modcalc.spec.hub import from_config
from modcalc.spec.hub_fields import DROPPED, FIXED, FREE, KINDS, NULLABLE
from modcalc.spec.hub_types import TYPES
from modcalc.spec.imported import defaulted, left_out
from modcalc.spec.load import dump, load, loads
from modcalc.spec.resolve import resolve
from modcalc.spec.schema import FullAttention, ProjectionBias, QkNorm, Spec

TINY = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 50}


def tiny(model_type: str, **fields: Any) -> Spec:
    return from_config({"model_type": model_type, **TINY, **fields})


# The tables


def test_the_three_sets_are_apart_and_every_understood_field_has_a_kind() -> None:
    kinds = set(KINDS)
    used: set[str] = set()
    for name, kind in TYPES.items():
        understood = set(kind.defaults)
        used |= understood
        assert understood <= kinds, name
        assert not understood & (kind.free | FREE | set(kind.fixed)) and understood & set(FIXED) <= {"per_layer_config"}, name
        assert not kind.free & (FREE | set(FIXED) | set(kind.fixed)), name
        assert set(kind.names.values()) <= understood, name
        assert not set(kind.names) & (understood | kind.free | FREE), name
    assert used == kinds
    assert used >= NULLABLE
    assert set(DROPPED) <= FREE | used | set().union(*(k.free for k in TYPES.values()), *(k.fixed for k in TYPES.values()))


@pytest.mark.parametrize("model_type", sorted(TYPES))
def test_every_understood_field_changes_the_spec(model_type: str) -> None:
    """No field is accepted and ignored: somewhere another value gives another spec, or is refused."""
    kind = TYPES[model_type]
    others = {
        "size": [1, 2, 3, 5, 6, 12], "layers": [1, 3], "count": [0, 1, 2, 3], "flag": [True, False], "number": [0.5, 0.25, 0.125, 7.0],
        "index": [-1, 0, 2], "texts": [["full_attention"] * 4], "text": ["relu", "silu", "gelu"], "section": [{"rope_theta": 123.0}],
        "counts": [[1], [0, 2]], "switch": [False, 4], "thetas": [[0] * 4, [5.0] * 4],
        "pattern": [1, 2], "runs": [[[["local", "global"], 1]], [[["local"], 3]]],
    }  # fmt: skip
    described = {"attn_temperature_tuning"}  # which a spec has no key for
    starts = [nulled(draw(model_type, random.Random(f"fields {model_type} {seed}"))) for seed in range(40)]

    def outcome(config: dict, whole: bool) -> Any:
        try:
            return from_config(config) if whole else msgspec.structs.replace(from_config(config), description=None)
        except SpecError as refused:
            return refused.problems

    for field in kind.defaults:
        names = [field, *(name for name, meant in kind.names.items() if meant == field)]
        seen = any(
            outcome({k: v for k, v in start.items() if k not in names} | {field: value}, field in described) != outcome(start, field in described)
            for start in starts
            for value in others[KINDS[field]]
        )
        assert seen, field


# What fields become


def test_gpt2() -> None:
    spec = named("gpt2")
    assert (spec.vocab_size, spec.seq_len, spec.d_model, spec.n_layers, spec.attention.n_heads, spec.mlp.d_ff) == (50257, 1024, 768, 12, 12, 3072)
    assert spec.positions.kind == "learned" and spec.positions.max_len == 1024
    assert spec.attention.bias is True and spec.mlp.bias and spec.head.tied and spec.norm.kind == "layernorm"
    assert spec.mlp.kind == "plain" and spec.mlp.activation == "gelu_tanh"
    assert tiny("gpt2", scale_attn_weights=False).attention.scale == 1.0


def test_llama_4_attends_in_chunks_where_it_rotates() -> None:
    scout, maverick = named("llama-4-scout"), named("llama-4-maverick")
    for spec in (scout, maverick):
        assert (spec.attention.window, spec.attention.chunked, spec.positions.rotated) == ([8192] * 3 + [None], True, [True, True, True, False])
        assert (spec.moe.score, spec.moe.renormalize, spec.moe.n_shared, spec.moe.d_ff, spec.mlp.d_ff) == ("sigmoid", False, 1, 8192, 16384)
        assert "queries scaled by position" in left_out(spec) and "experts' weights" in left_out(spec)
    assert scout.attention.qk_norm == QkNorm(affine=False, rotated_only=True) and maverick.attention.qk_norm is None
    assert (scout.moe.every, maverick.moe.every) == (1, 2)
    own = dict(num_key_value_heads=2, head_dim=8, intermediate_size=8)
    everywhere = tiny("llama4_text", **own, no_rope_layers=[1] * 4)
    assert (everywhere.attention.window, everywhere.positions.rotated, everywhere.attention.qk_norm) == (8192, None, QkNorm(affine=False))
    assert "queries" not in left_out(everywhere) + left_out(tiny("llama4_text", **own, attn_temperature_tuning=False))
    assert "queries" in left_out(tiny("llama4_text", **own, attn_temperature_tuning=4)) and "queries" in left_out(tiny("llama4_text", **own))
    nowhere = tiny("llama4_text", **own, no_rope_layers=[0] * 4)
    assert (nowhere.attention.window, nowhere.attention.chunked, nowhere.positions.kind, nowhere.attention.qk_norm) == (None, False, "none", None)
    assert tiny("llama4_text", **own, layer_types=["full_attention", "chunked_attention"] * 2).attention.window == [None, 8192]
    assert tiny("llama4_text", **own, moe_layers=[1, 2, 9]).moe.layers == [1, 2]
    assert tiny("llama4_text", **own, moe_layers=[]).moe is None
    assert tiny("llama4_text", **own, moe_layers=[3, 1, 1]).moe.every == 2


def test_llama_4_without_experts() -> None:
    """MobileLLM-R1-950M, of whose counts of experts the file says 0."""
    zeros = dict.fromkeys(("interleave_moe_layer_step", "num_experts_per_tok", "num_local_experts"), 0)
    sizes = dict(vocab_size=128256, hidden_size=1536, num_hidden_layers=22, num_attention_heads=24, num_key_value_heads=6, head_dim=64)
    sizes |= dict(intermediate_size=6144, intermediate_size_mlp=6144, tie_word_embeddings=True, no_rope_layers=[1] * 22)
    spec = from_config({"model_type": "llama4_text", "moe_layers": [], **sizes, **zeros})
    assert spec.moe is None and account(spec, seq_len=8).params.total == 949_685_760


def test_the_chunks_of_qwen_2_5_for_a_million_tokens_are_told() -> None:
    assert "dual chunk attention" in left_out(
        tiny("qwen2", num_key_value_heads=2, intermediate_size=8, dual_chunk_attention_config={"chunk_size": 2})
    )


def test_dbrx_tells_of_the_rotary_base_that_version_5_does_not_read() -> None:
    spec = named("dbrx")
    assert (spec.attention.n_kv_heads, spec.moe.n_experts, spec.moe.top_k, spec.moe.renormalize, spec.positions.theta) == (8, 16, 4, True, 1e4)
    assert "clip_qkv" in left_out(spec) and "rope_theta 500000 of attn_config, in place of which version 5 of the library takes 10000" in left_out(
        spec
    )
    file = {"attn_config": {"rope_theta": 5e5}, "rope_theta": 5e5}
    assert left_out(from_config({"model_type": "dbrx", **file})) == ""


def test_granite_4_without_state_spaces() -> None:
    micro = named("granite-4.0-micro")
    assert (micro.moe, micro.mlp.d_ff, micro.positions.kind, micro.positions.theta) == (None, 8192, "rotary", 1e7)
    own = dict(num_key_value_heads=2, layer_types=["attention"] * 4, intermediate_size=8, shared_intermediate_size=6)
    some = tiny("granitemoehybrid", **own, num_local_experts=4)
    assert (some.mlp.d_ff, some.moe.n_experts, some.moe.n_shared, some.moe.shared_d_ff, some.positions.kind) == (8, 4, 1, 6, "none")
    assert tiny("granitemoehybrid", **own, num_local_experts=0).mlp.d_ff == 6
    own["layers_block_type"] = own.pop("layer_types")
    assert tiny("granitemoehybrid", **own, init_method="mup", normalization_function=None, num_local_experts=4) == some


def test_a_size_that_the_file_does_not_say_is_told() -> None:
    said = dict(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, q_lora_rank=4)
    spec = from_config({"model_type": "minicpm3", **said})
    assert "kv_lora_rank 256" in spec.description and "qk_nope_head_dim 64" in spec.description and "q_lora_rank" not in spec.description
    assert "head_dim" not in tiny("llama", intermediate_size=8).description, "what is derived is no size of another model"
    mixtral = tiny("mixtral", num_key_value_heads=2, intermediate_size=8)
    assert "num_experts_per_tok 2, num_experts 8" in mixtral.description


def test_exaone_4_5_names_its_decoder_in_two_ways(tmp_path: Path) -> None:
    text = dict(vocab_size=50, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, num_nextn_predict_layers=1)
    for name in ("exaone4_5_text", "exaone4"):
        file = tmp_path / name / "config.json"
        file.parent.mkdir()
        file.write_text(json.dumps({"model_type": "exaone4_5", "vision_config": {}, "text_config": {"model_type": name, **text}}))
        spec = from_config(file, "text_config")
        assert spec.norm.placement == "output" and "multi-token prediction" in left_out(spec)


def test_windows_by_layer() -> None:
    assert named("gemma-2-2b").attention.window == [4096, None]
    assert named("gemma-3-1b").attention.window == [512] * 5 + [None]
    assert named("gpt-oss-20b").attention.window == [128, None]
    assert named("mistral-7b-v0.1").attention.window == 4096
    assert named("qwen2.5-0.5b").attention.window is None
    assert tiny("mistral", num_key_value_heads=2).attention.window == 4096, "the library's default"
    assert tiny("mistral", num_key_value_heads=2, sliding_window=None).attention.window is None
    qwen = dict(num_key_value_heads=2, use_sliding_window=True, sliding_window=9)
    assert tiny("qwen2", **qwen, max_window_layers=3).attention.window == [None, None, None, 9]
    assert tiny("qwen2", **qwen, max_window_layers=0).attention.window == 9
    assert tiny("qwen2", **qwen, max_window_layers=4).attention.window is None
    types = ["full_attention", "sliding_attention"] * 2
    assert tiny("qwen3", **qwen, layer_types=types).attention.window == [None, 9]
    assert tiny("qwen3_moe", **qwen).attention.window == 9
    assert tiny("qwen3_moe", num_key_value_heads=2, sliding_window=9).attention.window is None
    ministral = dict(num_key_value_heads=2, head_dim=8)
    assert tiny("ministral", **ministral).attention.window == 4096 and tiny("ministral", **ministral, sliding_window=None).attention.window is None
    mellum = named("mellum2-12b-a2.5b")
    assert mellum.attention.window == [1024] * 3 + [None] and (mellum.positions.theta, mellum.positions.local_theta) == (5e5, 5e5)
    own = dict(num_key_value_heads=2, head_dim=8)
    some = tiny("mellum", **own, layer_types=types)
    assert (some.attention.window, some.positions.theta, some.positions.local_theta) == ([None, 1024], 5e5, 1e4)
    assert tiny("mellum", **own).attention.window is None and tiny("mellum", **own).positions.local_theta is None
    # As AutoConfig reads it: a mistral with a list of its layers.
    assert named("ministral-8b").attention.window == [None, 32768, 32768, 32768]
    assert tiny("mistral", **ministral, layer_types=types).attention.window == [None, 4096]
    with pytest.raises(SpecError, match="layer_types: unknown"):  # a section is of the class that its whole names
        from_config({"text_config": {"model_type": "mistral", "layer_types": types}}, "text_config")
    with pytest.raises(SpecError, match="head_dim: null, or left out"):
        tiny("ministral", num_key_value_heads=2)


def test_opt_350m() -> None:
    spec = named("opt-350m")
    assert spec.embedding.dim == 512 and spec.norm.placement == "post" and not spec.norm.final
    assert spec.positions.offset == 2 and spec.mlp.activation == "relu"
    assert named("opt-125m").embedding.dim is None and named("opt-125m").norm.placement == "pre" and named("opt-125m").norm.final
    assert not tiny("opt", _remove_final_layer_norm=True).norm.final
    assert not tiny("opt", layer_norm_elementwise_affine=False).norm.affine


def test_falcon_designs() -> None:
    seven, forty, rw = named("falcon-7b"), named("falcon-40b"), named("falcon-rw-1b")
    assert (seven.attention.n_kv_heads, seven.parallel, seven.positions.kind) == (1, "shared_norm", "rotary")
    assert (forty.attention.n_kv_heads, forty.parallel, forty.mlp.d_ff) == (8, "two_norms", 4 * 8192)
    assert (rw.attention.n_kv_heads, rw.parallel, rw.positions.kind, rw.mlp.bias) == (None, "none", "alibi", True)
    assert tiny("falcon", new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1).parallel == "shared_norm"
    assert tiny("falcon", num_attention_heads=1).attention.n_kv_heads is None, "as many as heads"
    assert "sqrt(head_dim)" in rw.description


def test_biases_by_projection() -> None:
    assert named("qwen2.5-0.5b").attention.bias == ProjectionBias(q=True, k=True, v=True)
    assert tiny("stablelm", num_key_value_heads=4, use_qkv_bias=True).attention.bias == ProjectionBias(q=True, k=True, v=True)
    assert named("stablelm-3b-4e1t").attention.bias is False
    assert tiny("helium", num_key_value_heads=4, head_dim=8, attention_bias=True).attention.bias == ProjectionBias(q=True, k=True, v=True)
    latent = dict(first_k_dense_replace=1, num_key_value_heads=4, attention_bias=True)
    assert tiny("deepseek_v3", **latent).attention.bias == ProjectionBias(q=True, k=True, o=True)
    assert tiny("deepseek_v3", **latent, q_lora_rank=None).attention.bias == ProjectionBias(k=True, o=True)


def test_norms_of_queries_and_keys() -> None:
    stable = named("stablelm-2-12b").attention.qk_norm
    assert (stable.scope, stable.bias) == ("per_head", False)
    assert named("qwen3-0.6b").attention.qk_norm.scope == "head"
    assert named("olmo-2-7b").attention.qk_norm.scope == "full" and named("olmo-2-7b").norm.placement == "output"
    assert named("phi-2").attention.qk_norm is None and tiny("phi", qk_layernorm=True).attention.qk_norm.scope == "head"
    assert named("llama-3-8b").attention.qk_norm is None


def test_experts() -> None:
    mixtral, qwen, oss, deep = named("mixtral-8x7b-v0.1").moe, named("qwen3-30b-a3b").moe, named("gpt-oss-20b").moe, named("deepseek-v3").moe
    assert (mixtral.n_experts, mixtral.top_k, mixtral.score, mixtral.renormalize, mixtral.offset) == (8, 2, "softmax_topk", True, None)
    assert (qwen.n_experts, qwen.top_k, qwen.d_ff, qwen.renormalize) == (128, 8, 768, True)
    assert (oss.score, oss.router_bias, oss.bias, named("gpt-oss-20b").attention.sinks) == ("topk_softmax", True, True, True)
    assert (deep.n_shared, deep.offset, deep.scaling, deep.groups, deep.top_groups, deep.score) == (1, 3, 2.5, 8, 4, "sigmoid")
    assert not named("olmoe-1b-7b").moe.renormalize
    moe = dict(num_key_value_heads=2, num_experts=4, num_experts_per_tok=2)
    assert tiny("qwen3_moe", **moe, decoder_sparse_step=2).moe.every == 2
    assert tiny("qwen3_moe", **moe, mlp_only_layers=[0, 2]).moe.layers == [1, 3]
    assert tiny("qwen3_moe", **moe, mlp_only_layers=[0, 1, 2, 3]).moe is None
    assert tiny("qwen3_moe", num_key_value_heads=2, num_experts=0).moe is None
    assert tiny("deepseek_v3", num_key_value_heads=4, first_k_dense_replace=4).moe is None


def test_gemma() -> None:
    one, two, three = named("gemma-2b"), named("gemma-2-2b"), named("gemma-3-1b")
    assert one.mlp.activation == "gelu_tanh" and one.embedding.scale == 2048**0.5 and one.norm.unit_offset and one.head.tied
    assert (two.attention.softcap, two.head.softcap, two.norm.placement, two.attention.scale) == (50.0, 30.0, "sandwich", None)
    assert tiny("gemma2", head_dim=8, query_pre_attn_scalar=16).attention.scale == 0.25
    assert (three.positions.theta, three.positions.local_theta, three.attention.qk_norm.scope) == (1e6, 1e4, "head")


def test_rotary_bases_of_windowed_layers() -> None:
    sections = {"full_attention": {"rope_theta": 5e5}, "sliding_attention": {"rope_theta": 1e4}}
    assert (tiny("olmo3", rope_parameters=sections).positions.theta, tiny("olmo3", rope_parameters=sections).positions.local_theta) == (5e5, 1e4)
    assert tiny("olmo3", rope_parameters=sections, layer_types=["full_attention"] * 4).positions.local_theta is None
    assert named("olmo-3-7b").positions.local_theta is None


def test_what_adds_to_the_rotary_settings_of_gemma_is_of_full_attention_and_goes_first() -> None:
    found = tiny("gemma3_text", rope_scaling={"rope_theta": 9.0}, rope_parameters={"full_attention": {"rope_theta": 7.0}})
    assert (found.positions.theta, found.positions.local_theta) == (9.0, 10000.0)


def test_gpt_sw3_is_a_gpt_2() -> None:
    written = {"apply_query_key_layer_scaling": True, "normalize_attention_scores": True}  # by the library's converter
    sw3, gpt2 = (from_config({"model_type": name, "n_layer": 2, "n_embd": 32, "n_head": 4, **written}) for name in ("gpt-sw3", "gpt2"))
    assert msgspec.structs.replace(sw3, name="", description=None) == msgspec.structs.replace(gpt2, name="", description=None)


def test_heads_of_gemma_4() -> None:
    large, middle = named("gemma-4-31b").attention, named("gemma-4-12b").attention
    assert (large.n_kv_heads, large.head_dim, large.full) == (16, 256, FullAttention(n_kv_heads=4, head_dim=512, values_from_keys=True))
    assert (middle.n_kv_heads, middle.full.n_kv_heads) == (8, 1) and large.v_norm and large.scale == 1.0
    assert large.window == [1024] * 5 + [None]
    beside, dense = named("gemma-4-26b-a4b"), tiny("gemma4_text", hidden_size_per_layer_input=0, num_experts=4, top_k_experts=0)
    assert (beside.moe.n_experts, beside.moe.top_k, beside.moe.d_ff, beside.moe.shared_d_ff, beside.moe.own_norms) == (128, 8, 704, 2112, True)
    assert dense.moe is None, "without enable_moe_block"
    fields = dict(hidden_size_per_layer_input=0, num_key_value_heads=2, head_dim=16, global_head_dim=8, sliding_window=9)
    # Without values that are keys, all layers have as many heads of both.
    found = tiny("gemma4_text", num_global_key_value_heads=1, **fields).attention
    assert found.full == FullAttention(head_dim=8) and found.window == [9, 9, 9, None]
    alone = tiny("gemma4_text", layer_types=["full_attention"] * 4, attention_k_eq_v=True, num_global_key_value_heads=1, **fields).attention
    assert (alone.n_kv_heads, alone.head_dim, alone.values_from_keys, alone.full, alone.window) == (1, None, True, None, None)
    forced = tiny("gemma4_text", layer_types=["full_attention", *["sliding_attention"] * 3], **fields).attention
    assert forced.window == [None, 9, 9]  # repeated, so that the last has none
    alike = {"3": {"head_dim": 16, "num_key_value_heads": 2}}
    assert tiny("gemma4_text", per_layer_config=alike, **fields).attention.full is None
    assert tiny("gemma4_text", per_layer_config={}, **fields).attention.full is None
    assert tiny("gemma4_text", per_layer_config=None, **fields) == tiny("gemma4_text", **fields)
    everywhere = tiny("gemma4_text", per_layer_config={str(i): {"head_dim": 24} for i in range(4)}, **fields).attention
    assert (everywhere.head_dim, everywhere.full) == (24, None)
    assert left_out(named("gemma-4-31b")) == "the part for images (vision_config), proportional RoPE scaling, a factor on what each layer returns"
    assert "proportional RoPE" in left_out(tiny("gemma4_text", **fields))
    assert tiny("gemma4_text", per_layer_config={3: {"head_dim": 24}}, **fields).attention.full == FullAttention(head_dim=24)


def test_all_layers_of_exaone_are_rotated_where_none_has_a_window() -> None:
    found = tiny("exaone4", num_key_value_heads=2, sliding_window=None, layer_types=["full_attention"] * 4)
    assert (found.positions.kind, found.positions.rotated, found.attention.window) == ("rotary", None, None)


def test_biases_of_a_deepseek_without_experts() -> None:
    dims = dict(kv_lora_rank=8, q_lora_rank=None, qk_rope_head_dim=4, v_head_dim=8, qk_nope_head_dim=8)
    found = tiny("deepseek_v2", mlp_bias=True, first_k_dense_replace=4, n_routed_experts=4, num_experts_per_tok=2, **dims)
    assert found.mlp.bias and found.moe is None


def test_a_layernorm_around_one() -> None:
    one = named("minitron-4b")
    assert one.norm.kind == "layernorm" and one.norm.unit_offset and one.positions.fraction == 0.5
    assert one.mlp.activation == "relu2" and one.mlp.kind == "plain" and not one.mlp.bias and not one.attention.bias


def test_layers_without_positions() -> None:
    assert named("smollm3-3b").positions.rotated == [True, True, True, False] and named("smollm3-3b").attention.window is None
    command, aya = named("command-r7b"), named("aya-23-8b")
    assert command.positions.rotated == [True, True, True, False] and command.attention.window == [4096, 4096, 4096, None]
    assert aya.positions.rotated is None and aya.attention.window is None
    assert tiny("smollm3", no_rope_layers=[0, 0, 0, 0, 1]).positions.kind == "none"
    assert tiny("smollm3", no_rope_layers=[1, 1, 1, 1]).positions.rotated is None
    assert tiny("smollm3", no_rope_layers=[1, 0, 0, 0]).positions.rotated == [True, False, False, False]
    types = ["sliding_attention", "full_attention"] * 2
    assert tiny("smollm3", sliding_window=9, layer_types=types).attention.window == [9, None], "the library's mask looks at layer_types alone"
    assert tiny("smollm3", use_sliding_window=True, sliding_window=9).attention.window == [None, None, None, 9]
    assert tiny("exaone4", num_key_value_heads=4).positions.rotated == [True, True, True, False]
    assert named("exaone-4.0-1.2b").positions.rotated is None and named("exaone-4.0-1.2b").norm.placement == "output"
    letters = dict(num_key_value_heads=4, sliding_window_pattern="LG")
    assert tiny("exaone4", **letters, layer_types=["sliding_attention", "full_attention"] * 2).positions.rotated == [True, False]
    with pytest.raises(SpecError, match="sliding_window_pattern: .LG. without layer_types"):
        tiny("exaone4", **letters)


def test_factors() -> None:
    granite, moe = named("granite-3.3-2b"), named("granite-3.1-1b-a400m")
    assert (granite.embedding.scale, granite.attention.scale, granite.residual_scale, granite.head.scale) == (12.0, 0.015625, 0.22, 1 / 8)
    assert (moe.residual_scale, moe.head.scale, moe.moe.score) == (0.22, 1 / 6, "topk_softmax")
    assert (named("command-r7b").head.scale, named("aya-23-8b").head.scale) == (0.25, 0.0625)
    shared = tiny("granitemoeshared", shared_intermediate_size=24).moe
    assert (shared.n_shared, shared.shared_d_ff, shared.d_ff, tiny("granitemoeshared").moe.n_shared) == (1, 24, None, 0)
    clova = tiny("hyperclovax", embedding_multiplier=10.0, logits_scaling=0.125)
    assert (clova.embedding.scale, clova.attention.scale, clova.residual_scale, clova.head.scale) == (10.0, None, 1.0, 0.125)
    assert (clova.norm.placement, tiny("hyperclovax", use_post_norm=False).norm.placement) == ("sandwich", "pre")
    assert [tiny("hyperclovax", attention_multiplier=m).attention.scale for m in (0.5, 8**-0.5, None)] == [0.5, None, None]
    mini = named("minicpm3-4b")
    assert (mini.embedding.scale, mini.residual_scale, mini.head.scale) == (12.0, 1.4 / 62**0.5, 0.1)
    off = tiny("minicpm3", num_key_value_heads=4, scale_emb=1, scale_depth=None, dim_model_base=None)
    assert (off.embedding.scale, off.residual_scale, off.head.scale, off.attention.latent.v_dim) == (None, 1.0, None, 8)
    plain = tiny("granite")
    assert (plain.embedding.scale, plain.attention.scale, plain.residual_scale, plain.head.scale) == (None, 1.0, 1.0, None)


def test_the_gpt_family() -> None:
    neo, j, star = named("gpt-neo-125m"), named("gpt-j-6b"), named("starcoder")
    assert neo.attention.window == [None, 256] and neo.attention.scale == 1.0 and neo.attention.bias == ProjectionBias(o=True)
    assert (j.parallel, j.positions.kind, j.positions.fraction, j.head.bias, j.attention.bias) == ("shared_norm", "rotary", 0.25, True, False)
    assert tiny("gptj", rotary_dim=6).positions.fraction == 0.75
    jais = named("jais-2-8b")
    assert (jais.norm.kind, jais.mlp.kind, jais.mlp.activation, jais.attention.bias, jais.mlp.bias) == ("layernorm", "plain", "relu2", True, True)
    code = named("codegen-350m")
    assert (code.parallel, code.positions.fraction, code.head.bias, code.attention.bias, code.mlp.bias) == ("shared_norm", 0.5, True, False, True)
    assert (star.attention.n_kv_heads, star.positions.kind, star.seq_len) == (1, "learned", 8192)
    assert tiny("gpt_bigcode", multi_query=False).attention.n_kv_heads is None
    with pytest.raises(SpecError, match="attention_types: 24 layers for num_hidden_layers 4"):
        tiny("gpt_neo")
    runs = [[["global"], 4]]
    assert tiny("gpt_neo", attention_types=[[["global", "local"], 2]]) == tiny("gpt_neo", attention_layers=["global", "local"] * 2)
    with pytest.raises(SpecError, match="attention_layers: other layers than those of attention_types"):
        tiny("gpt_neo", attention_types=runs, attention_layers=["local"] * 4)
    with pytest.raises(SpecError, match="attention_layers: 3 entries for num_hidden_layers 4"):
        tiny("gpt_neo", attention_layers=["local"] * 3)
    with pytest.raises(SpecError, match='attention_types: "near" is neither global nor local'):
        tiny("gpt_neo", attention_types=[[["near"], 4]])
    with pytest.raises(SpecError, match="rotary_dim: 9 is no even number up to the 8 dims of a head"):
        tiny("gptj", rotary_dim=9)


def test_shared_experts_and_groups() -> None:
    qwen, lite, air, flash = (named(name) for name in ("qwen1.5-moe-a2.7b", "deepseek-v2-lite", "glm-4.5-air", "glm-4.7-flash"))
    assert (qwen.moe.n_shared, qwen.moe.shared_d_ff, qwen.moe.shared_gate, qwen.moe.renormalize) == (1, 5632, True, False)
    assert (lite.moe.n_shared, lite.moe.offset, lite.moe.groups, lite.moe.shared_gate, lite.attention.latent.q_rank) == (2, 1, 1, False, None)
    assert (air.moe.offset, air.attention.head_dim, air.positions.fraction, air.attention.qk_norm) == (1, 128, 0.5, None)
    assert air.attention.bias == ProjectionBias(q=True, k=True, v=True)
    assert (flash.moe.offset, flash.moe.layers, flash.attention.latent.v_dim) == (1, None, 256)
    assert tiny("glm4_moe_lite", num_key_value_heads=4, mlp_layer_types=["sparse", "dense", "sparse", "dense"]).moe.layers == [0, 2]
    assert tiny("glm4_moe_lite", num_key_value_heads=4, mlp_layer_types=["dense"] * 4).moe is None
    grouped = dict(num_experts_per_tok=2, n_group=4, topk_group=2)
    v2 = tiny("deepseek_v2", **grouped, topk_method="group_limited_greedy")
    assert (v2.moe.groups, v2.moe.top_groups) == (4, 2) and "ranked by their best expert alone" in v2.description
    assert tiny("deepseek_v2", **grouped).moe.groups == 1
    with pytest.raises(SpecError, match='topk_method: "noaux_tc" is neither greedy nor group_limited_greedy'):
        tiny("deepseek_v2", **grouped, topk_method="noaux_tc")
    with pytest.raises(SpecError, match="mlp_bias: true: biases in shared but not in routed experts"):
        tiny("deepseek_v2", **grouped, mlp_bias=True)
    assert tiny("deepseek_v2", **grouped, norm_topk_prob=True).moe.renormalize is False
    latent = dict(num_key_value_heads=4)
    with pytest.raises(SpecError, match="head_dim: 32, but qk_rope_head_dim, which means the same, is 64"):
        tiny("glm4_moe_lite", **latent, qk_rope_head_dim=64, head_dim=32)
    assert tiny("glm4_moe_lite", **latent, head_dim=32).attention.latent.rope_dim == 32
    with pytest.raises(SpecError, match="first_k_dense_replace: 3: this model_type has one dense layer"):
        tiny("glm4_moe_lite", **latent, first_k_dense_replace=3)
    three = ["dense"] * 3 + ["sparse"]
    assert tiny("glm4_moe_lite", **latent, first_k_dense_replace=3, mlp_layer_types=three).moe.offset == 3
    with pytest.raises(SpecError, match="num_experts_per_tok: null, or left out"):
        tiny("deepseek_v2")
    ernie, four = named("ernie-4.5-21b-a3b"), dict(num_key_value_heads=4)
    assert (ernie.moe.offset, ernie.moe.n_shared, ernie.moe.score, ernie.moe.balance_bias) == (1, 2, "softmax_topk", True)
    assert tiny("ernie4_5_moe", **four, moe_layer_start_index=0, moe_layer_end_index=2).moe.layers == [0, 1, 2]
    assert tiny("ernie4_5_moe", **four, moe_layer_start_index=0, moe_layer_interval=2).moe.layers == [1, 3]
    assert tiny("ernie4_5_moe", **four, moe_layer_start_index=4, use_bias=True).moe is None
    assert tiny("ernie4_5_moe", **four, moe_num_shared_experts=0, use_bias=True).head.bias
    solar = named("solar-open-100b")
    assert (solar.moe.n_shared, solar.moe.layers, solar.moe.offset, solar.attention.qk_norm, solar.mlp.d_ff) == (1, None, None, None, 1280)
    exaone = named("k-exaone-236b-a23b")
    assert (exaone.moe.n_shared, exaone.moe.offset, exaone.moe.scaling, exaone.norm.placement) == (1, 1, 2.5, "pre")
    assert exaone.attention.window == [128, 128, 128, None] and exaone.positions.rotated == [True, True, True, False]
    assert tiny("exaone_moe", num_key_value_heads=4, first_k_dense_replace=4).moe is None
    assert tiny("exaone_moe", num_key_value_heads=4, mlp_layer_types=["sparse", "dense"] * 2).moe.layers == [0, 2]
    with pytest.raises(SpecError, match="mlp_layer_types: 2 entries for num_hidden_layers 4"):
        tiny("exaone_moe", num_key_value_heads=4, mlp_layer_types=["sparse", "dense"])
    few = tiny("mellum", num_key_value_heads=4, head_dim=8, mlp_layer_types=["sparse", "dense"] * 2).moe
    assert (few.layers, few.d_ff, named("mellum2-12b-a2.5b").moe.layers) == ([0, 2], 896, None)
    dots = named("dots.llm1")
    assert (dots.moe.n_shared, dots.moe.offset, dots.attention.qk_norm.scope, dots.attention.window) == (2, 1, "head", None)
    few = dict(num_key_value_heads=4, num_experts_per_tok=2, n_routed_experts=4)
    assert tiny("dots1", **few, n_shared_experts=1, max_window_layers=3).attention.window == [None, None, None, 4096]
    with pytest.raises(SpecError, match="n_shared_experts: null, or left out"):
        tiny("dots1", **few)
    assert (named("minimax-m2").positions.fraction, named("minimax-m2").attention.qk_norm.scope) == (0.5, "full")
    two = dict(num_key_value_heads=4, rotary_dim=64)
    assert tiny("minimax_m2", **two, rope_parameters={"partial_rotary_factor": 0.25}).positions.fraction == 0.25
    assert tiny("minimax_m2", **two, partial_rotary_factor=0.75).positions.fraction == 0.75
    flat, nested = {"partial_rotary_factor": 0.25}, {"rope_parameters": {"partial_rotary_factor": 0.25}}
    assert tiny("glm", num_key_value_heads=4, **flat) == tiny("glm", num_key_value_heads=4, **nested)
    with pytest.raises(SpecError, match="attn_type_list: a layer without softmax attention"):
        tiny("minimax_m2", num_key_value_heads=4, attn_type_list=[1, 0])


def test_bases_by_layer_of_granite_with_windows() -> None:
    swa = dict(num_key_value_heads=4)
    plain = tiny("granite_swa", **swa)
    assert (plain.attention.window, plain.positions.local_theta, plain.attention.sinks) == ([None, 128, 128, 128], None, True)
    some = tiny("granite_swa", **swa, layer_rope_theta=[5e5, 1e4, 0, 1e4]).positions
    assert (some.theta, some.local_theta, some.rotated) == (5e5, 1e4, [True, True, False])
    local = tiny("granitemoe_swa", **swa, layer_rope_theta=[0, 7.0, 7.0, 7.0]).positions
    assert (local.theta, local.local_theta, local.rotated) == (7.0, None, [False, True, True, True])
    assert tiny("granite_swa", **swa, layer_rope_theta=[0] * 4).positions.kind == "none"
    with pytest.raises(SpecError, match="layer_rope_theta: 2 bases for layers with a window, of which a spec has one"):
        tiny("granite_swa", **swa, layer_rope_theta=[5.0, 6.0, 6.0, 7.0])
    with pytest.raises(SpecError, match="layer_rope_theta: 3 entries for num_hidden_layers 4"):
        tiny("granite_swa", **swa, layer_rope_theta=[5.0] * 3)


def test_decoders_of_other_models() -> None:
    first, bio, hy, aria = named("openai-gpt"), named("biogpt"), named("hy3-preview"), named("aria")
    assert (first.norm.placement, first.norm.final, first.mlp.activation, first.mlp.d_ff) == ("post", False, "gelu_tanh", 3072)
    assert (bio.positions.offset, bio.embedding.scale, bio.norm.eps, tiny("biogpt", scale_embedding=False).embedding.scale) == (2, 32.0, 1e-5, None)
    assert (hy.moe.offset, hy.moe.n_shared, hy.moe.scaling, hy.moe.balance_bias, hy.attention.qk_norm.scope) == (1, 1, 2.826, True, "head")
    assert (aria.moe.n_shared, aria.moe.top_k, aria.moe.score) == (2, 6, "topk_softmax")
    vision = named("glm-4.1v-9b")
    assert msgspec.structs.replace(vision, name="", description="") == msgspec.structs.replace(
        named("glm-4-9b-0414"), name="", description="", seq_len=vision.seq_len
    )


def test_trinity_gates_its_attention() -> None:
    mini = named("trinity-mini")
    assert (mini.attention.gate, mini.attention.window, mini.positions.rotated) == ("elementwise", [2048] * 3 + [None], [True] * 3 + [False])
    assert (mini.moe.offset, mini.moe.n_shared, mini.moe.scaling, mini.moe.balance_bias, mini.norm.placement) == (2, 1, 2.826, True, "sandwich")
    assert (mini.embedding.scale, tiny("afmoe").embedding.scale, tiny("afmoe", num_dense_layers=4).moe) == (2048**0.5, None, None)
    assert tiny("afmoe", global_attn_every_n_layers=1).positions.kind == "none"


def test_phi_moe_takes_two_experts_by_a_rule_of_its_own() -> None:
    phi = named("phi-3.5-moe")
    assert (phi.moe.top_k, phi.moe.renormalize, phi.norm.kind, phi.head.bias) == (2, False, "layernorm", True)
    assert left_out(phi) == "the experts' weights of SparseMixer"


def test_one_value_for_all_layers_may_be_a_list() -> None:
    hunyuan = named("hunyuan-a13b")
    assert (hunyuan.moe.n_experts, hunyuan.moe.top_k, hunyuan.moe.n_shared, hunyuan.moe.d_ff, hunyuan.mlp.d_ff) == (64, 8, 1, None, 3072)
    assert left_out(hunyuan) == "dynamic RoPE scaling, norms of queries and keys after the rotation"
    plain = dict(head_dim=8, num_experts=4, moe_topk=2)
    assert tiny("hunyuan_v1_moe", **plain) == tiny("hunyuan_v1_moe", head_dim=8, num_experts=[4] * 4, moe_topk=[2] * 4, num_shared_expert=[1] * 4)


def test_free_head_dim_and_partial_rotary() -> None:
    assert named("qwen3-0.6b").attention.head_dim == 128 and named("llama-2-7b").attention.head_dim is None
    assert named("phi-2").positions.fraction == 0.4 and named("pythia-160m").positions.fraction == 0.25
    assert tiny("llama", rope_theta=4.5e10).positions.theta == 4.5e10
    assert named("pythia-160m").parallel == "two_norms" and named("phi-2").parallel == "shared_norm" and named("phi-2").head.bias


def test_the_description_says_what_is_not_carried() -> None:
    assert "llama3 RoPE scaling" in named("llama-3.2-1b").description
    assert named("deepseek-v3").description.endswith("Not carried: the modules for multi-token prediction, quantization, yarn RoPE scaling.")
    assert named("ministral-3-3b").description.endswith("Not carried: yarn RoPE scaling, queries scaled by position.")
    assert "Not carried" not in named("llama-3-8b").description
    # What the class does where the file says nothing.
    for section in ({}, {"rope_parameters": None}):
        assert left_out(from_config({"model_type": "gpt_oss", **section})) == "yarn RoPE scaling"
        ministral = from_config({"model_type": "ministral3", **section})
        assert (left_out(ministral), ministral.positions.theta) == ("yarn RoPE scaling, queries scaled by position", 1e6)
    own = from_config({"model_type": "ministral3", "rope_scaling": {"rope_type": "default"}, "rope_theta": 9.0})
    assert (left_out(own), own.positions.theta) == ("", 9.0)
    assert left_out(from_config({"model_type": "glm4_moe_lite"})) == "the latent norms' own eps of 1e-06"
    assert left_out(from_config({"model_type": "deepseek_v3"})) == ""
    assert left_out(from_config({"model_type": "gptj", "rotary_dim": 58, "n_embd": 400, "n_head": 4, "n_layer": 1, "vocab_size": 9})) == ""
    third = from_config({"model_type": "gpt_neox", "rotary_pct": 0.3333333333333333, "hidden_size": 192, "num_attention_heads": 2})
    assert resolve(third, 2).blocks[0].attention.rotary_dim == 32  # as int(96 * 0.333…) of floats; exactly it would be 31.99…
    assert left_out(tiny("glm", head_dim=10)) == "the rotation of 5 dims, an odd number" and left_out(tiny("glm", head_dim=12)) == ""
    assert {path.stem for path in CONFIGS.glob("*.json") if defaulted(named(path.stem))} == {"aria", "gemma-3-4b"}
    assert defaulted(named("aria")) == "moe_num_shared_experts 2"
    stump = from_config({"model_type": "gpt2", "n_embd": 768, "scale_attn_by_inverse_layer_idx": True})
    assert defaulted(stump) == "vocab_size 50257, n_layer 12, n_head 12" and left_out(stump) == "scores scaled by layer"


# Version 4 and version 5


@pytest.mark.parametrize(
    ("four", "five"),
    [
        (
            ("llama", {"rope_theta": 5e5, "torch_dtype": "bfloat16"}),
            {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}, "dtype": "bfloat16"},
        ),
        (("gpt_neox", {"rotary_pct": 0.5, "rotary_emb_base": 99}), {"rope_parameters": {"rope_theta": 99.0, "partial_rotary_factor": 0.5}}),
        (("phi3", {"partial_rotary_factor": 0.5}), {"rope_parameters": {"partial_rotary_factor": 0.5, "rope_type": "default"}}),
        (
            ("gemma3_text", {"rope_theta": 8.0, "rope_local_base_freq": 4.0, "sliding_window_pattern": 2}),
            {
                "rope_parameters": {"full_attention": {"rope_theta": 8.0}, "sliding_attention": {"rope_theta": 4.0}},
                "layer_types": ["sliding_attention", "full_attention"] * 2,
            },
        ),
        (("gemma2", {}), {"layer_types": ["sliding_attention", "full_attention"] * 2}),
        (("olmoe", {"num_experts": 9}), {"num_local_experts": 9}),
        (("smollm3", {"rope_theta": 9.0}), {"rope_parameters": {"rope_theta": 9.0, "rope_type": "default"}, "no_rope_layers": [1, 1, 1, 0]}),
        (
            ("olmo3", {"rope_theta": 8.0}),
            {"rope_parameters": {"full_attention": {"rope_theta": 8.0}, "sliding_attention": {"rope_theta": 500000.0}}},
        ),
    ],
    ids=lambda case: case[0] if isinstance(case, tuple) else "",
)  # fmt: skip
def test_older_and_newer_forms_are_one_spec(four: tuple[str, dict], five: dict) -> None:
    model_type, fields = four
    assert tiny(model_type, **fields) == tiny(model_type, **five)
    assert tiny(model_type, **fields) != tiny(model_type) or not fields


@pytest.mark.parametrize(
    ("model_type", "left"),
    [
        ("gpt2", {"n_special": 0, "predict_special_tokens": True, "output_past": True, "_num_labels": 1, "gradient_checkpointing": False}),
        ("gpt_neox", {"attention_probs_dropout_prob": 0, "hidden_dropout_prob": 0, "custom_pipelines": {"text-generation": {}}}),
        ("opt", {"learned_embeddings": True, "scale_embeddings": False}),
        ("falcon", {"ff_factor": 4}),
        ("llama", {"is_llama_config": True, "rope_interleaved": False, "neftune_noise_alpha": 0.0}),
        ("gemma2", {"sliding_window_size": 4096, "cache_implementation": "hybrid"}),
        ("cohere", {"model_max_length": 131072}),
        ("cohere2", {"layer_switch": 4, "order_of_interleaved_layers": "local_attn_first", "use_parallel_embedding": True, "rotary_pct": 1.0}),
        ("gpt_bigcode", {"runner_max_sequence_length": None, "inference_runner": 0, "pre_allocate_kv_cache": False}),
        ("minimax_m2", {"num_key_value_heads": 4, "shared_intermediate_size": 0, "use_mtp": True, "num_mtp_modules": 0, "attn_type_list": [1] * 4}),
        ("glm4_moe_lite", {"num_key_value_heads": 4, "first_k_dense_replace": 1, "topk_method": "noaux_tc", "pretraining_tp": 1}),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)  # fmt: skip
def test_what_published_files_carry_and_the_library_does_not_read(model_type: str, left: dict) -> None:
    """Fields of the files of GPT-2 XL, distilgpt2, GPT-NeoX-20B, Dolly 2, Galactica, Falcon2-11B, SmolLM2, Gemma 2 9B, Command R, Command R7B,
    SantaCoder, MiniMax-M2 and GLM-4.7-Flash.
    """
    kept = {"num_key_value_heads": left["num_key_value_heads"]} if "num_key_value_heads" in left else {}
    assert tiny(model_type, **left) == tiny(model_type, **kept)


# Where it comes from


def test_path_folder_and_dict(tmp_path: Path) -> None:
    fields = {"model_type": "llama", **TINY}
    folder = tmp_path / "my-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(fields))
    (tmp_path / "other.json").write_text("\ufeff" + json.dumps(fields))
    assert from_config(folder).name == "my-llama" == from_config(str(folder / "config.json")).name
    assert from_config(tmp_path / "other.json").name == "other"
    cached = tmp_path / "models--org--their-llama" / "snapshots" / "0123abc"
    cached.mkdir(parents=True)
    (tmp_path / "blob").write_text(json.dumps(fields))
    (cached / "config.json").symlink_to(tmp_path / "blob")
    assert from_config(cached).name == from_config(cached / "config.json").name == "their-llama"
    assert from_config(fields).name == "llama" and from_config({**fields, "_name_or_path": "org/their-llama"}).name == "their-llama"
    assert load(str(folder)) == from_config(folder) == load(folder / "config.json")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.json")), ids=lambda p: p.stem)
def test_a_printed_spec_loads_back(path: Path) -> None:
    spec = named(path.stem)
    assert loads(dump(spec)) == spec


@pytest.mark.parametrize("origin", ["owner/a\x1b[31mb", "owner/a\nb", "owner/ a", "n" * 201])
def test_what_is_no_name_gives_way_to_the_model_type(origin: str) -> None:
    assert from_config({"model_type": "llama", "_name_or_path": origin}).name == "llama"


def test_a_dense_prefix_has_windows_of_its_own() -> None:
    prefix = dict(first_k_dense_replace=2, prefix_dense_sliding_window_pattern=2)
    spec = from_config(
        dict(model_type="cohere2_moe", num_hidden_layers=6, **prefix, sliding_window_pattern=4, sliding_window=8, num_shared_experts=0)
    )
    assert spec.attention.window == [8, None, 8, 8], "of six layers 8, none, 8, 8, 8, none"


def test_what_experts_have_no_part_in() -> None:
    """ERNIE's biases are those of dense layers; Gemma 4's width of experts that are off; the least sum of weights that is the library's own."""
    ernie = dict(num_key_value_heads=4, moe_num_shared_experts=0, use_bias=True)
    assert [tiny("ernie4_5_moe", **ernie, moe_layer_start_index=first).mlp.bias for first in (0, 1)] == [False, True]
    assert tiny("gemma4_text", hidden_size_per_layer_input=0, enable_moe_block=False, expert_intermediate_size=7).moe is None
    found = [tiny("ernie4_5_moe", num_key_value_heads=4, moe_norm_min=least).description for least in (1e-12, 0.1)]
    assert ["a least sum" in text for text in found] == [False, True]
