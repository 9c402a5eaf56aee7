"""The clock: order, warm-up, what is timed and what is not."""

import re
from random import Random
from time import sleep

import pytest

from modcalc.measure import caveats, steptime
from modcalc.measure.hardware import Clocks, Device
from modcalc.measure.records import Settings, StepTime
from modcalc.measure.stats import paired_ratio
from modcalc.render.points import device_line

torch = pytest.importorskip("torch")
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


class Noted:
    """A step that writes down when it is called, and takes its time."""

    def __init__(self, name: str, log: list[str], seconds: float = 0.0, preparing: float = 0.0) -> None:
        self.name, self.log, self.seconds, self.preparing = name, log, seconds, preparing

    def prepare(self) -> None:
        self.log.append(f"new {self.name}")
        sleep(self.preparing)

    def run(self) -> None:
        self.log.append(self.name)
        sleep(self.seconds)


def test_steps_take_turns_with_new_inputs_each():
    log: list[str] = []
    taken = steptime.alternate([Noted("A", log), Noted("B", log)], CPU, 3, lambda: log.append("end"))
    assert log == ["new A", "A", "new B", "B"] * (3 + 3) + ["end"], "three rounds before those that are timed"
    assert [len(samples) for samples in taken] == [3, 3]
    log.clear()
    steptime.alternate([Noted("A", log), Noted("B", log)], CPU, 1)
    assert log == ["new A", "A", "new B", "B"] * 2
    log.clear()
    steptime.alternate([Noted("A", log)], CPU, 2)
    assert log == ["new A", "A"] * 2


def test_making_inputs_is_not_timed():
    (samples,) = steptime.alternate([Noted("A", [], seconds=0.01, preparing=0.3)], CPU, 3)
    assert all(0.01 <= s < 0.3 for s in samples)


def test_warm_up_for_a_number_of_steps():
    log: list[str] = []
    step = Noted("A", log, 0.002)
    warm = steptime.warm_up(step, CPU, 4)
    assert log == ["new A", "A"] * 4
    assert (warm.steps, warm.launch_s) == (4, None)
    assert warm.step_s >= 0.002 and warm.first_step_s >= 0.002 and warm.seconds >= 4 * 0.002


def test_warm_up_of_its_own_accord(monkeypatch):
    monkeypatch.setattr(steptime, "WARM_S", 0.05)
    assert steptime.warm_up(Noted("A", [], 0.01), CPU).steps >= 4  # for as long as it takes
    assert steptime.warm_up(Noted("A", [], 0.06), CPU).steps == steptime.WARM_STEPS  # at least so often


def test_the_first_step_stands_apart(monkeypatch):
    class Compiled(Noted):
        def run(self) -> None:
            super().run()
            if len(self.log) == 2:
                sleep(0.2)

    warm = steptime.warm_up(Compiled("A", []), CPU, 5)
    assert warm.first_step_s >= 0.2 > 0.1 > warm.step_s
    # It does not use up the time that a device needs to become fast, and tells no pace of the host.
    monkeypatch.setattr(steptime, "WARM_S", 0.1)
    assert 0.3 <= steptime.warm_up(Compiled("A", [], 0.01), CPU).seconds < 0.6
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    one, two = (steptime.warm_up(Compiled("A", []), GPU, n) for n in (1, 2))
    assert one.launch_s is None and one.step_s == one.first_step_s and two.launch_s < 0.1 <= two.first_step_s


def test_rounds():
    warm = [steptime.WarmUp(3, 1.0, 0.5, step_s, None) for step_s in (0.1, 0.3)]
    assert steptime.rounds_for(warm, CPU, 10.0) == 25
    assert steptime.rounds_for(warm, GPU, 10.0) == 12, "each with one before it that is not timed"
    assert steptime.rounds_for(warm[1:], GPU, 10.0) == 33
    assert steptime.rounds_for(warm, CPU, 0.0) == 6
    assert steptime.rounds_for(warm[:1], CPU, 1e9) == steptime.MAX_ROUNDS
    assert steptime.rounds_for(warm, GPU, 10.0, iterations=2) == 2
    assert steptime.rounds_for(warm, CPU, 100.0, steps=16) == 15 and steptime.rounds_for(warm, CPU, 100.0, iterations=2, steps=16) == 2


