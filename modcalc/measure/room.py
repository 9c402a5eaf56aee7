"""Whether a point can fit into a CPU's memory. The kernel does not tell when it cannot: it kills the process, and all that was measured with it."""

from pathlib import Path

from modcalc.cost.account import Report
from modcalc.cost.memory import logits_bytes, sample_memory, train_memory
from modcalc.cost.workload import Training
from modcalc.measure.point import Job
from modcalc.measure.records import Settings
from modcalc.measure.rigs import promised
from modcalc.measure.usage import proc_bytes
from modcalc.units import binary_bytes


def lacking(job: Job) -> str | None:
    """Why the models of a job cannot run side by side on the CPU: more bytes than are free. None where they can, or nobody knows."""
    free = free_bytes() if job.device.type == "cpu" and not job.world else None
    if free is None:
        return None
    held, passing = zip(*(_least(promised(spec, job.settings), job.settings) for spec in job.specs), strict=True)
    needed = sum(held) + max(passing)
    return f"it takes {binary_bytes(needed)} or more, and {binary_bytes(free)} are free" if needed > free else None


def _least(report: Report, s: Settings) -> tuple[int, int]:
    """(bytes that a model holds from step to step, bytes that a step of it adds): what is known to be there, so the least."""
    plan, work = report.plan, report.work
    if s.mode != "train":
        m = sample_memory(plan, work, s.dtype)
        return int(m.weights + m.kv_cache), m.logits
    m = train_memory(plan, s.batch, Training(master=False, device="cpu"), s.dtype)
    # A compiler may decide to keep less.
    logits = logits_bytes(plan, work.tokens, s.dtype)
    return m.fixed, logits if s.compile else m.total - m.fixed


def free_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that a process may still take before Linux kills one, by the machine and by the control group (version 2); elsewhere None."""
    available, swap = (proc_bytes(root / "proc/meminfo", key) for key in ("MemAvailable", "SwapFree"))
    if available is None or swap is None:
        return None
    free = available + swap
    group = root / "sys/fs/cgroup"
    try:
        limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        cached = int(dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"])
    except (OSError, KeyError, ValueError):  # no group, or no limit: "max"
        return free
    return min(free, limit - used + cached)
