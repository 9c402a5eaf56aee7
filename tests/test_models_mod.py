"""Mixture-of-Depths in training: full capacity, ties, positions, what goes around, and the losses."""

import pytest
import torch
import torch.nn.functional as F
from modcalc.models import Decoder
from modcalc.models.losses import _shares, auxiliary, cross_entropy, membership, training_loss
from modcalc.models.positions import Positions
from modcalc.models.routing import Router
from naive import equals_naive
from variants import LATENT, MOE, each_variant, model_of, scramble, spec_of, tokens_of

import modcalc
from modcalc.errors import SpecError
from modcalc.spec.load import loads


def with_r_1(model: Decoder) -> Decoder:
    """Every router says 1."""
    for module in model.modules():
        if isinstance(module, Router):
            module.register_forward_hook(lambda module, inputs, scores: torch.ones_like(scores))
    return model


def equals_dense(variant: dict, *, gradients: float = 0.0, **mod: object) -> None:
    """Logits and gradients of the dense model and of the one that routes all tokens, bit for bit, or gradients but for rounding."""
    dense = model_of(variant, dtype="float64")
    scramble(dense)
    routed = with_r_1(model_of(dict(variant, mod=dict(capacity=1.0) | mod), dtype="float64"))
    routed.load_state_dict(dense.state_dict(), strict=False)
    tokens = tokens_of(spec_of(variant))
    a, b = dense(tokens).logits, routed(tokens).logits
    assert torch.equal(a, b)
    grad = torch.randn(a.shape, dtype=torch.float64)
    a.backward(grad)
    b.backward(grad)
    theirs = dict(routed.named_parameters())
    for name, p in dense.named_parameters():
        torch.testing.assert_close(theirs[name].grad, p.grad, rtol=gradients, atol=gradients, msg=name)


@pytest.mark.parametrize("granularity", ["block", "attention", "mlp"])
@pytest.mark.parametrize("placement", ["pre", "output", "sandwich", "post"])
@pytest.mark.parametrize("router", ["random", "learned"])
def test_full_capacity_is_the_dense_model_bit_for_bit(granularity: str, placement: str, router: str) -> None:
    equals_dense(dict(norm=dict(placement=placement)), granularity=granularity, router=router)


@pytest.mark.parametrize(
    "variant",
    [
        dict(attention=dict(n_heads=4, window=3)),
        dict(attention=dict(n_heads=4, window=5, chunked=True)),
        dict(attention=dict(n_heads=4, latent=LATENT)),
        dict(attention=dict(n_heads=4, sinks=True, softcap=5.0)),
        dict(positions=dict(kind="alibi")),
        dict(positions=dict(kind="learned")),
        dict(parallel="two_norms"),
        dict(moe=MOE),
        dict(moe=dict(MOE, capacity=0.5, n_noop=1, n_shared=1)),
        dict(moe=dict(n_experts=4, choice="expert", capacity=1.0)),
    ],
)
def test_full_capacity_is_the_dense_model_whatever_is_inside(variant: dict) -> None:
    equals_dense(variant, every=1)
    # With keys of all tokens two norms read the stream, and their gradients are added in another order.
    equals_dense(variant, every=1, keys="all", gradients=1e-9)


@pytest.mark.parametrize(
    "mod",
    [
        dict(selection="threshold"),
        dict(bypass=dict(d_ff=3)),
        dict(predictor_width=5),
        dict(capacity=12),
        dict(capacity=dict(kind="linear", start=1.0, end=1.0)),
        dict(layers=[0, 3]),
        dict(recursions=1, capacity=[1.0]),
        dict(recursions=1, capacity=[1.0], layers=[1, 2], selection="threshold"),
    ],
)
def test_full_capacity_is_the_dense_model_however_it_routes(mod: dict) -> None:
    equals_dense({}, **mod)


def test_recursions_of_full_capacity_are_the_blocks_written_out() -> None:
    """0, 1, 2, 1, 2, 3: six layers, of which two have the weights of two others."""
    routed = with_r_1(model_of(dict(mod=dict(recursions=2, capacity=[1.0, 1.0], layers=[1, 2])), dtype="float64"))
    scramble(routed)
    dense = model_of(dict(n_layers=6), dtype="float64")
    weights = routed.state_dict()
    source = dict(zip(range(6), (0, 1, 2, 1, 2, 3), strict=True))
    for name in dense.state_dict():
        at, _, rest = name.removeprefix("blocks.").partition(".")
        weights[name] = routed.state_dict()[f"blocks.{source[int(at)]}.{rest}" if name.startswith("blocks.") else name]
    dense.load_state_dict({name: weights[name] for name in dense.state_dict()})
    tokens = tokens_of(spec_of({}))
    assert torch.equal(dense(tokens).logits, routed(tokens).logits)


