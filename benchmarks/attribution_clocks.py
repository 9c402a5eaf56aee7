"""Where a forward step's time goes by `--by component`, against a clock around every module of the same model.

    python -m benchmarks.attribution_clocks [SPEC] [--batch 1] [--seq-len T] [--rounds 8]

On the CPU a module's work is over when it returns, so reading a clock before and after it (0.1 us) tells its own time without a
profiler. Each round takes attribution's steps, then clocked ones. Prints a markdown table: seconds by both, and their
differences, in all and by component, as shares of the step.
"""

import argparse
from collections import defaultdict
from contextlib import AbstractContextManager
from statistics import fmean
from time import perf_counter_ns
from typing import Any

import torch
from torch import nn

from modcalc import load
from modcalc.cost.account import Report, account
from modcalc.measure.attribution import attribute, summed
from modcalc.measure.build import build
from modcalc.measure.hardware import describe
from modcalc.measure.heap import keep
from modcalc.measure.ranges import Forward, wrapped
from modcalc.measure.records import Attribution, Settings
from modcalc.measure.steps import build_step
from modcalc.measure.steptime import UNTIMED, Step, alternate, warm_up
from modcalc.render.markup import markdown
from modcalc.render.numbers import share
from modcalc.render.points import device_line
from modcalc.render.table import Column, Table
from modcalc.spec.schema import Spec

CPU = torch.device("cpu")
STEPS = 6


def clocks(model: nn.Module, own: dict[str, float]) -> AbstractContextManager[None]:
    """Adds the seconds of every module's forward, without those of the modules within it, to `own` by path."""
    within: list[int] = []

    def clocked(forward: Forward, name: str) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            within.append(0)
            start = perf_counter_ns()
            found = forward(*args, **kwargs)
            taken = perf_counter_ns() - start
            own[name] += (taken - within.pop()) / 1e9
            if within:
                within[-1] += taken
            return found

        return run

    return wrapped(model, clocked)


def clocked(step: Step, model: nn.Module, report: Report) -> Attribution:
    """The same lines by clocks: what no module took is `other`."""
    own: dict[str, float] = defaultdict(float)
    with clocks(model, defaultdict(float)):
        alternate([step], CPU, UNTIMED)
    with clocks(model, own):
        total = sum(alternate([step], CPU, STEPS)[0]) / STEPS
    times = {path: seconds / STEPS for path, seconds in own.items()}
    times[""] = times.get("", 0.0) + total - sum(times.values())
    return summed(times, total, total, report, "component", STEPS, next(model.parameters()).element_size())


def means(found: list[Attribution]) -> dict[str, float]:
    """Mean seconds by component."""
    labels = dict.fromkeys(line.label for a in found for line in a.lines)
    return {label: fmean(sum(line.time_s for line in a.lines if line.label == label) for a in found) for label in labels}


def table(spec: Spec, batch: int, length: int, rounds: int) -> Table:
    settings = Settings(mode="forward", batch=batch, seq_len=length, context=0, dtype="fp32", compile=False, cuda_graph=False)
    keep()
    report = account(spec, seq_len=length, batch=batch, phase="forward")
    model = build(report.plan, device=CPU, dtype="fp32")
    step = build_step(model, settings, CPU)
    warm_up(step, CPU)
    pairs = [(attribute(step, model, report, CPU), clocked(step, model, report)) for _ in range(rounds)]
    ours, clock = (means(list(side)) for side in zip(*pairs, strict=True))
    whole = sum(clock.values())
    labels = [*(label for label in clock if label != "other"), "other"]
    rows = [[label, ours.get(label, 0.0), clock[label], (ours.get(label, 0.0) - clock[label]) / whole] for label in labels if clock[label]]
    apart = sum(abs(row[-1]) for row in rows)
    slower = fmean(a.step_time_s / a.unprofiled_s for a, _ in pairs) - 1
    return Table(
        columns=(Column("component"), Column("--by component", "seconds"), Column("by clocks", "seconds"), Column("difference / step", "change")),
        rows=rows,
        total=["total", sum(ours.values()), whole, sum(ours.values()) / whole - 1],
        title=f"Attribution against clocks: {spec.name}, forward, batch {batch}, {length:,} tokens",
        headline=[f"{device_line(describe(CPU))}; torch {torch.__version__}; fp32, eager; {rounds} rounds"],
        notes=[f"differences in all: {share(apart)} of the step; the profiler slowed it by {share(slower)}"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", default="mod-small")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seq-len", type=int)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    spec = load(args.spec)
    print(markdown(table(spec, args.batch, args.seq_len or spec.seq_len, args.rounds)))


if __name__ == "__main__":
    main()
