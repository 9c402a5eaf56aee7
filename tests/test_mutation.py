"""Proof that the agreement test can fail: each formula broken on purpose turns it red, at the module concerned."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from modcalc import account
from modcalc.cost import ledger
from modcalc.cost.ops import AttentionCore, Experts, Linear, Lookup, Op, whole
from modcalc.measure import agreement, fvcore_counter
from modcalc.spec.plan import MoePlan
from modcalc.spec.schema import Spec

Patch = pytest.MonkeyPatch


def spec(**changes: Any) -> Spec:
    base = dict(name="mutant", vocab_size=11, seq_len=16, d_model=8, n_layers=2, mlp=dict(d_ff=12, kind="gated"))
    return msgspec.convert({**base, "attention": dict(n_heads=4, n_kv_heads=2, head_dim=6, bias=True, gate="headwise"), **changes}, Spec)


GROUPED = spec()
ROUTED = spec(mod=dict(capacity=0.25, every=2, predictor_width=3, bypass=dict(d_ff=4)))
ALL_KEYS = spec(mod=dict(capacity=0.25, keys="all"))
EXPERTS = spec(moe=dict(n_experts=3, top_k=2, capacity=1.5), mod=dict(capacity=4, every=1))
RECURSIVE = spec(mod=dict(capacity=[8, 4], recursions=2))


def linear_with_bias_counted(patch: Patch) -> None:
    original = Linear.macs
    patch.setattr(Linear, "macs", lambda op, causal="full": original(op) + (op.repeat * op.tokens if op.bias else 0))


def linear_without_batch(patch: Patch) -> None:
    patch.setattr(Linear, "macs", lambda op, causal="full": op.repeat * op.tokens * op.d_in * op.d_out)


def linear_as_if_square(patch: Patch) -> None:
    patch.setattr(Linear, "macs", lambda op, causal="full": op.repeat * op.batch * op.tokens * op.d_in * op.d_in)


def causal_half_for_full(patch: Patch) -> None:
    original = AttentionCore.pairs
    patch.setattr(AttentionCore, "pairs", lambda op, causal="full": original(op, "half"))


def key_heads_for_query_heads(patch: Patch) -> None:
    patch.setattr(
        AttentionCore, "macs", lambda op, causal="full": whole(op.repeat * op.batch * op.pairs() * op.n_kv_heads * (op.head_dim + op.v_head_dim))
    )


def scores_without_values(patch: Patch) -> None:
    patch.setattr(AttentionCore, "macs", lambda op, causal="full": whole(op.repeat * op.batch * op.pairs() * op.n_heads * op.head_dim))


def routing_saves_nothing(patch: Patch) -> None:
    patch.setattr(ledger, "routed_tokens", lambda r, at: (at.tokens, 0))


def routed_attention_sees_all_keys(patch: Patch) -> None:
    original = ledger.routed_tokens
    patch.setattr(ledger, "routed_tokens", lambda r, at: (original(r, at)[0], at.tokens - original(r, at)[0]))


def keys_of_kept_tokens_only(patch: Patch) -> None:
    original = ledger.attention_rows
    patch.setattr(ledger, "attention_rows", lambda a, D, at, keys: original(a, D, at, at))


def queries_of_all_tokens(patch: Patch) -> None:
    original = ledger.attention_rows
    patch.setattr(ledger, "attention_rows", lambda a, D, at, keys: original(a, D, keys, keys))


def one_token_more(patch: Patch) -> None:
    original = ledger.routed_tokens
    patch.setattr(ledger, "routed_tokens", lambda r, at: (original(r, at)[0] + 1, 0))


def bypass_for_every_token(patch: Patch) -> None:
    original = ledger.routing_rows

    def rows(r: Any, b: Any, at: Any, kept: Any) -> list[Op]:
        return [replace(op, tokens=at.tokens) if op.component == "bypass" else op for op in original(r, b, at, kept)]

    patch.setattr(ledger, "routing_rows", rows)


def router_forgotten(patch: Patch) -> None:
    original = ledger.routing_rows
    patch.setattr(ledger, "routing_rows", lambda *args: [op for op in original(*args) if op.component != "router"])


def gate_forgotten(patch: Patch) -> None:
    original = ledger.mlp_rows
    patch.setattr(ledger, "mlp_rows", lambda *args: [op for op in original(*args) if not op.path.endswith("gate_proj")])


def gates_for_every_entry(patch: Patch) -> None:
    original = ledger.attention_rows

    def rows(a: Any, *where: Any) -> list[Op]:
        return [replace(op, d_out=op.d_out * a.v_head_dim) if op.path.endswith("gate_proj") else op for op in original(a, *where)]

    patch.setattr(ledger, "attention_rows", rows)


def lookup_as_a_product(patch: Patch) -> None:
    patch.setattr(Lookup, "macs", lambda op, causal="full": op.batch * op.tokens * op.rows * op.width)


def expert_buffer_a_slot_larger(patch: Patch) -> None:
    original = ledger.moe_rows

    def rows(m: MoePlan, *where: Any) -> list[Op]:
        return [replace(op, tokens=op.tokens + 1) if isinstance(op, Experts) else op for op in original(m, *where)]

    patch.setattr(ledger, "moe_rows", rows)


def all_experts_for_every_token(patch: Patch) -> None:
    original = Experts.macs
    patch.setattr(Experts, "macs", lambda op, causal="full": op.n_experts * original(op))


def recursion_at_first_capacity(patch: Patch) -> None:
    original = ledger.routed_tokens
    patch.setattr(ledger, "routed_tokens", lambda r, at: (max(original(r, at)[0], 8), 0))


def predictor_with_input_gradient(patch: Patch) -> None:
    patch.setattr(Op, "grad_input_flops", lambda op, causal="full": op.flops(causal))


def no_weight_gradient(patch: Patch) -> None:
    patch.setattr(Op, "grad_weight_flops", lambda op, causal="full": 0)


def attention_backward_once(patch: Patch) -> None:
    patch.setattr(AttentionCore, "grad_input_flops", lambda op, causal="full": op.flops(causal))


Mutation = Callable[[Patch], None]
# (what is broken, the spec that shows it, a path where it must show)
FORWARD: list[tuple[Mutation, Spec, str]] = [
    (linear_with_bias_counted, GROUPED, "blocks.0.attn.q_proj"),
    (linear_without_batch, GROUPED, "head"),
    (linear_as_if_square, GROUPED, "blocks.1.mlp.down_proj"),
    (causal_half_for_full, GROUPED, "blocks.1.attn.core"),
    (key_heads_for_query_heads, GROUPED, "blocks.0.attn.core"),
    (scores_without_values, GROUPED, "blocks.0.attn.core"),
    (routing_saves_nothing, ROUTED, "blocks.1.mlp.up_proj"),
    (routed_attention_sees_all_keys, ROUTED, "blocks.1.attn.core"),
    (keys_of_kept_tokens_only, ALL_KEYS, "blocks.1.attn.v_proj"),
    (queries_of_all_tokens, ALL_KEYS, "blocks.1.attn.q_proj"),
    (one_token_more, ROUTED, "blocks.1.attn.o_proj"),
    (bypass_for_every_token, ROUTED, "blocks.1.bypass.up_proj"),
    (router_forgotten, ROUTED, "blocks.1.router"),
    (gate_forgotten, ROUTED, "blocks.0.mlp.gate_proj"),
    (gates_for_every_entry, GROUPED, "blocks.1.attn.gate_proj"),
    (lookup_as_a_product, GROUPED, "embedding.tokens"),
    (expert_buffer_a_slot_larger, EXPERTS, "blocks.0.moe.experts.up_proj"),
    (all_experts_for_every_token, EXPERTS, "blocks.1.moe.experts.down_proj"),
    (recursion_at_first_capacity, RECURSIVE, "blocks.0.mlp.up_proj"),
]
BACKWARD: list[tuple[Mutation, Spec, str]] = [
    (predictor_with_input_gradient, ROUTED, "blocks.1.predictor.up_proj"),
    (no_weight_gradient, GROUPED, "blocks.0.attn.v_proj"),
    (attention_backward_once, GROUPED, "blocks.0.attn.core"),
]


def verdicts(of: Spec, backward: bool) -> list[agreement.Verdict]:
    report = account(of, batch=2)
    runs = [("torch", True)] if backward else [("fvcore", False), ("torch", False)]
    return [agreement.run(report, counter, backward=both, device="cpu") for counter, both in runs]


@pytest.mark.parametrize("of", [GROUPED, ROUTED, ALL_KEYS, EXPERTS, RECURSIVE], ids=["grouped", "routed", "keys of all", "experts", "recursive"])
def test_green_without_a_mutation(of: Spec) -> None:
    assert [v.agrees for v in (*verdicts(of, False), *verdicts(of, True))] == [True, True, True]


@pytest.mark.parametrize(
    ("mutate", "of", "path", "backward"),
    [(*case, backward) for backward, cases in ((False, FORWARD), (True, BACKWARD)) for case in cases],
    ids=[mutate.__name__ for mutate, _, _ in FORWARD + BACKWARD],
)
def test_a_broken_formula_turns_red(mutate: Mutation, of: Spec, path: str, backward: bool, monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    for verdict in verdicts(of, backward):
        assert verdict.agrees is False, verdict.counter
        assert path in {d.path for d in verdict.differences}


def test_backward_faults_do_not_show_forward(monkeypatch: Patch) -> None:
    """Why the backward pass needs a count of its own."""
    for mutate, of, _ in BACKWARD:
        mutate(monkeypatch)
        assert all(v.agrees for v in verdicts(of, False))


def test_faults_that_cancel_in_the_total_show_by_path(monkeypatch: Patch) -> None:
    original = Linear.macs

    def swapped(op: Linear, causal: str = "full") -> int:
        """What gate_proj lacks is billed to up_proj."""
        shift = 5 if op.path.endswith("mlp.up_proj") else -5 if op.path.endswith("mlp.gate_proj") else 0
        return original(op) + shift * op.repeat

    monkeypatch.setattr(Linear, "macs", swapped)
    for verdict in verdicts(GROUPED, False):
        assert verdict.counted == verdict.analytic
        assert verdict.agrees is False
        assert [str(d.path) for d in verdict.differences] == [f"blocks.{i}.mlp.{name}_proj" for i in (0, 1) for name in ("gate", "up")]


def test_a_broken_counter_turns_red(monkeypatch: Patch) -> None:
    monkeypatch.setitem(fvcore_counter.HANDLES, "aten::scaled_dot_product_attention", lambda inputs, outputs: 0)
    fvcore, torch = verdicts(GROUPED, False)
    assert (fvcore.agrees, torch.agrees) == (False, True)
    assert {d.path for d in fvcore.differences} == {"blocks.0.attn.core", "blocks.1.attn.core"}
