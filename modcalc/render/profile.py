"""Measurements as tables and as one document. Nothing is computed here but what a cell shows."""

from collections.abc import Sequence
from typing import Any

import msgspec

from modcalc.cost.roofline import seconds_at
from modcalc.measure.alike import conditions
from modcalc.measure.hardware import Device, Peak
from modcalc.measure.records import Attribution, Baseline, Failed, Line, Measured, Record, Result, Settings
from modcalc.render.breakdown import in_order
from modcalc.render.numbers import seconds, share
from modcalc.render.points import about, attributed, device_line, headline, models, names, peak_line, point_name
from modcalc.render.table import Column, Styled, Table, bad
from modcalc.render.wording import LABELS, varying

BYTES = (
    "byte ratio: of the fewest bytes that a step moves, which set the pace of small batches; weights that only tokens which pass need "
    "are read as soon as the token of one sequence passes"
)
MBU = "MBU: the fewest bytes that a step moves, over its time and the memory's bandwidth"
ALONE = "alone: time ratio of the runs of each model by itself that measure energy; in turn, both share the device's power and clock"
OWN_LABELS = {**LABELS, "loss": "losses", "optimizer": "optimizer", "idle": "idle (no kernel runs)", "other": "other"}


def document(records: Sequence[Record], asked: int | None = None) -> dict[str, Any]:
    """Records under `results`; one alone as it is where no more were asked for."""
    plain = [msgspec.to_builtins(record) for record in records]
    return plain[0] if asked == 1 else {"results": plain}


def tables(records: Sequence[Record], format: str = "") -> list[Table]:
    """Times and rates; the comparison with baselines; ranks; attributions: those that the records have. csv: all attributions in one,
    and the conditions in every row.
    """
    done = [r for r in records if isinstance(r, Result)]
    compared, parallel = [r for r in done if r.baseline], [r for r in done if r.ranks]
    times_by = list(attributed(done))
    found = [(times(records), [r for _, r, _ in models(records)])]
    found += [(comparison(compared), compared)] if compared else []
    found += [(ranks(parallel), parallel)] if parallel else []
    if format == "csv":
        found += [(attributions(times_by), [r for _, a, r in times_by for _ in a.lines])] if times_by else []
        return [_with_conditions(*one) for one in found]
    return [table for table, _ in found] + [attribution(*one) for one in times_by]


def _with_conditions(table: Table, of: Sequence[Record]) -> Table:
    """The table with what its headline says in every row. of: the record of each row."""
    under = [conditions(r) for r in of]
    each = [{"status": "out_of_memory" if isinstance(r, Failed) else "ok", **own} for r, own in zip(of, under, strict=True)]
    headline = table.headline if all(own == under[0] for own in under) else ["under several conditions, by the columns behind status"]
    there = {column.name for column in table.columns}
    new = {name: key for name in each[0] if (key := name.replace("-", "_")) not in there}
    columns = [*table.columns, *(Column(name, key=key) for name, key in new.items())]
    rows = [
        [*(None if isinstance(cell, Styled) else cell for cell in row), *(more[name] for name in new)]
        for row, more in zip(table.rows, each, strict=True)
    ]
    return msgspec.structs.replace(table, columns=columns, rows=rows, headline=headline if table.headline else [])


def _points(s: Settings) -> list[Any]:
    return [s.batch, s.seq_len, s.context]


def _point_columns(settings: Sequence[Settings]) -> list[Column]:
    """What differs between rows stays on the narrowest terminal; what does not goes first."""
    stay = varying(settings) or ("batch", "context" if settings[0].mode == "decode" else "seq_len")
    titles = {"batch": "batch", "seq_len": "tokens", "context": "cached"}
    return [Column(title, "count", drop=0 if name in stay else 9) for name, title in titles.items()]


