"""Sections of a config.json that stand within another one: FILE#thinker_config.text_config."""

import json
from pathlib import Path

import pytest

from modcalc.errors import SpecError
from modcalc.spec.hub import from_config
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
