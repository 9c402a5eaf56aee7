"""Options of `modcalc profile`, and whether they go together."""

import os
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Annotated, Literal

import typer

from modcalc.cli.options import PhaseName, check_decode, finite, flags, option, swept
from modcalc.errors import UsageError
from modcalc.spec.schema import MAX_SIZE

Specs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SPEC...]", help="Spec files, shipped names (modcalc specs), or config.json of the transformers library.", show_default=False
    ),
]
DeviceName = Annotated[Literal["auto", "cuda", "cpu"], typer.Option("--device", help="auto: the GPU if there is one.")]
Mode = Annotated[
    PhaseName,
    typer.Option(
        "--mode", "--phase", help="forward: logits, no gradients; train: forward, backward and AdamW; prefill, decode: sampling with a cache."
    ),
]
Context = Annotated[int | None, option("--context", "-S", min=0, max=MAX_SIZE, help="Tokens already cached; --mode decode needs it.")]
Dtype = Annotated[
    Literal["bf16", "fp16", "fp32"] | None,
    option("--dtype", help="Of weights and work. [default: bf16 on a GPU, fp32 on the CPU]"),
]
Compile = Annotated[
    bool | None,
    option("--compile/--no-compile", help="Through torch.compile, block by block. [default: yes on a GPU, but for sampling]"),
]
CudaGraph = Annotated[bool, typer.Option("--cuda-graph", help="Capture a step as a CUDA graph and replay it.")]
BaselineName = Annotated[
    str | None,
    option("--baseline", metavar="SPEC", help="Run in turn with this one and compare; dense: the same shape unrouted."),
]
Seconds = Annotated[
    float | None,
    option("--seconds", min=0.0, help="Time for samples, per point, of which at most 10,000 are taken. [default: 5]"),
]
Iterations = Annotated[int | None, option("--iterations", "-n", min=1, help="Samples of each model, instead of --seconds.")]
WarmUp = Annotated[
    int | None,
    option(
        "--warmup",
        min=1,
        help="Steps of each build before the clock (training at least 2 of the first). [default: at least 3, for at least 1 s; of later builds 1]",
    ),
]
Builds = Annotated[
    int | None,
    option(
        "--builds",
        min=1,
        help="Build the models so many times, on top of --seconds: where memory lies moves a build's steps. "
        "[default: 6, or --iterations if fewer, for --baseline, eager on the CPU without torchrun; else 1]",
    ),
]
By = Annotated[
    Literal["component", "layer", "path"] | None,
    option("--by", help="Where the time of the eager step goes, by the torch profiler."),
]
Trace = Annotated[
    str | None,
    option("--trace", metavar="FILE", help="Write a Chrome trace of the spec's step, .json or .json.gz (implies --by component)."),
]
Peaks = Annotated[bool, typer.Option("--peaks", help="Measure what the device reaches (matrix product, copy); without SPEC, nothing else.")]
PeakTflops = Annotated[float | None, option("--peak-tflops", min=1e-6, max=1e9, help="The device's peak in TFLOP/s. [default: its datasheet]")]
Bandwidth = Annotated[
    float | None, option("--gb-per-s", min=1e-6, max=1e9, help="With --peak-tflops: its memory's bandwidth in GB/s. [default: its datasheet]")
]
Parallel = Annotated[Literal["ddp", "fsdp"] | None, option("--parallel", help="Under torchrun. [default: ddp]")]
Out = Annotated[
    str | None,
    option(
        "--out",
        "-o",
        metavar="FILE",
        help="Append points to FILE (JSON Lines); those it holds are not measured again, but for a --by or --trace that they lack.",
    ),
]
Again = Annotated[bool, typer.Option("--again", help="Measure points that --out holds once more; their new lines count.")]


ALONE = {"device", "dtype", "peaks", "peak_tflops", "gb_per_s", "format", "specs"}  # what --peaks without a SPEC goes with


def check_peaks(peak_tflops: float | None, gb_per_s: float | None) -> None:
    """Whether a device's own figures are figures, and enough of them."""
    finite({"peak_tflops": peak_tflops, "gb_per_s": gb_per_s})
    if gb_per_s is not None and peak_tflops is None:
        raise UsageError("--gb-per-s: the bandwidth of the device that --peak-tflops is of; give that too")


def check(
    words: Set[str], specs: Sequence[str] | None, mode: str, causal: str | None, sweep: Sequence[str], numbers: dict[str, float | None]
) -> None:
    """What is wrong with the words alone, before torch is imported.

    words: the options that the user wrote. numbers: those that must be finite, by name.
    """
    if not specs and "peaks" not in words:
        raise UsageError("nothing to measure: name a SPEC, or give --peaks for the device alone")
    if not specs and words - ALONE:
        raise UsageError(f"{flags(words - ALONE)} with --peaks alone: it measures the device and no model; name a SPEC")
    along = swept(words, sweep)
    if {"seconds", "iterations"} <= words:
        raise UsageError("--seconds and --iterations: each says how long to measure; give one of them")
    finite(numbers)
    files = [Path(name).resolve() for name in specs or ()]
    if doubles := [name for name, file in zip(specs or (), files, strict=True) if files.count(file) > 1]:
        raise UsageError(f"{doubles[-1]}: named twice; --baseline {doubles[-1]} compares it with itself")
    check_decode("--mode", mode, "context" in words | along, "seq_len" in words, causal)
    if "again" in words and "out" not in words:
        raise UsageError("--again: measures points of a results file once more; name it with --out")
    if "parallel" in words and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise UsageError("--parallel: start it under torchrun: torchrun --nproc-per-node 8 --no-python modcalc profile ...")
