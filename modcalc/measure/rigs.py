"""The models of a point, built and warm, and the samples of their steps: on the CPU of several builds."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from math import ceil
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from modcalc.cost.account import Report, account
from modcalc.cost.ops import number
from modcalc.cost.recompute import hardware_flops
from modcalc.cost.remarks import is_expectation
from modcalc.cost.roofline import step_bytes
from modcalc.cost.workload import Training
from modcalc.measure.build import build
from modcalc.measure.compiling import room_for_graphs
from modcalc.measure.hardware import Device, describe
from modcalc.measure.identity import content_hash
from modcalc.measure.nvml import Gpu
from modcalc.measure.records import Energy, Flops, Measured, Memory, Settings, StepTime, WarmUpTime
from modcalc.measure.settle import settle
from modcalc.measure.steps import build_step, waits
from modcalc.measure.steptime import Step, WarmUp, alternate, means, round_s, shared_out, warm_up
from modcalc.measure.usage import PeakMemory, retries, waited_s
from modcalc.spec.schema import Spec

if TYPE_CHECKING:
    from modcalc.measure.point import Job
    from modcalc.models.decoder import Decoder

Say = Callable[[str], None]


def quiet(_: str) -> None:
    """Say nothing."""


def promised(spec: Spec, settings: Settings) -> Report:
    """The account of one step. Raises UsageError where spec and settings make no workload."""
    s = settings
    return account(spec, seq_len=s.seq_len, batch=s.batch, phase=s.mode, context=s.context, causal=s.causal)


def step_flops(report: Report, device: str) -> Flops:
    """FLOPs of one step: the model's, and with those that the device's fused attention computes again in its backward pass."""
    if report.work.phase != "train":
        return Flops(number(report.flops.forward), number(report.flops.forward))
    return Flops(number(report.flops.train_step), number(hardware_flops(report, Training(device=device)).train_step))


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
        return self.report.work.sampling and self.report.plan.is_mod

    @classmethod
    def build(cls, spec: Spec, job: "Job", n: int) -> "Rig":
        """n: how often it was built before. Each build draws anew what chance decides. From the
        second on the machine is warm, and only the model's own first step must be over.
        """
        s, world = job.settings, job.world
        report = promised(spec, s)
        if job.device.type == "cpu":
            settle(s.mode, s.compile)
        peak = PeakMemory(job.device)
        # FSDP gives each process its share of weights that were nowhere whole.
        model = build(report.plan, device="meta" if s.parallel == "fsdp" else job.device, dtype=s.dtype)
        wrap = world.wrap(s) if world else None
        step = build_step(model, s, job.device, wrap=wrap, seed=world.rank if world else n)
        steps = 1 if n and s.warmup is None else s.warmup
        if steps == 1 and not n and s.mode == "train":
            steps = 2  # the first makes the optimizer's states at its end, which are there at the peak of the next
        warm = warm_up(step, job.device, steps, world.any if world else bool)
        return cls(report, model, step, warm, peak.read(), step_flops(report, job.device.type))

    def measured(self, spec: Spec, time: StepTime, burnt: Energy | None, job: "Job") -> dict[str, Any]:
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
            mbu=None,
            mbu_reached=None,
            peak_memory_bytes=self.memory.allocated,
            memory=self.memory,
            energy=burnt,
            loss=loss,
            drawn=self.drawn,
            expectation=is_expectation(self.report),
        )
        assert fields.keys() == set(Measured.__struct_fields__)
        return fields


def built(job: "Job", n: int, before: list[Rig]) -> list[Rig]:
    """The models of a job, built and warm, in the order of its specs; the last is built first where n, the number of builds before,
    is odd. before: the same, built earlier and let go here, for memory need not hold them twice.
    """
    told = [(rig.warm, rig.memory) for rig in before]
    before.clear()
    torch.compiler.reset()  # graphs of earlier models count against the compiler's limit
    with room_for_graphs() if job.settings.compile else nullcontext():
        rigs = [Rig.build(spec, job, n) for spec in job.specs[turn(n)]][turn(n)]
    return [replace(rig, warm=warm.then(rig.warm), memory=memory) for rig, (warm, memory) in zip(rigs, told, strict=True)] if told else rigs


def turn(n: int) -> slice:
    """To the order in which the models of build n are made and run, and back: neither is always the first."""
    return slice(None, None, -1 if n % 2 else 1)


class Samples(NamedTuple):
    """builds: build -> model -> seconds of its samples. rigs: the last build. device: as it was under load. freed: how often the
    allocator had to make room. waiting: threads that waited for a core, on average (None: unknown).
    """

    builds: list[list[list[float]]]
    rigs: list[Rig]
    device: Device
    freed: int
    waiting: float | None

    def of_models(self) -> list[list[float]]:
        """Seconds of each model, build after build."""
        return [list(chain.from_iterable(own)) for own in zip(*self.builds, strict=True)]


def sampled(job: "Job", rigs: list[Rig], rounds: int, steps: int, say: Say) -> Samples:
    """`rounds` samples of each model, the mean of `steps` steps each, shared out among the builds."""
    freed, passed = 0, 0.0
    waited: list[float | None] = []
    builds: list[list[list[float]]] = []
    seen: list[Device] = []
    parts = shared_out(rounds, job.builds)
    about = round_s([rig.warm for rig in rigs], job.device, steps)
    for n, part in enumerate(parts):
        which = f"build {n + 1} of {len(parts)}: samples for" if len(parts) > 1 else f"{part:,} samples,"
        say(f"{which} about {ceil(part * about):,} s")
        if n:
            rigs = built(job, n, rigs)
        before, waiting, start = retries(job.device), waited_s(), perf_counter()
        # No name for the steps: it would hold their models while the next are built.
        with Gpu.of(job.device) if job.device.type == "cuda" else nullcontext():  # NVML is ready when the clock is read
            taken = alternate([rig.step for rig in rigs[turn(n)]], job.device, part * steps, lambda: seen.append(describe(job.device)))[turn(n)]
        freed += retries(job.device) - before
        passed += perf_counter() - start
        after = waited_s()
        waited.append(None if after is None or waiting is None else max(0.0, after - waiting))  # less where a thread has ended
        builds.append([means(times, steps) for times in taken])
    return Samples(builds, rigs, seen[-1], freed, None if None in waited else sum(waited) / passed)
