"""What a step holds and burns: peak memory and energy."""

import gc
from contextlib import suppress
from math import ceil
from pathlib import Path
from time import perf_counter

import torch

from modcalc.measure.heap import give_back
from modcalc.measure.nvml import Gpu
from modcalc.measure.records import Energy, Memory
from modcalc.measure.steptime import Step, synchronize

ENERGY_S = 2.0  # NVML's counter moves every 20 to 100 ms: two seconds keep its step under 5 %
STATUS = Path("/proc/self/status")
EXHAUSTED = (
    "out of memory", "can't allocate memory", "not enough memory", "Storage size calculation overflowed",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip


class PeakMemory:
    """Peak memory from its making to `read`, less what was held before: on a GPU torch's allocator, on Linux the process's
    resident set (its high-water mark is reset first), elsewhere unknown.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()  # a model that is no longer used, collected later, would make this one look smaller
        if device.type == "cuda":
            synchronize(device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self.held, self.reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
        else:
            self.held = _reset_resident_peak()

    def read(self) -> Memory:
        if self.device.type == "cuda":
            synchronize(self.device)
            allocated = torch.cuda.max_memory_allocated(self.device) - self.held
            # Part of it may lie in segments that others began; those of a captured graph are never let go.
            reserved = max(allocated, torch.cuda.max_memory_reserved(self.device) - self.reserved)
            return Memory(allocated, reserved, "torch's CUDA allocator")
        peak = None if self.held is None else proc_bytes(STATUS, "VmHWM")
        return Memory(None if peak is None else max(0, peak - self.held), None, "growth of the process's resident set")


def _reset_resident_peak() -> int | None:
    """Resident bytes now, the high-water mark set to them (Linux, proc(5): clear_refs); None where that is not possible."""
    give_back()
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as refs:
            refs.write("5")
    except OSError:
        return None
    return proc_bytes(STATUS, "VmRSS")


def proc_bytes(file: Path, key: str) -> int | None:
    """What a file of Linux's /proc says under `key` in kB; None: nothing, or there is no such file."""
    try:
        with file.open(encoding="ascii", errors="replace") as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)
    except OSError:
        return None


def waited_s(tasks: Path = Path("/proc/self/task")) -> float | None:
    """Seconds that threads of this process were ready to run and had no core, so far (Linux, Documentation/scheduler/sched-stats);
    None where the kernel does not tell.
    """
    ran = waited = 0
    for task in tasks.glob("*"):
        with suppress(OSError, ValueError):  # it has ended since, or nothing is counted
            own, waiting, _ = map(int, (task / "schedstat").read_text(encoding="ascii").split())
            ran, waited = ran + own, waited + waiting
    return waited / 1e9 if ran else None


def energy(step: Step, device: torch.device, step_s: float, tokens: int) -> Energy | None:
    """Energy of a step, which takes `step_s` among its like, from a run of its own of at least 2 seconds; None where NVML counts none."""
    if device.type != "cuda":
        return None
    with Gpu.of(device) as gpu:
        if gpu is None or gpu.energy_j() is None:
            return None
        n = max(2, ceil(ENERGY_S / step_s))
        synchronize(device)
        before, start = gpu.energy_j(), perf_counter()
        for _ in range(n):
            step.prepare()
            step.run()
        synchronize(device)
        after, seconds = gpu.energy_j(), perf_counter() - start
    if before is None or after is None or after <= before:  # a counter that stands still counts nothing
        return None
    joules = after - before
    return Energy(joules / n, joules / (n * tokens), joules / seconds)


def retries(device: torch.device) -> int:
    """How often torch's allocator has given cached memory back to the device, and waited for it, to make room."""
    return torch.cuda.memory_stats(device).get("num_alloc_retries", 0) if device.type == "cuda" else 0


def out_of_memory(error: BaseException | None) -> BaseException | None:
    """Where torch says that memory ran out, in the error or in what led to it: its own class, or a sentence of a library's; else None."""
    if error is None or isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in EXHAUSTED):
        return error
    return out_of_memory(error.__cause__ or error.__context__)
