"""Activations of the ledger against tensors that torch's autograd keeps on the CPU: the same integers."""

import random

import msgspec
import pytest
import torch
from hub_configs import draw, nulled
from hypothesis import HealthCheck, given, settings
from modcalc.models import training_loss
from saved_tensors import BILLED, again_bytes, kept_bytes
from strategies import specs

import modcalc
from modcalc.cost.activations import activations
from modcalc.cost.ledger import ledger
from modcalc.cost.memory import train_memory
from modcalc.cost.workload import RECOMPUTE, Training, Workload
from modcalc.errors import UsageError
from modcalc.spec.hub import from_config
from modcalc.spec.hub_types import TYPES
from modcalc.spec.load import loads, shipped_specs
from modcalc.spec.resolve import resolve
from modcalc.spec.schema import Mod, Positions, Spec

BASE = "name: x\nvocab_size: 29\nseq_len: 12\nd_model: 16\nn_layers: 4\n"
PLAIN = "attention: {n_heads: 4, n_kv_heads: 2}\nmlp: {d_ff: 24, kind: gated, activation: silu}\n"
ROUTING = [
    "capacity: 0.25",
    "capacity: 0.5, selection: threshold",
    "capacity: 0.5, router: random",
    "capacity: 0.5, predictor_width: 3",
    "capacity: 0.5, bypass: {d_ff: 5}",
    "capacity: 0.5, bypass: {d_ff: 5}, selection: threshold",
    "capacity: 0.5, granularity: attention",
    "capacity: 0.5, keys: all",
    "capacity: 0.5, keys: all, granularity: attention, selection: threshold, bypass: {d_ff: 5}",
    "capacity: 0.5, granularity: mlp, z_loss: 0.1",
    "capacity: 0.5, every: 1, predictor_width: 3, aux_loss: 0.0",
    "capacity: 0.5, every: 1, aux_loss: 0.0",
    "capacity: 0.5, aux_loss: 0.0, z_loss: 0.1",
    "capacity: [0.75, 0.5], recursions: 2, layers: [1, 2]",
    "capacity: [0.75, 0.5], recursions: 2, layers: [0, 1, 2, 3], selection: threshold, predictor_width: 3",
]
EXPERTS = [
    "n_experts: 4, top_k: 2",
    "n_experts: 4, top_k: 2, bias: true",
    "n_experts: 4, top_k: 2, capacity: 1.25",
    "n_experts: 4, top_k: 2, capacity: 0.5, n_noop: 1, score: topk_softmax",
    "n_experts: 4, choice: expert, capacity: 2.0",
    "n_experts: 4, choice: expert, capacity: 0.5, renormalize: false, score: sigmoid",
    "n_experts: 4, top_k: 2, n_shared: 2, shared_gate: true",
    "n_experts: 8, top_k: 2, n_shared: 1, score: sigmoid, balance_bias: true, groups: 4, top_groups: 2, every: 2",
]
ATTENTION = [
    "{n_heads: 4, n_kv_heads: 2, qk_norm: {}, window: [5, null]}",
    "{n_heads: 4, n_kv_heads: 2, qk_norm: {scope: per_head}}",
    "{n_heads: 4, n_kv_heads: 2, qk_norm: {}, v_norm: true, window: [5, null], full: {n_kv_heads: 1, head_dim: 8, values_from_keys: true}}",
    "{n_heads: 4, qk_norm: {scope: full, kind: layernorm}, v_norm: true, values_from_keys: true}",
    "{n_heads: 4, v_norm: true}",
    "{n_heads: 4, sinks: true, window: 5, bias: true}",
    "{n_heads: 4, n_kv_heads: 2, qk_norm: {affine: false}, window: [5, null], chunked: true}",
    "{n_heads: 2, softcap: 30.0}",
    "{n_heads: 4, n_kv_heads: 2, gate: elementwise, window: [5, null]}",
    "{n_heads: 4, gate: headwise, sinks: true}",
    "{n_heads: 2, gate: headwise, latent: {kv_rank: 6, nope_dim: 4, rope_dim: 2, v_dim: 5}}",
    "{n_heads: 2, latent: {kv_rank: 6, q_rank: 5, nope_dim: 4, rope_dim: 2, v_dim: 4}}",
    "{n_heads: 2, latent: {kv_rank: 6, nope_dim: 4, rope_dim: 2, v_dim: 6}}",
]


