"""What a device really reaches: a large matrix product and a large copy. And the peaks that points are rated by."""

from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

import torch

from modcalc.errors import UsageError
from modcalc.measure.hardware import DTYPES, Peak, describe
from modcalc.measure.steptime import alternate, rounds_for, warm_up
from modcalc.measure.usage import out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from modcalc.measure.distributed import World
    from modcalc.measure.point import Job
    from modcalc.measure.results import ResultsFile

# Large enough to fill the device and to leave its caches, small enough for a laptop.
MATMUL = {"cuda": 8192, "cpu": 2048}
COPY_BYTES = {"cuda": 2**31, "cpu": 2**28}
SECONDS = 1.0


class Repeated:
    """The same work on inputs that stay: what a peak is measured with."""

    def __init__(self, run: "Callable[[], object]") -> None:
        self.run = run

    def prepare(self) -> None:
        pass


def reached(device: torch.device, dtype: str) -> Peak:
    """FLOP/s of a square matrix product of normal random numbers in `dtype`, and bytes/s (read and written) of a copy: medians.

    Zeros would run faster on a GPU than numbers do, whose bits cost power.
    """
    n = MATMUL[device.type]
    kind = getattr(torch, DTYPES[dtype])
    a, b = (torch.randn(n, n, device=device, dtype=torch.float32).to(kind) for _ in range(2))
    out = torch.empty(n, n, device=device, dtype=kind)
    product_s = _median(Repeated(lambda: torch.mm(a, b, out=out)), device)
    source = torch.randn(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    copy_s = _median(Repeated(lambda: target.copy_(source)), device)
    return Peak(2 * n**3 / product_s, 2 * source.nbytes / copy_s, f"measured: {n:,} x {n:,} x {n:,} {dtype} product, copy of {source.nbytes:,} bytes")


def _median(step: Repeated, device: torch.device) -> float:
    warm = warm_up(step, device)
    return median(alternate([step], device, rounds_for([warm], device, SECONDS))[0])


def shared(device: torch.device, dtype: str, world: "World | None") -> Peak:
    """What the device reaches; under torchrun what the first process finds, for all at once would be in each other's way.

    Raises UsageError, in every process, where no memory is free.
    """
    if world and world.rank:
        found = world.from_first(None)
        if isinstance(found, str):
            raise UsageError(found)
        return found
    try:
        found = reached(device, dtype)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        said = f"--peaks: memory ran out on the {device.type}; does something else use it?"
        if world:
            world.from_first(said)
        raise UsageError(said) from error
    return world.from_first(found) if world else found


def with_peaks(jobs: "list[Job]", file: "ResultsFile | None", again: bool, find: "Callable[[torch.device, str], Peak | None]") -> "list[Job]":
    """The jobs, all with one peak and one of what the device reaches: as given now or earlier to the results file, else in its datasheet.

    find: what is reached where the file does not say, or, again, anew; None where nobody wants to know.
    """
    device, dtype, world = jobs[0].device, jobs[0].settings.dtype, jobs[0].world
    filed = file.peaks(describe(device), dtype, str(torch.__version__)) if file else (None, None)
    peak, known = world.from_first(filed) if world else filed  # one process may have a file that another lacks
    found = find(device, dtype) if known is None or again else None
    peak = min(filter(None, (jobs[0].peak, peak)), key=lambda one: not one.given, default=None)
    return [replace(job, peak=peak, reached=found or known) for job in jobs]
