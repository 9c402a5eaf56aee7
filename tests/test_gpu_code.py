"""What only runs on a GPU, without one: see `standin`. What a GPU computes is tested in test_gpu.py, where there is one."""

import json
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace

import msgspec
import pytest

from modcalc.errors import UsageError

torch = pytest.importorskip("torch")
from standin import NAME, FakeNvml, stand_in  # noqa: E402

from modcalc.measure import distributed, hardware, reach, rigs, steptime, usage  # noqa: E402
from modcalc.measure.distributed import World  # noqa: E402
from modcalc.measure.results import read_results  # noqa: E402
from modcalc.measure.steps import GraphStep  # noqa: E402
from modcalc.render.profile import times  # noqa: E402

YAML = "{name: tiny, vocab_size: 50, seq_len: 16, d_model: 16, n_layers: 2, attention: {n_heads: 2}, mlp: {ratio: 4.0}, mod: {capacity: 0.25}}"
QUICK = ["--device", "cuda", "-n", "6", "--warmup", "2", "--format", "json", "--out", "r.jsonl"]
GPU = torch.device("cuda", 0)
WATTS = 300


@pytest.fixture
def gpu(monkeypatch):
    """The stand-in, which burns WATTS and is never kept busy for long."""
    nvml = FakeNvml()
    nvml.nvmlDeviceGetTotalEnergyConsumption = lambda handle: 1000 * WATTS * perf_counter()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    for module, name, value in (
        (usage, "ENERGY_S", 0.02), (steptime, "WARM_S", 0.02),
        (reach, "SECONDS", 0.01), (reach, "MATMUL", {"cuda": 128}), (reach, "COPY_BYTES", {"cuda": 2**20}),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    with stand_in(monkeypatch) as one:
        yield one


@pytest.fixture
def profile(gpu, modcalc, monkeypatch, tmp_path):
    """Run the command in a folder with tiny.yaml; returns its documents."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(YAML)

    def run(*words: str) -> list[dict]:
        code, _, err = modcalc("profile", *words, *QUICK)
        assert not code, err
        return [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]

    return run


@pytest.mark.parametrize("mode", ["forward", "train", "prefill", "decode"])
def test_a_comparison(gpu, profile, mode):
    cached = ["--context", "8"] if mode == "decode" else []
    (d,) = profile("tiny.yaml", "--mode", mode, *cached, "--baseline", "dense", "--peak-tflops", "1", "--no-compile")
    assert (d["device"]["type"], d["device"]["name"], d["dtype"]) == ("cuda", NAME, "bf16")
    assert d["device"]["driver"] == "580.1" and d["device"]["clocks"] == {
        "sm_mhz": 1980,
        "sm_max_mhz": 1990,
        "memory_mhz": 3201,
        "held_by": ["the power limit", "heat"],
    }
    assert d["mfu"] == pytest.approx(d["flops"]["step"] / d["step_time_s"]["median"] / 1e12)
    assert (d["launch_s"] is None) == (mode in ("prefill", "decode")) and d["baseline"]["launch_s"] is not None
    for model in (d, d["baseline"]):
        # Its peak, less what was held before.
        assert model["memory"] == {"allocated": 500_000, "reserved": 700_000, "source": "torch's CUDA allocator"}
        assert model["energy"]["watts"] == pytest.approx(WATTS, rel=0.2)
        assert (model["loss"] is not None) == (mode == "train")
    assert d["baseline"]["time_ratio"] > 0 and d["baseline"]["build_ratios"] == []
    assert gpu.asked["reset_peak_memory_stats"] == 2 and not gpu.asked["capture"]


@pytest.mark.parametrize("mode", ["forward", "train"])
def test_captured_steps(gpu, profile, monkeypatch, mode):
    monkeypatch.setattr(rigs, "build_step", built := Built())
    (d,) = profile("tiny.yaml", "--mode", mode, "--baseline", "dense", "--cuda-graph", "--no-compile")
    assert gpu.asked["capture"] == 2
    energy = 2 * 10  # of at least ten steps
    assert gpu.asked["replay"] >= 2 * (2 + 2 * 6) + energy
    for step in built.steps:
        assert mode == "forward" or step.step.optimizer.defaults["capturable"]
    assert d["settings"]["cuda_graph"]
    found = list(read_results(Path("r.jsonl")).records.values())
    assert times(found).notes[0].endswith("first: its first step, capture included")
    both = [msgspec.structs.replace(r, settings=msgspec.structs.replace(r.settings, compile=True)) for r in found]
    assert (
        times(both).notes[0].endswith("first: its first step, compilation and capture included; a baseline takes over what was compiled for the spec")
    )


def test_a_peak_that_was_given_goes_before_the_datasheet(gpu, profile, monkeypatch):
    """Until another is given."""
    monkeypatch.setattr(hardware, "datasheets", lambda: [hardware.Datasheet([NAME], {"bf16": 100.0}, "https://sheet")])
    words = ("tiny.yaml", "--no-compile")
    for given, source in (((), "https://sheet"), (("--peak-tflops", "50"), "--peak-tflops"), ((), "--peak-tflops")):
        assert profile(*words, *given)[-1]["peak"]["source"] == source
    assert len(Path("r.jsonl").read_text().splitlines()) == 2
    assert profile(*words, "--peak-tflops", "60")[-1]["peak"]["flops_per_s"] == 6e13


def test_a_datasheet_that_a_file_knows_serves_where_there_is_none(gpu, profile, monkeypatch):
    """As of a device that another version of modcalc knew."""
    monkeypatch.setattr(hardware, "datasheets", lambda: [hardware.Datasheet([NAME], {"bf16": 100.0}, "https://sheet")])
    profile("tiny.yaml", "--no-compile")
    monkeypatch.setattr(hardware, "datasheets", lambda: [])
    assert profile("tiny.yaml", "--no-compile", "--batch", "2")[-1]["peak"]["source"] == "https://sheet"


def test_a_counter_that_stands_still_counts_no_energy(gpu, profile):
    sys.modules["pynvml"].nvmlDeviceGetTotalEnergyConsumption = lambda handle: 1000
    (d,) = profile("tiny.yaml", "--no-compile", "--baseline", "dense")
    assert d["energy"] is None is d["baseline"]["energy"]


class Built:
    """build_step, and the steps that it made."""

    def __init__(self) -> None:
        self.own, self.steps = rigs.build_step, []

    def __call__(self, *args, **how):
        self.steps.append(self.own(*args, **how))
        return self.steps[-1]


def test_a_graph_is_captured_when_it_first_runs(gpu):
    """Its first step is therefore the one that compiles, and is reported so. Each run has inputs of its own."""
    log = []

    class Step:
        loss = None

        def prepare(self):
            log.append("new")

        def run(self):
            log.append("aside" if gpu.side else "run")

    step = GraphStep(Step(), GPU)
    assert log == []
    step.prepare()
    step.run()
    assert log == ["new", *["aside", "new"] * 3, "run"]
    assert (gpu.asked["wait_stream"], gpu.asked["capture"], gpu.asked["replay"]) == (2, 1, 1)
    step.prepare()
    step.run()
    assert (len(log), gpu.asked["capture"], gpu.asked["replay"]) == (9, 1, 2)


def test_where_the_time_goes(gpu, profile, tmp_path):
    """No kernel runs on the stand-in, so all of a step is idle time."""
    (d,) = profile("tiny.yaml", "--mode", "train", "--by", "component", "--trace", "t.json", "--no-compile")
    (found,) = d["attribution"]
    times = {line["label"]: line["time_s"] for line in found["lines"]}
    assert times["idle"] == pytest.approx(found["unprofiled_s"]) and not sum(times.values()) - times["idle"]
    assert gpu.profiled == {"CPU", "CUDA"}
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]


def test_more_than_fits_is_a_row_and_its_memory_is_given_back(gpu, profile, monkeypatch):
    own = rigs.build

    def build(plan, **how):
        if gpu.asked["reset_peak_memory_stats"] == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return own(plan, **how)

    monkeypatch.setattr(rigs, "build", build)
    found = profile("tiny.yaml", "--sweep", "batch=1,2,4", "--no-compile")
    assert [d["status"] for d in found] == ["ok", "out_of_memory", "ok"]
    assert gpu.asked["empty_cache"] == 2 * 3  # before and behind each point


def test_what_the_gpu_reaches(gpu):
    found = reach.reached(GPU, "bf16")
    assert found.flops_per_s > 0 and found.bytes_per_s > 0
    assert found.source == "measured: 128 x 128 x 128 bf16 product, copy of 1,048,576 bytes"


@pytest.fixture
def group(monkeypatch):
    """torch.distributed, with nobody to talk to; what it was asked for."""
    asked = {}
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend: asked.update(backend=backend))
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 5)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 8)
    monkeypatch.setattr("torch.distributed.device_mesh.init_device_mesh", lambda kind, shape: asked.update(mesh=(kind, shape)) or "mesh")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.update(device=device))
    return asked


def test_each_process_takes_the_gpu_of_its_own(gpu, group, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "1")
    world = World.join(GPU)
    assert (world.rank, world.size, world.device, world.mesh) == (5, 8, torch.device("cuda", 1), "mesh")
    assert group == {"backend": "nccl", "mesh": ("cuda", (8,)), "device": torch.device("cuda", 1)}


def test_more_processes_than_gpus(gpu, group, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UsageError, match="process 1 of this machine has no GPU of its own: it has 1; give torchrun --nproc-per-node 1"):
        World.join(GPU)
    assert group == {}


def test_communication_that_hides_behind_work_is_not_exposed(monkeypatch):
    """Kernels of three steps on the GPU: ten microseconds of collectives each, four of them while a product runs."""

    def event(name, start, end, kind="CUDA", annotation=False):
        kind = getattr(torch.autograd.DeviceType, kind)
        return SimpleNamespace(name=name, time_range=SimpleNamespace(start=start, end=end), device_type=kind, is_user_annotation=annotation)

    events = []
    for t in (0, 100, 200):
        events += [
            event("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", t + 10, t + 20),
            event("sm90_xmma_gemm_bf16", t, t + 14),
            event("nccl:all_reduce", t + 10, t + 90, annotation=True),
            event("c10d::allreduce_ nccl", t, t + 80, kind="CPU"),
        ]
    monkeypatch.setattr(distributed, "profiled", lambda device, step: nullcontext(SimpleNamespace(events=lambda: events)))
    monkeypatch.setattr(distributed, "alternate", lambda steps, device, rounds: [[1e-4] * rounds])
    found = World(0, 2, GPU, None)._communication(SimpleNamespace())
    assert found == tuple(map(partial(pytest.approx, rel=1e-9), (10e-6, 6e-6, 1e-4)))


def test_no_energy_without_nvml(monkeypatch):
    monkeypatch.setattr(usage.Gpu, "of", lambda device: nullcontext(None))
    assert usage.energy(None, torch.device("cuda", 0), 1.0, 1) is None
