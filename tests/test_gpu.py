"""What a GPU computes is what the CPU computes, and what only a GPU has is measured as it should be.

The first half runs on every device that is here; the second half needs a GPU and says so. benchmarks/gpu.sh runs this file.
"""

import json
import sys

import msgspec
import pytest

from modcalc.cost.account import account
from modcalc.measure.records import Settings
from modcalc.spec.load import load
from modcalc.spec.schema import Attention, Mlp, Mod, Moe, Norm, Positions, Spec

torch = pytest.importorskip("torch")
from modcalc.models import training_loss  # noqa: E402
from modcalc.models.grouped import grouped_mm, grouped_outer  # noqa: E402

from modcalc.cli import app  # noqa: E402
from modcalc.measure.attribution import attribute  # noqa: E402
from modcalc.measure.build import build  # noqa: E402
from modcalc.measure.compiling import room_for_graphs  # noqa: E402
from modcalc.measure.hardware import describe  # noqa: E402
from modcalc.measure.point import Job, measure  # noqa: E402
from modcalc.measure.steps import build_step  # noqa: E402

torch.set_float32_matmul_precision("highest")  # the environment of an image may allow TF32
CPU = torch.device("cpu")
gpu_only = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
each_device = pytest.mark.parametrize("name", ["cpu", pytest.param("cuda", marks=gpu_only)])

PLAIN = dict(vocab_size=64, seq_len=32, d_model=64, n_layers=4, attention=Attention(n_heads=4), mlp=Mlp(ratio=4.0))
SPECS = {
    "dense": {},
    "mod": dict(mod=Mod(capacity=0.25)),
    "keys of all": dict(mod=Mod(capacity=0.25, keys="all"), attention=Attention(n_heads=4, n_kv_heads=2, window=[None, 20])),
    "threshold": dict(mod=Mod(capacity=0.5, selection="threshold", predictor_width=8), attention=Attention(n_heads=4, gate="elementwise")),
    "recursions": dict(mod=Mod(capacity=[1.0, 0.5], recursions=2)),
    "alibi": dict(positions=Positions(kind="alibi"), attention=Attention(n_heads=4, gate="headwise")),
    "experts": dict(moe=Moe(n_experts=4, top_k=2, d_ff=64)),
    "own norms": dict(moe=Moe(n_experts=4, top_k=2, d_ff=64, n_shared=1, own_norms=True), norm=Norm(placement="sandwich")),
    "buffered experts": dict(moe=Moe(n_experts=4, top_k=2, d_ff=64, capacity=1.0)),
    "expert choice": dict(moe=Moe(n_experts=4, choice="expert", capacity=0.5, d_ff=64)),
}
each_spec = pytest.mark.parametrize("kind", SPECS)


def spec(kind: str) -> Spec:
    return Spec(name=kind.replace(" ", "-"), **(PLAIN | SPECS[kind]))


