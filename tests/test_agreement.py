"""The ledger, fvcore and torch's FlopCounterMode: the same integers, in total and by module path."""

import subprocess
import sys
from collections import Counter
from itertools import product

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from shallow import shallow
from strategies import specs

from modcalc import account, build, load
from modcalc.cost.account import dense_twin
from modcalc.errors import UsageError
from modcalc.measure import agreement, free_ops
from modcalc.measure.counters import count
from modcalc.spec.load import shipped_specs
from modcalc.spec.schema import Mod, Spec

RUNS = (("fvcore", False), ("torch", False), ("torch", True))
EXAMPLES = 200

LLAMA_405B = dict(
    name="llama-3.1-405b",
    vocab_size=128_256,
    seq_len=8192,
    d_model=16_384,
    n_layers=126,
    attention=dict(n_heads=128, n_kv_heads=8),
    mlp=dict(d_ff=53_248, kind="gated", activation="silu"),
)


def tiny(**changes: object) -> Spec:
    base = dict(name="tiny", vocab_size=11, seq_len=16, d_model=8, n_layers=2, attention=dict(n_heads=2), mlp=dict(d_ff=12))
    return msgspec.convert({**base, **changes}, Spec)


@shallow
def assert_agrees(report: object, counter: str, backward: bool, device: str = "meta") -> agreement.Verdict:
    verdict = agreement.run(report, counter, backward=backward, device=device)
    assert verdict.reason is None, verdict.reason
    assert not verdict.differences, "\n".join(map(str, verdict.differences))
    assert verdict.counted == verdict.analytic
    assert verdict.agrees is True
    return verdict


@pytest.mark.parametrize("name", sorted(shipped_specs()))
def test_every_shipped_spec(name: str) -> None:
    report = account(load(name))
    for counter, backward in RUNS:
        verdict = assert_agrees(report, counter, backward)
        assert verdict.counted == (report.flops.train_step if backward else report.flops.forward)


def knobs(spec: Spec) -> set[str]:
    """Names of what a spec uses, for the proof that the draws below reach every part of the schema."""
    a, m, e = spec.attention, spec.mod, spec.moe
    used = {
        "grouped queries": a.latent is None and a.n_kv_heads not in (None, a.n_heads),
        "free head_dim": a.head_dim is not None and a.head_dim * a.n_heads != spec.d_model,
        "projection biases": not isinstance(a.bias, bool),
        "sinks": a.sinks,
        "softcap": a.softcap is not None,
        f"gate {a.gate}": True,
        "window": a.window is not None,
        "chunks": a.chunked,
        "values normed": a.v_norm,
        "values from keys": a.values_from_keys,
        "other heads without a window": a.full is not None,
        "values from keys without a window": a.full is not None and bool(a.full.values_from_keys),
        "qk_norm here and there": a.qk_norm is not None and a.qk_norm.rotated_only,
        "qk_norm of its own weight": a.qk_norm is not None and a.qk_norm.affine not in (None, spec.norm.affine),
        "latent": a.latent is not None,
        "latent queries": a.latent is not None and a.latent.q_rank is not None,
        f"qk_norm {a.qk_norm.scope}" if a.qk_norm else "no qk_norm": True,
        f"positions {spec.positions.kind}": True,
        f"mlp {spec.mlp.kind}": True,
        "an activation with weights": spec.mlp.activation == "xielu",
        f"placement {spec.norm.placement}": True,
        f"parallel {spec.parallel}": True,
        "unrotated layers": spec.positions.rotated is not None and not all(spec.positions.rotated),
        "narrow embedding": spec.embedding.dim not in (None, spec.d_model),
        "tied": spec.head.tied,
        "dense": m is None and e is None,
    }
    if e:
        used |= {f"moe {e.choice}": True, "dropless": e.choice == "token" and e.capacity is None, "noop": e.n_noop > 0}
        used |= {
            "own norms": e.own_norms,
            "shared experts": e.n_shared > 0,
            "shared gate": e.shared_gate,
            "expert groups": e.groups > 1,
            f"moe {e.score}": True,
        }
    if m:
        used |= {f"mod {m.granularity}": True, f"mod {m.selection}": True, f"mod {m.router}": True}
        used |= {"recursions": bool(m.recursions), "keys of all": m.keys == "all"}
        used |= {"predictor": m.predictor_width is not None, "bypass": m.bypass is not None, "list": isinstance(m.capacity, list)}
        used |= {"schedule": not isinstance(m.capacity, (list, int, float)), "mod and moe": e is not None}
    return {name for name, there in used.items() if there}


