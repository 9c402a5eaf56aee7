"""The torch models against a reference in plain loops, against themselves, and in use."""

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from modcalc.models.losses import auxiliary, cross_entropy, routings, training_loss
from naive import Naive, Tie
from strategies import specs

import modcalc
from modcalc.errors import UsageError
from modcalc.spec.load import shipped_specs
from modcalc.spec.schema import Spec

BASE = dict(
    name="tiny",
    vocab_size=20,
    seq_len=12,
    d_model=16,
    n_layers=4,
    attention=dict(n_heads=4, n_kv_heads=2),
    mlp=dict(d_ff=24),
)
MOE = dict(n_experts=4, top_k=2)
LATENT = dict(kv_rank=6, q_rank=5, nope_dim=4, rope_dim=4, v_dim=5)

VARIANTS: dict[str, dict] = {
    "dense": {},
    "gated, sandwich": dict(mlp=dict(d_ff=24, kind="gated", activation="silu"), norm=dict(placement="sandwich")),
    "post": dict(norm=dict(placement="post", kind="layernorm")),
    "windows": dict(attention=dict(n_heads=4, window=[3, None])),
    "alibi": dict(positions=dict(kind="alibi"), attention=dict(n_heads=3, head_dim=6)),
    "sinks, softcap": dict(attention=dict(n_heads=4, sinks=True, softcap=5.0)),
    "latent": dict(attention=dict(n_heads=4, latent=LATENT)),
    "moe": dict(moe=MOE),
    "moe with drops": dict(moe=dict(MOE, capacity=0.5)),
    "mod": dict(mod=dict(capacity=0.25)),
    "mod, one token": dict(mod=dict(capacity=1)),
    "mod, all tokens": dict(mod=dict(capacity=1.0)),
    "mod, post": dict(mod=dict(capacity=0.25), norm=dict(placement="post")),
    "mod, attention": dict(mod=dict(capacity=0.25, granularity="attention")),
    "mod, mlp": dict(mod=dict(capacity=0.25, granularity="mlp")),
    "mod, window": dict(mod=dict(capacity=0.5), attention=dict(n_heads=4, window=3)),
    "mod, alibi": dict(mod=dict(capacity=0.5), positions=dict(kind="alibi")),
    "mod, latent": dict(mod=dict(capacity=0.5), attention=dict(n_heads=4, latent=LATENT)),
    "mod, predictor": dict(mod=dict(capacity=0.25, predictor_width=5)),
    "mod, bypass": dict(mod=dict(capacity=0.25, bypass=dict(d_ff=3))),
    "mod, threshold": dict(mod=dict(capacity=0.5, selection="threshold")),
    "mod, threshold, bypass": dict(mod=dict(capacity=0.5, selection="threshold", bypass=dict(d_ff=3))),
    "mod, random": dict(mod=dict(capacity=0.25, router="random")),
    "mod, parallel": dict(mod=dict(capacity=0.25), parallel="shared_norm"),
    "mode, staged": dict(mod=dict(capacity=0.5), moe=MOE),
    "mode, integrated": dict(moe=dict(MOE, n_noop=2, capacity=1.0)),
    "mod, expert choice": dict(mod=dict(selection="threshold", capacity=0.5), moe=dict(n_experts=4, choice="expert", capacity=1.0)),
    "recursions": dict(mod=dict(recursions=3, capacity=[1.0, 0.5, 0.25], layers=[1, 2])),
    "recursions, threshold": dict(mod=dict(recursions=3, capacity=[0.75, 0.5, 0.25], selection="threshold", bypass=dict(d_ff=3))),
}
each_variant = pytest.mark.parametrize("name", VARIANTS)


def spec_of(variant: dict) -> Spec:
    return msgspec.convert({**BASE, **variant}, Spec)


def model_of(variant: dict, **options) -> modcalc.models.decoder.Decoder:
    return modcalc.build(spec_of(variant), **options)


