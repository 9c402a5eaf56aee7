"""The device that FLOPs become seconds on, as options name it. No figure of it is guessed."""

from typing import TYPE_CHECKING, Annotated

from modcalc.cli.options import finite, option
from modcalc.errors import UsageError

if TYPE_CHECKING:
    from modcalc.measure.hardware import Peak

GpuPeak = Annotated[float | None, option("--peak-tflops", min=1e-6, max=1e9, help="In place of --gpu: its peak in TFLOP/s.")]


def one_device(what: str, gpu: str | None, peak_tflops: float | None, gb_per_s: float | None = None) -> "tuple[str | None, Peak]":
    """The one device that is given, and its peak in bf16."""
    finite({"peak_tflops": peak_tflops, "gb_per_s": gb_per_s})
    if gpu is not None and peak_tflops is not None:
        raise UsageError("--gpu with --peak-tflops: each says what the device can do; give one or the other")
    if gpu is None and peak_tflops is None:
        raise UsageError(f"{what}: give either --gpu NAME, whose datasheet is known, or --peak-tflops")
    from modcalc.measure.hardware import named_peak, peak

    return (None, peak("", "bf16", peak_tflops, gb_per_s)) if gpu is None else named_peak(gpu, "bf16")


def demand_model_flops(what: str, convention: str) -> None:
    """Raises UsageError for a convention whose FLOPs no MFU is of."""
    from modcalc.cost.conventions import find_convention

    rule = find_convention(convention)
    if rule.multiply_add != 2 or rule.recompute_terms:
        rates = "; of a published rate with recomputation in it, only the model's share is MFU" if rule.recompute_terms else ""
        raise UsageError(
            f"{what} with --convention {convention}: MFU is of the model's own FLOPs at 2 per multiply-add; take another convention{rates}"
        )


def demand_mfu(mfu: float | None) -> None:
    """Raises UsageError for what is no share of a peak."""
    if mfu is None or not 0 < mfu <= 1:
        found = "it is not given" if mfu is None else f"found {mfu:g}"
        raise UsageError(f"--mfu: {found}; allowed is a share above 0 and up to 1, such as 0.4 (modcalc profile --mode train measures it)")
