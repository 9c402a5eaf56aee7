"""Option types of the commands that search shapes, and which of them need another. Help texts state the default."""

from collections.abc import Mapping
from typing import Annotated, Literal

import typer

from modcalc.cli.devices import demand_mfu, demand_model_flops, one_device
from modcalc.cli.options import option
from modcalc.errors import UsageError
from modcalc.spec.schema import MAX_SIZE

Budgets = Annotated[list[str] | None, option("--budget", metavar="FLOPS", help="Training FLOPs to spend, such as 6e18; may be repeated.")]
DeviceHours = Annotated[
    str | None,
    option(
        "--device-hours",
        metavar="HOURS",
        help="In place of --budget: the FLOPs that training gets out of so many hours of one device (devices x hours), such as 20K.",
    ),
]
GpuName = Annotated[str | None, option("--gpu", metavar="NAME", help="With --device-hours: which device, whose bf16 peak is known by datasheet.")]
Mfu = Annotated[float | None, option("--mfu", help="With --device-hours: the share of its peak that training reaches, in model FLOPs.")]
Match = Annotated[str | None, option("--match", metavar="OTHER", help="A spec whose cost the shapes shall have.")]
CostName = Literal["forward", "train", "params", "active", "non_embedding", "kv", "decode"]
By = Annotated[
    CostName | None,
    option("--by", help="With --match: which cost is equal. [default: forward]"),
]
Free = Annotated[
    str | None,
    option(
        "--free",
        metavar="KNOBS",
        help="Free knobs: n_layers,d_model,d_ff,capacity,every, each with values or not: n_layers=4:40:2, capacity=0.125,0.25. "
        "[default: n_layers,d_model; with --match also d_ff]",
    ),
]
Prefer = Annotated[
    Literal["closest", "deepest", "widest", "params"] | None,
    option(
        "--prefer",
        help="With --match or --beside: order of the shapes within --within. [default: deepest for a Mixture-of-Depths family, else closest]",
    ),
]
Per = Annotated[
    str | None,
    option(
        "--per",
        metavar="KNOBS",
        help="With --match: only the best shape of each combination of these knobs' values; none: all shapes. "
        "[default: with deepest n_layers, with widest d_model, and capacity,every where they are free]",
    ),
]
Within = Annotated[
    str, typer.Option("--within", metavar="SHARE", help="Relative difference to the target that is OK; a budget's above it is explained.")
]
Aspect = Annotated[
    str | None,
    option(
        "--aspect",
        metavar="LOW:HIGH",
        help="d_model / n_layers, or none. [default: 48:128; with --match 16:256, and what OTHER has; none where neither is free]",
    ),
]
FfRatio = Annotated[
    str | None,
    option("--ff-ratio", metavar="LOW:HIGH", help="d_ff / d_model where d_ff is free, or none. [default: within 25 % of the spec's]"),
]
ParamBand = Annotated[str | None, option("--params", metavar="LOW:HIGH", help="Parameters in all, such as 100M:1.5B. [default: any]")]
Ratio = Annotated[str | None, option("--tokens-per-param", metavar="LOW:HIGH", help="With --budget, or none. [default: 1:400]")]
Count = Annotated[
    Literal["params", "active", "non_embedding"] | None,
    option("--count", help="With --budget: which parameters tokens per parameter counts. [default: params, all of them]"),
]
MinSteps = Annotated[int | None, option("--min-steps", min=1, max=MAX_SIZE, help="With --budget: fewest whole steps. [default: 1]")]
StepBatch = Annotated[
    int | None,
    option("--batch", "-B", min=1, max=MAX_SIZE, help="With --budget: sequences of a step. [default: the spec's train.batch_size, else 128]"),
]
DecodeContext = Annotated[
    int | None, option("--context", "-S", min=0, max=MAX_SIZE, help="With --by decode: tokens already cached. [default: T - 1]")
]
Multiple = Annotated[
    int | None,
    option(
        "--multiple-of",
        min=1,
        max=MAX_SIZE,
        help="d_model and d_ff are multiples of this. [default: 64, as far as the spec's own d_ff is; d_model of whole heads too]",
    ),
]
HeadDim = Annotated[int | None, option("--head-dim", min=1, max=MAX_SIZE, help="Width of a head in every shape. [default: the spec's]")]
Beside = Annotated[
    str | None,
    option(
        "--beside",
        metavar="SPEC",
        help="With --budget: beside every OK row the shape of this family with the same forward FLOPs, by the defaults of the other options.",
    ),
]
Limit = Annotated[
    int | None,
    option(
        "--limit",
        min=1,
        max=10_000,
        help="Rows, besides those that are marked. [default: the 50 nearest to 20 tokens per parameter; with --match 20]",
    ),
]
Out = Annotated[str | None, option("--out", "-o", metavar="DIR", help="Write every OK row as a spec into this folder.")]
Force = Annotated[bool, typer.Option("--force", help="With --out: write into a folder that is not empty.")]


def paid_by(device_hours: str | None, gpu: str | None, peak_tflops: float | None, mfu: float | None, convention: str) -> "tuple[int, str] | None":
    """The budget that device-hours are, and that in words; None without them."""
    only_with("--device-hours", device_hours is not None, {"--gpu": gpu, "--peak-tflops": peak_tflops, "--mfu": mfu})
    if device_hours is None:
        return None
    from modcalc.cost.training import Cluster
    from modcalc.render.numbers import several
    from modcalc.render.wording import at_peak
    from modcalc.units import MAX_AMOUNT, parse_count

    hours = parse_count(device_hours, "--device-hours")
    demand_mfu(mfu)
    name, peak = one_device("--device-hours", gpu, peak_tflops)
    demand_model_flops("--device-hours", convention)
    device = Cluster(1, name, peak.flops_per_s, peak.source, mfu)
    flops = device.flops(hours)
    if not 1 <= flops <= MAX_AMOUNT:
        raise UsageError(f"--device-hours {device_hours}: {float(flops):.6g} FLOPs are no budget; allowed are 1 to {float(MAX_AMOUNT):g}")
    return flops, f"budget of {float(flops):.6g} FLOPs: {several(hours, 'device-hour')} of {at_peak(device)}, MFU {float(100 * mfu):g} % (--mfu)"


def only_with(what: str, given: bool, options: Mapping[str, object]) -> None:
    """Raises UsageError for options (name -> value, None: not given) that belong to `what`, unless that is given."""
    for name, value in options.items():
        if value is not None and not given:
            raise UsageError(f"{name}: it belongs to {what}, so it would change nothing")
