"""What a measurement is as a share of a peak, which may become known after it."""

import msgspec

from modcalc.measure import verdict
from modcalc.measure.hardware import Peak
from modcalc.measure.records import Measured, Result


def rated(result: Result, peak: Peak | None, reached: Peak | None) -> Result:
    """The result with MFU and HFU as shares of `peak` and MFU as one of `reached`. Where none is given now, its own stays; what was
    reached while it was measured stays too.
    """
    peak, reached = peak or result.peak, result.reached or reached
    old = _doubts(result)
    new = msgspec.structs.replace(
        result,
        peak=peak,
        reached=reached,
        **_shares(result, peak, reached),
        baseline=result.baseline and msgspec.structs.replace(result.baseline, **_shares(result.baseline, peak, reached)),
        warnings=[warning for warning in result.warnings if warning not in old],
    )
    new.warnings.extend(_doubts(new))
    return new


def _shares(m: Measured, peak: Peak | None, reached: Peak | None) -> dict[str, float | None]:
    def share(flops: float, of: Peak | None) -> float | None:
        return None if of is None else flops / m.step_time_s.median / of.flops_per_s

    return dict(mfu=share(m.flops.step, peak), hfu=share(m.flops.hardware, peak), mfu_reached=share(m.flops.step, reached))


def _doubts(result: Result) -> list[str]:
    if result.peak is None:
        return []
    models = [result, *([result.baseline] if result.baseline else [])]
    return [doubt for m in models if (doubt := verdict.beyond_peak(m.spec, m.mfu, result.peak.source))]