KNOBS = {
    *("grouped queries", "free head_dim", "projection biases", "sinks", "softcap", "window", "chunks", "latent", "latent queries"),
    *("qk_norm here and there", "qk_norm of its own weight"),
    *("values normed", "values from keys", "other heads without a window", "values from keys without a window"),
    "an activation with weights",
    *("gate elementwise", "gate headwise", "gate None"),
    *("qk_norm head", "qk_norm full", "qk_norm per_head", "mlp plain", "mlp gated", "narrow embedding", "tied", "dense", "unrotated layers"),
    *(f"positions {kind}" for kind in ("rotary", "learned", "alibi", "none")),
    *(f"placement {kind}" for kind in ("pre", "output", "sandwich", "post")),
    *(f"parallel {kind}" for kind in ("none", "shared_norm", "two_norms")),
    *("moe token", "moe expert", "own norms", "dropless", "noop", "shared experts", "shared gate", "expert groups"),
    *(f"moe {score}" for score in ("softmax_topk", "topk_softmax", "sigmoid")),
    *(f"mod {kind}" for kind in ("block", "attention", "mlp", "topk", "threshold", "learned", "random")),
    *("recursions", "keys of all", "predictor", "bypass", "list", "schedule", "mod and moe"),
}
DRAWS = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
FIRST = settings(DRAWS, max_examples=20_000, phases=[Phase.generate])


def test_random_specs_over_every_knob() -> None:
    seen: Counter[str] = Counter()

    def check(spec: Spec) -> None:
        seen.update(["specs", *knobs(spec)])
        report = account(spec, batch=1 + seen["specs"] % 2)
        # Small shapes are counted sooner by computing them than by torch's Python code for meta, which some are enough for.
        assert_agrees(report, "fvcore", False, "cpu")
        assert_agrees(report, "torch", True, "cpu")
        if seen["specs"] % 10 == 0:
            assert_agrees(report, "torch", False, "meta")

    DRAWS(given(specs())(check))()
    assert seen["specs"] >= 200
    for knob in sorted(KNOBS - set(seen)):  # what the draws left out by chance
        check(find(specs(), lambda spec, knob=knob: knob in knobs(spec), settings=FIRST))  # as drawn: made small it would show less
    assert set(seen) >= KNOBS


@pytest.mark.parametrize(
    "mod", [None, Mod(capacity=0.5, every=1, predictor_width=3), Mod(capacity=[0.5, 1], recursions=2)], ids=["dense", "mod", "recursive"]
)
def test_batch_and_length(mod: Mod | None) -> None:
    for batch, length in product((1, 3), (1, 2, 7, 16)):
        report = account(msgspec.structs.replace(tiny(), mod=mod), batch=batch, seq_len=length)
        for counter, backward in RUNS:
            assert_agrees(report, counter, backward)


@shallow
def test_anchors_in_multiply_adds() -> None:
    """Published by fvcore-style counters at batch 1, head counted, in multiply-adds: half the FLOPs."""
    for name, length, macs in (("gpt2", 128, 16_114_089_984), ("llama-2-7b", 128, 850_000_871_424), ("llama-2-7b", 2048, 14_630_806_093_824)):
        assert count(build(load(name), seq_len=length, device="meta"), (1, length), "fvcore").total_flops == 2 * macs


