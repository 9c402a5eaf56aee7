"""Memory of the ledger against storages of built models, optimizers, caches and whole train steps; what fits."""

import re
import subprocess
import sys

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from modcalc.models import Cache, prefill, training_loss
from msgspec import structs
from saved_tensors import BILLED, Calls, Peak, parts, sizes
from torch.utils.checkpoint import checkpoint

import modcalc
from modcalc.cost.activations import Activations
from modcalc.cost.fits import fits, largest
from modcalc.cost.memory import TrainMemory, kv_cache_bytes, sample_memory, train_memory
from modcalc.cost.memory_report import memory_report
from modcalc.cost.workload import Training, Workload
from modcalc.errors import UsageError
from modcalc.spec.load import loads
from modcalc.spec.plan import Plan
from modcalc.spec.resolve import resolve
from modcalc.spec.schema import Spec

TINY = """
name: tiny
vocab_size: 40
seq_len: 16
d_model: 16
n_layers: 4
attention: {n_heads: 4, n_kv_heads: 2}
mlp: {d_ff: 32}
"""
MODELS = {
    "dense": "",
    "tied": "head: {tied: true}\n",
    "routed": "mod: {capacity: 0.25, predictor_width: 4}\n",
    "shared weights": "mod: {capacity: [0.5, 0.25], recursions: 2}\n",
    "experts": "moe: {n_experts: 4, top_k: 2, balance_bias: true, score: sigmoid, every: 2}\nnorm: {kind: layernorm}\n",
}


def bytes_of(tensors) -> int:
    return sum(sizes(tensors).values())


def optimized(parameters: list[torch.Tensor], kind: str) -> torch.optim.Optimizer:
    """The optimizer after one step."""
    make = {"adamw": torch.optim.AdamW, "momentum": torch.optim.SGD, "sgd": torch.optim.SGD}[kind]
    optimizer = make(parameters, lr=0.1, **({"momentum": 0.9} if kind == "momentum" else {}))
    optimizer.step()
    return optimizer


