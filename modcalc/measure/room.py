"""Whether a point can fit into a CPU's memory. The kernel does not tell when it cannot: it kills the process, and all that was measured with it."""

from pathlib import Path
from typing import TYPE_CHECKING

from modcalc.cost.memory import sample_memory, train_memory
from modcalc.cost.tensors import element_bytes
from modcalc.units import binary_bytes

if TYPE_CHECKING:
    from modcalc.cost.account import Report
    from modcalc.measure.records import Settings


def lacking(reports: "list[Report]", settings: "Settings") -> str | None:
    """Why the steps of these models cannot run side by side: more bytes than are free. None where they can, or nobody knows."""
    free = free_bytes()
    if free is None:
        return None
    held, passing = zip(*(_least(report, settings) for report in reports), strict=True)
    needed = sum(held) + max(passing)
    return f"it takes {binary_bytes(needed)} or more, and {binary_bytes(free)} are free" if needed > free else None


def _least(report: "Report", s: "Settings") -> tuple[int, int]:
    """(bytes that a model holds from step to step, bytes that a step of it adds): what is known to be there, so the least."""
    plan, work = report.plan, report.work
    if s.mode != "train":
        m = sample_memory(plan, work, s.dtype)
        return int(m.weights + m.kv_cache), m.logits
    m = train_memory(plan, s.batch, dtype=s.dtype, master=False, device="cpu")
    # A compiler may decide to keep less.
    logits = work.tokens * plan.embedding.vocab_size * element_bytes(s.dtype)
    return m.fixed, logits if s.compile else m.total - m.fixed


def free_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that a process may still take before Linux kills one, by the machine and by the control group (version 2); elsewhere None."""
    try:
        known = {key: int(value.split()[0]) * 1024 for key, value in _pairs(root / "proc/meminfo", ":")}
        free = known["MemAvailable"] + known["SwapFree"]
    except (OSError, KeyError, ValueError, IndexError):
        return None
    group = root / "sys/fs/cgroup"
    try:
        limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        cached = int(dict(_pairs(group / "memory.stat", " "))["inactive_file"])
    except (OSError, KeyError, ValueError):  # no group, or no limit: "max"
        return free
    return min(free, limit - used + cached)


def _pairs(file: Path, between: str) -> list[list[str]]:
    return [line.split(between, 1) for line in file.read_text().splitlines() if between in line]
