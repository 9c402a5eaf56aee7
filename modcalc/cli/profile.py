"""`modcalc profile`: measured step times, against the FLOPs that were promised."""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from modcalc.cli.options import Batch, Causal, Format, Plot, SeqLen

if TYPE_CHECKING:
    import torch

    from modcalc.measure.distributed import World
    from modcalc.measure.hardware import Peak
    from modcalc.measure.point import Job

Specs = Annotated[
    list[str] | None,
    typer.Argument(help="Spec files, shipped names (modcalc specs), or config.json of the transformers library.", show_default=False),
]
DeviceName = Annotated[Literal["auto", "cuda", "cpu"], typer.Option("--device", help="auto: the GPU if there is one.")]
Mode = Annotated[
    Literal["forward", "train", "prefill", "decode"],
    typer.Option("--mode", help="forward: logits, no gradients; train: forward, backward and AdamW; prefill, decode: sampling with a cache."),
]
Context = Annotated[
    int | None, typer.Option("--context", "-S", min=0, help="Tokens already cached (prefill: default 0; decode: required).", show_default=False)
]
Dtype = Annotated[
    Literal["bf16", "fp16", "fp32"] | None,
    typer.Option("--dtype", help="Of weights and work. [default: bf16 on a GPU, fp32 on the CPU]", show_default=False),
]
Compile = Annotated[
    bool | None, typer.Option("--compile/--no-compile", help="Through torch.compile. [default: yes on a GPU, but for sampling]", show_default=False)
]
CudaGraph = Annotated[bool, typer.Option("--cuda-graph", help="Capture a step as a CUDA graph and replay it.")]
BaselineName = Annotated[
    str | None,
    typer.Option("--baseline", metavar="SPEC", help="Run in turn with this one and compare; dense: the same shape unrouted.", show_default=False),
]
Sweep = Annotated[
    list[str] | None,
    typer.Option("--sweep", metavar="NAME=A,B,…", help="Points over batch, seq-len or context; may be given again.", show_default=False),
]
Seconds = Annotated[float | None, typer.Option("--seconds", min=0.0, help="Time for samples, per point. [default: 5]", show_default=False)]
Iterations = Annotated[int | None, typer.Option("--iterations", "-n", min=1, help="Samples of each model, instead of --seconds.", show_default=False)]
WarmUp = Annotated[
    int | None, typer.Option("--warmup", min=1, help="Steps before the clock counts. [default: at least 3, for at least 1 s]", show_default=False)
]
By = Annotated[
    Literal["component", "layer", "path"] | None,
    typer.Option("--by", help="Where the time of the eager step goes, by the torch profiler.", show_default=False),
]
Trace = Annotated[
    str | None, typer.Option("--trace", metavar="FILE", help="Write a Chrome trace of the spec's step (implies --by component).", show_default=False)
]
Peaks = Annotated[bool, typer.Option("--peaks", help="Measure what the device reaches (matrix product, copy); without SPEC, nothing else.")]
PeakTflops = Annotated[
    float | None, typer.Option("--peak-tflops", min=1e-6, help="The device's peak in TFLOP/s. [default: its datasheet]", show_default=False)
]
Parallel = Annotated[Literal["ddp", "fsdp"] | None, typer.Option("--parallel", help="Under torchrun. [default: ddp]", show_default=False)]
Out = Annotated[
    str | None,
    typer.Option(
        "--out", "-o", metavar="FILE", help="Append points to FILE (JSON Lines); those it holds are not measured again.", show_default=False
    ),
]


def profile(
    specs: Specs = None,
    device: DeviceName = "auto",
    mode: Mode = "forward",
    batch: Batch = 1,
    seq_len: SeqLen = None,
    context: Context = None,
    dtype: Dtype = None,
    compile: Compile = None,
    cuda_graph: CudaGraph = False,
    baseline: BaselineName = None,
    sweep: Sweep = None,
    seconds: Seconds = None,
    iterations: Iterations = None,
    warmup: WarmUp = None,
    by: By = None,
    trace: Trace = None,
    peaks: Peaks = False,
    peak_tflops: PeakTflops = None,
    parallel: Parallel = None,
    causal: Causal = None,
    plot: Plot = None,
    out: Out = None,
    format: Format = None,
) -> None:
    """Step times of real models, median with quartiles, and what becomes of the FLOPs.

    Each step has new random tokens; warm-up and compilation are not counted. With --baseline both models run in turn; the
    time ratio with its interval, the FLOP ratio and the realised saving are given. Interrupted, what was measured is kept.
    """
    from modcalc.measure import hardware
    from modcalc.render.output import chosen
    from modcalc.spec.load import load

    format = chosen(format)
    _check(specs, peaks, mode, seq_len, context, sweep, parallel)
    where = hardware.pick(device)
    dtype = dtype or ("bf16" if where.type == "cuda" else "fp32")
    hardware.pick_dtype(dtype, where)
    loaded = [load(name) for name in specs or ()]
    other = load(baseline) if baseline not in (None, "dense") else None
    target = _targets(plot, trace)
    with _world(where) as world:
        where = world.device if world else where
        promise = hardware.peak(hardware.describe(where).name, dtype, peak_tflops)
        if not loaded:
            return _peaks(where, dtype, promise, format)

        from modcalc.measure.jobs import axis, jobs
        from modcalc.measure.point import Job
        from modcalc.measure.records import Settings

        settings = Settings(
            mode=mode,
            batch=batch,
            seq_len=seq_len or 0,
            context=context or 0,
            dtype=dtype,
            compile=where.type == "cuda" and mode in ("forward", "train") if compile is None else compile,
            cuda_graph=cuda_graph,
            causal=causal or "full",
            parallel=(parallel or "ddp") if world else "none",
            seconds=seconds,
            iterations=iterations,
            warmup=warmup,
        )
        by = by or ("component" if trace else None)
        shared = Job(spec=loaded[0], baseline=other, settings=settings, device=where, peak=promise, by=by, trace=trace, world=world)
        todo = jobs(shared, loaded, [axis(text) for text in sweep or ()], dense=baseline == "dense")
        _measure(todo, peaks, out, target, format)


