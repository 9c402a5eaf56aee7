"""From what the user asks to the points that are measured: settings and jobs, checked before anything runs."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

import msgspec
import torch

from modcalc.cost.account import dense_twin
from modcalc.cost.axes import Axis, combinations
from modcalc.errors import MissingDependency, UsageError
from modcalc.measure.point import Job
from modcalc.measure.records import Settings, as_baseline
from modcalc.measure.rigs import promised
from modcalc.measure.stats import MIN_SAMPLES
from modcalc.measure.steps import waits
from modcalc.spec.plan import CANNOT_SAMPLE
from modcalc.spec.schema import Spec


def points(settings: Settings, axes: Sequence[Axis]) -> list[Settings]:
    """The settings with every combination of the axes' values."""
    return [msgspec.structs.replace(settings, **values) for values in combinations(axes, settings.mode)]


def jobs(template: Job, specs: Sequence[Spec], axes: Sequence[Axis], *, dense: bool = False) -> list[Job]:
    """One job for each spec and point. The template holds all that they share; its settings' seq_len 0 means each spec's own.

    dense: each spec's own dense twin is its baseline. Raises UsageError, before anything is measured, where a spec has no other
    dense twin than itself, or a spec, a baseline and a point make no workload (a sequence longer than learned positions, …).
    """
    check(template, axes, compared=dense or template.baseline is not None)
    found = []
    for spec in specs:
        if dense and spec.mod is None:
            raise UsageError(
                f"--baseline dense: {spec.name} routes no tokens, so it is its own dense twin; name another SPEC, or itself to see the noise"
            )
        against = dense_twin(spec) if dense else template.baseline
        if against and against.name == spec.name:
            against = msgspec.structs.replace(against, name=as_baseline(spec.name))
        own = replace(template, spec=spec, baseline=against)
        for s in points(template.settings, axes):
            length = 1 if s.mode == "decode" else s.seq_len or spec.seq_len
            found.append(replace(own, settings=msgspec.structs.replace(s, seq_len=length)))
    if template.trace and len(found) > 1:
        raise UsageError(f"--trace {template.trace}: one point a trace, and these are {len(found)}; leave out --sweep or name one SPEC")
    for job in found:
        s = job.settings
        for spec in job.specs:
            plan = promised(spec, s).plan
            if s.sampling and plan.experts_choose:
                raise UsageError(f"--mode {s.mode}: {spec.name} has experts that {CANNOT_SAMPLE}; time --mode forward or train")
            if s.cuda_graph and waits(plan, s.mode):
                raise UsageError(
                    f"--cuda-graph: {spec.name} has experts without a buffer, whose work depends on how many tokens come to each; "
                    "give moe.capacity, or leave out --cuda-graph"
                )
    return found


def check(job: Job, axes: Sequence[Axis], compared: bool) -> None:
    """Whether the settings go together and the machine has what they need. Raises UsageError or MissingDependency."""
    s, device = job.settings, job.device.type
    if s.cuda_graph and device != "cuda":
        raise UsageError("--cuda-graph: only a GPU has them; leave it out, or use --device cuda")
    cached = s.context or any(a.name == "context" for a in axes)
    if cached and not s.sampling:
        raise UsageError(f"--context with --mode {s.mode}: only decode attends to cached tokens")
    if cached and s.mode == "prefill":
        raise UsageError("--context with --mode prefill: the reference model fills an empty cache only; leave it out")
    if s.sampling and (s.compile or s.cuda_graph):
        raise UsageError(
            f"--mode {s.mode}: sampling computes the rows that pass, whose number changes, so it runs eagerly; leave out --compile and --cuda-graph"
        )
    if s.parallel != "none":
        parts = "--trace" if job.trace else "--by"
        alone = {f"--mode {s.mode}": s.mode not in ("forward", "train"), "--cuda-graph": s.cuda_graph, parts: job.by, "--builds": job.builds > 1}
        if found := [option for option, given in alone.items() if given]:
            raise UsageError(
                f"{' and '.join(found)}: not under torchrun, where --mode forward and train are timed, with the ranks' spread and communication"
            )
    if s.builds and s.iterations and s.builds > s.iterations:
        raise UsageError(f"--builds {s.builds} with --iterations {s.iterations}: every build takes a sample at least; give more of these")
    if compared and s.builds and 1 < s.builds < MIN_SAMPLES:
        raise UsageError(f"--builds {s.builds} with --baseline: the interval is over builds, and needs {MIN_SAMPLES} at least; or give 1")
    if s.parallel == "fsdp" and device == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
        raise MissingDependency(f"--parallel fsdp on the CPU: it needs torch 2.7, found {torch.__version__}; use --parallel ddp")
    if s.compile and device == "cpu" and not any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++", "cl"))):
        raise MissingDependency("--compile on the CPU: torch.compile needs a C++ compiler and finds none; install g++, or use --no-compile")
    if s.compile and device == "cuda" and find_spec("triton") is None:
        raise MissingDependency("--compile on a GPU: torch.compile needs triton, which is not installed; pip install triton, or use --no-compile")
