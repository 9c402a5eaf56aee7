"""Many points, one after the other: each is written as soon as it is measured, and what is written is not measured again."""

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec
import torch

from modcalc.errors import UsageError
from modcalc.measure.hardware import Device, Peak, describe
from modcalc.measure.heap import give_back
from modcalc.measure.point import Job, measure
from modcalc.measure.rating import named, rated
from modcalc.measure.records import Failed, Record, Result
from modcalc.measure.rigs import Say, quiet
from modcalc.measure.room import lacking
from modcalc.measure.usage import out_of_memory

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

OPENING = b'{"status":"'  # how every record begins


class ResultsFile:
    """A JSON Lines file of records, only ever appended to; each line is on disk before the next point begins.

    Raises UsageError for a file that holds anything else; it is not touched. A last line that was cut off (by a full disk
    or a kill) stays where it is, is ended, and counts as not measured. cut: whether there is one that nothing follows.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if str(path) == "-":
            raise UsageError("--out -: results are read again to go on, which takes a file; --format json writes to stdout")
        if self.path.exists() and not (self.path.is_file() or self.path.is_dir()):
            raise UsageError(f"{path}: cannot be read again, so nothing could be resumed; choose another --out")
        self._read()

    def _read(self) -> None:
        path = self.path
        self.records: dict[str, Record] = {}
        self.cut = False
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as wrong:
            raise UsageError(f"{path}: cannot be read: {wrong.strerror}") from wrong
        lines = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            self.cut = False
            try:
                record = msgspec.json.decode(line, type=Record)
            except (msgspec.DecodeError, msgspec.ValidationError) as wrong:
                if _cut_off(line):
                    self.cut = True
                    continue
                raise UsageError(f"{path}:{number}: not a result of modcalc profile ({wrong}); nothing was changed, choose another --out") from wrong
            self.records[record.key] = record
        self.unended = bool(lines[-1])

    def __enter__(self) -> "ResultsFile":
        try:
            self.file = open(self.path, "ab")
        except OSError as wrong:
            raise UsageError(f"{self.path}: cannot be written: {wrong.strerror}") from wrong
        try:
            if not _locked(self.file):
                raise UsageError(f"{self.path}: another modcalc profile writes it, and two at once disturb each other's times; wait until it is done")
            self._read()  # what another process has written since
        except BaseException:
            self.file.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.file.close()
        except OSError:  # what `append` said is tried once more
            if error is None:
                raise

    def append(self, record: Record) -> None:
        """Write one record and wait until the disk has it. Raises UsageError where the disk takes no more; `records` has it all the same."""
        self.records[record.key] = record
        try:
            # An interrupt while the disk is slow: closing the file still writes it.
            self.file.write((b"\n" if self.unended else b"") + msgspec.json.encode(record) + b"\n")
            self.unended = False
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as wrong:
            raise UsageError(f"{self.path}: cannot be written: {wrong.strerror}") from wrong

    def peaks(self, device: Device, dtype: str) -> tuple[Peak | None, Peak | None]:
        """(peak, what was reached) of a device and a type, as the last records know them: the latter by as many threads and this torch."""
        of_it = [r for r in self.records.values() if isinstance(r, Result) and (r.device.name, r.dtype) == (device.name, dtype)]
        here = (device.threads, device.cores, str(torch.__version__))
        peaks = [r.peak for r in of_it if r.peak]
        reached = [r.reached for r in of_it if r.reached and (r.device.threads, r.device.cores, r.torch) == here]
        return peaks[-1] if peaks else None, reached[-1] if reached else None


def _locked(file: BinaryIO) -> bool:
    """Whether the file is this process's alone until it is closed; True as well where nobody can tell (Windows, some network file systems)."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _cut_off(line: bytes) -> bool:
    """Whether a line is the beginning of a record of ours and no whole JSON value."""
    try:
        msgspec.json.decode(line)
    except msgspec.DecodeError:
        return line.startswith(OPENING) or OPENING.startswith(line)
    return False


def recalled(job: Job, results: ResultsFile | None) -> Record | None:
    """What `results` knows of the job, rated by its peaks; None where that does not tell all that is asked."""
    known = _known(job, results)
    if known is None or not job.answered_by(known):
        return None
    return rated(known, job.peak, job.reached) if isinstance(known, Result) else known


def _known(job: Job, results: ResultsFile | None) -> Record | None:
    """The record of the job's key, its models called as now."""
    known = results.records.get(job.key()) if results else None
    return known and named(known, job.spec.name, job.baseline and job.baseline.name)


def _with_other_parts(record: Record, before: Record | None) -> Record:
    """The record with what `_known` says of where the time goes by other parts: the last line knows more."""
    if not (isinstance(record, Result) and isinstance(before, Result)):
        return record
    have = {(a.spec, a.by) for a in record.attribution}
    return msgspec.structs.replace(record, attribution=[*record.attribution, *(a for a in before.attribution if (a.spec, a.by) not in have)])


def run(
    jobs: Sequence[Job], results: ResultsFile | None = None, during: Callable[[Job], AbstractContextManager[Say]] | None = None
) -> Iterator[tuple[Record, bool]]:
    """Measure every job that `results` does not answer yet, in order; yields (record, whether it was measured now). A known
    result under a new peak is written once more with its shares of that, and the last line counts.

    In a torchrun the first process alone has `results`, and tells the others. during: a context to measure in, which is told what is done.
    """
    for job in jobs:
        known = recalled(job, results)
        if job.world:
            known = job.world.from_first(known)
        if known:
            if results and known != _known(job, results):
                results.append(known)
            yield known, False
            continue
        with during(job) if during else nullcontext(quiet) as say:
            record = measured_or_failed(job, say)
        if results:
            record = _with_other_parts(record, _known(job, results))
            results.append(record)
        if job.world and isinstance(record, Failed):
            # The others may wait in collectives that will not come.
            kept = "; it is in --out, so the same command goes on behind it" if results else ""
            raise UsageError(f"rank {job.world.rank}: {record.error}; {job.settings.smaller}{kept}")
        yield record, True


def measured_or_failed(job: Job, say: Say = quiet) -> Record:
    """A Result, or a Failed where memory ran out; what was held is let go. Raises UsageError where another process of many has ended."""
    try:
        reason = lacking(job)
        if reason is None:
            return measure(job, say)
    except (RuntimeError, MemoryError) as error:
        if job.world and job.world.lost(error):
            raise UsageError(f"rank {job.world.rank}: another process of this run has ended; what it printed says why") from error
        if not out_of_memory(error):
            raise
        reason = (str(error).splitlines() or ["out of memory"])[0]
    finally:
        gc.collect()
        if job.device.type == "cuda":
            torch.cuda.empty_cache()
        else:
            give_back()
    return Failed(
        key=job.key(),
        spec=job.spec.name,
        baseline=job.baseline and job.baseline.name,
        settings=job.settings,
        device=describe(job.device),
        torch=str(torch.__version__),
        error=reason,
    )