def times(records: Sequence[Record]) -> Table:
    """A row for each model at each point."""
    columns = (
        Column("model"),
        *_point_columns([r.settings for r in records]),
        Column("step", "seconds", "step_s"),
        Column("p25", "seconds", "p25_s", drop=4),
        Column("p75", "seconds", "p75_s", drop=4),
        Column("n", "count", drop=5),
        Column("warm-up", "seconds", "warm_up_s", drop=8),
        Column("first", "seconds", "first_step_s", drop=8),
        Column("tokens/s", "si", "tokens_per_s"),
        Column("FLOP/s", "si", "flops_per_s", drop=1),
        Column("MFU", "share", "mfu"),
        Column("HFU", "share", "hfu", drop=6),
        Column("of reached", "share", "mfu_reached", drop=7),
        Column("MBU", "share", "mbu"),
        Column("MBU of reached", "share", "mbu_reached", drop=7),
        Column("memory", "bytes", "peak_memory_bytes", drop=2),
        Column("reserved", "bytes", "reserved_bytes", drop=7),
        Column("energy/token", "real", "joules_per_token", "J", drop=3),
        Column("warnings", "count", drop=6),
    )
    rows = [[name, *_points(r.settings), *_measured(m, r.settings.mode), _warned(r, m)] for name, r, m in models(records)]
    memory = next((r.memory.source for r in records if isinstance(r, Result)), "")
    s = records[0].settings
    once = [what for what, done in (("compilation", s.compile), ("capture", s.cuda_graph)) if done]
    included = f", {' and '.join(once)} included" if once else ""
    if s.compile and any(isinstance(r, Result) and r.baseline for r in records):
        included += "; a baseline takes over what was compiled for the spec"
    notes = [f"step: median; p25, p75: quartiles; warm-up: of each model alone, in every build; first: its first step{included}"]
    if s.mode == "decode" and any(isinstance(r, Result) and (r.mbu or r.mbu_reached) for r in records):
        notes.append(MBU)
    if memory:
        sure = "; it is known to some MiB only" if records[0].device.type == "cpu" else ""
        sure += ", and a first compiled model's holds what the compiler took" if sure and s.compile else ""
        sure += f", and in {s.dtype} to tens of MiB: the first model's holds kernels made for its shapes" if sure and s.dtype != "fp32" else ""
        notes.append(f"memory: {memory}, at its peak, less what was held before{sure}")
    return _used(Table(columns=columns, rows=rows, title="Measured step times", headline=headline(records), notes=notes))


def _measured(m: Measured | None, mode: str) -> list[Any]:
    if m is None:
        return [bad("out of memory"), *[None] * 15]
    t, burnt = m.step_time_s, m.energy and m.energy.joules_per_token
    rates = [m.tokens_per_s, m.flops_per_s, m.mfu, m.hfu, m.mfu_reached]
    rates += [m.mbu, m.mbu_reached] if mode == "decode" else [None, None]  # elsewhere products set the pace
    return [t.median, t.p25, t.p75, t.n, m.warmup.seconds, m.warmup.first_step_s, *rates, m.peak_memory_bytes, m.memory.reserved, burnt]


def _warned(record: Record, m: Measured | None) -> int | None:
    """How many warnings are about the baseline, if that is `m`; else how many about its spec, or both models."""
    others = sum(bool(about(record, doubt)) for doubt in record.doubts)
    return (others if isinstance(m, Baseline) else len(record.doubts) - others) or None


def comparison(done: Sequence[Result]) -> Table:
    """Each spec against its baseline: what the FLOPs promise and what the clock says. All of `done` have one."""
    columns = (
        Column("model"),
        Column("baseline", drop=0 if _several(done) else 3),
        *_point_columns([r.settings for r in done]),
        Column("FLOP ratio", "ratio"),
        Column("byte ratio", "ratio", drop=4),
        Column("time ratio", "ratio"),
        Column("interval", "interval", drop=1),
        Column("alone", "ratio", "time_ratio_alone", drop=4),
        Column("realised saving", "ratio"),
        Column("saving interval", "interval", drop=2),
        Column("builds", "count", drop=5),
    )
    builds = {len(r.baseline.build_ratios) or 1 for r in done}
    rows = []
    for r in done:
        b = r.baseline
        saving = [b.realised_saving, b.realised_saving_interval]
        moved = r.byte_ratio if r.mode == "decode" else None
        row = [r.spec, b.spec, *_points(r.settings), b.flop_ratio, moved, b.time_ratio, b.time_ratio_interval, r.alone_ratio, *saving]
        rows.append([*row, len(b.build_ratios) or 1 if len(builds) > 1 else None])
    notes = _how_compared([r.baseline for r in done], builds)
    if any(r.alone_ratio for r in done):
        notes.append(ALONE)
    if done[0].mode == "decode":
        notes.insert(1, BYTES)
    return _used(Table(columns=columns, rows=rows, title="Against the baseline, run in turn", notes=notes))