@each_device
@pytest.mark.parametrize("dtype, off", [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_grouped_products(name, dtype, off):
    """Against fp64 loops; an expert without rows, and rows of none."""
    ends, E, N, K = [300, 300, 611, 1000], 4, 96, 160
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((1024, K), (E, N, K), (1024, N))]
    x, weight, grad = (t.to(name, getattr(torch, dtype)) for t in rows)
    exact = [t.double().cpu() for t in (x, weight, grad)]
    offsets = torch.tensor(ends, device=name)
    y, outer = grouped_mm(x, weight, offsets), grouped_outer(grad, x, offsets)
    start = 0
    for e, end in enumerate(ends):
        own = slice(start, end)
        assert _off(y[own], exact[0][own] @ exact[1][e].t()) <= off
        assert _off(outer[e], exact[2][own].t() @ exact[0][own]) <= off
        start = end
    assert not y[start:].any() and not outer[1].any()


def _off(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative distance; 0 for nothing against nothing."""
    return ((found.double().cpu() - exact).norm() / exact.norm().clamp_min(1e-30)).item()


@each_device
@each_spec
def test_logits_loss_and_gradients_are_those_of_the_cpu_in_double(name, kind):
    tokens = torch.randint(0, 64, (3, 33), generator=torch.Generator().manual_seed(1))
    found = {}
    weights = build(spec(kind), seed=3).state_dict()  # a GPU draws others from the same seed
    for device, dtype in ((name, "fp32"), ("cpu", None)):
        model = build(spec(kind), device=device, dtype=dtype or "fp64")
        model.load_state_dict(weights)
        loss, _ = training_loss(model, tokens[:, :-1].to(device), tokens[:, 1:].to(device))
        loss.backward()
        found[dtype] = loss.item(), {path: p.grad.double().cpu() for path, p in model.named_parameters() if p.grad is not None}
    assert found["fp32"][0] == pytest.approx(found[None][0], rel=1e-5)
    assert found["fp32"][1].keys() == found[None][1].keys()
    for path, grad in found[None][1].items():
        assert (found["fp32"][1][path] - grad).norm() <= 1e-3 * grad.norm() + 1e-7, path


def settings(**over) -> Settings:
    fields = dict(mode="train", batch=4, seq_len=32, context=0, dtype="fp32", compile=False, cuda_graph=False, iterations=7, warmup=3)
    return Settings(**{**fields, **over})


def losses(kind: str, n: int, **over) -> list[float]:
    """Of n train steps from the same weights on the same tokens."""
    device = torch.device("cuda")
    step = build_step(build(spec(kind), device=device, dtype="fp32", seed=3), settings(**over), device, seed=5)
    found = []
    for _ in range(n):
        step.prepare()
        step.run()
        found.append(step.loss.item())
    return found


@gpu_only
@each_spec
def test_a_compiled_step_is_the_eager_one(kind):
    with room_for_graphs():
        assert losses(kind, 3, compile=True) == pytest.approx(losses(kind, 3), rel=1e-4)


@gpu_only
@pytest.mark.parametrize("kind", ["dense", "mod", "keys of all", "alibi", "buffered experts"])
def test_a_captured_step_is_the_eager_one(kind):
    """The graph is replayed on other tokens each time, and its optimizer moves the weights. Three steps come before the capture."""
    assert losses(kind, 5, cuda_graph=True) == pytest.approx(losses(kind, 8)[3:], rel=1e-4)


@gpu_only
@pytest.mark.parametrize("mode", ["forward", "train"])
def test_attribution_on_a_gpu(mode):
    """Work that keeps the GPU busy: kernels that are counted twice do not fit into the step."""
    device, large = torch.device("cuda"), load("mod-220m")
    model, asked = build(large, device=device, dtype="bf16"), settings(mode=mode, dtype="bf16", batch=8, seq_len=2048)
    found = attribute(build_step(model, asked, device), model, account(large, batch=8, phase=mode), device)
    lines = {line.label: line.time_s for line in found.lines}
    whole = found.unprofiled_s
    assert sum(lines.values()) == pytest.approx(whole)
    assert all(lines[label] > 0 for label in ("attention", "mlp", "router", "head")) and -0.02 * whole <= lines["idle"] < 0.5 * whole
    assert lines["other"] < 0.02 * whole
    assert {line.label for line in found.routing} == {"router", "select", "gather", "scatter"}


@gpu_only
@pytest.mark.parametrize("mode, context", [("forward", 0), ("train", 0), ("prefill", 0), ("decode", 64)])
def test_a_point_on_a_gpu(mode, context):
    one = settings(mode=mode, dtype="bf16", seq_len=1 if mode == "decode" else 32, context=context)
    done = measure(Job(spec=spec("mod"), baseline=msgspec.structs.replace(spec("mod"), mod=None), settings=one, device=torch.device("cuda", 0)))
    weights = 2 * done.params
    assert done.memory.reserved >= done.memory.allocated >= (4 if mode == "train" else 1) * weights
    assert (done.launch_s is None) == (mode in ("prefill", "decode")) and done.baseline.launch_s is not None
    assert done.device.cuda == torch.version.cuda
    assert done.energy is None or done.energy.watts > 0
    assert done.baseline.time_ratio_interval[0] <= done.baseline.time_ratio <= done.baseline.time_ratio_interval[1]


@gpu_only
def test_more_than_fits_is_a_row(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        sys, "argv", f"modcalc profile mod-small --device cuda --sweep batch=1,1000000 -n 2 --no-compile -f json -o {tmp_path}/r".split()
    )
    with pytest.raises(SystemExit) as done:
        app.main()
    assert not done.value.code
    kinds = [json.loads(line)["status"] for line in (tmp_path / "r").read_text().splitlines()]
    assert kinds == ["ok", "out_of_memory"] and describe(torch.device("cuda", 0)).name in capsys.readouterr().out
