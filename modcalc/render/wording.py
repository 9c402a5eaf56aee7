"""The sentences around an account: what was computed, what counts, and what a reader would ask next."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from modcalc.cost.account import Report
from modcalc.cost.compare import kv_bytes
from modcalc.cost.convention import Convention
from modcalc.cost.conventions import CONVENTIONS
from modcalc.cost.ops import whole
from modcalc.cost.remarks import free_work, masked_windows, routed, routed_windows, routing_flops
from modcalc.cost.tensors import DTYPE
from modcalc.cost.training import Cluster, Spent, TrainingRun
from modcalc.render.numbers import binary_bytes, count, several, share
from modcalc.spec.plan import CANNOT_SAMPLE, Plan

# Components in display order and as readers call them; routing stands apart, last.
LABELS = {
    "embedding": "embedding",
    "positions": "positions",
    "attention": "attention",
    "scores": "attention scores",
    "mlp": "mlp",
    "expert router": "expert router",
    "experts": "experts",
    "shared experts": "shared experts",
    "bypass": "bypass",
    "norm": "norms",
    "residual": "residual",
    "head": "head",
    "router": "mod router",
    "predictor": "mod predictor",
}
PAIRS = {
    "full": "all T x T pairs count",
    "half": "half of the T x T pairs count",
    "half-of-all": "half of the T x T pairs count, also where a window holds fewer",
    "window": "T x min(window, T) pairs count",
    "exact": "pairs that the causal mask leaves count",
    None: "no attention pairs count",
}


Facts = list[tuple[str, str]]


class Unit:
    """FLOPs, or multiply-adds on request: what is printed, and how a convention's number becomes it.

    multiply_add: what the convention counts for one multiply-add.
    """

    def __init__(self, macs: bool = False, multiply_add: int = 2) -> None:
        self.name = "MACs" if macs else "FLOPs"
        self.key = self.name.lower()
        self.divisor = multiply_add if macs else 1
        self.each = 1 if macs else multiply_add

    def of(self, flops: Any) -> Any:
        return None if flops is None else whole(Fraction(flops) / self.divisor)


# Settings that are swept: what an axis is called, and how one value of it is.
AXES = {"batch": ("batch, sequences", "batch {:,}"), "seq_len": ("tokens of a sequence", "T = {:,}"), "context": ("tokens cached", "{:,} cached")}


def at(name: str, settings: Any, differ: Sequence[str]) -> str:
    """`mod-220m, batch 4`: a name with the settings in which its points differ."""
    return ", ".join([name, *(AXES[setting][1].format(getattr(settings, setting)) for setting in differ)])


def varying(settings: Sequence[Any], but: str = "") -> list[str]:
    """Names of the settings, as in AXES, in which workloads or measured points differ."""
    return [name for name in AXES if name != but and len({getattr(s, name) for s in settings}) > 1]


def lengths_differ(reports: Sequence[Any]) -> bool:
    """Whether accounts or memory reports are of sequences of several lengths."""
    return len({r.work.seq_len for r in reports}) > 1


def headline(report: Report, unit: Unit, *, differ: Sequence[str] = (), backward: bool = False) -> list[str]:
    """What is computed, and by whose rule it is counted. differ: settings in which reports beside this one differ; backward: a train step."""
    w, convention = report.work, report.convention
    sequences = "B sequences" if "batch" in differ else several(w.batch, "sequence")
    cached = " after S cached" if "context" in differ else f" after {w.context:,} cached" if w.context else ""
    if w.phase == "decode":
        what = f"decode: 1 new token for {sequences}{cached}"
    else:
        phase = "train step" if backward or w.phase == "train" else w.phase
        what = f"{phase}: {sequences} of {'T tokens' if 'seq_len' in differ else several(w.seq_len, 'token')}{cached}"
    if w.phase == "prefill":
        what += ", logits of the last one"
    each = f"{unit.each} {unit.name if unit.each > 1 else unit.name[:-1]} per multiply-add"
    pairs = PAIRS[convention.causal] if w.phase != "decode" or convention.causal is None else "all keys of the one query count"
    lines = [what, f"{convention.title}: {each}, {pairs}"]
    return [*lines, *in_words(convention)]


def in_words(convention: Convention) -> list[str]:
    """What a convention counts, but for the one that all know here; its own words name its own rule for pairs."""
    own = convention.name != "matmul" and convention.causal == CONVENTIONS[convention.name].causal
    return [f"counts {convention.counts}"] if own else []


RANKING = f"{CANNOT_SAMPLE}; billed at the share of a whole one that they choose"


def remarks(report: Report, unit: Unit, *, twin: Report | None = None, backward: bool = False) -> Facts:
    """What to say below a breakdown: parameters, routing, dense twin, windows, and what is free by the convention."""
    return [
        ("parameters", _parameters(report)),
        *_routing(report, unit, backward),
        *([("dense twin", _twin(report, unit, twin, backward))] if twin else []),
        *_windows(report, unit, backward),
        *([("experts", RANKING)] if report.work.sampling and report.plan.experts_choose else []),
        *([("kv cache", _cache(report))] if report.work.sampling else []),
        ("free", f"{', '.join(free_work(report)) or 'nothing'} (by convention)"),
    ]


def _parameters(report: Report) -> str:
    p = report.params
    active = f"; {count(p.active)} active per token on average" if p.active != p.total else ""
    return f"{count(p.total)}; {count(p.non_embedding)} without embedding and head{active}"


def _routing(report: Report, unit: Unit, backward: bool) -> Facts:
    facts, total = [], report.flops.of(backward)
    for paths, r in routed(report).items():
        keep = "keeps" if len(paths) == 1 else "keep"
        keys = ", keys of all tokens" if r.keys == "all" else ""
        about = f"around the {'shared blocks' if report.plan.recursion else r.granularity}{keys}; {r.router} router, {r.selection}"
        if report.work.sampling:
            kept = f"{share(r.share)} of the tokens on average"
            about += f", decided by the {r.decide}"
        else:
            kept = f"{r.capacity:,} of {report.plan.seq_len:,} tokens ({share(r.share)})"
        facts.append(("routing", f"{numbered(paths)} {keep} {kept}, {about}"))
    if facts:
        cost = routing_flops(report, backward)
        part = f"{share(Fraction(cost) / Fraction(total))} of the total; the model without them: {count(unit.of(total - cost))}"
        facts.append(("routers", f"{count(unit.of(cost))} {unit.name}, {part}"))
    return facts


def _twin(report: Report, unit: Unit, twin: Report, backward: bool) -> str:
    here, there = report.flops.of(backward), twin.flops.of(backward)
    r = Fraction(here) / Fraction(there)
    saving = f"{share(1 - r)} saved" if r <= 1 else f"{share(r - 1)} more"
    what = "train step" if backward else "forward"
    return f"{count(unit.of(there))} {unit.name} {what} ({twin_shape(report.plan)}); ratio {float(r):.4f}, {saving}"


def twin_shape(plan: Plan) -> str:
    """What the dense twin of a model is."""
    return f"same shape, no routing{'; recursions as so many blocks, each with weights of its own' if plan.recursion else ''}"


def _windows(report: Report, unit: Unit, backward: bool) -> Facts:
    if bounded := routed_windows(report):
        where = numbered([f"blocks.{i}" for i in bounded])
        if report.work.phase == "decode":
            held = "billed for the kept tokens that are expected, at most `window`; as their number varies around it, the mean is lower"
            return [("windows", f"{where}, routed: a cache is {held}")]
        return [("windows", f"{where}, routed: a query is billed for up to `window` kept tokens; fewer stand so near, how many depends on the data")]
    layers, saved = masked_windows(report, backward)
    if not layers:
        return []
    where = numbered([f"blocks.{i}" for i in layers])
    text = f"{where} {'is' if len(layers) == 1 else 'are'} billed for all pairs, as an implementation that masks a window computes them; "
    mean = " in the mean" if any(op.kind == "attention" and op.among is not None for op in report.rows) else ""
    return [("windows", f"{text}--causal exact bills what tokens see{mean}: {count(unit.of(saved))} {unit.name} less there")]


def training(run: TrainingRun, unit: Unit, said: str, timing: Cluster | Spent | None) -> Facts:
    """What a whole training run costs, as `said` plans it, and how long it takes a cluster, or how well it used the time that it took."""
    flops = unit.of(run.flops)
    text = f"{count(flops)} {unit.name}, {float(flops):.4g}, in {several(run.steps, 'step')} of {several(run.batch_size, 'sequence')}"
    facts = [("training", f"{text}, {count(run.tokens)} tokens (by {said})")]
    if timing:
        facts.append(_lasts(run, timing) if isinstance(timing, Cluster) else _reached(run, timing))
    return facts


def _lasts(run: TrainingRun, cluster: Cluster) -> tuple[str, str]:
    hours, spent = cluster.seconds(run.flops) / 3600, cluster.device_hours(run.flops)
    scales = (("day", 24), ("hour", 1), ("minute", 1 / 60), ("second", 1 / 3600))
    unit_of_time, size = next((scale for scale in scales if hours >= scale[1]), scales[-1])
    value = f"{hours / size:,.3g}"
    time = f"{value} {unit_of_time}{'' if value == '1' else 's'}"
    what = f"{cluster.devices:,} x {cluster.device or 'a device'} at {share(cluster.mfu)} (--mfu) of {cluster.flops_per_s / 1e12:g} TFLOP/s"
    return "training time", f"{time}, {f'{spent:,.0f}' if spent >= 100 else f'{spent:.3g}'} device-hours: {what} ({cluster.source})"


def _reached(run: TrainingRun, spent: Spent) -> tuple[str, str]:
    mfu = spent.mfu(run.flops)
    over = "; more than it can do, so other FLOPs, hours or devices are meant" if mfu > 1 else ""
    return "MFU", f"{share(mfu)}: {several(spent.device_hours, 'hour')} of {at_peak(spent)}{over}"


def at_peak(one: Cluster | Spent) -> str:
    """A device, what it can do, and who says so."""
    return f"{one.device or 'a device'} at {one.flops_per_s / 1e12:g} TFLOP/s ({one.source})"


def _cache(report: Report) -> str:
    size, w = kv_bytes(report), report.work
    held = several(w.context + w.seq_len, "token") + (f" of {w.batch:,} sequences" if w.batch > 1 else "")
    routed = any(op.kind == "attention" and op.brought != op.length for op in report.rows)
    expected = " expected" if routed and w.routing == "expected" else ""
    return f"{count(size)} bytes ({binary_bytes(size)}){expected} for {held} in {DTYPE}"


def numbered(paths: Sequence[str]) -> str:
    """blocks 1, 3, ..., 11 (from 0), or blocks 0 to 2, 4 to 6, ..., 8 to 10 (from 0): what goes on in equal steps is not all written out."""
    kind = paths[0].split(".")[0]
    runs: list[list[int]] = []
    for n in (int(p.split(".")[1]) for p in paths):
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    told = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    steps = {b[0] - a[0] for a, b in zip(runs, runs[1:], strict=False)}
    alike = len({len(run) for run in runs[:-1]}) == 1  # the last one may be cut off
    if len(runs) > (4 if len(runs[0]) == 1 else 3) and len(steps) == 1 and alike:
        told = [*told[:2], "...", told[-1]]
    return f"{kind if len(paths) > 1 else kind[:-1]} {', '.join(told)} (from 0)"