@each_variant
def test_each_sequence_of_a_batch_is_routed_alone(name: str) -> None:
    spec = spec_of(name)
    if spec.mod and spec.mod.router == "random":
        pytest.skip("its noise is drawn for the batch as a whole")
    model, tokens = model_of(name, dtype="float64"), tokens_of(spec, 3)
    scramble(model)
    together = model(tokens)
    for i, row in enumerate(tokens):
        alone = model(row[None])
        torch.testing.assert_close(alone.logits[0], together.logits[i], rtol=1e-10, atol=1e-10)
        assert all(torch.equal(a.kept[0], b.kept[i]) for a, b in zip(alone.routing, together.routing, strict=True))


def test_ties_keep_exactly_c_tokens() -> None:
    model = model_of("mod", dtype="float64")
    scramble(model)
    for block in model.blocks:
        if block.plan.routing:
            torch.nn.init.zeros_(block.router.weight)
    tokens = tokens_of(spec_of("mod"), 3)
    out = model(tokens)
    assert all(r.kept.shape == (3, 3) and (r.kept.diff(dim=1) > 0).all() for r in out.routing)
    equals_naive(model, tokens)


def test_a_score_of_zero_is_no_half_more_than_half() -> None:
    """sigmoid(r) > 1/2: an undecided router lets nobody pass."""
    variant = dict(n_layers=1, mod=dict(capacity=0.5, selection="threshold", every=1))
    model, tokens = model_of(variant, dtype="float64"), tokens_of(spec_of(variant))
    torch.nn.init.zeros_(model.blocks[0].router.weight)
    x = model.embedding(tokens, Positions.of_sequence(12, tokens.device))
    assert torch.equal(model(tokens).logits, model.logits(x))


def test_a_threshold_that_nobody_passes_leaves_the_block_out() -> None:
    variant = dict(n_layers=1, mod=dict(capacity=0.5, selection="threshold", every=1))
    model, tokens = model_of(variant, dtype="float64"), tokens_of(spec_of(variant))
    model.blocks[0].router.register_forward_hook(lambda module, inputs, scores: -torch.ones_like(scores))
    x = model.embedding(tokens, Positions.of_sequence(12, tokens.device))
    assert torch.equal(model(tokens).logits, model.logits(x))


def test_tokens_that_go_around_are_untouched_and_unseen() -> None:
    variant = dict(n_layers=1, mod=dict(capacity=0.25, every=1), positions=dict(kind="rotary"))
    model, tokens = model_of(variant, dtype="float64"), tokens_of(spec_of(variant), 1)
    scramble(model)
    at = Positions.of_sequence(12, tokens.device)
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
    at = Positions.of_sequence(12, x.device)
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


def test_tokens_that_only_fill_a_buffer_teach_nothing() -> None:
    spec = spec_of(dict(mod=dict(capacity=[0.75, 0.5], recursions=2, layers=[1, 2], selection="threshold", predictor_width=3)))
    model = modcalc.build(spec, dtype="float64")
    scramble(model)
    out = model(tokens_of(spec))
    first, second = out.routing
    seen = first.scores.gather(1, first.kept) > 0
    assert first.seen is None and torch.equal(second.seen, seen) and 0 < seen.sum() < seen.numel()
    z = second.scores[seen].square().mean()
    label = F.binary_cross_entropy_with_logits(second.scores[seen], membership(second)[seen])
    found = auxiliary(model.plan, out)
    assert found["router_z"].item() == pytest.approx(((first.scores.square().mean() + z) / 2).item(), rel=1e-9)
    whole = F.binary_cross_entropy_with_logits(first.scores, membership(first))
    assert found["router_bce"].item() == pytest.approx(((whole + label) / 2).item(), rel=1e-9)
    passed = [(r.scores > 0).double() * membership(r) for r in out.routing]
    assert passed[0].sum() == seen.sum() < membership(first).sum()
    whole = F.binary_cross_entropy_with_logits(first.predicted, passed[0])
    label = F.binary_cross_entropy_with_logits(second.predicted[seen], passed[1][seen])
    assert found["predictor_bce"].item() == pytest.approx(((whole + label) / 2).item(), rel=1e-9)
    model.recursions[0].router.register_forward_hook(lambda module, inputs, scores: scores - 1e3)  # nothing passes
    assert all(loss.isfinite() for loss in auxiliary(model.plan, model(tokens_of(spec))).values())


