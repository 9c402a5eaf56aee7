"""Doubts about a measurement, each with its likely cause and what to do next."""

import os
from math import isfinite

from modcalc.measure.hardware import Device
from modcalc.measure.records import StepTime
from modcalc.measure.stats import MIN_SAMPLES, WIDE, drift

APART = 0.1
DRIFT = 0.05
LAUNCH = 0.9
OUTLIER = 2.0
SLOWED = 1.5
WAITING = 0.05  # on an idle machine it is below 0.01


def wide_spread(name: str, s: StepTime, device: Device, waiting: float | None = None) -> str | None:
    """A warning where the middle half of the samples is wider than 10 % of the median. waiting: see `busy`."""
    if not s.wide:
        return None
    said = f"{name}: the step times spread {100 * s.spread:.1f} % (IQR / median, over {100 * WIDE:.0f} %)"
    change = drift(s.samples)
    if wanted := _wanted(device, waiting):
        cause = wanted
    elif abs(change - 1) > max(DRIFT, s.spread / 2):  # less does not explain it
        moved = f"{'rose' if change > 1 else 'fell'} by {100 * abs(change - 1):.0f} %"
        held = f" ({' and '.join(device.clocks.held_by)} held it down)" if device.clocks and device.clocks.held_by else ""
        cause = f"they {moved} while measured: the clock{held} or the load changed; warm up longer (--warmup), then measure again"
    elif max(s.samples) > OUTLIER * s.median:
        slow = f"single steps take up to {max(s.samples) / s.median:.1f} times the median"
        cause = f"{slow}: something else runs now and then; stop it, or take more samples (--seconds)"
    else:
        cause = "no single cause shows: take more samples (--seconds), on a machine that does nothing else"
    return f"{said}; {cause}"


def busy(device: Device, waiting: float | None = None) -> str | None:
    """A warning where other work takes this processor's time: samples that agree may all be too long. waiting: how many of this
    process's threads waited for a core on average, None where nobody counts it: then the machine's load tells.
    """
    wanted = _wanted(device, waiting)
    return wanted and f"other work ran while this was measured, so times may be too long: {wanted}"


def launch_bound(name: str, launch_s: float | None, step_s: float, busier: str) -> str | None:
    """A warning where the GPU waits for the host, or has a full queue of launches of which the last 1,000 are less than a tenth of the step.
    busier: what to do.
    """
    if launch_s is None or launch_s < LAUNCH * step_s:
        return None
    return (
        f"{name}: the host needs {launch_s * 1e3:.2f} ms to launch a step that takes {step_s * 1e3:.2f} ms, so the GPU seems to wait for it: {busier}"
    )


def few_samples(n: int) -> str | None:
    """A warning where quartiles say little, and no interval can be given."""
    if n >= MIN_SAMPLES:
        return None
    return f"{n} sample{'s are' if n != 1 else ' is'} too few for quartiles or an interval; at least {MIN_SAMPLES} are needed (--iterations)"


def memory_was_freed(times: int) -> str | None:
    """A warning where the allocator had to make room within what was timed."""
    if not times:
        return None
    return f"the allocator ran out of room {times} times while steps were timed or led up to that, and waited for the device: use a smaller --batch"


def not_attributed(name: str, by: str) -> str:
    """A warning where the time is known and where it goes is not."""
    return f"{name}: memory ran out while the eager step was profiled; its time by {by} is missing: use a smaller --batch"


def profiler_slows(name: str, by: str, profiled_s: float, plain_s: float) -> str | None:
    """A warning where what the profiler itself takes distorts the shares."""
    if profiled_s < SLOWED * plain_s:
        return None
    return (
        f"{name}: the step takes {profiled_s / plain_s:.1f} times as long under the profiler, so parts of many small operations look "
        f"larger in the time by {by} than they are: use a larger --batch or --seq-len"
    )


def other_steps(name: str, by: str, attributed_s: float, timed_s: float) -> str | None:
    """A warning where the machine was another while the step was profiled than while it was timed."""
    if abs(attributed_s / timed_s - 1) <= APART:
        return None
    return (
        f"{name}: the steps whose time by {by} is shown took {attributed_s * 1e3:.3g} ms without the profiler, those that were timed "
        f"{timed_s * 1e3:.3g} ms: what else runs changed in between; measure again (--again) on an idle machine, and go by the shares"
    )


def ran_out(error: str) -> str:
    """A warning where memory ran out when a point was measured once more."""
    return f"memory ran out when this was measured again ({error}); what was measured before stands"


def beyond_reached(name: str, share: float | None) -> str | None:
    """A warning where a model would be faster than its device was seen to be."""
    if share is None or share <= 1 + APART:
        return None
    return f"{name}: {100 * share:.1f} % of what the device reached, so that was measured when it was slower; measure it anew (--peaks --again)"


def no_trace(file: str) -> str:
    """A warning where the trace is missing and all else is known."""
    return f"--trace {file}: it was not written whole; is the disk full?"


def beyond_peak(name: str, mfu: float | None, source: str) -> str | None:
    """A warning where a model would be faster than its device can be."""
    if mfu is None or mfu <= 1:
        return None
    return f"{name}: MFU {100 * mfu:.1f} %, more than all: the peak ({source}) is not this device's, or not of this dtype"


def not_finite(name: str, loss: float | None) -> str | None:
    """A warning where the loss blew up: NaNs are cheaper to multiply than numbers."""
    if loss is None or isfinite(loss):
        return None
    return f"{name}: the loss became {loss}; such a step may run faster than a real one; try --dtype bf16 or fp32"


def _wanted(device: Device, waiting: float | None) -> str | None:
    """Where more threads want a processor's cores than it has: how many, and what to do."""
    if device.type != "cpu":
        return None
    advice = "run on an idle machine" + (", or with fewer threads (OMP_NUM_THREADS)" if device.threads > 1 else "")
    if waiting is not None:
        threads = f"{device.threads} threads" if device.threads > 1 else "1 thread"
        return f"on average {waiting:.2f} of this process's {threads} waited for a core: {advice}" if waiting > WAITING else None
    load = _load()
    if load is None or load <= device.cores + 0.5:
        return None
    return f"{load:.1f} threads want the {device.cores} cores, of which this process uses {device.threads}: {advice}"


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None