def holds(spec: Spec, dtype: str, attention: str, batch: int, *recomputes: str) -> None:
    """Activations and loss of a train step, what runs again: as measured, in the dtypes that this torch keeps as billed."""
    if dtype not in BILLED:
        return
    model = modcalc.build(spec, dtype=dtype, attention=attention)
    tokens, targets = (torch.randint(spec.vocab_size, (batch, spec.seq_len)) for _ in range(2))
    for recompute in recomputes:
        how = Training(recompute=recompute, attention="fused" if attention == "sdpa" else "explicit", device="cpu")
        bill = train_memory(resolve(spec), batch, how, dtype)
        assert kept_bytes(model, recompute, lambda: training_loss(model, tokens, targets)[0]) == bill.activations.total + bill.loss, recompute
        assert again_bytes(model, recompute, lambda: model(tokens)) == bill.activations.again, recompute


def everywhere(spec: Spec, batch: int = 2) -> None:
    for attention in ("sdpa", "explicit"):
        for dtype in ("fp32", "bf16"):
            holds(spec, dtype, attention, batch, *RECOMPUTE)


def small(spec: Spec) -> Spec:
    """The same kind of model at a size that runs in milliseconds."""
    a, mod = spec.attention, spec.mod
    heads = msgspec.structs.replace(a, n_heads=4, n_kv_heads=None if a.n_kv_heads in (None, a.n_heads) else 2, head_dim=None)
    inner = msgspec.structs.replace(spec.mlp, d_ff=20, ratio=None)
    capacity = 4 if mod and isinstance(mod.capacity, int) else mod and mod.capacity
    routed = None if mod is None else msgspec.structs.replace(mod, capacity=capacity, predictor_width=mod.predictor_width and 4)
    positions = msgspec.structs.replace(spec.positions, max_len=None)
    size = dict(
        vocab_size=31, seq_len=16, d_model=16, n_layers=4, embedding=msgspec.structs.replace(spec.embedding, dim=None), train=None, budget=None
    )
    return msgspec.structs.replace(spec, attention=heads, mlp=inner, mod=routed, positions=positions, **size)


@pytest.mark.parametrize("name", sorted(shipped_specs()))
def test_every_shipped_spec(name: str) -> None:
    everywhere(small(modcalc.load(name)))


@pytest.mark.parametrize("mod", ROUTING)
def test_every_routing(mod: str) -> None:
    everywhere(loads(f"{BASE}{PLAIN}mod: {{{mod}}}\n"))


def test_a_way_around_that_no_token_takes_keeps_nothing() -> None:
    """Not the product 1 + weight of its norm either."""
    everywhere(loads(f"{BASE}{PLAIN}norm: {{unit_offset: true}}\nmod: {{capacity: 1.0, bypass: {{d_ff: 5}}}}\n"))


@pytest.mark.parametrize("moe", EXPERTS)
def test_experts(moe: str) -> None:
    everywhere(loads(f"{BASE}{PLAIN}moe: {{{moe}}}\nmod: {{capacity: 0.5}}\n"))


@pytest.mark.parametrize("moe", ["top_k: 2", "top_k: 2, capacity: 0.5, scaling: 2.0", "top_k: 1, renormalize: false, score: sigmoid"])
@pytest.mark.parametrize("norm", ["", "kind: layernorm, ", "unit_offset: true, ", "affine: false, "])
def test_experts_between_norms_of_their_own(moe: str, norm: str) -> None:
    own = f"moe: {{n_experts: 4, {moe}, n_shared: 1, shared_d_ff: 9, own_norms: true}}\nnorm: {{{norm}placement: sandwich}}\n"
    everywhere(loads(f"{BASE}{PLAIN}{own}mod: {{capacity: 0.5}}\n"))


@pytest.mark.parametrize("attention", ATTENTION)
def test_attention(attention: str) -> None:
    everywhere(loads(f"{BASE}attention: {attention}\nmlp: {{d_ff: 24}}\nmod: {{capacity: 0.5, layers: [1]}}\n"))


def test_norms_of_heads_without_a_weight_keep_no_product() -> None:
    everywhere(loads(f"{BASE}{PLAIN.replace('heads: 2', 'heads: 2, qk_norm: {scope: per_head}')}norm: {{affine: false}}\n"))


def test_values_of_a_single_token_are_multiplied_as_they_stand() -> None:
    latent = "{kv_rank: 6, nope_dim: 4, rope_dim: 2, v_dim: 5}"
    everywhere(loads(f"{BASE}attention: {{n_heads: 4, latent: {latent}}}\nmlp: {{d_ff: 24}}\nmod: {{capacity: 1}}\n"))


def test_whole_sequences_need_no_angles_of_blocks_that_recursions_hold() -> None:
    text = f"{BASE.replace('n_layers: 4', 'n_layers: 3')}{PLAIN.replace('n_kv_heads: 2', 'window: [null, 5]')}"
    everywhere(loads(f"{text}positions: {{kind: rotary, local_theta: 1000.0}}\nmod: {{capacity: [0.75, 0.5], recursions: 2, layers: [0, 1]}}\n"))


