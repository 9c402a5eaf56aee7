"""What a later command makes of a record: shares of a peak that became known after it was measured, and what its models are called."""

from collections import Counter
from collections.abc import Iterable

import msgspec

from modcalc.measure import caveats
from modcalc.measure.hardware import Peak
from modcalc.measure.records import Failed, Measured, Record, Result


def rated(result: Result, peak: Peak | None, reached: Peak | None) -> Result:
    """The result with MFU, HFU and MBU as shares of `peak`, MFU and MBU as shares of `reached`; None: its own stay."""
    peak, reached = peak or result.peak, reached or result.reached
    old = _doubts(result)

    def shares(m: Measured) -> dict[str, float | None]:
        return _shares(m, peak, reached, result.knows_bytes)

    new = msgspec.structs.replace(
        result,
        peak=peak,
        reached=reached,
        **shares(result),
        baseline=result.baseline and msgspec.structs.replace(result.baseline, **shares(result.baseline)),
        warnings=[warning for warning in result.warnings if warning not in old],
    )
    new.warnings.extend(_doubts(new))
    return new


def named(record: Record, spec: str, baseline: str | None) -> Record:
    """The record with its models called as now; they are the same whatever their names."""
    replace = msgspec.structs.replace
    if isinstance(record, Failed):
        return replace(record, spec=spec, baseline=baseline)
    both = [spec] if baseline is None else [spec, baseline]
    names = ({record.baseline.spec: baseline} if record.baseline else {}) | {record.spec: spec}  # once both could be called alike
    seen: Counter[str] = Counter()
    attribution = []
    for a in record.attribution:  # the spec's stands before the baseline's
        attribution.append(replace(a, spec=both[seen[a.by]]))
        seen[a.by] += 1
    return replace(
        record,
        spec=spec,
        baseline=record.baseline and replace(record.baseline, spec=baseline),
        attribution=attribution,
        warnings=[_renamed(doubt, names) for doubt in record.warnings],
    )


def _renamed(doubt: str, names: dict[str, str]) -> str:
    """Most doubts begin with the model that they are about."""
    model = subject(doubt, names)
    return f"{names[model]}{doubt.removeprefix(model)}" if model else doubt


def subject(doubt: str, names: Iterable[str]) -> str:
    """The model that a doubt is about, of these; empty: none alone."""
    return max((name for name in names if doubt.startswith(f"{name}: ")), key=len, default="")


def _shares(m: Measured, peak: Peak | None, reached: Peak | None, knows_bytes: bool) -> dict[str, float | None]:
    def share(amount: float, per_s: float | None) -> float | None:
        return None if per_s is None else amount / m.step_time_s.median / per_s

    rate, rate_reached = (p and p.flops_per_s for p in (peak, reached))
    width, width_reached = (p.bytes_per_s if p and knows_bytes else None for p in (peak, reached))
    return dict(
        mfu=share(m.flops.step, rate),
        hfu=share(m.flops.hardware, rate),
        mfu_reached=share(m.flops.step, rate_reached),
        mbu=share(m.step_bytes, width),
        mbu_reached=share(m.step_bytes, width_reached),
    )


def _doubts(result: Result) -> list[str]:
    doubts: list[str | None] = []
    for m in (result, *([result.baseline] if result.baseline else [])):
        doubts += [result.peak and caveats.beyond_peak(m.spec, m.mfu, result.peak.source), caveats.beyond_reached(m.spec, m.mfu_reached)]
    return [doubt for doubt in doubts if doubt]
