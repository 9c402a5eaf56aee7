"""One point: what a step does, and that the record says what was measured."""

import re
import weakref
from fractions import Fraction
from statistics import median
from types import SimpleNamespace

import msgspec
import pytest

from modcalc.cost.account import account, dense_twin
from modcalc.cost.ops import number
from modcalc.cost.recompute import hardware_flops
from modcalc.cost.roofline import step_bytes
from modcalc.measure.hardware import Peak
from modcalc.measure.records import Memory, Record, Result, Settings
from modcalc.spec.schema import Attention, Mlp, Mod, Moe, Spec

torch = pytest.importorskip("torch")
from modcalc.models.losses import training_loss  # noqa: E402
from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402

from modcalc.measure import point, rigs, steps, steptime, sweep, usage  # noqa: E402
from modcalc.measure.build import build  # noqa: E402
from modcalc.measure.point import Job, measure  # noqa: E402

CPU = torch.device("cpu")
SPEC = Spec(
    name="tiny",
    vocab_size=50,
    seq_len=16,
    d_model=16,
    n_layers=2,
    attention=Attention(n_heads=2),
    mlp=Mlp(ratio=4.0),
    mod=Mod(capacity=0.25, predictor_width=4),
)


def settings(**over) -> Settings:
    fields = dict(mode="forward", batch=3, seq_len=16, context=0, dtype="fp32", compile=False, cuda_graph=False, iterations=7, warmup=1)
    return Settings(**{**fields, **over})


def job(**over) -> Job:
    fields = dict(spec=SPEC, baseline=dense_twin(SPEC), settings=settings(), device=CPU)
    return Job(**{**fields, **over})


@pytest.mark.parametrize("mode", ["forward", "train"])
def test_a_record_says_what_was_measured(mode):
    peak, reached = Peak(1e12, 1e11, "a datasheet"), Peak(5e11, 5e10, "measured")
    done = measure(job(settings=settings(mode=mode), peak=peak, reached=reached))
    report = account(SPEC, batch=3, phase=mode)
    promised = report.flops.train_step if mode == "train" else report.flops.forward
    t = done.step_time_s
    assert (t.n, len(t.samples), done.baseline.step_time_s.n) == (7, 7, 7)
    assert t.min <= t.p25 <= t.median <= t.p75
    assert done.flops.step == promised and isinstance(done.flops.step, int)
    assert done.flops.hardware == (hardware_flops(report).train_step if mode == "train" else promised)
    assert done.tokens_per_s == pytest.approx(48 / t.median)
    assert done.flops_per_s == pytest.approx(promised / t.median)
    assert (done.mfu, done.mfu_reached) == (pytest.approx(promised / t.median / 1e12), pytest.approx(promised / t.median / 5e11))
    assert done.hfu == pytest.approx(done.flops.hardware / t.median / 1e12)
    assert (done.mbu, done.mbu_reached) == (pytest.approx(done.step_bytes / t.median / 1e11), pytest.approx(done.step_bytes / t.median / 5e10))
    assert (done.loss is None) == (mode == "forward")
    assert (done.params, done.workload) == (report.params.total, {"batch": 3, "seq_len": 16, "context": 0})
    assert (done.energy, done.launch_s, done.attribution, done.ranks) == (None, None, [], None)
    base = done.baseline
    assert base.spec == "tiny (dense twin)"
    assert base.flop_ratio == promised / base.flops.step
    assert base.time_ratio_interval[0] <= base.time_ratio <= base.time_ratio_interval[1]
    assert base.realised_saving == pytest.approx((1 - base.time_ratio) / (1 - base.flop_ratio))
    assert msgspec.json.decode(msgspec.json.encode(done), type=Record) == done


def test_what_a_record_counts_is_of_its_own_dtype_and_pairs(monkeypatch):
    called = []
    monkeypatch.setattr(sweep, "keep", lambda: called.append("keep"))
    monkeypatch.setattr(rigs, "settle", lambda mode, compile: called.append((mode, compile)))
    done = sweep.measured_or_failed(job(baseline=None, settings=settings(dtype="bf16", causal="half")))
    report = account(SPEC, batch=3, causal="half")
    assert done.flops.step == report.flops.forward < account(SPEC, batch=3).flops.forward
    assert done.step_bytes == step_bytes(report, 2)
    assert called == ["keep", ("forward", False)], "freed memory stays, and what the first step loads is there"


