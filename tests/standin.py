"""A GPU that is none: tensors for it lie on the CPU, and what modcalc asks of torch.cuda is played.

What a GPU computes and how fast is not tested by it; that the code for GPUs runs from end to end, asks in the right order and
reports what it was told is.
"""

from collections import Counter
from contextlib import contextmanager, nullcontext
from time import perf_counter
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity

NAME = "NVIDIA Stand-in"


def _placed(value):
    """The CPU in place of a GPU."""
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    return "cpu" if isinstance(value, str) and value.partition(":")[0] == "cuda" else value


class _Placing(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        return func(*map(_placed, args), **{key: _placed(value) for key, value in (kwargs or {}).items()})


class _Generator(torch.Generator):
    def __new__(cls, device="cpu"):
        return super().__new__(cls, _placed(device))


class _Event:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = perf_counter()

    def elapsed_time(self, end: "_Event") -> float:
        return 1000 * (end.at - self.at)


class FakeNvml(ModuleType):
    """NVML with one GPU, which has no energy counter if `old`."""

    NVMLError = type("NVMLError", (Exception,), {})
    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    def __init__(self, old: bool = False) -> None:
        super().__init__("pynvml")
        self.old, self.open = old, 0

    def nvmlInit(self):
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != "GPU-0123":
            raise self.NVMLError
        return "handle"

    def nvmlSystemGetDriverVersion(self):
        return b"580.1" if self.old else "580.1"

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return {1: 1980, 2: 3201}[kind]

    def nvmlDeviceGetMaxClockInfo(self, handle, kind):
        return 1990

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        if self.old:
            raise self.NVMLError
        return 0x01 | 0x04 | 0x40  # idle; the power limit; heat

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return 0x20

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if self.old:
            raise self.NVMLError
        return 123_456


class StandIn:
    """What was asked of it. Its allocator tells bytes held and reserved, and both at their peak."""

    def __init__(self) -> None:
        self.asked = Counter()
        self.side = False  # whether work goes to another stream than the first

    def calls(self) -> dict[str, object]:
        """name in torch.cuda -> what stands there."""
        properties = SimpleNamespace(name=NAME, total_memory=80 * 2**30, uuid="0123")
        told = dict(
            is_available=True,
            current_device=0,
            device_count=1,
            get_device_capability=(9, 0),
            get_device_name=NAME,
            get_device_properties=properties,
            set_device=None,
            is_current_stream_capturing=False,
            synchronize=None,
            empty_cache=None,
            reset_peak_memory_stats=None,
            memory_stats={"num_alloc_retries": 0},
            memory_allocated=1_000,
            memory_reserved=2_000,
            max_memory_allocated=501_000,
            max_memory_reserved=702_000,
        )
        return {name: self._told(name, answer) for name, answer in told.items()} | dict(
            get_rng_state=lambda device: torch.get_rng_state(),
            set_rng_state=lambda state, device: torch.set_rng_state(state),
            Event=_Event,
            Stream=lambda device=None: SimpleNamespace(wait_stream=self._told("wait_stream", None)),
            current_stream=lambda device=None: SimpleNamespace(wait_stream=self._told("wait_stream", None)),
            stream=self._aside,
            CUDAGraph=lambda: SimpleNamespace(replay=self._told("replay", None)),
            graph=self._capturing,
        )

    def _told(self, name, answer):
        def tell(*_):
            self.asked[name] += 1
            return answer

        return tell

    @contextmanager
    def _aside(self, stream):
        self.side = True
        yield
        self.side = False

    def profile(self, *, activities, schedule):
        """The profiler, of the CPU alone: of a GPU that is not there it would warn at every operation."""
        self.profiled = {activity.name for activity in activities}
        return torch.profiler.profile(activities=[ProfilerActivity.CPU], schedule=schedule)

    def _capturing(self, graph):
        self.asked["capture"] += 1
        return nullcontext()


@contextmanager
def stand_in(monkeypatch: pytest.MonkeyPatch):
    """A StandIn that torch takes for its GPU."""
    gpu = StandIn()
    for name, call in gpu.calls().items():
        monkeypatch.setattr(torch.cuda, name, call)
    # Of torch built for CUDA the optimizer asks here whether its step is captured, which takes a driver.
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    monkeypatch.setattr(torch, "Generator", _Generator)
    monkeypatch.setattr("modcalc.measure.attribution.profile", gpu.profile)
    with _Placing():
        yield gpu
