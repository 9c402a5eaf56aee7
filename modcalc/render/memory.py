"""What `modcalc memory` prints: one model by part, ways to keep activations, the KV cache, what fits, several models."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from modcalc.cost.fits import MOST_GPUS, Fit
from modcalc.cost.memory import SampleMemory, TrainMemory
from modcalc.cost.memory_report import Choice, MemoryReport
from modcalc.render.hardware import FORCED
from modcalc.render.numbers import binary_bytes, count, several
from modcalc.render.output import facts, show, write
from modcalc.render.sampling import CASES
from modcalc.render.table import Column, Table
from modcalc.render.wording import LABELS, Facts, lengths_differ, twin_shape

AGAIN = "computed again"
BACKWARD = "blocks running backward"
OUTSIDE = "outside blocks, less activations"


def show_memory(reports: Sequence[MemoryReport], format: str) -> None:
    """All tables; of several specs a comparison in place of the parts."""
    alone = reports[0] if len(reports) == 1 else None
    show([parts_table(alone)] if alone else [comparison(reports)], format)
    facts([("", ""), *remarks(reports)], format)
    more = [choices_table(alone)] if alone and alone.choices else []
    more += [cache_table(reports), *fits_tables(reports, format)]
    write("\n")
    show(more, format)


def parts(memory: TrainMemory | SampleMemory) -> dict[str, Any]:
    """Label -> bytes, in the order of a table; they sum to the total. Models of one phase have the same labels, some of 0 bytes."""
    if isinstance(memory, SampleMemory):
        return {"weights": memory.weights, "KV cache": memory.kv_cache, "logits": memory.logits}
    named = {f"activations: {name}": memory.activations.kept.get(component, 0) for component, name in LABELS.items()}
    fixed = {"weights": memory.weights, "gradients": memory.gradients, "fp32 weights": memory.master, "optimizer states": memory.states}
    peak = dict.fromkeys(("logits and loss", AGAIN, BACKWARD, OUTSIDE), 0)
    block = BACKWARD if memory.under_way else AGAIN
    last = "logits and loss" if memory.peak == memory.at_the_loss else block if memory.peak == memory.at_a_block else OUTSIDE
    return {**fixed, "gathered weights": memory.gathered, **named, **peak, last: memory.peak}


def headline(reports: Sequence[MemoryReport]) -> list[str]:
    """What is held, and how it runs: as the first of them, of T tokens where lengths differ."""
    report = reports[0]
    w, m = report.work, report.memory
    tokens = "T tokens" if lengths_differ(reports) else several(w.seq_len, "token")
    sequences = several(w.batch, "sequence")
    cached = f" after {w.context:,} cached" if w.context else ""
    expected = ", routing at its expected share" if w.sampling and any(r.plan.cache_varies for r in reports) else ""
    if w.phase == "decode":
        return [f"decode: 1 new token for {sequences}{cached}{expected}; weights and cache in {report.dtype}"]
    what = f"{'train step' if w.phase == 'train' else w.phase}: {sequences} of {tokens}{cached}"
    if not isinstance(m, TrainMemory):
        return [f"{what}{expected}; weights{' and cache' if w.sampling else ''} in {report.dtype}"]
    training = report.training
    states = "fp32 weights and states" if m.master else f"states in {report.dtype}"
    optimizer = f"{training.optimizer}: {states}" if m.states or m.master else training.optimizer
    recompute = {
        "none": "activations kept, none computed again",
        "selective": "activations kept, but attention computed again",
        "full": "inputs of blocks kept, every block computed again",
    }
    activations = recompute[training.recompute]
    sharing = [f"of one of {training.fsdp:,} GPUs, which hold weights, gradients and optimizer in slices (FSDP2)"] if training.fsdp > 1 else []
    return [
        f"{what}; weights, gradients and activations in {report.dtype}; {optimizer}",
        f"{activations}; {_attention(report)}, kernels of {training.device}",
        *sharing,
    ]


def parts_table(report: MemoryReport) -> Table:
    """One model: exact bytes and a unit for every part, its dense twin beside it."""
    own, twin = parts(report.memory), parts(report.twin) if report.twin else {}
    total, dense = report.memory.total, report.twin.total if report.twin else 0
    columns = [Column("part"), Column("bytes", "count"), Column("size", "bytes", "size_bytes"), Column("share", "share")]
    if twin:
        columns += [Column("dense twin", "count", "dense_twin_bytes", drop=2), Column("ratio", "ratio", "ratio_to_dense_twin", drop=1)]

    def row(label: str, value: Any, beside: Any) -> list[Any]:
        ratio = Fraction(value) / Fraction(beside) if beside else None
        return [label, value, value, Fraction(value) / Fraction(total), *([beside, ratio] if twin else [])]

    rows = [row(label, value, twin.get(label) or None) for label, value in own.items() if value or twin.get(label)]
    return Table(title=report.plan.name, headline=headline([report]), columns=columns, rows=rows, total=row("total", total, dense))


def _attention(report: MemoryReport) -> str:
    why = "" if report.fusible else FORCED if report.forced else ", as a CPU has no fused kernel where values and keys differ in width"
    return f"{report.attention} attention{why}"


def comparison(reports: Sequence[MemoryReport]) -> Table:
    """Several models, one a row."""
    first, differ = reports[0], lengths_differ(reports)
    columns = [Column("spec"), Column("parameters", "count", "params", drop=7)]
    columns += [Column("T", "count", "seq_len")] if differ else []
    if isinstance(first.memory, TrainMemory):
        names = {
            "weights": lambda m: m.weights,
            "gradients": lambda m: m.gradients,
            "optimizer": lambda m: m.master + m.states,
            **({"gathered": lambda m: m.gathered} if first.training.fsdp > 1 else {}),
            "activations": lambda m: m.activations.total,
            "at the peak": lambda m: m.peak,
        }
    else:
        names = {"weights": lambda m: m.weights, "KV cache": lambda m: m.kv_cache, "logits": lambda m: m.logits}
    columns += [Column(name, "bytes", f"{name.replace(' ', '_').lower()}_bytes", drop=6 - i) for i, name in enumerate(names)]
    columns += [Column("total bytes", "count", drop=8), Column("total", "bytes", "total_size_bytes")]
    columns.append(Column("ratio", "ratio", "ratio_to_first", drop=1))
    rows = []
    for r in reports:
        length = [r.work.seq_len] if differ else []
        ratio = Fraction(r.memory.total) / Fraction(first.memory.total)
        rows.append([r.plan.name, r.params, *length, *(value(r.memory) for value in names.values()), r.memory.total, r.memory.total, ratio])
    notes = [f"ratio: total over that of {first.plan.name}"]
    if isinstance(first.memory, TrainMemory):
        notes += [f"{r.plan.name}: {_attention(r)}" for r in reports if r.fusible != first.fusible]
    return Table(headline=headline(reports), columns=columns, rows=rows, notes=notes)


def choices_table(report: MemoryReport) -> Table:
    """Activations by component, under every way to keep them that makes a difference."""
    components = [c for c in LABELS if any(c in choice.activations.kept for choice in report.choices)]
    columns = [Column("activations")]
    columns += [Column(_chosen(choice), "bytes", f"{choice.recompute}_{choice.attention}_bytes", drop=i) for i, choice in enumerate(report.choices)]
    rows = [[LABELS[c], *(choice.activations.kept.get(c, 0) for choice in report.choices)] for c in components]
    rows.append([AGAIN, *(choice.activations.again for choice in report.choices)])
    total = ["total", *(choice.activations.total + choice.activations.again for choice in report.choices)]
    return Table(title="Ways to keep activations", columns=columns, rows=rows, total=total)


def _chosen(choice: Choice) -> str:
    return choice.attention if choice.recompute == "none" else f"{choice.recompute}, {choice.attention}"


def cache_table(reports: Sequence[MemoryReport]) -> Table:
    """The KV cache in both widths; with routing its expectation, worst and best case, and the dense twin's."""
    batch, many, differ = reports[0].work.batch, len(reports) > 1, lengths_differ(reports)
    of = ("" if differ else f" of {several(reports[0].cached, 'token')}") + (f" of {batch:,} sequences" if batch > 1 else "")
    columns = [Column("spec")] if many else []
    columns += [Column("tokens", "count")] if differ else []
    columns.append(Column("routing, token by token" if any(len(r.caches) > 1 for r in reports) else "blocks", key="routing"))
    for dtype, name, drop in (("bf16", "bf16, fp16", 0), ("fp32", "fp32", 1)):
        columns += [Column(name, "count", f"{dtype}_bytes", "bytes", drop), Column("size", "bytes", f"{dtype}_size_bytes", "", drop)]
    rows = []
    for report in reports:
        own = ([report.plan.name] if many else []) + ([report.cached] if differ else [])
        for cache in report.caches:
            label = CASES.get(cache.routing, cache.routing) if cache.routing else "all"
            rows.append([*own, label, *(value for dtype in cache.bytes for value in (cache.bytes[dtype], cache.bytes[dtype]))])
    return Table(title=f"KV cache{of}", columns=columns, rows=rows)


