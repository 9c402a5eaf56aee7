"""What a measurement says, apart from how it looks: the records of `modcalc profile`, one to a line of a results file.

Units are in the names: seconds, bytes, FLOPs, joules. Null is unknown. Keys that scripts rely on stand in docs/json.md;
`schema` grows when one of them changes its meaning.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from modcalc.cost.workload import SAMPLING
from modcalc.measure.hardware import Device, Peak, Positive, Text
from modcalc.measure.stats import WIDE, Interval, quartiles

# Grows when a step, its timing, its count of bytes or hardware FLOPs or a default of the schema changes: what was measured before is
# then measured again.
PROTOCOL = 15
BYTES_SINCE = 10  # the protocol from which on cached keys and values of routed blocks are read for tokens that pass alone

Mode = Literal["forward", "train", "prefill", "decode"]
Parallel = Literal["none", "ddp", "fsdp"]
# What a file may say.
Whole = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Amount = Count | NotNegative


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the user chose for one point. seq_len: new tokens T of a sequence (1 for decode; 0 where
    many points begin from these: each spec's own); context: tokens cached before them.
    """

    mode: Mode
    batch: Whole
    seq_len: Whole
    context: Count
    dtype: Text
    compile: bool
    cuda_graph: bool
    causal: Text = "full"
    parallel: Parallel = "none"
    seconds: float | None = None
    iterations: int | None = None
    warmup: int | None = None
    builds: int | None = None

    @property
    def sampling(self) -> bool:
        return self.mode in SAMPLING

    @property
    def busier(self) -> str:
        """What to do where the GPU waits for the host."""
        if self.sampling:
            return f"use a larger --batch or --{'seq-len' if self.mode == 'prefill' else 'context'}"
        faster = ["--compile"] * (not self.compile) + ["--cuda-graph"] * (not self.cuda_graph and self.parallel == "none")
        return f"use {', '.join(faster)}{' or ' if faster else ''}a larger --batch"

    @property
    def smaller(self) -> str:
        """What to do where memory runs out."""
        return f"try a smaller --batch or --{'context' if self.mode == 'decode' else 'seq-len'}"


class StepTime(msgspec.Struct, frozen=True):
    """Seconds of one step. spread: interquartile range over median. A sample is the mean of `steps` steps in a row."""

    median: Positive
    p25: Positive
    p75: Positive
    min: Positive
    n: Whole
    spread: NotNegative
    samples: list[Positive]
    steps: Whole = 1

    @classmethod
    def of(cls, samples: list[float], steps: int = 1) -> "StepTime":
        p25, median, p75 = quartiles(samples)
        return cls(median, p25, p75, min(samples), len(samples), (p75 - p25) / median if median else 0.0, samples, steps)

    @property
    def wide(self) -> bool:
        """Whether the middle half of the samples is wider than it should be."""
        return self.spread > WIDE


class Flops(msgspec.Struct, frozen=True):
    """FLOPs of one step: of the model, by the convention; and those that the hardware is asked for, recomputed ones included."""

    step: Amount
    hardware: Amount


class WarmUpTime(msgspec.Struct, frozen=True):
    """What came before the clock counted; first_step_s includes compilation, and the capture of a graph."""

    steps: int
    seconds: float
    first_step_s: float


class Memory(msgspec.Struct, frozen=True):
    """The most that the model and its steps held. reserved: by torch's allocator, GPU only."""

    allocated: Count | None
    reserved: Count | None
    source: Text


