"""Families at constant parameters: Petty et al. 2023 (arXiv 2310.19956), whose sizes are published."""

import json
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from modcalc.cost.account import account
from modcalc.cost.check import check_all
from modcalc.cost.conventions import find_convention
from modcalc.cost.memory import kv_cache_bytes
from modcalc.errors import UsageError
from modcalc.search import families
from modcalc.search.costs import Basis
from modcalc.search.families import Constant, constant, nearest, parse_vary, specs_of
from modcalc.search.family import Family, Shape
from modcalc.search.results import DROP, OK, Candidate
from modcalc.search.write import write_specs
from modcalc.spec.load import load
from modcalc.spec.resolve import inner_width, resolve
from modcalc.spec.schema import Attention, FullAttention, Mod, Moe, Train

# Layers: d_ff of the 41M family, Petty et al. 2023 (arXiv 2310.19956), table 1.
PETTY_41M = {1: 4779, 2: 2048, 3: 1138, 4: 682, 5: 409, 6: 227, 7: 97}


def hold(name: str, depths: list[int], cost: str = "params", solve: str = "d_ff", **options: object) -> Constant:
    spec = load(name)
    return constant(Family(spec), {"n_layers": depths}, solve, cost, Basis(spec.seq_len, 1, spec.seq_len - 1, find_convention()), **options)


def inner(c: Candidate) -> int:
    return inner_width(c.spec)


def test_the_41m_family() -> None:
    found = hold("petty-41m", list(PETTY_41M))
    assert found.target == 41_287_680
    for m in found.members:
        c = m.candidate
        assert abs(inner(c) - PETTY_41M[c.spec.n_layers]) <= 1
        assert m.drift == account(c.spec).params.total - 41_287_680
        assert 2 * abs(m.drift) <= c.spec.n_layers * 3 * 512  # half a unit of d_ff
        assert m.kv_bytes == kv_cache_bytes(resolve(c.spec), 512, "bf16") == c.spec.n_layers * 2 * 512 * 512 * 2
        assert c.forward == account(c.spec).flops.forward
    assert {m.candidate.spec.n_layers: m.drift for m in found.members}[2] == 0


