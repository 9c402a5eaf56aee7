"""One point of a profile: what is asked there, and its record."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from modcalc.measure import caveats
from modcalc.measure.attribution import attribute, whole
from modcalc.measure.hardware import Device, Peak, describe
from modcalc.measure.identity import point_key
from modcalc.measure.rating import rated
from modcalc.measure.records import (
    PROTOCOL,
    Attribution,
    Baseline,
    CountedBy,
    Failed,
    Record,
    Result,
    Settings,
    StepTime,
    ends,
)
from modcalc.measure.rigs import Rig, Say, built, quiet, sampled
from modcalc.measure.stats import MIN_SAMPLES, built_ratio, paired_ratio, realised_saving
from modcalc.measure.steps import uncompiled
from modcalc.measure.steptime import rounds_for, steps_for
from modcalc.measure.usage import energy, out_of_memory
from modcalc.spec.schema import Spec

if TYPE_CHECKING:
    from modcalc.measure.distributed import World

SECONDS = 5.0
DRAWN_STEPS = 16  # of one sample at decode, or as many as time is given for, where each step passes as many routed blocks as chance has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is measured at one point: a spec, perhaps against a baseline, and what is asked of it beside its time.

    peak: of the device, for MFU. reached: what it really reaches. by: attribute the time by component, layer or path.
    trace: a file for the Chrome trace of the spec's step. world: the processes of a torchrun.
    """

    spec: Spec
    baseline: Spec | None
    settings: Settings
    device: torch.device
    peak: Peak | None = None
    reached: Peak | None = None
    by: str | None = None
    trace: str | None = None
    world: "World | None" = None

    @property
    def specs(self) -> list[Spec]:
        return [self.spec] if self.baseline is None else [self.spec, self.baseline]

    def key(self) -> str:
        """Identity of the point: equal keys mean that measuring again would measure the same."""
        machine = describe(self.device)
        where = [PROTOCOL, machine.type, machine.name, machine.threads, str(torch.__version__), self.world.size if self.world else 1]
        settings = msgspec.structs.replace(self.settings, seconds=self.seconds, builds=self.builds)
        return point_key(self.spec, self.baseline, settings, where)

    @property
    def seconds(self) -> float | None:
        """How long to measure; None where the number of samples is given."""
        s = self.settings
        return SECONDS if s.seconds is None and s.iterations is None else s.seconds

    @property
    def builds(self) -> int:
        """How often the models are built anew: a ratio of eager steps on the CPU depends on where memory happens to lie."""
        s = self.settings
        if s.builds is not None:
            return s.builds
        if self.baseline is None or self.device.type != "cpu" or s.compile or self.world:
            return 1
        return MIN_SAMPLES if s.iterations is None else min(MIN_SAMPLES, s.iterations)

    def answered_by(self, record: Record) -> bool:
        """Whether a record of an equal key tells all that is asked beside the time."""
        if isinstance(record, Failed):
            return True
        return self.trace is None and (self.by is None or any(a.by == self.by for a in record.attribution))


def measure(job: Job, say: Say = quiet) -> Result:
    """Measure one point. say: is told what is done right now. Raises what torch raises when memory runs out (see `usage.out_of_memory`)."""
    s = job.settings
    say("building and warming up")
    rigs = built(job, 0, [])
    warm = [rig.warm for rig in rigs]
    steps = 1
    if s.mode == "decode" and any(rig.drawn for rig in rigs):
        steps = DRAWN_STEPS if s.iterations is not None else steps_for(warm, job.device, job.seconds, DRAWN_STEPS)
    rounds = max(job.builds, rounds_for(warm, job.device, job.seconds, s.iterations, steps))
    if job.world:
        rounds = job.world.most(rounds)
    found = sampled(job, rigs, rounds, steps, say)
    rigs, samples, device = found.rigs, found.of_models(), found.device
    ranks = None
    if job.world:
        say("communication")
        ranks, samples = job.world.compare(samples, rigs[0].step, s)
    elif job.device.type == "cuda":
        say("energy")
    times = [StepTime.of(own, steps) for own in samples]
    # A run of as many steps as two seconds hold would differ between processes, which wait for each other.
    burnt = [None if job.world else energy(rig.step, job.device, t.median, rig.report.work.tokens) for rig, t in zip(rigs, times, strict=True)]
    fields = [rig.measured(spec, time, e, job) for rig, spec, time, e in zip(rigs, job.specs, times, burnt, strict=True)]
    baseline = against(fields, found.builds, samples) if job.baseline else None
    if job.by:
        say(f"where the time goes, by {job.by}")
    attributed, doubtful = attributions(rigs, job)
    own = rigs[0].report
    result = Result(
        **fields[0],
        key=job.key(),
        protocol=PROTOCOL,
        time=now(),
        device=device,
        torch=str(torch.__version__),
        mode=s.mode,
        dtype=s.dtype,
        settings=s,
        workload=dict(batch=s.batch, seq_len=s.seq_len, context=s.context),
        convention=CountedBy(own.convention.name, own.convention.causal, own.convention.counts),
        peak=None,
        reached=None,
        baseline=baseline,
        ranks=ranks,
        attribution=attributed,
        warnings=[doubt for doubt in (*doubts(s, fields, device, found.waiting), caveats.memory_was_freed(found.freed), *doubtful) if doubt],
    )
    result.warnings.extend(unlike(result, attributed))
    return rated(result, job.peak, job.reached)