def test_rounds_are_shared_out_among_builds():
    assert steptime.shared_out(20, 6) == [4, 4, 3, 3, 3, 3]
    assert steptime.shared_out(6, 6) == [1] * 6 and steptime.shared_out(7, 1) == [7]


def test_a_warm_up_of_models_built_twice():
    """The second time a cold step alone: its pace is none."""
    one, two = steptime.WarmUp(3, 1.0, 0.5, 0.1, 0.01), steptime.WarmUp(1, 0.25, 0.25, 0.25, 0.2)
    assert one.then(two) == steptime.WarmUp(4, 1.25, 0.5, 0.1, 0.01)


def test_means_of_steps_in_a_row():
    assert steptime.means([1.0, 2.0, 6.0, 2.0], 2) == [1.5, 4.0] and steptime.means([1.0, 2.0], 1) == [1.0, 2.0]


def test_on_a_gpu_each_step_is_timed_behind_one_of_its_kind(monkeypatch):
    """With CUDA's calls played: events before and after the work; the device is idle before a step of the other kind, never before a timed one."""
    log: list[str] = []

    class Event:
        made = 0

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            Event.made += 1
            self.number = Event.made

        def record(self) -> None:
            log.append("event")

        def elapsed_time(self, end: "Event") -> float:
            return 1000.0 * (end.number - self.number)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("wait"))
    taken = steptime.alternate([Noted("A", log), Noted("B", log)], GPU, 2, lambda: log.append("busy"))
    a, b = (["wait", f"new {x}", x, f"new {x}", "event", x, "event"] for x in "AB")
    assert log == ["wait", *a, *b, *a, *b, "new A", "A", "new B", "B", "busy", "wait"]  # at work while its clock is read
    assert taken == [[1.0, 1.0], [1.0, 1.0]]

    log.clear()
    assert steptime.alternate([Noted("A", log)], GPU, 2) == [[1.0, 1.0]]
    assert log == ["wait", *["new A", "event", "A", "event"] * 2, "wait"], "a row of one kind needs no other"


def test_a_step_against_itself_and_against_a_slower_one(monkeypatch):
    """On a clock that drifts by half and has outliers: the interval of a step against itself contains 1, that of 3 % more does not."""
    random, now = Random(0), [0.0]
    monkeypatch.setattr(steptime, "perf_counter_ns", lambda: int(now[0]))

    def step(cost: float) -> Noted:
        found = Noted("A", [])

        def run() -> None:
            machine = (1 + 0.5 * now[0] / 1e9) * random.lognormvariate(0, 0.02) * (5 if random.random() < 0.05 else 1)
            now[0] += 1e6 * cost * machine

        found.run = run
        return found

    same = paired_ratio(*steptime.alternate([step(1.0), step(1.0)], CPU, 200))
    slower = paired_ratio(*steptime.alternate([step(1.03), step(1.0)], CPU, 200))
    assert same.low <= 1.0 <= same.high and same.high - same.low < 0.02
    assert 1.01 < slower.low <= 1.03 <= slower.high


MACHINE = Device("cpu", "a processor", 2**34, 4, 2)


def test_a_narrow_spread_is_no_news():
    assert caveats.wide_spread("m", StepTime.of([1.0, 1.01, 1.02] * 5), MACHINE) is None


@pytest.mark.parametrize(
    "samples, load, cause",
    [
        ([1.0 + 0.05 * i for i in range(30)], 0.0, "they rose by 82 % while .* warm up longer"),
        ([1.0 - 0.02 * i for i in range(30)], 0.0, "they fell by 44 % while "),
        ([1.0, 1.3] * 15, 7.5, r"7\.5 threads want the 4 cores, of which this process uses 2: run on an idle machine"),
        ([1.0, 2.0] * 10 + [1.1, 2.2] * 5, 0.0, "no single cause shows"),  # a rise of 10 % explains no spread of 67 %
        ([1.0, 1.3] * 7 + [9.0] * 2 + [1.0, 1.3] * 7, 0.0, r"up to 6\.9 times the median: something else runs now and then"),
        ([1.0, 1.3] * 15, 0.0, "no single cause shows: take more samples"),
        ([1.0, 1.3] * 15, None, "no single cause shows"),
    ],
)
def test_a_wide_spread_says_why_and_what_to_do(monkeypatch, samples, load, cause):
    monkeypatch.setattr(caveats, "_load", lambda: load)
    with_cause = caveats.wide_spread("mod-220m", StepTime.of(samples), MACHINE)
    assert with_cause.startswith("mod-220m: the step times spread ")
    assert re.search(cause, with_cause)


