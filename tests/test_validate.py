"""The rules between values: what contradicts, and what would be accepted and ignored."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from strategies import specs

from modcalc.errors import SpecError, UsageError
from modcalc.spec.load import loads
from modcalc.spec.resolve import resolve
from modcalc.spec.schema import Attention, Mlp, Mod, Norm, Spec
from modcalc.spec.validate import check_spec, find_problems

BASE: dict[str, Any] = dict(name="a", vocab_size=100, seq_len=16, d_model=32, n_layers=4, attention=dict(n_heads=4), mlp=dict(d_ff=64))
LATENT = dict(kv_rank=8, nope_dim=4, rope_dim=2, v_dim=4)
MOE = dict(n_experts=4, top_k=2)
REC = dict(recursions=2, capacity=[1.0, 0.5])
OWN = dict(n_experts=4, top_k=2, n_shared=1, own_norms=True)
SANDWICH = dict(placement="sandwich")

# What the file says beside BASE -> the key that is named, and words of the message.
BROKEN: list[tuple[dict[str, Any], str, str]] = [
    (dict(attention=dict(n_heads=5)), "attention.n_heads", "allowed a divisor of d_model 32; divisors near it: 4 and 8; or give head_dim"),
    (dict(attention=dict(n_heads=64)), "attention.n_heads", "divisors near it: 32"),
    (dict(attention=dict(n_heads=4, n_kv_heads=3)), "attention.n_kv_heads", "allowed a divisor of n_heads 4; near it: 2 and 4"),
    (dict(attention=dict(n_heads=4, n_kv_heads=8)), "attention.n_kv_heads", "allowed a divisor of n_heads 4"),
    (dict(attention=dict(n_heads=4, head_dim=7)), "attention.head_dim", "an even head dim with rotary"),
    (dict(attention=dict(n_heads=32)), "attention.n_heads", "an even head dim with rotary"),
    (dict(attention=dict(n_heads=4, window=[1, 2, 3, 4, 5])), "attention.window", "found a list of 5; allowed 1 to n_layers 4 entries"),
    (dict(attention=dict(n_heads=4, window=[])), "attention.window", "found a list of 0"),
    (dict(attention=dict(n_heads=4, window=[], full=dict(head_dim=8))), "attention.window", "found a list of 0"),
    (dict(attention=dict(n_heads=4, chunked=True)), "attention.chunked", "not without an attention.window"),
    (dict(attention=dict(n_heads=4, window=[None, None], chunked=True)), "attention.chunked", "not without an attention.window"),
    (dict(attention=dict(n_heads=4, full=dict(n_kv_heads=2))), "attention.full", "not where no layer has an attention.window"),
    (dict(attention=dict(n_heads=4, window=5, full=dict(n_kv_heads=2))), "attention.full", "not where every layer has an attention.window"),
    (dict(attention=dict(n_heads=4, window=[5, None], full={})), "attention.full", "allowed at least one of n_kv_heads, head_dim, values_from_keys"),
    (dict(attention=dict(n_heads=4, window=[5, None], full=dict(n_kv_heads=3))), "attention.full.n_kv_heads", "a divisor of n_heads 4; near it: 2"),
    (dict(attention=dict(n_heads=4, window=[5, None], full=dict(head_dim=7))), "attention.full.head_dim", "an even head dim with rotary"),
    (
        dict(attention=dict(n_heads=4, window=[5, None], full=dict(head_dim=2)), positions=dict(fraction=0.5)),
        "positions.fraction",
        "a share that rotates at least 2 of 2 dims",
    ),
    (
        dict(attention=dict(n_heads=4, window=[5, None], full=dict(head_dim=10**9), head_dim=8), d_model=10**9),
        "attention.full.head_dim",
        "weights of at most 1e+18 elements",
    ),
    (dict(attention=dict(n_heads=4, values_from_keys=True)), "attention.values_from_keys", "with attention.qk_norm, in all layers, and attention.v_"),
    (dict(attention=dict(n_heads=4, qk_norm={}, values_from_keys=True)), "attention.values_from_keys", "attention.v_norm: true"),
    (
        dict(attention=dict(n_heads=4, window=[5, None], v_norm=True, full=dict(values_from_keys=True))),
        "attention.full.values_from_keys",
        "true only with attention.qk_norm",
    ),
    (
        dict(attention=dict(n_heads=4, qk_norm=dict(rotated_only=True), v_norm=True, values_from_keys=True), positions=dict(rotated=[True, False])),
        "attention.values_from_keys",
        "attention.qk_norm, in all layers",
    ),
    (
        dict(attention=dict(n_heads=4, qk_norm={}, v_norm=True, values_from_keys=True, bias=dict(v=True))),
        "attention.bias.v",
        "not with attention.values_from_keys",
    ),
    (dict(attention=dict(n_heads=4, latent=LATENT, v_norm=True)), "attention.v_norm", "not with attention.latent"),
    (dict(attention=dict(n_heads=4, latent=LATENT, window=[5, None], full=dict(n_kv_heads=2))), "attention.full", "not with attention.latent"),
    (dict(attention=dict(n_heads=4, qk_norm=dict(rotated_only=True))), "attention.qk_norm.rotated_only", "not where every layer is rotated"),
    (
        dict(attention=dict(n_heads=4, qk_norm=dict(rotated_only=True)), positions=dict(kind="alibi")),
        "attention.qk_norm.rotated_only",
        "not with positions.kind alibi",
    ),
    (
        dict(attention=dict(n_heads=4, qk_norm=dict(kind="layernorm", affine=False, bias=True))),
        "attention.qk_norm.bias",
        "allowed false or nothing with attention.qk_norm.affine false",
    ),
    (dict(attention=dict(n_heads=4, latent=LATENT, n_kv_heads=2)), "attention.n_kv_heads", "not with attention.latent"),
    (dict(attention=dict(n_heads=4, latent=LATENT, head_dim=8)), "attention.head_dim", "not with attention.latent"),
    (dict(attention=dict(n_heads=4, latent=LATENT, qk_norm={})), "attention.qk_norm", "not with attention.latent"),
    (dict(attention=dict(n_heads=4, latent=LATENT, bias=dict(v=True))), "attention.bias.v", "write bias.k"),
    (dict(attention=dict(n_heads=4, latent={**LATENT, "rope_dim": 3})), "attention.latent.rope_dim", "an even head dim"),
    (dict(attention=dict(n_heads=4, latent=LATENT), positions=dict(kind="alibi")), "positions.kind", "allowed rotary with attention.latent"),
    (dict(positions=dict(kind="learned", theta=10000.0)), "positions.theta", "not with positions.kind learned"),
    (dict(positions=dict(kind="none", fraction=0.5)), "positions.fraction", "they belong to positions.kind rotary"),
    (dict(positions=dict(kind="alibi", local_theta=5)), "positions.local_theta", "they belong to positions.kind rotary"),
    (dict(positions=dict(max_len=64)), "positions.max_len", "they belong to positions.kind learned"),
    (dict(positions=dict(kind="alibi", offset=2)), "positions.offset", "they belong to positions.kind learned"),
    (dict(positions=dict(kind="learned", max_len=15)), "positions.max_len", "allowed at least seq_len 16"),
    (dict(positions=dict(rotated=[])), "positions.rotated", "found a list of 0; allowed 1 to n_layers 4 entries"),
    (dict(positions=dict(rotated=[True] * 5)), "positions.rotated", "found a list of 5"),
    (dict(positions=dict(rotated=[False, False])), "positions.rotated", "found only false; allowed true for some layer"),
    (dict(positions=dict(kind="alibi", rotated=[True, False])), "positions.rotated", "not with positions.kind alibi"),
    (
        dict(attention=dict(n_heads=4, window=[4, None]), positions=dict(rotated=[False, True], local_theta=5.0)),
        "positions.local_theta",
        "not without a rotated layer that has an attention.window",
    ),
    (dict(positions=dict(local_theta=5.0)), "positions.local_theta", "not without a rotated layer that has an attention.window"),
    (dict(positions=dict(fraction=0.2)), "positions.fraction", "rotates at least 2 of 8 dims"),
    (dict(mlp=dict(kind="gated")), "mlp", "found neither d_ff nor ratio"),
    (dict(mlp=dict(d_ff=64, ratio=2)), "mlp.ratio", "allowed one of d_ff and ratio"),
    (dict(mlp=dict(d_ff=64, multiple_of=8)), "mlp.multiple_of", "only mlp.ratio is rounded"),
    (dict(mlp=dict(d_ff=64, activation="xielu"), moe=dict(n_experts=4, top_k=1)), "mlp.activation", "any other with moe"),
    (dict(mlp=dict(d_ff=64, activation="swiglu_clamped")), "mlp.activation", "only with mlp.kind gated"),
    (dict(mlp=dict(d_ff=64, bias=True), moe=MOE), "mlp.bias", "write moe.bias"),
    (dict(mlp=dict(d_ff=64, bias=True), moe=MOE, mod={}), "mlp.bias", "write moe.bias"),
    (dict(norm=dict(bias=True)), "norm.bias", "write kind: layernorm"),
    (dict(norm=dict(bias=True), attention=dict(n_heads=4, qk_norm={})), "norm.bias", "write kind: layernorm"),
    (dict(norm=dict(kind="layernorm", affine=False, bias=True)), "norm.bias", "with norm.affine false"),
    (dict(norm=dict(affine=False, unit_offset=True)), "norm.unit_offset", "not with norm.affine false"),
    (dict(norm=dict(placement="post"), parallel="two_norms"), "norm.placement", "allowed pre with parallel two_norms"),
    (dict(attention=dict(n_heads=4, qk_norm=dict(bias=True))), "attention.qk_norm.bias", "false with an rmsnorm"),
    (dict(attention=dict(n_heads=4, qk_norm=dict(bias=True)), norm=dict(affine=False)), "attention.qk_norm.bias", "false with an rmsnorm"),
    (
        dict(attention=dict(n_heads=4, qk_norm=dict(kind="rmsnorm")), norm=dict(kind="layernorm", bias=True)),
        "attention.qk_norm.bias",
        "it is norm.bias unless given",
    ),
    (
        dict(attention=dict(n_heads=4, qk_norm=dict(kind="layernorm", bias=True)), norm=dict(affine=False)),
        "attention.qk_norm.bias",
        "with norm.affine false",
    ),
    (dict(moe=dict(n_experts=4)), "moe.top_k", "missing; allowed an integer from 1 to 4"),
    (dict(moe=dict(n_experts=4, top_k=5)), "moe.top_k", "n_experts + n_noop = 4"),
    (dict(moe=dict(n_experts=4, top_k=2, n_noop=1)), "moe.capacity", "the cost would depend on the data"),
    (dict(moe=dict(n_experts=4, top_k=2, n_noop=17, capacity=1.0)), "moe.n_noop", "more no-op experts than tokens"),
    (dict(moe=dict(**MOE, shared_d_ff=8)), "moe.shared_d_ff", "not without shared experts"),
    (dict(moe=dict(**MOE, shared_gate=True)), "moe.shared_gate", "not without shared experts"),
    (dict(moe=dict(**MOE, score="topk_softmax", renormalize=False)), "moe.renormalize", "sum to 1 already"),
    (dict(moe=dict(**MOE, top_groups=2)), "moe.top_groups", "give groups"),
    (dict(moe=dict(**MOE, groups=3)), "moe.groups", "a divisor of n_experts 4"),
    (dict(moe=dict(n_experts=4, groups=2)), "moe.top_k", "an integer from 1 to 4"),
    (dict(moe=dict(**MOE, groups=2, top_groups=3)), "moe.top_groups", "1 to groups 2"),
    (dict(moe=dict(n_experts=4, top_k=3, groups=2)), "moe.top_k", "the experts in 1 of 2 groups"),
    (dict(moe=dict(**MOE, groups=2, n_noop=2, capacity=1.0)), "moe.groups", "belong to no group"),
    (dict(moe=dict(n_experts=4, choice="expert")), "moe.capacity", "a number above 0 with moe.choice expert"),
    (dict(moe=dict(**MOE, choice="expert", capacity=1.0)), "moe.top_k", "experts choose tokens"),
    (dict(moe=dict(n_experts=4, choice="expert", capacity=1.0, balance_bias=True)), "moe.balance_bias", "experts choose tokens"),
    (dict(moe=dict(n_experts=4, choice="expert", capacity=1.0, score="topk_softmax")), "moe.score", "there is no top-k"),
    (dict(moe=dict(**MOE, layers=[4])), "moe.layers[0]", "found 4; allowed layers 0 to 3"),
    (dict(moe=dict(**MOE, layers=[])), "moe.layers", "no layer would have experts"),
    (dict(moe=dict(**MOE, layers=[0], every=1)), "moe.every", "not with moe.layers"),
    (dict(mod=dict(layers=[1, 4])), "mod.layers[1]", "found 4; allowed layers 0 to 3 (n_layers 4)"),
    (dict(mod=dict(layers=[1, 1])), "mod.layers[1]", "each layer once, in ascending order"),
    (dict(mod=dict(layers=[3, 1])), "mod.layers[1]", "found 1 after 3"),
    (dict(mod=dict(layers=[])), "mod.layers", "nothing would be routed"),
    (dict(mod=dict(layers=[1], every=2)), "mod.every", "not with mod.layers"),
    (dict(mod=dict(layers=[1], offset=0)), "mod.offset", "not with mod.layers"),
    (dict(mod=dict(offset=4)), "mod.offset", "allowed 0 to 3"),
    (dict(mod=dict(every=5)), "mod.every", "nothing would be routed; the first is every - 1 = 4"),
    (dict(n_layers=1, mod={}), "mod.every", "found 2; allowed 1 to n_layers 1"),
    (dict(mod=dict(capacity=17)), "mod.capacity", "found 17; allowed 1 to T = seq_len 16 tokens"),
    (dict(mod=dict(capacity=[8, 17])), "mod.capacity[1]", "found 17"),
    (dict(mod=dict(capacity=[0.5])), "mod.capacity", "allowed 2 entries, one for each of the routed blocks"),
    (dict(mod=dict(capacity=[])), "mod.capacity", "found a list of 0"),
    (dict(mod=dict(layers=[1], capacity=dict(kind="linear", start=1.0, end=0.5))), "mod.capacity", "at least 2 routed blocks"),
    (dict(mod=dict(capacity=8, rounding="ceil")), "mod.rounding", "only shares are rounded"),
    (dict(mod=dict(multiple_of=17)), "mod.multiple_of", "every capacity would be all tokens"),
    (dict(moe=OWN), "norm.placement", "sandwich with moe.own_norms"),
    (dict(moe=dict(OWN, n_shared=0), norm=SANDWICH), "moe.n_shared", "at least 1 with moe.own_norms"),
    (dict(moe=dict(OWN, shared_gate=True), norm=SANDWICH), "moe.shared_gate", "false with moe.own_norms"),
    (dict(moe=dict(n_experts=4, choice="expert", capacity=1.0, n_shared=1, own_norms=True), norm=SANDWICH), "moe.choice", "token with"),
    (dict(moe=dict(OWN, n_noop=1, capacity=1.0), norm=SANDWICH), "moe.n_noop", "0 with moe.own_norms"),
    (dict(mod=dict(router="random", predictor_width=4)), "mod.predictor_width", "noise has nothing to learn"),
    (dict(mod=dict(router="random", aux_loss=0.01)), "mod.aux_loss", "noise has nothing to learn"),
    (dict(mod=dict(router="random", z_loss=0.1)), "mod.z_loss", "noise has nothing to learn"),
    (dict(mod=dict(router="random", decide="router")), "mod.decide", "noise has nothing to learn"),
    (dict(mod=dict(router="random", selection="threshold")), "mod.selection", "a threshold needs router: learned"),
    (dict(mod=dict(decide="predictor")), "mod.decide", "give predictor_width"),
    (dict(mod=dict(granularity="mlp"), parallel="shared_norm"), "mod.granularity", "allowed block with parallel shared_norm"),
    (dict(mod=dict(recursions=2)), "mod.capacity", "allowed a list of 2 with mod.recursions, one a recursion; such as [1.0, 0.67]"),
    (dict(mod=dict(recursions=4)), "mod.capacity", "one a recursion; such as [1.0, 0.9, …]"),
    (dict(mod=dict(recursions=1, capacity=dict(kind="linear", start=1.0, end=0.5))), "mod.capacity", "allowed a list of 1 with mod.recursions"),
    (dict(mod=dict(recursions=3, capacity=[1.0, 0.5])), "mod.capacity", "allowed 3 entries, one for each of the recursions"),
    (dict(mod=dict(recursions=2, capacity=[0.5, 0.75])), "mod.capacity[1]", "at most the 8 tokens that the recursion before keeps"),
    (dict(mod=dict(recursions=2, capacity=[0.5, 9])), "mod.capacity[1]", "at most the 8 tokens"),
    (dict(mod=dict(**REC, layers=[0, 2])), "mod.layers", "such as [0, 1, 2]"),
    (dict(mod=dict(**REC, every=2)), "mod.every", "not with mod.recursions"),
    (dict(mod=dict(**REC, offset=0)), "mod.offset", "not with mod.recursions"),
    (dict(mod=dict(**REC, granularity="mlp")), "mod.granularity", "a whole stack repeats"),
    (dict(mod=dict(**REC, keys="all")), "mod.keys", "allowed kept with mod.recursions"),
    (dict(mod=dict(granularity="mlp", keys="all")), "mod.keys", "attention sees all tokens"),
    (dict(n_layers=9000, mod=REC), "mod.recursions", "10,000 blocks once unrolled; these are 18,000"),
    (dict(train=dict(steps=5, tokens=10**6)), "train.tokens", "one of steps and tokens"),
    (dict(train=dict(batch_size=8, tokens=100)), "train.tokens", "batch_size 8 x seq_len 16 = 128 tokens"),
    (dict(budget=dict(params="many")), "budget.params", "a positive number up to 1e36"),
    (dict(budget=dict(params=0)), "budget.params", "found 0"),
    (dict(budget=dict(params=-5)), "budget.params", "found -5"),
    (dict(budget=dict(params="1e400")), "budget.params", "found '1e400'"),
    (dict(budget=dict(params="80GiB")), "budget.params", "counts take K, M, B"),
    (dict(budget=dict(kv_cache_bytes="80G")), "budget.kv_cache_bytes", "bytes take KiB"),
    (dict(budget=dict(params={})), "budget.params", "at least one of max, min, equals"),
    (dict(budget=dict(params=dict(min="2K", max="1K"))), "budget.params.min", "at most max"),
    (dict(budget=dict(params=dict(equals=5, max=6))), "budget.params.max", "not with equals"),
    (dict(budget=dict(params=dict(max=5, within=0.1))), "budget.params.within", "not without equals"),
    (dict(budget=dict(params=dict(max="1K", relative_to="gpt2"))), "budget.params.max", "a ratio takes no suffix"),
    (dict(budget=dict(params=dict(max=1, relative_to=" "))), "budget.params.relative_to", "a shipped name"),
    (dict(budget=dict(params=dict(max=1, relative_to="\x1b[31mx"))), "budget.params.relative_to", "a shipped name"),
    (dict(budget=dict(train_flops=1e20)), "budget.train_flops", "add train.steps or train.tokens"),
    (dict(budget=dict(train_flops=1e20), train=dict(batch_size=2)), "budget.train_flops", "add train.steps or train.tokens"),
    (dict(name=""), "name", "1 to 200 printable characters"),
    (dict(name="a\nb"), "name", "1 to 200 printable characters"),
    (dict(name=" a"), "name", "no space at the ends"),
    (dict(d_model=10**9, vocab_size=10**9, attention=dict(n_heads=10**9, head_dim=10**9)), "attention.n_heads", "weights of at most 1e+18 elements"),
    (
        dict(attention=dict(n_heads=10**5, latent=dict(kv_rank=10**9, nope_dim=2, rope_dim=2, v_dim=10**9))),
        "attention.latent.kv_rank",
        "weights of at most 1e+18 elements",
    ),
    (dict(mlp=dict(d_ff=10**9), moe=dict(n_experts=10**9, top_k=1)), "moe.n_experts", "weights of at most 1e+18 elements"),
    (
        dict(d_model=10**9, mlp=dict(d_ff=1), moe=dict(n_experts=2, top_k=1, n_shared=10**9, d_ff=8)),
        "moe.n_shared",
        "weights of at most 1e+18 elements",
    ),
    (dict(d_model=10**9, mlp=dict(d_ff=1), moe=dict(**MOE, n_shared=2, shared_d_ff=10**9)), "moe.n_shared", "weights of at most 1e+18 elements"),
    (dict(d_model=10**9, mlp=dict(ratio=1000), moe=dict(n_experts=2, top_k=1, d_ff=8, every=2)), "mlp.ratio", "weights of at most 1e+18 elements"),
    (dict(d_model=3 * 10**8, mlp=dict(ratio=11, multiple_of=10**9)), "mlp.ratio", "this one would have 1.2e+18"),
    (dict(d_model=10**9, positions=dict(kind="learned", max_len=10**9, offset=10**9)), "positions.offset", "this one would have 2.0e+18"),
]


def message(over: dict[str, Any]) -> str:
    """What `loads` says; JSON is YAML, and as it stands one key a line."""
    with pytest.raises(SpecError) as wrong:
        loads(json.dumps({**BASE, **over}, indent=1), "a.yaml")
    return str(wrong.value)


@pytest.mark.parametrize(("over", "path", "words"), BROKEN, ids=[f"{path}-{i}" for i, (_, path, _) in enumerate(BROKEN)])
def test_each_rule_names_key_line_and_what_is_allowed(over: dict[str, Any], path: str, words: str) -> None:
    said = message(over).splitlines()
    assert len(said) == 1, said
    place, _, rest = said[0].partition(f": {path}: ")
    assert place.startswith("a.yaml:") and int(place.removeprefix("a.yaml:")) >= 1
    assert words in rest and "; allowed " in rest


def test_the_line_is_that_of_the_key() -> None:
    text = (
        "name: a\nvocab_size: 9\nseq_len: 16\nd_model: 32\nn_layers: 4\nattention: {n_heads: 4}\nmlp:\n  d_ff: 8\nmod:\n  layers:\n  - 1\n\n  - 4\n"
    )
    with pytest.raises(SpecError) as wrong:
        loads(text, "a.yaml")
    assert str(wrong.value).startswith("a.yaml:13: mod.layers[1]: found 4; ")


def test_several_problems_are_told_in_the_order_of_the_file() -> None:
    said = message(dict(attention=dict(n_heads=5), mod=dict(layers=[9], capacity=99), norm=dict(bias=True))).splitlines()
    assert [line.split(": ")[1] for line in said] == ["attention.n_heads", "mod.layers[0]", "mod.capacity", "norm.bias"]
    assert [line.split(": ")[1] for line in message(dict(mod=dict(every=5, capacity=[]))).splitlines()] == ["mod.every", "mod.capacity"]


# Near the edge, and allowed.
FINE: list[dict[str, Any]] = [
    dict(attention=dict(n_heads=5, head_dim=8)),
    dict(attention=dict(n_heads=5, latent=LATENT)),
    dict(attention=dict(n_heads=4, head_dim=7), positions=dict(kind="none")),
    dict(attention=dict(n_heads=4, head_dim=7), positions=dict(fraction=0.5)),
    dict(attention=dict(n_heads=4, window=[1, None, 99, 2])),
    dict(attention=dict(n_heads=4, window=5), positions=dict(local_theta=5)),
    dict(attention=dict(n_heads=4, window=[None, 5], chunked=True)),
    dict(attention=dict(n_heads=4, window=[None, 5], full=dict(head_dim=6))),
    dict(attention=dict(n_heads=4, v_norm=True)),
    dict(attention=dict(n_heads=4, qk_norm={}, v_norm=True, values_from_keys=True, bias=True)),
    dict(
        attention=dict(
            n_heads=4, window=[None, 5], qk_norm={}, v_norm=True, values_from_keys=True, bias=dict(v=True), full=dict(values_from_keys=False)
        )
    ),
    dict(attention=dict(n_heads=4, qk_norm=dict(rotated_only=True)), positions=dict(rotated=[True, False])),
    dict(norm=dict(affine=False, unit_offset=True), attention=dict(n_heads=4, qk_norm=dict(affine=True))),
    dict(norm=dict(affine=False), attention=dict(n_heads=4, qk_norm=dict(kind="layernorm", affine=True, bias=True))),
    dict(positions=dict(kind="learned", max_len=16, offset=2)),
    dict(moe=dict(n_experts=1, top_k=17, n_noop=16, capacity=0.1)),
    dict(moe=dict(n_experts=4, top_k=2, groups=2)),
    dict(moe=dict(n_experts=4, top_k=4, groups=4, top_groups=4)),
    dict(mlp=dict(d_ff=64, bias=True), moe=dict(**MOE, layers=[0, 1, 2])),
    dict(mlp=dict(d_ff=64, bias=True), moe=MOE, mod=dict(bypass=dict(d_ff=4))),
    dict(mod=dict(capacity=16)),
    dict(mod=dict(capacity=1.0)),
    dict(mod=dict(capacity=0.000001)),
    dict(mod=dict(every=4)),
    dict(mod=dict(every=9, offset=3)),
    dict(n_layers=1, mod=dict(every=1)),
    dict(mod=dict(recursions=2, capacity=[16, 0.5])),
    dict(mod=dict(recursions=1, capacity=[0.5], layers=[2])),
    dict(n_layers=5000, mod=REC),
    dict(mod=dict(router="random")),
    dict(mod=dict(predictor_width=4, decide="router")),
    dict(train=dict(batch_size=2, tokens=32)),
    dict(train=dict(batch_size=2)),
    dict(budget=dict(params=dict(max=0.5, relative_to="gpt2"), train_memory_bytes="80GiB"), train=dict(steps=1)),
    dict(budget={}),
    dict(budget=dict(train_flops=1e20), train=dict(tokens=16)),
    dict(norm=dict(kind="layernorm", bias=False), attention=dict(n_heads=4, qk_norm=dict(kind="rmsnorm"))),
    dict(norm=dict(affine=False, bias=False)),
    dict(attention=dict(n_heads=4, head_dim=8, window=[4, None], full=dict(head_dim=7)), positions=dict(rotated=[True, False])),
]


@pytest.mark.parametrize("over", FINE, ids=range(len(FINE)))
def test_the_edge_is_allowed(over: dict[str, Any]) -> None:
    spec = loads(json.dumps({**BASE, **over}))
    assert find_problems(spec) == []
    resolve(spec)


def test_a_share_that_rounds_to_nothing_keeps_one_token() -> None:
    """As the schema says: never below 1 token for a positive product."""
    spec = loads(json.dumps({**BASE, "mod": {"capacity": 0.000001, "rounding": "floor"}}))
    assert {r.capacity for r in resolve(spec).routed.values()} == {1}


def make(**over: Any) -> Spec:
    return Spec(**{**BASE, "attention": Attention(n_heads=4), "mlp": Mlp(d_ff=64), **over})


def test_specs_made_in_python_are_checked_alike() -> None:
    spec = make(mod=Mod(layers=[1], every=3), norm=Norm(bias=True))
    with pytest.raises(SpecError) as wrong:
        check_spec(spec)
    assert [p.split(": ")[1] for p in wrong.value.problems] == ["norm.bias", "mod.every"]
    assert check_spec(make(mod=Mod(layers=[1]))).mod == Mod(layers=[1])


@pytest.mark.parametrize(
    ("over", "path"),
    [
        (dict(vocab_size=0), "vocab_size"),
        (dict(d_model="32"), "d_model"),
        (dict(seq_len=True), "seq_len"),
        (dict(mod=Mod(capacity=float("nan"))), "mod.capacity"),
        (dict(mod=Mod(z_loss=float("inf"))), "mod.z_loss"),
        (dict(mlp=None), "mlp"),
        (dict(parallel="both"), "parallel"),
        (dict(d_model=10**30), "d_model"),
        (dict(name=3), "name"),
    ],
)
def test_python_can_break_types_and_ranges_too(over: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError, match=rf": {path}: found .*; allowed "):
        check_spec(make(**over))


def test_numbers_become_those_of_a_file() -> None:
    import numpy as np

    spec = make(d_model=np.int64(64), vocab_size=50.0, mod=dict(capacity=np.float64(0.5), layers=[np.int32(1)]))
    checked = check_spec(spec)
    assert checked == make(d_model=64, vocab_size=50, mod=Mod(capacity=0.5, layers=[1]))
    assert {type(n) for n in (checked.d_model, checked.vocab_size, checked.mod.layers[0])} == {int} and type(checked.mod.capacity) is float
    with pytest.raises(SpecError, match=r"'a': mod.layers: found \(1,\); allowed null or a list"):
        check_spec(make(mod=Mod(layers=(1,))))
    assert check_spec(make(n_layers=4, mod=Mod(capacity=np.linspace(0.5, 0.25, 2)))).mod.capacity == [0.5, 0.25]
    for wrong in (Fraction(1, 2), object(), {1: 2}):
        with pytest.raises(SpecError, match=r"'a': mod.capacity(\[1\])?: (found|unknown key).*; allowed "):
            check_spec(make(mod=Mod(capacity=wrong)))
    for path, over in (("name", dict(name=Path("x"))), ("source", dict(source=Fraction(1, 2))), ("name", dict(name=b"x"))):
        with pytest.raises(SpecError, match=rf": {path}: found .*; allowed text"):
            check_spec(msgspec.structs.replace(make(), **over))
    for other in ("mod-small", None, resolve(make())):
        with pytest.raises(UsageError, match="is no Spec|a Plan"):
            check_spec(other)


def test_a_section_in_a_message_is_a_mapping() -> None:
    text = "name: x\nvocab_size: 10\nseq_len: 8\nd_model: 8\nn_layers: 2\nattention: {n_heads: 2}\nmlp: {d_ff: 8}\n"
    with pytest.raises(SpecError, match=r"mod\.capacity: found a mapping; allowed a list of 2"):
        loads(text + "mod: {recursions: 2, capacity: {kind: linear, start: 1.0, end: 0.25}}\n")
    with pytest.raises(SpecError, match=r"mlp\.ratio: found 1000\.0; allowed weights of at most"):
        loads(text.replace("d_model: 8", "d_model: 1000000000").replace("d_ff: 8", "ratio: 1000.0"))


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(specs())
def test_drawn_specs_keep_every_rule(spec: Spec) -> None:
    assert check_spec(spec) == spec


@settings(max_examples=100)
@given(specs(mod=True, moe=True), specs(mod=False, moe=False))
def test_sections_can_be_asked_for(both: Spec, neither: Spec) -> None:
    assert both.mod and both.moe and neither.mod is None and neither.moe is None
