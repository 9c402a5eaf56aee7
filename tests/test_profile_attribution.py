"""Where the time goes: sums, joins with the ledger, and time that is known to be somewhere."""

import gzip
import json
from contextlib import nullcontext
from itertools import count
from time import sleep
from types import SimpleNamespace

import msgspec
import pytest

from modcalc.cost.account import account
from modcalc.cost.roofline import step_bytes
from modcalc.measure.records import Settings
from modcalc.spec.schema import Attention, Mlp, Mod, Moe, Norm, Spec

torch = pytest.importorskip("torch")
from modcalc.measure import attribution  # noqa: E402
from modcalc.measure.attribution import attribute, summed  # noqa: E402
from modcalc.measure.build import build  # noqa: E402
from modcalc.measure.ranges import MODULE, STEP, Owners, Ranged, ranges  # noqa: E402
from modcalc.measure.steps import build_step  # noqa: E402

CPU = torch.device("cpu")
SPEC = Spec(
    name="tiny",
    vocab_size=50,
    seq_len=32,
    d_model=16,
    n_layers=2,
    attention=Attention(n_heads=2),
    mlp=Mlp(ratio=4.0),
    mod=Mod(capacity=0.5, predictor_width=4),
)


def parts(mode: str):
    model = build(SPEC)
    settings = Settings(mode=mode, batch=2, seq_len=32, context=0, dtype="fp32", compile=False, cuda_graph=False)
    return model, build_step(model, settings, CPU), account(SPEC, batch=2, phase=mode)


@pytest.mark.parametrize("by", ["component", "layer", "path"])
@pytest.mark.parametrize("mode", ["forward", "train"])
def test_lines_add_up_to_the_step_and_flops_to_the_account(mode, by):
    model, step, report = parts(mode)
    found = attribute(step, model, report, CPU, by)
    assert sum(line.time_s for line in found.lines) == pytest.approx(found.unprofiled_s, rel=1e-9)
    assert sum(line.share for line in found.lines) == pytest.approx(1.0, rel=1e-9)
    whole = report.flops.train_step if mode == "train" else report.flops.forward
    assert sum(line.flops for line in found.lines) == whole
    assert sum(line.bytes or 0 for line in found.lines) == step_bytes(report, 4)
    labels = [line.label for line in found.lines]
    assert len(set(labels)) == len(labels)
    assert ({"loss", "optimizer"} <= set(labels)) == (mode == "train") and "idle" not in labels
    assert all(line.flops_per_s == pytest.approx(line.flops / line.time_s) for line in found.lines if line.flops)
    assert {line.label for line in found.routing} == {"router", "select", "gather", "scatter", "predictor"}
    assert found.routing_s == pytest.approx(sum(line.time_s for line in found.routing))
    assert found.routing_share == pytest.approx(found.routing_s / found.unprofiled_s, rel=1e-12)
    if by == "component":
        overhead = sum(line.time_s for line in found.lines if line.label in ("router", "predictor"))
        assert found.routing_s == pytest.approx(overhead) and 0 < found.routing_share < 1
        worked = {line.label: line.flops for line in found.lines}
        assert {line.label: line.flops for line in found.routing if line.flops} == {part: worked[part] for part in ("router", "predictor")}


def test_a_step_under_the_profiler_gets_new_inputs_too():
    done = []
    ranged = Ranged(SimpleNamespace(prepare=lambda: done.append("prepare"), run=lambda: done.append("run")))
    ranged.prepare()
    ranged.run()
    assert done == ["prepare", "run"]


def test_what_experts_do_between_their_products_is_theirs():
    """Factors of experts are the router's, and stand in the same module."""
    moe = Moe(n_experts=4, top_k=2, n_shared=1)
    for own_norms in (False, True):
        spec = msgspec.structs.replace(SPEC, mod=None, moe=msgspec.structs.replace(moe, own_norms=own_norms), norm=Norm(placement="sandwich"))
        line = summed({"blocks.0.moe": 1.0}, 1.0, 1.0, account(spec), "component", 1, 4).lines
        assert [(one.label, one.time_s) for one in line if one.time_s] == [("experts", 1.0)]