def now() -> str:
    """The time as records have it: UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def against(fields: Sequence[dict[str, Any]], builds: Sequence[Sequence[Sequence[float]]], samples: Sequence[Sequence[float]]) -> Baseline:
    """The second model as the baseline of the first. builds: the samples of each build."""
    own, base = fields
    flop_ratio = own["flops"].step / base["flops"].step
    ratios = [paired_ratio(*one).value for one in builds] if len(builds) > 1 else []
    ratio = built_ratio(ratios, *samples)
    saving = realised_saving(ratio, flop_ratio)
    return Baseline(
        **base,
        flop_ratio=flop_ratio,
        time_ratio=ratio.value,
        build_ratios=ratios,
        time_ratio_interval=ends(ratio),
        confidence=ratio.confidence,
        realised_saving=saving and saving.value,
        realised_saving_interval=ends(saving),
    )


def attributions(rigs: Sequence[Rig], job: Job) -> tuple[list[Attribution], list[str | None]]:
    """(where each model's time goes, if asked; warnings: memory may run out on the way, as an eager step may need more than a compiled one)."""
    found: list[Attribution] = []
    doubtful: list[str | None] = []
    if job.by is None:
        return found, doubtful
    try:
        for i, rig in enumerate(rigs):
            with uncompiled(rig.step) as step:
                found.append(attribute(step, rig.model, rig.report, job.device, job.by, job.trace if i == 0 else None))
    except (RuntimeError, MemoryError) as error:
        if job.world or not out_of_memory(error):
            raise
        doubtful.append(caveats.not_attributed(rig.report.plan.name, job.by))
    if found and job.trace and not whole(job.trace):
        doubtful.append(caveats.no_trace(job.trace))
    return found, doubtful


def unlike(result: Result, found: Sequence[Attribution]) -> list[str]:
    """Doubts about attributions of other steps than those that the result has timed: eager ones all, or slowed by the profiler (a GPU's
    kernels take no longer under it).
    """
    doubts: list[str | None] = []
    s, on_cpu = result.settings, result.device.type == "cpu"
    for a in found:
        if on_cpu:
            doubts.append(caveats.profiler_slows(a.spec, a.by, a.step_time_s, a.unprofiled_s))
        if not (s.compile or s.cuda_graph):
            doubts.append(caveats.other_steps(a.spec, a.by, a.unprofiled_s, result.timed(a.spec).step_time_s.median))
    return [doubt for doubt in doubts if doubt]


def doubts(s: Settings, fields: Sequence[dict[str, Any]], device: Device, waiting: float | None) -> list[str | None]:
    """What a sceptical reader would object to, None for each that there is no reason for. waiting: see `caveats.busy`."""
    found = [caveats.few_samples(fields[0]["step_time_s"].n)]
    spreads = [caveats.wide_spread(own["spec"], own["step_time_s"], device, waiting) for own in fields]
    found += spreads if any(spreads) else [caveats.busy(device, waiting)]
    for own in fields:
        found += [
            caveats.launch_bound(own["spec"], own["launch_s"], own["step_time_s"].median, s.busier),
            caveats.not_finite(own["spec"], own["loss"]),
        ]
    return found
