"""From a budget or a model to shapes: the rule of the paper, its consequences, and what is printed about them."""

from collections import Counter
from contextlib import nullcontext
from fractions import Fraction
from math import sqrt
from pathlib import Path

import pytest
from msgspec import structs

from modcalc.cost.account import account, dense_twin
from modcalc.cost.check import check_all
from modcalc.cost.conventions import find_convention
from modcalc.cost.memory import kv_cache_bytes
from modcalc.errors import UsageError
from modcalc.render.isoflop import tables
from modcalc.search import answers
from modcalc.search.answers import Answer, Asked, knobs_apart, matched, planned
from modcalc.search.costs import Basis
from modcalc.search.defaults import around, quarters
from modcalc.search.family import Family, Shape
from modcalc.search.isoflop import MARKS, chinchilla_size, match, plan, tokens_per_param
from modcalc.search.knobs import parse_free
from modcalc.search.question import at_length, differences, terms
from modcalc.search.results import DROP, OK, Found, candidate
from modcalc.search.rules import Rules, Tally
from modcalc.search.write import folder_for, specs_of, write_specs
from modcalc.spec.load import load
from modcalc.spec.resolve import resolve
from modcalc.spec.schema import Attention, Mod, Spec

WITHIN = Fraction(1, 1000)


def quiet(text: str, size: int) -> nullcontext:
    return nullcontext(lambda n: None)


def basis(spec: Spec, rule: str = "matmul", batch: int = 128, causal: str | None = None) -> Basis:
    return Basis(spec.seq_len, batch, spec.seq_len - 1, find_convention(rule, causal))


def ask_match(spec: Spec, other: Spec, by: str = "forward", budgets: tuple = (), **options: object) -> Answer:
    scope = {k: options.pop(k) for k in ("free", "aspect", "ff_ratio", "params") if k in options}
    return matched(Asked(terms(spec, other=other, **scope), basis(spec), WITHIN, budgets, **options), other, by, quiet)


def ask_plan(spec: Spec, *budgets: int, rule: str = "matmul", light: Spec | None = None, ratio: str | None = None, **options: object) -> Answer:
    return planned(Asked(terms(spec, **options), basis(spec, rule), WITHIN, budgets), light, ratio, "params", 1, quiet)


def test_the_papers_rule_in_one_question() -> None:
    """Mixture-of-Depths models with the forward FLOPs of a dense one, deepest first (arXiv 2404.02258, section 4.1)."""
    dense, mod = load("dense-220m"), load("mod-220m")
    (_, found), *rest = ask_match(mod, dense).founds
    assert not rest
    good = [c for c in found.candidates if c.status == OK]
    assert len(good) >= 10
    depths = [c.shape.n_layers for c in good]
    assert depths == sorted(depths, reverse=True) and depths[0] > dense.n_layers
    target = account(dense).flops.forward
    for c in good:
        assert c.forward == account(c.spec).flops.forward == c.cost
        assert abs(c.forward - target) * 1000 <= target
        assert c.params.total > account(dense).params.total  # what routing frees is spent on size
        assert (c.spec.mod.capacity, c.spec.mod.every) == (0.125, 2)
        assert c.spec.attention.n_heads * 64 == c.spec.d_model


def test_every_rule_of_a_search_is_said() -> None:
    spec = load("mod-60m")
    assert [terms(spec, free=f"n_layers=1:{n}").words[0] for n in (6, 7)] == ["n_layers 1, 2, 3, 4, 5, 6", "n_layers 1 to 7 in steps of 1"]
    heads = ("head_dim 64, heads 1/64 of d_model", "key/value heads as many as heads")
    assert terms(spec).words == (
        "n_layers 2 to 128, 20 values",
        "d_model 64 to 16384, 28 values",
        *heads,
        "d_ff 4 d_model",
        "d_model / n_layers 48 to 128 (--aspect)",
    )
    assert terms(spec, free="n_layers=2:4,d_ff", params="1M:2G").words == (
        "n_layers 2, 3, 4",
        "d_ff 1536 to 2560 in steps of 64",
        "d_model / n_layers 48 to 128 (--aspect)",
        "d_ff / d_model 3 to 5 (--ff-ratio)",
        "parameters 1,000,000 to 2,000,000,000 (--params)",
    )
    assert terms(spec, free="d_ff=64+128", ff_ratio="none").words == (
        "d_ff 64, 128",
        "d_model / n_layers any (--aspect)",
        "d_ff / d_model any (--ff-ratio)",
    )
    assert terms(spec, other=load("dense-60m")).words == (
        "n_layers 7 to 56 in steps of 1",
        "d_model 256 to 1024 in steps of 64",
        "d_ff 768 to 5120 in steps of 64",
        *heads,
        "d_model / n_layers 16 to 256 (--aspect)",
        "d_ff / d_model 3 to 5 (--ff-ratio)",
    )


