"""Options of `modcalc flops`, and whether they go together."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from modcalc.cli.options import check_decode, finite, option
from modcalc.errors import MissingDependency, UsageError

if TYPE_CHECKING:
    from modcalc.cost.training import Cluster, Spent

Counting = Annotated[
    Literal["analytic", "fvcore", "torch", "all"] | None,
    option("--count", help="Also count by running the model on the meta device. [default: by all counters installed]"),
]
Backward = Annotated[bool, typer.Option("--backward", help="Backward pass and train step too (phase train has them anyway).")]
Tokens = Annotated[
    str | None,
    option("--tokens", metavar="COUNT", help="With --backward: tokens of a training run, such as 15T. [default: by the spec's train]"),
]
Gpus = Annotated[int | None, option("--gpus", min=1, max=10**9, help="How long that run takes so many devices.")]
GpuName = Annotated[str | None, option("--gpu", metavar="NAME", help="With --gpus or --device-hours: their bf16 peak by datasheet.")]
GpuPeak = Annotated[float | None, option("--peak-tflops", min=1e-6, max=1e9, help="In place of --gpu: their peak in TFLOP/s.")]
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


def check(phase: str, context: int | None, seq_len: int | None, causal: str | None, backward: bool, of_training: list[str]) -> None:
    """Options that contradict each other; Workload checks the rest. of_training: options given that say how a train step runs."""
    from modcalc.cost.workload import SAMPLING

    check_decode("--phase", phase, context is not None, seq_len is not None, causal)
    of_training = ["--backward"] * backward + of_training
    if phase in SAMPLING and of_training:
        raise UsageError(f"{' and '.join(of_training)} with --phase {phase}: sampling has no backward pass")
    if of_training and not (backward or phase == "train"):
        raise UsageError(f"{' and '.join(of_training)} without a train step: add --backward")


def timing_of(
    gpus: int | None, gpu: str | None, peak_tflops: float | None, mfu: float | None, device_hours: str | None, convention: str
) -> "Cluster | Spent | None":
    """The devices that a run is timed on, or took so many hours of; no figure of theirs is guessed."""
    from modcalc.cost.conventions import find_convention
    from modcalc.cost.training import Cluster, Spent
    from modcalc.units import parse_count

    timed = "--gpus" if gpus is not None else "--device-hours" if device_hours is not None else None
    given = [option for option, value in (("--gpu", gpu), ("--peak-tflops", peak_tflops), ("--mfu", mfu)) if value is not None]
    if timed is None and given:
        took = "" if mfu is not None else ", or by --device-hours what the run took"
        raise UsageError(f"{' and '.join(given)} without --gpus: nothing is timed; say how many there are{took}")
    if timed is None:
        return None
    hours = None if device_hours is None else parse_count(device_hours, "--device-hours")
    if hours and (gpus or mfu):
        raise UsageError(f"--device-hours with {'--gpus' if gpus else '--mfu'}: it tells the MFU of a run that took so long; give one or the other")
    if not hours and (mfu is None or not 0 < mfu <= 1):
        found = "it is not given" if mfu is None else f"found {mfu:g}"
        raise UsageError(f"--mfu: {found}; allowed is a share above 0 and up to 1, such as 0.4 (modcalc profile --mode train measures it)")
    finite({"peak_tflops": peak_tflops})
    if (gpu is None) == (peak_tflops is None):
        raise UsageError(f"{timed}: give either --gpu NAME, whose datasheet is known, or --peak-tflops")
    rule = find_convention(convention)
    if rule.multiply_add != 2 or rule.recompute_terms:
        rates = "; of a published rate with recomputation in it, only the model's share is MFU" if rule.recompute_terms else ""
        raise UsageError(
            f"{timed} with --convention {convention}: MFU is of the model's own FLOPs at 2 per multiply-add; take another convention{rates}"
        )
    from modcalc.measure.hardware import named_peak, peak

    name, found = (None, peak("", "bf16", peak_tflops)) if gpu is None else named_peak(gpu, "bf16")
    if hours:
        return Spent(hours, name, found.flops_per_s, found.source)
    return Cluster(gpus, name, found.flops_per_s, found.source, mfu)


def counters_of(asked: str | None, phase: str) -> list[str]:
    """The counters to run: those asked for, which must be there, or all that are; none at sampling, where routing decides what is computed."""
    from modcalc.cost.workload import SAMPLING

    if asked == "analytic" or (asked is None and phase in SAMPLING):
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