def _check(
    specs: list[str] | None, peaks: bool, mode: str, seq_len: int | None, context: int | None, sweep: list[str] | None, parallel: str | None
) -> None:
    """What is wrong with the words alone, before torch is imported."""
    from modcalc.errors import UsageError

    if not specs and not peaks:
        raise UsageError("nothing to measure: name a SPEC, or give --peaks for the device alone")
    if mode == "decode" and context is None and not any(text.strip().startswith("context") for text in sweep or ()):
        raise UsageError("--mode decode: say how many tokens are already cached with --context S")
    if mode == "decode" and seq_len is not None:
        raise UsageError("--seq-len with --mode decode: one token per sequence is computed; give its history with --context")
    if parallel and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise UsageError(f"--parallel {parallel}: start it under torchrun: torchrun --nproc-per-node 8 --no-python modcalc profile ...")


def _targets(plot: str | None, trace: str | None) -> Path | None:
    """Where the plot goes; both files are checked before anything is measured."""
    from modcalc.errors import UsageError
    from modcalc.render.plot import plot_target

    if trace and (Path(trace).is_dir() or not Path(trace).absolute().parent.is_dir()):
        raise UsageError(f"--trace {trace}: a folder, or in a folder that is not there")
    return plot_target(plot) if plot else None


@contextmanager
def _world(device: "torch.device") -> Iterator["World | None"]:
    """The processes of a torchrun, if this is one of them."""
    from modcalc.measure.distributed import World, started_by_torchrun

    if not started_by_torchrun():
        yield None
        return
    world = World.join(device)
    try:
        yield world
    finally:
        world.leave()


def _peaks(device: "torch.device", dtype: str, promise: "Peak | None", format: str) -> None:
    """What the device reaches, and nothing else."""
    from modcalc.measure.hardware import describe
    from modcalc.measure.reach import reached
    from modcalc.render.output import emit
    from modcalc.render.profile import peaks_document, peaks_table
    from modcalc.render.progress import working

    with working("measuring what the device reaches"):
        found = reached(device, dtype)
    machine = describe(device)
    emit(peaks_document(machine, dtype, promise, found), [peaks_table(machine, dtype, promise, found)], format)


def _measure(todo: "list[Job]", peaks: bool, out: str | None, target: Path | None, format: str) -> None:
    """Measure every job, say what is doubtful, and show all at the end, or what there is when interrupted."""
    from modcalc.errors import UsageError
    from modcalc.measure.records import Failed, Record
    from modcalc.measure.sweep import ResultsFile, run
    from modcalc.render.output import emit
    from modcalc.render.profile import document, point_name, tables
    from modcalc.render.progress import working

    world = todo[0].world
    first = world is None or world.rank == 0

    def during(text: str) -> AbstractContextManager[None]:
        return working(text) if first else nullcontext()

    if peaks:
        from modcalc.measure.reach import reached

        with during("measuring what the device reaches"):
            found = reached(todo[0].device, todo[0].settings.dtype)
        todo = [replace(job, reached=found) for job in todo]
    records: list[Record] = []
    interrupted: KeyboardInterrupt | None = None
    with ResultsFile(out) if out and first else nullcontext() as results:
        if results and results.cut:
            print(f"warning: {out}: a line was cut off; its point is measured again", file=sys.stderr)
        try:
            for record, fresh in run(todo, results, lambda job: during(f"measuring {point_name(job.spec.name, job.settings)}")):
                records.append(record)
                if first and not fresh:
                    print(f"{point_name(record.spec, record.settings)}: already in {out}", file=sys.stderr)
                if first and not isinstance(record, Failed):
                    for doubt in record.warnings:
                        print(f"warning: {doubt}", file=sys.stderr)
        except KeyboardInterrupt as stop:
            interrupted = stop
            if results:  # a point may be on disk and not yet here
                records = [results.records[key] for job in todo if (key := job.key()) in results.records]
    if first and records:
        emit(document(records), tables(records), format)
        if target:
            from modcalc.render.plot_profile import plot_profile

            plot_profile(target, records)
    if interrupted:
        print(f"interrupted: {len(records)} of {len(todo)} points were measured", file=sys.stderr)
        raise interrupted
    if all(isinstance(record, Failed) for record in records):
        raise UsageError(f"no point fitted into memory: {records[0].error}; try a smaller --batch or --seq-len")
