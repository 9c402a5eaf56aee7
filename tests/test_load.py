"""YAML -> Spec -> YAML: what the text means, where things stand, what files and names are."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import specs

from modcalc.errors import SpecError
from modcalc.spec.load import dump, json_schema, load, load_with_lines, loads, locate, shipped_specs, told_apart
from modcalc.spec.schema import Mod, Spec
from modcalc.spec.yaml_nodes import Lines, read_yaml, scalar

TEXT = """\
name: a
vocab_size: 100
seq_len: 16
d_model: 32
n_layers: 4
attention:
  n_heads: 4
mlp:
  d_ff: 64
"""


def mod(text: str) -> Mod | None:
    return loads(TEXT + text).mod


def test_a_name_that_several_models_share_gets_its_source() -> None:
    one, more, same = loads(TEXT), loads(TEXT.replace("n_layers: 4", "n_layers: 8")), loads(TEXT + "# again")
    assert [s.name for s in told_apart([one, same], ["x.yaml", "y.yaml"])] == ["a", "a"]
    told = told_apart([one, more, load("gpt2"), same], ["x.yaml", "y.yaml", "gpt2", "x.yaml"])
    assert [s.name for s in told] == ["a (x.yaml)", "a (y.yaml)", "gpt2", "a (x.yaml)"]
    assert told[1] == msgspec.structs.replace(more, name="a (y.yaml)")


NUMBERS = {"12": 12, "+12": 12, "-3": -3, "010": 10, "0o17": 15, "0xff": 255, "1.5": 1.5, "1.": 1.0, ".5": 0.5, "1e-5": 1e-5, "1.0e-5": 1e-5}
NUMBERS |= {"6e18": 6e18, "6E+18": 6e18, "-1e3": -1000.0}
WORDS = {"true": True, "False": False, "TRUE": True, "null": None, "~": None}
TEXTS = ("yes", "no", "on", "off", "y", "tRue", "1:30", "1_000", "2024-01-01", "1e", "e5", ".", "0b11", "nan", "inf", "12.5%", "\u0663", "=", "<<")


@pytest.mark.parametrize(("text", "value"), [*NUMBERS.items(), *WORDS.items(), *((text, text) for text in TEXTS)])
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    got = scalar(text)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize("text", [".nan", ".NaN", ".inf", "-.inf", "+.Inf", "1e400", "-1e999", "9" * 101])
def test_no_field_takes_what_is_not_finite(text: str) -> None:
    with pytest.raises(SpecError, match="<string>:11: mod.z_loss: found .*; allowed a number of at least 0"):
        mod(f"mod:\n  z_loss: {text}\n")


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**90), 10**90))
def test_numbers_survive_being_written(x: float, n: int) -> None:
    assert scalar(repr(x)) == x and scalar(str(n)) == n
    assert scalar(yaml.safe_dump(x).split("\n")[0]) == x


def test_whole_floats_are_integers_where_only_integers_go() -> None:
    spec = loads(TEXT.replace("32", "3.2e1") + "train: {tokens: 1e10, batch_size: 2.0}\n")
    assert (spec.d_model, spec.train.tokens, spec.train.batch_size) == (32, 10**10, 2)
    assert all(type(n) is int for n in (spec.d_model, spec.train.tokens, spec.train.batch_size))


def test_a_share_and_a_count_are_told_apart() -> None:
    assert [type(mod(f"mod: {{capacity: {c}}}\n").capacity) for c in ("1", "1.0")] == [int, float]
    assert [type(c) for c in mod("mod: {capacity: [1, 1.0]}\n").capacity] == [int, float]


def test_quotes_make_text() -> None:
    assert loads(TEXT.replace("name: a", "name: '1e5'")).name == "1e5"
    assert loads(TEXT.replace("name: a", "name: !!str 5")).name == "5"
    assert loads(TEXT + "source: |\n  two\n  lines\n").source == "two\nlines\n"
    assert mod("mod: {z_loss: !!float 1}\n").z_loss == 1
    assert mod("mod: {capacity: !!int 2}\n").capacity == 2
    assert str(mod("mod: {capacity: !!float 1}\n").capacity) == "1.0", "all tokens, not one"


def test_ordinary_anchors_work_and_point_to_their_lines() -> None:
    spec, lines = _read(TEXT + "norm: &n {eps: 0.001}\nmod:\n  capacity: &c 0.25\n  z_loss: *c\n")
    assert spec.norm.eps == 0.001 and spec.mod.capacity == spec.mod.z_loss == 0.25
    assert lines["mod", "z_loss"] == 13 and lines["norm", "eps"] == 10


def _read(text: str) -> tuple[Spec, Lines]:
    return loads(text), Lines(read_yaml(text, "a.yaml")[0])


def test_lines() -> None:
    text = "# first\n" + TEXT + "budget:\n\n  params: 5\n  forward_flops:\n    max: 6e18\nmod:\n  layers: [1,\n    3]\n"
    _, lines = _read(text)
    assert lines["name"] == 2 and lines["attention", "n_heads"] == 8
    assert lines["budget", "params"] == 13 and lines["budget", "forward_flops", "max"] == 15
    assert lines["mod", "layers", 0] == 17 and lines["mod", "layers", 1] == 18
    assert ("budget", "params") in lines and ("budget", "active_params") not in lines
    # What is not written stands where it would have to be.
    assert lines["budget", "active_params"] == 11 and lines["norm", "eps"] == 1


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(specs())
def test_what_is_dumped_loads_back_equal(spec: Spec) -> None:
    text = dump(spec)
    back = loads(text)
    assert back == spec and dump(back) == text
    # == does not tell 1 from 1.0; the bytes do.
    assert msgspec.json.encode(back.mod and back.mod.capacity) == msgspec.json.encode(spec.mod and spec.mod.capacity)


def test_dump_is_readable_and_leaves_defaults_out() -> None:
    assert dump(loads(TEXT)) == TEXT
    assert dump(loads(TEXT + "mod: {}\nnorm: {kind: rmsnorm}\n")) == TEXT + "mod:\n  capacity: 0.125\n  every: 2\n"
    text = TEXT + "mod:\n  capacity: 0.125\n  layers: [1, 3]\n  aux_loss: 1.0e-05\nsource: 'a: b'\n"
    assert dump(loads(text)) == text


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_text_survives(text: str) -> None:
    spec = msgspec.structs.replace(loads(TEXT), description=text)
    assert loads(dump(spec)) == spec


def test_a_file_goes_before_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load("gpt2").d_model == 768 and load("gpt2.yaml").d_model == 768
    (tmp_path / "gpt2.yaml").write_text(TEXT)
    assert load("gpt2.yaml").d_model == 32 and load("gpt2").d_model == 768
    (tmp_path / "gpt2").mkdir()
    assert load("gpt2").d_model == 768, "a folder without a config.json hides nothing"
    (tmp_path / "gpt2" / "config.json").write_text("{}")
    assert locate("gpt2") == Path("gpt2/config.json")


def test_a_section_of_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = {"model_type": "gpt2", "n_layer": 3}
    Path("both").mkdir()
    Path("both/config.json").write_text(json.dumps({"model_type": "both", "vision_config": {}, "text_config": text}))
    spec = load("both#text_config")
    assert spec == load("both/config.json#text_config") and (spec.name, spec.n_layers) == ("both", 3)
    assert spec.description is not None and spec.description.endswith("Not carried: the part for images (vision_config).")
    Path("both#text_config").write_text(TEXT)
    assert load("both#text_config").d_model == 32, "a file of the whole name goes first"
    Path("small.yaml").write_text(TEXT)
    for name, said in (
        ("both#vision", "both/config.json: vision: found no such section; allowed: vision_config, text_config"),
        ("small.yaml#text_config", "small.yaml#text_config: found #text_config behind a YAML spec"),
        ("gpt2#text_config", "gpt2#text_config: found #text_config behind a YAML spec"),
        ("nothing#text_config", "nothing: no such file"),
        ("both#a/config.json", "both#a/config.json: no such file"),
    ):
        with pytest.raises(SpecError, match=f"^{re.escape(said)}"):
            load(name)


def test_paths(tmp_path: Path) -> None:
    file = tmp_path / "\u00fc spec.yml"
    file.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    spec, lines = load_with_lines(file)
    assert spec == load(str(file)) == loads(TEXT) and lines["mlp", "d_ff"] == 9


def test_a_config_json_is_imported(tmp_path: Path) -> None:
    config = dict(model_type="gpt2", n_embd=64, n_layer=2, n_head=4, vocab_size=99, n_positions=32)
    (tmp_path / "config.json").write_text(json.dumps(config))
    for source in (tmp_path, tmp_path / "config.json"):
        spec, lines = load_with_lines(source)
        assert (spec.d_model, spec.n_layers, spec.vocab_size, spec.seq_len) == (64, 2, 99, 32)
        assert lines["budget", "params"] == 1


def test_names_of_what_is_shipped() -> None:
    assert {"gpt2", "llama-2-7b", "mod-220m", "dense-220m"} <= set(shipped_specs())
    with pytest.raises(SpecError, match="mod-22m: no such file, and no shipped spec of that name; did you mean mod-220m"):
        load("mod-22m")
    with pytest.raises(SpecError, match=r"did you mean gpt2\?$"):
        load("some/where/gpt-2.yaml")
    with pytest.raises(SpecError, match="a model of the transformers library is read from its config.json, downloaded$"):
        load("Llama-3.2-1B")
    with pytest.raises(SpecError, match="shipped: dense-1b, "):
        load("zzz")


def test_messages_call_a_file_as_the_user_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(TEXT + "what: 1\n")
    with pytest.raises(SpecError, match="^bad.yaml:10: what: unknown key; "):
        load("bad.yaml")
    with pytest.raises(SpecError, match=r"^./bad.yaml:10: "):
        load("./bad.yaml")


def test_the_schema_agrees_about_what_is_shipped() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema" and schema["title"]
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    for file in shipped_specs().values():
        assert list(validator.iter_errors(yaml.safe_load(file.read_text()))) == []


def test_the_schema_knows_every_key_and_no_other() -> None:
    schema = json_schema()
    validator = jsonschema.Draft202012Validator(schema)
    base = yaml.safe_load(TEXT)
    for extra in (dict(nme=1), dict(mod=dict(capacty=1)), dict(attention=dict(n_heads=4, latent=dict(x=1))), dict(budget=dict(params=dict(mx=1)))):
        assert not validator.is_valid({**base, **extra}), extra
    sections = [s for s in schema["$defs"].values() if s["type"] == "object"]
    assert len(sections) > 15 and all(s["additionalProperties"] is False for s in sections)
    # Completion shows what a key means: its own words, or those of its section.
    keys = {f"{title}.{key}": field for title, section in schema["$defs"].items() for key, field in section.get("properties", {}).items()}
    undocumented = [key for key, field in keys.items() if "description" not in field]
    assert undocumented == [] and all("description" in s for s in sections)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(specs())
def test_the_schema_takes_whatever_loads(spec: Spec) -> None:
    jsonschema.Draft202012Validator(json_schema()).validate(msgspec.to_builtins(spec))


def test_the_pure_python_parser_reads_alike() -> None:
    """Where pyyaml was built without libyaml."""
    code = (
        "import yaml; del yaml.CSafeLoader; from modcalc.spec import yaml_nodes; assert yaml_nodes._Loader is yaml.SafeLoader\n"
        "from modcalc.spec.load import load, loads, shipped_specs, dump\n"
        "from modcalc.errors import SpecError\n"
        "for name in shipped_specs(): assert loads(dump(load(name))) == load(name)\n"
        "for bad in ('a: [', 'a:\\n\\tb: 1', 'a: !!python/name:os.system x', '- 1', '', 'a: *b', 'name: 1e400'):\n"
        "    try: loads(bad, 'f')\n"
        "    except SpecError as e: assert all(p.startswith('f:') for p in e.problems), e\n"
        "    else: raise AssertionError(bad)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