def _how_compared(found: Sequence[Baseline], builds: set[int]) -> list[str]:
    """What the time ratio is a median of, and how sure its interval is. builds: how often models were built."""
    saved = any(b.realised_saving is not None for b in found)
    saving = "realised saving = (1 - time ratio) / (1 - FLOP ratio)" if saved else "no realised saving, as no FLOPs are saved"
    if saved and any(b.realised_saving is None for b in found):
        saving += ", none where no FLOPs are saved"
    pairs = "over pairs of steps that ran next to each other"
    if builds == {1}:
        median = pairs
    elif len(builds) == 1:
        median = f"of {max(builds):,} builds of both models, each the median {pairs}"
    else:
        median = f"{pairs}; of several builds, the median of theirs"
    notes = [f"time ratio: median {median}; {saving}"]
    sure = {share(b.confidence): b.confidence for b in found if b.confidence}
    if sure:
        of = "pairs" if builds == {1} else "builds, or pairs of one" if 1 in builds else "builds"
        share_of = f"{'at least ' if len(sure) > 1 else ''}{min(sure, key=sure.get)}"
        notes.append(
            f"intervals cover the true median with {share_of} if samples are independent, whatever the distribution (order statistics of the {of})"
        )
        if 1 in builds:
            notes.append("that of one build is this build's own: the ratio of another build of the same models may lie outside")
    return notes


def _several(done: Sequence[Result]) -> bool:
    """Whether a model was compared with more than one other."""
    pairs = {(r.spec, r.baseline.spec) for r in done}
    return len(pairs) > len({spec for spec, _ in pairs})


def ranks(done: Sequence[Result]) -> Table:
    """What the processes of a torchrun say."""
    columns = (
        Column("model"),
        *_point_columns([r.settings for r in done]),
        Column("ranks", "count"),
        Column("fastest", "seconds", "fastest_s"),
        Column("slowest", "seconds", "slowest_s"),
        Column("skew", "share"),
        Column("communication", "share"),
        Column("exposed", "seconds", "exposed_s", drop=1),
    )
    rows = []
    called = names(done)
    for r in done:
        k = r.ranks
        medians = [min(k.step_time_s), max(k.step_time_s)]
        rows.append([called(r)[0], *_points(r.settings), k.world_size, *medians, k.skew, k.communication_share, k.exposed_s])
    k = done[0].ranks
    notes = [
        f"{k.parallel} over {k.backend}; batch: of each rank; tokens/s and FLOP/s: of all ranks together",
        "fastest, slowest: medians of one rank; a step above is over when the rank that is slowest in it is done, so it may be longer",
        "memory, and how busy the machine was, are of rank 0",
        "communication: share of a step in which a collective is under way on rank 0, waiting for slower ranks included",
    ]
    return _used(Table(columns=columns, rows=rows, title="Ranks", notes=notes))


