"""Imported configs against what is published and against the transformers library's own classes: equal integers."""

import dataclasses
import inspect
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hub_configs import CONFIGS, named, section_of

from modcalc.cost.account import account
from modcalc.spec.hub import from_config
from modcalc.spec.hub_read import TIED, WHOLE_TIED
from modcalc.spec.hub_types import ALIASES, BEYOND, ENCODER_DECODERS, TYPES
from modcalc.spec.schema import Spec

DATA = Path(__file__).parent / "data"
PUBLISHED = json.loads((DATA / "published_params.json").read_text())["models"]
FILES = sorted(CONFIGS.glob("*.json"))
# Types of which no published file was at hand; the library's class alone holds them.
NO_FILE = {
    "apertus1p5_text", "cohere2_moe", "cohere_compass_text", "deepseek_ocr2_text", "emu3_text_model", "flint", "glm_ocr_text",
    "granite4_vision_text", "granite_docling_text", "granite_swa", "granitemoe_swa", "granitemoeshared", "hunyuan_vl_text", "hyperclovax",
    "kolibri1", "phi4_multimodal", "qwen2_5_omni_text", "qwen3_omni_moe_text",
}  # fmt: skip
DRAWS = 8
B, T = 2, 7


def fields_of(path: Path) -> dict:
    """What the library's class of the text decoder takes; the whole says whether that is tied."""
    fields = json.loads(path.read_text())
    return {**{k: v for k, v in fields.items() if k == "tie_word_embeddings"}, **fields["text_config"]} if section_of(path) else fields


def type_of(fields: dict) -> str:
    """As the library's AutoConfig reads a file, which its for_model does not."""
    name = ALIASES.get(fields["model_type"], fields["model_type"])
    return "ministral" if name == "mistral" and "layer_types" in fields else name


def shape(spec: Spec) -> Spec:
    """A spec without what it is called."""
    return msgspec.structs.replace(spec, name="", description=None)


def test_every_type_has_a_published_model_and_every_config_a_citation() -> None:
    assert {m["config"] for m in PUBLISHED} == {p.stem for p in FILES}
    assert {type_of(fields_of(p)) for p in FILES} == set(TYPES) - NO_FILE
    assert all(m["source"].startswith("https://") and m["citation"] for m in PUBLISHED)


@pytest.mark.parametrize("model", PUBLISHED, ids=lambda m: m["config"])
def test_published_parameters(model: dict) -> None:
    report = account(named(model["config"]), seq_len=128)
    params = report.params
    table = sum(op.params for op in report.rows if op.path == "embedding.tokens")
    for key, ours in (("params", params.total), ("active", params.active), ("non_embedding", params.non_embedding)):
        assert model.get(key, ours) == ours
    values = dict(total=params.total, active=params.active, non_embedding=params.non_embedding, active_without_table=params.active - table)
    values["active_non_embedding"] = params.active - params.embedding
    for key, text in model.get("printed", {}).items():
        digits = len(text.partition(".")[2])
        assert f"{values[key] / 1e9:.{digits}f}" == text, key


transformers = pytest.importorskip("transformers", minversion="5.24")
from hub_configs import TEXT_DECODERS, draw, library_config, library_flops, library_params, nulled  # noqa: E402

transformers.logging.set_verbosity_error()


def test_what_is_beyond_a_spec_are_types_of_the_library() -> None:
    assert set(BEYOND) <= set(transformers.CONFIG_MAPPING) and not set(BEYOND) & set(TYPES)


# Decoders of the library that are neither read nor refused by name: most are models of images or sound around one that may be.
OTHERS = {
    "emu3", "fuyu", "gemma3", "gemma4", "gemma4_unified", "git", "got_ocr2", "llama4", "mllama",
    "moss_transcribe_diarize", "musicgen", "musicgen_melody", "trocr",
}  # fmt: skip


