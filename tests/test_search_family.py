"""The shapes of a family: what follows the width, which knobs there are, and the ranges that a user may write."""

from fractions import Fraction

import pytest
from msgspec import structs

from modcalc.cost.account import account
from modcalc.cost.conventions import find_convention
from modcalc.errors import UsageError
from modcalc.search.costs import Basis
from modcalc.search.family import Family
from modcalc.search.isoflop import match
from modcalc.search.knobs import band, parse_free, parse_values
from modcalc.search.question import at_length
from modcalc.search.rules import Rules
from modcalc.spec.load import load
from modcalc.spec.schema import Attention, Embedding, FullAttention, Latent, Mlp, Mod, Moe, Schedule, Spec


def test_another_length_keeps_the_position_table() -> None:
    short = at_length(load("gpt2"), 512)
    assert (short.seq_len, short.positions.max_len) == (512, 1024)
    assert account(short).params == account(load("gpt2")).params


def test_another_length_keeps_no_more_tokens_than_there_are() -> None:
    for capacity, kept in ((100, 64), (0.5, 0.5), ([100, 50, 0.5, 1.0], [64, 50, 0.5, 1.0])):
        mod = at_length(structs.replace(FAMILY, mod=Mod(capacity=capacity, multiple_of=128)), 64).mod
        assert (mod.capacity, mod.multiple_of) == (kept, 64)


FAMILY = Spec(
    name="f",
    vocab_size=1000,
    seq_len=256,
    d_model=256,
    n_layers=8,
    attention=Attention(n_heads=8, n_kv_heads=2),
    mlp=Mlp(d_ff=704, kind="gated"),
    mod=Mod(),
)


def test_widths_follow_the_family() -> None:
    family = Family(FAMILY)
    assert family.apply(family.own) == structs.replace(FAMILY, budget=None)
    wide = family.apply(family.own._replace(d_model=512))
    assert (wide.attention.n_heads, wide.attention.n_kv_heads, wide.attention.head_dim, wide.mlp.d_ff) == (16, 2, None, 1408)
    assert family.widths(32 * 3) is None  # three heads do not share two key/value heads evenly
    assert family.widths(100) is None
    fixed = Family(FAMILY, head_dim=64)
    assert fixed.apply(fixed.own).attention == Attention(n_heads=4, n_kv_heads=2, head_dim=None)
    assert Family(structs.replace(FAMILY, mlp=Mlp(ratio=2.7, multiple_of=32))).widths(512).d_ff == 1408  # 1382.4 up
    assert Family(structs.replace(FAMILY, mlp=Mlp(d_ff=100))).widths(512).d_ff == 200


def test_a_shape_is_called_by_all_that_tells_it_from_its_sisters() -> None:
    family = Family(FAMILY)
    names = {
        family.own: "f-l8-d256-f704",
        family.own._replace(n_layers=4, d_ff=512): "f-l4-d256-f512",
        family.own._replace(d_model=512, capacity=64): "f-l8-d512-f1408-c64",
        family.own._replace(capacity=0.25, every=1): "f-l8-d256-f704-c0.25-e1",
    }
    assert {shape: family.name(shape, family.apply(shape)) for shape in names} == names


def test_how_the_widths_follow_is_said() -> None:
    assert Family(FAMILY).rules({"d_model"}) == [
        "head_dim 32, heads 1/32 of d_model",
        "2 key/value heads, which divide the heads",
        "d_ff 2.75 d_model up to a multiple of 64",
    ]
    assert Family(FAMILY).rules({"n_layers"}) == []
    own = Family(structs.replace(FAMILY, attention=Attention(n_heads=8), mlp=Mlp(ratio=2.7)), head_dim=64)
    assert own.rules({"d_model", "n_layers"}) == ["head_dim 64, heads 1/64 of d_model", "key/value heads as many as heads", "d_ff 2.7 d_model"]
    assert own.rules({"d_model", "d_ff"}) == own.rules({"d_model"})[:2]


def test_what_scales_with_the_width() -> None:
    gemma = structs.replace(FAMILY, embedding=Embedding(scale=16.0), attention=Attention(n_heads=4, head_dim=128))
    wide = Family(gemma).apply(Family(gemma).own._replace(d_model=1024))
    rounded = structs.replace(gemma, embedding=Embedding(scale=16.00001))
    assert Family(rounded).apply(Family(rounded).own) == rounded, "its own width changes nothing"
    assert wide.embedding.scale == 32.0 and (wide.attention.n_heads, wide.attention.head_dim) == (16, 128)
    experts = structs.replace(FAMILY, moe=Moe(n_experts=4, top_k=1, d_ff=128, n_shared=1, shared_d_ff=64))
    wide = Family(experts).apply(Family(experts).own._replace(d_model=512))
    assert (wide.moe.d_ff, wide.moe.shared_d_ff) == (256, 128)
    latent = structs.replace(FAMILY, attention=Attention(n_heads=8, latent=Latent(kv_rank=64, nope_dim=32, rope_dim=16, v_dim=32)))
    wide = Family(latent).apply(Family(latent).own._replace(d_model=512))
    assert wide.attention.n_heads == 16 and wide.attention.latent == latent.attention.latent and wide.attention.head_dim is None