def test_exact_counts_and_expectations():
    assert [number(x) for x in (Fraction(6, 2), Fraction(3, 2), 7, 0.5)] == [3, 1.5, 7, 0.5]


def test_models_are_built_anew_so_that_no_place_in_memory_decides(monkeypatch):
    """Six times by default, in turn, the earlier ones gone; the ratio is over builds, its interval from the least to the largest."""
    seen, alive = [], []

    def noted(plan, **options):
        seen.append(plan.name)
        model = build(plan, **options)
        alive.append((len(seen), weakref.ref(model)))
        assert sum(one() is not None for _, one in alive) <= 2
        return model

    monkeypatch.setattr(rigs, "build", noted)
    done = measure(job(settings=settings(iterations=9, warmup=None)))
    one_of_each = ["tiny", "tiny (dense twin)"]
    assert seen == (one_of_each + one_of_each[::-1]) * 3
    base = done.baseline
    assert (done.step_time_s.n, base.step_time_s.n, len(base.build_ratios)) == (9, 9, 6)
    pairs = [a / b for a, b in zip(done.step_time_s.samples, base.step_time_s.samples, strict=True)]
    assert base.build_ratios == [median(pairs[i : i + 2]) for i in (0, 2, 4)] + pairs[6:]
    assert base.time_ratio == median(base.build_ratios)
    assert base.time_ratio_interval == (min(base.build_ratios), max(base.build_ratios)) and base.confidence == 1 - 2 / 2**6
    assert done.warmup.first_step_s < done.warmup.seconds


def test_what_each_build_tells(monkeypatch):
    """Each model's samples are its own whoever went first; warm-ups and lacks of room are of all builds, memory of the first."""
    order, memory, freed, waited, clock = [], *(iter(range(100)) for _ in range(4))

    class Peak:
        def __init__(self, device):
            pass

        def read(self):
            return Memory(next(memory), None, "counted")

    def timed(steps, device, rounds, between):
        between()
        names = [step.model.plan.name for step in steps]
        order.append(names)
        return [[3.0 if name == "tiny" else 4.0] * rounds for name in names]

    monkeypatch.setattr(rigs, "PeakMemory", Peak)
    monkeypatch.setattr(rigs, "alternate", timed)
    monkeypatch.setattr(rigs, "retries", lambda device: next(freed))
    monkeypatch.setattr(rigs, "waited_s", lambda: 1000.0 * next(waited))
    monkeypatch.setattr(rigs, "perf_counter", lambda: 4000.0 * next(clock))
    monkeypatch.setattr(steptime, "WARM_S", 0)
    done = measure(job(settings=settings(iterations=9, warmup=None)))
    assert order == [["tiny", "tiny (dense twin)"], ["tiny (dense twin)", "tiny"]] * 3
    assert done.baseline.build_ratios == [0.75] * 6
    assert (done.step_time_s.median, done.baseline.step_time_s.median) == (3.0, 4.0)
    assert (done.warmup.steps, done.baseline.warmup.steps) == (3 + 5, 3 + 5)
    assert (done.memory.allocated, done.baseline.memory.allocated) == (0, 1)
    assert any("ran out of room 6 times" in doubt for doubt in done.warnings)
    assert any(re.search("on average 0.25 of this process's .* waited for a core", doubt) for doubt in done.warnings)


@pytest.mark.parametrize("warmup", [1, 2])
def test_peak_memory_has_what_the_first_step_made(monkeypatch, warmup):
    """An optimizer makes its states at the end of its first step."""
    held, made = [], rigs.build_step

    class Peak:
        def __init__(self, device):
            self.steps = 0
            Peak.last = self

        def read(self):
            held.append(self.steps)
            return Memory(0, None, "counted")

    def counted(*args, **options):
        step = made(*args, **options)
        run = step.run

        def noted():
            Peak.last.steps += 1
            run()

        step.run = noted
        return step

    monkeypatch.setattr(rigs, "PeakMemory", Peak)
    monkeypatch.setattr(rigs, "build_step", counted)
    done = measure(job(baseline=None, settings=settings(mode="train", iterations=2, warmup=warmup)))
    assert held == [2] and done.warmup.steps == 2
    assert measure(job(baseline=None, settings=settings(iterations=2, warmup=warmup))).warmup.steps == warmup


