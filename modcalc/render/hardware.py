"""How `modcalc flops` tells hardware FLOPs: what a train step asks of a device beyond the model's own FLOPs."""

from fractions import Fraction

from modcalc.cost.account import Report
from modcalc.cost.recompute import Hardware, fusible
from modcalc.render.numbers import count, share
from modcalc.render.wording import Facts, Unit

ATTENTION = {"fused": "fused attention, which computes the scores again", "explicit": "explicit attention products"}
FORCED = ", which sinks and soft caps need"
RECOMPUTE = {"none": "no other recomputation", "selective": "selective recomputation (attention)", "full": "full recomputation (every block)"}


def hardware_facts(report: Report, h: Hardware, unit: Unit) -> Facts:
    """One line: hardware FLOPs of the train step, what they are beyond the model's, and why."""
    more = Fraction(h.recomputed) / Fraction(report.flops.train_step)
    forward = Fraction(h.backward) / Fraction(h.forward)
    needed = "" if fusible(report.rows) else FORCED
    unseen = "; attention pairs count nothing by this convention, nor when they are computed again" if report.convention.causal is None else ""
    how = f"{ATTENTION[h.attention]}{needed}; {RECOMPUTE[h.recompute]}{unseen}"
    over = f"{share(more)} more than the model's; backward {float(forward):.2f} times forward"
    return [("hardware", f"{count(unit.of(h.train_step))} {unit.name} per train step, {over} ({how})")]
