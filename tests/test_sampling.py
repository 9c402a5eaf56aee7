"""Sampling: caches change nothing, no token sees a later one, rows decide alone, and what cannot be done is said."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modcalc.models import Cache, Decoder, Output, causal_forward, decode, generate, prefill
from modcalc.models.causal import noise
from modcalc.models.losses import auxiliary, training_loss
from modcalc.models.sampling import choose
from strategies import specs
from variants import VARIANTS, spec_of

from modcalc import build, load
from modcalc.errors import UsageError
from modcalc.spec.plan import MoePlan
from modcalc.spec.schema import Spec

CAUSAL = [name for name in VARIANTS if name != "mod, expert choice"]
each_causal = pytest.mark.parametrize("name", CAUSAL)


def model_of(s: Spec | str, seed: int = 0, dtype: str = "fp64", **options: object) -> Decoder:
    model = build(spec_of(s) if isinstance(s, str) else s, dtype=dtype, seed=seed, **options)
    # Routers start small: spread their matrices, so that both decisions occur.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ("router" in name or "predictor" in name) and p.dim() > 1:
                p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model.eval()


def tokens_of(model: Decoder, batch: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(model.plan.embedding.vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


def in_steps(model: Decoder, tokens: torch.Tensor, prompt: int, decide: str | None = None) -> tuple[torch.Tensor, Cache]:
    """Logits [B, T - prompt + 1, V] of the last prompt token and those after it, by prefill and decode."""
    cache = Cache(model.plan, tokens.shape[0])
    logits = [prefill(model, tokens[:, :prompt], cache, decide=decide)]
    for t in range(prompt, tokens.shape[1]):
        logits.append(decode(model, tokens[:, t], cache, decide=decide))
    return torch.stack(logits, dim=1), cache


def passed(out: Output) -> list[list[list[int]]]:
    """By routing and row: the tokens that passed, in their order."""
    return [[[i for i in row if i >= 0] for row in r.kept.tolist()] for r in out.routing]


@pytest.mark.parametrize("prompt", [1, 5])
@each_causal
def test_caches_change_nothing(name: str, prompt: int) -> None:
    model = model_of(name)
    tokens = tokens_of(model, 3, 12)
    stepped, _ = in_steps(model, tokens, prompt)
    torch.testing.assert_close(stepped, causal_forward(model, tokens).logits[:, prompt - 1 :], rtol=0, atol=1e-10)


@each_causal
def test_caches_change_nothing_in_fp32(name: str) -> None:
    model = model_of(name, dtype="fp32")
    tokens = tokens_of(model, 2, 12)
    stepped, _ = in_steps(model, tokens, 4)
    torch.testing.assert_close(stepped, causal_forward(model, tokens).logits[:, 3:], rtol=0, atol=1e-5)


@settings(max_examples=80)
@given(specs(), st.integers(1, 8), st.sampled_from(("sdpa", "explicit")))
def test_caches_change_nothing_over_every_knob(s: Spec, prompt: int, attention: str) -> None:
    length = min(s.seq_len, 9)
    model = model_of(s, attention=attention)
    tokens, prompt = tokens_of(model, 2, length), min(prompt, length)
    if any(isinstance(b.ffn, MoePlan) and b.ffn.choice == "expert" for b in model.plan.blocks):
        with pytest.raises(UsageError, match="its experts choose among all tokens of a sequence"):
            causal_forward(model, tokens)
        return
    full = causal_forward(model, tokens).logits
    stepped, _ = in_steps(model, tokens, prompt)
    torch.testing.assert_close(stepped, full[:, prompt - 1 :], rtol=0, atol=1e-8)


@each_causal
def test_no_token_sees_a_later_one(name: str) -> None:
    model = model_of(name)
    tokens = tokens_of(model, 2, 12)
    other = tokens.clone()
    other[:, 7:] = (other[:, 7:] + 1) % 20
    a, b = causal_forward(model, tokens), causal_forward(model, other)
    torch.testing.assert_close(a.logits[:, :7], b.logits[:, :7], rtol=0, atol=1e-12)
    assert not torch.allclose(a.logits[:, 7:], b.logits[:, 7:])
    for one, two in zip(passed(a), passed(b), strict=True):
        if not model.plan.recursion:  # whose inner indices count the tokens that came so far
            assert [[i for i in row if i < 7] for row in one] == [[i for i in row if i < 7] for row in two]


def looks_ahead(name: str) -> bool:
    """Whether first tokens come out otherwise when other tokens stand behind them, by the routing of training."""
    model = model_of(name)
    tokens = tokens_of(model, 16, 12)
    other = tokens.clone()
    other[:, 6:] = (other[:, 6:] + 1) % 20
    outs = []
    for each in (tokens, other):
        torch.manual_seed(0)
        outs.append(model(each).logits[:, :6])
    return not torch.allclose(*outs)


@pytest.mark.parametrize(
    "name",
    [
        "mod",
        "mod, attention",
        "mod, all keys",
        "mod, mlp",
        "mod, bypass",
        "mod, threshold",
        "mod, window",
        "mod, latent",
        "mode, staged",
        "recursions",
        "mod, expert choice",
    ],
)
def test_topk_does_see_later_tokens(name: str) -> None:
    """Why sampling cannot use it."""
    assert looks_ahead(name)


@pytest.mark.parametrize("name", ["dense", "windows", "moe with drops", "mode, integrated", "mod, all tokens", "mod, random"])
def test_what_ranks_no_tokens_sees_no_later_ones(name: str) -> None:
    assert not looks_ahead(name)


@each_causal
def test_rows_decide_alone(name: str) -> None:
    """The same tokens at any batch size."""
    model = model_of(name)
    prompts = tokens_of(model, 3, 4)
    together = generate(model, prompts, 6)
    for size in (1, 2):
        parts = [generate(model, part, 6) for part in prompts.split(size)]
        assert torch.equal(together, torch.cat(parts))
    assert torch.equal(together[:, :4], prompts)


@pytest.mark.parametrize("prompt", [1, 4, 12])
def test_routed_blocks_cache_only_routed_tokens(prompt: int) -> None:
    model = model_of("mod")
    tokens = tokens_of(model, 3, 12)
    _, cache = in_steps(model, tokens, prompt)
    full = passed(causal_forward(model, tokens))
    for i, rows in zip((1, 3), full, strict=True):
        layer = cache.layers[0, i]
        assert [at[:n].tolist() for at, n in zip(layer.positions, layer.count, strict=True)] == rows
    held = sum(len(row) for rows in full for row in rows)
    assert 0 < held < 2 * 3 * 12
    for i in (0, 2):
        assert cache.layers[0, i].positions[:, :12].tolist() == [list(range(12))] * 3
    assert cache.used_bytes == (2 * 3 * 12 + held) * 2 * 8 * 8  # keys and values of 2 heads of 4, in fp64


@pytest.mark.parametrize(
    ("name", "all_tokens"),
    [("mod, attention", False), ("mod, all keys", True), ("mod, all keys, latent", True), ("mod, mlp", True), ("mod, mlp, experts", True)],
)
def test_a_part_that_is_routed_settles_what_is_cached(name: str, all_tokens: bool) -> None:
    model = model_of(name)
    tokens = tokens_of(model, 3, 12)
    _, cache = in_steps(model, tokens, 5)
    counts = [[12] * 3] * 2 if all_tokens else [[len(row) for row in rows] for rows in passed(causal_forward(model, tokens))]
    assert [cache.layers[0, i].count.tolist() for i in (1, 3)] == counts


def test_each_recursion_has_a_cache_of_its_own() -> None:
    model = model_of("recursions", seed=1)
    tokens = tokens_of(model, 2, 12)
    _, cache = in_steps(model, tokens, 5)
    rows = [[list(range(12))] * 2]
    for step, kept in enumerate(passed(causal_forward(model, tokens))):
        # Indices into the tokens of the recursion before, as positions.
        rows.append([[before[i] for i in chosen] for before, chosen in zip(rows[-1], kept, strict=True)])
        for i in (1, 2):
            layer = cache.layers[step, i]
            assert [at[:n].tolist() for at, n in zip(layer.positions, layer.count, strict=True)] == rows[-1]
    assert all((0, i) in cache.layers and (1, i) not in cache.layers for i in (0, 3))


def test_a_window_holds_no_more_than_its_width() -> None:
    model = model_of("windows")
    _, cache = in_steps(model, tokens_of(model, 2, 12), 5)
    assert [layer.held.tolist() for layer in cache.layers.values()] == [[3, 3], [12, 12]] * 2
    assert [layer.size for layer in cache.layers.values()][0] == 3


def test_chunks_hold_as_much_as_windows() -> None:
    model = model_of("chunks")
    _, cache = in_steps(model, tokens_of(model, 2, 12), 7)
    assert [layer.held.tolist() for layer in cache.layers.values()] == [[5, 5], [12, 12]] * 2


@pytest.mark.parametrize("how", ["router", "predictor"])
def test_either_may_decide(how: str) -> None:
    model = model_of("mod, predictor")
    tokens = tokens_of(model, 3, 12)
    out = causal_forward(model, tokens, decide=how)
    for r, rows in zip(out.routing, passed(out), strict=True):
        logits = r.scores if how == "router" else r.predicted
        assert rows == [row.nonzero()[:, 0].tolist() for row in logits > 0]
    stepped, _ = in_steps(model, tokens, 3, decide=how)
    continued = generate(model, tokens[:, :3], 9, decide=how)
    assert torch.equal(continued[:, 3:], in_steps(model, continued, 3, decide=how)[0][:, :-1].argmax(-1))
    torch.testing.assert_close(stepped, out.logits[:, 2:], rtol=0, atol=1e-10)
    default = causal_forward(model, tokens)
    assert torch.equal(default.logits, out.logits) == (how == "predictor")


@pytest.mark.parametrize("bias", [50.0, -50.0])
def test_everybody_or_nobody_may_pass(bias: float) -> None:
    """With all tokens, at r = 1, it is the dense model; with none, a routed block is not there."""
    model = model_of("mod, predictor")
    for i in (1, 3):
        model.blocks[i].predictor.down_proj.bias.data.fill_(bias)
        model.blocks[i].router.register_forward_hook(lambda module, inputs, scores: torch.ones_like(scores))
    dense = build(spec_of({} if bias > 0 else dict(n_layers=2)), dtype="fp64")
    weights = model.state_dict()
    if bias < 0:
        weights |= {name.replace("blocks.2.", "blocks.1."): value for name, value in weights.items() if name.startswith("blocks.2.")}
    dense.load_state_dict({name: weights[name] for name in dense.state_dict()})
    tokens = tokens_of(model, 2, 12)
    out = causal_forward(model, tokens)
    torch.testing.assert_close(out.logits, dense(tokens).logits, rtol=0, atol=1e-12)
    assert passed(out) == [[list(range(12)) if bias > 0 else []] * 2] * 2
    torch.testing.assert_close(in_steps(model, tokens, 4)[0], out.logits[:, 3:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", ["bf16 weights", "autocast"])
@each_causal
def test_half_precision_samples(name: str, mode: str) -> None:
    model = model_of(name, dtype="bf16" if mode == "bf16 weights" else "fp32")
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        out = generate(model, tokens_of(model, 3, 5), 6)
        logits = causal_forward(model, out).logits
    assert out.shape == (3, 11) and logits.isfinite().all()


def test_noise_is_uniform_and_fixed() -> None:
    u = noise(torch.arange(20000)[None], 3)
    assert torch.equal(u[:, 100:200], noise(torch.arange(100, 200)[None], 3))
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean().item() - 0.5) < 0.01 and abs((u < 0.125).double().mean().item() - 0.125) < 0.01
    assert not torch.equal(u, noise(torch.arange(20000)[None], 4))


def test_no_new_token_is_the_prompt() -> None:
    model = model_of("mod")
    tokens = tokens_of(model, 2, 5)
    assert torch.equal(generate(model, tokens, max_new_tokens=0), tokens)


def test_temperature_draws_from_the_generator() -> None:
    model = model_of("mod")
    prompts = tokens_of(model, 2, 3)
    one, same, other = (generate(model, prompts, 8, temperature=5.0, generator=torch.Generator().manual_seed(k)) for k in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize("temperature", [1e-45, 1e-30, np.float32(1e-30)])
def test_a_very_low_temperature_takes_the_likeliest(temperature: float) -> None:
    model = model_of("mod")
    prompts = tokens_of(model, 2, 3)
    assert torch.equal(generate(model, prompts, 8, temperature=temperature), generate(model, prompts, 8))


def test_auxiliary_losses_are_not_of_a_pass_with_causal_routing() -> None:
    model = model_of("mod")
    for length in (5, 16, next(iter(model.plan.routed.values())).capacity):
        with pytest.raises(UsageError, match="causal_forward"):
            auxiliary(model.plan, causal_forward(model, tokens_of(model, 2, length)))


def test_temperature_divides_the_logits() -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0]]).expand(60_000, 3)
    drawn = choose(logits, 2.0, torch.Generator().manual_seed(0)).bincount(minlength=3) / 60_000
    torch.testing.assert_close(drawn, (logits[0] / 2).softmax(-1), rtol=0, atol=0.01)


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.long)


@each_causal
def test_a_prompt_of_one_token(name: str) -> None:
    model = model_of(name)
    assert generate(model, zeros(2, 1), 3).shape == (2, 4)


@each_causal
def test_an_empty_prompt_is_refused(name: str) -> None:
    model = model_of(name)
    for call in (lambda t: generate(model, t, 3), lambda t: causal_forward(model, t), lambda t: prefill(model, t, Cache(model.plan, 1))):
        with pytest.raises(UsageError, match="an empty prompt: sampling needs at least one token to start from"):
            call(zeros(1, 0))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: generate(m, zeros(2, 3), 1.5), "max_new_tokens 1.5: a whole number is needed"),
        (lambda m: causal_forward(m, zeros(0, 3)), "no sequence: a batch has at least one"),
        (lambda m: prefill(m, zeros(2, 3), Cache(model_of("dense").plan, 2)), "tiny: the cache is of tiny, another model"),
        (lambda m: prefill(m, zeros(2, 3), Cache(m.plan, 1)), "2 sequences, but the cache is for 1"),
        (lambda m: m(zeros(12)), "tokens of shape [12]: sequences of them, [B, T], are needed"),
        (lambda m: causal_forward(m, zeros(3)), "tokens of shape [3]"),
        (lambda m: prefill(m, zeros(2), Cache(m.plan, 2)), "tokens of shape [2]"),
        (lambda m: generate(m, zeros(1, 2, 3), 1), "tokens of shape [1, 2, 3]"),
        (lambda m: training_loss(m, zeros(2, m.plan.seq_len), zeros(m.plan.seq_len, 2)), "one for each token is needed, [2, "),
    ],
)
def test_what_does_not_fit_together(call: Callable, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        call(model_of("mod"))


@each_causal
def test_torchs_default_device_is_not_the_models(name: str) -> None:
    """What caches count stays on the host."""
    model = model_of(name)
    prompts = tokens_of(model, 3, 5)
    before = generate(model, prompts, 4)
    with torch.device("meta"):
        assert torch.equal(generate(model, prompts, 4), before)


def test_decode_may_start_from_nothing() -> None:
    """A cache without a prompt: the first token is decoded alone, as a prompt of one token would be."""
    model = model_of("mod")
    cache = Cache(model.plan, 2)
    torch.testing.assert_close(decode(model, zeros(2), cache), causal_forward(model, zeros(2, 1)).logits[:, -1], rtol=0, atol=1e-12)
    assert cache.length == 1


def test_learned_positions_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("mod, learned positions")
    assert generate(model, zeros(1, 5), 8).shape == (1, 13)  # the last token is never fed
    text = "tiny: 13 tokens are more than its 12 learned positions"
    with pytest.raises(UsageError, match=text):
        generate(model, zeros(1, 5), 9)
    monkeypatch.setattr("modcalc.models.sampling.prefill", None)
    with pytest.raises(UsageError, match=text):  # before any token is computed
        generate(model, zeros(1, 5), 9)
    monkeypatch.undo()
    with pytest.raises(UsageError, match=text):
        causal_forward(model, zeros(1, 13))
    cache = Cache(model.plan, 1)
    with pytest.raises(UsageError, match=text):
        prefill(model, zeros(1, 13), cache)
    prefill(model, zeros(1, 12), cache)
    with pytest.raises(UsageError, match=text):
        decode(model, zeros(1), cache)
    assert cache.length == 12 and cache.layers[0, 0].count.tolist() == [12]


def test_what_cannot_be_sampled() -> None:
    model = model_of("mod")
    with pytest.raises(UsageError, match="numbers from 0 on"):
        generate(model, zeros(1, 1), -1)
    for temperature in (-0.1, float("nan"), None):
        with pytest.raises(UsageError, match="numbers from 0 on"):
            generate(model, zeros(1, 1), 1, temperature=temperature)
    with pytest.raises(UsageError, match="one of router, predictor"):
        causal_forward(model, zeros(1, 3), decide="coin")
    with pytest.raises(UsageError, match=r"shape \[2, 1\]: decode takes one of each sequence"):
        decode(model, zeros(2, 1), Cache(model.plan, 2))
    with pytest.raises(UsageError, match="its experts choose among all tokens of a sequence"):
        generate(model_of("mod, expert choice"), zeros(1, 3), 2)
    cache = Cache(model.plan, 1)
    with pytest.raises(UsageError, match="no predictor"):
        prefill(model, zeros(1, 3), cache, decide="predictor")
    assert cache.used_bytes == 0
    prefill(model, zeros(1, 3), cache)
    with pytest.raises(UsageError, match="starts with an empty one"):
        prefill(model, zeros(1, 3), cache)
    with pytest.raises(UsageError, match="the cache is for 1"):
        decode(model, zeros(2), cache)


def test_shipped_mod_samples() -> None:
    assert generate(build(load("mod-small")), zeros(1, 1), 3).shape == (1, 4)
