"""Options of `modcalc flops`, and whether they go together."""

from collections.abc import Set
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from modcalc.cli.devices import demand_mfu, demand_model_flops, one_device
from modcalc.cli.options import check_decode, flags, option
from modcalc.errors import MissingDependency, UsageError

if TYPE_CHECKING:
    from modcalc.cost.roofline import Roof
    from modcalc.cost.training import Cluster, Spent

Counting = Annotated[
    Literal["analytic", "fvcore", "torch", "all"] | None,
    option("--count", help="Also count by running the model on the meta device. [default: by all counters installed; with --sweep: analytic]"),
]
Backward = Annotated[bool, typer.Option("--backward", help="Backward pass and train step too (phase train has them anyway).")]
Tokens = Annotated[
    str | None,
    option("--tokens", metavar="COUNT", help="With --backward: tokens of a training run, such as 15T. [default: by the spec's train]"),
]
Gpus = Annotated[int | None, option("--gpus", min=1, max=10**9, help="How long that run takes so many devices.")]
GpuName = Annotated[
    str | None,
    option(
        "--gpu", metavar="NAME", help="How long a step takes at least by this GPU's roofline in bf16; with --gpus or --device-hours: which they are."
    ),
]
GpuBandwidth = Annotated[
    float | None, option("--gb-per-s", min=1e-6, max=1e9, help="With --peak-tflops, for the roofline: its memory bandwidth in GB/s.")
]
Mfu = Annotated[float | None, option("--mfu", help="With --gpus: the share of their peak that training reaches, in model FLOPs.")]
DeviceHours = Annotated[
    str | None,
    option(
        "--device-hours", metavar="HOURS", help="In place of --gpus and --mfu: hours of one device that the run took, such as 2.7M; tells its MFU."
    ),
]
By = Annotated[
    Literal["total", "component", "layer", "path"] | None,
    option("--by", help="Rows of the table. [default: component; several specs: total]"),
]


def check(words: Set[str], along: Set[str], phase: str, causal: str | None, backward: bool, of_training: list[str]) -> None:
    """Options that contradict each other; Workload checks the rest. words: options that the user wrote; along: settings in --sweep;
    of_training: options given that say how a train step runs.
    """
    from modcalc.cost.workload import SAMPLING

    check_decode("--phase", phase, "context" in words | along, "seq_len" in words, causal)
    if along and (one := words & {"by", "recompute", "attention"}):
        raise UsageError(f"{flags(one)} with --sweep: it tells more of one point; leave one of them out")
    of_training = ["--backward"] * backward + of_training
    if phase in SAMPLING and of_training:
        raise UsageError(f"{' and '.join(of_training)} with --phase {phase}: sampling has no backward pass")
    if of_training and not (backward or phase == "train"):
        raise UsageError(f"{' and '.join(of_training)} without a train step: add --backward")


def timing_of(
    gpus: int | None, gpu: str | None, peak_tflops: float | None, mfu: float | None, device_hours: str | None, convention: str
) -> "Cluster | Spent | None":
    """The devices that a run is timed on, or took so many hours of; no figure of theirs is guessed."""
    from modcalc.cost.training import Cluster, Spent
    from modcalc.units import parse_count

    timed = "--gpus" if gpus is not None else "--device-hours" if device_hours is not None else None
    if timed is None and mfu is not None:
        raise UsageError("--mfu without --gpus: no run is timed; say how many there are")
    if timed is None:
        return None
    hours = None if device_hours is None else parse_count(device_hours, "--device-hours")
    if hours and (gpus or mfu):
        raise UsageError(f"--device-hours with {'--gpus' if gpus else '--mfu'}: it tells the MFU of a run that took so long; give one or the other")
    if not hours:
        demand_mfu(mfu)
    name, peak = one_device(timed, gpu, peak_tflops)
    demand_model_flops(timed, convention)
    if hours:
        return Spent(hours, name, peak.flops_per_s, peak.source)
    return Cluster(gpus, name, peak.flops_per_s, peak.source, mfu)


def roof_of(gpu: str | None, peak_tflops: float | None, gb_per_s: float | None, run: bool) -> "Roof | None":
    """The device that a step is held to; None where none is given, or a run is timed on it."""
    if gb_per_s is not None and (run or peak_tflops is None):
        where = "the time of a run goes by FLOPs" if run else "give --peak-tflops too; --gpu has a bandwidth of its own"
        raise UsageError(f"--gb-per-s: it belongs to the roofline of --peak-tflops; {where}")
    if run or (gpu is None and peak_tflops is None):
        return None
    name, peak = one_device("a roofline", gpu, peak_tflops, gb_per_s)
    if peak.bytes_per_s is None:
        raise UsageError(
            "--peak-tflops: a roofline needs the memory's bandwidth too; give --gb-per-s, "
            "or with --backward --gpus and --mfu, or --device-hours, to time a run"
        )
    from modcalc.cost.roofline import Roof
    from modcalc.measure.hardware import datasheet

    sheet = name and datasheet(name)
    return Roof(name, peak.flops_per_s, peak.bytes_per_s, peak.source, sheet.memory_gb * 2**30 if sheet and sheet.memory_gb else None)


def counters_of(asked: str | None, phase: str, sweep: bool) -> list[str]:
    """The counters to run: those asked for, which must be there, or all that are; none at sampling, where routing decides what is computed,
    and of a sweep none that was not asked for.
    """
    from modcalc.cost.workload import SAMPLING

    if asked == "analytic" or (asked is None and (sweep or phase in SAMPLING)):
        return []
    from modcalc.measure.counters import COUNTERS, installed

    if phase in SAMPLING:
        raise UsageError(f"--count {asked} with --phase {phase}: counters run whole sequences; use --phase forward, or --count analytic")
    if asked is None:
        return installed()
    names = list(COUNTERS) if asked == "all" else [asked]
    missing = [name for name in names if name not in installed()]
    if missing:
        raise MissingDependency(f"--count {asked}: {' and '.join(missing)} cannot be used; run: pip install 'modcalc[torch]'")
    return names
