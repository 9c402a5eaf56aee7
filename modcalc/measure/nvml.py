"""Driver, clocks and energy of an NVIDIA GPU through NVML (package nvidia-ml-py), where it is installed; else nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Bits of nvmlClocksEventReasons (nvml.h) that tell of more than the load and the user's own settings.
HOLDS = {"the power limit": 0x04, "heat": 0x20 | 0x40, "the power supply": 0x80}


def _start() -> Any:
    """The NVML module, ready; None where the package, the driver's library or the permission is lacking."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        return None
    return pynvml


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as NVML sees it. Every question returns None where the GPU does not answer it."""

    nvml: Any
    handle: Any

    @staticmethod
    @contextmanager
    def of(device: "torch.device") -> Iterator["Gpu | None"]:
        """The GPU of a torch device, found by its UUID (indices differ under CUDA_VISIBLE_DEVICES); None without NVML."""
        nvml = _start()
        if nvml is None:
            yield None
            return
        import torch

        try:
            yield Gpu._open(nvml, f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        finally:
            nvml.nvmlShutdown()

    @staticmethod
    def _open(nvml: Any, uuid: str) -> "Gpu | None":
        try:
            return Gpu(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))
        except nvml.NVMLError:
            return None

    def _ask(self, question: Callable[..., Any], *args: Any) -> Any:
        try:
            return question(*args)
        except self.nvml.NVMLError:
            return None

    def driver(self) -> str | None:
        """Version of the driver."""
        version = self._ask(self.nvml.nvmlSystemGetDriverVersion)
        return version.decode() if isinstance(version, bytes) else version

    def sm_mhz(self) -> int | None:
        """Clock of the streaming multiprocessors at this moment."""
        return self._ask(self.nvml.nvmlDeviceGetClockInfo, self.handle, self.nvml.NVML_CLOCK_SM)

    def sm_max_mhz(self) -> int | None:
        return self._ask(self.nvml.nvmlDeviceGetMaxClockInfo, self.handle, self.nvml.NVML_CLOCK_SM)

    def held_by(self) -> tuple[str, ...]:
        """What holds the clock down at this moment; nothing where NVML does not tell."""
        # The second is the older name of the first.
        names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        told = (self._ask(question, self.handle) for name in names if (question := getattr(self.nvml, name, None)))
        bits = next((bits for bits in told if bits is not None), 0)
        return tuple(word for word, mask in HOLDS.items() if bits & mask)

    def memory_mhz(self) -> int | None:
        return self._ask(self.nvml.nvmlDeviceGetClockInfo, self.handle, self.nvml.NVML_CLOCK_MEM)

    def energy_j(self) -> float | None:
        """Joules since the driver was loaded."""
        millijoules = self._ask(self.nvml.nvmlDeviceGetTotalEnergyConsumption, self.handle)
        return None if millijoules is None else millijoules / 1000
