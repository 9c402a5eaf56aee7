"""Everything that `modcalc memory` says about one spec, before anyone decides how it looks."""

from msgspec import Struct
from msgspec.structs import replace

from modcalc.cost.account import count_params, dense_twin, plan_and_work
from modcalc.cost.activations import Activations, activations
from modcalc.cost.fits import Fit, fewest_gpus, fits
from modcalc.cost.ledger import ledger
from modcalc.cost.memory import SampleMemory, TrainMemory, kv_cache_bytes, memory_of, train_memory
from modcalc.cost.recompute import fusible
from modcalc.cost.tensors import DTYPE
from modcalc.cost.workload import ATTENTION, RECOMPUTE, ROUTING, USUAL, Training, Workload
from modcalc.spec.plan import Dim, Plan
from modcalc.spec.resolve import resolve
from modcalc.spec.schema import Spec

CACHE_DTYPES = ("bf16", "fp32")
# What no row counts.
LEFT_OUT = ("allocator fragmentation", "the CUDA context", "workspaces of kernels")
LEFT_OUT_TRAIN = ("gradients of activations on their way back",)
LEFT_OUT_MANY = ("buffers of NCCL",)
LEFT_OUT_SAMPLE = ("activations on their way through a layer",)


class Choice(Struct, frozen=True):
    """Activations under one way to compute and keep them."""

    recompute: str
    attention: str
    activations: Activations


class Cache(Struct, frozen=True):
    """KV cache under a routing (None: nothing is routed; `dense twin`), by dtype."""

    routing: str | None
    bytes: dict[str, Dim]


class MemoryReport(Struct, frozen=True):
    """memory, twin: of the spec and of its dense twin (None for a dense spec). choices: other ways to keep activations, of phase train.
    cached: tokens of each sequence in `caches`. room, fits: with a GPU's memory.
    """

    spec: Spec
    plan: Plan
    work: Workload
    dtype: str
    training: Training
    memory: TrainMemory | SampleMemory
    twin: TrainMemory | SampleMemory | None
    choices: tuple[Choice, ...]
    cached: int
    caches: tuple[Cache, ...]
    room: int | None
    fits: tuple[Fit, ...]

    @property
    def params(self) -> int:
        return count_params(tuple(ledger(self.plan, self.work))).total

    @property
    def fusible(self) -> bool:
        """Whether the device has a fused kernel for its attention."""
        return fusible(ledger(self.plan, self.work), self.training.device)

    @property
    def forced(self) -> bool:
        """Whether no device has one."""
        return not fusible(ledger(self.plan, self.work))

    @property
    def attention(self) -> str:
        """How attention runs in training."""
        return self.training.attention if self.fusible else "explicit"

    def fixed(self, phase: str) -> int:
        """What any phase, not only the one billed, holds whatever the batch: weights; train also gradients, optimizer and gathered weights."""
        if phase != "train":
            return self.memory.weights
        m = train_memory(self.plan, 1, self.training, self.dtype)
        return m.fixed + m.gathered

    @property
    def outgrown(self) -> bool:
        """Whether a train step was asked for that a GPU's memory does not hold."""
        return isinstance(self.memory, TrainMemory) and self.room is not None and self.memory.total > self.room

    @property
    def gpus(self) -> int | None:
        """How many must share the model for such a step to fit; None: it does, or no number is enough."""
        return fewest_gpus(self.plan, self.room, self.work.batch, self.dtype, self.training) if self.outgrown else None

    @property
    def left_out(self) -> tuple[str, ...]:
        if not isinstance(self.memory, TrainMemory):
            return LEFT_OUT_SAMPLE + LEFT_OUT
        return LEFT_OUT_TRAIN + LEFT_OUT + (LEFT_OUT_MANY if self.training.fsdp > 1 else ())


def memory_report(
    spec: Spec,
    *,
    batch: int = 1,
    seq_len: int | None = None,
    phase: str = "train",
    context: int | None = None,
    dtype: str = DTYPE,
    room: int | None = None,
    training: Training = USUAL,
) -> MemoryReport:
    """Memory of a spec under one workload. context: tokens already cached, which decode needs; room: bytes of a device.

    Raises UsageError for numbers that make no workload, and names that there are not.
    """
    plan, work = plan_and_work(spec, seq_len, batch, context, phase)
    memory = memory_of(plan, work, dtype, training)
    dense = dense_twin(spec) if spec.mod else None
    twin = memory_of(resolve(dense, plan.seq_len), work, dtype, training) if dense else None
    cached = work.context + work.seq_len
    routings = ("expected", "all") if plan.cache_varies else ("expected",)
    asked = dict(seq_len=plan.seq_len, context=cached, batch=batch, dtype=dtype, routings=routings, train=phase == "train", training=training)
    found = fits(spec, room, **asked) if room else ()
    choices = _choices(plan, work, dtype, training) if phase == "train" else ()
    return MemoryReport(
        spec, plan, work, dtype, training, memory, twin, choices, cached, _caches(spec, plan, dense, cached, batch), room, tuple(found)
    )


def _choices(plan: Plan, work: Workload, dtype: str, training: Training) -> tuple[Choice, ...]:
    """Every way to keep activations that differs from those before it."""
    rows, found = ledger(plan, work), []
    for recompute in RECOMPUTE:
        for attention in ATTENTION if fusible(rows) else ("explicit",):
            kept = activations(rows, dtype, replace(training, recompute=recompute, attention=attention))
            if all(kept != other.activations for other in found):
                found.append(Choice(recompute, attention, kept))
    return tuple(found)


def _caches(spec: Spec, plan: Plan, dense: Spec | None, tokens: int, batch: int) -> tuple[Cache, ...]:
    def cache(of: Plan, routing: str | None, routed: str = "expected") -> Cache:
        return Cache(routing, {dtype: kv_cache_bytes(of, tokens, dtype, batch, routed) for dtype in CACHE_DTYPES})

    if dense is None:
        return (cache(plan, None),)
    return (*(cache(plan, routing, routing) for routing in ROUTING), cache(resolve(dense, plan.seq_len), "dense twin"))