@pytest.mark.parametrize(
    ("n_layers", "d_model", "words"), [(12, 64, "5 to 256"), (2, 1024, "16 to 512"), (3, 1024, "16 to 342"), (4, 256, "16 to 256")]
)
def test_a_model_matches_itself_however_unusual(n_layers: int, d_model: int, words: str) -> None:
    spec = structs.replace(load("dense-60m"), n_layers=n_layers, d_model=d_model, attention=Attention(n_heads=d_model // 64))
    answer = ask_match(spec, spec)
    best = answer.founds[0][1].candidates[0]
    assert (best.status, best.error, best.shape[:2]) == (OK, 0, (n_layers, d_model))
    assert f"d_model / n_layers {words} (--aspect)" in answer.rules


def test_a_shape_that_is_fixed_is_held_to_no_aspect() -> None:
    spec = structs.replace(load("dense-60m"), n_layers=12, d_model=64, attention=Attention(n_heads=1))
    for answer in (ask_plan(spec, 10**16, free="d_ff"), ask_match(spec, spec, free="d_ff")):
        (_, found) = answer.founds[0]
        assert found.candidates[0].status == OK and "d_model / n_layers any (--aspect)" in answer.rules


def test_a_grid_of_capacity_and_frequency() -> None:
    dense, mod = load("dense-60m"), load("mod-60m")
    answer = ask_match(mod, dense, free="n_layers,d_model,d_ff,capacity,every", per="capacity,every")
    (_, found) = answer.founds[0]
    pairs = {(c.shape.capacity, c.shape.every) for c in found.candidates}
    assert pairs == {(c, e) for c in (0.125, 0.25, 0.5, 0.75) for e in (1, 2)}
    assert all(c.status == OK for c in found.candidates)
    for prefer, first in (("params", "most parameters"), ("deepest", "deepest"), ("widest", "widest")):
        assert f"{first} first" in ask_match(mod, dense, free="n_layers", prefer=prefer).rules[-1]


def test_the_reverse_the_dense_model_as_cheap_as_a_mod_model() -> None:
    dense, mod = load("dense-220m"), load("mod-220m")
    (_, found) = ask_match(dense, mod).founds[0]
    best = found.candidates[0]
    assert best.status == OK and best.spec.mod is None
    assert best.params.total < account(mod).params.total
    errors = [abs(c.error) for c in found.candidates]
    assert errors == sorted(errors)


@pytest.mark.parametrize("by", ["forward", "train", "params", "active", "kv", "decode", "non_embedding"])
def test_any_cost_can_be_matched_and_a_model_matches_itself(by: str) -> None:
    mod = load("mod-60m")
    own = f"n_layers={mod.n_layers},d_model={mod.d_model}"
    (_, found) = ask_match(mod, mod, by, free=own).founds[0]
    assert [(c.error, c.status) for c in found.candidates] == [(0, OK)]
    assert found.candidates[0].spec.mlp == mod.mlp


def test_a_match_says_what_a_budget_pays() -> None:
    dense, mod = load("dense-220m"), load("mod-220m")
    answer = ask_match(mod, dense, budgets=(6 * 10**18,))
    assert answer.target.schedule.steps == 6 * 10**18 // account(dense, batch=128, phase="train").flops.train_step
    for c in answer.founds[0][1].candidates:
        s = c.schedule
        assert s.spent == s.steps * account(c.spec, batch=128, phase="train").flops.train_step <= 6 * 10**18 < s.spent + s.step_flops
        assert s.tokens == s.steps * 128 * 2048
    other = matched(Asked(terms(mod, other=dense), basis(mod, "6nd"), WITHIN, (6 * 10**18,)), dense, "forward", quiet).target
    assert other.train == account(dense, phase="train", convention="6nd").flops.train_step != answer.target.train


def test_what_a_budget_pays_no_step_of_stands_behind_what_it_pays() -> None:
    """Whatever the number of rows; and the budget is to blame where it alone excludes all."""
    spec, within = load("dense-60m"), Fraction(1, 5)
    for prefer in ("closest", "deepest"):
        scope = terms(spec, other=spec, free="n_layers=4:40,d_model", aspect="none")
        found = [
            matched(Asked(scope, basis(spec), within, (141 * 10**12,), prefer=prefer, limit=n, per="none"), spec, "params", quiet).founds[0][1]
            for n in (3, 500)
        ]
        statuses = [c.status for c in found[1].candidates]
        assert 3 < statuses.count(OK) < len(statuses) and statuses == sorted(statuses, reverse=True)
        assert [c.spec for c in found[0].candidates] == [c.spec for c in found[1].candidates[:3]]
    (_, none) = ask_match(spec, spec, budgets=(10**9,), limit=3).founds[0]
    assert "change the budget or --batch (" in tables(ask_match(spec, spec, budgets=(10**9,)))[-1].notes[-1]
    step = account(spec, batch=128, phase="train").flops.train_step
    one_less = matched(Asked(terms(spec, other=spec), basis(spec), Fraction(1, 100), (step - 1,), limit=1), spec, "forward", quiet)
    assert [c.status for c in one_less.founds[0][1].candidates] == [OK], "another shape is cheaper"
    assert none.to_blame == "steps" and {c.reason for c in none.candidates} == {"the budget pays no whole step"}


def test_one_token_is_not_all_of_them() -> None:
    """A capacity of 1 and one of 1.0, which Python holds for equal."""
    spec = structs.replace(load("mod-60m"), n_layers=6)
    axes = {"n_layers": [4, 6], "capacity": [1.0, 1]}
    found = match(
        Family(spec), axes, account(spec).flops.forward, "forward", basis(spec), Rules(), within=Fraction(9, 10), per=("n_layers", "capacity")
    )
    shapes = [(c.shape.n_layers, type(c.shape.capacity)) for c in found.candidates]
    assert sorted(shapes, key=str) == sorted([(n, kind) for n in (4, 6) for kind in (float, int)], key=str)


@pytest.mark.parametrize("name", ["dense-60m", "dense-220m", "dense-1b", "dense-3b", "gpt2"])
def test_the_same_shape_at_one_eighth_every_other_block_never_saves_more_than_492_permille_of_the_blocks(name: str) -> None:
    dense = load(name)
    mod = structs.replace(dense, name="mod", mod=Mod())
    assert dense_twin(mod).mod is None

    def blocks(spec: Spec) -> int:
        return sum(line.forward for line in account(spec).lines("layer") if line.label.startswith("blocks."))

    routers = sum(line.forward for line in account(mod).lines("component") if line.label == "router")
    saved = 1 - Fraction(blocks(mod) - routers, blocks(dense))
    assert Fraction(2, 5) < saved < Fraction(492, 1000)


def test_sqrt_c_over_120_is_near_the_optimum_row_of_the_6nd_preset() -> None:
    budget = 6 * 10**18
    assert chinchilla_size(budget) == int(sqrt(6e18 / 120)) == 223_606_797
    answer = ask_plan(load("dense-220m"), budget, rule="6nd", free="n_layers=2:64:1,d_model=256:2048:64")
    (_, found) = answer.founds[0]
    marked = [c for c in found.candidates if c.marks]
    assert [c.marks for c in marked] == [MARKS]  # by this convention both rules are the same rule
    assert abs(Fraction(marked[0].params.total, chinchilla_size(budget)) - 1) < Fraction(1, 100)
    assert marked[0].train_per_token == 6 * marked[0].params.total


def test_a_plan_spends_the_budget_in_whole_steps() -> None:
    spec = load("dense-220m")
    answer = ask_plan(spec, 6 * 10**18, 2 * 10**19, 10**20)
    assert [b for b, _ in answer.founds] == [6 * 10**18, 2 * 10**19, 10**20]
    marks = []
    for budget, found in answer.founds:
        good = [c for c in found.candidates if c.status == OK]
        assert len(good) > 20
        sizes = [c.params.total for c in found.candidates]
        assert sizes == sorted(sizes)
        for c in good:
            s = c.schedule
            assert s.spent == s.steps * account(c.spec, batch=128, phase="train").flops.train_step
            assert 0 <= budget - s.spent < s.step_flops
            assert 1000 * (budget - s.spent) <= budget or c.reason
            assert 1 <= Fraction(s.tokens, c.params.total) <= 400
            assert 48 <= Fraction(c.spec.d_model, c.spec.n_layers) <= 128
        by_tokens = next(c for c in found.candidates if MARKS[0] in c.marks)
        assert abs(Fraction(by_tokens.schedule.tokens, by_tokens.params.total) - 20) < 4
        marks.append(by_tokens.params.total)
    assert marks == sorted(marks)


def test_what_lies_on_a_bound_is_within() -> None:
    mod = load("mod-60m")
    ask = (Family(mod), {"n_layers": [mod.n_layers]}, 10**18, basis(mod), Rules())
    ratio = tokens_per_param(plan(*ask, within=WITHIN).candidates[0])
    (c,) = plan(*ask, within=WITHIN, ratio=(ratio, ratio)).candidates
    assert c.status == OK


def test_as_many_steps_as_must_be_are_enough() -> None:
    mod = load("mod-60m")
    asked = Asked(terms(mod, free=f"n_layers={mod.n_layers}", aspect="none"), basis(mod), WITHIN, (10**18,))
    steps = 10**18 // account(mod, batch=128, phase="train").flops.train_step
    founds = [planned(asked, None, "none", "params", least, quiet).founds[0][1] for least in (steps, steps + 1)]
    assert [(c.status, c.schedule.steps) for found in founds for c in found.candidates] == [(OK, steps), (DROP, steps)]


def test_what_tells_rows_apart_stays_on_a_narrow_terminal() -> None:
    found = (tables(ask_match(load("mod-60m"), load("dense-60m"), free=f"n_layers,capacity={c}"))[0] for c in ("0.125,0.25", "0.125"))
    assert [next(column.drop for column in table.columns if column.title == "capacity") for table in found] == [0, 6]


def test_depths_are_told_apart_alone_where_all_knobs_are_too_many() -> None:
    few, many = (terms(load("mod-60m"), free=f"n_layers=1:100,capacity=0.001:{most}:0.001") for most in ("0.1", "0.101"))
    assert [knobs_apart(None, "deepest", scope) for scope in (few, many)] == [("n_layers", "capacity"), ("n_layers",)]


def test_ok_rows_that_miss_the_budget_by_more_say_why() -> None:
    spec = structs.replace(load("dense-60m"), seq_len=2048)
    answer = ask_plan(spec, 10**16, ratio="none")
    found = answer.founds[0][1]
    coarse = [c for c in found.candidates if c.status == OK and abs(c.error) > WITHIN]
    assert coarse and all(c.reason.startswith("within one step, which is ") for c in coarse)
    assert all(not c.reason for c in found.candidates if c.status == OK and abs(c.error) <= WITHIN)


def test_beside_every_row_stands_a_model_with_the_same_forward_flops() -> None:
    answer = ask_plan(load("dense-220m"), 6 * 10**18, light=load("mod-220m"))
    rows = [c for c in answer.founds[0][1].candidates if c.status == OK]
    assert sum(c.matched.status == OK for c in rows) > len(rows) / 2
    for c in rows:
        m = c.matched
        assert m.spec.mod and (abs(m.forward - c.forward) * 1000 <= c.forward) == (m.status == OK)
        if m.status == OK:
            assert m.params.total > c.params.total
            assert m.error == Fraction(m.forward - c.forward, c.forward)


@pytest.mark.parametrize(("budget", "rule"), [(10**12, "steps"), (10**30, "tokens per parameter")])
def test_a_budget_that_fits_nothing_names_the_rule_that_excluded_most(budget: int, rule: str) -> None:
    (_, found) = ask_plan(load("dense-220m"), budget).founds[0]
    assert found.candidates and all(c.status == DROP and c.reason for c in found.candidates)
    assert found.to_blame == rule and found.tally.broken[rule] + found.tally.broken["aspect"] == found.tally.size


def test_the_rule_to_blame_is_the_one_that_excluded_most() -> None:
    """Where a budget or a target still left candidates, of the rules on these alone."""
    spec = load("dense-60m")
    left = (candidate(Family(spec), Family(spec).own, basis(spec)).drop("too small"),)
    tally = Tally(20, broken=Counter({"heads": 4, "aspect": 9, "steps": 1, "relative error": 3, "d_ff ratio": 0}))
    assert (Found((), tally).to_blame, Found(left, tally).to_blame) == ("aspect", "relative error")
    assert Found((), Tally(20)).to_blame is None and Found(left, Tally(20, broken=Counter(heads=4))).to_blame == "heads"


def test_no_row_is_marked_where_none_is_ok() -> None:
    (_, found) = ask_plan(load("dense-220m"), 10**12).founds[0]
    assert not any(c.marks for c in found.candidates)


def test_an_interrupt_gives_what_was_found() -> None:
    spec, calls = load("mod-220m"), []

    def stop(n: int) -> None:
        calls.append(n)
        if len(calls) == 3:
            raise KeyboardInterrupt

    axes = parse_free("n_layers=4:40,d_model=256:2048:64,d_ff=256:8192:64", Family(spec), lambda knob, before: [])
    target = account(spec).flops.forward
    whole = match(Family(spec), axes, target, "forward", basis(spec), Rules(), within=WITHIN)
    found = match(Family(spec), axes, target, "forward", basis(spec), Rules(), within=WITHIN, advance=stop)
    assert found.tally.interrupted and not whole.tally.interrupted
    assert len(found.candidates) == 20
    assert 0 < found.tally.looked < whole.tally.looked == whole.tally.size
    assert found.candidates[0].cost == account(found.candidates[0].spec).flops.forward
    calls.clear()
    cut = plan(Family(spec), axes, 10**19, basis(spec), Rules(), within=WITHIN, advance=stop)
    assert cut.tally.interrupted and len(cut.candidates) >= 50


def test_an_interrupt_ends_the_shapes_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, own = [], answers.match

    def stopped(*args: object, **how: object) -> Found:
        calls.append(own(*args, **how))
        calls[-1].tally.interrupted = len(calls) == 2
        return calls[-1]

    monkeypatch.setattr(answers, "match", stopped)
    asked = Asked(terms(load("dense-60m")), basis(load("dense-60m")), WITHIN, (10**18,))
    answer = planned(asked, load("mod-60m"), None, "params", 1, lambda text, size: nullcontext(lambda n: None))
    assert answer.interrupted and len(calls) == 2


def test_an_interrupt_ends_the_budgets_that_follow() -> None:
    spec, budgets = load("dense-60m"), []

    def stop(n: int) -> None:
        if len(budgets) == 2:
            raise KeyboardInterrupt

    def progress(text: str, size: int) -> nullcontext:
        budgets.append(text)
        return nullcontext(stop)

    answer = planned(Asked(terms(spec), basis(spec), WITHIN, (10**18, 10**19, 10**20)), None, None, "params", 1, progress)
    assert [(budget, found.tally.interrupted) for budget, found in answer.founds] == [(10**18, False), (10**19, True)]
    assert answer.interrupted and len(budgets) == 2


def test_ties_are_broken_by_the_order_of_the_lattice() -> None:
    """The KV cache of a dense model does not depend on d_ff, so all its values tie."""
    spec = load("dense-60m")
    axes = {"n_layers": [6, 12], "d_ff": [3072, 1024, 2048]}
    target = 12 * 2 * spec.d_model * spec.seq_len * 2
    for _ in range(2):
        found = match(Family(spec), axes, target, "kv", basis(spec), Rules(), within=WITHIN, limit=6)
        assert [(c.shape.n_layers, c.shape.d_ff) for c in found.candidates] == [(12, f) for f in axes["d_ff"]] + [(6, f) for f in axes["d_ff"]]


@pytest.mark.parametrize("by", ["forward", "active", "decode"])
def test_each_combination_has_one_row_though_costs_tie(by: str) -> None:
    """In four layers every 3 and every 4 route one block alike; costs in fractions cannot be told apart before the exact count."""
    spec = structs.replace(load("mod-small"), n_layers=4, mod=Mod(capacity=0.5, every=3))
    axes = {"d_model": [128, 256, 384], "every": [3, 4]}
    at = basis(spec)
    target = {"forward": account(spec).flops.forward, "active": account(spec).params.active}.get(by) or (
        account(spec, phase="decode", context=at.context).flops.forward
    )
    for limit in (2, 20):
        found = match(Family(spec), axes, target, by, at, Rules(), within=Fraction(1, 2), per=("d_model",), limit=limit)
        widths = [c.shape.d_model for c in found.candidates]
        assert len(widths) == len(set(widths)) == min(limit, 3) and {c.shape.every for c in found.candidates} == {3}
        assert found.candidates[0].cost == target


def test_caches_of_routed_blocks_match_exactly_though_shares_are_no_floats() -> None:
    """18 x 50 = 20 x 45 = 25 x 36 = 30 x 30 = 36 x 25 tokens in all layers; 25 / 161 of 161 is no 25 in float64."""
    spec = structs.replace(load("mod-small"), seq_len=161, n_layers=30, mod=Mod(capacity=30, every=1))
    axes = {"n_layers": list(range(1, 41)), "capacity": list(range(20, 51))}
    target = kv_cache_bytes(resolve(spec), 161)
    for prefer, first in (("closest", (18, 50)), ("deepest", (36, 25))):
        found = match(Family(spec), axes, target, "kv", basis(spec), Rules(), within=Fraction(0), prefer=prefer, limit=1)
        (c,) = found.candidates
        assert ((c.shape.n_layers, c.shape.capacity), c.status) == (first, OK)
        assert found.tally.broken["relative error"] == 40 * 31 - 5


def test_a_convention_that_counts_active_parameters_matches_exactly_too() -> None:
    spec = structs.replace(load("mod-small"), seq_len=161, n_layers=30, mod=Mod(capacity=30, every=1))
    axes = {"n_layers": list(range(28, 33)), "capacity": list(range(25, 35))}
    for capacity in range(25, 35):
        target = account(structs.replace(spec, mod=Mod(capacity=capacity, every=1)), convention="torchtitan").flops.forward
        found = match(Family(spec), axes, target, "forward", basis(spec, "torchtitan"), Rules(), within=Fraction(0), limit=1)
        assert (found.candidates[0].shape[0], found.candidates[0].shape.capacity) == (30, capacity)
        assert found.tally.broken["relative error"] == 5 * 10 - 1


def test_names_that_are_taken_get_a_number(tmp_path: Path) -> None:
    """As of a family beside another of its name, of one that differs in what a file's name cannot have, and of a long one."""
    specs = [structs.replace(load("dense-small"), name=name) for name in ("a b", "a b", "A/b", "n" * 200)]
    candidates = [candidate(Family(spec), Family(spec).own, basis(spec)) for spec in specs]
    assert all(c.status == OK for c in candidates), "the name of a shape is a legal one"
    files = write_specs(tmp_path, [(c, c.spec) for c in candidates])
    assert len({file.lower() for file in files.values()}) == len({load(file).name for file in files.values()}) == 4
    assert [Path(files[id(c)]).name[:3] for c in candidates] == ["a-b", "a-b", "A-b", "nnn"]


def test_where_no_file_can_be_written_is_said(tmp_path: Path) -> None:
    spec = load("dense-small")
    c = candidate(Family(spec), Family(spec).own, basis(spec))
    (tmp_path / f"{c.spec.name}.yaml").mkdir()
    with pytest.raises(UsageError, match=rf"--out .*{c.spec.name}.yaml: Is a directory"):
        write_specs(tmp_path, [(c, c.spec)])
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--out .*/file/folder: Not a directory"):
        folder_for(str(tmp_path / "file" / "folder"), False)


def test_written_specs_load_back_bill_the_same_and_pass_their_checks(tmp_path: Path) -> None:
    dense, mod = load("dense-220m"), load("mod-220m")
    for answer in (ask_match(mod, dense), ask_match(mod, dense, "params"), ask_match(mod, mod, "kv"), ask_plan(dense, 6 * 10**18, 10**20, light=mod)):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        pairs = list(specs_of(answer))
        files = write_specs(folder, pairs)
        assert len(files) == len(pairs) >= 4
        for c, spec in pairs:
            again = load(files[id(c)])
            assert again == spec
            report = account(again)
            assert (report.flops.forward, report.params) == (c.forward, c.params)
            assert again.budget is not None and again.description and again.source is None
            if c.schedule:
                assert (again.train.steps, again.train.batch_size) == (c.schedule.steps, 128)
        done = list(check_all([str(folder)]))
        assert len(done) == len(pairs) and all(one.ok and one.results for one in done)


def test_a_spec_says_what_it_spends_and_its_name_which_of_several_budgets() -> None:
    for budgets, ends in (((10**18, 15 * 10**18), ["-1e18", "-1.5e19"]), ((10**18,), [""])):
        for c, spec in specs_of(ask_plan(load("dense-60m"), *budgets)):
            end = ends[budgets.index(c.schedule.budget)]
            assert spec.name == c.spec.name + end
            spent = {10**18: "1e18", 15 * 10**18: "1.5e19"}[c.schedule.budget]
            assert spec.description == f"spends {spent} training FLOPs; convention matmul, causal full; a shape of dense-60m"


@pytest.mark.parametrize(("name", "causal"), [("causal-half", None), ("matmul", "exact")])
def test_another_convention_writes_no_rule_that_check_would_count_otherwise(name: str, causal: str | None) -> None:
    asked = Asked(terms(load("mod-60m"), other=load("dense-60m")), basis(load("mod-60m"), name, causal=causal), WITHIN)
    pairs = list(specs_of(matched(asked, load("dense-60m"), "forward", quiet)))
    assert pairs and all(spec.budget is None and (causal or name) in spec.description for _, spec in pairs)


def test_depths_of_a_grid_are_multiples_of_the_routing_alone() -> None:
    nested = structs.replace(load("mod-60m"), mod=Mod(recursions=2, capacity=[1.0, 0.5]))
    assert [terms(spec).axes["n_layers"][:3] for spec in (nested, load("mod-60m"))] == [[1, 2, 3], [2, 4, 6]]
    assert quarters(200, 128) == [200]


def test_no_shape_is_deeper_than_a_spec_may_be() -> None:
    deep = structs.replace(load("dense-60m"), n_layers=4000, d_model=64, attention=Attention(n_heads=1))
    assert max(around(Family(deep), Shape(4000, 64))("n_layers", {})) == 10_000


def test_what_differs_between_the_models_is_said_and_how_it_counts() -> None:
    mod, other = load("mod-220m"), load("gpt2")
    lines = differences(mod, structs.replace(other, head=structs.replace(other.head, tied=False)), 2048)
    assert any("50,257" in line and "32,000" in line for line in lines)
    assert any("T = 1,024" in line and "T = 2,048" in line for line in lines)
    assert any(line.startswith("head: tied in mod-220m, a table of its own in gpt2:") for line in lines)
    assert differences(mod, load("dense-220m"), 2048) == []
    # Both are billed for as many tokens.
    answer = ask_match(at_length(mod, 1024), other)
    assert answer.target.cost == account(other, seq_len=1024).flops.forward and len(answer.notes) == 1
    with pytest.raises(UsageError, match="1024 learned positions"):
        ask_match(mod, other)
    dense = load("dense-60m")
    beside = ask_plan(dense, 10**18, light=structs.replace(load("mod-60m"), vocab_size=1000), free="n_layers=8,d_model=512")
    assert len(beside.notes) == 1 and beside.notes[0].startswith("vocabulary: mod-60m has V = 1,000, dense-60m 32,000")
    assert ask_plan(dense, 10**18, free="n_layers=8,d_model=512").notes == ()