def test_nothing_stays_behind():
    model, step, report = parts("train")
    own = model.head.forward = model.head.forward  # as compiled blocks have one
    attribute(step, model, report, CPU)
    assert model.head.__dict__.pop("forward") is own
    assert not any("forward" in vars(m) for m in model.modules())


class Slow(torch.autograd.Function):
    """The identity, with a pause in each direction."""

    @staticmethod
    def forward(ctx, x, forward_s, backward_s):
        ctx.pause = backward_s
        sleep(forward_s)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        sleep(ctx.pause)
        return grad, None, None


def slowed(module: torch.nn.Module, forward_s: float, backward_s: float) -> None:
    """`module` takes this much longer, within its own forward and backward."""
    own = module.forward
    module.forward = lambda *args: Slow.apply(own(*args), forward_s, backward_s)


@pytest.mark.parametrize(
    "path, label, part",
    [("blocks.0.mlp.up_proj", "mlp", None), ("blocks.1.attn.core", "scores", None), ("blocks.1.gather", "router", "gather"), ("head", "head", None)],
)
def test_time_that_is_known_to_be_somewhere(monkeypatch, path, label, part):
    """30 ms in a module's forward and 50 ms in its backward are found there, both."""
    monkeypatch.setattr(attribution, "LEAST", 3)
    monkeypatch.setattr(attribution, "MOST", 3)
    model, step, report = parts("train")
    slowed(model.get_submodule(path), 0.03, 0.05)
    found = attribute(step, model, report, CPU)
    times = {line.label: line.time_s for line in found.lines}
    known = 0.08 * found.unprofiled_s / found.step_time_s  # all lines are scaled to the step without the profiler
    assert times[label] >= known and max(times, key=times.get) == label
    if part:
        assert {line.label: line.time_s for line in found.routing}[part] >= known


def test_the_optimizers_time_is_its_own(monkeypatch):
    monkeypatch.setattr(attribution, "LEAST", 3)
    monkeypatch.setattr(attribution, "MOST", 3)
    model, step, report = parts("train")
    own = step.optimizer.step

    def slow():
        with torch.profiler.record_function("Optimizer.step#slow"):
            sleep(0.05)
        own()

    step.optimizer.step = slow
    found = attribute(step, model, report, CPU)
    times = {line.label: line.time_s for line in found.lines}
    assert times["optimizer"] >= 0.05 * found.unprofiled_s / found.step_time_s


