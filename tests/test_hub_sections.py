"""Sections of a config.json that stand within another one: FILE#thinker_config.text_config."""

import json
from pathlib import Path

import pytest

from modcalc.cost.account import account
from modcalc.errors import SpecError
from modcalc.spec.hub import from_config
from modcalc.spec.imported import left_out
from modcalc.spec.load import load

TEXT = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 50}
THINKER = {"model_type": "some_thinker", "vision_config": {"model_type": "some_vision"}, "text_config": TEXT}
WHOLE = {"model_type": "some_omni", "talker_config": {"model_type": "some_talker", "vocab_size": 9}, "thinker_config": THINKER}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(WHOLE, indent=1))
    return path


def refused(source: Path | dict, section: str | None) -> str:
    with pytest.raises(SpecError) as found:
        from_config(source, section)
    (problem,) = found.value.problems
    return problem


@pytest.mark.parametrize("section", [None, "thinker_config"])
def test_the_hint_names_what_can_be_given(file: Path, section: str | None) -> None:
    hint = f"give {file}#thinker_config.text_config"
    assert refused(file, section).endswith(hint)
    spec = load(hint.removeprefix("give "))
    assert (spec.d_model, spec.n_layers) == (64, 2)
    assert "not carried" not in spec.description and "images (vision_config)" in spec.description


def test_an_outer_section_goes_first() -> None:
    """Of two decoders the one that stands nearer to the file's own fields."""
    both = {"model_type": "some_omni", "thinker_config": THINKER, "language_config": TEXT}
    assert refused(both, None).endswith('the section language_config (model_type "llama"): give config#language_config')


def test_a_section_that_is_not_there(file: Path) -> None:
    assert ": thinker_config.text: found no such section; allowed: thinker_config.vision_config, thinker_config.text_config" in refused(
        file, "thinker_config.text"
    )
    assert ": thinker: found no such section; allowed: talker_config, thinker_config" in refused(file, "thinker")
    assert refused(file, "talker_config.text_config").endswith("allowed: none, for talker_config has no sections")
    assert "found no such section" in refused(file, "thinker_config.")


def test_a_problem_within_has_its_line(file: Path) -> None:
    text = file.read_text().replace('"hidden_size": 64', '"hidden_size": "64"')
    file.write_text(text)
    line = text.split('"hidden_size"')[0].count("\n") + 1
    assert refused(file, "thinker_config.text_config").startswith(f"{file}:{line}: hidden_size: ")


def test_sections_are_tied_as_what_is_around_them() -> None:
    thinker = {**THINKER, "tie_word_embeddings": True}
    assert from_config({**WHOLE, "thinker_config": thinker}, "thinker_config.text_config").head.tied
    assert from_config({**WHOLE, "tie_word_embeddings": True}, "thinker_config.text_config").head.tied


def test_deeply_nested_sections_are_looked_through() -> None:
    inner: dict = {"text_config": TEXT}
    for _ in range(900):
        inner = {"a": inner}
    assert ".text_config (model_type" in refused({"model_type": "some", **inner}, None)


def test_the_text_of_qwen_2_5_omni() -> None:
    """Fields of Qwen2.5-Omni-7B, whose thinker is by default not tied, as its text alone is: Qwen2.5-7B with 7.62 billion parameters."""
    text = dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4, vocab_size=152064)
    text |= dict(model_type="qwen2_5_omni_text", rope_theta=1e6, init_std=0.02, rope_scaling=dict(type="default", mrope_section=[16, 24, 24]))
    thinker = {"model_type": "qwen2_5_omni_thinker", "audio_config": {}, "vision_config": {}, "text_config": text}
    file = {"model_type": "qwen2_5_omni", "talker_config": {"model_type": "qwen2_5_omni_talker"}, "thinker_config": thinker}
    assert refused(file, None).endswith("give config#thinker_config.text_config")
    spec = from_config(file, "thinker_config.text_config")
    assert f"{account(spec, seq_len=8).params.total / 1e9:.2f}" == "7.62" and not spec.head.tied
    assert from_config(text).head.tied


def test_the_text_of_hunyuan_ocr_stands_beside_its_tower() -> None:
    """Fields of HunyuanOCR's file, without sections, which names the width of a head as its class used to."""
    file = {"model_type": "hunyuan_vl", "vision_config": {"hidden_size": 1152}, "hidden_size": 1024, "num_attention_heads": 16}
    file |= {"num_key_value_heads": 8, "attention_head_dim": 128, "head_dim": 128, "num_hidden_layers": 24, "intermediate_size": 3584}
    file |= {"vocab_size": 120818, "org_vocab_size": 120818, "rope_scaling": {"type": "xdrope", "alpha": 1000.0, "xdrope_section": [16, 16, 16, 16]}}
    assert refused(file, None).endswith("its fields stand beside: give config#text_config")
    spec = from_config(file, "text_config")
    assert (spec.attention.head_dim, spec.attention.n_kv_heads, spec.head.tied, spec.vocab_size) == (128, 8, True, 120818)
    assert "xdrope RoPE scaling" in left_out(spec)


def test_the_decoder_of_phi_4_multimodal_stands_beside_its_towers() -> None:
    """Its fields are those of Phi-4-mini, of 3.84 billion parameters."""
    file = dict(model_type="phi4_multimodal", vision_config={"hidden_size": 1152}, audio_config={"hidden_size": 1024}, hidden_size=3072)
    file |= dict(num_attention_heads=24, num_key_value_heads=8, num_hidden_layers=32, intermediate_size=8192, vocab_size=200064)
    file |= dict(partial_rotary_factor=0.75, tie_word_embeddings=True)
    assert refused(file, None).endswith("remove this section for that; its fields stand beside: give config#text_config")
    spec = from_config(file, "text_config")
    assert f"{account(spec, seq_len=8).params.total / 1e9:.2f}" == "3.84" and spec.positions.fraction == 0.75
    assert left_out(spec) == "the part for images (vision_config), the part for audio (audio_config)"
    deaf = {key: value for key, value in file.items() if key != "vision_config"}
    assert refused(deaf, None).endswith("give config#text_config") and from_config(deaf, "text_config") == from_config(
        {**deaf, "audio_config": {}}, "text_config"
    )


def test_deepseek_v2_without_latent_attention() -> None:
    """Fields of DeepSeek-OCR, whose decoder is called a 3B of 570M active parameters: that of DeepSeek-OCR 2 under another type."""
    text = dict(model_type="deepseek_v2", hidden_size=1280, intermediate_size=6848, num_hidden_layers=12, num_attention_heads=10, vocab_size=129280)
    text |= dict(num_key_value_heads=10, n_routed_experts=64, n_shared_experts=2, num_experts_per_tok=6, moe_intermediate_size=896, n_group=1)
    text |= dict(first_k_dense_replace=1, topk_group=1, topk_method="greedy", kv_lora_rank=None, q_lora_rank=None, qk_nope_head_dim=0, v_head_dim=0)
    file = {
        "model_type": "deepseek_vl_v2",
        "vision_config": {},
        "language_config": {**text, "use_mla": False, "qk_rope_head_dim": 0, "lm_head": True},
    }
    spec = from_config(file, "language_config")
    params = account(spec, seq_len=8).params
    assert (spec.attention.latent, spec.moe.offset, f"{params.total / 1e9:.2f}") == (None, 1, "2.93")
    assert 0.5e9 < params.active - spec.vocab_size * spec.d_model < 0.65e9
