"""Rank statistics of step times."""

import random
from math import comb, sqrt

import pytest

from modcalc.measure.records import StepTime
from modcalc.measure.stats import built_ratio, drift, median_interval, paired_ratio, realised_saving


def test_summary_is_numpys():
    np = pytest.importorskip("numpy")
    drawn = random.Random(7)
    samples = [drawn.expovariate(1.0) for _ in range(101)]
    s = StepTime.of(samples)
    assert (s.p25, s.median, s.p75) == pytest.approx(tuple(np.percentile(samples, [25, 50, 75])), rel=1e-12)
    assert (s.min, s.n) == (min(samples), 101)


def test_one_sample():
    s = StepTime.of([2.0])
    assert (s.median, s.p25, s.p75, s.spread, s.wide) == (2.0, 2.0, 2.0, 0.0, False)


def test_wide_begins_over_ten_percent():
    assert not StepTime.of([1.0, 1.0, 1.1, 1.1]).wide
    assert StepTime.of([1.0, 1.0, 1.2, 1.2]).wide


@pytest.mark.parametrize("n, k", [(6, 1), (9, 2), (20, 6), (100, 40)])
def test_interval_takes_the_tabulated_order_statistics(n, k):
    """k of the 95 % interval for the median, as tables of the sign test print it."""
    found = median_interval([float(i) for i in range(1, n + 1)])
    assert (found.low, found.high) == (k, n + 1 - k)
    assert found.confidence == pytest.approx(1 - 2 * sum(comb(n, i) for i in range(k)) / 2**n)
    assert found.confidence >= 0.95


@pytest.mark.parametrize("n, k", [(1023, 480), (1024, 481), (10_000, 4902)])
def test_interval_of_very_many_samples(n, k):
    """2^1024 is no float. k is within one of the normal approximation (n - 1.96 sqrt(n)) / 2."""
    found = median_interval([float(i) for i in range(1, n + 1)])
    assert abs(k - (n - 1.96 * sqrt(n)) / 2) < 1.1
    assert (found.low, found.high) == (k, n + 1 - k)
    assert 0.95 <= found.confidence < 0.96


def test_five_samples_give_no_interval():
    found = median_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.value, found.low, found.high, found.confidence) == (3.0, None, None, None)


def test_interval_covers_as_often_as_it_says():
    """Skewed noise with a common drift, true ratio 0.6: coverage over 1,000 experiments of 40 pairs."""
    rng = random.Random(1)
    hits = 0
    for _ in range(1000):
        base, times = [], []
        for i in range(40):
            slow = 1 + 0.5 * i / 40
            base.append(slow * (1 + rng.expovariate(20.0)))
            times.append(0.6 * slow * (1 + rng.expovariate(20.0)))
        found = paired_ratio(times, base)
        hits += found.low <= 0.6 <= found.high
    assert 0.93 <= hits / 1000 <= 0.985  # exact coverage at n = 40 is 0.9615


def test_what_a_build_shares_is_in_the_interval_over_builds_alone():
    """Each build's steps are all off by 2 %: pairs are sure of what is not so, builds cover as often as they say."""
    rng = random.Random(1)
    hits = {"builds": 0, "pairs": 0}
    for _ in range(500):
        base, times, ratios = [], [], []
        for _ in range(6):
            placed = rng.gauss(1.0, 0.02)
            own = [0.6 * placed * (1 + rng.expovariate(100.0)) for _ in range(20)]
            under = [1 + rng.expovariate(100.0) for _ in own]
            ratios.append(paired_ratio(own, under).value)
            base += under
            times += own
        for name, found in (("builds", built_ratio(ratios, times, base)), ("pairs", built_ratio([], times, base))):
            hits[name] += found.low <= 0.6 <= found.high
    assert 0.94 <= hits["builds"] / 500 <= 0.99  # exact coverage at n = 6 is 0.9688
    assert hits["pairs"] / 500 < 0.6


def test_a_ratio_of_itself_is_one():
    found = paired_ratio([3.0, 5.0, 7.0] * 4, [3.0, 5.0, 7.0] * 4)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_pairs_must_match():
    with pytest.raises(ValueError):
        paired_ratio([1.0, 2.0], [1.0])


def test_realised_saving():
    ratio = paired_ratio([0.6 + 0.001 * i for i in range(-5, 6)], [1.0] * 11)
    saving = realised_saving(ratio, 0.5)
    assert saving.value == pytest.approx(0.8)
    assert saving.low == pytest.approx((1 - ratio.high) / 0.5) and saving.high == pytest.approx((1 - ratio.low) / 0.5)
    assert saving.low < saving.value < saving.high
    slower = realised_saving(paired_ratio([1.2] * 11, [1.0] * 11), 0.5)
    assert slower.value == pytest.approx(-0.4)
    # Nothing is saved by more FLOPs than the baseline's.
    assert [realised_saving(ratio, flops) for flops in (0.995, 1, 1.5)] == [None] * 3


def test_drift():
    assert drift([1.0] * 4 + [2.0] * 4) == 1.0  # too few to tell
    assert drift([1.0] * 3 + [1.5] * 3 + [2.0] * 3) == 2.0
    assert drift([1.0] * 10 + [1.5] * 10 + [2.0] * 10) == 2.0
