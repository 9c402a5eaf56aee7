"""The clock: times steps one by one, several kinds of step in alternation, after a warm-up of its own.

On a GPU each step stands between two CUDA events in its stream, and is timed as it runs in a row of its own kind: the host issues
it while the device still works on one like it. Where kinds alternate, the device therefore first becomes idle and takes one
step untimed; else the work left by one kind would hide how long the host needs for the other. On the CPU a monotonic clock
(perf_counter_ns) stands around each step. New inputs are made before each step, outside what is timed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from time import perf_counter_ns
from typing import TYPE_CHECKING, Protocol

from modcalc.measure.stats import MIN_SAMPLES

if TYPE_CHECKING:
    import torch

MAX_ROUNDS = 10_000
WARM_STEPS = 3
UNTIMED = 3  # rounds until the kind that goes first is no slower for it
WARM_S = 1.0


class Step(Protocol):
    """One kind of step. prepare() puts new inputs in place; run() does the work that is timed."""

    def prepare(self) -> None: ...

    def run(self) -> None: ...


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What came before the clock counted. first_step_s: the first step, with compilation and the capture of a graph. step_s: a warm
    step, host waiting for the device (the first if there is no other). launch_s: the host's part of it, before it waited (None on
    the CPU, and of the first). seconds: the whole warm-up.
    """

    steps: int
    seconds: float
    first_step_s: float
    step_s: float
    launch_s: float | None

    def then(self, later: "WarmUp") -> "WarmUp":
        """This one and that of the model built anew: the steps and seconds of both. The later one may be a first step alone, so it
        tells nothing about the pace.
        """
        return replace(self, steps=self.steps + later.steps, seconds=self.seconds + later.seconds)


def synchronize(device: "torch.device") -> None:
    """Wait until the device has done all that was asked."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def warm_up(step: Step, device: "torch.device", steps: int | None = None, agree: Callable[[bool], bool] = bool) -> WarmUp:
    """Run `step` until it is warm: `steps` times, by default at least 3 times and, after the first, which may compile, 1 second (a GPU
    needs that to raise its clock).

    agree: whether to go on, given whether this process would; processes that communicate in a step must take as many.
    """
    whole: list[float] = []
    launch: list[float] = []
    begin = compiled = perf_counter_ns()
    while agree(len(whole) < (WARM_STEPS if steps is None else max(1, steps)) or (steps is None and _since(compiled) < WARM_S)):
        step.prepare()
        synchronize(device)
        start = perf_counter_ns()
        step.run()
        launch.append(_since(start))
        synchronize(device)
        whole.append(_since(start))
        if len(whole) == 1:
            compiled = perf_counter_ns()
    late = slice(len(whole) // 2, None)
    known = device.type == "cuda" and len(whole) > 1
    return WarmUp(len(whole), _since(begin), whole[0], median(whole[late]), median(launch[late]) if known else None)


def led(kinds: int, device: "torch.device") -> bool:
    """Whether an untimed step goes before each timed one."""
    return device.type == "cuda" and kinds > 1


def rounds_for(warm: Sequence[WarmUp], device: "torch.device", seconds: float | None, iterations: int | None = None, steps: int = 1) -> int:
    """Samples of each kind of step, of `steps` steps each: `iterations`, or as many as fit into `seconds`, at least as many as an interval needs."""
    if iterations is not None:
        return iterations
    return max(MIN_SAMPLES, min(MAX_ROUNDS, int(seconds / max(round_s(warm, device, steps), 1e-9))))


def steps_for(warm: Sequence[WarmUp], device: "torch.device", seconds: float, most: int) -> int:
    """Steps of one sample: `most`, or as many as leave time for the fewest samples that an interval needs, 1 at least."""
    return max(1, min(most, int(seconds / max(MIN_SAMPLES * round_s(warm, device), 1e-9))))


def round_s(warm: Sequence[WarmUp], device: "torch.device", steps: int = 1) -> float:
    """About how long a sample of each kind takes."""
    return steps * sum(w.step_s for w in warm) * (2 if led(len(warm), device) else 1)


def shared_out(rounds: int, builds: int) -> list[int]:
    """How many of the rounds each build takes."""
    return [rounds // builds + (n < rounds % builds) for n in range(builds)]


def alternate(steps: Sequence[Step], device: "torch.device", rounds: int, between: Callable[[], None] | None = None) -> list[list[float]]:
    """Seconds of each step, `rounds` of each, taken in turn: A B A B …

    What disturbs the machine disturbs both alike. On the CPU as many rounds as are timed, at most three, go first where there are
    several kinds. `between` is called once at the end of the measurement while the device is still at work (to read its clock).
    """
    mark = _events if device.type == "cuda" else _host
    marks: list[list[Callable[[], float]]] = [[] for _ in steps]
    synchronize(device)
    if len(steps) > 1 and not led(len(steps), device):
        for step in [*steps] * min(UNTIMED, rounds):  # building one kind cools the other's caches, and what the heap held is given back
            step.prepare()
            step.run()
    for _ in range(rounds):
        for step, taken in zip(steps, marks, strict=True):
            if led(len(steps), device):
                synchronize(device)
                step.prepare()
                step.run()
            step.prepare()
            taken.append(mark(step.run))
    if between:
        if device.type == "cuda":  # at work while its clock is read
            for step in steps:
                step.prepare()
                step.run()
        between()
    synchronize(device)
    return [[read() for read in taken] for taken in marks]


def means(times: Sequence[float], of: int) -> list[float]:
    """The mean of each `of` times in a row: where steps differ by chance, a median of single ones is not what they cost on average."""
    return [fmean(times[i : i + of]) for i in range(0, len(times), of)]


def _host(run: Callable[[], None]) -> Callable[[], float]:
    start = perf_counter_ns()
    run()
    taken = _since(start)
    return lambda: taken


def _events(run: Callable[[], None]) -> Callable[[], float]:
    import torch

    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    return lambda: start.elapsed_time(end) / 1000


def _since(start_ns: int) -> float:
    return (perf_counter_ns() - start_ns) / 1e9