def test_auxiliary_losses_label_every_row_of_the_batch() -> None:
    spec = spec_of("mod, predictor")
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


def test_without_a_word_the_z_loss_is_off() -> None:
    model, tokens = model_of("mod", dtype="float64"), tokens_of(spec_of("mod"))
    scramble(model)
    loss, parts = training_loss(model, tokens, tokens)
    assert parts["router_z"] > 0.1
    torch.testing.assert_close(loss.detach(), parts["cross_entropy"] + 0.01 * parts["router_bce"])


@pytest.mark.parametrize("granularity", ["block", "attention", "mlp"])
def test_the_router_learns_from_the_language_model_too(granularity: str) -> None:
    """It stands on the gradient path: cross-entropy alone moves it, through the tokens that were kept."""
    model = model_of(dict(mod=dict(capacity=0.25, granularity=granularity, aux_loss=0.0)))
    tokens = tokens_of(spec_of("mod"))
    training_loss(model, tokens, tokens.roll(-1, 1))[0].backward()
    assert all(model.blocks[i].router.weight.grad.abs().max() > 0 for i in (1, 3))


def test_the_predictor_learns_without_touching_the_rest() -> None:
    spec = spec_of("mod, predictor")
    model, tokens = modcalc.build(spec), tokens_of(spec)
    auxiliary(model.plan, model(tokens))["predictor_bce"].backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {f"blocks.{i}.predictor.{n}" for i in (1, 3) for n in ("up_proj.weight", "up_proj.bias", "down_proj.weight", "down_proj.bias")}


def test_the_random_router_has_no_loss_of_its_own() -> None:
    spec = spec_of("mod, random")
    model, tokens = modcalc.build(spec), tokens_of(spec)
    assert auxiliary(model.plan, model(tokens)) == {}


@each_variant
@pytest.mark.parametrize("length", [1, 2])
def test_short_sequences_keep_at_least_one_token(name: str, length: int) -> None:
    """A share that rounds to 0 keeps 1 token; more no-op experts than tokens are no matter."""
    spec = spec_of(name)
    model = modcalc.build(spec, seq_len=length, dtype="float64")
    tokens = tokens_of(spec)[:, :length]
    out = model(tokens)
    assert out.logits.shape == (2, length, 20)
    assert all(1 <= r.kept.shape[1] <= length for r in out.routing)
    equals_naive(model, tokens)
    training_loss(model, tokens, tokens)[0].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "section, text",
    [
        ("mod: {layers: [1, 4]}", r":9: mod.layers\[1\]: found 4; allowed layers 0 to 3 \(n_layers 4\)"),
        ("mod: {capacity: 13}", r":9: mod.capacity: found 13; allowed 1 to T = seq_len 12 tokens"),
        ("mod: {capacity: 0.0}", r":9: mod.capacity: found 0.0; allowed a number above 0 and at most 1"),
        ("moe: {n_experts: 2, n_noop: 13, top_k: 1, capacity: 1.0}", r":9: moe.n_noop: found 13; allowed at most seq_len 12"),
        ("moe: {n_experts: 2, n_noop: 2, top_k: 1}", r":9: moe.capacity: missing; allowed a number above 0 with no-op experts"),
        ("mod: {recursions: 2, capacity: [0.25, 0.5]}", r":9: mod.capacity\[1\]: found 0.5; allowed at most the 3 tokens"),
    ],
)
def test_routing_that_cannot_be(section: str, text: str) -> None:
    head = "name: tiny\nvocab_size: 20\nseq_len: 12\nd_model: 16\nn_layers: 4\nattention:\n  n_heads: 4\nmlp: {d_ff: 24}\n"
    with pytest.raises(SpecError, match=text):
        loads(head + section)


def test_one_token_that_is_there_is_all_of_the_mean() -> None:
    seen = torch.tensor([[[True, False, False]], [[False, False, False]]])
    assert _shares(seen, torch.float32).sum((-2, -1)).tolist() == [1.0, 0.0]
