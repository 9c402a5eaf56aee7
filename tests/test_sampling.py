"""Sampling: caches change nothing, no token sees a later one, rows decide alone, and the bill is what was computed."""

import pytest
import torch
from hypothesis import given, settings
from modcalc.models.cache import Cache
from modcalc.models.causal import noise
from modcalc.models.sampling import causal_forward, decode, generate, prefill
from strategies import specs

from modcalc import account, build, load
from modcalc.cost.memory import kv_cache_bytes
from modcalc.errors import UsageError
from modcalc.spec.load import loads
from modcalc.spec.resolve import resolve
from modcalc.spec.schema import Spec

BASE = "name: s\nvocab_size: 23\nseq_len: 16\nd_model: 16\nn_layers: 4\nattention: {n_heads: 2}\nmlp: {d_ff: 24}\n"
VARIANTS = {
    "dense": "",
    "block": "mod: {capacity: 0.5}",
    "predictor": "mod: {capacity: 0.5, predictor_width: 5}",
    "attention": "mod: {capacity: 0.5, granularity: attention}",
    "mlp": "mod: {capacity: 0.5, granularity: mlp}",
    "random": "mod: {capacity: 0.5, router: random}",
    "bypass": "mod: {capacity: 0.5, bypass: {d_ff: 8}}",
    "threshold": "mod: {capacity: 0.5, selection: threshold}",
    "recursion": "mod: {recursions: 3, capacity: [1.0, 0.5, 0.25]}",
    "moe": "mod: {capacity: 0.5}\nmoe: {n_experts: 4, top_k: 2, n_shared: 1}",
    "integrated": "moe: {n_experts: 2, n_noop: 2, top_k: 1, capacity: 1.0}",
}
KINDS = [
    "attention: {n_heads: 2}",
    "attention: {n_heads: 4, n_kv_heads: 2}",
    "attention: {n_heads: 2, window: 3}",
    "attention: {n_heads: 2, latent: {kv_rank: 6, nope_dim: 4, rope_dim: 2, v_dim: 5}}",
]


def spec(text: str, **over: str) -> Spec:
    body = BASE
    for key, line in over.items():
        body = "\n".join(line if part.startswith(f"{key}:") else part for part in body.splitlines()) + "\n"
    return loads(body + text)


def model_of(s: Spec, seed: int = 0) -> torch.nn.Module:
    model = build(s, dtype="fp64", seed=seed)
    # Routers start small: spread them, so that both decisions occur.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "router" in name or "predictor" in name:
                p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model.eval()


