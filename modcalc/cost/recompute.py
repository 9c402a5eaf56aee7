"""Model FLOPs and hardware FLOPs: what a train step computes a second time instead of keeping it.

MFU divides model FLOPs, HFU hardware FLOPs, by the device's peak (PaLM, arXiv 2204.02311, appendix B).
"""

from collections.abc import Iterable
from fractions import Fraction

from msgspec import Struct

from modcalc.cost.account import Report
from modcalc.cost.convention import Convention, in_block
from modcalc.cost.ops import AttentionCore, Op, whole
from modcalc.cost.workload import USUAL, Training
from modcalc.errors import UsageError
from modcalc.spec.plan import Dim


class Hardware(Struct, frozen=True):
    """FLOPs that a device is asked for in one train step, all sequences.

    attention: as it runs, explicit where it cannot be fused. recomputed: forward work done again; backward has it.
    """

    recompute: str
    attention: str
    forward: Dim
    backward: Dim
    recomputed: Dim
    train_step: Dim


def hardware_flops(report: Report, training: Training = USUAL) -> Hardware:
    """What the device computes for the model FLOPs of `report`.

    attention: a fused kernel keeps no scores and computes q k^T again in its backward pass (FlashAttention, arXiv
    2205.14135, algorithm 4), so that its backward pass is 2.5 times its forward pass where keys and values are equally
    wide; explicit products keep them: 2 times. What `fusible` excludes needs explicit products. recompute: none; selective:
    the attention core runs again (Korthikanti et al. 2022, arXiv 2205.05198, section 5), which a fused kernel's backward
    pass does anyway; full: every block runs again from its input (Chen et al. 2016, arXiv 1604.06174). Once, the forward pass of the core is a
    third of it: the hardware FLOPs that Korthikanti et al. print for selective recomputation (1 + S/3h) count the whole core again.

    Raises UsageError for a convention that counts recomputation itself.
    """
    convention = report.convention
    if convention.recompute_terms:
        raise UsageError(f"convention {convention.name} counts recomputation itself; hardware FLOPs need one that does not, such as matmul")
    attention = training.attention if fusible(report.rows, training.device) else "explicit"
    again = whole(sum(_again(op, convention, training.recompute, attention) for op in report.rows))
    f = report.flops
    return Hardware(training.recompute, attention, f.forward, f.backward + again, again, f.train_step + again)


def fusible(rows: Iterable[Op], device: str = "cuda") -> bool:
    """Whether a device's fused kernels can compute a model's attention, in all of its layers."""
    return all(op.fuses(device) for op in rows if isinstance(op, AttentionCore))


def _again(op: Op, convention: Convention, recompute: str, attention: str) -> Dim:
    """FLOPs of a row that run a second time in the backward pass."""
    forward = convention.forward(op)
    again = forward if recompute == "full" and in_block(op) else 0
    if isinstance(op, AttentionCore):
        if attention == "fused":
            again = again + forward * Fraction(op.head_dim, op.head_dim + op.v_head_dim)
        elif recompute == "selective":
            again = again + forward
    return again
