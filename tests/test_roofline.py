"""Bytes that a step must move, by hand."""

from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from strategies import specs

from modcalc.cost.account import LEVELS, account
from modcalc.cost.roofline import Roof, elements_moved, roofline, rooflines, step_bytes
from modcalc.cost.workload import ROUTING, SAMPLING
from modcalc.spec.schema import Attention, Embedding, Latent, Mlp, Mod, Moe, Norm, Positions, Spec


def spec(**over) -> Spec:
    fields = dict(
        name="tiny", vocab_size=100, seq_len=16, d_model=8, n_layers=2, attention=Attention(n_heads=2, n_kv_heads=1, head_dim=6), mlp=Mlp(d_ff=20)
    )
    return Spec(**{**fields, "positions": Positions(kind="none"), "embedding": Embedding(), "norm": Norm(), **over})


def test_a_dense_step_by_hand():
    T, D, F, V, H, K, N, B = 16, 8, 20, 100, 2, 1, 6, 3
    linears = [(D, H * N), (D, K * N), (D, K * N), (H * N, D), (D, F), (F, D)]
    block = sum(B * T * (i + o) + i * o for i, o in linears) + B * T * 2 * (H + K) * N + 2 * (2 * B * T * D)
    whole = 2 * block + 2 * B * T * D + 2 * B * T * D + B * T * (D + V) + D * V  # lookup, final norm, head
    report = account(spec(), batch=B)
    assert step_bytes(report, 4) == 4 * whole
    train = account(spec(), batch=B, phase="train")
    assert step_bytes(train, 2) == 2 * (3 * whole + 7 * train.params.total)


def test_routing_moves_rows_and_saves_the_rest():
    dense, mod = account(spec()), account(spec(mod=Mod(capacity=0.25)))
    moved = {op.path: elements_moved(op) for op in mod.rows if op.component == "router"}
    assert sum(n for path, n in moved.items() if path.endswith(("gather", "scatter"))) == 2 * 2 * 4 * 8
    assert step_bytes(mod, 4) < step_bytes(dense, 4)


def test_decode_reads_the_cache():
    """One more cached token is one more key and value in every layer."""
    a, b = (account(spec(), phase="decode", context=S, batch=5) for S in (10, 11))
    assert step_bytes(b, 2) - step_bytes(a, 2) == 2 * 2 * 5 * 1 * (6 + 6)


def test_decode_reads_the_cache_of_a_routed_block_where_the_token_passes():
    """A quarter of 10 cached tokens and the token itself, for a quarter of the sequences."""
    report = account(spec(mod=Mod(capacity=0.25)), phase="decode", context=10, batch=5)
    moved = {path: elements_moved(op, True) for op in report.rows if op.kind == "attention" for path in op.paths()}
    assert moved["blocks.0.attn.core"] == 5 * (2 + 11) * (6 + 6)
    assert moved["blocks.1.attn.core"] == 5 * Fraction(1, 4) * (2 + Fraction(7, 2)) * (6 + 6)


def test_decode_reads_a_latent_cache_once():
    """Values are the first entries of the one key."""
    latent = Attention(n_heads=2, latent=Latent(kv_rank=9, nope_dim=4, rope_dim=2, v_dim=5))
    a, b = (account(spec(attention=latent, positions=Positions()), phase="decode", context=S, batch=5) for S in (10, 11))
    assert step_bytes(b, 2) - step_bytes(a, 2) == 2 * 2 * 5 * (9 + 2)


def test_decode_reads_a_routed_matrix_if_any_token_passes():
    for batch, read in ((1, 1 / 4), (2, 7 / 16), (3, 37 / 64)):
        report = account(spec(mod=Mod(capacity=0.25)), phase="decode", context=10, batch=batch)
        moved = {path: elements_moved(op, True) for op in report.rows for path in op.paths()}
        assert moved["blocks.1.mlp.up_proj"] == batch / 4 * (8 + 20) + read * 8 * 20
        assert moved["blocks.0.mlp.up_proj"] == batch * (8 + 20) + 8 * 20


