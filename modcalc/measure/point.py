"""One point of a profile: build, warm up, time in alternation with the baseline, and turn it all into a record."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from modcalc.cost.account import Report, account
from modcalc.cost.recompute import hardware_flops
from modcalc.cost.roofline import step_bytes
from modcalc.measure import verdict
from modcalc.measure.attribution import attribute, whole
from modcalc.measure.build import build
from modcalc.measure.compiling import room_for_graphs
from modcalc.measure.hardware import Device, Peak, describe
from modcalc.measure.identity import content_hash, point_key
from modcalc.measure.rating import rated
from modcalc.measure.records import (
    Attribution,
    Baseline,
    Energy,
    Failed,
    Flops,
    Measured,
    Memory,
    Record,
    Result,
    Settings,
    StepTime,
    WarmUpTime,
    ends,
    number,
)
from modcalc.measure.settle import settle
from modcalc.measure.stats import built_ratio, paired_ratio, realised_saving
from modcalc.measure.steps import build_step, uncompiled, waits
from modcalc.measure.steptime import Step, WarmUp, alternate, means, rounds_for, shared_out, warm_up
from modcalc.measure.usage import PeakMemory, energy, out_of_memory, retries
from modcalc.spec.schema import Spec

if TYPE_CHECKING:
    from modcalc.measure.distributed import World
    from modcalc.models.decoder import Decoder

SECONDS = 5.0
BUILDS = 6  # the fewest that give an interval of their own
DRAWN_STEPS = 16  # of one sample at decode, where each step passes as many routed blocks as chance has it
PROTOCOL = 5  # grows when a step or its timing changes: what was measured before is then measured again


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
        usual = BUILDS if self.baseline and self.device.type == "cpu" and not (s.compile or self.world) else 1
        return usual if s.builds is None else s.builds

    def answered_by(self, record: Record) -> bool:
        """Whether a record of an equal key tells all that is asked beside the time."""
        if isinstance(record, Failed):
            return True
        return self.trace is None and (self.by is None or any(a.by == self.by for a in record.attribution))


def promised(spec: Spec, settings: Settings) -> Report:
    """The account of one step. Raises UsageError where spec and settings make no workload."""
    s = settings
    return account(spec, seq_len=s.seq_len, batch=s.batch, phase=s.mode, context=s.context, causal=s.causal)


def step_flops(report: Report) -> Flops:
    """FLOPs of one step: the model's, and with those that fused attention computes again in its backward pass."""
    if report.work.phase != "train":
        return Flops(number(report.flops.forward), number(report.flops.forward))
    return Flops(number(report.flops.train_step), number(hardware_flops(report).train_step))


@dataclass(frozen=True, slots=True)
class Rig:
    """A model built and warm."""

    report: Report
    model: "Decoder"
    step: Step
    warm: WarmUp
    memory: Memory
    flops: Flops

    @property
    def drawn(self) -> bool:
        """Whether chance decides which tokens pass routed blocks."""
        plan = self.report.plan
        return self.report.work.sampling and bool(plan.routed or plan.recursion)

    @classmethod
    def build(cls, spec: Spec, job: Job, again: bool = False) -> "Rig":
        """again: not for the first time, so that the machine is warm and only the model's own first step must be over."""
        s, world = job.settings, job.world
        report = promised(spec, s)
        if job.device.type == "cpu":
            settle(s.mode, s.compile)
        peak = PeakMemory(job.device)
        # FSDP gives each process its share of weights that were nowhere whole.
        model = build(report.plan, device="meta" if s.parallel == "fsdp" else job.device, dtype=s.dtype)
        wrap = world.wrap(s) if world else None
        step = build_step(model, s, job.device, wrap=wrap, seed=world.rank if world else 0)
        warm = warm_up(step, job.device, 1 if again and s.warmup is None else s.warmup, world.any if world else bool)
        return cls(report, model, step, warm, peak.read(), step_flops(report))

    def measured(self, spec: Spec, time: StepTime, burnt: Energy | None, job: Job) -> dict[str, Any]:
        """The fields of Measured."""
        ranks = job.world.size if job.world else 1
        rate = self.flops.step / time.median
        loss = None if self.step.loss is None else float(self.step.loss)
        fields = dict(
            spec=spec.name,
            spec_sha256=content_hash(spec),
            params=self.report.params.total,
            flops=self.flops,
            step_bytes=number(step_bytes(self.report, next(self.model.parameters()).element_size())),
            warmup=WarmUpTime(self.warm.steps, self.warm.seconds, self.warm.first_step_s),
            step_time_s=time,
            launch_s=None if waits(self.report.plan, job.settings.mode) else self.warm.launch_s,
            tokens_per_s=ranks * self.report.work.tokens / time.median,
            flops_per_s=ranks * rate,
            mfu=None,  # shares of peaks: see `rated`
            hfu=None,
            mfu_reached=None,
            peak_memory_bytes=self.memory.allocated,
            memory=self.memory,
            energy=burnt,
            loss=loss,
            drawn=self.drawn,
        )
        assert fields.keys() == set(Measured.__struct_fields__)
        return fields


