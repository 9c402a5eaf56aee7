"""What a device really reaches: a large matrix product and a large copy."""

from statistics import median
from typing import TYPE_CHECKING

import torch

from modcalc.measure.hardware import DTYPES, Peak
from modcalc.measure.steptime import alternate, rounds_for, warm_up

if TYPE_CHECKING:
    from collections.abc import Callable

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


def reached(device: torch.device, dtype: str, size: int | None = None, copy_bytes: int | None = None) -> Peak:
    """FLOP/s of a square matrix product of normal random numbers in `dtype`, and bytes/s (read and written) of a copy: medians.

    Zeros would run faster on a GPU than numbers do, whose bits cost power.
    """
    n = size or MATMUL[device.type]
    kind = getattr(torch, DTYPES[dtype])
    a, b = (torch.randn(n, n, device=device, dtype=torch.float32).to(kind) for _ in range(2))
    out = torch.empty(n, n, device=device, dtype=kind)
    product_s = _median(Repeated(lambda: torch.mm(a, b, out=out)), device)
    source = torch.randn((copy_bytes or COPY_BYTES[device.type]) // 4, device=device)
    target = torch.empty_like(source)
    copy_s = _median(Repeated(lambda: target.copy_(source)), device)
    return Peak(2 * n**3 / product_s, 2 * source.nbytes / copy_s, f"measured: {n:,} x {n:,} x {n:,} {dtype} product, copy of {source.nbytes:,} bytes")


def _median(step: Repeated, device: torch.device) -> float:
    warm = warm_up(step, device)
    return median(alternate([step], device, rounds_for([warm], device, SECONDS))[0])
