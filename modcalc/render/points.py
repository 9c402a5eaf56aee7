"""Measured points in words: what they are called, what they share, and what is doubtful about them."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any

from modcalc.cost.workload import SAMPLING
from modcalc.measure.hardware import Clocks, Device, Peak
from modcalc.measure.rating import subject
from modcalc.measure.records import Attribution, Failed, Measured, Record, Result, Settings, as_baseline
from modcalc.render.numbers import several, si
from modcalc.render.wording import PAIRS

MODES = {
    "forward": "forward pass, all logits, no gradients",
    "train": "train step: forward with the real losses, backward, fused AdamW",
    "prefill": "prefill: the prompt into the cache, logits of the last token",
    "decode": "decode: one new token for each sequence",
}


def point_name(spec: str, s: Settings) -> str:
    """`mod-220m, train, batch 4, 2,048 tokens`."""
    length = several(s.seq_len, "token")
    cached = f" after {s.context:,} cached" if s.mode == "decode" else ""
    return f"{spec}, {s.mode}, batch {s.batch:,}, {length}{cached}"


def names(records: Sequence[Record]) -> Callable[[Result], tuple[str, str]]:
    """What the two models of one of these are called, the second "" where it has none: with the other one's name where a model ran beside
    several, or also alone, as its times are then not of one kind.
    """
    beside: dict[str, set[str | None]] = {}
    for r in records:
        if isinstance(r, Result):
            beside.setdefault(r.spec, set()).add(r.baseline and r.baseline.spec)
            if r.baseline and not _with_itself(r):
                beside.setdefault(r.baseline.spec, set()).add(r.spec)

    def called(r: Result) -> tuple[str, str]:
        if not r.baseline:
            return r.spec, ""
        several, other = len(beside[r.spec]) > 1, r.baseline.spec
        if _with_itself(r):
            return f"{r.spec} (with itself)" if several else r.spec, as_baseline(r.spec)
        return f"{r.spec} (with {other})" if several else r.spec, f"{other} (beside {r.spec})" if len(beside[other]) > 1 else other

    return called


def _with_itself(r: Result) -> bool:
    return r.baseline.spec in (r.spec, as_baseline(r.spec))


def attributed(records: Sequence[Result]) -> Iterator[tuple[str, Attribution, Result]]:
    """(name of the model that it is of, breakdown, result): all that the results have, a baseline's after its spec's."""
    called = names(records)
    for r in records:
        own, other = called(r)
        told: set[str] = set()  # of a model beside itself the second is the baseline's
        for a in r.attribution:
            yield (other if a.by in told or a.spec != r.spec else own), a, r
            told.add(a.by)


def models(records: Sequence[Record]) -> Iterator[tuple[str, Record, Measured | None]]:
    """(name, record, measurement or None) of every model, a baseline after its spec."""
    called = names(records)
    for record in records:
        if isinstance(record, Failed):
            # A comparison holds both, and either may have been too large.
            yield f"{record.spec} with {record.baseline}" if record.baseline else record.spec, record, None
            continue
        own, other = called(record)
        yield own, record, record
        if record.baseline:
            yield other, record, record.baseline


def headline(records: Sequence[Record]) -> list[str]:
    """Device, software, what a step is and by whose rule its FLOPs are counted: the same of all records."""
    record = next((r for r in records if isinstance(r, Result)), records[0])
    d, s = record.device, record.settings
    how = "torch.compile block by block" if s.compile else "eager"
    software = [f"torch {record.torch}", *([f"CUDA {d.cuda}"] if d.cuda else []), *([f"driver {d.driver}"] if d.driver else [])]
    days = {r.time[:10] for r in records if isinstance(r, Result)}
    when = [f"measured {_span(days)}"] if days else []
    clocks = [r.device.clocks for r in records if r.device.clocks and r.device.clocks.sm_mhz]
    lines = ["; ".join([device_line(d, clocks), ", ".join(software), *when])]
    lines.append(f"{MODES[s.mode]}; {s.dtype}, {how}{', CUDA graph' if s.cuda_graph else ''}")
    lines.append("new random tokens each step; warm-up and compilation are not in the times")
    if drawn := [m for _, _, m in models(records) if m and m.drawn]:
        steps = {m.step_time_s.steps for m in drawn}
        of = f"; a sample is the mean of {_span(steps)} steps" if max(steps) > 1 else ""
        lines.append(f"tokens pass routed blocks by chance of their share, drawn anew each step, so FLOPs are expectations{of}")
        if s.mode == "prefill" and any(r.settings.batch > 1 for r in records):
            lines.append("rows of a batch pass different numbers of tokens: the shorter ones are padded in routed blocks, which no FLOPs here count")
    elif any(m and m.expectation for _, _, m in models(records)):
        sampling = "no-op experts are counted by their share of all experts, and an untrained router has its own"
        whole = "a kept token is counted with as many keys as a token sees in the mean, however many stand before it"
        lines.append(f"{sampling if s.mode in SAMPLING else whole}, so FLOPs are expectations")
    if isinstance(record, Result):
        pairs = f"; {PAIRS[record.convention.causal]}" if s.mode != "decode" else ""  # its one token attends to all cached ones
        lines.append(f"convention {record.convention.name}: 1 multiply-add = 2 FLOPs{pairs}")
        lines += [
            peak_line(record.peak, s.dtype, record.reached is not None),
            *([f"reached: {_rates(record.reached)} ({record.reached.source})"] if record.reached else []),
        ]
    return lines


def device_line(d: Device, clocks: Sequence[Clocks] = ()) -> str:
    """The device, with what its speed depends on. clocks: those at each measurement."""
    if d.type == "cpu":
        return f"{d.name}, {d.threads} of {d.cores} cores{', freed memory is kept' if d.keeps_freed else ''}"
    clocks = clocks or ([d.clocks] if d.clocks and d.clocks.sm_mhz else [])
    if not clocks:
        return d.name
    held = " and ".join(dict.fromkeys(by for clock in clocks for by in clock.held_by))
    return f"{d.name}, SM clock {_span({clock.sm_mhz for clock in clocks})} of {clocks[0].sm_max_mhz} MHz{f', held down by {held}' if held else ''}"


def _span(values: Set[Any]) -> str:
    """`a`, or `a to b`."""
    return " to ".join(str(end) for end in dict.fromkeys([min(values), max(values)]))


def peak_line(peak: Peak | None, dtype: str, reached: bool = False) -> str:
    """The peak that MFU is a share of. reached: what the device reaches is known."""
    if peak is None:
        instead = "" if reached else "; profile --peaks measures what is reached"
        return f"no {dtype} peak is known for this device, so no MFU; give it with --peak-tflops{instead}"
    return f"peak: {_rates(peak)}, dense {dtype} ({peak.source})"


def _rates(peak: Peak) -> str:
    memory = f", {si(peak.bytes_per_s, 'B/s')}" if peak.bytes_per_s else ""
    return f"{si(peak.flops_per_s, 'FLOP/s')}{memory}"


def warnings(records: Sequence[Record]) -> list[str]:
    """What to doubt at which point. Those that differ in numbers alone are told once, with how many there are."""
    alike: dict[tuple[str, str, str, int], list[str]] = {}
    for r in records:
        told: Counter[tuple[str, str, str]] = Counter()  # of one point nothing is left out
        for doubt in r.doubts:
            whose = about(r, doubt)
            kind = (r.spec, whose, re.sub(r"[\d.,]+", "0", doubt))
            said = f"{point_name(r.spec, r.settings)}: {doubt.removeprefix(f'{r.spec}: ')}"
            alike.setdefault((*kind, told[kind]), []).append(said)
            told[kind] += 1
    return [first + (f" (likewise at {several(len(more), 'more point')})" if more else "") for first, *more in alike.values()]


def about(record: Record, doubt: str) -> str:
    """The baseline's name, if the doubt is about it alone."""
    baseline = record.baseline.spec if isinstance(record, Result) and record.baseline else record.spec
    return baseline if subject(doubt, (record.spec, baseline)) == baseline != record.spec else ""
