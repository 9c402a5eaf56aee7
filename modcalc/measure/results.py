"""Results files: the records of `modcalc profile`, one to a line. Reading them needs no torch."""

import os
import re
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import msgspec

from modcalc.errors import UsageError
from modcalc.measure.hardware import Device, Peak
from modcalc.measure.records import Record, Result

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

BOM = b"\xef\xbb\xbf"  # some editors and shells put it in front
OPENING = b'{"status":"'  # how every record begins
JOINED = re.compile(rb'(?<!^)(?=\{"status":")')  # `cat` of files without a newline at their end; within a string quotes are escaped

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # the last for what is nested too deeply


class Held(NamedTuple):
    """What a results file holds. records: by key, of which the last counts, in the order of these lines. lost: lines that are cut
    off. cut: the last one is. unended: it has no newline.
    """

    records: dict[str, Record]
    lost: int
    cut: bool
    unended: bool


def read_results(path: Path) -> Held:
    """What is in the file, lines that are cut off left out. Raises UsageError where it cannot be read or holds anything else."""
    try:
        content = path.read_bytes().removeprefix(BOM)
    except OSError as wrong:
        raise UsageError(f"{path}: cannot be read: {wrong.strerror}") from wrong
    records: dict[str, Record] = {}
    lost, cut = 0, False
    lines = content.split(b"\n")
    for number, whole in enumerate(lines, start=1):
        for line in filter(bytes.strip, JOINED.split(whole)):
            cut = False
            try:
                record = msgspec.json.decode(line, type=Record)
            except UNREADABLE as wrong:
                if not _cut_off(line):
                    raise UsageError(f"{path}:{number}: not a result of modcalc profile ({_other(content) or wrong})") from wrong
                lost, cut = lost + 1, True
            else:
                put_last(records, record)
    return Held(records, lost, cut, bool(lines[-1]))


def begins(path: Path) -> bool:
    """Whether a file begins as ours do, whatever follows; True as well where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(BOM + OPENING)).removeprefix(BOM).startswith(OPENING)
    except OSError:
        return True


def put_last(records: dict[str, Record], record: Record) -> None:
    """At the end, though its key was there before."""
    records.pop(record.key, None)
    records[record.key] = record


def _other(content: bytes) -> str | None:
    """What a file is that modcalc wrote, but not with --out, or by another schema."""
    found = None
    for part in (content, content.partition(b"\n")[0]):
        with suppress(*UNREADABLE):
            found = msgspec.json.decode(part)
            break
    if not isinstance(found, dict) or "schema" not in found:
        return None
    if found["schema"] != 1:
        return f"its schema is {found['schema']!r}, and this modcalc reads 1"
    indented = part is content and b"\n" in content.strip()
    return None if "status" in found and not indented else "it is a document of --format json; name the file that --out wrote"


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
        try:
            held = read_results(self.path) if self.path.exists() else Held({}, 0, False, False)
        except UsageError as wrong:
            raise UsageError(f"{wrong}; nothing was changed, choose another --out") from wrong
        self.records, self.cut, self.unended = held.records, held.cut, held.unended

    def __enter__(self) -> "ResultsFile":
        try:
            self.file = open(self.path, "ab")
        except OSError as wrong:
            shows = f"; modcalc results {self.path} shows what it holds" if self.records else ""
            raise UsageError(f"{self.path}: cannot be written: {wrong.strerror}{shows}") from wrong
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
        put_last(self.records, record)
        try:
            # An interrupt while the disk is slow: closing the file still writes it.
            self.file.write((b"\n" if self.unended else b"") + msgspec.json.encode(record) + b"\n")
            self.unended = False
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as wrong:
            raise UsageError(f"{self.path}: cannot be written: {wrong.strerror}") from wrong

    def peaks(self, device: Device, dtype: str, torch: str) -> tuple[Peak | None, Peak | None]:
        """(peak, what was reached) of a device and a type, as the last records know them: on a CPU by as many threads, the latter by that torch."""

        def same(d: Device) -> bool:
            return d.name == device.name and (d.type == "cuda" or (d.threads, d.cores) == (device.threads, device.cores))

        of_it = [r for r in self.records.values() if isinstance(r, Result) and same(r.device) and r.dtype == dtype]
        peaks = [r.peak for r in of_it if r.peak]
        reached = [r.reached for r in of_it if r.reached and r.torch == torch]
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
    except UNREADABLE:
        return line.startswith(OPENING) or OPENING.startswith(line)
    return False
