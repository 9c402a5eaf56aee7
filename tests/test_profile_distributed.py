"""Many processes: two on this machine, with gloo, as torchrun starts them."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from modcalc.cost.account import account
from modcalc.spec.load import loads
from modcalc.spec.resolve import resolve

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("this torch is built without torch.distributed", allow_module_level=True)
from modcalc.models import objective  # noqa: E402

from modcalc import build  # noqa: E402
from modcalc.measure import compiling, distributed  # noqa: E402
from modcalc.measure.distributed import avoidable, length, overlap, union  # noqa: E402
from modcalc.measure.ranges import STEP  # noqa: E402

YAML = "{name: tiny, vocab_size: 50, seq_len: 16, d_model: 16, n_layers: 2, attention: {n_heads: 2}, mlp: {ratio: 4.0}, mod: {capacity: 0.25}}"


def torchrun(folder, *words: str, program: Sequence[str] = ("-m", "modcalc.cli.app", "profile"), yaml: str = YAML) -> subprocess.CompletedProcess:
    (folder / "tiny.yaml").write_text(yaml)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *program,
        "tiny.yaml",
    ]
    return subprocess.run([*command, "--device", "cpu", *words], cwd=folder, capture_output=True, text=True, timeout=120)


FORK = """
import gc, os, signal, sys
import torch._dynamo, torch.distributed.fsdp, torch.profiler
from modcalc.cli import app
from modcalc.measure import distributed, sweep

gc.freeze()
ranks = []
for rank in "01":
    ranks.append(os.fork())
    if not ranks[-1]:
        os.environ.update(RANK=rank, LOCAL_RANK=rank)
        app.main()
while ranks:
    pid, status = os.waitpid(-1, 0)
    ranks.remove(pid)
    if status:  # the others would wait for it
        for other in ranks:
            os.kill(other, signal.SIGKILL)
        sys.exit(1)
"""


def forked(folder, *words: str, before: str = "", yaml: str = YAML) -> subprocess.CompletedProcess:
    """As `torchrun`, without a launcher, and torch is loaded once for both. before: what they do first."""
    (folder / "tiny.yaml").write_text(yaml)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    told = dict(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port, TORCHELASTIC_RUN_ID="none", OMP_NUM_THREADS="1")
    command = [sys.executable, "-c", before + FORK, "profile", "tiny.yaml", "--device", "cpu", *words]
    return subprocess.run(command, cwd=folder, env={**os.environ, **told}, capture_output=True, text=True, timeout=120)


FSDP_ON_CPU = hasattr(torch.cpu.Stream, "record_event")  # from torch 2.7 on


@pytest.mark.skipif(FSDP_ON_CPU, reason="this torch has FSDP2 on the CPU")
def test_a_torch_without_fsdp_on_the_cpu(tmp_path):
    done = torchrun(tmp_path, "--mode", "train", "--parallel", "fsdp")
    assert done.returncode != 0 and not done.stdout
    assert "--parallel fsdp on the CPU: it needs torch 2.7, found 2.6" in done.stderr and "modcalc/measure" not in done.stderr


@pytest.mark.parametrize(
    ("start", "parallel", "mode"),
    [
        (forked, "ddp", "forward"),
        (torchrun, "ddp", "train"),
        pytest.param(forked, "fsdp", "train", marks=pytest.mark.skipif(not FSDP_ON_CPU, reason="needs torch 2.7")),
    ],
)
def test_two_processes(tmp_path, start, parallel, mode):
    warm = ["--warmup", "2"] if parallel == "fsdp" else []  # by default they agree on when they are warm
    done = start(tmp_path, "--mode", mode, "--parallel", parallel, "--baseline", "dense", "-n", "6", *warm, "-f", "json", "--out", "r.jsonl")
    assert done.returncode == 0, done.stderr
    d = json.loads(done.stdout)  # one document: the second process prints nothing
    ranks = d["ranks"]
    assert (ranks["world_size"], ranks["backend"], ranks["parallel"]) == (2, "gloo", parallel)
    assert len(ranks["step_time_s"]) == 2 and 0 <= ranks["skew"] < 2
    # No step is faster than the slowest rank's.
    assert d["step_time_s"]["median"] >= max(ranks["step_time_s"]) * (1 - 1e-9)
    # Copies of a model have gradients to share, and nothing before.
    silent = (parallel, mode) == ("ddp", "forward")
    assert (ranks["communication_share"] == ranks["communication_s"] == 0) if silent else (0 < ranks["communication_share"] <= 1)
    assert ranks["communication_s"] >= 0 and ranks["exposed_s"] is None
    t = d["step_time_s"]["median"]
    assert d["tokens_per_s"] == pytest.approx(2 * 16 / t)
    flops = account(loads(YAML), phase=mode).flops
    assert d["flops_per_s"] == pytest.approx(2 * (flops.train_step if mode == "train" else flops.forward) / t)
    assert d["baseline"]["time_ratio"] > 0 and d["settings"]["parallel"] == parallel
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "mod, may",
    [
        ("capacity: 1.0, bypass: {d_ff: 8}", True),
        ("capacity: 0.5, bypass: {d_ff: 8}", False),
        ("capacity: [0.5, 1.0], every: 1, bypass: {d_ff: 8}", True),
        ("capacity: 0.5, selection: threshold, bypass: {d_ff: 8}", True),
        ("capacity: 1.0", False),
        ("recursions: 2, capacity: [1.0, 0.5], bypass: {d_ff: 8}", True),
        ("recursions: 2, capacity: [0.5, 0.5], bypass: {d_ff: 8}", True),
        ("recursions: 2, capacity: [0.75, 0.5], bypass: {d_ff: 8}", False),
    ],
)
def test_a_way_around_may_be_taken_by_no_token(mod, may):
    assert avoidable(resolve(loads(YAML.replace("capacity: 0.25", mod)))) == may


def test_a_way_around_that_no_token_takes(tmp_path):
    """DDP waits for the gradient of every parameter, and its weights get none."""
    yaml = YAML.replace("capacity: 0.25", "capacity: 1.0, bypass: {d_ff: 8}")
    done = forked(tmp_path, "--mode", "train", "--parallel", "ddp", "-n", "4", "--warmup", "2", yaml=yaml)
    assert done.returncode == 0, done.stderr


APART = """
import os, shutil
from modcalc.cli import app
from modcalc.measure import hardware, reach