def test_the_trace_is_one_that_browsers_read(tmp_path):
    model, step, report = parts("forward")
    attribute(step, model, report, CPU, trace=str(tmp_path / "trace.json"))
    names = {event.get("name") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert {STEP, f"{MODULE}blocks.1.router", f"{MODULE}head"} <= names


def test_ranges_close_when_a_module_fails():
    model, step, _ = parts("forward")
    model.head.forward = None  # not callable
    with pytest.raises(TypeError), ranges(model):
        step.run()
    assert not any("forward" in vars(m) for m in model.modules() if m is not model.head)


def event(id, name, parent=None, *, seq=-1, thread=1, kernels=(), start=0, scope=0, forward_thread=0, device="CPU"):
    return SimpleNamespace(
        id=id,
        name=name,
        cpu_parent=parent,
        sequence_nr=seq,
        thread=thread,
        fwd_thread=forward_thread,
        kernels=[SimpleNamespace(name=name if scope else "kernel", duration=d) for d in kernels],
        time_range=SimpleNamespace(start=start, end=start + 1),
        scope=scope,
        is_async=False,
        device_type=getattr(torch.autograd.DeviceType, device),
    )


def test_kernels_of_a_gpu_belong_to_what_launched_them():
    """Events as the profiler gives them with a GPU: backward on a thread of its own, ranges that span kernels of others."""
    user = attribution.USER_SCOPE
    step = event(1, STEP, scope=user, kernels=[900.0])
    up = event(2, f"{MODULE}blocks.0.mlp.up_proj", step, scope=user, kernels=[500.0], start=1)
    core = event(3, f"{MODULE}blocks.0.attn.core", step, scope=user, start=2)
    events = [
        step,
        up,
        core,
        event(4, "aten::mm", up, seq=0, kernels=[100.0, 20.0], start=3),
        event(5, "aten::attention", core, seq=8, kernels=[200.0], start=4),
        event(6, "aten::cross_entropy", step, seq=9, kernels=[10.0], start=5),
        event(7, "aten::random_", None, kernels=[1000.0], start=6),  # inputs, not part of a step
        event(13, "cudaLaunchKernel", None, start=6),  # numbered apart from operations
        (b9 := event(8, "autograd::engine::evaluate_function: LossBackward0", seq=9, thread=2, forward_thread=1, start=7)),
        event(9, "aten::loss_backward", b9, thread=2, kernels=[5.0], start=8),
        event(19, "aten::view", up, seq=5, thread=3, start=3),
        (old := event(20, "autograd::engine::evaluate_function: OldBackward0", seq=4, thread=2, forward_thread=3, start=8)),  # made before
        event(21, "aten::old_backward", old, thread=2, kernels=[1.0], start=8),
        (b8 := event(10, "autograd::engine::evaluate_function: AttentionBackward0", seq=8, thread=2, forward_thread=1, start=9)),
        event(11, "aten::attention_backward", b8, thread=2, kernels=[300.0], start=10),
        (b0 := event(12, "autograd::engine::evaluate_function: MmBackward0", seq=0, thread=2, forward_thread=1, start=11)),
        event(13, "aten::mm", b0, thread=2, kernels=[240.0], start=12),
        (acc := event(14, "autograd::engine::evaluate_function: torch::autograd::AccumulateGrad", thread=2, start=13)),
        event(15, "aten::add_", acc, thread=2, kernels=[6.0], start=14),
        (opt := event(16, "Optimizer.step#AdamW.step", step, scope=user, kernels=[50.0], start=15)),
        (adam := event(17, "aten::_fused_adamw_", opt, kernels=[50.0], start=16)),
        event(18, "kernel", None, device="CUDA", start=17),
    ]
    adam.kernels.append(SimpleNamespace(name=STEP, duration=900.0))  # a range linked to what did not open it
    times = attribution._times(Owners(events, train=True), torch.device("cuda", 0))
    micros = {owner: round(1e6 * seconds, 6) for owner, seconds in times.items() if seconds}
    assert micros == {"blocks.0.mlp.up_proj": 366.0, "blocks.0.attn.core": 500.0, "loss": 16.0, "optimizer": 50.0}


def test_what_the_profiler_does_not_see_is_other(monkeypatch):
    """The clock says how long the step took, not the sum of events."""
    model, step, report = parts("forward")
    monkeypatch.setattr(attribution, "_times", lambda owners, device: {"head": 3e-9})
    found = attribute(step, model, report, CPU)
    times = {line.label: line.time_s for line in found.lines if line.time_s}
    head = 3e-9 * found.unprofiled_s / found.step_time_s
    assert times == {"head": pytest.approx(head), "other": pytest.approx(found.unprofiled_s - head)}


@pytest.mark.parametrize("name", ["t.json", "t.json.gz"])
def test_a_trace_without_its_end_is_no_trace(tmp_path, name):
    file, opened = tmp_path / name, gzip.open if name.endswith("gz") else open
    assert not attribution.whole(str(file))
    for text, whole in (('{"traceEvents": [\n{"a": 1}\n]}\n', True), ('{"traceEvents": [\n{"a": 1', False), ("", False)):
        with opened(file, "wt") as out:
            out.write(text)
        assert attribution.whole(str(file)) == whole


def test_what_is_left_of_a_gpus_step_is_idle():
    report = account(SPEC, phase="train")
    found = summed({"blocks.0.mlp.up_proj": 0.6, "optimizer": 0.1, "": 0.05, "idle": 0.05}, 1.0, 0.8, report, "component", 3, 2)
    lines = {line.label: (line.time_s, line.share) for line in found.lines if line.time_s}
    assert lines == {"mlp": (0.6, 0.6 / 0.8), "optimizer": (0.1, 0.1 / 0.8), "idle": (0.05, 0.05 / 0.8), "other": (0.05, 0.05 / 0.8)}
    moved = {line.label: line.bytes for line in found.lines if line.time_s}
    assert moved == {
        "mlp": 3 * 2 * sum(2 * (t * (16 + 64) + 16 * 64) for t in (32, 16)),
        "optimizer": 7 * 2 * report.params.total,
        "idle": None,
        "other": None,
    }
    assert (found.step_time_s, found.unprofiled_s, found.routing_s) == (1.0, 0.8, 0.0)


@pytest.mark.parametrize("kind, rest, mlp", [("cuda", "idle", 0.6), ("cpu", "other", 0.6 * 0.8)])
def test_lines_add_up_to_the_step_without_profiler(monkeypatch, kind, rest, mlp):
    """A GPU's kernels take no longer under the profiler; on the CPU all is scaled. Steps that go first or are disturbed do not count."""
    blocks, each = (6, 1) if kind == "cpu" else (1, 4)
    under = iter([*[[1.0] * each] * (blocks - 1), [50.0 if kind == "cpu" else 1.0] * each])

    def alternate(steps, device, n):
        return [next(under) if isinstance(steps[0], attribution.Ranged) else [9.0] * (n - each) + [0.8] * each]

    monkeypatch.setattr(attribution, "warm_up", lambda *_: SimpleNamespace(step_s=0.5))
    monkeypatch.setattr(attribution, "alternate", alternate)
    monkeypatch.setattr(attribution, "profiled", lambda *_: nullcontext(SimpleNamespace(events=list)))
    monkeypatch.setattr(attribution, "Owners", lambda *_: None)
    monkeypatch.setattr(attribution, "_times", lambda *_: {"blocks.0.mlp.up_proj": 0.6 * each})
    found = attribute(None, torch.nn.Linear(1, 1), account(SPEC), torch.device(kind))
    lines = {line.label: line.time_s for line in found.lines if line.time_s}
    assert lines == {"mlp": pytest.approx(mlp), rest: pytest.approx(0.8 - mlp)}
    assert (found.step_time_s, found.unprofiled_s) == (1.0, pytest.approx(0.8))


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_where_chance_decides_enough_tokens_pass_and_no_step_is_left_out(monkeypatch, kind):
    """Of one sequence an eighth of the decode steps pass a block; without them it would seem to take no time."""
    passed = count(1)
    monkeypatch.setattr(attribution, "warm_up", lambda *_: SimpleNamespace(step_s=0.001))
    monkeypatch.setattr(attribution, "alternate", lambda steps, device, n: [[2.0 if next(passed) % 8 == 0 else 1.0 for _ in range(n)]])
    monkeypatch.setattr(attribution, "profiled", lambda *_: nullcontext(SimpleNamespace(events=list)))
    monkeypatch.setattr(attribution, "Owners", lambda *_: None)
    monkeypatch.setattr(attribution, "_times", lambda *_: {})
    spec = msgspec.structs.replace(SPEC, mod=Mod(capacity=0.125, predictor_width=4))
    found = attribute(None, torch.nn.Linear(1, 1), account(spec, phase="decode", context=8), torch.device(kind))
    assert 128 <= found.rounds < 140 and found.unprofiled_s == pytest.approx(1.125, rel=0.02)
    several = attribute(None, torch.nn.Linear(1, 1), account(spec, phase="decode", context=8, batch=16), torch.device(kind))
    assert several.rounds <= 12
