"""The machine under the clock: which device, what it can compute in, what it is called and what it promises."""

import os
import platform
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated

import msgspec

from modcalc.errors import MissingDependency, UsageError, first_line
from modcalc.measure import heap
from modcalc.measure.nvml import Gpu

if TYPE_CHECKING:
    import torch

# A line of a table, also where a file says it: control characters would reach the terminal.
Text = Annotated[str, msgspec.Meta(pattern=r"\A[^\x00-\x1f\x7f-\x9f]*\Z")]
Positive = Annotated[float, msgspec.Meta(gt=0)]

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
DEVICES = ("auto", "cuda", "cpu")


class Clocks(msgspec.Struct, frozen=True):
    """MHz: of the streaming multiprocessors while measuring and at most, and of the memory. held_by: what held the first down then."""

    sm_mhz: int | None
    sm_max_mhz: int | None
    memory_mhz: int | None
    held_by: tuple[Text, ...] = ()


class Device(msgspec.Struct, frozen=True):
    """What was measured on. memory_bytes: of the GPU, or of the machine. threads: that torch uses within one operation on the CPU.
    keeps_freed: whether the CPU's heap was told to keep freed memory (see `heap`).
    """

    type: Text
    name: Text
    memory_bytes: int | None
    cores: int
    threads: int
    driver: Text | None = None
    cuda: Text | None = None
    clocks: Clocks | None = None
    keeps_freed: bool = False


class Peak(msgspec.Struct, frozen=True):
    """The most that the device can do: FLOP/s in one dtype, bytes/s of its memory, and who says so."""

    flops_per_s: Positive
    bytes_per_s: Positive | None
    source: Text

    @property
    def given(self) -> bool:
        """Whether a user gave it, by an option."""
        return self.source.startswith("--")


class Datasheet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of peaks.yaml."""

    device: list[str]
    tflops: dict[str, float]
    source: str
    gb_per_s: float | None = None
    memory_gb: int | None = None


def import_torch() -> "torch":
    """torch, or a MissingDependency that says how to get it."""
    try:
        import torch
    except ImportError as missing:
        raise MissingDependency("torch is not installed, which building and measuring models need: pip install 'modcalc[torch]'") from missing
    return torch


def pick(name: str) -> "torch.device":
    """The torch device for `auto`, `cuda` or `cpu`. Raises MissingDependency where there is no GPU for `cuda`, UsageError for another name."""
    torch = import_torch()
    if name not in DEVICES:
        raise UsageError(f"device {name!r}: one of {', '.join(DEVICES)}")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        why = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no CUDA GPU here"
        raise MissingDependency(
            f"--device cuda: {why} (torch {torch.__version__}); --device cpu measures on the processor, modcalc flops counts without any"
        )
    return torch.device("cuda", torch.cuda.current_device())


def pick_dtype(name: str, device: "torch.device") -> "torch.dtype":
    """The torch dtype for fp32, bf16 or fp16; fp32 is that from here on, and nothing shorter. Raises UsageError for another name, and
    where the device has no arithmetic for it.
    """
    torch = import_torch()
    if name not in DTYPES:
        raise UsageError(f"dtype {name!r}: one of {', '.join(DTYPES)}")
    torch.set_float32_matmul_precision("highest")  # TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, which container images set, makes it TF32
    if device.type == "cuda" and name == "bf16" and torch.cuda.get_device_capability(device) < (8, 0):
        gpu = torch.cuda.get_device_name(device)
        raise UsageError(f"dtype bf16: {gpu} has no bf16 arithmetic (compute capability 8.0 and newer have); use --dtype fp16 or fp32")
    dtype = getattr(torch, DTYPES[name])
    try:
        torch.ones(2, 2, dtype=dtype, device=device) @ torch.ones(2, 2, dtype=dtype, device=device)
    except RuntimeError as failed:
        instead = "" if name == "fp32" else "; --dtype fp32 may do"
        raise UsageError(f"dtype {name}: a matrix product in it fails on the {device.type}: {first_line(failed)}{instead}") from failed
    return dtype


def describe(device: "torch.device") -> Device:
    """The device's own words about itself; clocks are those of this moment."""
    torch = import_torch()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.type == "cpu":
        return Device("cpu", cpu_name(), machine_memory(), cores, torch.get_num_threads(), keeps_freed=heap.keeps())
    properties = torch.cuda.get_device_properties(device)
    with Gpu.of(device) as gpu:
        clocks = Clocks(gpu.sm_mhz(), gpu.sm_max_mhz(), gpu.memory_mhz(), gpu.held_by()) if gpu else None
        driver = gpu.driver() if gpu else None
    return Device("cuda", properties.name, properties.total_memory, cores, torch.get_num_threads(), driver, torch.version.cuda, clocks)


def cpu_name() -> str:
    """The processor's model name, or its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            found = re.search(r"^model name\s*:\s*(.+)$", info.read(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def machine_memory() -> int | None:
    """Bytes of main memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def datasheets() -> list[Datasheet]:
    """Every entry of peaks.yaml."""
    return msgspec.yaml.decode(files("modcalc.measure").joinpath("peaks.yaml").read_bytes(), type=list[Datasheet])


def named_peak(name: str, dtype: str) -> tuple[str, Peak]:
    """The device that a user means by its exact name or, where only one has them, by whole words of that ("h200", not "h20"), and its peak.
    Raises UsageError.
    """
    names = [device for sheet in datasheets() if dtype in sheet.tflops for device in sheet.device]
    exact = [n for n in names if n.lower() == name.lower()]
    words = re.compile(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", re.IGNORECASE)
    alike = exact or [n for n in names if words.search(n)]
    if not name or len(alike) != 1:
        known = f"no datasheet of that name gives a peak in {dtype}; those that do: " if not name or not alike else "which of "
        raise UsageError(f"--gpu {name or repr(name)}: {known}{', '.join(alike or names)}; or give --peak-tflops")
    return alike[0], peak(alike[0], dtype)


def datasheet(name: str) -> Datasheet | None:
    """That of the device called exactly `name`."""
    return next((sheet for sheet in datasheets() if name in sheet.device), None)


def peak(name: str, dtype: str, tflops: float | None = None, gb_per_s: float | None = None) -> Peak | None:
    """The peak of the device called exactly `name` in `dtype`; `tflops` (10^12 FLOP/s) and with it `gb_per_s` (10^9 bytes/s) are the user's
    own figures and go first.

    None where neither is known: a guess from a similar name is how peers print an MFU of 563 %.
    """
    sheet = datasheet(name)
    bytes_per_s = sheet.gb_per_s * 1e9 if sheet and sheet.gb_per_s else None
    if tflops is not None and gb_per_s is not None:
        return Peak(tflops * 1e12, gb_per_s * 1e9, "--peak-tflops, --gb-per-s")
    if tflops is not None:
        return Peak(tflops * 1e12, bytes_per_s, "--peak-tflops")
    if sheet is None or dtype not in sheet.tflops:
        return None
    return Peak(sheet.tflops[dtype] * 1e12, bytes_per_s, sheet.source)
