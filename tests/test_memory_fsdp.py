"""Memory of one of many GPUs against torch's FSDP2 in one process: collectives that do nothing leave the storages that they would fill."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from sys import _getframe, gettrace, settrace
from typing import Any

import pytest
from msgspec import structs

torch = pytest.importorskip("torch")
if not torch.distributed.is_available() or not hasattr(torch.cpu.Stream, "record_event"):
    pytest.skip("FSDP2 on the CPU needs torch 2.7", allow_module_level=True)

import torch.distributed as dist  # noqa: E402
from hub_configs import CONFIGS  # noqa: E402
from modcalc.models import training_loss  # noqa: E402
from saved_tensors import BILLED, Calls, Peak, parts, sizes  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402
from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import modcalc  # noqa: E402
from modcalc.cost.account import account  # noqa: E402
from modcalc.cost.fits import fewest_gpus, fits  # noqa: E402
from modcalc.cost.memory import train_memory  # noqa: E402
from modcalc.cost.memory_report import memory_report  # noqa: E402
from modcalc.cost.sharding import _at_a_block, put_together, sliced  # noqa: E402
from modcalc.cost.workload import Training  # noqa: E402
from modcalc.errors import UsageError  # noqa: E402
from modcalc.spec.load import loads  # noqa: E402
from modcalc.spec.resolve import resolve  # noqa: E402
from modcalc.spec.schema import Attention, Mlp, Norm, Spec  # noqa: E402

# Blocks return views, which FSDP2 warns of for the sake of in-place work.
pytestmark = pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")

TINY = "{name: tiny, vocab_size: 40, seq_len: 16, d_model: 16, n_layers: 4, attention: {n_heads: 4, n_kv_heads: 2}, mlp: {d_ff: 32}"
MODELS = {
    "dense": "",
    "tied": ", head: {tied: true}, positions: {kind: learned, max_len: 512}",
    "narrow": ", embedding: {dim: 512}",
    "routed": ", mod: {capacity: 0.25, predictor_width: 4}",
    "own norms": ", moe: {n_experts: 5, top_k: 2, d_ff: 64, n_shared: 1, own_norms: true}, norm: {placement: sandwich}",
    "keys of all": ", mod: {capacity: 0.25, keys: all}",
    "shared weights": ", mod: {capacity: [0.5, 0.25], recursions: 2}",
    "experts": ", moe: {n_experts: 5, top_k: 2, d_ff: 64, balance_bias: true, score: sigmoid, every: 2}, norm: {kind: layernorm}",
}


@contextmanager
def world(gpus: int) -> Iterator[Any]:
    """The mesh of a group in which this process is alone."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=gpus)
    yield init_device_mesh("cpu", (gpus,))
    dist.destroy_process_group()


