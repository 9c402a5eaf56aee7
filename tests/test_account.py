"""The ledger against published numbers, brute force, and itself."""

import itertools
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from strategies import specs

from modcalc import account, load
from modcalc.cost.account import LEVELS, dense_twin
from modcalc.cost.conventions import find_convention
from modcalc.cost.memory_report import memory_report
from modcalc.cost.ops import CAUSAL, AttentionCore, Linear
from modcalc.cost.remarks import is_expectation
from modcalc.cost.workload import Workload
from modcalc.errors import UsageError
from modcalc.spec.resolve import resolve
from modcalc.spec.schema import Spec

NOTES = dict(name="notes", vocab_size=1000, seq_len=512, d_model=256, n_layers=4, attention=dict(n_heads=4), mlp=dict(d_ff=1024))


def spec(**over: object) -> Spec:
    return msgspec.convert({**NOTES, **over}, Spec)


VARIANTS = {
    "dense": {},
    "mod": dict(mod={}),
    "attention": dict(mod=dict(granularity="attention")),
    "mlp": dict(mod=dict(granularity="mlp", predictor_width=7)),
    "keys of all": dict(mod=dict(keys="all")),
    "bypass": dict(mod=dict(bypass=dict(d_ff=8))),
    "moe": dict(moe=dict(n_experts=4, top_k=2, d_ff=32, n_shared=1), mod={}),
    "latent": dict(attention=dict(n_heads=4, latent=dict(kv_rank=16, nope_dim=8, rope_dim=4, v_dim=8))),
    "recursion": dict(mod=dict(recursions=3, capacity=[1.0, 0.5, 0.25])),
}


def test_exact_case_of_mixture_of_depths() -> None:
    """Dense 4,557,111,296; MoD with C=64 in blocks 2 and 4: 2,619,342,848, and 524,288 for the routers (2 T D each)."""
    assert account(spec()).flops.forward == 4_557_111_296
    report = account(spec(mod=dict(capacity=64)))
    routers = {line.label: line.forward for line in report.lines()}["router"]
    assert (report.flops.forward - routers, routers) == (2_619_342_848, 524_288)


def test_embedding_parameters_are_the_tables_of_tokens_positions_and_head() -> None:
    p = account(load("gpt2")).params
    assert (p.embedding, p.non_embedding) == ((50_257 + 1024) * 768, 12 * (12 * 768**2 + 13 * 768) + 2 * 768)
    for tied, positions in itertools.product((True, False), repeat=2):
        p = account(spec(head=dict(tied=tied, bias=True), positions=dict(kind="learned" if positions else "none"), mlp=dict(d_ff=1024))).params
        head_bias = 1000
        assert p.embedding == 256 * (1000 * (1 if tied else 2) + 512 * positions) + head_bias
        assert p.embedding + p.non_embedding == p.total and p.non_embedding == 4 * (12 * 256**2 + 2 * 256) + 256


