"""The ledger held against counters that run the model: equal integers, in total and by module path, or a list of what differs.

Counters see what an implementation computes, so they are compared with the matmul convention and full attention,
whatever convention a report was made under.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from modcalc.cost.account import Report, account
from modcalc.cost.conventions import MATMUL
from modcalc.errors import CountFailed, UsageError
from modcalc.measure.counters import Counted, count, installed
from modcalc.spec.schema import Spec

if TYPE_CHECKING:
    from modcalc.cost.budget import Result


@dataclass(frozen=True, slots=True)
class Difference:
    """FLOPs of one module path by the ledger and by a counter."""

    path: str
    analytic: int
    counted: int

    def __str__(self) -> str:
        return f"{self.path or '(the model itself)'}: {self.analytic:,} FLOPs by the ledger, {self.counted:,} counted"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One counter's answer in FLOPs; backward: of the train step, else of the forward pass. counted is None, with a reason, where it could not count.

    free: operator -> calls, of operators without FLOPs by convention. unseen: operator -> calls, of those that made it fail.
    """

    counter: str
    backward: bool
    analytic: int
    counted: int | None
    differences: tuple[Difference, ...] = ()
    free: dict[str, int] = field(default_factory=dict)
    unseen: dict[str, int] = field(default_factory=dict)
    reason: str | None = None

    @property
    def agrees(self) -> bool | None:
        """None: it could not count."""
        return None if self.counted is None else not self.differences and self.counted == self.analytic


def ledger_by_path(report: Report, backward: bool = False) -> dict[str, int]:
    """Module path -> FLOPs of its own rows, forward or forward + backward, as counters count."""
    return replace(report, convention=MATMUL).by_path(backward)


def differences(report: Report, counted: Counted) -> list[Difference]:
    """Paths where ledger and counter differ, sorted; empty: equal integers everywhere."""
    ours = ledger_by_path(report, counted.backward)
    paths = sorted({*ours, *counted.by_path})
    pairs = [Difference(path, ours.get(path, 0), counted.by_path.get(path, 0)) for path in paths]
    return [pair for pair in pairs if pair.analytic != pair.counted]


def verdict(report: Report, counted: Counted) -> Verdict:
    """What a count says about a report of the same model and workload."""
    analytic = sum(ledger_by_path(report, counted.backward).values())
    return Verdict(counted.counter, counted.backward, analytic, counted.total_flops, tuple(differences(report, counted)), counted.free)


def run(report: Report, counter: str, *, backward: bool = False, device: str = "meta") -> Verdict:
    """Build the report's model, count it, and compare. A counter that fails gives its reason, not an exception.

    backward (counter torch): the train step, with attention as explicit products, whose backward is twice the forward;
    fused kernels compute the scores again. Raises UsageError for a phase that is not a run over whole sequences,
    MissingDependency without torch or the counter.
    """
    if report.work.sampling:
        raise UsageError(f"phase {report.work.phase}: counters run the model over whole sequences; count phase forward or train")
    from modcalc.measure.build import build

    model = build(report.plan, device=device, attention="explicit" if backward else "sdpa")
    try:
        counted = count(model, (report.work.batch, report.work.seq_len), counter, backward=backward)
    except CountFailed as failed:
        analytic = sum(ledger_by_path(report, backward).values())
        return Verdict(counter, backward, analytic, None, unseen=failed.unseen, reason=str(failed))
    return verdict(report, counted)


def counter_results(spec: Spec) -> "list[Result]":
    """A spec's forward FLOPs by every installed counter, as results of a check.

    Raises CountFailed where a counter cannot count, MissingDependency where none is installed.
    """
    from modcalc.cost.budget import Result, Rule

    report = account(spec)
    results = []
    for v in (run(report, name) for name in installed() or ["torch"]):
        if v.counted is None:
            raise CountFailed(f"{spec.name}: {v.reason}", v.unseen)
        rule = Rule(f"forward_flops by {v.counter}", "equals", v.analytic)
        results.append(Result(rule, v.analytic, v.counted, v.agrees, "FLOPs", "; ".join(map(str, v.differences))))
    return results