def test_peak_memory_is_unknown_where_it_cannot_be_reset(monkeypatch):
    monkeypatch.setattr(usage, "_reset_resident_peak", lambda: None)
    assert usage.PeakMemory(torch.device("cpu")).read() == Memory(None, None, "growth of the process's resident set")


def test_seconds_that_threads_waited(tmp_path):
    assert usage.waited_s(tmp_path) is None
    for thread, text in (("1", "2000000000 500000000 7\n"), ("2", "1 250000000 1\n")):
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(text)
    (tmp_path / "3").mkdir()
    assert usage.waited_s(tmp_path) == 0.75
    for thread in "12":
        (tmp_path / thread / "schedstat").write_text("0 0 0\n")
    assert usage.waited_s(tmp_path) is None, "a kernel that does not count"


def test_every_build_draws_anew(monkeypatch):
    """What chance decides in decode: alike for both models of a build, and of no two builds."""
    drawn = []
    own = rigs.build_step

    def noted(*args, seed, **more):
        drawn.append(seed)
        return own(*args, seed=seed, **more)

    monkeypatch.setattr(rigs, "build_step", noted)
    measure(job(settings=settings(mode="decode", seq_len=1, context=4, iterations=6)))
    assert drawn == [n for n in range(6) for _ in range(2)]


def test_every_rank_draws_anew_and_warms_up_as_long_as_the_others(monkeypatch):
    """Steps that communicate wait for as many of the other processes."""
    asked, own, warm = [], rigs.build_step, rigs.warm_up
    world = SimpleNamespace(rank=3, size=4, wrap=lambda settings: lambda model: model, any=lambda one: one or len(asked) < 6)

    def noted(*args, seed, **more):
        asked.append(seed)
        return own(*args, seed=seed, **more)

    def agreed(step, device, steps, agree):
        return warm(step, device, steps, lambda one: asked.append(one) or agree(one))

    monkeypatch.setattr(rigs, "build_step", noted)
    monkeypatch.setattr(rigs, "warm_up", agreed)
    rig = rigs.Rig.build(SPEC, job(baseline=None, world=world, settings=settings(warmup=2)), 0)
    assert asked == [3, True, True, False, False, False] and rig.warm.steps == 4


def test_there_are_as_many_samples_as_builds():
    done = measure(job(settings=settings(iterations=None, seconds=0.001, builds=8)))
    assert (done.step_time_s.n, len(done.baseline.build_ratios)) == (8, 8)


def test_what_is_done_right_now_is_said():
    said = []
    measure(job(settings=settings(iterations=3, builds=2), by="layer"), said.append)
    assert said == [
        "building and warming up",
        "build 1 of 2: samples for about 1 s",
        "build 2 of 2: samples for about 1 s",
        "where the time goes, by layer",
    ]
    said.clear()
    measure(job(baseline=None), said.append)
    assert said == ["building and warming up", "7 samples, about 1 s"]


def test_how_long_samples_take_is_said(monkeypatch):
    monkeypatch.setattr(rigs, "round_s", lambda warm, device, steps: 30.3)
    said = []
    measure(job(settings=settings(iterations=3, builds=2)), said.append)
    assert said[1:] == ["build 1 of 2: samples for about 61 s", "build 2 of 2: samples for about 31 s"]


def test_builds_as_asked_for():
    assert job().builds == 6 and job().key() == job(settings=settings(builds=6)).key() != job(settings=settings(builds=1)).key()
    eager, compiled = settings(), settings(compile=True)
    assert job(baseline=None).builds == job(settings=compiled).builds == job(settings=eager, device=torch.device("cuda")).builds == 1
    base = measure(job(settings=settings(builds=1))).baseline
    assert base.build_ratios == [] and base.time_ratio_interval is not None and base.confidence == 1 - 2 / 2**7
    base = measure(job(settings=settings(builds=3))).baseline
    assert len(base.build_ratios) == 3 and base.time_ratio_interval is None, "pairs of several builds are not independent"
    assert job(settings=settings(iterations=2)).builds == 2
    assert measure(job(baseline=None, settings=settings(builds=3))).step_time_s.n == 7


