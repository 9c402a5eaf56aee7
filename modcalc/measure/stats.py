"""Statistics of step times: plain Python, no torch and no numpy.

Samples of a busy machine are neither normal nor free of outliers, so everything here is a rank statistic: medians,
quartiles, and an order-statistic interval whose coverage needs no assumption about the distribution of independent samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import median, quantiles

WIDE = 0.10  # a spread (IQR / median) above this is called wide, as in torch.utils.benchmark
CONFIDENCE = 0.95
LEAST_GAP = 0.01  # of FLOPs, for a realised saving to mean something
MIN_SAMPLES = 6  # the fewest that give a 95 % interval of the median


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """(25th percentile, median, 75th) of at least one sample: linear interpolation between order statistics."""
    return (samples[0],) * 3 if len(samples) == 1 else tuple(quantiles(samples, n=4, method="inclusive"))


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, with the interval that covers the true value with probability `confidence` (None: too few samples)."""

    value: float
    low: float | None
    high: float | None
    confidence: float | None

    def map(self, a: float, b: float) -> "Interval":
        """a + b * x of this interval."""
        ends = (None, None) if self.low is None else sorted((a + b * self.low, a + b * self.high))
        return Interval(a + b * self.value, *ends, self.confidence)


def median_interval(samples: Sequence[float]) -> Interval:
    """The median and its distribution-free interval between two order statistics.

    The number of samples below the true median is Binomial(n, 1/2), so [x_(k), x_(n+1-k)] covers it with probability
    1 - 2 P(Binomial(n, 1/2) < k); k is the largest that keeps CONFIDENCE (Conover, Practical Nonparametric Statistics,
    3rd ed., section 3.2). Fewer than 6 samples cannot give 95 %. `confidence` of the result is the exact coverage.
    """
    n = len(samples)
    value = median(samples)
    outside = (1 - Fraction(str(CONFIDENCE))) * 2**n  # a fraction: from n = 1024 on, 2^n is no float
    k, below, ways = 0, 0, 1  # ways: n over k
    while 2 * (below + ways) <= outside:
        below += ways
        ways = ways * (n - k) // (k + 1)
        k += 1
    if k == 0:
        return Interval(value, None, None, None)
    ordered = sorted(samples)
    return Interval(value, ordered[k - 1], ordered[n - k], 1 - 2 * below / 2**n)


def paired_ratio(times: Sequence[float], base: Sequence[float]) -> Interval:
    """Median of times[i] / base[i] over steps that ran next to each other, with its interval.

    Pairing takes slow drifts (clock, temperature, other load) out of the ratio: both steps of a pair see the same.
    """
    return median_interval([a / b for a, b in zip(times, base, strict=True)])


def built_ratio(ratios: Sequence[float], times: Sequence[float], base: Sequence[float]) -> Interval:
    """`paired_ratio` of models that were built anew several times, given the ratio of each build.

    Where memory happens to lie moves all steps of one build alike, which its pairs cannot see: then the builds are the samples.
    """
    return median_interval(ratios) if ratios else paired_ratio(times, base)


def realised_saving(time_ratio: Interval, flop_ratio: float) -> Interval | None:
    """(1 - time ratio) / (1 - FLOP ratio): 1 where all saved FLOPs became saved time; None where less than 1 % of the FLOPs is
    saved, which is less than the clock can tell.
    """
    gap = 1 - flop_ratio
    if gap < LEAST_GAP:
        return None
    return time_ratio.map(1 / gap, -1 / gap)


def drift(samples: Sequence[float]) -> float:
    """Median of the last third over that of the first third: far from 1 where the machine changed while it was measured. 1 below 9 samples."""
    third = len(samples) // 3
    return median(samples[-third:]) / median(samples[:third]) if third >= 3 else 1.0