def test_what_held_a_gpus_clock_is_told():
    rising = StepTime.of([1.0 + 0.05 * i for i in range(30)])
    gpu = Device("cuda", "a GPU", 2**34, 4, 2, clocks=Clocks(1300, 1980, 3201, ("the power limit",)))
    assert "the clock (the power limit held it down) or the load changed" in caveats.wide_spread("m", rising, gpu)
    assert device_line(gpu) == "a GPU, SM clock 1300 of 1980 MHz, held down by the power limit"


def test_samples_that_agree_on_a_busy_machine(monkeypatch):
    monkeypatch.setattr(caveats, "_load", lambda: 4.6)
    assert "too long: 4.6 threads want the 4 cores, of which this process uses 2: run on an idle machine" in caveats.busy(MACHINE)
    assert caveats.busy(Device("cuda", "a GPU", 2**34, 4, 2)) is None
    for idle in (4.5, None):
        monkeypatch.setattr(caveats, "_load", lambda idle=idle: idle)
        assert caveats.busy(MACHINE) is None


def test_threads_that_wait_for_a_core(monkeypatch):
    """Counted by the kernel, and so true whatever the load of the last minute was."""
    monkeypatch.setattr(caveats, "_load", lambda: 40.0)
    says = "on average 0.75 of this process's 2 threads waited for a core: run on an idle machine"
    assert f"too long: {says}" in caveats.busy(MACHINE, 0.75) and caveats.busy(MACHINE, 0.04) is None
    assert caveats.busy(Device("cuda", "a GPU", 2**34, 4, 2), 0.75) is None
    rising = StepTime.of([1.0 + 0.05 * i for i in range(30)])
    assert says in caveats.wide_spread("m", rising, MACHINE, 0.75) and "rose by" in caveats.wide_spread("m", rising, MACHINE, 0.0)


def test_one_thread_cannot_become_fewer(monkeypatch):
    monkeypatch.setattr(caveats, "_load", lambda: 7.5)
    said = [caveats.wide_spread("m", StepTime.of([1.0, 1.3] * 15), Device("cpu", "a processor", 2**34, 4, threads)) for threads in (1, 2)]
    assert ["OMP_NUM_THREADS" in text for text in said] == [False, True] and all("idle machine" in text for text in said)


def test_other_doubts():
    assert caveats.launch_bound("m", None, 0.01, "rest") is None
    assert caveats.launch_bound("m", 0.002, 0.01, "rest") is None
    assert caveats.memory_was_freed(0) is None and "ran out of room 2 times" in caveats.memory_was_freed(2)
    assert (
        caveats.launch_bound("m", 0.0099, 0.01, "rest")
        == "m: the host needs 9.90 ms to launch a step that takes 10.00 ms, so the GPU seems to wait for it: rest"
    )
    asked = dict(batch=1, seq_len=8, context=0, dtype="fp32", compile=False, cuda_graph=False)
    busier = [Settings(mode=mode, **asked).busier for mode in ("forward", "train", "prefill", "decode")]
    assert [("--cuda-graph" in text, "--seq-len" in text, "--context" in text) for text in busier] == [
        (True, False, False), (True, False, False), (False, True, False), (False, False, True),
    ]  # fmt: skip
    assert caveats.few_samples(6) is None
    assert caveats.beyond_peak("m", None, "") is None and caveats.beyond_peak("m", 1.0, "") is None
    assert "m: MFU 250.0 %, more than all: the peak (--peak-tflops) is not" in caveats.beyond_peak("m", 2.5, "--peak-tflops")
    assert "at least 6" in caveats.few_samples(5) and caveats.few_samples(1).startswith("1 sample is too few")
    assert caveats.profiler_slows("m", "layer", 1.4, 1.0) is None
    assert "m: the step takes 2.0 times as long under the profiler" in caveats.profiler_slows("m", "layer", 2.0, 1.0)
    assert caveats.not_finite("m", 2.0) is None and "became nan" in caveats.not_finite("m", float("nan"))