def test_no_peak_no_mfu_and_no_baseline_no_ratio():
    done = measure(job(baseline=None))
    assert (done.mfu, done.hfu, done.mfu_reached, done.baseline) == (None, None, None, None)
    assert (done.mbu, done.mbu_reached) == (None, None)
    no_bandwidth = measure(job(peak=Peak(1e12, None, "--peak-tflops")))
    assert no_bandwidth.mfu and no_bandwidth.mbu is None


def test_equal_flops_have_no_saving():
    done = measure(job(spec=SPEC, baseline=SPEC))
    assert (done.baseline.flop_ratio, done.baseline.realised_saving, done.baseline.realised_saving_interval) == (1.0, None, None)
    assert done.baseline.time_ratio_interval is not None


def test_two_samples_give_a_ratio_without_interval_and_a_warning():
    done = measure(job(settings=settings(iterations=2)))
    assert done.baseline.time_ratio > 0 and done.baseline.time_ratio_interval is None
    assert "2 samples are too few for quartiles or an interval" in done.warnings[0]


def test_every_step_has_new_tokens_of_the_whole_vocabulary():
    tokens = steps.Tokens(2, 400, 50, CPU, seed=0)
    seen = []
    model = build(SPEC)
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    step = steps.ForwardStep(model, steps.Tokens(4, 16, 50, CPU, seed=0))
    for _ in range(3):
        step.prepare()
        step.run()
    assert [t.shape for t in seen] == [(4, 16)] * 3
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
    assert sorted(set(tokens.buffer.flatten().tolist())) == list(range(50))


def test_a_train_step_is_a_real_one():
    """The same as written out: real loss with the auxiliary ones, backward, AdamW; router and predictor learn."""
    model, other = build(SPEC), build(SPEC)
    step = steps.TrainStep(model, steps.Tokens(3, 17, 50, CPU, seed=5))
    optimizer = torch.optim.AdamW(other.parameters(), lr=steps.LEARNING_RATE)
    for _ in range(2):
        step.prepare()
        step.run()
        optimizer.zero_grad()
        loss, parts = training_loss(other, step.tokens.buffer[:, :-1], step.tokens.buffer[:, 1:])
        loss.backward()
        optimizer.step()
        assert step.loss.item() == pytest.approx(loss.item(), rel=1e-6)
    assert {"router_bce", "predictor_bce"} <= set(parts)
    start = dict(build(SPEC).named_parameters())
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name
        assert not torch.equal(a, start[name]), name


def test_equal_blocks_are_compiled_once(monkeypatch):
    """Whatever the depth: one graph for the plain blocks, one for the routed ones, one for the losses; eager work needs none."""
    monkeypatch.setattr(rigs, "settle", lambda mode, compile: None)  # it compiles a block of its own
    counter = CompileCounterWithBackend("eager")
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: original(function, backend=counter, **options))
    graphs = []
    for n_layers in (2, 6):
        torch.compiler.reset()
        counter.frame_count = 0
        model = build(msgspec.structs.replace(SPEC, n_layers=n_layers))
        step = steps.build_step(model, settings(compile=True, mode="train"), CPU)
        for _ in range(2):
            step.run()
        graphs.append(counter.frame_count)
        loss = step.loss.item()
        with steps.uncompiled(step) as eager:
            eager.run()
        assert counter.frame_count == graphs[-1] and eager.loss.item() < loss
    assert graphs == [3, 3]


def test_blocks_of_many_kinds_are_all_compiled(monkeypatch):
    """More than the compiler's own limit of graphs, which would end in eager work or an error."""
    spec = msgspec.structs.replace(SPEC, n_layers=12, mod=Mod(capacity=[(i + 1) / 16 for i in range(12)], layers=list(range(12))))
    monkeypatch.setattr(rigs, "settle", lambda mode, compile: None)  # it compiles a block of its own
    counter = CompileCounterWithBackend("eager")
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: original(function, backend=counter, **options))
    measure(job(spec=spec, settings=settings(compile=True, iterations=1), baseline=None))
    assert counter.frame_count == 12


