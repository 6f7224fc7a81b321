"""Intervals and their ends, by numbers and by scipy: no constant of the product is compared with itself."""

import numpy as np
import pytest
from scipy.stats import binomtest, ks_2samp
from torch import from_numpy

from funnel.figures import bootstrap, intervals
from funnel.figures.binary import BinaryMetrics
from funnel.figures.bootstrap import chunks, interval
from funnel.figures.sampling_error import half_width, wilson

THOUSANDTHS = np.random.default_rng(0).permutation(np.arange(1001) / 1000)


def test_an_interval_holds_95_of_100_replicates() -> None:
    assert interval(0.5, 0.5, THOUSANDTHS) == pytest.approx((0.025, 0.975), abs=1e-12)


def test_an_interval_of_coarse_figures_is_moved_to_the_fine_one() -> None:
    """Replicates are of grouped scores: 0.5 as a whole, where the figure itself is 0.62."""
    assert interval(0.62, 0.5, THOUSANDTHS) == pytest.approx((0.145, 1.095), abs=1e-12)


def test_an_interval_of_no_event_is_clopper_and_pearsons() -> None:
    """0 of 1000 rounds: [0, -ln(.0125) / 1000], and the mirror image; 40 of 1000 is about 40 +- 2.24 sqrt(40)."""
    none_U = np.zeros(1000)
    assert intervals.interval(0.0, none_U, up=1e-3) == pytest.approx((0, 4.382027e-3), rel=1e-6)
    assert intervals.interval(0.0, none_U, down=1e-3) == pytest.approx((-4.382027e-3, 0), rel=1e-6)
    rewarded_U = (np.arange(1000) < 40).astype(float)
    value, part_U = intervals.ratio_parts(rewarded_U, np.ones(1000))
    low, high = intervals.interval(value, part_U)
    assert value == 0.04
    assert (high - value, value - low) == (pytest.approx(0.0142, rel=0.15), pytest.approx(0.0142, rel=0.15))


def test_an_interval_needs_nine_replicates_in_ten() -> None:
    absent = np.where(np.arange(1000) % 100 < 11, np.nan, 1.0)
    assert interval(1.0, 1.0, absent) is None
    absent[np.arange(1000) % 100 == 10] = 1.0
    assert interval(1.0, 1.0, absent) == (1.0, 1.0)


def test_users_are_drawn_apart_whatever_bucket_and_chunk_they_are_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poisson(1) each, without a correlation: users that moved together would make every interval too wide."""
    monkeypatch.setattr(bootstrap, "CHUNK_USERS", 50)
    user_R = np.repeat(np.arange(100, dtype=np.uint64), 2)
    drawn = [weight for bucket in (0, 1) for _, _, weight in chunks(user_R, bucket, seed=3, replicates=400)]
    weight_4UB = np.stack(drawn)
    assert weight_4UB.shape == (4, 50, 400)
    assert weight_4UB.mean() == pytest.approx(1, abs=0.02)
    assert weight_4UB.var() == pytest.approx(1, abs=0.03)
    between = np.corrcoef(weight_4UB.reshape(4, -1))
    assert np.abs(between - np.eye(4)).max() < 0.04  # of 20,000 draws: 5 standard errors
    other = np.stack([weight for _, _, weight in chunks(user_R, 0, seed=4, replicates=400)])
    assert abs(np.corrcoef(other.ravel(), weight_4UB[:2].ravel())[0, 1]) < 0.04
    again = np.stack([weight for _, _, weight in chunks(user_R, 0, seed=3, replicates=400)])
    assert np.array_equal(again, weight_4UB[:2])


def test_the_error_of_an_auc_is_hanleys_and_mcneils() -> None:
    """A = .75, 10 positives, 20 negatives: Q1 = .6, Q2 = .642857, so var = (.1875 + 9 (.0375) + 19 (.080357)) / 200."""
    assert half_width("auc", 0.75, rows=30, positives=10) == pytest.approx(1.96 * 0.01025893**0.5, rel=1e-6)
    assert half_width("pcoc", 1.2, rows=1000, positives=64) == pytest.approx(1.96 * 1.2 / 8)
    assert half_width("auc", 0.75, rows=30, positives=30) is None


@pytest.mark.parametrize(("positives", "rows"), [(0, 7), (1, 10), (40, 97), (5, 5)])
def test_the_interval_of_a_rate_is_scipys(positives: int, rows: int) -> None:
    low, high = wilson(np.array(positives / rows), np.array(rows))
    expected = binomtest(positives, rows).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=2e-5)


def test_ks_of_scores_that_rank_worse_than_chance_is_scipys() -> None:
    rng = np.random.default_rng(2)
    label = rng.random(400) < 0.3
    score = rng.normal(0, 1, 400) - label
    metrics = BinaryMetrics()
    metrics.add(from_numpy(score), from_numpy(label.astype(np.float64)))
    assert metrics.ks() == pytest.approx(ks_2samp(score[label], score[~label]).statistic, abs=1e-3)