own = app.main

def apart():
    os.makedirs(os.environ["RANK"], exist_ok=True)
    shutil.copy("tiny.yaml", os.environ["RANK"])
    os.chdir(os.environ["RANK"])
    own()

app.main, reach.reached = apart, lambda device, dtype: hardware.Peak(1e12, 1e11, "found by a test")
"""


def test_processes_that_share_no_disk(tmp_path):
    """Only the first one writes, so what it finds in its file counts for all when they go on."""
    words = ["--mode", "forward", "-n", "3", "--warmup", "1", "--peaks", "--out", "r.jsonl", "--sweep"]
    for sweep in ("batch=1", "batch=1,2"):
        done = forked(tmp_path, *words, sweep, before=APART)
        assert done.returncode == 0, done.stderr
    assert len((tmp_path / "0" / "r.jsonl").read_text().splitlines()) == 2 and not (tmp_path / "1" / "r.jsonl").exists()


@pytest.fixture
def alone():
    """A world of this process."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield distributed.World(0, 1, torch.device("cpu"), torch.distributed.device_mesh.init_device_mesh("cpu", (1,)))
    torch.distributed.destroy_process_group()


def test_ddp_leaves_each_block_one_graph(alone, monkeypatch):
    """Of weights that fill several of its buckets, at whose ends torch would cut."""
    graphs = []

    def counted(graph, inputs):
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    monkeypatch.setattr(compiling, "compiled", lambda f: torch.compile(f, fullgraph=True, dynamic=False, backend=counted))
    plan = resolve(loads(YAML.replace("d_model: 16", "d_model: 384")))
    tokens = torch.zeros(1, 16, dtype=torch.int64)
    found = []
    for wrap in (lambda model: model, alone._ddp):
        torch._dynamo.reset()
        graphs.clear()
        model = build(plan)
        compiling.compile_blocks(model)
        with compiling.room_for_graphs():
            objective(plan, wrap(model)(tokens), tokens)[0].backward()
        found.append(list(graphs))
    assert found[0] == found[1] and len(found[0]) == 2  # a plain block and a routed one


FULL = """
import os
import torch
from modcalc.cli import app
from modcalc.measure import rigs

own = rigs.build
built = []

def build(plan, **how):
    built.append(plan)
    if os.environ["RANK"] in os.environ["FULL"] and len(built) == 2:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
    return own(plan, **how)

rigs.build = build
app.main()
"""


@pytest.mark.parametrize("ranks, points", [("1", ["ok"]), ("0 1", ["ok", "out_of_memory", "ok"])])
def test_memory_runs_out(tmp_path, monkeypatch, ranks, points):
    """In one process it ends all of them, who wait in collectives that will not come; where the first knows, the sweep goes on behind it."""
    monkeypatch.setenv("FULL", ranks)
    (tmp_path / "full.py").write_text(FULL)
    words = ["--mode", "train", "--sweep", "batch=1,2,3", "-n", "6", "--warmup", "1", "--out", "r.jsonl"]
    done = torchrun(tmp_path, *words, program=["full.py", "profile"])
    assert done.returncode and "rank 1: CUDA out of memory. Tried to allocate 1 GiB; try a smaller --batch" in done.stderr
    assert "internal error" not in done.stderr
    if len(points) > 1:
        assert "it is in --out, so the same command goes on behind it" in done.stderr
        again = forked(tmp_path, *words)
        assert again.returncode == 0 and "out of memory" in again.stdout, again.stderr
    records = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [r["status"] for r in records] == points and all(r["world_size"] == 2 for r in records if r["status"] != "ok")