def test_every_point_begins_with_a_fresh_compiler(monkeypatch):
    resets = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
    measure(job(settings=settings(iterations=1), baseline=None))
    assert resets == [1]


def test_out_of_memory_is_a_record(monkeypatch):
    def too_large(*_args, **_kw):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB.\nmore")

    monkeypatch.setattr(rigs, "build", too_large)
    failed = sweep.measured_or_failed(job())
    assert (failed.spec, failed.baseline, failed.key) == ("tiny", "tiny (dense twin)", job().key())
    assert failed.error == "CUDA out of memory. Tried to allocate 80 GiB."
    assert msgspec.json.decode(msgspec.json.encode(failed), type=Record) == failed


def test_what_out_of_memory_looks_like():
    with pytest.raises(RuntimeError) as large:
        torch.empty(2**55)
    with pytest.raises(RuntimeError) as larger:
        torch.empty(2**60, 65)
    assert sweep.out_of_memory(large.value) and sweep.out_of_memory(larger.value) and sweep.out_of_memory(MemoryError())
    assert not sweep.out_of_memory(RuntimeError("shapes do not match"))


@pytest.mark.parametrize("said", ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"])
def test_out_of_memory_as_libraries_say_it(said):
    assert sweep.out_of_memory(RuntimeError(said))
    try:
        try:
            raise RuntimeError(said)
        finally:
            raise RuntimeError("the capture was not finished")
    except RuntimeError as masked:
        assert sweep.out_of_memory(masked)


def test_a_time_is_kept_where_memory_lacks_for_its_attribution(monkeypatch):
    def too_large(*_args, **_kw):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(point, "attribute", too_large)
    done = measure(job(by="component"))
    assert done.step_time_s.n == 7 and done.attribution == []
    assert any("its time by component is missing" in doubt for doubt in done.warnings)


def test_a_model_at_rest_holds_no_gradients():
    model = build(SPEC)
    step = steps.build_step(model, settings(mode="train"), CPU)
    step.prepare()
    before = [p.detach().clone() for p in model.parameters()]
    step.run()
    assert all(p.grad is None for p in model.parameters())
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)), "the optimizer had none to use"


def test_who_waits_for_the_device():
    experts = msgspec.structs.replace(SPEC, moe=Moe(n_experts=4, top_k=2, d_ff=8))
    buffered = msgspec.structs.replace(SPEC, moe=Moe(n_experts=4, top_k=2, d_ff=8, capacity=1.0))
    plans = [account(s).plan for s in (SPEC, experts, buffered)]
    assert [steps.waits(plan, "train") for plan in plans] == [False, True, False]
    for mode in ("prefill", "decode"):
        assert [steps.waits(plan, mode) for plan in plans] == [True, True, True]
        assert steps.waits(account(msgspec.structs.replace(buffered, mod=None)).plan, mode), "at sampling experts have no buffer"
        assert not steps.waits(account(msgspec.structs.replace(SPEC, mod=None)).plan, mode), "where no token is routed, nothing needs to be known"


def test_other_errors_are_not_swallowed(monkeypatch):
    def broken(*_args, **_kw):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(rigs, "build", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        sweep.measured_or_failed(job())


def test_memory_counts_weights_gradients_and_moments():
    """A model of 40 MB: training holds four times its weights, forward once. What was free in the heap before does not show."""
    import sys

    if sys.platform != "linux":
        pytest.skip("the resident set is read on Linux only")
    wide = msgspec.structs.replace(SPEC, mod=None, d_model=512, n_layers=3, mlp=Mlp(d_ff=2560), attention=Attention(n_heads=8))
    one = settings(batch=1, iterations=1)
    weights = 4 * account(wide).params.total

    def peak(mode: str) -> int:
        """The larger of two: on a busy machine a high-water mark was once seen 7 MB short."""
        found = [measure(Job(spec=wide, baseline=None, settings=msgspec.structs.replace(one, mode=mode), device=CPU)) for _ in range(2)]
        assert all(isinstance(one, Result) and one.memory.source.endswith("resident set") for one in found)
        return max(one.peak_memory_bytes for one in found)

    assert 0.9 * weights < peak("forward") < 3 * weights
    assert 3.2 * weights < peak("train") < 7 * weights