def scramble(model: torch.nn.Module, std: float = 0.5) -> None:
    """Every parameter and buffer random, so that none can be left out unnoticed."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in [*model.parameters(), *model.buffers()]:
            p.normal_(0, std, generator=generator)


def tokens_of(spec: Spec, batch: int = 2) -> torch.Tensor:
    """Distinct tokens in a sequence where the vocabulary allows it: equal tokens could tie in expert choice."""
    generator = torch.Generator().manual_seed(3)
    return torch.stack([torch.randperm(max(spec.vocab_size, spec.seq_len), generator=generator)[: spec.seq_len] for _ in range(batch)])


def run_naive(model: torch.nn.Module, tokens: torch.Tensor, routing: tuple) -> torch.Tensor:
    rows = range(tokens.shape[0])
    return torch.stack([Naive(model, [(r.scores[b], r.kept[b]) for r in routing]).logits(tokens[b].tolist()) for b in rows])


def equals_naive(model: torch.nn.Module, tokens: torch.Tensor) -> None:
    """Logits and the gradient of every parameter."""
    torch.manual_seed(1)
    out = model(tokens)
    naive = run_naive(model, tokens, out.routing)
    torch.testing.assert_close(out.logits, naive, rtol=1e-10, atol=1e-10)
    params = dict(model.named_parameters())
    direction = torch.randn(out.logits.shape, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((y * direction).sum(), params.values(), allow_unused=True) for y in (out.logits, naive))
    for name, a, b in zip(params, ours, theirs, strict=True):
        a, b = (torch.zeros_like(params[name]) if g is None else g for g in (a, b))
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * max(1.0, float(b.abs().max())), msg=lambda text, name=name: f"{name}: {text}")


@each_variant
def test_equals_the_naive_reference(name: str) -> None:
    model = model_of(VARIANTS[name], dtype="float64")
    scramble(model)
    equals_naive(model, tokens_of(spec_of(VARIANTS[name])))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(specs())
def test_any_spec_equals_the_naive_reference(spec: Spec) -> None:
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


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(specs())
def test_parameters_are_those_of_the_ledger(spec: Spec) -> None:
    model = modcalc.build(spec, device="meta")
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == modcalc.account(spec).weights()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(specs())
def test_explicit_products_equal_the_fused_kernel(spec: Spec) -> None:
    logits = []
    for attention in ("sdpa", "explicit"):
        model = modcalc.build(spec, dtype="float64", attention=attention)
        scramble(model)
        torch.manual_seed(1)
        logits.append(model(tokens_of(spec) % spec.vocab_size).logits)
    torch.testing.assert_close(*logits, rtol=1e-10, atol=1e-10)


@each_variant
def test_they_run_on_meta_without_memory(name: str) -> None:
    spec = spec_of(VARIANTS[name])
    out = modcalc.build(spec, device="meta")(torch.zeros(2, spec.seq_len, dtype=torch.int64, device="meta"))
    assert out.logits.is_meta and out.logits.shape == (2, spec.seq_len, spec.vocab_size)
    assert [tuple(r.kept.shape)[1] for r in out.routing] == [r.capacity for r in routings(modcalc.resolve(spec))]


@each_variant
def test_they_train(name: str) -> None:
    spec = spec_of(VARIANTS[name])
    model, tokens = modcalc.build(spec, seed=1), tokens_of(spec, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss, parts = training_loss(model, tokens[:, :], tokens.roll(-1, 1))
        losses.append(float(parts["cross_entropy"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


@each_variant
def test_they_compile_without_graph_breaks(name: str) -> None:
    spec = spec_of(VARIANTS[name])
    model, tokens = modcalc.build(spec), tokens_of(spec)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.manual_seed(5)
    ours = model(tokens)
    torch.manual_seed(5)
    theirs = compiled(tokens)
    torch.testing.assert_close(ours.logits, theirs.logits)
    assert all(torch.equal(a.kept, b.kept) for a, b in zip(ours.routing, theirs.routing, strict=True))


@pytest.mark.parametrize("name", ["mod, predictor", "moe", "mod, threshold, bypass"])
def test_their_backward_compiles(name: str) -> None:
    spec = spec_of(VARIANTS[name])
    model, tokens = modcalc.build(spec), tokens_of(spec)
    training_loss(model, tokens, tokens)[0].backward()
    want = {n: p.grad for n, p in model.named_parameters()}
    model.zero_grad()
    torch._dynamo.reset()
    torch.compile(lambda: training_loss(model, tokens, tokens)[0], fullgraph=True, backend="aot_eager")().backward()
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, want[n])


@each_variant
@pytest.mark.parametrize("mode", ["bf16 weights", "autocast"])
def test_bf16_is_finite_and_its_router_is_not_bf16(name: str, mode: str) -> None:
    spec = spec_of(VARIANTS[name])
    model, tokens = modcalc.build(spec, dtype="bf16" if mode == "bf16 weights" else None), tokens_of(spec)
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        out = model(tokens)
        loss, _ = training_loss(model, tokens, tokens)
    loss.backward()
    assert out.logits.dtype is torch.bfloat16 and loss.dtype is torch.float32 and torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert all(r.scores.dtype is torch.float32 for r in out.routing)


@pytest.mark.parametrize("granularity", ["block", "attention", "mlp"])
@pytest.mark.parametrize("placement", ["pre", "output", "sandwich", "post"])
@pytest.mark.parametrize("router", ["random", "learned"])
def test_full_capacity_is_the_dense_model_bit_for_bit(granularity: str, placement: str, router: str) -> None:
    variant = dict(norm=dict(placement=placement))
    dense = model_of(variant, dtype="float64")
    scramble(dense)
    routed = model_of(dict(variant, mod=dict(capacity=1.0, granularity=granularity, router=router)), dtype="float64")
    routed.load_state_dict(dense.state_dict(), strict=False)
    for block in routed.blocks:
        if router == "learned" and block.plan.routing:
            block.router.register_forward_hook(lambda module, inputs, scores: torch.ones_like(scores))
    tokens = tokens_of(spec_of(variant))
    assert torch.equal(dense(tokens).logits, routed(tokens).logits)


def test_ties_keep_exactly_c_tokens() -> None:
    model = model_of(VARIANTS["mod"], dtype="float64")
    scramble(model)
    for block in model.blocks:
        if block.plan.routing:
            torch.nn.init.zeros_(block.router.weight)
    tokens = tokens_of(spec_of(VARIANTS["mod"]), 3)
    out = model(tokens)
    assert all(r.kept.shape == (3, 3) and (r.kept.diff(dim=1) > 0).all() for r in out.routing)
    equals_naive(model, tokens)


def test_a_threshold_that_nobody_passes_leaves_the_block_out() -> None:
    variant = dict(n_layers=1, mod=dict(capacity=0.5, selection="threshold", every=1))
    model, tokens = model_of(variant, dtype="float64"), tokens_of(spec_of(variant))
    model.blocks[0].router.register_forward_hook(lambda module, inputs, scores: -torch.ones_like(scores))
    x = model.embedding(tokens, modcalc.models.positions.Positions.of_sequence(12, tokens.device))
    assert torch.equal(model(tokens).logits, model.logits(x))


def test_tokens_that_go_around_are_untouched_and_unseen() -> None:
    variant = dict(n_layers=1, mod=dict(capacity=0.25, every=1), positions=dict(kind="rotary"))
    model, tokens = model_of(variant, dtype="float64"), tokens_of(spec_of(variant), 1)
    scramble(model)
    at = modcalc.models.positions.Positions.of_sequence(12, tokens.device)
    x = model.embedding(tokens, at).detach()
    y, routing = model.blocks[0](x, at)
    kept = set(routing.kept[0].tolist())
    passed_by = [i for i in range(12) if i not in kept]
    assert torch.equal(x[0, passed_by], y[0, passed_by]) and not torch.equal(x, y)
    moved = x.clone()
    moved[0, passed_by] -= 0.01 * model.blocks[0].router.weight  # a lower score still: the choice stays
    again, same = model.blocks[0](moved, at)
    assert torch.equal(same.kept, routing.kept)
    assert torch.equal(again[0, sorted(kept)], y[0, sorted(kept)])


def test_positions_of_routed_tokens_are_the_original_ones() -> None:
    """A gap between two kept tokens matters: were they counted 0, 1, … the later one's output would not change."""
    model = model_of(dict(n_layers=1, mod=dict(capacity=2, every=1)), dtype="float64")
    scramble(model)
    x, outputs = torch.randn(1, 12, 16, dtype=torch.float64), []
    at = modcalc.models.positions.Positions.of_sequence(12, x.device)
    a, b = torch.randn(2, 16, dtype=torch.float64)
    weight = model.blocks[0].router.weight[0]
    a, b = (v + (5 - v @ weight) * weight / weight.square().sum() for v in (a, b))  # both score 5
    x = x - (x @ weight)[..., None] * weight / weight.square().sum()  # all others 0
    for place in (3, 9):
        here = x.clone()
        here[0, 1], here[0, place] = a, b
        y, routing = model.blocks[0](here, at)
        assert routing.kept.tolist() == [[1, place]]
        outputs.append(y[0, place])
    assert not torch.allclose(*outputs)


