"""The torch models against a reference in plain loops, against themselves, and in use."""

import msgspec
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, reject, settings
from modcalc.models.attention import Core
from modcalc.models.losses import routings, training_loss
from modcalc.models.norms import Norm
from modcalc.models.positions import Positions
from naive import Tie, equals_naive
from strategies import specs
from variants import each_variant, model_of, scramble, short_of, spec_of, tokens_of

import modcalc
from modcalc.errors import UsageError
from modcalc.spec.load import shipped_specs
from modcalc.spec.plan import NormPlan
from modcalc.spec.schema import Spec


@each_variant
def test_equals_the_naive_reference(name: str) -> None:
    model = model_of(short_of(name), dtype="float64")
    scramble(model)
    equals_naive(model, tokens_of(spec_of(name)))


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(specs())
def test_any_spec_equals_the_naive_reference(spec: Spec) -> None:
    # A norm over one or two dims gives nearly constants: its gradient is the rounding of what cancels in it.
    latent = spec.attention.latent
    assume(latent is None or min(latent.kv_rank, latent.q_rank or latent.kv_rank) > 2)
    # A norm of what was dropped, of zeros, makes large numbers of rounding.
    assume(not (spec.moe and spec.moe.own_norms and spec.moe.capacity))
    spec = msgspec.structs.replace(spec, vocab_size=max(spec.vocab_size, spec.seq_len))
    model = modcalc.build(spec, dtype="float64")
    scramble(model)
    try:
        equals_naive(model, tokens_of(spec))
    except Tie:
        reject()


@pytest.mark.parametrize("name", sorted(shipped_specs()))
def test_parameters_of_shipped_specs_are_those_of_the_ledger(name: str) -> None:
    spec = modcalc.load(name)
    model = modcalc.build(spec, device="meta")
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == modcalc.account(spec).weights()


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(specs())
def test_parameters_are_those_of_the_ledger(spec: Spec) -> None:
    model = modcalc.build(spec, device="meta")
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == modcalc.account(spec).weights()


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(specs())
def test_explicit_products_equal_the_fused_kernel(spec: Spec) -> None:
    found = []
    for attention in ("sdpa", "explicit"):
        model = modcalc.build(spec, dtype="float64", attention=attention)
        scramble(model)
        torch.manual_seed(1)
        found.append(model(tokens_of(spec) % spec.vocab_size))
    fused, explicit = found
    for one, other in zip(fused.routing, explicit.routing, strict=True):
        if not torch.equal(one.kept, other.kept):
            # Equal tokens that attention tells nothing apart have equal scores up to rounding: either may be kept.
            ranked = one.scores.sort(dim=1, descending=True).values
            C = one.kept.shape[1]
            assert (ranked[:, C - 1] - ranked[:, C]).min() < 1e-10
            return
    torch.testing.assert_close(fused.logits, explicit.logits, rtol=1e-10, atol=1e-10)


@each_variant
def test_they_run_on_meta_without_memory(name: str) -> None:
    spec = spec_of(name)
    out = modcalc.build(spec, device="meta")(torch.zeros(2, spec.seq_len, dtype=torch.int64, device="meta"))
    assert out.logits.is_meta and out.logits.shape == (2, spec.seq_len, spec.vocab_size)
    assert [tuple(r.kept.shape)[1] for r in out.routing] == [r.capacity for r in routings(modcalc.resolve(spec))]


@each_variant
def test_they_train(name: str) -> None:
    spec = spec_of(short_of(name))
    model, tokens = modcalc.build(spec, seed=1), tokens_of(spec, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        loss, parts = training_loss(model, tokens[:, :], tokens.roll(-1, 1))
        losses.append(float(parts["cross_entropy"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


@each_variant
@pytest.mark.parametrize("mode", ["bf16 weights", "autocast"])
def test_bf16_is_finite_and_its_router_is_not_bf16(name: str, mode: str) -> None:
    spec = spec_of(name)
    model, tokens = modcalc.build(spec, dtype="bf16" if mode == "bf16 weights" else None), tokens_of(spec)
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        out = model(tokens)
        loss, _ = training_loss(model, tokens, tokens)
    loss.backward()
    assert out.logits.dtype is torch.bfloat16 and loss.dtype is torch.float32 and torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert all(r.scores.dtype is torch.float32 for r in out.routing)


@pytest.mark.parametrize("choice", [dict(top_k=2), dict(choice="expert", capacity=1.0)])
def test_experts_are_weighted_by_the_plans_factor(choice: dict) -> None:
    """Twice the factor, twice what they add to the residual stream."""
    added = []
    for scaling in (1.0, 2.0):
        torch.manual_seed(0)
        model = modcalc.build(spec_of(dict(n_layers=1, moe=dict(n_experts=4, d_ff=8, scaling=scaling, **choice))), dtype="float64")
        x = torch.randn(2, 12, model.plan.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        added.append(model.blocks[0].moe(x, x))
    torch.testing.assert_close(added[1], 2 * added[0], rtol=1e-12, atol=0)
    assert added[0].abs().max() > 0


def test_a_sequence_of_another_length_is_refused() -> None:
    with pytest.raises(UsageError, match="build it with seq_len=5"):
        model_of("mod")(torch.zeros(1, 5, dtype=torch.int64))
    with pytest.raises(UsageError, match="learned positions"):
        model_of(dict(positions=dict(kind="learned")))(torch.zeros(1, 13, dtype=torch.int64))
    assert model_of({})(torch.zeros(1, 5, dtype=torch.int64)).logits.shape == (1, 5, 20)


def test_an_overflow_stays_in_its_sequence() -> None:
    """Tokens that an expert has no room for read nothing of others."""
    model = model_of({"mlp": {"d_ff": 24, "activation": "relu2"}, "moe": {"n_experts": 4, "top_k": 2, "capacity": 0.5}})
    moe, x = model.blocks[0].moe, torch.randn(2, 12, 16)
    alone = moe(x[:1], x[:1])[0]
    x[1] *= 1e30
    both = moe(x, x)
    assert not both[1].isfinite().all()
    torch.testing.assert_close(both[0], alone)


@pytest.mark.parametrize("fused", [True, False])
def test_a_key_that_overflows_is_hidden_from_those_before_it(fused: bool) -> None:
    core = Core(model_of("dense").plan.blocks[0].attention, fused)
    q, k, v = torch.rand(1, 4, 12, 4) + 1, torch.randn(1, 2, 12, 4), torch.randn(1, 2, 12, 4)
    k[:, :, 11] = float("inf")
    y = core(q, k, v, Positions.of_sequence(12, q.device))
    assert y[:, :, :11].isfinite().all() and not y[:, :, 11].isfinite().any()


def test_a_norm_of_each_head_adds_each_heads_bias() -> None:
    norm = Norm(NormPlan(kind="layernorm", width=4, weight=True, bias=True, eps=1e-5, unit_offset=False, groups=2))
    scramble(norm)
    x = torch.randn(3, 2, 4)
    heads = [F.layer_norm(x[:, h], (4,), norm.weight[h], norm.bias[h]) for h in (0, 1)]
    torch.testing.assert_close(norm(x), torch.stack(heads, 1))
