"""Where a step's time goes: the torch profiler's events, joined with the ledger's paths.

Every module of the model opens a range named after its path while it runs, so forward work belongs to the innermost open
range. Backward work belongs to the forward operation that made its autograd node, found by sequence number. On the CPU each
event's own time counts; on a GPU the times of the kernels that each event launched. What is left of the step by the clock
is `other` on the CPU and `idle` on a GPU. Steps without the profiler lie between those under it, and are what the lines add up
to: on the CPU, where the profiler slows everything, all are scaled; a GPU's kernels take no longer, only the host.
"""

import gzip
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from math import ceil
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, schedule

from modcalc.cost.account import Report, layer
from modcalc.cost.ops import number
from modcalc.cost.remarks import routed
from modcalc.cost.roofline import moved
from modcalc.measure.ranges import USER_SCOPE, Owners, Ranged, ranges
from modcalc.measure.records import Attribution, Line
from modcalc.measure.steptime import UNTIMED, Step, alternate, warm_up

LEAST, MOST = 4, 12  # rounds; between them as many as three seconds hold
PASSES = 16  # where chance decides, so many tokens are to pass each routed block
OVERHEAD = ("router", "predictor")  # the components that a dense model does not have
PARTS = ("router", "select", "gather", "scatter", "predictor")


@contextmanager
def profiled(device: torch.device, step: Step) -> Iterator[profile]:
    """The torch profiler of host and device. Its first step is slow: it is taken here, by `step`, and not recorded."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cpu":
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else some builds note on stderr that it starts and stops
    else:
        activities.append(ProfilerActivity.CUDA)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Warning: Profiler clears events")  # torch 2.11 says so; they are those not recorded
        with profile(activities=activities, schedule=schedule(wait=0, warmup=1, active=1)) as profiler:
            alternate([step], device, 1)
            profiler.step()
            yield profiler


def attribute(step: Step, model: nn.Module, report: Report, device: torch.device, by: str = "component", trace: str | None = None) -> Attribution:
    """Attribution of the (eager) step by `component`, `layer` or `path`; `trace`: a file for the Chrome trace."""
    if trace:
        with suppress(OSError):
            Path(trace).unlink(missing_ok=True)  # or that of another run would stand for this one's, should memory run out
    pace = warm_up(step, device, 2).step_s
    rare = _rounds_for_passes(report)
    # A GPU's kernels take as long each time, and to read what they did takes longer than to run them.
    most = MOST if device.type == "cpu" else LEAST
    rounds = max(LEAST, min(max(most, rare), int(3 / pace)))
    all_count = rare > most  # the fastest steps are then those that nothing passed
    untimed = max(1, min(UNTIMED, int(0.1 / pace)))  # after other work, of which short steps feel more
    # A drift of the machine must cancel out. On a GPU steps are timed in a row, see `steptime`.
    each = ceil(rounds / MOST) if device.type == "cpu" else rounds
    blocks = ceil(rounds / each)
    ranged = Ranged(step)
    plain = alternate([step], device, each)[0]
    taken: list[tuple[float, dict[str, float]]] = []
    for _ in range(blocks):
        with ranges(model), profiled(device, ranged) as profiler:
            samples = alternate([ranged], device, each)[0]
        taken.append((sum(samples), _times(Owners(profiler.events(), report.work.phase == "train"), device)))
        plain += alternate([step], device, untimed + each)[0][untimed:]
    kept = taken if all_count else _middle(taken, key=itemgetter(0))
    if trace:
        with suppress(OSError):  # see `whole`
            profiler.export_chrome_trace(trace)
            Path(f"{trace}.tmp").unlink(missing_ok=True)
    rounds = each * len(kept)
    under, without = sum(seconds for seconds, _ in kept) / rounds, fmean(plain if all_count else _middle(plain))
    rest, scale = ("idle", 1.0) if device.type == "cuda" else ("", without / under)
    times: dict[str, float] = {}
    for path, seconds in chain.from_iterable(own.items() for _, own in kept):
        times[path] = times.get(path, 0.0) + scale * seconds / rounds
    times[rest] = times.get(rest, 0.0) + without - sum(times.values())
    return summed(times, under, without, report, by, rounds, next(model.parameters()).element_size())


def _rounds_for_passes(report: Report) -> int:
    """Steps of sampling in which PASSES tokens can be expected to pass each routed block; 1 where their number is not chance's."""
    shares = [r.share for r in routed(report).values()]
    return ceil(PASSES / (min(shares) * report.work.tokens)) if report.work.sampling and shares else 1