def built(job: Job, turn: slice, before: Sequence[Rig] = ()) -> list[Rig]:
    """The models of a job, built and warm, in the order of its specs. turn: the order to build them in. before: the same, built
    earlier and let go here, for memory need not hold them twice.
    """
    told = [(rig.warm, rig.memory) for rig in before]
    if before:
        before.clear()
    torch.compiler.reset()  # graphs of earlier models count against the compiler's limit
    with room_for_graphs() if job.settings.compile else nullcontext():
        rigs = [Rig.build(spec, job, again=bool(told)) for spec in job.specs[turn]][turn]
    return [replace(rig, warm=warm.then(rig.warm), memory=memory) for rig, (warm, memory) in zip(rigs, told, strict=True)] if told else rigs


def measure(job: Job) -> Result:
    """Measure one point. Raises what torch raises when memory runs out (see `usage.out_of_memory`)."""
    s = job.settings
    turn = slice(None)
    rigs = built(job, turn)
    steps = DRAWN_STEPS if s.mode == "decode" and any(rig.drawn for rig in rigs) else 1
    rounds = rounds_for([rig.warm for rig in rigs], job.device, job.seconds, s.iterations, steps)
    if job.world:
        rounds = job.world.most(rounds)
    seen: list[Device] = []
    builds: list[list[list[float]]] = []
    again = 0
    for n, part in enumerate(shared_out(rounds, job.builds)):
        if n:
            turn = slice(None, None, -1 if n % 2 else 1)  # neither is always the first
            rigs = built(job, turn, rigs)
        before = retries(job.device)
        taken = alternate([rig.step for rig in rigs[turn]], job.device, part * steps, lambda: seen.append(describe(job.device)))[turn]
        builds.append([means(times, steps) for times in taken])
        again += retries(job.device) - before
    samples = [list(chain.from_iterable(own)) for own in zip(*builds, strict=True)]
    ranks = None
    if job.world:
        ranks, samples = job.world.compare(samples, rigs[0].step, s)
    # A run of as many steps as two seconds hold would differ between processes, which wait for each other.
    burnt = [None if job.world else energy(rig.step, job.device, rig.warm.step_s, rig.report.work.tokens) for rig in rigs]
    times = [StepTime.of(own, steps) for own in samples]
    fields = [rig.measured(spec, time, e, job) for rig, spec, time, e in zip(rigs, job.specs, times, burnt, strict=True)]
    baseline = against(fields, builds, samples) if job.baseline else None
    attributed, doubtful = attributions(rigs, job)
    own = rigs[0].report
    result = Result(
        **fields[0],
        key=job.key(),
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        device=seen[-1],
        torch=str(torch.__version__),
        mode=s.mode,
        dtype=s.dtype,
        settings=s,
        workload=dict(batch=s.batch, seq_len=s.seq_len, context=s.context),
        convention=dict(name=own.convention.name, causal=own.convention.causal, counts=own.convention.counts),
        peak=None,
        reached=None,
        baseline=baseline,
        ranks=ranks,
        attribution=attributed,
        warnings=[doubt for doubt in (*doubts(fields, samples, seen[-1]), verdict.memory_was_freed(again), *doubtful) if doubt],
    )
    return rated(result, job.peak, job.reached)


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
    if job.by is None:
        return found, []
    try:
        for i, rig in enumerate(rigs):
            with uncompiled(rig.step) as step:
                found.append(attribute(step, rig.model, rig.report, job.device, job.by, job.trace if i == 0 else None))
    except (RuntimeError, MemoryError) as error:
        if job.world or not out_of_memory(error):
            raise
        return found, [verdict.not_attributed(rig.report.plan.name, job.by)]
    cut = verdict.no_trace(job.trace) if job.trace and not whole(job.trace) else None
    return found, [*(verdict.profiler_slows(a.spec, a.by, a.step_time_s, a.unprofiled_s) for a in found), cut]


def doubts(fields: Sequence[dict[str, Any]], samples: Sequence[Sequence[float]], device: Device) -> list[str | None]:
    """What a sceptical reader would object to, None for each that there is no reason for."""
    found = [verdict.few_samples(len(samples[0]), len(samples) > 1)]
    spreads = [verdict.wide_spread(own["spec"], taken, device) for own, taken in zip(fields, samples, strict=True)]
    found += spreads if any(spreads) else [verdict.busy(device)]
    for own in fields:
        found += [
            verdict.launch_bound(own["spec"], own["launch_s"], own["step_time_s"].median),
            verdict.not_finite(own["spec"], own["loss"]),
        ]
    return found