def test_auxiliary_losses_label_every_row_of_the_batch() -> None:
    spec = spec_of(VARIANTS["mod, predictor"])
    model, tokens = modcalc.build(spec, dtype="float64"), tokens_of(spec, 3)
    scramble(model)
    out = model(tokens)
    found = auxiliary(model.plan, out)
    router, predictor, square, n = 0.0, 0.0, 0.0, 0
    for r in out.routing:
        for b in range(3):
            for i in range(12):
                chosen = i in r.kept[b].tolist()
                p, q = torch.sigmoid(r.scores[b, i]), torch.sigmoid(r.predicted[b, i])
                router -= torch.log(p if chosen else 1 - p).item()
                predictor -= torch.log(q if chosen else 1 - q).item()
                square += r.scores[b, i].item() ** 2
                n += 1
    assert n == 2 * 3 * 12
    assert found["router_bce"].item() == pytest.approx(router / n, rel=1e-9)
    assert found["predictor_bce"].item() == pytest.approx(predictor / n, rel=1e-9)
    assert found["router_z"].item() == pytest.approx(square / n, rel=1e-9)


def test_training_loss_is_the_weighted_sum() -> None:
    spec = spec_of(dict(mod=dict(capacity=0.25, predictor_width=5, aux_loss=0.3, z_loss=0.7)))
    model, tokens = modcalc.build(spec, dtype="float64"), tokens_of(spec)
    loss, parts = training_loss(model, tokens, tokens)
    want = parts["cross_entropy"] + 0.3 * parts["router_bce"] + parts["predictor_bce"] + 0.7 * parts["router_z"]
    torch.testing.assert_close(loss.detach(), want)
    torch.testing.assert_close(parts["cross_entropy"], cross_entropy(model(tokens), tokens).detach())


def test_the_predictor_learns_without_touching_the_rest() -> None:
    spec = spec_of(VARIANTS["mod, predictor"])
    model, tokens = modcalc.build(spec), tokens_of(spec)
    auxiliary(model.plan, model(tokens))["predictor_bce"].backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {f"blocks.{i}.predictor.{n}" for i in (1, 3) for n in ("up_proj.weight", "up_proj.bias", "down_proj.weight", "down_proj.bias")}


def test_the_random_router_has_no_loss_of_its_own() -> None:
    spec = spec_of(VARIANTS["mod, random"])
    model, tokens = modcalc.build(spec), tokens_of(spec)
    assert auxiliary(model.plan, model(tokens)) == {}


def test_a_sequence_of_another_length_is_refused() -> None:
    with pytest.raises(UsageError, match="build it with seq_len=5"):
        model_of(VARIANTS["mod"])(torch.zeros(1, 5, dtype=torch.int64))
    with pytest.raises(UsageError, match="learned positions"):
        model_of(dict(positions=dict(kind="learned")))(torch.zeros(1, 13, dtype=torch.int64))
    assert model_of({})(torch.zeros(1, 5, dtype=torch.int64)).logits.shape == (1, 5, 20)
