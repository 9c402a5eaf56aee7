"""The Plan: rounding, which blocks are routed, derived dims."""

from fractions import Fraction

import msgspec
import pytest

from modcalc.errors import UsageError
from modcalc.spec.plan import least, most
from modcalc.spec.resolve import capacities, inner_widths, resolve, selected, tokens_kept
from modcalc.spec.schema import Mod, Schedule, Spec

SMALL = dict(name="small", vocab_size=11, seq_len=16, d_model=8, n_layers=4, attention=dict(n_heads=2), mlp=dict(d_ff=12))


def spec(**over: object) -> Spec:
    return msgspec.convert({**SMALL, **over}, Spec)


@pytest.mark.parametrize(
    ("capacity", "T", "rounding", "multiple_of", "kept"),
    [
        (0.125, 2048, "floor", 1, 256),
        (0.29, 100, "floor", 1, 29),  # 0.29 * 100 is 28.999… in floats
        (0.5, 5, "floor", 1, 2),
        (0.5, 5, "ceil", 1, 3),
        (0.5, 5, "nearest", 1, 3),
        (0.125, 4, "floor", 1, 1),  # a positive share never keeps nothing
        (0.125, 100, "floor", 8, 16),
        (0.9, 10, "floor", 8, 10),  # never more than T
        (1.0, 7, "floor", 1, 7),
        (3, 7, "floor", 1, 3),
        (9, 7, "floor", 1, 7),
        (1, 7, "floor", 1, 1),
    ],
)
def test_rounding(capacity: float | int, T: int, rounding: str, multiple_of: int, kept: int) -> None:
    assert tokens_kept(capacity, T, rounding, multiple_of) == kept


def test_every_second_block_from_the_second() -> None:
    assert selected(6, 2, None, None) == [1, 3, 5]
    assert selected(6, 1, None, None) == [0, 1, 2, 3, 4, 5]
    assert selected(6, 3, 0, None) == [0, 3]
    assert selected(6, 2, None, [5, 0]) == [0, 5]


def test_equal_blocks_are_stated_once() -> None:
    plan = resolve(spec(n_layers=6, mod={"capacity": 0.5}))
    assert [(g.count, g.layers) for g in plan.groups] == [(3, (0, 2, 4)), (3, (1, 3, 5))]
    assert [r.capacity for r in plan.routed.values()] == [8, 8, 8]
    assert plan.blocks[1] is plan.blocks[5]


def test_capacity_for_each_block() -> None:
    plan = resolve(spec(mod={"capacity": [0.5, 3]}))
    assert {i: r.capacity for i, r in plan.routed.items()} == {1: 8, 3: 3}
    assert plan.routed[3].share == Fraction(3, 16)


def test_schedules_start_and_end_where_they_say() -> None:
    for kind in ("linear", "cosine"):
        got = capacities(Mod(capacity=Schedule(kind=kind, start=1.0, end=0.25)), 5)
        assert (got[0], got[-1]) == (1, Fraction(1, 4))
        assert got[2] == Fraction(5, 8)
        assert got == sorted(got, reverse=True)
    assert capacities(Mod(capacity=Schedule(kind="cosine", start=0.5, end=0.25)), 1) == [Fraction(1, 2)]


def test_recursions_choose_among_the_kept() -> None:
    plan = resolve(spec(mod={"recursions": 3, "capacity": [1.0, 0.5, 0.75]}))
    assert [r.capacity for r in plan.recursion.routings] == [16, 8, 8]
    assert not plan.routed


def test_window_pattern_repeats() -> None:
    plan = resolve(spec(n_layers=5, attention={"n_heads": 2, "window": [4, None]}))
    assert [b.attention.window for b in plan.blocks] == [4, None, 4, None, 4]


def test_ratio_rounds_up_to_a_multiple() -> None:
    assert resolve(spec(mlp={"ratio": 2.6, "multiple_of": 8})).blocks[0].ffn.d_ff == 24
    assert resolve(spec(mlp={"ratio": 2.5})).blocks[0].ffn.d_ff == 20


def test_experts_without_a_width_of_their_own_have_the_mlps() -> None:
    assert [inner_widths(spec(moe=dict(n_experts=2, top_k=1, d_ff=width))) for width in (None, 3)] == [(12, None), (None, 3)]


def test_longer_than_learned_positions() -> None:
    learned = spec(positions={"kind": "learned"})
    assert resolve(learned, 16).embedding.position_rows == 16
    with pytest.raises(UsageError, match="17 tokens are more than its 16 learned positions"):
        resolve(learned, 17)
    with pytest.raises(UsageError, match="at least 1"):
        resolve(learned, 0)


@pytest.mark.parametrize(
    "heads",
    [
        dict(n_heads=3),
        dict(n_heads=4, n_kv_heads=3),
        dict(n_heads=4, n_kv_heads=3, head_dim=2),
        dict(n_heads=4, window=[4, None], full=dict(n_kv_heads=3)),
    ],
)
def test_heads_that_do_not_divide_make_no_plan(heads: dict) -> None:
    """A file with such heads does not load; a Spec changed in Python is not billed with rounded dims."""
    with pytest.raises(UsageError, match="must divide"):
        resolve(spec(attention=heads))
    assert resolve(spec(attention=dict(n_heads=3, head_dim=2))).blocks[0].attention.head_dim == 2


def test_least_and_most_serve_ints_and_arrays() -> None:
    import numpy as np

    assert (least(3, 5), least(5, 3), most(3, 5), most(5, 3)) == (3, 3, 5, 5)
    assert least(np.array([1, 9]), 4).tolist() == [1, 4]
    assert most(np.array([1, 9]), 4).tolist() == [4, 9]


def test_one_token_and_all_tokens_stay_apart() -> None:
    """1 == 1.0 in Python, but the one is a count and the other a share."""
    plan = resolve(spec(mod={"every": 1, "capacity": [1, 1.0, 1.0, 1]}))
    assert [r.capacity for r in plan.routed.values()] == [1, 16, 16, 1]