@pytest.mark.parametrize(("name", "depth", "d_ff", "d_model"), [("petty-134m", 12, 2048, 768), ("petty-374m", 24, 2816, 1024)])
def test_the_larger_families_by_the_same_rule(name: str, depth: int, d_ff: int, d_model: int) -> None:
    spec = load(name)
    assert (spec.n_layers, spec.mlp.d_ff, spec.d_model) == (depth, d_ff, d_model)
    found = hold(name, [depth // 4, depth // 2, depth, 2 * depth])
    # Attention and MLP of all layers stay as many: L (4 D^2 + 3 D F) is constant.
    for m in found.members:
        L = m.candidate.spec.n_layers
        assert inner(m.candidate) == round(Fraction(depth * (4 * d_model + 3 * d_ff) - 4 * d_model * L, 3 * L))
        assert m.candidate.status == OK
    assert [m.drift for m in found.members if m.candidate.spec.n_layers == depth] == [0]


def test_forward_flops_held_instead() -> None:
    found = hold("petty-41m", [1, 2, 3, 4, 5, 8], "forward")
    assert [inner(m.candidate) for m in found.members[:4]] == [5120, 2048, 1024, 512]
    assert [m.drift for m in found.members[:4]] == [0, 0, 0, 0]
    last = found.members[-1].candidate
    assert (last.status, inner(last)) == (DROP, 1) and "above the target" in last.reason


def test_another_knob_follows_and_a_mod_family_may_vary_its_routing() -> None:
    found = hold("mod-60m", [4, 8, 16], "forward", "d_model")
    assert all(m.candidate.spec.d_model % 64 == 0 for m in found.members)
    spec = load("mod-60m")
    both = constant(Family(spec), {"capacity": [0.125, 0.5], "every": [1, 2]}, "n_layers", "forward", Basis(spec.seq_len, 1, 0, find_convention()))
    assert len(both.members) == 4
    assert len({m.candidate.spec.n_layers for m in both.members}) > 1
    for m in both.members:
        assert abs(m.candidate.error) < Fraction(1, 10)


def test_a_dense_layer_costs_more_than_a_routed_one_and_the_nearest_depth_is_a_member() -> None:
    """Steps of depth differ: a drift above half of the next layer may still be the least there is."""
    spec = load("mod-60m")
    basis = Basis(spec.seq_len, 1, 0, find_convention())
    (member,) = constant(Family(spec), {"capacity": [0.25], "every": [2]}, "n_layers", "train", basis).members
    c = member.candidate
    costs = {L: account(structs.replace(c.spec, n_layers=L), phase="train").flops.train_step for L in range(2, 20)}
    goal = account(spec, phase="train").flops.train_step
    assert c.spec.n_layers == min(costs, key=lambda L: abs(costs[L] - goal)) == 13
    assert 2 * member.drift > costs[14] - costs[13]
    assert (c.status, c.reason) == (OK, "")


@pytest.mark.parametrize(
    ("n_heads", "n_kv_heads", "d_model", "multiple"), [(8, None, 512, 64), (8, 2, 512, 128), (12, 6, 512, 256), (12, 4, 512, 512)]
)
def test_widths_in_the_multiple_of_the_heads_make_models_and_no_others_do(n_heads: int, n_kv_heads: int | None, d_model: int, multiple: int) -> None:
    attention = Attention(n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=64)
    family = Family(structs.replace(load("dense-60m"), d_model=d_model, attention=attention))
    assert family.head_multiple == multiple
    goal = account(family.spec, seq_len=1).params.total
    assert constant(family, {}, "d_model", "params", Basis(1, 1, 0, find_convention()), target=goal).step == multiple
    assert [D for D in range(1, 1100) if family.widths(D)] == list(range(multiple, 1100, multiple))


def test_widths_where_layers_without_a_window_have_other_heads() -> None:
    attention = Attention(n_heads=8, n_kv_heads=2, head_dim=64, window=[128, None], full=FullAttention(n_kv_heads=4, head_dim=96))
    family = Family(structs.replace(load("dense-60m"), attention=attention))
    assert family.head_multiple == 256 and [D for D in range(1, 1100) if family.widths(D)] == [256, 512, 768, 1024]
    wide = family.apply(Shape(4, 1024)).attention
    assert (wide.n_heads, wide.n_kv_heads, wide.full) == (16, 2, attention.full)
    with pytest.raises(UsageError, match="2 and 4 key/value heads divide; give a multiple of 256"):
        family.apply(Shape(4, 640))
    with pytest.raises(UsageError, match=r"attention.full.head_dim is another head dim"):
        Family(family.spec, head_dim=64)
    assert family.rules({"d_model"})[1:3] == [
        "2 key/value heads, which divide the heads",
        "in layers without a window head_dim 96, 4 key/value heads",
    ]
    many = structs.replace(attention, full=FullAttention(n_kv_heads=8))
    family = Family(structs.replace(family.spec, attention=many))
    assert family.head_multiple == 128 and family.apply(Shape(4, 640)).attention.full.n_kv_heads == 10
    assert family.rules({"d_model"})[2] == "in layers without a window as many key/value heads as heads"


def test_multiples_and_another_constant() -> None:
    found = hold("petty-41m", [2, 3], multiple_of=64, target=50_000_000)
    for m in found.members:
        L = m.candidate.spec.n_layers
        assert inner(m.candidate) % 64 == 0 and 2 * abs(m.drift) <= 64 * L * 3 * 512
        assert m.drift == account(m.candidate.spec).params.total - 50_000_000


@given(st.integers(0, 50), st.integers(1, 9), st.integers(1, 2000), st.integers(1, 200))
def test_nearest_is_the_brute_force_optimum(base: int, slope: int, goal: int, most: int) -> None:
    def cost(n: int) -> int:
        return base + slope * n

    assert nearest(cost, goal, most + 1) == min(range(1, most + 2), key=lambda n: (abs(cost(n) - goal), n))


def test_what_lies_on_the_bound_is_within() -> None:
    spec = load("dense-small")
    params = account(spec).params.total
    for target in (params, params - 1):
        options = dict(target=target, within=Fraction(params - target, target))
        found = constant(Family(spec), {}, "d_ff", "params", Basis(512, 1, 511, find_convention()), **options)
        assert [m.candidate.status for m in found.members] == [OK]


def test_members_are_written_as_specs_that_hold_their_own_cost(tmp_path: Path) -> None:
    found = hold("petty-41m", list(PETTY_41M))
    files = write_specs(tmp_path, list(specs_of(found)))
    assert len(files) == 7
    for m in found.members:
        again = load(files[id(m.candidate)])
        assert account(again).params == m.candidate.params and again.mlp.d_ff == inner(m.candidate)
    done = list(check_all([str(tmp_path)]))
    assert len(done) == 7 and all(one.ok and one.results for one in done)
    spec = structs.replace(load("petty-41m"), train=Train(batch_size=8))
    ((_, trained),) = specs_of(constant(Family(spec), {}, "d_ff", "train", Basis(512, 1, 511, find_convention())))
    assert trained.budget.train_step_flops.equals == 8 * account(spec, phase="train").flops.train_step


def test_a_share_of_a_parameter_is_no_budget() -> None:
    spec = structs.replace(load("mod-60m"), seq_len=500, mod=Mod(capacity=0.29))
    ((c, written),) = specs_of(constant(Family(spec), {}, "d_ff", "active", Basis(500, 1, 499, find_convention())))
    assert Fraction(c.cost).denominator == 25 and written.budget is None


@pytest.mark.parametrize(
    ("vary", "solve", "cost", "message"),
    [
        (["n_layers=1,2"], "n_layers", "params", "it is what --solve looks for"),
        (["n_layers=1,2"], "capacity", "params", "found 'capacity'; allowed knobs are n_layers, d_model, d_ff"),
        (["n_layers=1,2"], "d_fff", "params", "did you mean d_ff"),
        (["n_layers=1,2"], "d_ff", "kv", "do not change with it"),
        (["capacity=0.5"], "d_ff", "params", "dense family"),
        (["d_model=100"], "d_ff", "params", "d_model 100 does not make whole heads; give a multiple of 64"),
    ],
)
def test_bad_questions(vary: list[str], solve: str, cost: str, message: str) -> None:
    spec = load("petty-41m")
    with pytest.raises(UsageError, match=message):
        constant(Family(spec), parse_vary(vary), solve, cost, Basis(512, 1, 511, find_convention()))


def test_more_members_than_can_be_shown_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "MAX_MEMBERS", 6)
    ask = partial(constant, Family(load("petty-41m")), solve="d_ff", hold="params", basis=Basis(512, 1, 511, find_convention()))
    assert len(ask({"n_layers": [1, 2, 3], "d_model": [256, 512]}).members) == 6
    with pytest.raises(UsageError, match="--vary: 8 combinations; at most 6"):
        ask({"n_layers": [1, 2, 3, 4], "d_model": [256, 512]})


def test_steps_that_leave_nothing_to_choose_from() -> None:
    with pytest.raises(UsageError, match="--multiple-of 20,000: n_layers is 10,000 at most, which leaves nothing"):
        constant(Family(load("petty-41m")), {"d_ff": [64]}, "n_layers", "params", Basis(512, 1, 511, find_convention()), multiple_of=20_000)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["n_layer=1"], "did you mean n_layers"),
        (["n_layers"], "give values"),
        (["n_layers="], "give values"),
        (["n_layers=1", "n_layers=2"], "given twice"),
        (["n_layers=1,,2"], "whole number"),
    ],
)
def test_bad_vary(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_vary(texts)


def test_what_drifts_far_is_no_member() -> None:
    found = constant(Family(load("dense-small")), {"n_layers": [4, 5]}, "d_model", "params", Basis(512, 1, 511, find_convention()), multiple_of=256)
    far = [m for m in found.members if abs(m.candidate.error) > 0.05]
    assert far and all(m.candidate.status == DROP and "are too coarse" in m.candidate.reason for m in far)
    assert all(m.candidate.status == OK for m in found.members if m not in far)


def test_what_is_no_spec_is_dropped_for_that_alone() -> None:
    (m,) = constant(Family(load("mod-60m")), {"every": [99]}, "d_ff", "params", Basis(512, 1, 511, find_convention()), target=1).members
    assert m.candidate.reason.startswith("mod.every: found 99") and "the target" not in m.candidate.reason


def test_a_depth_that_makes_no_spec_gives_way_to_the_nearest_that_does() -> None:
    """Every fourth block: three layers come nearest, and have none to route."""
    spec = structs.replace(load("mod-small"), n_layers=4, mod=Mod(capacity=0.0625, every=4))
    family = Family(structs.replace(spec, mlp=structs.replace(spec.mlp, d_ff=264)))
    forward = [account(structs.replace(family.spec, n_layers=n)).flops.forward for n in (3, 4)]
    ask = partial(constant, family, {}, "n_layers", "forward", Basis(spec.seq_len, 1, 0, find_convention()))
    (m,) = ask(target=forward[0] + 1, within=Fraction(1, 2)).members
    assert (m.candidate.spec.n_layers, m.candidate.status, m.drift) == (4, OK, forward[1] - forward[0] - 1)
    (m,) = ask(target=forward[0] + 1, within=Fraction(1, 1000)).members
    assert (m.candidate.spec.n_layers, m.candidate.status) == (3, DROP) and "mod.every: found 4" in m.candidate.reason


def test_a_member_without_the_knob_does_not_end_the_others() -> None:
    """One layer has experts alone, as wide as they say themselves."""
    family = Family(structs.replace(load("dense-small"), moe=Moe(n_experts=4, top_k=2, d_ff=64, every=2, offset=0)))
    ask = partial(constant, family, solve="d_ff", hold="params", basis=Basis(512, 1, 511, find_convention()))
    members = ask({"n_layers": [1, 2, 4]}).members
    assert [m.candidate.status for m in members] == [DROP, OK, OK]
    assert members[0].candidate.reason == "parameters do not change with d_ff"
    with pytest.raises(UsageError, match="parameters do not change with it"):
        ask({"n_layers": [1]})


def test_how_far_a_member_may_drift_is_an_option(modcalc) -> None:
    words = ("family", "dense-small", "--vary", "n_layers=5", "--solve", "d_model", "--multiple-of", 256)
    code, out, _ = modcalc(*words)
    assert code == 1 and "rule: relative difference to what is held at most 0.05 (--within)" in out
    assert "are too coarse for --within 0.05" in out
    code, out, _ = modcalc(*words, "--within", "0.5", "--format", "json")
    assert code == 0 and json.loads(out)["within"] == 0.5


def test_the_nearest_is_the_smaller_of_two_as_near() -> None:
    assert nearest(lambda n: 2 * n, 3, 10) == 1


def test_a_goal_below_the_least_is_said_once_and_half_a_step_is_rounding() -> None:
    """41.3 M with d_ff of 1: how far above a goal it may lie."""
    spec = structs.replace(load("petty-41m"), n_layers=2)
    step = 2 * 3 * spec.d_model  # parameters of one unit of d_ff
    least = account(structs.replace(spec, mlp=structs.replace(spec.mlp, d_ff=1))).params.total
    for above, within, status in ((0.4, 0.05, OK), (0.6, 0.05, OK), (0.6, 0.0, DROP), (0.5 * least / step, 0.05, DROP)):
        ask = dict(target=least - int(above * step), within=Fraction(within))
        found = constant(Family(spec), {"n_layers": [2]}, "d_ff", "params", Basis(512, 1, 511, find_convention()), **ask)
        (c,) = [m.candidate for m in found.members]
        assert (c.status, inner(c)) == (status, 1) and c.reason == ("even d_ff 1 is above the target" if status == DROP else "")


def test_the_width_of_experts_is_told() -> None:
    moe = Moe(n_experts=4, top_k=2, d_ff=128, every=2)
    family = Family(structs.replace(load("dense-small"), moe=moe))
    assert any(line.startswith("experts keep moe.d_ff 128; d_ff is the width of blocks without experts") for line in family.rules({"d_ff"}))
    assert any(line.startswith("experts keep their share of d_model (moe.d_ff 128 at") for line in family.rules({"d_model"}))


def test_vary_takes_lists_and_ranges() -> None:
    assert parse_vary(["n_layers=8,1:3", "capacity=0.5,0.25"]) == {"n_layers": [1, 2, 3, 8], "capacity": [0.25, 0.5]}


def test_multiples_are_told_where_there_are_any(modcalc) -> None:
    for more, said in (((), "d_ff"), (("--multiple-of", 64), "d_ff in multiples of 64")):
        out = modcalc("family", "dense-small", "--vary", "n_layers=2", "--solve", "d_ff", *more)[1]
        assert next(line for line in out.splitlines() if "solved for: " in line).partition("solved for: ")[2] == said