@pytest.mark.parametrize("model_type", sorted(TYPES))
def test_models_of_the_transformers_library(model_type: str) -> None:
    spec = msgspec.structs.replace(from_config(nulled(draw(model_type, random.Random(model_type)))), seq_len=9)
    holds(spec, "bf16", "sdpa", 2, *RECOMPUTE)
    holds(spec, "fp32", "explicit", 1, *RECOMPUTE)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(specs())
def test_any_spec(spec: Spec) -> None:
    for dtype, batch in (("fp32", 1), ("bf16", 3)):
        for attention in ("sdpa", "explicit"):
            holds(spec, dtype, attention, batch, *RECOMPUTE)


def block_bytes(spec: Spec, batch: int, **how: str) -> int:
    """Bytes that the first of two equal layers keeps: what the second adds."""
    sums = []
    for n in (1, 2):
        plan = resolve(msgspec.structs.replace(spec, n_layers=n))
        sums.append(activations(ledger(plan, Workload(batch, plan.seq_len, phase="train")), "bf16", Training(**how)).total)
    return sums[1] - sums[0]


@pytest.mark.parametrize("sees", ["window", "alibi"])
def test_layers_that_see_as_far_keep_one_mask(sees: str) -> None:
    plain = modcalc.load("dense-small")
    if sees == "window":
        spec = msgspec.structs.replace(plain, attention=msgspec.structs.replace(plain.attention, window=9))
    else:
        spec = msgspec.structs.replace(plain, positions=Positions(kind="alibi"))
        plain = msgspec.structs.replace(plain, positions=Positions(kind="none"))
    assert block_bytes(spec, 2) == block_bytes(plain, 2)


def test_published_bytes_of_a_layer() -> None:
    """Korthikanti et al. 2022 (arXiv 2205.05198), equation 1: s b h (34 + 5 a s / h) bytes, of which 2 s b h are dropout masks.

    A fused kernel keeps no scores; what it and the norms keep beside in fp32, the paper neglects. Full recomputation: 2 s b h (section 5).
    """
    gpt = modcalc.load("gpt2")
    s, b, h, a = gpt.seq_len, 3, gpt.d_model, gpt.attention.n_heads
    norms, logsumexp = 2 * 2 * 4 * s * b, 4 * a * s * b
    assert block_bytes(gpt, b) == 32 * s * b * h + norms + logsumexp
    assert block_bytes(gpt, b, recompute="full") == 2 * s * b * h


def test_bytes_of_a_llama_layer() -> None:
    """By hand, as CUDA's kernels keep it: inputs, statistics and outputs of both norms; q, k, v, what comes out and its logsumexp;
    gate, up, silu(gate) and the product.
    """
    llama = modcalc.load("llama-2-7b")
    s, b, h, a, f = llama.seq_len, 2, llama.d_model, llama.attention.n_heads, llama.mlp.d_ff
    norms, attention, mlp = 2 * (2 * h + 4 + 2 * h), 4 * 2 * h + 4 * a, 4 * 2 * f
    assert block_bytes(llama, b) == s * b * (norms + attention + mlp)


def test_bytes_of_gates() -> None:
    """The gates themselves and the product, beside what a fused kernel keeps of what is gated."""
    llama, b = modcalc.load("llama-2-7b"), 2
    for gate, gates in (("elementwise", llama.d_model), ("headwise", llama.attention.n_heads)):
        gated = msgspec.structs.replace(llama, attention=msgspec.structs.replace(llama.attention, gate=gate))
        assert block_bytes(gated, b) - block_bytes(llama, b) == 2 * llama.seq_len * b * (gates + llama.d_model)
        assert block_bytes(gated, b, recompute="full") == block_bytes(llama, b, recompute="full")


def test_a_routed_block_at_full_recomputation_costs_as_a_dense_one() -> None:
    """Only what comes in is kept, which is all tokens."""
    dense = modcalc.load("dense-small")
    routed = msgspec.structs.replace(dense, mod=Mod(capacity=0.25))
    kept = [activations(ledger(resolve(s), Workload(1, s.seq_len, phase="train")), "bf16", Training(recompute="full")).kept for s in (dense, routed)]
    assert kept[0]["residual"] == kept[1]["residual"] == dense.n_layers * dense.seq_len * dense.d_model * 2


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (dict(dtype="bf61"), "dtype 'bf61': one of fp64, fp32, bf16, fp16"),
        (dict(recompute="some"), "recompute 'some': one of none, selective, full"),
        (dict(attention="flash"), "attention 'flash': one of fused, explicit"),
        (dict(device="tpu"), "device 'tpu': one of cuda, cpu"),
    ],
)
def test_names_that_there_are_not(how: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        activations([], how.pop("dtype", "bf16"), Training(**how))
