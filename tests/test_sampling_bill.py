"""What sampling is billed: FLOPs and cache bytes against what torch counts and what real decisions make of them."""

from fractions import Fraction

import msgspec
import pytest
import torch
from modcalc.models import Cache, Decoder, causal_forward, decode, prefill
from modcalc.models.causal import Pass
from msgspec.structs import replace
from test_sampling import in_steps, model_of, passed, tokens_of
from torch.utils.flop_counter import FlopCounterMode
from variants import BASE, LATENT, spec_of

from modcalc import account, build, check_spec
from modcalc.cost.account import dense_twin
from modcalc.cost.compare import kv_bytes
from modcalc.cost.memory import kv_cache_bytes
from modcalc.cost.memory_report import memory_report
from modcalc.cost.remarks import is_expectation
from modcalc.errors import UsageError
from modcalc.spec.resolve import resolve
from modcalc.spec.schema import Mod, Moe, Spec

ROUTED = [
    "mod",
    "mod, attention",
    "mod, all keys",
    "mod, all keys, latent",
    "mod, mlp",
    "mod, bypass",
    "mod, predictor",
    "mod, latent",
    "mod, threshold, bypass",
    "mode, staged",
    "mod, random",
]
each_routed = pytest.mark.parametrize("name", ROUTED)
KINDS = {
    "plain": dict(n_heads=2),
    "grouped": dict(n_heads=4, n_kv_heads=2),
    "window": dict(n_heads=2, window=3),
    "chunks": dict(n_heads=2, window=3, chunked=True),
    "latent": dict(n_heads=4, latent=LATENT),
    "sinks, softcap": dict(n_heads=4, n_kv_heads=1, sinks=True, softcap=5.0),
    "elementwise gates": dict(n_heads=4, n_kv_heads=2, gate="elementwise"),
    "headwise gates": dict(n_heads=4, latent=LATENT, gate="headwise"),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def prefilled(model: Decoder, prompt: torch.Tensor) -> tuple[int, Cache]:
    """FLOPs that torch counts in a prefill, and the cache."""
    cache = Cache(model.plan, prompt.shape[0])
    with FlopCounterMode(display=False) as counter:
        prefill(model, prompt, cache)
    return counter.get_total_flops(), cache


def decoded(model: Decoder, tokens: torch.Tensor, cache: Cache) -> list[int]:
    """FLOPs that torch counts in each decode step of the tokens that the cache has not seen."""
    counts = []
    for t in range(cache.length, tokens.shape[1]):
        with FlopCounterMode(display=False) as counter:
            decode(model, tokens[:, t], cache)
        counts.append(counter.get_total_flops())
    return counts


def billed(s: Spec, **workload: object) -> object:
    return account(s, **workload).flops.forward


def extra(s: Spec, **workload: object) -> object:
    """What one routed block costs more if its tokens pass than if they do not; all routed blocks of `s` are equal."""
    every, parts = billed(s, routing="all", **workload) - billed(s, routing="none", **workload), len(account(s).plan.routed)
    assert every % parts == 0
    return every // parts


def passing(s: Spec, n: int, T: int) -> object:
    """What n of T tokens cost a routed block in a prefill: as many tokens by themselves, or each its part where all bring keys, which
    latent attention expands once."""
    if s.mod.keys == "kept":
        return extra(s, phase="prefill", seq_len=n)
    report = account(s, phase="prefill", seq_len=T, routing="all")
    once = report.by_path().get(f"blocks.{min(report.plan.routed)}.attn.kv_up", 0)
    return Fraction((extra(s, phase="prefill", seq_len=T) - once) * n, T) + once


def decode_cost(s: Spec, rows: list[list[list[int]]], t: int) -> object:
    """The bill of token t given who passed where: nobody's, and for each that passes a block over those that passed before.

    Rows of a batch that pass together are computed over as many keys as the fullest of them has.
    """
    cost = billed(s, phase="decode", context=t, batch=len(rows[0]), routing="none")
    for block in rows:
        before = [t if s.mod.granularity == "mlp" or s.mod.keys == "all" else row.index(t) for row in block if t in row]
        cost += len(before) * extra(s, phase="decode", context=max(before)) if before else 0
    return cost


@each_kind
def test_a_dense_model_costs_what_is_billed(kind: str) -> None:
    s = spec_of(dict(attention=KINDS[kind]))
    model = build(s, attention="explicit")
    tokens = tokens_of(model, 2, 10)
    first, cache = prefilled(model, tokens[:, :4])
    assert first == billed(s, phase="prefill", seq_len=4, batch=2)
    assert decoded(model, tokens, cache) == [billed(s, phase="decode", context=c, batch=2) for c in range(4, 10)]


@each_routed
@pytest.mark.parametrize("batch", [1, 3])
def test_decode_costs_the_bill_of_its_decisions(name: str, batch: int) -> None:
    """Step by step the same integers."""
    s, model = spec_of(name), model_of(name, dtype="fp32", attention="explicit")
    tokens = tokens_of(model, batch, 12)
    rows = passed(causal_forward(model, tokens))
    assert 0 < sum(len(row) for block in rows for row in block) < 2 * batch * 12
    _, cache = prefilled(model, tokens[:, :4])
    assert decoded(model, tokens, cache) == [decode_cost(s, rows, t) for t in range(4, 12)]


@pytest.mark.parametrize("capacity", [0.25, 0.3, 1.0, 1.9, 8.0])
@pytest.mark.parametrize("mod", [None, dict(capacity=0.5), dict(recursions=2, capacity=[1.0, 0.4])])
def test_experts_that_choose_are_billed_as_in_a_whole_sequence(capacity: float, mod: dict | None) -> None:
    """At the share that they choose there, rounded and with every token at most once: as the expectation of a prefill of as many tokens."""
    s = msgspec.convert({**BASE, "moe": dict(n_experts=4, choice="expert", capacity=capacity), "mod": mod}, Spec)

    def experts(**work: object) -> dict[str, object]:
        return {path: flops for path, flops in account(s, **work).by_path().items() if ".experts." in path}

    assert experts(phase="prefill", seq_len=s.seq_len) == experts()
    step = experts(phase="decode", context=5)
    assert {path: s.seq_len * flops for path, flops in step.items()} == experts()
    # Where every token passes every block, experts see whole sequences.
    dense = msgspec.structs.replace(s, mod=None, n_layers=dense_twin(s).n_layers)
    every = {path: flops for path, flops in account(dense, phase="decode", context=5).by_path().items() if ".experts." in path}
    assert sum(experts(phase="decode", context=5, routing="all").values()) == sum(every.values())


@each_routed
def test_prefill_costs_the_bill_of_its_decisions(name: str) -> None:
    """Of one sequence only the tokens that pass are computed."""
    s, model = spec_of(name), model_of(name, dtype="fp32", attention="explicit")
    for seed in range(4):
        tokens = tokens_of(model, 1, 12, seed)
        rows = passed(causal_forward(model, tokens))
        cost = billed(s, phase="prefill", seq_len=12, routing="none")
        for (row,) in rows:
            cost += passing(s, len(row), 12) if row else 0
        assert prefilled(model, tokens)[0] == cost


@pytest.mark.parametrize("name", [*ROUTED, "mod, window", "mod, chunks", "recursions", "recursions, predictor", "recursions, experts"])
@pytest.mark.parametrize("routing", ["all", "none"])
def test_best_and_worst_case(name: str, routing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody, or nobody, passes: FLOPs of prefill and decode and bytes of the cache are those billed."""
    decide = Pass._decide

    def forced(*args: object) -> tuple:
        r, passes, predicted = decide(*args)
        return r, torch.full_like(passes, routing == "all"), predicted

    monkeypatch.setattr(Pass, "_decide", forced)
    s, model = spec_of(name), model_of(name, dtype="fp32", attention="explicit")
    tokens = tokens_of(model, 2, 7)
    first, cache = prefilled(model, tokens[:, :4])
    assert first == billed(s, phase="prefill", seq_len=4, batch=2, routing=routing)
    assert decoded(model, tokens, cache) == [billed(s, phase="decode", context=c, batch=2, routing=routing) for c in range(4, 7)]
    assert cache.used_bytes == kv_cache_bytes(account(s).plan, 7, "fp32", batch=2, routing=routing)


@pytest.mark.parametrize("top_k, n_noop, fewest, most", [(1, 1, 0, 1), (2, 1, 1, 2), (2, 4, 0, 2), (4, 2, 2, 3)])
def test_real_experts_lie_between_the_fewest_and_the_most(top_k: int, n_noop: int, fewest: int, most: int) -> None:
    """Of 3 real ones, and no-ops beside them, whatever is chosen."""
    moe = Moe(n_experts=3, top_k=top_k, n_noop=n_noop, capacity=1.0)
    s = check_spec(replace(spec_of("mode, staged"), mod=Mod(capacity=0.5), moe=moe))
    reports = [account(s, phase="decode", context=4, routing=routing) for routing in ("none", "expected", "all")]
    own = reports[0].plan.blocks[0]
    one = 2 * own.d_model * own.ffn.expert.d_ff
    found = [report.by_path().get("blocks.0.moe.experts.up_proj", 0) for report in reports]
    assert found == [one * fewest, one * Fraction(3 * top_k, 3 + n_noop), one * most]
    assert [is_expectation(report) for report in reports] == [False, True, False]
    rows: list[int] = []
    model = build(s, seed=1)
    for block in model.blocks:
        block.moe.experts.register_forward_pre_hook(lambda module, inputs: rows.append(inputs[1][1][-1].item()))
    for seed in range(6):
        in_steps(model, tokens_of(model, 1, 12, seed), 1)
    assert fewest <= min(rows) < max(rows) <= most


@pytest.mark.parametrize(
    "routing, window, dense, routed",
    [("expected", None, 3 + 8, Fraction(3, 4) * (1 + 2)), ("all", None, 3 + 8, 3 + 8), ("none", None, 3 + 8, 0), ("all", 4, 3 + 3, 3 + 3)],
)
def test_a_prefill_expands_the_latents_that_are_cached(routing: str, window: int | None, dense: int, routed: Fraction) -> None:
    """Tokens that meet kv_up: 3 new ones and 8 before them, or as many as a window holds beside a query; a quarter of each passes,
    so fewer than one of the new ones on average, and where none does, none before it is expanded."""
    s = replace(spec_of("mod, latent"), mod=Mod(capacity=0.25), seq_len=16)
    s = replace(s, attention=replace(s.attention, window=window))
    report = account(s, phase="prefill", seq_len=3, context=8, batch=2, routing=routing)
    lat = report.plan.blocks[0].attention.latent
    each = 2 * 2 * lat.kv_rank * report.plan.blocks[0].attention.n_heads * (lat.nope_dim + report.plan.blocks[0].attention.v_head_dim)
    found = report.by_path()
    assert [found.get(f"blocks.{i}.attn.kv_up", 0) for i in (0, 1)] == [each * dense, each * routed]


@pytest.mark.parametrize("name", [*ROUTED, "mod, one token", "mod, capacities", "recursions"])
@pytest.mark.parametrize("context", [0, 5])
def test_a_prompt_of_one_token_passes_by_the_share_of_whole_sequences(name: str, context: int) -> None:
    """C of 1 token would be 1: all of them. It is a step of decode, but for attention, where a prefill leaves out a variance."""
    s = spec_of(name)
    one, step = (account(s, context=context, **phase) for phase in (dict(phase="prefill", seq_len=1), dict(phase="decode")))
    other = ("core", "kv_up") if context else ("core",)  # a prefill expands the latents that are cached
    costs = [{path: n for path, n in report.by_path().items() if not path.endswith(other)} for report in (one, step)]
    assert costs[0] == costs[1] and one.params == step.params
    assert one.flops.forward <= step.flops.forward or name.endswith("latent")
    caches = [kv_bytes(report) for report in (one, step)]
    memory = [memory_report(s, context=context, **phase).memory.kv_cache for phase in (dict(phase="prefill", seq_len=1), dict(phase="decode"))]
    assert caches[0] == caches[1] and memory[0] == memory[1]
    if context:
        return
    ten = memory_report(s, phase="prefill", seq_len=10)
    assert ten.memory.kv_cache == memory_report(s, phase="decode", context=9).memory.kv_cache
    assert ten.twin.kv_cache == memory_report(dense_twin(s), phase="prefill", seq_len=10).memory.kv_cache


def test_a_plan_of_whole_sequences_bills_any_prompt() -> None:
    s = spec_of("mod")
    assert account(resolve(s), phase="prefill", seq_len=5).flops == account(s, phase="prefill", seq_len=5).flops
    with pytest.raises(UsageError, match="the plan is for 12 tokens, the workload for 5"):
        account(resolve(s), seq_len=5)


def test_expected_cost_against_real_decisions() -> None:
    """The control passes each token with probability C / T whatever came before: the mean over many decisions nears the bill.

    Its steps cost the bill of their decisions, as shown above, so decisions are enough.
    """
    share, layers, T = 0.25, 400, 64
    s = spec_of(dict(seq_len=T, mod=dict(capacity=share, router="random")))
    many = spec_of(dict(seq_len=T, n_layers=layers, mod=dict(capacity=share, router="random", every=1)))
    rows = [row for block in passed(causal_forward(model_of(many, dtype="fp32"), torch.zeros(1, T, dtype=torch.long))) for row in block]
    each = {c: extra(s, phase="decode", context=c) for c in range(T)}
    for t in range(8, T, 11):
        found = sum(each[row.index(t)] for row in rows if t in row) / layers
        expected = (billed(s, phase="decode", context=t) - billed(s, phase="decode", context=t, routing="none")) / 2
        assert found == pytest.approx(float(expected), rel=0.2)
    total = sum(each[i] for row in rows for i in range(len(row))) / layers
    expected = sum(billed(s, phase="decode", context=t) - billed(s, phase="decode", context=t, routing="none") for t in range(T)) / 2
    assert total == pytest.approx(float(expected), rel=0.02)
    held = sum(map(len, rows)) / layers * 2 + 2 * T  # two routed blocks and two that hold all
    assert held * 2 * 8 * 4 == pytest.approx(float(kv_cache_bytes(account(s).plan, T, "fp32")), rel=0.02)


def test_the_control_keeps_a_recursions_share_of_all_tokens() -> None:
    """Each recursion chooses among what the one before kept, so that C of T tokens are left."""
    T, shares = 2000, (0.75, 0.5, 0.25)
    mod = dict(recursions=3, capacity=list(shares), router="random")
    model = model_of(spec_of(dict(n_layers=1, seq_len=T, mod=mod)), dtype="fp32")
    counts = [len(rows[0]) for rows in passed(causal_forward(model, torch.zeros(1, T, dtype=torch.long)))]
    assert [n / T for n in counts] == pytest.approx(shares, abs=0.03)


@each_kind
def test_cache_bytes_are_those_billed(kind: str) -> None:
    """fp64 caches of the model hold twice the bytes that the ledger bills in fp32."""
    model = model_of(spec_of(dict(attention=KINDS[kind])))
    _, cache = in_steps(model, tokens_of(model, 2, 11), 6)
    assert cache.used_bytes == 2 * kv_cache_bytes(model.plan, 11, "fp32", batch=2)


def test_a_predictor_that_does_not_decide_is_not_run() -> None:
    spec = spec_of({"mod": {"capacity": 0.25, "predictor_width": 5, "decide": "router"}})
    model, tokens = build(spec), torch.zeros(2, 12, dtype=torch.int64)
    assert all(r.predicted is None for r in causal_forward(model, tokens).routing)
    assert all(r.predicted is not None for r in causal_forward(model, tokens, decide="predictor").routing)
    one, decided = (account(replace(spec, mod=replace(spec.mod, decide=how)), phase="decode", context=11) for how in ("router", "predictor"))
    assert one.params == decided.params == account(spec).params
    assert decided.flops.forward - one.flops.forward == 2 * 2 * (16 * 5 + 5)  # of two blocks