FITS = (
    Column("phase"),
    Column("routing"),
    Column("what grows"),
    Column("largest", "count"),
    Column("bytes", "count", "held_bytes"),
    Column("bytes with one more", "count", "next_bytes", drop=1),
    Column("why", key="limit"),
)


def fits_tables(reports: Sequence[MemoryReport], format: str) -> list[Table]:
    """What fits, of each model that has room given; csv: all in one."""
    held = [report for report in reports if report.room]
    if format != "csv" or not held:
        return [fits_table(report) for report in held]
    rows = [[report.plan.name, *row] for report in held for row in _fits(report)]
    notes = [f"{report.plan.name}: {note}" for report in held for note in _fit_notes(report)]
    return [Table(title=_room(held[0]), columns=(Column("spec"), *FITS), rows=rows, notes=notes)]


def _room(report: MemoryReport) -> str:
    return f"what fits into {binary_bytes(report.room)} ({count(report.room)} bytes)"


def _fits(report: MemoryReport) -> list[list[Any]]:
    """Cells of FITS; of a model without routing the second is None."""
    rows = []
    routed = any(fit.routing for fit in report.fits)
    for fit in report.fits:
        tokens = report.plan.seq_len if fit.phase == "train" else report.cached
        what = f"batch, at {several(tokens, 'token')}" if fit.knob == "batch" else f"tokens, at batch {report.work.batch:,}"
        routing = {"": "at capacity", "expected": "expected", "all": "worst: all"}[fit.routing] if routed else None
        rows.append([fit.phase, routing, what, fit.largest, fit.held, fit.next, _limit(fit, report)])
    return rows