def train_bytes(plan: Plan, batch: int, dtype: str = "bf16", **how: object) -> int:
    return train_memory(plan, batch, Training(**how), dtype).total


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    return bytes_of(value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("kind", ["adamw", "momentum", "sgd"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("model", MODELS)
def test_weights_gradients_and_states_are_those_of_torch(model: str, dtype: str, kind: str) -> None:
    spec = loads(TINY + MODELS[model])
    built = modcalc.build(spec, dtype=dtype)
    for p in built.parameters():
        p.grad = torch.ones_like(p)
    bill = train_memory(resolve(spec), 1, Training(optimizer=kind, master=False), dtype)
    assert bill.weights == bytes_of([*built.parameters(), *built.buffers()])
    assert bill.gradients == bytes_of(p.grad for p in built.parameters())
    assert (bill.master, bill.states) == (0, state_bytes(optimized(list(built.parameters()), kind)))


@pytest.mark.parametrize("kind", ["adamw", "momentum", "sgd"])
def test_master_weights_are_an_fp32_copy_that_the_optimizer_updates(kind: str) -> None:
    spec = loads(TINY)
    copies = [p.detach().float() for p in modcalc.build(spec, dtype="bf16").parameters()]
    for p in copies:
        p.grad = torch.ones_like(p)
    bill = train_memory(resolve(spec), 1, Training(optimizer=kind))
    assert bill.master == bytes_of(copies)
    assert bill.states == state_bytes(optimized(copies, kind))
    assert train_memory(resolve(spec), 1, Training(optimizer=kind), "fp32").master == 0


def test_experts_have_a_balance_bias_only_where_the_spec_says_so() -> None:
    moe = "moe: {{n_experts: 4, top_k: 2, d_ff: 8, score: sigmoid, balance_bias: {}}}\n"
    for mod in ("", "mod: {capacity: [0.5, 0.25], recursions: 2}\n"):
        for balance, buffers in (("false", 0), ("true", 4 * 4)):
            spec = loads(TINY + moe.format(balance) + mod)
            m = sample_memory(resolve(spec), Workload(1, spec.seq_len), "bf16")
            assert m.weights == 2 * modcalc.account(spec).params.total + buffers * spec.n_layers


def test_sixteen_bytes_per_parameter() -> None:
    """ZeRO (arXiv 1910.02054, section 3.1): 2 + 2 + K = 12 bytes with mixed-precision Adam. torch's step counts come on top."""
    spec = modcalc.load("llama-2-7b")
    bill = train_memory(resolve(spec))
    tensors = 2 + 1 + 32 * (4 + 3 + 2)
    assert bill.fixed == 16 * 6_738_415_616 + 4 * tensors
    assert (bill.weights, bill.gradients, bill.master) == tuple(n * 6_738_415_616 for n in (2, 2, 4))


@pytest.mark.parametrize(
    ("name", "dtype", "attention", "recompute"),
    [
        *[(name, dtype, how, "none") for name in ("dense-small", "mod-small") for dtype in ("fp32", "bf16") for how in ("sdpa", "explicit")],
        ("dense-small", "bf16", "sdpa", "full"),
        ("mod-small without labels", "fp32", "sdpa", "none"),
    ],
)
def test_peak_of_a_train_step(name: str, dtype: str, attention: str, recompute: str) -> None:
    """The most bytes alive in forward and backward, gradients held throughout: all that is billed, and the loss itself."""
    if dtype not in BILLED:
        pytest.skip(f"this torch keeps {dtype} otherwise than billed")
    spec, batch = modcalc.load(name.partition(" ")[0]), 2
    if "without labels" in name:  # which hold no room for gradients
        spec = structs.replace(spec, mod=structs.replace(spec.mod, aux_loss=0.0, z_loss=0.01, predictor_width=None))
    model = modcalc.build(spec, dtype=dtype, attention=attention)
    tokens, targets = (torch.randint(spec.vocab_size, (batch, spec.seq_len)) for _ in range(2))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    states = [value for state in optimized(list(model.parameters()), "adamw").state.values() for value in state.values()]
    Calls(parts(model, recompute), lambda forward, *args: checkpoint(forward, *args, use_reentrant=False))
    with Peak() as peak:
        for tensor in (*model.parameters(), *(p.grad for p in model.parameters()), *states, tokens, targets):
            peak.add(tensor)
        training_loss(model, tokens, targets)[0].backward()
    kind = "fused" if attention == "sdpa" else attention
    how = Training(master=False, attention=kind, device="cpu", recompute=recompute)
    bill = train_memory(resolve(spec), batch, how, dtype)
    assert peak.most == bill.total + 4


def test_the_larger_of_loss_and_recomputation_counts() -> None:
    for again, peak in ((50, 70), (80, 80)):
        m = TrainMemory(1, 2, 3, 4, Activations({"mlp": 100}, again), 30, 40)
        assert (m.peak, m.total) == (peak, 10 + 100 + peak)


@pytest.mark.parametrize(("tied", "gradients", "more"), [("false", 1, 0.01), ("true", 3, 1e-5)])
def test_peak_of_a_step_after_its_blocks(tied: str, gradients: int, more: float) -> None:
    """Of a large vocabulary and few tokens: the table's gradient, to be added to the one held; a tied one also the head's part and their sum."""
    spec = msgspec.structs.replace(loads(TINY + f"head: {{tied: {tied}}}\n"), d_model=128, vocab_size=8000, seq_len=2)
    model, tokens = modcalc.build(spec, dtype="bf16"), torch.randint(8000, (1, 2))
    weights = list(model.parameters())
    for p in weights:
        p.grad = torch.zeros_like(p)
    bill = train_memory(resolve(spec), 1, Training(optimizer="sgd", master=False, device="cpu"))
    assert bill.peak == bill.outside - bill.activations.total and bill.outside == gradients * 8000 * 128 * 2
    with Peak() as peak:
        for tensor in (*weights, *(p.grad for p in weights), tokens):
            peak.add(tensor)
        training_loss(model, tokens, tokens)[0].backward()
    assert bill.total <= peak.most < (1 + more) * bill.total  # an untied head's gradient comes while there are activations


def test_published_cache_of_llama() -> None:
    plan = resolve(modcalc.load("llama-2-7b"))
    assert kv_cache_bytes(plan, 4096, "bf16") == 2 * 1024**3
    assert kv_cache_bytes(plan, 4096, "fp32", batch=3) == 12 * 1024**3


def test_a_cache_holds_from_no_token_to_as_many_as_there_are_positions() -> None:
    plan = resolve(modcalc.load("gpt2"))
    assert [kv_cache_bytes(plan, context) for context in (0, 1, 1024)] == [12 * 2 * 768 * 2 * context for context in (0, 1, 1024)]
    with pytest.raises(UsageError, match="1025 tokens are more than its 1024 learned positions"):
        kv_cache_bytes(plan, 1025)
    with pytest.raises(UsageError, match="context -1: a number of tokens, at least 0"):
        kv_cache_bytes(plan, -1)


@pytest.mark.parametrize(
    ("attention", "elements"),
    [
        ("{n_heads: 4}", 16 * 2 * 16),
        ("{n_heads: 4, n_kv_heads: 2}", 16 * 2 * 8),
        ("{n_heads: 4, window: 5}", 5 * 2 * 16),
        ("{n_heads: 4, latent: {kv_rank: 6, nope_dim: 4, rope_dim: 2, v_dim: 4}}", 16 * (6 + 2)),
    ],
)
def test_cache_after_a_prefill(attention: str, elements: int) -> None:
    spec = loads(TINY.replace("{n_heads: 4, n_kv_heads: 2}", attention))
    model, tokens = modcalc.build(spec, dtype="bf16").eval(), torch.randint(40, (3, 16))
    cache = Cache(model.plan, 3)
    prefill(model, tokens, cache)
    billed = sample_memory(resolve(spec), Workload(3, 16, phase="prefill")).kv_cache
    assert cache.used_bytes == billed == 3 * 4 * elements * 2


@pytest.mark.parametrize(("bias", "routing"), [(50.0, "all"), (-50.0, "none")])
def test_routed_blocks_cache_what_they_let_pass(bias: float, routing: str) -> None:
    """A predictor that always (never) says yes."""
    spec = loads(TINY + "mod: {capacity: 0.25, predictor_width: 4}\n")
    model, tokens = modcalc.build(spec, dtype="bf16").eval(), torch.randint(40, (2, 16))
    with torch.no_grad():
        for block in model.blocks[1::2]:
            block.predictor.down_proj.bias.fill_(bias)
    cache = Cache(model.plan, 2)
    prefill(model, tokens, cache)
    assert cache.used_bytes == kv_cache_bytes(resolve(spec), 16, "bf16", 2, routing)
    none, expected, most = (kv_cache_bytes(resolve(spec), 16, "bf16", 2, r) for r in ("none", "expected", "all"))
    assert expected == none + (most - none) / 4


def test_sampling_holds_weights_cache_and_logits() -> None:
    spec = loads(TINY)
    plan, weights = resolve(spec), train_memory(resolve(spec)).weights
    for work, cached, rows in (
        (Workload(2, 16, phase="forward"), 0, 32),
        (Workload(2, 16, phase="prefill"), 16, 2),
        (Workload(2, 1, 7, phase="decode"), 8, 2),
    ):
        m = sample_memory(plan, work)
        assert (m.weights, m.kv_cache, m.logits) == (weights, cached and kv_cache_bytes(plan, cached, batch=2), rows * 40 * 2)
        assert m.total == m.weights + m.kv_cache + m.logits


@given(st.integers(1, 50), st.integers(0, 40), st.integers(0, 3000), st.integers(1, 60))
def test_the_search_is_exact(slope: int, start: int, room: int, most: int) -> None:
    def cost(n: int) -> int:
        assert 1 <= n <= most + 1
        return start + slope * n

    assert largest(cost, room, most) == max([n for n in range(1, most + 1) if cost(n) <= room], default=0)


@pytest.mark.parametrize("mod", ["", "mod: {capacity: 0.25}\n", "mod: {capacity: 0.5, multiple_of: 4, bypass: {d_ff: 8}}\n"])
@pytest.mark.parametrize("room", [400_000, 1_000_000])
def test_one_more_does_not_fit(mod: str, room: int) -> None:
    spec = loads(TINY + mod)
    found = fits(spec, room, seq_len=16, context=16, batch=2, routings=("expected", "all") if mod else ("expected",))
    assert [(f.phase, f.knob) for f in found][:4] == [("train", "batch"), ("train", "seq_len"), ("decode", "batch"), ("decode", "context")]
    for f in found:
        assert f.largest > 1 and f.held <= room < f.next
    by = {(f.phase, f.knob): f for f in found[:4]}
    batch, length = by["train", "batch"].largest, by["train", "seq_len"].largest
    assert by["train", "batch"].held == train_bytes(resolve(spec), batch) <= room < train_bytes(resolve(spec), batch + 1)
    # From both sides, one by one: nothing longer fits, nothing shorter does not.
    assert [n for n in range(1, 2 * length) if train_bytes(resolve(spec, n), 2) <= room] == list(range(1, length + 1))
    context = by["decode", "context"].largest

    def decode(n: int) -> int:
        return sample_memory(resolve(spec), Workload(2, 1, n - 1, "decode")).total

    assert decode(context) <= room < decode(context + 1)


@pytest.mark.parametrize("capacity", ["0.5", "[0.25, 1.0, 0.5, 9]"])
def test_where_the_way_around_holds_more_than_the_block(capacity: str) -> None:
    """Memory falls where a capacity jumps to its next multiple; the longest sequence may lie behind some that do not fit."""
    spec = loads(f"{TINY}mod: {{capacity: {capacity}, every: 1, multiple_of: 12, bypass: {{d_ff: 800}}}}\nseq_len: 40\n".replace("seq_len: 16\n", ""))
    bytes_at = [train_bytes(resolve(spec, n), 2) for n in range(1, 300)]
    assert any(a > b for a, b in zip(bytes_at, bytes_at[1:], strict=False))
    for room in (*bytes_at[10:150:7], bytes_at[47], bytes_at[48] - 1):
        by = {(f.phase, f.knob): f.largest for f in fits(spec, room, seq_len=16, context=16, batch=2)}
        assert by["train", "seq_len"] == max(n for n, held in enumerate(bytes_at, start=1) if held <= room)


def test_labels_of_more_routers_than_the_vocabulary_has_entries() -> None:
    """What the loss holds does not become less when it runs backward."""
    spec = loads(TINY.replace("vocab_size: 40", "vocab_size: 1") + "mod: {capacity: 0.5, every: 1}\n")
    found = train_memory(resolve(spec), 1)
    assert found.loss_backward == 0 and found.peak == found.loss


def test_where_a_search_ends_without_memory_being_short() -> None:
    positions = "positions: {kind: learned, max_len: 64}\n"
    found = {(f.phase, f.knob): f for f in fits(loads(TINY + positions), 10**8, seq_len=16, context=16)}
    for at in (("train", "seq_len"), ("decode", "context")):
        assert (found[at].largest, found[at].limit, found[at].next) == (64, "positions", None)
    windows = loads(TINY.replace("n_kv_heads: 2", "n_kv_heads: 2, window: 4"))
    found = {(f.phase, f.knob): f for f in fits(windows, 10**8, seq_len=16, context=16)}
    assert (found["decode", "context"].limit, found["decode", "context"].next) == ("never", None)
    assert found["train", "seq_len"].limit == ""
    huge = fits(loads(TINY), 10**30, seq_len=16, context=16)
    assert {(fit.largest, fit.limit) for fit in huge} == {(10**9, "end")}


def test_nothing_fits() -> None:
    spec = modcalc.load("llama-2-7b")
    train, longest, decode, context = fits(spec, 2**34, seq_len=4096, context=4096)
    assert (train.largest, train.held, longest.largest) == (0, None, 0)
    assert train.next == train_bytes(resolve(spec, 4096), 1) > 2**34
    assert decode.largest == 1 and context.largest > 4096
    sgd = Training(optimizer="sgd")
    for n, phase in ((4, dict(phase="train")), (2, dict(phase="decode", context=4095))):
        report = memory_report(spec, room=2**33, training=sgd, **phase)
        assert [(f.largest, f.held) for f in report.fits] == [(0, None)] * n
        assert report.fixed("decode") == 13_476_831_232
        assert report.fixed("train") == 4 * 13_476_831_232 == train_memory(report.plan, 1, sgd).fixed


def test_what_costs_more_is_billed_more() -> None:
    """Longer, wider, deeper, more of a batch, less recomputation, explicit attention."""
    spec = loads(TINY)
    base = train_bytes(resolve(spec), 2)
    for other in (dict(n_layers=5), dict(d_model=32), dict(vocab_size=41), dict(seq_len=17)):
        assert train_bytes(resolve(msgspec.structs.replace(spec, **other)), 2) > base
    assert train_bytes(resolve(spec), 3) > base
    assert train_bytes(resolve(spec), 2, attention="explicit") > base > train_bytes(resolve(spec), 2, recompute="full")
    assert train_bytes(resolve(spec), 2, dtype="fp32") > base > train_bytes(resolve(spec), 2, optimizer="sgd")
    assert train_bytes(resolve(spec), 2, master=False) < base


def test_all_of_a_report_is_of_one_workload() -> None:
    report = memory_report(modcalc.load("mod-small"), batch=2, seq_len=100)
    assert report.work.seq_len == report.cached == 100
    assert report.twin.activations.total > report.memory.activations.total
    assert report.choices[0].activations == report.memory.activations
    assert len({repr(c.activations) for c in report.choices}) == len(report.choices) == 5
    assert [c.routing for c in report.caches] == ["expected", "all", "none", "dense twin"]
    assert report.caches[1].bytes == report.caches[3].bytes == {"bf16": 2 * 100 * 4 * 512 * 2, "fp32": 2 * 100 * 4 * 512 * 4}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (dict(batch=0), "batch 0"),
        (dict(dtype="bf61"), "dtype 'bf61': one of"),
        (dict(phase="decode", context=2000), "2001 tokens are more than its 1024 learned positions"),
        (dict(context=3), "context 3: only the phases prefill and decode"),
    ],
)
def test_what_cannot_be_served(how: dict, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        memory_report(modcalc.load("gpt2"), **how)
    for name, names in (("optimizer", "adamw, momentum, sgd"), ("recompute", "none, selective, full"), ("device", "cuda, cpu")):
        with pytest.raises(UsageError, match=f"{name} 'other': one of {names}"):
            Training(**{name: "other"})


def test_of_a_spec_as_it_is_trained() -> None:
    """The metric train_memory_bytes: train.batch_size sequences, bf16 with fp32 AdamW."""
    from modcalc.cost.budget import Costs

    spec: Spec = loads(TINY + "train: {batch_size: 8, steps: 1}\n")
    assert Costs(spec).train_memory_bytes == train_bytes(resolve(spec), 8)


def test_no_torch_and_no_numpy() -> None:
    code = "import sys; from modcalc.cli import memory, app; sys.argv = ['modcalc', 'memory', 'mod-small', '--gpu-memory', '1GiB']\n"
    code += "try: app.main()\nexcept SystemExit as stop: assert stop.code == 0\n"
    code += "assert not {'torch', 'numpy', 'rich', 'matplotlib'} & set(sys.modules), sorted(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