def own(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def held(tensors: Any) -> int:
    return sum(sizes(map(own, tensors)).values())


class OwnPeak(Peak):
    """Of this process's parts."""

    def add(self, tensor: torch.Tensor) -> None:
        super().add(own(tensor))


class Run:
    """A train step of a model in slices: bytes of weights, gradients and states after one, and the most of another."""

    def __init__(self, spec: Spec, gpus: int, batch: int, dtype: str = "bf16", recompute: str = "none", **options: Any) -> None:
        with world(gpus) as mesh:
            model = modcalc.build(spec, dtype=dtype)
            for block in model.blocks:
                fully_shard(block, mesh=mesh, **options)
            fully_shard(model, mesh=mesh, **options)
            weights = list(model.parameters())
            optimizer = torch.optim.AdamW(weights)
            tokens, targets = (torch.randint(spec.vocab_size, (batch, spec.seq_len)) for _ in range(2))
            training_loss(model, tokens, targets)[0].backward()
            optimizer.step()
            gradients = [p.grad for p in weights]
            states = [value for state in optimizer.state.values() for value in state.values()]
            self.weights, self.gradients, self.states = held([*weights, *model.buffers()]), held(gradients), held(states)
            Calls(parts(model, recompute), lambda forward, *args: checkpoint(forward, *args, use_reentrant=False))
            with OwnPeak() as peak:
                for tensor in (*weights, *gradients, *states, *model.buffers(), tokens, targets):
                    peak.add(tensor)
                training_loss(model, tokens, targets)[0].backward()
            self.most = peak.most


def padded(spec: Spec, gpus: int, prefix: str) -> int:
    """Entries of the weights whose paths begin so, put together from slices."""
    return sum(gpus * -(-shape[0] // gpus) * prod(shape[1:]) for path, shape in account(spec).weights().items() if path.startswith(prefix))


def bill(spec: Spec, gpus: int, batch: int, dtype: str = "bf16", **how: Any) -> Any:
    return train_memory(resolve(spec), batch, Training(device="cpu", fsdp=gpus, **how), dtype)


def as_here(m: Any, spec: Spec, gpus: int) -> Any:
    """A bill in bf16 as this torch is: see put_together."""
    if torch.__version__ < "2.15":
        return m
    whole = put_together(resolve(spec), account(spec).rows, gpus)
    return structs.replace(m, outside=2 * max(whole.before_blocks - padded(spec, gpus, "blocks.0."), whole.after_blocks))


@pytest.mark.parametrize("gpus", [2, 7])
@pytest.mark.parametrize("model", MODELS)
def test_slices_are_those_of_torch(model: str, gpus: int) -> None:
    """Rows that GPUs do not divide, and fewer rows than GPUs."""
    spec = loads(TINY + MODELS[model] + "}")
    run, m = Run(spec, gpus, 1), bill(spec, gpus, 1, master=False)
    assert (run.weights, run.gradients, run.states) == (m.weights, m.gradients, m.states)


def test_mixed_precision_holds_as_much() -> None:
    """FSDP2 keeps fp32 weights and gradients and gathers in bf16; billed are bf16 ones and a copy in fp32: 16 bytes a parameter both."""
    spec = loads(TINY + "}")
    run = Run(spec, 3, 1, "fp32", mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16))
    m = bill(spec, 3, 1)
    assert run.weights + run.gradients + run.states == m.fixed
    assert m.fixed - 4 * len(account(spec).weights()) == 16 * sliced(account(spec).rows, 3)


@pytest.mark.parametrize(
    ("name", "gpus", "batch", "dtype"), [("dense-small", 7, 2, "bf16"), ("mod-small", 8, 2, "bf16"), ("mod-small", 3, 4, "fp32")]
)
def test_peak_of_a_step_at_its_loss(name: str, gpus: int, batch: int, dtype: str) -> None:
    """All that is billed, and the loss itself, to the byte."""
    if dtype not in BILLED:
        pytest.skip(f"this torch keeps {dtype} otherwise than billed")
    m = bill(modcalc.load(name), gpus, batch, dtype, master=False)
    assert m.at_the_loss > m.at_a_block and m.gathered > 0
    assert Run(modcalc.load(name), gpus, batch, dtype).most == m.total + 4


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("model", MODELS)
def test_peak_of_a_step_at_a_block(model: str, layers: int) -> None:
    """Of two tokens, so that weights are nearly all: what comes back and what goes again meet by less than the activations."""
    spec = structs.replace(loads(TINY + MODELS[model] + "}"), d_model=128, vocab_size=8, seq_len=2, n_layers=layers)
    m = as_here(bill(spec, 4, 1, master=False, recompute="full"), spec, 4)
    assert m.at_a_block > m.at_the_loss
    slack = m.activations.total + m.activations.again
    assert slack < m.under_way / 16
    more = 0
    if model in ("experts", "own norms"):  # gradients of one matrix of each, made in parts
        more = 2 * 5 * 64 * 128
    elif model == "shared weights":  # a block's gradients of the second recursion, which those of the first are added to
        more = 2 * sum(prod(shape) for path, shape in account(spec).weights().items() if path.startswith("blocks.0."))
    assert -slack < Run(spec, 4, 1, recompute="full").most - m.total < slack + more


@pytest.mark.parametrize(("vocab_size", "tokens", "gpus"), [(256, 2, 4), (4000, 8, 96)])
def test_peak_of_a_step_with_a_tied_table(vocab_size: int, tokens: int, gpus: int) -> None:
    """A small one's gradient of the head is whole at a block; after the blocks are those of a large one, and of the first block in as many
    rows as the GPUs make of them.
    """
    spec = structs.replace(loads(TINY + ", head: {tied: true}}"), d_model=128, vocab_size=vocab_size, seq_len=tokens)
    m = bill(spec, gpus, 1, master=False, recompute="full")
    assert m.peak == (m.at_a_block if gpus == 4 else m.outside_blocks)
    assert abs(Run(spec, gpus, 1, recompute="full").most - m.total) < 2 * 128 * 128


def test_experts_fewer_than_gpus_take_more_with_every_gpu() -> None:
    spec = structs.replace(loads(TINY + ", moe: {n_experts: 2, top_k: 1, d_ff: 64}}"), d_model=128, vocab_size=8, seq_len=2)
    found, bills = [], [bill(spec, n, 1, master=False, recompute="full") for n in (4, 16)]
    for n, m in zip((4, 16), bills, strict=True):
        found.append(Run(spec, n, 1, recompute="full").most)
        assert found[-1] == pytest.approx(m.total, rel=0.02)
    assert found[1] > 1.3 * found[0] and bills[1].fixed < bills[0].fixed


def instructions(call: Callable[[], Any]) -> int:
    """Of Python, that a call runs."""
    count, before = 0, gettrace()

    def one_more(frame: Any, event: str, arg: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return one_more

    _getframe().f_trace_opcodes = True  # Python 3.12 asks as tracing begins whether any frame wants to see them
    settrace(one_more)
    call()
    settrace(before)
    return count


@pytest.mark.parametrize("model", MODELS)
def test_twice_the_layers_take_at_most_twice_the_work(model: str) -> None:
    """Searches bill a model some dozens of times; equal blocks are as large in a pass of many as of few."""
    few, many = (structs.replace(loads(TINY + MODELS[model] + "}"), n_layers=layers) for layers in (100, 200))
    bill(few, 8, 1)  # what is worked out once
    assert (bill(many, 8, 1).under_way == bill(few, 8, 1).under_way) == (model != "shared weights")
    assert 0 < instructions(lambda: bill(many, 8, 1)) <= 2 * instructions(lambda: bill(few, 8, 1))


@pytest.mark.parametrize("model", [model for model in MODELS if model not in ("narrow", "own norms")])
@pytest.mark.parametrize("tokens", [8, 128])
def test_peak_of_a_step_outside_its_blocks(model: str, tokens: int) -> None:
    """Of a large vocabulary: with few tokens all weights before the blocks, or if tied the table's gradients after them, but for what
    passes then, which is less than the activations; with more the loss, to the byte.
    """
    spec = structs.replace(loads(TINY + MODELS[model] + "}"), d_model=128, vocab_size=4000, seq_len=tokens)
    m = as_here(bill(spec, 4, 1, master=False, recompute="full"), spec, 4)
    assert (m.outside - m.activations.total == m.peak) == (tokens == 8) and (m.at_the_loss == m.peak) == (tokens == 128)
    passes = Run(spec, 4, 1, recompute="full").most - m.total - 4
    assert 0 < passes < m.activations.total if tokens == 8 else passes == 0


def test_one_gpu_slices_nothing() -> None:
    spec = modcalc.load("mod-small")
    alone = bill(spec, 1, 2)
    assert (alone.gathered, alone.under_way) == (0, 0)
    assert sliced(account(spec).rows, 1) == account(spec).params.total
    assert bill(spec, 2, 2).fixed < alone.fixed and bill(spec, 2, 2).activations == alone.activations


def test_how_many_gpus_it_takes() -> None:
    spec, usual = modcalc.load("llama-2-7b"), Training()
    for room in (24 * 2**30, 2**35, 80 * 2**30):
        n = fewest_gpus(resolve(spec), room, 1, "bf16", usual)
        assert n
        held, more = (train_memory(resolve(spec), 1, Training(fsdp=gpus)).total for gpus in (n, n // 2))
        assert held <= room < more
        report = memory_report(spec, room=room)
        assert report.gpus == n and {f.phase for f in report.fits} == {"train", "decode"}
        assert memory_report(spec, room=room, training=Training(fsdp=n)).gpus is None
        alone = fits(spec, room, seq_len=4096, context=4096, training=Training(fsdp=n))
        assert [(f.phase, f.largest > 0) for f in alone] == [("train", True), ("train", True)]
    assert fewest_gpus(resolve(spec), 2**30, 1, "bf16", usual) is None
    experts = modcalc.load(CONFIGS / "mixtral-8x7b-v0.1.json")
    found = memory_report(experts, seq_len=2048, room=120 * 2**30, training=Training(recompute="full", fsdp=32))
    assert found.outgrown and found.gpus == 8, "of 8 experts each of 32 GPUs has room for one as well, and puts four times as many together"
    size = dict(d_model=2**17, vocab_size=2**17, seq_len=1, n_layers=1, attention=Attention(n_heads=2), mlp=Mlp(d_ff=2**17))
    wide = Spec(name="wide", norm=Norm(affine=False), **size)
    last = train_memory(resolve(wide), 1, Training(fsdp=2**16)).total
    assert [fewest_gpus(resolve(wide), room, 1, "bf16", usual) for room in (last, last - 1)] == [2**16, None]
    sampling = fits(spec, 80 * 2**30, seq_len=4096, context=4096, train=False, training=Training(fsdp=8))
    assert [(f.phase, f.knob) for f in sampling] == [("decode", "batch"), ("decode", "context")]
    assert memory_report(spec, room=2**40).gpus is None
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(UsageError, match="fsdp"):
            Training(fsdp=wrong)


def test_weights_of_one_row_grow_with_the_gpus() -> None:
    """A router's one row lies on the first GPU, and each GPU makes room for a row of every other."""
    spec = loads(TINY + MODELS["routed"] + "}")
    rows = account(spec).rows
    router = next(op for op in rows if op.path.endswith("router"))
    assert router.weights == {"weight": (1, 16)}
    for n in (1, 2, 64):
        assert sliced([router], n) == 16 * router.repeat
        whole = padded(spec, n, "") - padded(spec, n, "blocks.")
        assert bill(spec, n, 1).gathered == (2 * whole if n > 1 else 0)


@pytest.mark.parametrize(
    ("order", "weights", "gradients", "most"),
    [
        ([0, 0], {0: 10}, {0: 4}, 14),  # run twice: its weights, and gradients that wait
        ([0, 1], {0: 10, 1: 20}, {0: 1, 1: 5}, 35),  # at the last: the one before it is fetched
        ([0, 1], {0: 10, 1: 20}, {0: 9, 1: 1}, 39),  # at the first: the one behind it is reduced
    ],
)
def test_what_is_whole_at_a_block(order: list[int], weights: dict, gradients: dict, most: int) -> None:
    assert _at_a_block(order, weights, gradients) == most