def test_a_step_is_bound_by_what_takes_longer():
    report = account(spec(), batch=3)
    flops, moved = account(spec(), batch=3, causal="exact").flops.forward, step_bytes(report, 2)
    fast, slow = (roofline(report, Roof(None, 1e9, moved / flops * 1e9 * lead, "")) for lead in (2, 0.5))
    assert fast.bound == "compute" and fast.step_s == fast.compute_s == flops / 1e9 == pytest.approx(2 * fast.memory_s)
    assert slow.bound == "memory" and slow.step_s == slow.memory_s == pytest.approx(2 * slow.compute_s)
    assert fast.intensity == flops / moved


def test_the_roofline_of_a_train_step_is_the_same_in_both_phases():
    """A forward report with its backward pass, as `modcalc flops --backward` has it, and one of phase train."""
    forward, train = (account(spec(mod=Mod(capacity=0.25)), phase=phase) for phase in ("forward", "train"))
    roof = Roof(None, 1e12, 1e9, "")
    assert roofline(forward, roof, backward=True) == roofline(train, roof, backward=True) != roofline(forward, roof)
    assert roofline(train, roof, backward=True).flops == account(spec(mod=Mod(capacity=0.25)), phase="train", causal="exact").flops.train_step


def test_tokens_of_a_prompt_decide_one_by_one():
    """Eight of one sequence read a routed matrix as often as one of each of eight; the head sees the last one and is read."""
    mod = spec(mod=Mod(capacity=0.125))
    loads = []
    for work in (dict(phase="prefill", seq_len=8), dict(phase="decode", context=10, batch=8)):
        rows = {path: (op, elements_moved(op, True)) for op in account(mod, **work).rows for path in op.paths()}
        up, moved = rows["blocks.1.mlp.up_proj"]
        loads.append((moved - up.batch * up.tokens * (8 + 20)) / (8 * 20))
        head, moved = rows["head"]
        assert moved == head.batch * head.tokens * (8 + 100) + 8 * 100
    assert loads == pytest.approx([1 - 0.875**8] * 2)


def test_experts_that_some_token_needs():
    """At sampling the expectation under even use; where whole sequences pass, as many as there can be."""
    mixed = spec(moe=Moe(n_experts=5, top_k=2))

    def read(**work):
        report = account(mixed, **work)
        op = next(op for op in report.rows if op.path.endswith("experts.up_proj"))
        n = op.repeat * op.batch * op.tokens
        return (elements_moved(op, report.work.sampling) - n * (8 + 20)) / (op.repeat * 8 * 20)

    assert read(phase="decode", context=3) == 2
    assert read(phase="decode", context=3, batch=3) == pytest.approx(5 * (1 - 0.6**3)) == read(phase="prefill", seq_len=3)
    assert read(seq_len=1) == 2 and read(seq_len=2) == 4 and read(seq_len=16) == 5


WORK = (dict(phase="forward"), dict(phase="train"), dict(phase="prefill", seq_len=3, batch=2), dict(phase="decode", context=5, batch=3))


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(specs())
def test_parts_of_random_specs_add_up(drawn: Spec) -> None:
    roof = Roof(None, 1e12, 5e11, "")
    for work in WORK:
        if drawn.positions.kind == "learned" and work["phase"] in SAMPLING:
            continue  # may be too short
        for routing in ROUTING if work["phase"] in SAMPLING else ("expected",):
            report = account(drawn, routing=routing, **work)
            whole = roofline(report, roof)
            assert whole.bytes == pytest.approx(float(step_bytes(report, 2))) and whole.apart_s >= whole.step_s * (1 - 1e-9) > 0
            for by in LEVELS:
                parts = rooflines(report, roof, by).values()
                assert sum(float(part.bytes) for part in parts) == pytest.approx(float(whole.bytes))
                assert sum(part.apart_s for part in parts) == pytest.approx(whole.apart_s)
                assert all(part.intensity is None or part.intensity >= 0 for part in parts)