@pytest.mark.parametrize("changes", [{}, dict(moe=dict(n_experts=3, top_k=2)), dict(attention=dict(n_heads=4, n_kv_heads=2, window=3))])
def test_full_capacity_costs_dense_and_routers(changes: dict) -> None:
    spec = tiny(**changes, mod=dict(capacity=1.0, every=1))
    for counter in ("fvcore", "torch"):
        routed = count(build(spec, device="meta"), (2, 16), counter)
        dense = count(build(dense_twin(spec), device="meta"), (2, 16), counter)
        routers = {f"blocks.{i}.router": 2 * 2 * 16 * 8 for i in range(2)}
        assert routed.by_path == {**dense.by_path, **routers}
        assert routed.total_flops == dense.total_flops + sum(routers.values())


def test_the_processor_counts_what_meta_counts() -> None:
    """On the CPU attention is one fused operator, on meta two products."""
    for changes in ({}, dict(attention=dict(n_heads=4, n_kv_heads=2)), dict(moe=dict(n_experts=3, top_k=2), mod=dict(capacity=0.5))):
        report = account(tiny(**changes), batch=2)
        for counter, backward in RUNS:
            verdict = agreement.run(report, counter, backward=backward, device="cpu")
            assert verdict.agrees, (verdict.reason, verdict.differences)
            assert verdict.counted == agreement.run(report, counter, backward=backward).counted


def test_fused_attention_backward_computes_the_scores_again() -> None:
    report = account(tiny())
    counted = count(build(tiny()), (1, 16), "torch", backward=True)
    core = sum(op.flops() for op in report.rows if op.kind == "attention")
    assert core > 0
    assert counted.total_flops - report.flops.train_step == core // 2  # 3.5 times the forward, not 3
    assert {d.path for d in agreement.differences(report, counted)} == {"blocks.0.attn.core", "blocks.1.attn.core"}


def test_a_model_of_405b_parameters() -> None:
    report = account(msgspec.convert(LLAMA_405B, Spec))
    assert report.params.total == 405_853_388_800
    assert_agrees(report, "fvcore", False)


def test_what_costs_nothing_is_told() -> None:
    free = [agreement.run(account(tiny(**changes)), "torch").free for changes in ({}, dict(mod={}))]
    assert ["aten::topk" in calls for calls in free] == [False, True]


def test_another_convention_is_compared_as_counters_count() -> None:
    report = account(tiny(), causal="exact")
    verdict = assert_agrees(report, "torch", False)
    assert verdict.analytic == account(tiny()).flops.forward > report.flops.forward


def test_a_counter_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_ops, "FREE", free_ops.FREE - {"topk", "sort"})
    free_ops.is_free.cache_clear()
    try:
        found = [agreement.run(account(tiny(mod={})), counter) for counter in ("fvcore", "torch")]
    finally:
        free_ops.is_free.cache_clear()
    assert [(v.counted, v.agrees, v.unseen) for v in found] == [(None, None, {"aten::sort": 1, "aten::topk": 1})] * 2
    assert "aten::sort (1 call), aten::topk (1 call)" in found[0].reason
    assert found[0].analytic == account(tiny(mod={})).flops.forward


def test_importing_loads_no_torch() -> None:
    code = "import sys, modcalc.measure.agreement; print(sorted({'torch', 'fvcore', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_sampling_is_billed_not_run() -> None:
    with pytest.raises(UsageError, match="phase decode: counters run the model over whole sequences"):
        agreement.run(account(tiny(), phase="decode", context=3), "torch")


def test_results_of_a_check() -> None:
    results = agreement.counter_results(tiny())
    assert [(str(r.rule).split(" ==")[0], r.ok, r.actual) for r in results] == [
        (f"forward_flops by {counter}", True, account(tiny()).flops.forward) for counter in ("fvcore", "torch")
    ]
