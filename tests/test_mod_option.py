"""--mod KEY=VALUE,…: a spec as a Mixture-of-Depths model."""

from pathlib import Path

import msgspec
import pytest
from hub_configs import CONFIGS, named

from modcalc.cli.loading import load_as
from modcalc.errors import UsageError
from modcalc.spec.mod_option import apply_mod
from modcalc.spec.schema import Mod


def test_load_as() -> None:
    file = str(CONFIGS / "gpt2.json")
    assert load_as(file, None) == named("gpt2")
    assert load_as(file, "every=3") == apply_mod(named("gpt2"), "every=3")


def test_apply_mod() -> None:
    spec = named("llama-2-7b")
    made = apply_mod(spec, "capacity=0.25,every=4,rounding=ceil,predictor_width=64")
    assert made.mod == Mod(capacity=0.25, every=4, rounding="ceil", predictor_width=64)
    assert apply_mod(msgspec.structs.replace(spec, name=200 * "n"), "every=2").name == 196 * "n" + "-mod"
    assert made.name == "llama-2-7b-mod" and msgspec.structs.replace(made, mod=None, name=spec.name) == spec
    assert apply_mod(spec, "layers=1+3+5,capacity=256").mod == Mod(layers=[1, 3, 5], capacity=256)
    assert apply_mod(spec, "layers=5,capacity=1").mod == Mod(layers=[5], capacity=1)
    assert apply_mod(spec, "layers=31+,capacity=0.5+").mod == Mod(layers=[31], capacity=[0.5])
    assert apply_mod(spec, "layers=0+1+2,capacity=0.5+0.25+64").mod.capacity == [0.5, 0.25, 64]
    assert apply_mod(spec, "bypass.d_ff=64").mod.bypass.d_ff == 64
    assert apply_mod(spec, "capacity.kind=cosine, capacity.start=1.0, capacity.end=0.1").mod.capacity.kind == "cosine"
    assert apply_mod(spec, "capacity=1e-1,offset=null").mod == Mod(capacity=0.1)
    assert apply_mod(made, "every=1").mod == Mod(every=1), "replaced, not mended"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "allowed key=value pairs"),
        ("capacity", "allowed key=value pairs"),
        ("capacity=", "allowed key=value pairs"),
        ("=1", "allowed key=value pairs"),
        ("capacity=0.1,,every=2", "allowed key=value pairs"),
        ("layers=true", "mod.layers: found true"),
        ("layers=1,3", "a list joins its entries by +, as in layers=1+3"),
        ("capacity=0.5,0.25", "a list joins its entries by +, as in layers=1+3"),
        ("capacity=1.5", "mod.capacity: found 1.5"),
        ("capacity=linear", "a key inside a section has a dot, as in capacity.kind=…"),
        ("bypass=4", "a key inside a section has a dot, as in bypass.d_ff=…"),
        ("capacity=12.5%", "mod.capacity"),
        ("capacity=nan", "mod.capacity"),
        ("capacity=0", "mod.capacity"),
        ("evry=2", "did you mean every?"),
        ("n_layers=4", "z_loss\n"),  # and no key of another section
        ("hidden_size=4", "z_loss\n"),
        ("d_ff=64", "did you mean bypass.d_ff?"),
        ("selection=thresold", "did you mean threshold?"),
        ("bypass.d_f=64", "did you mean d_ff?"),
        ("recursions=2", "such as 1.0+0.67"),
        ("recursions=2,capacity=[1.0, 0.67]", "a list joins its entries by +"),
        ("every=2,every=3", "given twice"),
        ("every=99", "mod.every"),
        ("layers=1+99", "layers 0 to 31"),
        ("every=2,layers=1+3", "mod.every: found 2; allowed only where it has an effect"),
        ("bypass=1,bypass.d_ff=2", "as a value and as a section"),
        ("bypass.d_ff=2,bypass=1", "given twice"),
    ],
)
def test_apply_mod_refuses(text: str, said: str) -> None:
    with pytest.raises(UsageError, match="--mod") as refused:
        apply_mod(named("llama-2-7b"), text)
    assert said in f"{refused.value}\n"


@pytest.mark.parametrize(
    "words",
    [
        ("flops", "FILE", "--count", "analytic"),
        ("conventions", "FILE"),
        ("memory", "FILE"),
        ("family", "FILE", "--vary", "n_layers=1"),
        ("isoflop", "dense-small", "--match", "FILE", "--free", "n_layers,d_model", "--aspect", "none", "--within", "1"),
        ("isoflop", "dense-small", "--budget", "1e15", "--free", "n_layers", "--beside", "FILE"),
        ("diff", "dense-small", "FILE"),
        ("check", "FILE", "-r", "params <= 1e9"),
    ],
    ids=lambda words: " ".join(words[:1] + words[2:3]),
)
def test_no_command_bills_in_silence_what_an_import_left_out(words: tuple[str, ...], modcalc, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "gpt2", "n_head": 2, "n_embd": 16, "n_layer": 2, "n_positions": 512, "scale_attn_by_inverse_layer_idx": true}')
    code, _, err = modcalc(*(file if word == "FILE" else word for word in words))
    assert code == 0, err
    assert err.count("its config.json leaves sizes to the library's class: vocab_size 50257") == 1
    assert err.count("not in the bill, for a spec has no key for it: scores scaled by layer") == 1
