"""The lattice against the exact account of each of its shapes, and its optimum against brute force."""

from collections import Counter
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs
from strategies import specs

from modcalc.cost.account import account
from modcalc.cost.conventions import CONVENTIONS, find_convention
from modcalc.cost.ops import CAUSAL
from modcalc.errors import UsageError
from modcalc.search import lattice as lattice_module
from modcalc.search.costs import COSTS, Basis, bill
from modcalc.search.family import KNOBS, Family, Shape
from modcalc.search.isoflop import match, plan
from modcalc.search.lattice import Chunk, Lattice
from modcalc.search.results import DROP, OK
from modcalc.search.rules import Rules
from modcalc.search.select import NEAR_TIES, Best
from modcalc.spec.resolve import exact, resolve
from modcalc.spec.schema import Attention, FullAttention, Mlp, Mod, Norm, QkNorm, Spec
from modcalc.spec.validate import find_problems

LIMITS = dict(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

DENSE = Spec(name="dense", vocab_size=1000, seq_len=512, d_model=256, n_layers=4, attention=Attention(n_heads=4), mlp=Mlp(ratio=4.0))
MOD = structs.replace(DENSE, name="mod", mod=Mod())


def basis_of(spec: Spec, batch: int = 1) -> Basis:
    return Basis(spec.seq_len, batch, spec.seq_len - 1, find_convention())


@st.composite
def lattices(draw: Any) -> tuple[Family, dict[str, list], Basis]:
    """A drawn family and some of the knobs that it has."""
    family = Family(draw(specs()), multiple=draw(st.sampled_from((None, None, 8, 24))))
    spec = family.spec
    values = {
        "n_layers": st.lists(st.integers(1, 7), min_size=1, max_size=3, unique=True),
        "d_model": st.lists(st.integers(1, 4).map(lambda n: n * spec.d_model) | st.integers(4, 64), min_size=1, max_size=3, unique=True),
        "d_ff": st.lists(st.integers(1, 60), min_size=1, max_size=3, unique=True),
        "capacity": st.lists(st.sampled_from((0.125, 0.29, 0.5, 1.0, 1, 3)), min_size=1, max_size=3, unique_by=lambda c: (c, type(c))),
        "every": st.lists(st.integers(1, 3), min_size=1, max_size=2, unique=True),
    }
    axes: dict[str, list] = {}
    for knob in KNOBS:
        try:
            family.demand({*axes, knob})
        except UsageError:
            continue
        if draw(st.booleans()):
            axes[knob] = sorted(draw(values[knob]))
    rule = draw(st.sampled_from(sorted(CONVENTIONS)) | st.sampled_from([("matmul", c) for c in CAUSAL]))
    return family, axes, Basis(spec.seq_len, 1, spec.seq_len - 1, find_convention(rule) if isinstance(rule, str) else find_convention(*rule))


def alone(family: Family, shape: Shape) -> list[Shape]:
    """The rows, the width and the capacity of a shape, each with the family's own other values."""
    return [
        family.own._replace(n_layers=shape.n_layers, every=shape.every),
        family.own._replace(d_model=shape.d_model),
        family.own._replace(capacity=shape.capacity),
    ]


@settings(max_examples=300, **LIMITS)
@given(lattices())
def test_every_cost_of_a_lattice_equals_the_exact_account(drawn: tuple[Family, dict[str, list], Basis]) -> None:
    equals_the_exact_account(*drawn)


def equals_the_exact_account(family: Family, axes: dict[str, list], basis: Basis) -> None:
    lattice = Lattice(family, axes, basis, tuple(COSTS))
    seen = set()
    for chunk in lattice.chunks():
        for r in range(chunk.row.size):
            for m in range(chunk.column.size):
                index = int(chunk.row[r, 0] + chunk.column[0, m])
                seen.add(index)
                shape = lattice.shape(index)
                spec = family.apply(shape)
                assert find_problems(spec) == []
                exactly = bill(resolve(spec, basis.seq_len), COSTS, basis)
                for name in COSTS:
                    assert chunk.costs[name][r, m] == pytest.approx(float(exactly[name]), rel=1e-12), name
                assert (chunk.n_layers[r, 0], chunk.d_model[0, m]) == (spec.n_layers, spec.d_model)
                assert chunk.d_ff[0, m] == (spec.mlp.d_ff or family.widths(spec.d_model).d_ff)
    # What is not in a chunk is counted, and is no model.
    assert len(seen) + sum(lattice.excluded.values()) >= lattice.size
    assert len(seen) <= lattice.size
    for index in range(lattice.size):
        shape = lattice.shape(index)
        if index not in seen:
            assert family.widths(shape.d_model) is None or any(find_problems(family.apply(s)) for s in alone(family, shape))


@pytest.mark.parametrize("convention", ["palm", "torchtitan"])
def test_norms_of_experts_over_several_widths(convention: str) -> None:
    own = dict(n_experts=4, top_k=2, d_ff=9, n_shared=1, own_norms=True)
    fields = dict(name="x", vocab_size=11, seq_len=8, d_model=16, n_layers=2, attention=dict(n_heads=2), mlp=dict(d_ff=32), moe=own)
    spec = msgspec.convert(dict(fields, norm=dict(placement="sandwich"), mod=dict(capacity=0.5, keys="all")), Spec)
    axes = {"n_layers": [2, 3], "d_model": [16, 24, 32], "capacity": [0.25, 1.0]}
    equals_the_exact_account(Family(spec), axes, Basis(8, 1, 7, find_convention(convention)))


@settings(max_examples=60, **LIMITS)
@given(lattices(), st.integers(1, 40))
def test_chunks_of_any_size_hold_the_same_lattice(drawn: tuple[Family, dict[str, list], Basis], size: int) -> None:
    family, axes, basis = drawn

    def table() -> dict[int, tuple]:
        lattice = Lattice(family, axes, basis, ("forward", "params"))
        return {
            int(i): (f, p)
            for c in lattice.chunks()
            for i, f, p in zip((c.row + c.column).ravel(), c.costs["forward"].ravel(), c.costs["params"].ravel(), strict=True)
        }

    large = table()
    keep = lattice_module.CHUNK, lattice_module.COLUMNS
    try:
        lattice_module.CHUNK, lattice_module.COLUMNS = size, max(1, size // 2)
        small = table()
    finally:
        lattice_module.CHUNK, lattice_module.COLUMNS = keep
    assert small == large


def every_shape(family: Family, axes: dict[str, list]) -> list:
    lattice = Lattice(family, axes, basis_of(family.spec), ("params",))
    return [lattice.shape(i) for i in range(lattice.size)]


def allowed(family: Family, spec: Spec, rules: Rules) -> bool:
    """The rules, by exact fractions."""
    d_ff = resolve(structs.replace(spec, moe=None)).groups[0].block.ffn.d_ff
    params = account(spec).params.total
    values = ((rules.aspect, Fraction(spec.d_model, spec.n_layers)), (rules.ff_ratio, Fraction(d_ff, spec.d_model)), (rules.params, Fraction(params)))
    return all(bounds is None or bounds[0] <= value <= bounds[1] for bounds, value in values)


small = st.builds(
    dict,
    n_layers=st.lists(st.integers(1, 12), min_size=1, max_size=4, unique=True).map(sorted),
    d_model=st.lists(st.integers(1, 8).map(lambda n: 64 * n), min_size=1, max_size=4, unique=True).map(sorted),
    d_ff=st.lists(st.integers(1, 20).map(lambda n: 64 * n), min_size=1, max_size=4, unique=True).map(sorted),
    capacity=st.lists(st.sampled_from((0.0625, 0.125, 0.25, 0.3, 0.5, 0.9, 1.0)), min_size=1, max_size=3, unique=True).map(sorted),
    every=st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True).map(sorted),
)
bands = st.none() | st.tuples(st.integers(1, 60), st.integers(1, 120)).map(lambda b: (Fraction(min(b)), Fraction(max(b))))


@settings(max_examples=60, **LIMITS)
@given(
    axes=small,
    target=st.integers(10**8, 2 * 10**10),
    by=st.sampled_from(sorted(COSTS)),
    aspect=bands,
    prefer=st.sampled_from(("closest", "deepest", "widest", "params")),
    within=st.sampled_from((0.001, 0.02, 0.3)),
)
def test_match_finds_the_optimum_of_brute_force(axes: dict, target: int, by: str, aspect: Any, prefer: str, within: float) -> None:
    family, basis, rules = Family(MOD), basis_of(MOD), Rules(aspect=aspect)
    goal = {
        "params": target // 10**3,
        "active": target // 10**3,
        "non_embedding": target // 10**3,
        "kv": target // 10**4,
        "decode": target // 10**3,
    }.get(by, target)
    found = match(family, axes, goal, by, basis, rules, within=exact(within), prefer=prefer, limit=5)

    brute = []
    for index, shape in enumerate(every_shape(family, axes)):
        spec = family.apply(shape)
        if find_problems(spec) or not allowed(family, spec, rules):
            continue
        error = abs(Fraction(bill(resolve(spec), (by,), basis)[by] - goal) / goal)
        good = error <= exact(within)
        size = {"closest": 0, "deepest": -shape.n_layers, "widest": -shape.d_model, "params": -account(spec).params.total}[prefer]
        brute.append((not good, size if good else 0, error, index, shape))
    brute.sort(key=lambda b: b[:4])
    assert [c.shape for c in found.candidates] == [b[4] for b in brute[:5]]
    assert [c.status == OK for c in found.candidates] == [not b[0] for b in brute[:5]]
    assert [abs(c.error) for c in found.candidates] == [b[2] for b in brute[:5]]


@pytest.mark.parametrize("chunk", [7, lattice_module.CHUNK])
@pytest.mark.parametrize("prefer", ["closest", "deepest", "widest", "params"])
def test_of_more_matches_than_are_asked_for_the_preferred_stay(prefer: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn targets seldom have so many."""
    monkeypatch.setattr(lattice_module, "CHUNK", chunk)
    family, basis, target = Family(MOD), basis_of(MOD), 10**9
    axes = {"n_layers": [2, 3, 4, 5, 6, 8], "d_model": [64, 128, 192, 256], "d_ff": [64, 128, 256, 512]}
    good = []
    for index, shape in enumerate(every_shape(family, axes)):
        report = account(family.apply(shape))
        away = abs(report.flops.forward - target)
        size = {"closest": 0, "deepest": shape.n_layers, "widest": shape.d_model, "params": report.params.total}[prefer]
        if 2 * away <= target:
            good.append((-size, away, index, shape))
    found = match(family, axes, target, "forward", basis, Rules(), within=Fraction(1, 2), prefer=prefer, limit=5)
    assert len(good) > 30 and [c.shape for c in found.candidates] == [shape for *_, shape in sorted(good)[:5]]


@settings(max_examples=40, **LIMITS)
@given(
    axes=small,
    per=st.sets(st.sampled_from(KNOBS), min_size=1, max_size=3),
    target=st.integers(10**8, 2 * 10**10),
    prefer=st.sampled_from(("closest", "deepest", "widest")),
)
def test_one_row_for_each_combination_is_its_best(axes: dict, per: set[str], target: int, prefer: str) -> None:
    family, basis = Family(MOD), basis_of(MOD)
    found = match(family, axes, target, "forward", basis, Rules(), within=Fraction(1, 10), prefer=prefer, per=tuple(per), limit=10**6)
    best: dict[tuple, tuple] = {}
    for index, shape in enumerate(every_shape(family, axes)):
        spec = family.apply(shape)
        if not find_problems(spec):
            key = tuple(getattr(shape, k) for k in KNOBS if k in per)
            away = abs(account(spec).flops.forward - target)
            size = {"closest": 0, "deepest": -shape.n_layers, "widest": -shape.d_model}[prefer]
            rank = (10 * away > target, size if 10 * away <= target else 0, away, index, shape)
            best[key] = min(best.get(key, rank), rank)
    assert {c.shape for c in found.candidates} == {b[-1] for b in best.values()}


@settings(max_examples=40, **LIMITS)
@given(axes=small, budget=st.integers(10**10, 10**18), batch=st.integers(1, 64), aspect=bands)
def test_plan_finds_the_optimum_of_brute_force(axes: dict, budget: int, batch: int, aspect: Any) -> None:
    family, basis, rules = Family(MOD), basis_of(MOD, batch), Rules(aspect=aspect)
    ratio = (Fraction(1), Fraction(400))
    found = plan(family, axes, budget, basis, rules, within=Fraction(1, 1000), ratio=ratio, limit=7)
    brute = []
    for index, shape in enumerate(every_shape(family, axes)):
        spec = family.apply(shape)
        if find_problems(spec) or not allowed(family, spec, rules):
            continue
        report = account(spec, phase="train")
        steps = budget // (batch * report.flops.train_step)
        tokens = steps * batch * spec.seq_len
        good = steps >= 1 and ratio[0] <= Fraction(tokens, report.params.total) <= ratio[1]
        x = Fraction(budget * spec.seq_len, 20 * report.flops.train_step * report.params.total)
        brute.append((not good, max(x, 1 / x), index, shape, steps, tokens))
    brute.sort(key=lambda b: b[:3])
    # Beside the seven nearest, the one nearest to sqrt(C/120) may stand.
    shapes = {c.shape: c for c in found.candidates}
    assert {b[3] for b in brute[:7]} <= set(shapes) and len(shapes) <= 8
    for bad, _, _, shape, steps, tokens in brute[:7]:
        assert (shapes[shape].status == OK, shapes[shape].schedule.steps, shapes[shape].schedule.tokens) == (not bad, steps, tokens)
    marked = [c.shape for c in found.candidates if "20 tokens per parameter" in c.marks]
    assert marked == [b[3] for b in brute[:1] if not b[0]]


def test_a_plan_counts_each_rule_that_shapes_break() -> None:
    """Bounds that are no integers; what the budget pays counts against those alone that keep the rules on shapes."""
    family, axes = Family(DENSE), {"n_layers": [1, 2, 3, 4], "d_model": [64, 128, 192, 256], "d_ff": [64, 160, 256, 512]}
    aspect, ff_ratio, params = (Fraction(85, 2), Fraction(257, 2)), (Fraction(5, 4), Fraction(13, 5)), (Fraction(200_000), Fraction(900_000))
    rules, basis, budget, ratio = Rules(aspect, ff_ratio, params), basis_of(DENSE, 8), 3 * 10**14, (Fraction(121, 2), Fraction(403, 2))
    found = plan(family, axes, budget, basis, rules, within=Fraction(1), ratio=ratio, min_steps=14_000, limit=100)
    counted: Counter = Counter()
    for shape in every_shape(family, axes):
        spec = family.apply(shape)
        report = account(spec, phase="train")
        values = {
            "aspect": (aspect, Fraction(spec.d_model, spec.n_layers)),
            "d_ff ratio": (ff_ratio, Fraction(spec.mlp.d_ff, spec.d_model)),
            "parameters": (params, report.params.total),
        }
        broken = [name for name, ((low, high), value) in values.items() if not low <= value <= high]
        counted.update(broken)
        steps = budget // (8 * report.flops.train_step)
        counted["steps"] += not broken and steps < 14_000
        counted["tokens per parameter"] += not broken and not ratio[0] <= Fraction(steps * 8 * 512, report.params.total) <= ratio[1]
    assert dict(found.tally.broken) == dict(counted) and all(counted.values())
    sides = Counter()
    for c in found.candidates:
        tokens = Fraction(c.schedule.tokens, c.params.total)
        assert ("whole steps, fewer than 14,000" in c.reason) == (c.schedule.steps < 14_000)
        sides += Counter(few=tokens < ratio[0], many=tokens > ratio[1])
        assert ("parameter, fewer than 60.5" in c.reason, "parameter, more than 201.5" in c.reason) == (tokens < ratio[0], tokens > ratio[1])
    assert sides["few"] + sides["many"] == counted["tokens per parameter"] and len(sides) == 2


def test_a_match_counts_each_rule_that_shapes_break() -> None:
    """All that break it, whatever else they break; off the target only those that keep the other rules."""
    family, axes = Family(DENSE), {"n_layers": [1, 2, 3, 4], "d_model": [64, 128, 192], "d_ff": [64, 128, 256, 512]}
    rules, basis, target = Rules(aspect=(Fraction(32), Fraction(96)), ff_ratio=(Fraction(1), Fraction(2)), params=None), basis_of(DENSE), 10**9
    found = match(family, axes, target, "forward", basis, rules, within=Fraction(1, 10), limit=5)
    counted: Counter = Counter()
    for shape in every_shape(family, axes):
        spec = family.apply(shape)
        aspect, ratio = Fraction(spec.d_model, spec.n_layers), Fraction(spec.mlp.d_ff, spec.d_model)
        broken = {"aspect": not 32 <= aspect <= 96, "d_ff ratio": not 1 <= ratio <= 2}
        counted.update(name for name, bad in broken.items() if bad)
        counted["relative error"] += not any(broken.values()) and 10 * abs(account(spec, seq_len=basis.seq_len).flops.forward - target) > target
    assert dict(found.tally.broken) == dict(counted) and all(counted.values())


def test_costs_above_2_53_are_decided_by_exact_integers() -> None:
    """Two shapes whose costs differ by less than float64 can tell: the exact account says which is nearer."""
    large = structs.replace(DENSE, seq_len=2**20, d_model=2**16, attention=Attention(n_heads=512), vocab_size=10**6)
    family, basis = Family(large), Basis(2**20, 1, 0, find_convention())
    axes = {"n_layers": [126, 127, 128], "d_ff": list(range(2**18 - 3, 2**18 + 4))}
    for offset in (-1, 1, 2**21 + 1):
        target = account(family.apply(family.own._replace(n_layers=127, d_ff=2**18 + 1))).flops.forward + offset
        assert target > 2**53
        found = match(family, axes, target, "forward", basis, Rules(), within=Fraction(1), limit=3)
        everything = sorted(abs(account(family.apply(s)).flops.forward - target) for s in every_shape(family, axes))
        assert [abs(c.cost - target) for c in found.candidates] == everything[:3]


def test_counts_of_what_a_rule_leaves_out() -> None:
    axes = {"n_layers": [1, 2, 4, 8], "d_model": [64, 96, 128, 256], "d_ff": [128, 256, 512]}
    found = match(Family(MOD), axes, 10**9, "forward", basis_of(MOD), Rules(aspect=(Fraction(32), Fraction(64))), within=Fraction(1, 2), limit=100)
    # 96 has no whole heads of 64; one layer routes none; of the rest, aspect 32 … 64 holds (2, 64), (2, 128), (4, 128), (4, 256), (8, 256).
    assert found.tally.broken["heads"] == 4 * 3
    assert found.tally.broken["valid spec"] == 4 * 3
    assert found.tally.broken["aspect"] == (9 - 5) * 3
    assert found.tally.looked == 9 * 3
    assert len(found.candidates) == 5 * 3
    assert "n_layers 1, d_model 64" in found.tally.problem
    found = match(Family(MOD), {"n_layers": [1], "every": [2, 3]}, 10**9, "forward", basis_of(MOD), Rules(), within=Fraction(1))
    assert "mod.every: found 2" in found.tally.problem, "the first"


@pytest.mark.parametrize("spec", [DENSE, MOD])
def test_the_own_width_need_not_suit_another_head_dim(spec: Spec) -> None:
    family, basis = Family(spec, head_dim=48), basis_of(spec)
    assert spec.d_model % 48 and family.widths(spec.d_model) is None
    axes = {"n_layers": [2, 3], "d_model": [64, 96, 192]}
    found = match(family, axes, 10**9, "forward", basis, Rules(), within=Fraction(10**6), limit=9)
    assert found.tally.broken["heads"] == 2
    shapes = sorted((c.spec.n_layers, c.spec.d_model, c.spec.attention.n_heads) for c in found.candidates)
    assert shapes == [(2, 96, 2), (2, 192, 4), (3, 96, 2), (3, 192, 4)]
    lattice = Lattice(family, axes, basis, ("forward",))
    costs = {lattice.shape(int(i)): float(f) for c in lattice.chunks() for i, f in zip((c.row + c.column).flat, c.costs["forward"].flat, strict=True)}
    assert costs == {c.shape: c.forward for c in found.candidates}
    nothing = match(family, {"n_layers": [2]}, 10**9, "forward", basis, Rules(), within=Fraction(1), limit=9)
    assert (nothing.candidates, nothing.to_blame) == ((), "heads")


@pytest.mark.parametrize("n_kv_heads", [1, 8])
def test_other_heads_in_layers_without_a_window(n_kv_heads: int) -> None:
    """Of two widths, with as many keys as heads in each, or with one."""
    full = FullAttention(n_kv_heads=n_kv_heads, head_dim=48)
    spec = structs.replace(DENSE, d_model=256, n_layers=4, attention=Attention(n_heads=8, n_kv_heads=2, window=[64, None], full=full))
    equals_the_exact_account(Family(spec), {"d_model": [256, 512], "n_layers": [3, 4]}, basis_of(spec))


def test_one_head_has_no_norms_for_each_head() -> None:
    """Which fvcore counts otherwise."""
    attention = Attention(n_heads=4, head_dim=64, qk_norm=QkNorm(scope="per_head"))
    spec, rule = structs.replace(DENSE, norm=Norm(kind="layernorm"), attention=attention), find_convention("fvcore")
    basis = Basis(512, 1, 511, rule)
    (target, other) = (account(Family(spec).apply(Shape(4, D)), convention=rule).flops.forward for D in (64, 128))
    found = match(Family(spec), {"d_model": [64, 128]}, target, "forward", basis, Rules(), within=Fraction(0))
    assert [(c.cost, c.status) for c in found.candidates] == [(target, OK), (other, DROP)]
    assert found.tally.broken["relative error"] == 1


def test_a_lattice_too_large_to_count_is_refused() -> None:
    axes = {"n_layers": list(range(1, 1000)), "d_model": list(range(1, 100_000)), "d_ff": list(range(1, 100_000)), "every": list(range(1, 1000))}
    with pytest.raises(UsageError, match="can be searched"):
        Lattice(Family(MOD), axes, basis_of(MOD), ("forward",))


def test_few_of_what_float64_cannot_tell_apart_are_kept() -> None:
    one, many = np.ones((1, 1)), np.ones((1, 500))
    best = Best(1, groups=2, slack=1.0)
    best.offer(Chunk(np.zeros((1, 1), np.int64), np.arange(500)[None], one, many, many, {}), many, group=np.arange(500)[None] % 2)
    assert len(best.top(2)) == 2 * (1 + NEAR_TIES)


def test_memory_is_bounded_by_the_chunk() -> None:
    axes = {
        "n_layers": list(range(2, 30)),
        "d_model": [64 * n for n in range(1, 40)],
        "d_ff": list(range(1, 2000)),
        "capacity": [0.125, 0.5],
        "every": [1, 2],
    }
    lattice = Lattice(Family(MOD), axes, basis_of(MOD), ("forward",))
    assert lattice.size > 8_000_000
    sizes = [(c.size, c.costs["forward"].nbytes) for c, _ in zip(lattice.chunks(), range(20), strict=False)]
    assert max(n for n, _ in sizes) <= lattice_module.CHUNK and max(b for _, b in sizes) <= 8 * lattice_module.CHUNK
    assert isinstance(next(lattice.chunks()).costs["forward"], np.ndarray)


def test_too_many_kinds_of_blocks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lattice = Lattice(Family(MOD), {"n_layers": [2, 4], "every": [2]}, basis_of(MOD), ("forward",))
    monkeypatch.setattr(lattice_module, "MAX_COUNTS", 5)  # 2 depths, each with the frame and two kinds of blocks, are 6
    with pytest.raises(UsageError, match="2 depths with 2 kinds of blocks: too many to search"):
        next(lattice.chunks())
