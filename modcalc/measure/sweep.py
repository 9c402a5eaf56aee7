"""Many points, one after the other: each is written as soon as it is measured, and what is written is not measured again."""

import gc
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import TracebackType

import msgspec
import torch

from modcalc.errors import UsageError
from modcalc.measure.hardware import describe
from modcalc.measure.point import Job, measure
from modcalc.measure.records import Failed, Record, Settings

OPENING = b'{"status":"'  # how every record begins


@dataclass(frozen=True, slots=True)
class Axis:
    """One setting and the values that it takes in turn."""

    name: str
    values: tuple[int, ...]


def axis(text: str) -> Axis:
    """`batch=1,2,4` as an Axis. Raises UsageError for another setting, no values, or values that are no numbers in range."""
    name, _, rest = text.partition("=")
    name = name.strip().replace("-", "_")
    allowed = {"batch": 1, "seq_len": 1, "context": 0}
    if name not in allowed:
        raise UsageError(f"sweep {text!r}: NAME=VALUE,VALUE,… with NAME one of batch, seq-len, context")
    values = []
    for word in rest.split(","):
        try:
            value = int(word)
        except ValueError:
            raise UsageError(f"sweep {text!r}: {word.strip()!r} is no whole number; write {name}=1,2,4") from None
        if value < allowed[name]:
            raise UsageError(f"sweep {text!r}: {name} {value}: at least {allowed[name]}")
        values.append(value)
    if len(set(values)) < len(values):
        raise UsageError(f"sweep {text!r}: a value stands there twice")
    return Axis(name, tuple(values))


def points(settings: Settings, axes: Sequence[Axis]) -> list[Settings]:
    """Every combination of the axes' values, the last axis fastest."""
    names = [a.name for a in axes]
    if len(set(names)) < len(names):
        raise UsageError(f"sweep: {', '.join(n for n in names if names.count(n) > 1)}: swept twice; give all its values in one --sweep")
    if settings.mode == "decode" and "seq_len" in names:
        raise UsageError("sweep seq-len: decode computes 1 token per sequence; sweep context instead")
    return [msgspec.structs.replace(settings, **dict(zip(names, values, strict=True))) for values in product(*(a.values for a in axes))]


class ResultsFile:
    """A JSON Lines file of records, only ever appended to; each line is on disk before the next point begins.

    Raises UsageError for a file that holds anything else; it is not touched. A last line that was cut off (by a full disk
    or a kill) stays where it is, is ended, and counts as not measured.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
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
            self.file = open(self.path, "ab")  # noqa: SIM115 (closed by __exit__)
        except OSError as wrong:
            raise UsageError(f"{self.path}: cannot be written: {wrong.strerror}") from wrong
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()

    def append(self, record: Record) -> None:
        """Write one record and wait until the disk has it."""
        self.file.write((b"\n" if self.unended else b"") + msgspec.json.encode(record) + b"\n")
        self.unended = False
        self.file.flush()
        os.fsync(self.file.fileno())
        self.records[record.key] = record


def _cut_off(line: bytes) -> bool:
    """Whether a line is the beginning of a record of ours and no whole JSON value."""
    try:
        msgspec.json.decode(line)
    except msgspec.DecodeError:
        return line.startswith(OPENING) or OPENING.startswith(line)
    return False


def run(jobs: Sequence[Job], results: ResultsFile | None = None) -> Iterator[tuple[Job, Record, bool]]:
    """Measure every job that `results` does not hold yet, in order; yields (job, record, whether it was measured now)."""
    for job in jobs:
        key = job.key()
        if results and key in results.records:
            yield job, results.records[key], False
            continue
        record = measured_or_failed(job)
        if results:
            results.append(record)
        yield job, record, True


def measured_or_failed(job: Job) -> Record:
    """A Result, or a Failed where memory ran out; what was held is let go."""
    try:
        return measure(job)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        reason = (str(error).splitlines() or ["out of memory"])[0]
    finally:
        gc.collect()
        if job.device.type == "cuda":
            torch.cuda.empty_cache()
    return Failed(
        key=job.key(),
        spec=job.spec.name,
        baseline=job.baseline and job.baseline.name,
        settings=job.settings,
        device=describe(job.device),
        torch=str(torch.__version__),
        error=reason,
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether torch says that memory ran out: its own class on a GPU, a sentence on the CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error) or "not enough memory" in str(error)


def jobs_for(job: Job, settings: Sequence[Settings]) -> list[Job]:
    """The same job under each of the settings."""
    return [replace(job, settings=s) for s in settings]