def test_every_decoder_of_the_library_was_looked_at() -> None:
    decoders = set(transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert decoders - {*TYPES, *BEYOND, *ENCODER_DECODERS, *ALIASES} == OTHERS


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_published_size_equals_the_library_class(path: Path) -> None:
    fields = fields_of(path)
    if "attn_temperature_tuning" in fields:  # a number in Llama 4's first files, which the class no longer takes
        fields["attn_temperature_tuning"] = bool(fields["attn_temperature_tuning"])
    config = transformers.AutoConfig.for_model(**{**fields, "model_type": type_of(fields)})
    spec = named(path.stem)
    assert account(spec, seq_len=8).params.total == library_params(config)
    # What this version of the library makes of an older file says the same, in its own words.
    assert shape(from_config(json.loads(config.to_json_string(use_diff=False)))) == shape(spec)


@pytest.mark.parametrize("name", ["gpt2", "llama-2-7b", "gemma-2-2b", "falcon-7b"])
def test_published_size_equals_the_library_in_flops(name: str) -> None:
    config = transformers.AutoConfig.for_model(**json.loads((CONFIGS / f"{name}.json").read_text()))
    assert account(named(name), seq_len=64).flops.forward == library_flops(config, 1, 64, "meta")


@pytest.mark.parametrize("model_type", sorted(TYPES))
def test_random_sizes_equal_the_library_class(model_type: str) -> None:
    """Parameters, and FLOPs of all matrix products, on the CPU: experts need to know who chose whom."""
    for seed in range(DRAWS):
        config = nulled(draw(model_type, random.Random(f"{model_type} {seed}")))
        theirs = library_config(config)
        spec = from_config(config)
        report = account(spec, seq_len=T, batch=B)
        assert report.params.total == library_params(theirs), config
        if model_type == "llama4_text" and spec.moe:  # whose class computes every expert, of zeros where it was not chosen
            every = msgspec.structs.replace(spec.moe, top_k=spec.moe.n_experts)
            report = account(msgspec.structs.replace(spec, moe=every), seq_len=T, batch=B)
        if seed < DRAWS // 4:
            assert report.flops.forward == library_flops(theirs, B, T, "cpu"), config


@pytest.mark.parametrize("model_type", sorted(TYPES))
def test_what_the_library_saves_imports(model_type: str) -> None:
    beside = "text_config" if model_type == "phi4_multimodal" else None  # which is saved with the towers of its whole
    for seed in range(DRAWS):
        config = nulled(draw(model_type, random.Random(f"saved {model_type} {seed}")))
        theirs = library_config(config)
        with tempfile.TemporaryDirectory() as folder:
            theirs.save_pretrained(folder)
            saved = from_config(folder, beside)
        assert shape(saved) == shape(from_config(config)), config
        assert shape(from_config(json.loads(theirs.to_json_string(use_diff=False)), beside)) == shape(saved), config


def library_default(cls: type, name: str) -> Any:
    """What the class takes where a file omits the field: a dataclass field (version 5), or an argument of __init__ (4)."""
    name = {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"}.get(name, cls.attribute_map.get(name, name))
    if dataclasses.is_dataclass(cls):
        fields = {f.name: f.default for f in dataclasses.fields(cls)}
        if name in fields:
            return fields[name]
    else:
        arguments = inspect.signature(cls.__init__).parameters
        if name in arguments:
            return arguments[name].default
    config = cls()
    rope = getattr(config, "rope_parameters", None) or {}
    if name in ("rope_theta", "rope_local_base_freq") and "full_attention" in rope:
        return rope["full_attention" if name == "rope_theta" else "sliding_attention"]["rope_theta"]
    if name == "sliding_window_pattern":
        return getattr(config, "_sliding_window_pattern", config.layer_types.index("full_attention") + 1)
    if name == "head_dim" and config.head_dim == config.hidden_size // config.num_attention_heads:
        return None  # derived, and written into what the library saves
    return rope[name] if name in rope else getattr(config, name)


@pytest.mark.parametrize("model_type", sorted(TYPES))
def test_what_is_free_changes_no_weight_and_no_layer(model_type: str) -> None:
    """Odd values for the type's own free fields: the library's class is the same model, or refuses them."""
    config = nulled(draw(model_type, random.Random(f"free {model_type}")))
    plain = library_config(config)

    def layers(theirs: Any) -> tuple:
        return tuple(getattr(theirs, name, None) for name in ("layer_types", "attention_layers", "mlp_layer_types", "no_rope_layers"))

    params, taken = library_params(plain), 0
    for field in sorted(TYPES[model_type].free):
        for value in (3, 0.25, True, "odd"):
            try:
                theirs = library_config({**config, field: value})
                found = library_params(theirs)
            except Exception:
                continue
            assert (found, layers(theirs)) == (params, layers(plain)), (field, value)
            taken += 1
            break
    assert taken >= len(TYPES[model_type].free) // 2


# Fields of files that the classes take in, derive or leave, without a default of their own.
NO_FIELDS = {
    "gpt_neox": ("partial_rotary_factor", "rope_theta"),
    "gemma3_text": ("_sliding_window_pattern",),
    "ministral3": ("rope_theta",),
    "minimax_m2": ("attn_type_list", "partial_rotary_factor", "rotary_dim"),
    "gpt_neo": ("attention_layers",),
    "persimmon": ("num_key_value_heads",),
    "glm4_moe_lite": ("first_k_dense_replace",),
    # The class of the whole model ties, and by default does not.
    **dict.fromkeys(TEXT_DECODERS, ("tie_word_embeddings",)),
    "dbrx": ("num_key_value_heads", "attn_config", "ffn_config"),
    "deepseek_ocr2_text": ("first_k_dense_replace", "tie_word_embeddings"),
    "cohere2_moe": ("first_k_dense_replace",),
    "hy_v3": ("expert_hidden_dim", "first_k_dense_replace"),
    "sarvam_moe": ("moe_shared_expert_intermediate_size",),
    "gemma4_text": ("expert_intermediate_size", "global_head_dim", "num_global_key_value_heads", "per_layer_config"),
    "gemma4_unified_text": ("global_head_dim", "num_global_key_value_heads", "per_layer_config"),
    **dict.fromkeys(("glm4v_text", "glm_ocr_text"), ("partial_rotary_factor", "tie_word_embeddings")),
    "mistral4": ("rope_theta",),
    "hunyuan_v1_dense": ("attention_head_dim",),
    "hunyuan_v1_moe": ("attention_head_dim", "moe_intermediate_size"),
}


# Fields without which the default model cannot run.
NEEDED = {
    "deepseek_v2": {"num_experts_per_tok": 2},
    "cohere_compass_text": {"rope_parameters": {"full_attention": None}},
    "deepseek_ocr2_text": {"num_experts_per_tok": 2, "mlp_layer_types": ["dense"] + ["sparse"] * 31},
    "dbrx": {"attn_config": {"rope_theta": 10000.0}},
    "nemotron": {"num_key_value_heads": 48},
    "dots1": {"num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1},
    "qwen3_vl_moe_text": {"tie_word_embeddings": False},
    "granitemoehybrid": {"layer_types": ["attention"] * 32},
    "gemma4_text": {"hidden_size_per_layer_input": 0},
    **dict.fromkeys(("ministral", "hunyuan_v1_dense", "hunyuan_v1_moe", "hunyuan_vl_text", "qwen3_omni_moe_text"), {"head_dim": 128}),
}


@pytest.mark.parametrize("model_type", sorted(TYPES))
def test_defaults_are_the_library_classes(model_type: str) -> None:
    cls = transformers.CONFIG_MAPPING[model_type]
    ours = {  # not fields of every class: version 4's names, names that only __init__ understands, and our own default for BLOOM
        "rope_scaling", "rope_parameters", "seq_length", "hidden_activation" if model_type == "gemma" else "",
        *NO_FIELDS.get(model_type, ()),
    }  # fmt: skip
    for name, default in TYPES[model_type].defaults.items():
        if name in ours or (name == "head_dim" and default is None and not hasattr(cls(), name)):
            continue
        assert library_default(cls, name) == default, name
    # And as a whole: an empty file is the library's default model, if that can run.
    needed = NEEDED.get(model_type, {})
    assert account(from_config({"model_type": model_type, **needed}), seq_len=8).params.total == library_params(cls(**needed))


def test_the_comparison_can_fail() -> None:
    """Biases too few are seen by the parameters, a wider MLP by the FLOPs."""
    config = nulled(draw("starcoder2", random.Random(1)))
    config["use_bias"] = True
    theirs, spec = library_config(config), from_config(config)
    wrong = msgspec.structs.replace(spec, mlp=msgspec.structs.replace(spec.mlp, bias=False))
    assert account(wrong, seq_len=T).params.total != library_params(theirs)
    wider = msgspec.structs.replace(spec.mlp, d_ff=spec.mlp.d_ff + 1)
    assert account(msgspec.structs.replace(spec, mlp=wider), seq_len=T).flops.forward != library_flops(theirs, 1, T, "meta")


def test_a_whole_that_says_nothing_is_tied_as_its_class_is() -> None:
    """Where the class of the whole has another default than that of its text."""
    wholes = (transformers.CONFIG_MAPPING[name] for name in transformers.CONFIG_MAPPING)
    of_text = [(whole, part.model_type) for whole in wholes for part in whole.sub_configs.values() if getattr(part, "model_type", None) in TYPES]
    assert len(of_text) > 15
    other = {whole.model_type: whole.tie_word_embeddings for whole, kind in of_text if whole.tie_word_embeddings != TYPES[kind].defaults[TIED]}
    assert other == WHOLE_TIED
