"""Many points, one after the other: each is written as soon as it is measured, and what is written is not measured again."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import msgspec
import torch

from modcalc.errors import UsageError, first_line
from modcalc.measure import caveats
from modcalc.measure.hardware import describe
from modcalc.measure.heap import give_back, keep
from modcalc.measure.point import Job, measure, now, unlike
from modcalc.measure.rating import named, rated
from modcalc.measure.records import PROTOCOL, Failed, Record, Result
from modcalc.measure.results import ResultsFile
from modcalc.measure.rigs import Say, quiet
from modcalc.measure.room import lacking
from modcalc.measure.usage import out_of_memory


def recalled(job: Job, results: ResultsFile | None) -> Record | None:
    """What `results` knows of the job, rated by its peaks; None where that does not tell all that is asked."""
    return _answer(job, _known(job, results))


def _answer(job: Job, known: Record | None) -> Record | None:
    if known is None or not job.answered_by(known):
        return None
    return rated(known, job.peak, job.reached) if isinstance(known, Result) else known


def _known(job: Job, results: ResultsFile | None) -> Record | None:
    """The record of the job's key, its models called as now."""
    known = results.records.get(job.key()) if results else None
    return known and named(known, job.spec.name, job.baseline and job.baseline.name)


def _kept(known: Record, before: Record | None, results: ResultsFile | None) -> Record:
    """What is known, written once more where it is a result under other peaks than before."""
    if results and isinstance(known, Result) and (known.peak, known.reached) != (before.peak, before.reached):
        known = msgspec.structs.replace(known, rated=now())
        results.append(known)
    return known


def _with_other_parts(record: Record, before: Record | None) -> Record:
    """The record with what `_known` says of where the time goes by other parts: the last line knows more."""
    if not (isinstance(record, Result) and isinstance(before, Result)):
        return record
    have = {(a.spec, a.by) for a in record.attribution}
    others = [a for a in before.attribution if (a.spec, a.by) not in have]
    doubts = unlike(record, others)
    return msgspec.structs.replace(record, attribution=[*record.attribution, *others], warnings=[*record.warnings, *doubts])


def run(
    jobs: Sequence[Job],
    results: ResultsFile | None = None,
    during: Callable[[Job], AbstractContextManager[Say]] | None = None,
    *,
    again: bool = False,
) -> Iterator[tuple[Record, bool]]:
    """Measure every job that `results` does not answer yet (again: every job), in order; yields (record, whether it was measured now).
    A known result under a new peak is written once more with its shares of that, and the last line counts.

    In a torchrun the first process alone has `results`, and tells the others. during: a context to measure in, which is told what is done.
    """
    for job in jobs:
        before = _known(job, results)
        known = None if again else _answer(job, before)
        if job.world:
            known = job.world.from_first(known)
        if known:
            yield _kept(known, before, results), False
            continue
        with during(job) if during else nullcontext(quiet) as say:
            record = measured_or_failed(job, say)
        stands = isinstance(record, Failed) and isinstance(before, Result)  # what is known is not given for what could not be measured
        if stands:
            known = _kept(rated(before, job.peak, job.reached), before, results)
            if not job.world:
                yield msgspec.structs.replace(known, warnings=[*known.warnings, caveats.ran_out(record.error)]), True
                continue
        elif results:
            record = record if again else _with_other_parts(record, before)  # figures that are doubted are not kept
            results.append(record)
        if job.world and isinstance(record, Failed):
            # The others may wait in collectives that will not come.
            kept = ""
            if stands:
                kept = "; what was measured before stands, so leave this point out"
            elif results:
                kept = f"; it is in --out, so the same command{' without --again' if again else ''} goes on behind it"
            raise UsageError(f"rank {job.world.rank}: {record.error}; {job.settings.smaller}{kept}")
        yield record, True


def measured_or_failed(job: Job, say: Say = quiet) -> Record:
    """A Result, or a Failed where memory ran out; what was held is let go. Raises UsageError where another process of many has ended."""
    try:
        if job.device.type == "cpu":
            keep()  # before the first description, of which it is a part
        reason = lacking(job)
        if reason is None:
            return measure(job, say)
    except (RuntimeError, MemoryError) as error:
        if job.world and job.world.lost(error):
            raise UsageError(f"rank {job.world.rank}: another process of this run has ended; what it printed says why") from error
        cause = out_of_memory(error)
        if cause is None:
            raise
        reason = first_line(cause)
        del cause  # its traceback holds this frame, and this frame it: what was built would outlive the collection below
    finally:
        gc.collect()
        if job.device.type == "cuda":
            torch.cuda.empty_cache()
        else:
            give_back()
    return Failed(
        key=job.key(),
        protocol=PROTOCOL,
        spec=job.spec.name,
        baseline=job.baseline and job.baseline.name,
        settings=job.settings,
        device=describe(job.device),
        torch=str(torch.__version__),
        error=reason,
        world_size=job.world and job.world.size,
    )
