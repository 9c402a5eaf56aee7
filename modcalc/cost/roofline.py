"""The fewest bytes that a step moves through memory, and so its arithmetic intensity (the roofline of Williams et al. 2009,
Communications of the ACM 52(4), doi 10.1145/1498765.1498785).

Each operation reads its inputs and weights once and writes its output once, norms, gathers and scatters too; other elementwise work is
taken as fused into its neighbours, and fused attention keeps no scores. At sampling with routing or experts, expected bytes.
"""

from collections.abc import Iterator
from math import expm1, fsum, log1p
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from modcalc.cost.account import Report
from modcalc.cost.conventions import find_convention
from modcalc.cost.memory import memory_of
from modcalc.cost.ops import AttentionCore, Experts, Linear, Lookup, NormOp, Op, Pointwise, ratio, whole
from modcalc.cost.workload import Training
from modcalc.spec.plan import Dim, least

# Products of tokens and keys that they may see: what no implementation of the model can leave out.
EXACT = find_convention("matmul", "exact")
# Bytes of an element in bf16, the type that a roofline is drawn for where nothing was measured.
BF16_BYTES = 2
# AdamW reads the weight, its gradient and two moments, and writes the weight and the moments.
ADAMW_PASSES = 7


class Roof(Struct, frozen=True):
    """What a device can do at most, by `source`: FLOP/s, and bytes/s of its memory; and how many bytes that has."""

    device: str | None
    flops_per_s: float
    bytes_per_s: float
    source: str
    memory_bytes: int | None = None


class Roofline(Struct, frozen=True):
    """A step under a roof, or a part of one. flops: those of convention matmul, causal exact, which no kernel can leave out; bytes: the
    fewest that it moves; compute_s: the FLOPs at the peak; memory_s: the bytes at the bandwidth; apart_s: the longer of both for each
    row of the ledger, in sum, as if one kernel ran after another.
    """

    flops: Dim
    bytes: Dim
    compute_s: float
    memory_s: float
    apart_s: float

    @property
    def step_s(self) -> float:
        """The longer of compute_s and memory_s, as if everything ran at the same time."""
        return max(self.compute_s, self.memory_s)

    @property
    def bound(self) -> str:
        """Which of both it is: compute or memory."""
        return "compute" if self.compute_s >= self.memory_s else "memory"

    @property
    def intensity(self) -> float | None:
        """FLOPs per byte; None of what moves none."""
        return float(self.flops) / float(self.bytes) if self.bytes else None


def roofline(report: Report, roof: Roof, *, backward: bool = False) -> Roofline:
    """The forward pass of a report, or its train step, in bf16."""
    return _under(roof, [part for _, *part in _parts(report, "total", backward)])


def rooflines(report: Report, roof: Roof, by: str, *, backward: bool = False) -> dict[str, Roofline]:
    """`roofline` by component, layer or path, and of a train step the optimizer's."""
    found: dict[str, list[Any]] = {}
    for label, *part in _parts(report, by, backward):
        found.setdefault(label, []).append(part)
    return {label: _under(roof, parts) for label, parts in found.items()}


def _under(roof: Roof, parts: list[tuple[Dim, Dim]]) -> Roofline:
    """FLOPs and elements of rows, as a whole and one after another."""
    flops, n_bytes = whole(sum(f for f, _ in parts)), whole(BF16_BYTES * sum(n for _, n in parts))
    apart_s = fsum(max(seconds_at(roof, f, BF16_BYTES * n)) for f, n in parts)
    return Roofline(flops, n_bytes, *seconds_at(roof, flops, n_bytes), apart_s)


def seconds_at(peaks: Any, flops: Dim, n_bytes: Dim) -> tuple[float, float]:
    """Seconds that so many FLOPs and so many bytes take at `peaks`, which has flops_per_s and bytes_per_s."""
    return float(flops) / peaks.flops_per_s, float(n_bytes) / peaks.bytes_per_s


def held_bytes(report: Report, *, backward: bool = False) -> Dim:
    """Bytes that the step occupies in bf16, as `modcalc.cost.memory` bills them: weights, caches and logits; of a train step also gradients,
    activations, and AdamW's moments in bf16.
    """
    work = replace(report.work, phase="train") if backward else report.work
    return memory_of(report.plan, work, "bf16", Training(master=False)).total


def step_bytes(report: Report, itemsize: int, *, backward: bool = False) -> Dim:
    """Bytes of one step of the report's workload, every element of `itemsize` bytes; backward: of a train step, as in phase train.

    Training moves the forward's bytes three times (backward makes two products of each, of the same sizes) and AdamW's.
    """
    return sum(moved(report, itemsize, "total", backward=backward).values())


def moved(report: Report, itemsize: int, by: str, *, backward: bool = False) -> dict[str, Dim]:
    """`step_bytes` by component, layer or path, and of a train step `optimizer`."""
    sums: dict[str, Dim] = {}
    for label, _, elements in _parts(report, by, backward):
        sums[label] = sums.get(label, 0) + elements * itemsize
    return {label: whole(value) for label, value in sums.items()}


def _parts(report: Report, by: str, backward: bool) -> Iterator[tuple[str, Dim, Dim]]:
    """(label, FLOPs, elements moved) of each row, and of a train step the optimizer's."""
    trains = backward or report.work.phase == "train"
    for label, op, share in report.labelled(by):
        flops = EXACT.forward(op) + (EXACT.backward(op) if trains else 0)
        yield label, flops * share, (3 if trains else 1) * elements_moved(op, report.work.sampling) * share
    if trains:
        yield "optimizer", 0, ADAMW_PASSES * report.params.total


def elements_moved(op: Op, sampling: bool = False) -> Dim:
    """Elements read and written by one row, forward, all its layers and sequences. sampling: each token decides by itself where it passes."""
    tokens = op.repeat * op.batch * op.tokens
    if isinstance(op, Linear):
        return tokens * (op.d_in + op.d_out) + op.repeat * _matrices(op, sampling) * op.d_in * op.d_out
    if isinstance(op, AttentionCore):
        cached = op.repeat * op.batch * least(op.tokens, 1) * op.context * op.cached_width  # none where the token does not pass
        return tokens * op.n_heads * (op.head_dim + op.v_head_dim) + cached
    if isinstance(op, Lookup):
        return 2 * op.repeat * (1 if op.component == "positions" else op.batch) * op.tokens * op.width  # positions are those of all sequences
    if isinstance(op, NormOp) or (isinstance(op, Pointwise) and op.what in ("gather", "scatter")):
        return 2 * op.elements
    return 0


def _matrices(op: Linear, sampling: bool) -> Dim:
    """How many of a row's matrices are read: all that some token needs. Where tokens decide by themselves, the expectation: of a routed
    block, of experts under even use.
    """
    experts = op.n_experts if isinstance(op, Experts) else 1
    if not sampling or op.component == "head":  # which sees the last token of a prefill, whatever others do
        return least(experts, op.batch * op.tokens)
    return experts * _some(ratio(op.tokens, op.length * experts), op.batch * op.length)


def _some(chance: Dim, tries: int) -> Dim:
    """The chance that one of so many tries succeeds."""
    if chance >= 1 or tries == 1:
        return min(chance, 1)
    return -expm1(tries * log1p(-float(chance)))