def attribution(name: str, a: Attribution, r: Result) -> Table:
    """Where the time of a step of `r`'s model `name` goes, routing overhead on a line of its own."""
    columns = (Column(a.by), *TIMES)
    rows = _lines(a, r)
    parts = ", ".join(f"{line.label} {seconds(line.time_s)}" for line in a.routing)
    notes = [f"routing overhead (in the lines above): {seconds(a.routing_s)}, {share(a.routing_share)} of the step: {parts}"] if a.routing else []
    labels = {line.label for line in a.lines}
    slower = 100 * (a.step_time_s / a.unprofiled_s - 1)
    own = f"{seconds(a.unprofiled_s)}, where the steps timed above took {seconds(r.timed(a.spec).step_time_s.median)}"
    idle = "idle" in labels
    notes.append(f"mean of {a.rounds} eager steps of {own}; the profiler's own {slower:+.1f} % is taken off {'idle' if idle else 'all lines alike'}")
    if not idle and slower > 0:
        notes.append(f"where a line is few large operations, which it hardly slows, it took up to {slower:.1f} % longer than shown")
    if "other" in labels:
        notes.append(
            "other: between the operations that the profiler sees, above all Python, and those of no block: positions, where they are rotary"
        )
    if any(row[-1] for row in rows):
        notes.append("of roofline: of its time, what its FLOPs at the peak or its fewest bytes at the memory's bandwidth take, whichever is more")
    total = ["total", a.unprofiled_s, 1.0, sum(line.flops for line in a.lines), None, None]
    return _used(Table(columns=columns, rows=rows, total=total, title=f"Where the time goes: {point_name(name, r.settings)}", notes=notes))


TIMES = (
    Column("time", "seconds", "time_s"), Column("share", "share"), Column("FLOPs", "si", "flops"), Column("FLOP/s", "si", "flops_per_s"),
    Column("of roofline", "share"),
)  # fmt: skip


def _lines(a: Attribution, r: Result) -> list[list[Any]]:
    # By datasheet, or where that lacks the bandwidth what was reached.
    peak = next((p for p in (r.peak, r.reached) if p and p.bytes_per_s), None)

    def needed(line: Line) -> float | None:
        if peak is None or not line.bytes or line.time_s <= 0:
            return None
        return max(seconds_at(peak, line.flops, line.bytes)) / line.time_s

    lines = in_order(a.lines, lambda line: line.label)
    return [[OWN_LABELS.get(line.label, line.label), line.time_s, line.share, line.flops, line.flops_per_s, needed(line)] for line in lines]


def attributions(found: Sequence[tuple[str, Attribution, Result]]) -> Table:
    """The lines of all attributions, each with its model and point."""
    rows = [[name, *_points(r.settings), a.by, *line] for name, a, r in found for line in _lines(a, r)]
    columns = (Column("model"), *_point_columns([r.settings for _, _, r in found]), Column("by"), Column("part"), *TIMES)
    return Table(columns=columns, rows=rows, title="Where the time goes")


def _used(table: Table) -> Table:
    """Without the columns that are empty, or 0 for `cached`, in every row."""
    keep = [i for i, c in enumerate(table.columns) if any(row[i] not in ((None, 0) if c.title == "cached" else (None,)) for row in table.rows)]
    columns = [table.columns[i] for i in keep]
    rows = [[row[i] for i in keep] for row in table.rows]
    total = table.total and [table.total[i] for i in keep]
    return msgspec.structs.replace(table, columns=columns, rows=rows, total=total)


def peaks_document(device: Device, dtype: str, peak: Peak | None, reached: Peak) -> dict[str, Any]:
    """What `--peaks` alone found."""
    return msgspec.to_builtins({"device": device, "dtype": dtype, "peak": peak, "reached": reached})


def peaks_table(device: Device, dtype: str, peak: Peak | None, reached: Peak) -> Table:
    """What the device reaches beside what its datasheet promises."""
    columns = (Column("what"), Column("reached", "si"), Column("peak", "si"), Column("share", "share"))
    pairs = [
        (f"{dtype} matrix product, FLOP/s", reached.flops_per_s, peak and peak.flops_per_s),
        ("copy, bytes/s read and written", reached.bytes_per_s, peak and peak.bytes_per_s),
    ]
    rows = [[what, got, promised, got / promised if promised else None] for what, got, promised in pairs]
    headline = [device_line(device), *([peak_line(peak, dtype)] if peak else [f"no {dtype} peak is known for this device"])]
    return Table(columns=columns, rows=rows, title="What the device reaches", headline=headline, notes=[reached.source])
