"""`modcalc profile`: measured step times, against the FLOPs that were promised."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from modcalc.cli.options import AsMod, Batch, Causal, Format, Plot, SeqLen, Sweep, given
from modcalc.cli.profile_options import (
    Again,
    Bandwidth,
    BaselineName,
    Builds,
    By,
    Compile,
    Context,
    CudaGraph,
    DeviceName,
    Dtype,
    Iterations,
    Mode,
    Out,
    Parallel,
    Peaks,
    PeakTflops,
    Seconds,
    Specs,
    Trace,
    WarmUp,
    check,
    check_peaks,
)
from modcalc.cli.targets import targets
from modcalc.errors import UsageError

if TYPE_CHECKING:
    import torch

    from modcalc.measure.distributed import World
    from modcalc.measure.hardware import Peak
    from modcalc.measure.point import Job
    from modcalc.measure.records import Record
    from modcalc.measure.results import ResultsFile
    from modcalc.measure.rigs import Say


def profile(
    ctx: typer.Context,
    specs: Specs = None,
    mod: AsMod = None,
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
    builds: Builds = None,
    by: By = None,
    trace: Trace = None,
    peaks: Peaks = False,
    peak_tflops: PeakTflops = None,
    gb_per_s: Bandwidth = None,
    parallel: Parallel = None,
    causal: Causal = None,
    plot: Plot = None,
    out: Out = None,
    again: Again = False,
    format: Format = None,
) -> None:
    """Step times of real models, median with quartiles, and what becomes of the FLOPs.

    Each step has new random tokens; warm-up and compilation are not counted. With --baseline both models run in turn; the
    time ratio with its interval, the FLOP ratio and the realised saving are given. Interrupted, the points that are finished are kept.
    """
    from modcalc.cli.loading import load_as
    from modcalc.measure import hardware
    from modcalc.render.output import chosen
    from modcalc.spec.load import told_apart

    format = chosen(format)
    check(given(ctx), specs, mode, causal, sweep or (), {"seconds": seconds})
    check_peaks(peak_tflops, gb_per_s)
    where = hardware.pick(device)
    dtype = dtype or ("bf16" if where.type == "cuda" else "fp32")
    against = baseline not in (None, "dense")
    sources = [(name, mod) for name in specs or ()] + ([(baseline, None)] if against else [])
    named = [name for name, _ in sources]
    loaded = told_apart([load_as(*source) for source in sources], named)
    other = loaded.pop() if against else None
    target = targets({"--out": out, "--plot": plot, "--trace": trace}, dict.fromkeys(named, "the spec"))
    if target and by == "path":
        print("warning: --plot: a breakdown by path has too many lines to draw; --by component and --by layer are drawn", file=sys.stderr)
    with _world(where) as world:
        where = world.device if world else where
        hardware.pick_dtype(dtype, where)  # not before: each process must touch its own GPU alone
        promise = hardware.peak(hardware.describe(where).name, dtype, peak_tflops, gb_per_s)
        if not loaded:
            return _peaks(where, dtype, promise, format, world)

        from modcalc.cost.axes import axis
        from modcalc.measure.jobs import jobs
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
            builds=builds,
        )
        by = by or ("component" if trace else None)
        shared = Job(spec=loaded[0], baseline=other, settings=settings, device=where, peak=promise, by=by, trace=trace, world=world)
        todo = jobs(shared, loaded, [axis(text) for text in sweep or ()], dense=baseline == "dense")
        _measure(todo, peaks, out, again, target, format)


@contextmanager
def _world(device: "torch.device") -> Iterator["World | None"]:
    """The processes of a torchrun, if this is one of them."""
    from modcalc.measure.distributed import World, started_by_torchrun

    if not started_by_torchrun():
        yield None
        return
    world = World.join(device)
    yield world
    world.leave()  # not after an error: over NCCL it would wait for processes that wait for this one


def _peaks(device: "torch.device", dtype: str, promise: "Peak | None", format: str, world: "World | None") -> None:
    """What the device reaches (under torchrun the first one), and nothing else."""
    from modcalc.measure import caveats
    from modcalc.measure.hardware import describe
    from modcalc.render.output import emit
    from modcalc.render.profile import peaks_document, peaks_table
    from modcalc.render.progress import working

    if world and world.rank:
        return
    found = _reached(device, dtype, working)
    machine = describe(device)
    if promise and (doubt := caveats.beyond_peak("matrix product", found.flops_per_s / promise.flops_per_s, promise.source)):
        print(f"warning: {doubt}", file=sys.stderr)
    emit(peaks_document(machine, dtype, promise, found), [peaks_table(machine, dtype, promise, found)], format)


def _measure(todo: "list[Job]", peaks: bool, out: str | None, again: bool, target: Path | None, format: str) -> None:
    """Measure every job, say what is doubtful, and show all at the end, or what there is when interrupted."""
    from modcalc.measure.reach import with_peaks
    from modcalc.measure.records import Failed, Record
    from modcalc.measure.results import ResultsFile
    from modcalc.measure.rigs import quiet
    from modcalc.measure.sweep import run
    from modcalc.render.output import emit
    from modcalc.render.points import point_name, warnings
    from modcalc.render.profile import document, tables
    from modcalc.render.progress import working

    world = todo[0].world
    first = world is None or world.rank == 0

    def during(text: str) -> "AbstractContextManager[Say]":
        return working(text) if first else nullcontext(quiet)

    def measuring(job: "Job") -> "AbstractContextManager[Say]":
        name = point_name(job.spec.name, job.settings)
        if first and file:
            _say_what_it_replaces(name, job, file, again)
        return during(f"measuring {name}, {_promise(job)}")

    file = ResultsFile(out) if out else None  # in every process, so that all stop at a file that is not ours
    records: list[Record] = []
    stopped: BaseException | None = None
    with file if file and first else nullcontext() as results:
        before = dict(results.records) if results and again else {}
        todo = with_peaks(todo, file, again, lambda device, dtype: _reached(device, dtype, during, world) if peaks else None)
        if results and results.cut:
            print(f"warning: {out}: its last line is cut off; the point there counts as not measured", file=sys.stderr)
        try:
            for record, fresh in run(todo, results, measuring, again=again):
                records.append(record)
                if first and not fresh:
                    full = "; memory ran out then; --again measures all points of a command once more" if isinstance(record, Failed) else ""
                    print(f"{point_name(record.spec, record.settings)}: already in {out}{full}", file=sys.stderr)
                if first:
                    for doubt in warnings([record]):
                        print(f"warning: {doubt}", file=sys.stderr)
        except (KeyboardInterrupt, UsageError) as why:
            stopped = why
            records = _known(todo, records, results, before) if results else records
        if first and records:
            emit(document(records, len(todo)), tables(records, format), format)
            if target and not all(isinstance(record, Failed) for record in records):
                from modcalc.render.plot_profile import plot_profile

                plot_profile(target, records)
        if isinstance(stopped, UsageError):
            raise stopped
    if stopped:
        if first:
            print(f"interrupted: {len(records)} of {len(todo)} points were measured", file=sys.stderr)
        raise typer.Exit(130)
    if all(isinstance(record, Failed) for record in records):
        raise UsageError(f"no point fitted into memory: {records[0].error}; {records[0].settings.smaller}")


def _say_what_it_replaces(name: str, job: "Job", file: "ResultsFile", again: bool) -> None:
    """Why a point that the file holds is measured once more, or what is lost by that."""
    from modcalc.measure.records import Result

    known = file.records.get(job.key())
    if known and not again:
        print(f"{name}: in {file.path} without {f'--trace {job.trace}' if job.trace else f'--by {job.by}'}, so measured again", file=sys.stderr)
    elif isinstance(known, Result) and (lost := sorted({a.by for a in known.attribution} - {job.by})):
        print(f"{name}: its time by {' and '.join(lost)} in {file.path} is of the measurement that this one replaces", file=sys.stderr)


def _known(todo: "list[Job]", records: "list[Record]", results: "ResultsFile", before: dict[str, "Record"]) -> "list[Record]":
    """Of a run that stopped, all that is known of its jobs and was not there `before`: also points behind the last one, and one that the
    disk had no room for.
    """
    from modcalc.measure.sweep import recalled

    shown = {record.key: record for record in records}
    jobs = [job for job in todo if results.records.get(job.key()) is not before.get(job.key())]
    return [record for job in jobs if (record := shown.get(job.key()) or recalled(job, results))]


def _promise(job: "Job") -> str:
    """What a step costs, which tells how long to wait before any step is over."""
    from modcalc.measure.rigs import promised, step_flops
    from modcalc.render.numbers import si

    return f"{si(step_flops(promised(job.spec, job.settings), job.device.type).step, 'FLOPs')} a step"


def _reached(device: "torch.device", dtype: str, during: "Callable[[str], AbstractContextManager]", world: "World | None" = None) -> "Peak":
    """What the device reaches, with a sign of life, and a word if that is doubtful."""
    from modcalc.measure import caveats
    from modcalc.measure.hardware import describe
    from modcalc.measure.reach import shared

    with during("measuring what the device reaches"):
        found = shared(device, dtype, world)
    if (world is None or world.rank == 0) and (doubt := caveats.busy(describe(device))):
        print(f"warning: --peaks: {doubt}", file=sys.stderr)
    return found