def _middle(taken: list[Any], key: Callable[[Any], float] | None = None) -> list[Any]:
    """Without the fastest and the slowest quarter: a few steps that something disturbed would show in a mean."""
    quarter = len(taken) // 4
    return sorted(taken, key=key)[quarter : len(taken) - quarter]


def whole(trace: str) -> bool:
    """Whether the trace is there to its end: torch writes it without a word where the disk is full."""
    opened = gzip.open if trace.endswith(".gz") else open
    try:
        with opened(trace, "rb") as file:
            last = deque(file, maxlen=1)
    except (OSError, EOFError):
        return False
    return bool(last) and last[0].rstrip().endswith(b"}")


def _times(owners: Owners, device: torch.device) -> dict[str, float]:
    """Seconds by owner over all rounds."""
    times: dict[str, float] = {}
    # Ranges show on the device too, as long as all that ran in them, and may be linked to any event.
    ranges = {event.name for event in owners.events if event.scope == USER_SCOPE}
    for event in owners.events:
        owner = owners.of(event)
        if owner is None:
            continue
        launched = (kernel.duration for kernel in event.kernels if kernel.name not in ranges)
        micros = event.self_cpu_time_total if device.type == "cpu" else sum(launched)
        times[owner] = times.get(owner, 0.0) + micros / 1e6
    return times


def summed(times: dict[str, float], profiled: float, total: float, report: Report, by: str, rounds: int, itemsize: int) -> Attribution:
    """Lines in the order of the model, then loss, optimizer, idle and other: of the step that takes `total` without the profiler.

    itemsize: bytes of a number of the model.
    """
    components = {path: op.component for op in reversed(report.rows) for path in op.paths()}
    train = report.work.phase == "train"

    def flops_by(level: str) -> dict[str, int | float]:
        return {line.label: number(line.flops(train)) for line in report.lines(level)}

    flops, bytes_by = flops_by(by), moved(report, itemsize, by)
    sums = dict.fromkeys([*flops, "loss", "optimizer", "idle", "other"], 0.0)
    parts = dict.fromkeys(PARTS, 0.0)
    worked: dict[str, int | float] = dict.fromkeys(PARTS, 0)
    for path, work in flops_by("path").items():
        if components[path] in OVERHEAD:
            worked[_part(path)] += work
    for path, seconds in times.items():
        row = _nearest(path, components)
        if row is None:
            label = path if path in ("loss", "optimizer", "idle") else "other"
        else:
            label = {"component": components[row], "layer": layer(row), "path": row}[by]
        sums[label] = sums.get(label, 0.0) + seconds
        if row is not None and components[row] in OVERHEAD:
            parts[_part(path)] += seconds

    def line(label: str, seconds: float, flops: Any = 0, n_bytes: Any = None) -> Line:
        return Line(label, seconds, seconds / total, flops, float(flops) / seconds if flops and seconds > 0 else None, n_bytes)

    lines = [line(label, seconds, flops.get(label, 0), number(bytes_by.get(label))) for label, seconds in sums.items() if seconds or flops.get(label)]
    routing = [line(part, seconds, worked[part]) for part, seconds in parts.items() if seconds]
    overhead = sum(parts.values())
    return Attribution(
        spec=report.plan.name,
        by=by,
        rounds=rounds,
        step_time_s=profiled,
        unprofiled_s=total,
        lines=lines,
        routing=routing,
        routing_s=overhead,
        routing_share=overhead / total,
    )


def _part(path: str) -> str:
    """Which of PARTS a module of routing belongs to."""
    return next(part for part in PARTS if part in path.split("."))


def _nearest(path: str, known: dict[str, str]) -> str | None:
    """The path itself or the nearest module around it that the ledger has rows for."""
    while path and path not in known:
        path = path.rpartition(".")[0]
    return path or None