def fits_table(report: MemoryReport) -> Table:
    """The largest batch and the longest context, what they hold, and what one more would."""
    rows = _fits(report)
    used = [i for i, column in enumerate(FITS) if column.title not in ("routing", "why") or any(row[i] for row in rows)]
    columns, cells = [FITS[i] for i in used], [[row[i] for i in used] for row in rows]
    return Table(title=f"{report.plan.name}: {_room(report)}", columns=columns, rows=cells, notes=_fit_notes(report))


def _fit_notes(report: MemoryReport) -> list[str]:
    notes = []
    if report.outgrown:
        n = report.gpus
        each = f", with {several(report.work.batch, 'sequence')} on each; fewer need less (--batch)" if report.work.batch > 1 else ""
        notes.append("in slices it trains on " + (f"{n:,} GPUs: --fsdp {n}" if n else f"none of 2, 4, 8, … up to {MOST_GPUS:,} GPUs") + each)
    if any(fit.knob != "batch" and not fit.limit and fit.largest > report.spec.seq_len for fit in report.fits):
        notes.append(f"more than the {report.spec.seq_len:,} tokens of the spec fit; memory does not say how well the model works with them")
    return notes


def _limit(fit: Fit, report: MemoryReport) -> str:
    if fit.limit == "positions":
        return "its learned positions end there"
    if fit.limit == "never":
        return "windows hold no more"
    if fit.limit == "end":
        return "the search ends there"
    if fit.largest:
        return ""
    fixed = report.fixed(fit.phase)
    held = "weights, gradients, optimizer and gathered weights" if report.training.fsdp > 1 else "weights, gradients and optimizer"
    what = held if fit.phase == "train" else "weights"
    return f"{what} alone take {binary_bytes(fixed)}" if fixed > report.room else "not even 1 fits"


def _peak(m: TrainMemory) -> str:
    """When a train step holds the most."""
    moments = [f"the loss running backward holds {binary_bytes(m.at_the_loss)}"]
    if m.at_a_block:
        what = "and its neighbours" if m.under_way else "or core computed again"
        moments.append(f"one block {what} {binary_bytes(m.at_a_block)}")
    if m.peak == m.outside_blocks:
        what = "weights before all blocks or gradients after them" if m.gathered else "gradients of the token table after all blocks"
        moments.append(f"{what} {binary_bytes(m.outside)} in place of activations")
    if len(moments) == 1:
        return "when the loss runs backward: it holds log-probabilities, their gradients and those of the logits, in full precision"
    return f"{', '.join(moments)}: the largest counts"


def remarks(reports: Sequence[MemoryReport]) -> Facts:
    """What a reader would ask next, and what no row counts."""
    found: Facts = []
    report = reports[0]
    m = report.memory
    if len(reports) == 1:
        found.append(("parameters", count(report.params)))
        if isinstance(m, TrainMemory):
            each = " on each GPU" if report.training.fsdp > 1 else ""
            found.append(("per parameter", f"{float(Fraction(m.fixed, report.params)):.4g} bytes of weights, gradients and optimizer{each}"))
            found.append(("peak", _peak(m)))
        if report.twin:
            ratio = Fraction(m.total) / Fraction(report.twin.total)
            found.append(("dense twin", f"{count(report.twin.total)} bytes in all ({twin_shape(report.plan)}); ratio {float(ratio):.4f}"))
    return [*found, ("left out", ", ".join(report.left_out))]