def tokens_of(s: Spec, batch: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(s.vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


def in_steps(model: torch.nn.Module, tokens: torch.Tensor, prompt: int) -> tuple[torch.Tensor, Cache]:
    """Logits [B, T - prompt + 1, V] of the last prompt token and those after it, by prefill and decode."""
    cache = Cache(model.plan, tokens.shape[0])
    logits = [prefill(model, tokens[:, :prompt], cache)]
    for t in range(prompt, tokens.shape[1]):
        logits.append(decode(model, tokens[:, t], cache))
    return torch.stack(logits, dim=1), cache


@pytest.mark.parametrize("prompt", [1, 5])
@pytest.mark.parametrize("name", VARIANTS)
def test_caches_change_nothing(name: str, prompt: int) -> None:
    s = spec(VARIANTS[name])
    model, tokens = model_of(s), tokens_of(s, 3, 14)
    stepped, _ = in_steps(model, tokens, prompt)
    torch.testing.assert_close(stepped, causal_forward(model, tokens).logits[:, prompt - 1 :], rtol=0, atol=1e-10)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(specs())
def test_caches_change_nothing_over_every_knob(s: Spec) -> None:
    length = min(s.seq_len, 9)
    model, tokens = model_of(s), tokens_of(s, 2, length)
    try:
        full = causal_forward(model, tokens).logits
    except UsageError as wrong:
        assert "experts that choose tokens" in str(wrong)
        return
    stepped, _ = in_steps(model, tokens, 1)
    torch.testing.assert_close(stepped, full, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", VARIANTS)
def test_no_token_sees_a_later_one(name: str) -> None:
    s = spec(VARIANTS[name])
    model, tokens = model_of(s), tokens_of(s, 2, 12)
    other = tokens.clone()
    other[:, 7:] = (other[:, 7:] + 1) % s.vocab_size
    a, b = causal_forward(model, tokens).logits, causal_forward(model, other).logits
    torch.testing.assert_close(a[:, :7], b[:, :7], rtol=0, atol=1e-12)
    assert not torch.allclose(a[:, 7:], b[:, 7:])


def test_topk_does_see_later_tokens() -> None:
    """Why sampling cannot use it: with other tokens behind them, the first ones come out otherwise."""
    s = spec("mod: {capacity: 0.25}")
    model, tokens = model_of(s), tokens_of(s, 8, 16)
    other = tokens.clone()
    other[:, 8:] = (other[:, 8:] + 1) % s.vocab_size
    assert not torch.allclose(model(tokens).logits[:, :8], model(other).logits[:, :8])


@pytest.mark.parametrize("name", VARIANTS)
def test_rows_decide_alone(name: str) -> None:
    s = spec(VARIANTS[name])
    model, prompts = model_of(s), tokens_of(s, 5, 4)
    together = generate(model, prompts, 9)
    alone = torch.cat([generate(model, row[None], 9) for row in prompts])
    assert torch.equal(together, alone)
    assert torch.equal(together[:, :4], prompts)


def test_routed_blocks_cache_only_routed_tokens() -> None:
    s = spec("mod: {capacity: 0.5}")
    model, tokens = model_of(s), tokens_of(s, 3, 12)
    _, cache = in_steps(model, tokens, 4)
    passed = [(r.kept >= 0).sum(1) for r in causal_forward(model, tokens).routing]
    assert [cache.layers[0, i].count.tolist() for i in (1, 3)] == [p.tolist() for p in passed]
    assert 0 < sum(int(p.sum()) for p in passed) < 2 * 3 * 12
    assert all(cache.layers[0, i].count.tolist() == [12, 12, 12] for i in (0, 2))
    held = 2 * 3 * 12 + sum(int(p.sum()) for p in passed)
    assert cache.used_bytes == held * 2 * 16 * 8


@pytest.mark.parametrize(
    "attention", ["{n_heads: 4, n_kv_heads: 2}", "{n_heads: 2, window: 3}", "{n_heads: 2, latent: {kv_rank: 6, nope_dim: 4, rope_dim: 2, v_dim: 5}}"]
)
def test_cache_bytes_are_those_billed(attention: str) -> None:
    """fp64 caches of the model hold twice the bytes that the ledger bills in fp32."""
    s = spec("", attention=f"attention: {attention}")
    model, tokens = model_of(s), tokens_of(s, 2, 11)
    stepped, cache = in_steps(model, tokens, 6)
    torch.testing.assert_close(stepped, causal_forward(model, tokens).logits[:, 5:], rtol=0, atol=1e-10)
    assert cache.used_bytes == 2 * kv_cache_bytes(resolve(s), 11, "fp32", batch=2)


def decoded_flops(model: torch.nn.Module, tokens: torch.Tensor, prompt: int) -> list[int]:
    """FLOPs that torch counts in each decode step."""
    from torch.utils.flop_counter import FlopCounterMode

    cache = Cache(model.plan, tokens.shape[0])
    prefill(model, tokens[:, :prompt], cache)
    counts = []
    for t in range(prompt, tokens.shape[1]):
        with FlopCounterMode(display=False) as counter:
            decode(model, tokens[:, t], cache)
        counts.append(counter.get_total_flops())
    return counts


@pytest.mark.parametrize("attention", KINDS)
def test_decode_costs_what_is_billed(attention: str) -> None:
    s = spec("", attention=attention)
    model = build(s, attention="explicit")
    counts = decoded_flops(model, tokens_of(s, 2, 10), 4)
    assert counts == [account(s, phase="decode", context=context, batch=2).flops.forward for context in range(4, 10)]


@pytest.mark.parametrize(("bias", "routing"), [(50.0, "all"), (-50.0, "none")])
def test_best_and_worst_case_of_decode(bias: float, routing: str) -> None:
    """A predictor that always (never) says yes: every (no) token passes."""
    s = spec("mod: {capacity: 0.5, predictor_width: 5}")
    model = build(s, attention="explicit")
    with torch.no_grad():
        for block in model.blocks:
            if block.plan.routing:
                block.predictor.down_proj.bias.fill_(bias)
    counts = decoded_flops(model, tokens_of(s, 2, 10), 4)
    assert counts == [account(s, phase="decode", context=c, batch=2, routing=routing).flops.forward for c in range(4, 10)]


def test_expected_cost_against_real_decisions() -> None:
    """The control passes each token with probability C / T, whatever came before: the mean over many models' steps nears the bill."""
    s = spec("mod: {capacity: 0.25, router: random}", seq_len="seq_len: 64", n_layers="n_layers: 40")
    model = build(s, attention="explicit")
    counts = decoded_flops(model, tokens_of(s, 1, 64), 4)
    billed = [float(account(s, phase="decode", context=c).flops.forward) for c in range(4, 64)]
    assert abs(sum(counts) / sum(billed) - 1) < 0.03


def test_noise_is_uniform_and_fixed() -> None:
    u = noise(torch.arange(20000)[None], 3)
    assert torch.equal(u[:, 100:200], noise(torch.arange(100, 200)[None], 3))
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean().item() - 0.5) < 0.01 and abs((u < 0.125).double().mean().item() - 0.125) < 0.01
    assert not torch.equal(u, noise(torch.arange(20000)[None], 4))


def test_temperature_draws_from_the_generator() -> None:
    s = spec("mod: {capacity: 0.5}")
    model, prompts = model_of(s), tokens_of(s, 2, 3)
    one, same, other = (generate(model, prompts, 8, temperature=5.0, generator=torch.Generator().manual_seed(k)) for k in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_what_cannot_be_sampled() -> None:
    s = spec("")
    model = build(s)
    with pytest.raises(UsageError, match="empty prompt"):
        generate(model, torch.zeros(1, 0, dtype=torch.long), 3)
    with pytest.raises(UsageError, match="negative"):
        generate(model, torch.zeros(1, 1, dtype=torch.long), -1)
    with pytest.raises(UsageError, match="no predictor"):
        causal_forward(build(spec("mod: {capacity: 0.5}")), torch.zeros(1, 3, dtype=torch.long), decide="predictor")
    with pytest.raises(UsageError, match="one of router"):
        causal_forward(model, torch.zeros(1, 3, dtype=torch.long), decide="coin")
    learned = build(spec("positions: {kind: learned}"))
    assert generate(learned, torch.zeros(1, 10, dtype=torch.long), 7).shape == (1, 17)
    with pytest.raises(UsageError, match="17 tokens are more than its 16 learned positions"):
        generate(learned, torch.zeros(1, 10, dtype=torch.long), 8)
    experts = build(spec("moe: {n_experts: 2, choice: expert, capacity: 1.0}"))
    with pytest.raises(UsageError, match="experts that choose tokens"):
        generate(experts, torch.zeros(1, 3, dtype=torch.long), 2)
    cache = Cache(model.plan, 1)
    prefill(model, torch.zeros(1, 3, dtype=torch.long), cache)
    with pytest.raises(UsageError, match="starts with an empty one"):
        prefill(model, torch.zeros(1, 3, dtype=torch.long), cache)
    with pytest.raises(UsageError, match="the cache is for 1"):
        decode(model, torch.zeros(2, dtype=torch.long), cache)


def test_shipped_mod_samples() -> None:
    s = load("mod-small")
    assert generate(build(s), torch.zeros(1, 1, dtype=torch.long), 3).shape == (1, 4)