def test_a_token_uses_a_routed_block_or_its_way_around() -> None:
    """64 of 512 tokens pass two of four blocks, router and frame see all."""
    D = 256
    p = account(spec(mod=dict(capacity=64, bypass=dict(d_ff=8)))).params
    block, around = 12 * D**2 + 2 * D, 2 * 8 * D + D
    assert p.total - p.active == 2 * (block * 7 // 8 + around // 8)


@settings(max_examples=100)
@given(specs(moe=False))
def test_a_matrix_is_active_for_the_tokens_that_meet_it(s: Spec) -> None:
    """But for the way around a threshold, which is computed for all and counts for those that take it."""
    skipped = "bypass" if s.mod and s.mod.selection == "threshold" else "none"
    for op in account(s).rows:
        if isinstance(op, Linear) and op.own and op.component != skipped:
            assert op.active == Fraction(op.tokens, op.length), op.path


@pytest.mark.parametrize("name", VARIANTS)
def test_every_level_sums_to_the_total(name: str) -> None:
    report = account(spec(**VARIANTS[name]), batch=3)
    for by in LEVELS:
        lines = report.lines(by)
        assert sum(line.forward for line in lines) == report.flops.forward
        assert sum(line.backward for line in lines) == report.flops.backward
        assert sum(line.params for line in lines) == report.params.total


@pytest.mark.parametrize("name", VARIANTS)
def test_paths_without_flops_are_left_out(name: str) -> None:
    report = account(spec(**VARIANTS[name]))
    assert report.by_path() == {line.label: line.forward for line in report.lines("path") if line.forward > 0}
    assert len(report.by_path()) < len(report.lines("path"))


@pytest.mark.parametrize("name", VARIANTS)
def test_linear_in_batch(name: str) -> None:
    one, five = (account(spec(**VARIANTS[name]), batch=b).flops for b in (1, 5))
    assert five.forward == 5 * one.forward
    assert five.backward == 5 * one.backward
    assert five.forward_per_token == one.forward_per_token


@pytest.mark.parametrize("what", [dict(), dict(granularity="attention"), dict(granularity="mlp"), dict(keys="all")])
@pytest.mark.parametrize("causal", CAUSAL)
def test_full_capacity_costs_dense_and_routers(what: dict, causal: str) -> None:
    dense = account(spec(), causal=causal).flops.forward
    assert account(spec(mod=dict(capacity=1.0, **what)), causal=causal).flops.forward == dense + 2 * 2 * 512 * 256
    assert account(spec(mod=dict(capacity=1.0, router="random", **what)), causal=causal).flops.forward == dense


def test_keys_of_all_tokens_cost_what_dense_ones_do() -> None:
    """64 of 512 tokens pass two of four blocks: an eighth of the queries, of their products with all keys and of everything behind them."""
    dense, routed = (account(spec(mod=mod)).by_path() for mod in (None, dict(capacity=64, keys="all")))
    for path, cost in dense.items():
        whole = path.startswith(("blocks.0", "blocks.2", "head")) or path.endswith(("k_proj", "v_proj"))
        assert routed.pop(path) == (cost if whole else cost // 8), path
    assert routed == {f"blocks.{i}.router": 2 * 512 * 256 for i in (1, 3)}


def test_same_shape_never_saves_more_than_49_2_percent_of_the_blocks() -> None:
    """12.5 % every other block: linear parts cost 0.5625 of dense, attention 0.5078125."""
    routed, dense = ({x.label: x.forward for x in account(spec(**v)).lines()} for v in (dict(mod={}), {}))
    assert Fraction(routed["mlp"], dense["mlp"]) == Fraction(9, 16)
    assert Fraction(routed["attention"], dense["attention"]) == Fraction(9, 16)
    assert Fraction(routed["scores"], dense["scores"]) == Fraction(65, 128)


def test_twin_of_a_recursion_is_as_deep() -> None:
    recursion = spec(mod=dict(recursions=3, capacity=[1.0, 1.0, 1.0], router="random"))
    twin = dense_twin(recursion)
    assert twin.n_layers == 12
    assert account(recursion).flops.forward == account(twin).flops.forward
    assert account(recursion).params.total == account(spec()).params.total


def test_exact_pairs_against_a_mask() -> None:
    for t, context, window in itertools.product(range(1, 8), range(5), (None, 1, 2, 3, 5, 8, 20)):
        place = dict(path="", component="", batch=1, tokens=t, length=t)
        op = AttentionCore(d_model=1, context=context + t, n_heads=1, n_kv_heads=1, head_dim=1, v_head_dim=1, window=window, **place)
        mask = [[key <= q and (window is None or q - key < window) for key in range(context + t)] for q in range(context, context + t)]
        assert op.pairs("exact") == sum(map(sum, mask))
        assert op.pairs("full") == t * (context + t)


def test_exact_pairs_of_chunks_against_a_mask() -> None:
    for t, context, window in itertools.product(range(1, 8), range(5), (1, 2, 3, 5, 8, 20)):
        place = dict(path="", component="", batch=1, tokens=t, length=t, window=window, begun=context % window)
        op = AttentionCore(d_model=1, context=context + t, n_heads=1, n_kv_heads=1, head_dim=1, v_head_dim=1, **place)
        mask = [[key <= q and key // window == q // window for key in range(context + t)] for q in range(context, context + t)]
        assert op.pairs("exact") == sum(map(sum, mask))
        assert op.pairs("full") == t * (context + t)
        assert context or 2 * op.pairs("half") == op.pairs("window") == t * min(t, window)


@pytest.mark.parametrize("window", [None, 1, 3, 20])
@pytest.mark.parametrize("chunked", [False, True])
def test_exact_pairs_of_queries_among_all_tokens_are_the_mean_over_every_choice(window: int | None, chunked: bool) -> None:
    for T, context in itertools.product((1, 4, 6), (0, 5)):
        begun = context % window if chunked and window else None

        def sees(q: int, key: int) -> bool:
            return key <= q and (window is None or (key // window == q // window if chunked else q - key < window))

        seen = [sum(sees(q, key) for key in range(context + T)) for q in range(context, context + T)]
        for t in range(1, T + 1):
            place = dict(path="", component="", batch=1, tokens=t, among=T, length=T, window=window, begun=begun)
            op = AttentionCore(d_model=1, context=context + T, n_heads=1, n_kv_heads=1, head_dim=1, v_head_dim=1, **place)
            choices = [*itertools.combinations(seen, t)]
            assert op.pairs("exact") == Fraction(sum(map(sum, choices)), len(choices))
            assert op.pairs("full") == t * (context + T)


def test_exact_pairs_are_an_expectation_where_kept_tokens_may_see_more_or_fewer() -> None:
    for mod, window, chance in (
        (dict(keys="all"), None, True),
        (dict(keys="all"), 8, True),
        (dict(keys="all"), 1, False),
        (dict(keys="all", capacity=1.0), None, False),
        (dict(), None, False),
    ):
        of = spec(mod=mod, attention=dict(n_heads=4, window=window))
        assert [is_expectation(account(of, causal=causal)) for causal in CAUSAL] == [causal == "exact" and chance for causal in CAUSAL]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_prefill_after_a_context_meets_what_a_window_holds(chunked: bool) -> None:
    """New tokens and at most window - 1 cached ones are computed; exact are those of the mask, in a routed block at most."""
    of = spec(attention=dict(n_heads=2, window=8, chunked=chunked), mod=dict(capacity=0.75, every=2))
    for t, context in itertools.product((1, 3, 4), (0, 3, 12, 16, 21)):
        at = dict(phase="prefill", seq_len=t, context=context)
        full, exact = ([op for op in account(of, causal=how, **at).rows if isinstance(op, AttentionCore)] for how in ("full", "exact"))
        plain, routed = full[0], full[1]
        assert plain.pairs("full") == t * (min(context, 7) + t)
        seen = [sum(q // 8 == key // 8 if chunked else q - key < 8 for key in range(q + 1)) for q in range(context, context + t)]
        assert exact[0].pairs("exact") == sum(seen)
        # As if the kept ones stood side by side: never fewer than any choice of so many leaves, which a whole number of them shows.
        if (3 * t) % 4 == 0 and (3 * context) % 4 == 0:
            kept, held = 3 * t // 4, 3 * context // 4
            most = max(
                sum(q // 8 == key // 8 if chunked else q - key < 8 for q in new for key in (*old, *new) if key <= q)
                for new in itertools.combinations(range(context, context + t), kept)
                for old in itertools.combinations(range(context)[-12:], min(held, 12))
            )
            assert most <= routed.pairs("exact") <= kept * (held + kept)


def test_sampling_brackets_its_expectation() -> None:
    at = dict(phase="decode", context=100)
    low, mean, high = (account(spec(mod={}), routing=r, **at).flops.forward for r in ("none", "expected", "all"))
    assert low < mean < high == account(spec(), **at).flops.forward + 2 * 2 * 256
    assert [is_expectation(account(spec(mod={}), routing=r, **at)) for r in ("none", "expected", "all")] == [False, True, False]


def test_decode_of_gpt2_after_128() -> None:
    """One token after a prefill of 128 attends to 129."""
    gpt2 = spec(
        vocab_size=50257, seq_len=1024, d_model=768, n_layers=12, attention=dict(n_heads=12, bias=True), mlp=dict(d_ff=3072, bias=True),
        norm=dict(kind="layernorm"), positions=dict(kind="learned"), head=dict(tied=True),
    )  # fmt: skip
    assert account(gpt2, phase="decode", context=128).flops.forward == 251_819_520
    for causal in ("half", "exact"):
        assert account(gpt2, phase="decode", context=128, causal=causal).flops.forward == 251_819_520


def test_decode_needs_a_context() -> None:
    gpt2 = load("gpt2")
    for bill in (account, memory_report):
        with pytest.raises(UsageError, match="phase decode: say how many tokens are already cached with context=S"):
            bill(gpt2, phase="decode")
    assert account(gpt2, phase="decode", context=0).work.context == account(gpt2, phase="prefill").work.context == 0


@pytest.mark.parametrize(
    "wrong",
    [
        dict(batch=0), dict(seq_len=0), dict(phase="traning"), dict(routing="most"), dict(context=5), dict(phase="decode", seq_len=2),
        dict(batch=2.0), dict(batch="8"), dict(seq_len=True), dict(phase="prefill", context=1.5), dict(phase="prefill", seq_len=0),
    ],
)  # fmt: skip
def test_workloads_that_make_no_sense(wrong: dict) -> None:
    with pytest.raises(UsageError):
        Workload(**{"seq_len": 1, **wrong})
    with pytest.raises(UsageError):
        account(spec(), **wrong)


@pytest.mark.parametrize("spec", ["mod-small", None])
def test_what_is_no_spec_is_told_how_to_load_one(spec: object) -> None:
    with pytest.raises(UsageError, match=r"is no Spec: modcalc\.load makes one"):
        account(spec)


@pytest.mark.parametrize("kind", ["int32", "int64", "uint8"])
def test_numpy_integers_do_not_wrap_around(kind: str) -> None:
    numpy = pytest.importorskip("numpy")
    n = getattr(numpy, kind)(100)
    for work in (dict(batch=n, phase="train"), dict(seq_len=n), dict(phase="decode", context=n), dict(phase="prefill", seq_len=n, context=n)):
        found = account(spec(n_layers=400, d_model=4096), **work)
        assert found.flops == account(spec(n_layers=400, d_model=4096), **{k: 100 if v is n else v for k, v in work.items()}).flops
        assert type(found.work.batch) is type(found.work.seq_len) is int and type(found.flops.train_step) is int
    assert type(resolve(spec(), n).seq_len) is int


def test_another_rule_for_pairs_goes_with_a_convention_of_ones_own() -> None:
    own = msgspec.structs.replace(find_convention("matmul"), name="mine")
    assert account(spec(), convention=own, causal="exact").flops == account(spec(), causal="exact").flops != account(spec(), convention=own).flops
    for rule, causal in ((own, "nonsense"), (find_convention("6nd"), "half")):
        with pytest.raises(UsageError, match="causal"):
            account(spec(), convention=rule, causal=causal)


def test_a_level_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="by 'bogus': one of total, component, layer, path"):
        account(spec()).lines("bogus")
