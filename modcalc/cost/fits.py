"""The largest batch and the longest context that a memory holds, by exact search over the functions of `memory`."""

from bisect import bisect_left
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from math import ceil

from msgspec import Struct
from msgspec.structs import replace

from modcalc.cost.memory import sample_memory, train_memory
from modcalc.cost.tensors import DTYPE
from modcalc.cost.workload import USUAL, Training, Workload
from modcalc.spec.plan import Dim, Plan
from modcalc.spec.resolve import capacities, resolve, tokens_kept
from modcalc.spec.schema import MAX_SIZE, Spec

MOST_GPUS = 2**16

Falls = Callable[[int], list[int]]  # lengths above one at which memory may fall, the last first


class Fit(Struct, frozen=True):
    """largest: the largest batch, seq_len or context (`knob`) that fits; 0: not even 1. held: its bytes; next: those of one more.

    limit: why it stops where it does if not for memory: `positions` (learned ones), `never` (more costs nothing), or `end` (MAX_SIZE,
    the end of the search).
    """

    phase: str  # train | decode
    knob: str  # batch | seq_len | context
    routing: str  # empty where there is one only
    largest: int
    held: Dim | None
    next: Dim | None
    limit: str = ""


def fits(
    spec: Spec,
    room: int,
    *,
    seq_len: int,
    context: int,
    batch: int = 1,
    dtype: str = DTYPE,
    routings: tuple[str, ...] = ("expected",),
    train: bool = True,
    training: Training = USUAL,
) -> list[Fit]:
    """What `room` bytes hold: training at `seq_len` (largest batch) and at `batch` (longest sequence), and the same of decode.

    routings: how routed blocks are taken at decode. train: False leaves training out. With training.fsdp > 1 and train, decode is left out.
    """
    plan = resolve(spec, seq_len)
    longest = plan.max_len or MAX_SIZE
    falls = partial(_falls, spec, most=longest)
    found = [] if not train else [
        _fit("train", "batch", "", lambda n: train_memory(plan, n, training, dtype).total, room, MAX_SIZE),
        _fit("train", "seq_len", "", lambda n: train_memory(resolve(spec, n), batch, training, dtype).total, room, longest, falls),
    ]  # fmt: skip
    for routing in () if train and training.fsdp > 1 else routings:
        held = partial(_decode, plan, dtype, routing)
        label = routing if len(routings) > 1 else ""
        found += [
            _fit("decode", "batch", label, lambda n, held=held: held(n, context), room, MAX_SIZE),
            _fit("decode", "context", label, lambda n, held=held: held(batch, n), room, longest),
        ]
    return found


def fewest_gpus(plan: Plan, room: int, batch: int, dtype: str, training: Training) -> int | None:
    """The first of 2, 4, 8, ... GPUs that train it in slices with `room` bytes each; None: none. More than there are experts may hold less."""
    doubled = (2**i for i in range(1, MOST_GPUS.bit_length()))
    return next((n for n in doubled if train_memory(plan, batch, replace(training, fsdp=n), dtype).total <= room), None)


def _decode(plan: Plan, dtype: str, routing: str, batch: int, context: int) -> Dim:
    """context: tokens in the cache, the new one included."""
    return sample_memory(plan, Workload(batch, 1, context - 1, "decode", routing), dtype).total


def _falls(spec: Spec, after: int, most: int) -> list[int]:
    """Lengths above `after` at which memory may fall, the last first: where a capacity jumps to its next multiple, tokens leave the way
    around, which may hold more than the block. As far as the smallest capacity goes with one jump; behind that memory has risen again.
    """
    mod = spec.mod
    if not (mod and mod.bypass and mod.multiple_of > 1):
        return []
    shares = {c for c in capacities(mod, len(resolve(spec).routed)) if not isinstance(c, int)}
    end = min(after + ceil(mod.multiple_of / min(shares, default=1)), most)
    found = set()
    for share in shares:

        def multiples(T: int, share: Fraction | float = share) -> int:
            return -(-tokens_kept(share, T, mod.rounding) // mod.multiple_of)

        at = end
        while (jump := bisect_left(range(end + 1), multiples(at), lo=1, key=multiples)) > after:
            found.add(jump)
            at = jump - 1
    return sorted(found, reverse=True)


def _fit(phase: str, knob: str, routing: str, cost: Callable[[int], Dim], room: int, most: int, falls: Falls = lambda n: []) -> Fit:
    n = largest(cost, room, most)
    while n and (later := _behind(cost, room, most, falls(n))):
        n = later
    limit = "" if n < most else "positions" if most < MAX_SIZE else "never" if cost(n) == cost(n - 1) else "end"
    return Fit(phase, knob, routing, n, cost(n) if n else None, cost(n + 1) if n < most else None, limit)


def _behind(cost: Callable[[int], Dim], room: int, most: int, falls: list[int]) -> int:
    """The largest that fits behind one of `falls`, the last first, between which cost grows; 0: none does."""
    end = most
    for start in falls:
        if cost(start) <= room:
            return start - 1 + largest(lambda n, before=start - 1: cost(before + n), room, end - start + 1)
        end = start - 1
    return 0


def largest(cost: Callable[[int], Dim], room: int, most: int) -> int:
    """The n of 1 … most with cost(n) <= room < cost(n + 1); most if even that fits; 0 if 1 does not. cost grows with n."""
    if cost(1) > room:
        return 0
    fits, over = 1, 2
    while over <= most and cost(over) <= room:
        fits, over = over, 2 * over
    over = min(over, most + 1)
    while over - fits > 1:
        middle = (fits + over) // 2
        fits, over = (middle, over) if cost(middle) <= room else (fits, middle)
    return fits