@pytest.mark.parametrize(
    ("changes", "knobs", "message"),
    [
        (dict(mod=None), "capacity", "dense family"),
        (dict(mod=Mod(layers=[1, 3])), "n_layers", "lists the routed blocks"),
        (dict(mod=Mod(capacity=[0.5, 0.5, 0.25, 0.25])), "every", "lists a value for each routed block"),
        (dict(mod=Mod(recursions=2, capacity=[1.0, 0.5])), "every", "nested capacities"),
        (dict(mod=Mod(recursions=2, capacity=[1.0, 0.5], layers=[1, 2])), "n_layers", "lists the shared blocks, so n_layers is not free"),
        (dict(moe=Moe(n_experts=4, top_k=1, layers=[0, 1])), "n_layers", "lists the layers with experts"),
        (dict(moe=Moe(n_experts=4, top_k=1, d_ff=64)), "d_ff", "would change nothing"),
    ],
)
def test_knobs_that_a_family_does_not_have(changes: dict, knobs: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_free(knobs, Family(structs.replace(FAMILY, **changes)), lambda knob, before: [1])


def test_another_head_dim_beside_that_of_other_layers_is_not_replaced() -> None:
    spec = structs.replace(FAMILY, attention=Attention(n_heads=8, window=[4, None], full=FullAttention(head_dim=64)))
    with pytest.raises(UsageError, match="attention.full.head_dim is another head dim beside that of other layers; --head-dim does not apply"):
        Family(spec, head_dim=64)


def test_a_list_of_capacities_may_give_way_to_one() -> None:
    family = Family(structs.replace(FAMILY, mod=Mod(capacity=[0.5, 0.5, 0.25, 0.25])))
    assert parse_free("every=1,capacity=0.5", family, lambda knob, before: []) == {"capacity": [0.5], "every": [1]}


def test_a_schedule_of_capacities_stays_when_depth_varies() -> None:
    spec = structs.replace(FAMILY, mod=Mod(capacity=Schedule(kind="linear", start=1.0, end=0.125)))
    goal, basis = account(spec).flops.forward, Basis(256, 1, 255, find_convention())
    found = match(Family(spec), {"n_layers": [4, 8, 12]}, goal, "forward", basis, Rules(), within=Fraction(0))
    assert found.candidates[0].shape.n_layers == 8 and found.candidates[0].error == 0
    assert {c.cost for c in found.candidates} == {account(structs.replace(spec, n_layers=n)).flops.forward for n in (4, 8, 12)}


def test_ranges() -> None:
    assert parse_values("n_layers", "4:10:3") == [4, 7, 10]
    assert parse_values("n_layers", "8+4:6+5") == [4, 5, 6, 8]
    assert parse_values("d_model", "128:300", 64) == [128, 192, 256]
    assert parse_values("capacity", "0.1:0.5:0.1") == [0.1, 0.2, 0.3, 0.4, 0.5]  # decimals, not sums of floats
    assert parse_values("capacity", "1+1.0+64") == [1, 1.0, 64]
    assert [type(v) for v in parse_values("capacity", "1+1.0+64")] == [int, float, int]


@pytest.mark.parametrize(
    ("knob", "text", "message"),
    [
        ("n_layers", "10:4", "empty range"),
        ("n_layers", "4:10:0", "empty range"),
        ("n_layers", "4:10:-1", "empty range"),
        ("n_layers", "1:2:3:4", "low:high:step"),
        ("n_layers", "four", "whole number"),
        ("n_layers", "", "whole number"),
        ("n_layers", "2.5", "whole number"),
        ("n_layers", "0", "1 to 10,000"),
        ("n_layers", "99999", "1 to 10,000"),
        ("d_model", "1:1000000000", "larger step"),
        ("d_model", "1" * 30, "allowed are 1 to"),
        ("capacity", "1.5", "at most 1"),
        ("capacity", "0.0", "above 0"),
        ("capacity", "nan", "a share such as"),
        ("capacity", "12.5%", "a share such as"),
        ("capacity", "1e400", "a share such as"),
        ("capacity", "1e-999999999", "above 0"),
        ("capacity", "1e10", "at most 1"),
        ("capacity", "0.1:0.5", "needs a step"),
        ("capacity", "0", "allowed are 1 to"),
    ],
)
def test_senseless_values(knob: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_values(knob, text)


def test_bands() -> None:
    assert band("--aspect", "0.1:3", None) == (Fraction(1, 10), 3) and band("--aspect", "0:0", None) == (0, 0)
    assert band("--aspect", None, ("1", "2")) == (1, 2) and band("--aspect", "none", ("1", "2")) is None
    for text in ("5", "a:b", "1:2:3", "nan:1", "1:inf", "1e400:1", "1/2:1", "1:1e999999999", ""):
        with pytest.raises(UsageError, match="--aspect"):
            band("--aspect", text, None)
    with pytest.raises(UsageError, match="contradicts"):
        band("--aspect", "3:2", None)


def test_values_of_a_knob_may_be_joined_by_commas() -> None:
    def default(knob: str, before: dict) -> list[int]:
        return [1]

    family = Family(structs.replace(FAMILY, mod=Mod(capacity=0.25)))
    assert parse_free("capacity=0.125,0.5 , 64,n_layers", family, default) == {"n_layers": [1], "capacity": [0.125, 0.5, 64]}
    assert parse_free("capacity=0.5,.25", family, default) == {"capacity": [0.25, 0.5]} and parse_values("n_layers", "1,3+2") == [1, 2, 3]
    with pytest.raises(UsageError, match="n_layers: found ''; allowed a whole number, as a value, a,b,c"):
        parse_free("n_layers=4,,8", family, default)
    assert parse_free("n_layers=8,2:4,every=1,2", family, default) == {"n_layers": [2, 3, 4, 8], "every": [1, 2]}
    for wrong in ("2,n_layers=4", "n_layers,4"):
        with pytest.raises(UsageError, match="allowed knobs are"):
            parse_free(wrong, family, default)