class Energy(msgspec.Struct, frozen=True):
    """Of the whole GPU board, idle power included, over a run of this model alone."""

    joules_per_step: Positive
    joules_per_token: Positive
    watts: Positive

    @property
    def step_s(self) -> float:
        """Seconds of a step in that run, new tokens included."""
        return self.joules_per_step / self.watts


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One model at one point. step_bytes: the fewest that a step moves through memory. tokens_per_s counts new tokens. mfu and
    hfu are shares of `peak`, mfu_reached of what the device reached; mbu and mbu_reached of its memory's bandwidth: step_bytes over
    the step's time. drawn: tokens pass routed blocks by chance of their share.
    expectation: FLOPs are expected ones, for that or for no-op experts.
    """

    spec: Text
    spec_sha256: str
    params: Whole
    flops: Flops
    step_bytes: Amount
    warmup: WarmUpTime
    step_time_s: StepTime
    launch_s: float | None
    tokens_per_s: Positive
    flops_per_s: NotNegative
    mfu: NotNegative | None
    hfu: NotNegative | None
    mfu_reached: NotNegative | None
    peak_memory_bytes: int | None
    memory: Memory
    energy: Energy | None
    loss: float | None
    drawn: bool = False
    expectation: bool = False
    mbu: NotNegative | None = None  # None too in records of before there was one
    mbu_reached: NotNegative | None = None


def as_baseline(spec: str) -> str:
    """What a model is called that runs beside itself."""
    return f"{spec} (as baseline)"


class Baseline(Measured, frozen=True, kw_only=True):
    """The other model of a comparison, and the ratios spec / baseline. Intervals are [low, high] at `confidence`, null with too few samples.
    build_ratios: the median of each build of both models, where they were built more than once.
    """

    flop_ratio: NotNegative
    time_ratio: Positive
    build_ratios: list[Positive] = []
    time_ratio_interval: tuple[float, float] | None
    confidence: float | None
    realised_saving: float | None
    realised_saving_interval: tuple[float, float] | None

    def __post_init__(self) -> None:
        for name in ("time_ratio_interval", "realised_saving_interval"):
            found = getattr(self, name)
            if found and found[0] > found[1]:
                raise ValueError(f"{name} begins above its end")


class Ranks(msgspec.Struct, frozen=True):
    """A run of many processes. step_time_s: each rank's median. skew: (slowest - fastest) / median of them.

    communication_s: time of a step in which a collective was under way on rank 0, waiting for slower ranks included;
    exposed_s: the part of it in which nothing else ran (null where the device does not tell).
    """

    world_size: Whole
    backend: Text
    parallel: Parallel
    step_time_s: list[float]
    skew: float
    communication_s: float
    communication_share: float
    exposed_s: float | None


class Line(msgspec.Struct, frozen=True):
    """Time and FLOPs of one component (or layer, or path) in one step. bytes: the fewest that it moves; None where they are not known, as in
    older records.
    """

    label: Text
    time_s: float
    share: float
    flops: int | float
    flops_per_s: float | None
    bytes: Amount | None = None


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """Where an eager step's time goes. step_time_s: the step under the profiler, a mean of `rounds`; unprofiled_s: the same without
    it, to which the lines, `other` last, add up. routing: the overhead of Mixture-of-Depths, by part and in all.
    """

    spec: Text
    by: Text
    rounds: Whole = 3
    step_time_s: Positive
    unprofiled_s: Positive
    lines: list[Line]
    routing: list[Line]
    routing_s: float
    routing_share: float


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag_field="status", tag="out_of_memory"):
    """A point that did not fit. world_size: processes of a torchrun that were to share it."""

    schema: Literal[1] = 1
    kind: Literal["profile"] = "profile"
    key: str
    protocol: Whole | None = None
    spec: Text
    baseline: Text | None
    settings: Settings
    device: Device
    torch: Text
    error: str
    world_size: int | None = None

    @property
    def doubts(self) -> list[str]:
        """What to say beside the row."""
        said = self.error.partition(". GPU ")[0]  # not how torch's allocator is tuned
        return [f"out of memory: {''.join(c if c.isprintable() else ' ' for c in said)}"]


class CountedBy(msgspec.Struct, frozen=True):
    """By whose rule FLOPs are counted. causal: which pairs of tokens count."""

    name: Text
    causal: Literal["full", "half", "exact"]
    counts: Text


class Result(Measured, frozen=True, kw_only=True, tag_field="status", tag="ok"):
    """A finished point. protocol: see PROTOCOL; records did not say it at first. time: when it was measured (UTC); rated: when it was
    told another peak.
    """

    schema: Literal[1] = 1
    kind: Literal["profile"] = "profile"
    key: str
    protocol: Whole | None = None
    time: Text
    device: Device
    torch: Text
    mode: Mode
    dtype: Text
    settings: Settings
    workload: dict[str, int]
    convention: CountedBy
    peak: Peak | None
    reached: Peak | None
    baseline: Baseline | None
    ranks: Ranks | None = None
    attribution: list[Attribution] = []
    warnings: list[Text] = []
    rated: Text | None = None

    @property
    def doubts(self) -> list[str]:
        """What to say beside the row."""
        if self.knows_bytes or self.baseline is None:
            return self.warnings
        by = f"protocol {self.protocol}" if self.protocol else "a protocol that it does not name"
        return [*self.warnings, f"measured by {by}; below {BYTES_SINCE} the ratio of bytes of a model that routes is too high"]

    @property
    def knows_bytes(self) -> bool:
        """Whether step_bytes are what is meant by them today; but for experts at decode, which were counted as many as there can be below 15."""
        return self.mode != "decode" or (self.protocol or 0) >= BYTES_SINCE

    def timed(self, name: str) -> Measured:
        """The model of that name; the spec, where older records call the baseline alike."""
        return self.baseline if self.baseline and name == self.baseline.spec != self.spec else self

    @property
    def alone_ratio(self) -> float | None:
        """Time ratio of runs of each model alone, where energy was measured: what runs in turn shares the device's power and clock."""
        e, base = self.energy, self.baseline and self.baseline.energy
        return e.step_s / base.step_s if e and base else None

    @property
    def byte_ratio(self) -> float | None:
        """Spec over baseline in the fewest bytes that a step moves: what is to be saved where memory sets the pace, as at decode."""
        return self.baseline and self.step_bytes / self.baseline.step_bytes


Record = Result | Failed


def ends(interval: Interval | None) -> tuple[float, float] | None:
    """[low, high] of an interval that has them."""
    return None if interval is None or interval.low is None else (interval.low, interval.high)