SHARDED = """
import torch
from modcalc.measure import distributed, rigs
from torch.distributed.tensor import DTensor

own, fsdp = rigs.build, distributed.World._fsdp

def build(plan, **how):
    assert how["device"] == "meta", how
    return own(plan, **how)

def sharded(world, model):
    model = fsdp(world, model)
    weights = list(model.parameters())
    assert all(isinstance(p, DTensor) for p in weights)
    # One row of a router goes to the first process.
    assert abs(sum(p.to_local().numel() for p in weights) / sum(p.numel() for p in weights) - 0.5) < 0.05
    assert (model.final_norm.weight.to_local() == 1).all()
    assert abs(model.head.weight.to_local().std().item() - 1 / 4) < 0.05
    one, two = model.blocks[0].attn.q_proj.weight.full_tensor().chunk(2)
    assert not torch.equal(one, two)
    assert model.head.weight is model.embedding.tokens.weight
    assert [int(b.count_nonzero()) for b in model.buffers()] == [0, 0]
    return model

rigs.build, distributed.World._fsdp = build, sharded
"""


@pytest.mark.skipif(not FSDP_ON_CPU, reason="needs torch 2.7")
def test_sharded_weights_are_drawn_where_they_stay(tmp_path):
    yaml = YAML.replace("mod:", "head: {tied: true}, moe: {n_experts: 4, top_k: 2, capacity: 1.0, score: sigmoid, balance_bias: true}, mod:")
    words = ["--mode", "train", "--parallel", "fsdp", "-n", "6", "--warmup", "1", "-f", "json"]
    done = forked(tmp_path, *words, before=SHARDED, yaml=yaml)
    assert done.returncode == 0, done.stderr
    assert 3 < json.loads(done.stdout)["loss"] < 8


def test_communication_that_nothing_hides(monkeypatch):
    """On GPUs, of kernels alone: seconds of a step in which one of nccl's ran, and in which no other did."""

    def event(name: str, start: float, end: float, **over: object) -> SimpleNamespace:
        kinds = dict(device_type=torch.autograd.DeviceType.CUDA, is_user_annotation=False)
        return SimpleNamespace(name=name, time_range=SimpleNamespace(start=start, end=end), **{**kinds, **over})

    events = [
        event("ncclDevKernel_AllReduce", 0.0, 6e6),
        event("ncclDevKernel_AllGather", 3e6, 9e6),
        event("gemm", 2e6, 5e6),
        event("nccl:all_reduce", 0.0, 50e6, is_user_annotation=True),
        event("ncclAllReduce", 20e6, 50e6, device_type=torch.autograd.DeviceType.CPU),
    ]
    monkeypatch.setattr(distributed, "profiled", lambda *_: nullcontext(SimpleNamespace(events=lambda: events)))
    monkeypatch.setattr(distributed, "alternate", lambda steps, device, rounds: [[5.0] * rounds])
    assert distributed.World(0, 2, torch.device("cuda", 0), None)._communication(None) == (3.0, 2.0, 5.0)
    events = [event("step", 0.0, 12e6), event(STEP, 0.0, 12e6), event("gloo:all_reduce", 3e6, 15e6), event("gemm", 0.0, 9e6)]
    assert distributed.World(0, 2, torch.device("cpu"), None)._communication(None) == (3.0, None, 5.0)


def test_ranks_are_as_far_apart_as_shares_of_the_middle_one(monkeypatch):
    ranks = [[[1.0, 5.0, 1.0]], [[2.0, 2.0, 2.0]], [[4.0, 4.0, 4.0]]]
    monkeypatch.setattr(distributed.World, "_gather", lambda world, samples: ranks)
    monkeypatch.setattr(distributed.World, "_communication", lambda world, step: (1.0, None, 4.0))
    monkeypatch.setattr(distributed.dist, "get_backend", lambda: "gloo")
    found, slowest = distributed.World(0, 3, torch.device("cpu"), None).compare(ranks[0], None, SimpleNamespace(parallel="ddp"))
    assert (found.skew, found.communication_share, slowest) == (1.5, 0.25, [[4.0, 5.0, 4.0]])


def test_covered_time():
    spans = [(5.0, 7.0), (0.0, 2.0), (1.0, 3.0), (7.0, 8.0), (5.5, 6.0)]
    assert union(spans) == [(0.0, 3.0), (5.0, 8.0)]
    assert length(spans) == 6.0 and length([]) == 0.0
    assert overlap(spans, [(2.0, 6.0)]) == 2.0
    assert overlap(spans, []) == 0.0


def test_all_take_as_many_steps_as_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed.World, "_gather", lambda self, value: [value, 3, 0])
    world = distributed.World(0, 3, torch.device("cpu"), None)
    assert (world.most(2), world.most(5), world.any(False)) == (3, 5, True)
