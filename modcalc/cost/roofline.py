"""The fewest bytes that a step moves through memory, and so its arithmetic intensity (the roofline of Williams et al. 2009,
Communications of the ACM 52(4), doi 10.1145/1498765.1498785).

Each operation reads its inputs and weights once and writes its output once, norms, gathers and scatters too; other elementwise work is
taken as fused into its neighbours, fused attention keeps no scores, and assignments reach as many experts as they can. At decode with routing,
expected bytes. A real step moves more.
"""

from msgspec import Struct

from modcalc.cost.account import Report
from modcalc.cost.ops import AttentionCore, Experts, Linear, Lookup, NormOp, Op, Pointwise, whole
from modcalc.spec.plan import Dim, least

# Bytes of an element in bf16, the type that a roofline is drawn for where nothing was measured.
BF16_BYTES = 2
# AdamW reads the weight, its gradient and two moments, and writes the weight and the moments.
ADAMW_PASSES = 7


class Roof(Struct, frozen=True):
    """What a device can do at most, by `source`: FLOP/s, and bytes/s of its memory."""

    device: str | None
    flops_per_s: float
    bytes_per_s: float
    source: str


class Roofline(Struct, frozen=True):
    """A step under a roof, or a part of one. bytes: the fewest that it moves; compute_s: its FLOPs at the peak; memory_s: those bytes at
    the bandwidth.
    """

    flops: Dim
    bytes: Dim
    compute_s: float
    memory_s: float

    @property
    def step_s(self) -> float:
        """The longer of both, as if they ran at the same time."""
        return max(self.compute_s, self.memory_s)

    @property
    def bound(self) -> str:
        """Which of both it is: compute or memory."""
        return "compute" if self.compute_s >= self.memory_s else "memory"

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return float(self.flops) / float(self.bytes)


def roofline(report: Report, roof: Roof, *, backward: bool = False) -> Roofline:
    """The forward pass of a report, or its train step, in bf16; FLOPs by the report's convention."""
    return under(roof, report.flops.of(backward), step_bytes(report, BF16_BYTES, backward=backward))


def rooflines(report: Report, roof: Roof, by: str, *, backward: bool = False) -> dict[str, Roofline]:
    """`roofline` by component, layer or path, and of a train step the optimizer's."""
    flops = {line.label: line.flops(backward) for line in report.lines(by)}
    return {label: under(roof, flops.get(label, 0), n) for label, n in moved(report, BF16_BYTES, by, backward=backward).items()}


def under(roof: Roof, flops: Dim, moved: Dim) -> Roofline:
    """So many FLOPs and bytes under a roof."""
    return Roofline(flops, moved, float(flops) / roof.flops_per_s, float(moved) / roof.bytes_per_s)


def elements_moved(op: Op) -> Dim:
    """Elements read and written by one row, forward, all its layers and sequences."""
    tokens = op.repeat * op.batch * op.tokens
    if isinstance(op, Linear):
        matrices = least(op.n_experts, op.batch * op.tokens) if isinstance(op, Experts) else _loads(op)
        return tokens * (op.d_in + op.d_out) + op.repeat * matrices * op.d_in * op.d_out
    if isinstance(op, AttentionCore):
        cached = op.repeat * op.batch * least(op.tokens, 1) * op.context * op.cached_width  # none where the token does not pass
        return tokens * op.n_heads * (op.head_dim + op.v_head_dim) + cached
    if isinstance(op, Lookup):
        return 2 * op.repeat * (1 if op.component == "positions" else op.batch) * op.tokens * op.width  # positions are those of all sequences
    if isinstance(op, NormOp) or (isinstance(op, Pointwise) and op.what in ("gather", "scatter")):
        return 2 * op.elements
    return 0


def _loads(op: Linear) -> float | int:
    """How often a matrix is read: once, or at decode, where a token of each sequence passes by a chance of its own, if any passes."""
    return 1 if op.tokens >= 1 else 1 - (1 - float(op.tokens)) ** op.batch


def step_bytes(report: Report, itemsize: int, *, backward: bool = False) -> Dim:
    """Bytes of one step of the report's workload, every element of `itemsize` bytes; backward: of a train step, as in phase train.

    Training moves the forward's bytes three times (backward makes two products of each, of the same sizes) and AdamW's.
    """
    return sum(moved(report, itemsize, "total", backward=backward).values())


def moved(report: Report, itemsize: int, by: str, *, backward: bool = False) -> dict[str, Dim]:
    """`step_bytes` by component, layer or path, and of a train step `optimizer`."""
    trains, sums = backward or report.work.phase == "train", {}
    for label, op, share in report.labelled(by):
        sums[label] = sums.get(label, 0) + (3 if trains else 1) * elements_moved(op) * share * itemsize
    if trains:
        sums["optimizer"] = ADAMW_PASSES * report.params.total * itemsize
    return {label: whole(value) for label, value in sums.items()}
