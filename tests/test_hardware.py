"""Devices, dtypes, peaks and NVML, with GPUs played where there are none."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from standin import FakeNvml

from modcalc.errors import MissingDependency, UsageError
from modcalc.measure import hardware
from modcalc.measure.hardware import named_peak
from modcalc.measure.nvml import Gpu
from modcalc.measure.records import Energy

torch = pytest.importorskip("torch")
from modcalc.measure import usage  # noqa: E402

# Dense bf16 TFLOP/s by datasheet, and fp32 and memory of the parts that the benchmarks use.
BF16 = {
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA H100 NVL": 835,
    "NVIDIA H200": 989,
    "NVIDIA L4": 121,
    "NVIDIA L40S": 362,
    "NVIDIA GeForce RTX 4090": 165,
    "NVIDIA RTX A6000": 155,
    "NVIDIA B200": 2250,
}


@pytest.mark.parametrize("name", BF16)
def test_peaks_are_the_dense_datasheet_figures(name):
    found = hardware.peak(name, "bf16")
    assert found.flops_per_s == BF16[name] * 1e12
    assert found.source.startswith("https://")


def test_a_part_of_a_name_is_whole_words():
    for part, name in (("h200", "NVIDIA H200"), ("L4", "NVIDIA L4"), ("a10", "NVIDIA A10"), ("h100 pcie", "NVIDIA H100 PCIe")):
        assert named_peak(part, "bf16")[0] == name
    for other in ("H20", "NVIDIA H20", "L40", "A4", "B20", "h100"):
        with pytest.raises(UsageError, match=f"--gpu {other}: (no datasheet of that name|which of)"):
            named_peak(other, "bf16")


def test_peaks_of_memory_and_fp32():
    h200 = hardware.peak("NVIDIA H200", "fp32")
    assert (h200.flops_per_s, h200.bytes_per_s) == (67e12, 4.8e12)


@pytest.mark.parametrize("name", ["NVIDIA H100", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "nvidia h200", "NVIDIA H200 NVL", "A100", ""])
def test_a_name_that_is_only_similar_has_no_peak(name):
    assert hardware.peak(name, "bf16") is None


def test_a_dtype_that_the_datasheet_does_not_claim_has_no_peak():
    assert hardware.peak("Tesla V100-SXM2-16GB", "bf16") is None
    assert hardware.peak("Tesla V100-SXM2-16GB", "fp16").flops_per_s == 125e12


def test_a_processor_is_called_by_its_model(tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(hardware, "open", lambda path, **how: info.open(**how), raising=False)
    monkeypatch.setattr("platform.processor", lambda: "x86_64")
    info.write_text("processor\t: 0\nmodel name\t: A Processor @ 2.10GHz \nmodel name\t: Another\n")
    assert hardware.cpu_name() == "A Processor @ 2.10GHz"
    info.write_text("processor\t: 0\n")
    assert hardware.cpu_name() == "x86_64"
    info.unlink()
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert hardware.cpu_name() == "arm64"


def test_the_users_own_peak_goes_first():
    known, unknown = hardware.peak("NVIDIA H200", "bf16", 700.0), hardware.peak("a new GPU", "bf16", 700.0)
    assert known.flops_per_s == unknown.flops_per_s == 700e12
    assert (known.bytes_per_s, unknown.bytes_per_s) == (4.8e12, None)
    assert known.source == "--peak-tflops"


def test_no_device_stands_in_two_entries():
    names = [name for sheet in hardware.datasheets() for name in sheet.device]
    assert len(names) == len(set(names))
    assert all(set(sheet.tflops) <= set(hardware.DTYPES) for sheet in hardware.datasheets())


def test_memory_is_what_drivers_find():
    """An H200 that was measured on, less what its driver keeps."""
    held = hardware.datasheet("NVIDIA H200").memory_gb * 2**30
    assert 0.98 * held < 150_109_880_320 < held
    assert hardware.datasheet("NVIDIA H20") is None


def test_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingDependency, match=r"--device cuda: .*torch .*--device cpu measures"):
        hardware.pick("cuda")
    assert hardware.pick("auto") == hardware.pick("cpu") == torch.device("cpu")


@pytest.mark.parametrize("built, why", [(None, "this torch is built without CUDA"), ("13.0", "torch finds no CUDA GPU here")])
def test_why_there_is_no_gpu(monkeypatch, built, why):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    with pytest.raises(MissingDependency, match=f"--device cuda: {why}"):
        hardware.pick("cuda")


def test_device_of_no_name():
    with pytest.raises(UsageError, match="one of auto, cuda, cpu"):
        hardware.pick("tpu")


def test_bf16_needs_a_gpu_that_has_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(UsageError, match="Tesla T4 has no bf16 arithmetic .* use --dtype fp16 or fp32"):
        hardware.pick_dtype("bf16", torch.device("cuda", 0))


def test_a_dtype_without_products(monkeypatch):
    def lacking(*_args, **_kw):
        raise RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'")

    assert hardware.pick_dtype("fp32", torch.device("cpu")) is torch.float32
    monkeypatch.setattr(torch, "ones", lacking)
    with pytest.raises(UsageError, match="dtype fp16: a matrix product in it fails on the cpu: .* not implemented for 'Half'; --dtype fp32 may do"):
        hardware.pick_dtype("fp16", torch.device("cpu"))


def test_a_full_gpu_lacks_no_dtype(monkeypatch):
    def full(*_args, **_kw):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "ones", full)
    with pytest.raises(UsageError, match="on the cpu: CUDA out of memory.$"):
        hardware.pick_dtype("fp32", torch.device("cpu"))


def test_the_processor_describes_itself():
    found = hardware.describe(torch.device("cpu"))
    assert found.type == "cpu" and found.name and found.cores >= 1
    assert found.threads == torch.get_num_threads()
    assert (found.driver, found.cuda, found.clocks) == (None, None, None)


def test_without_torch():
    """The command says what to install, in one line."""
    code = "import sys; sys.modules['torch'] = None; sys.argv = ['modcalc', 'profile', 'mod-small']; from modcalc.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: torch is not installed, which building and measuring models need: pip install 'modcalc[torch]'\n"


@pytest.fixture
def one_gpu(monkeypatch):
    properties = SimpleNamespace(name="NVIDIA H200", total_memory=141 * 10**9, uuid="0123")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return properties


@pytest.mark.parametrize("old", [False, True])
def test_nvml_answers_or_does_not(monkeypatch, one_gpu, old):
    nvml = FakeNvml(old)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with Gpu.of(torch.device("cuda", 0)) as gpu:
        assert (gpu.driver(), gpu.sm_mhz(), gpu.sm_max_mhz(), gpu.memory_mhz()) == ("580.1", 1980, 1990, 3201)
        assert gpu.energy_j() == (None if old else 123.456)
        held = gpu.held_by()
        assert held == (("heat",) if old else ("the power limit", "heat"))
        assert nvml.open == 1
    assert nvml.open == 0
    found = hardware.describe(torch.device("cuda", 0))
    assert (found.name, found.driver, found.clocks) == ("NVIDIA H200", "580.1", hardware.Clocks(1980, 1990, 3201, held))


def test_a_gpu_that_nvml_does_not_know(monkeypatch, one_gpu):
    one_gpu.uuid = "of a slice"
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    with Gpu.of(torch.device("cuda", 0)) as gpu:
        assert gpu is None


class Burning:
    """A step of 3 J, of which `nvml` learns; it has counted 12 J before."""

    def __init__(self, nvml: FakeNvml) -> None:
        self.nvml, self.prepared, self.joules = nvml, 0, 12.0
        nvml.nvmlDeviceGetTotalEnergyConsumption = self.counted

    def counted(self, handle):
        if self.joules > 90:
            raise self.nvml.NVMLError
        return 1000 * self.joules

    def prepare(self):
        self.prepared += 1

    def run(self):
        self.joules += 3


@pytest.mark.parametrize("step_s, steps", [(0.1, 20), (0.15, 14), (5.0, 2)])
def test_energy_of_a_step(monkeypatch, one_gpu, step_s, steps):
    """A run of two seconds, or of two steps."""
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    monkeypatch.setattr(usage, "synchronize", lambda device: None)
    monkeypatch.setattr(usage, "perf_counter", iter([100.0, 102.5]).__next__)
    step = Burning(sys.modules["pynvml"])
    assert usage.energy(step, torch.device("cuda", 0), step_s, tokens=4) == Energy(3.0, 0.75, 3 * steps / 2.5)
    assert step.prepared == steps
    assert usage.energy(step, torch.device("cpu"), step_s, tokens=4) is None


def test_a_counter_that_falls_silent(monkeypatch, one_gpu):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    monkeypatch.setattr(usage, "synchronize", lambda device: None)
    assert usage.energy(Burning(sys.modules["pynvml"]), torch.device("cuda", 0), 0.01, tokens=4) is None


def test_without_nvml(monkeypatch, one_gpu):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = hardware.describe(torch.device("cuda", 0))
    assert (found.name, found.driver, found.clocks) == ("NVIDIA H200", None, None)


def test_what_shrinks_has_grown_by_nothing(monkeypatch):
    peak = usage.PeakMemory(torch.device("cpu"))
    peak.held = 9
    monkeypatch.setattr(usage, "proc_bytes", lambda file, key: 8)
    assert peak.read().allocated == 0
