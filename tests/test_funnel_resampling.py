"""Resampled ratios: their spread is that of the units, and 95 of 100 lie within the interval."""

import numpy as np
import pytest
from funnel.figures.resampling import bootstrap_ratios, percentiles


def test_an_interval_holds_95_of_100_resamples() -> None:
    thousandths = np.random.default_rng(0).permutation(np.arange(1001) / 1000)
    found = percentiles("x", 0.7, thousandths)
    assert found == pytest.approx({"x": 0.7, "x.low": 0.025, "x.high": 0.975}, abs=1e-12)


def test_resamples_spread_as_the_mean_of_the_units_does() -> None:
    sums_2U = np.random.default_rng(1).exponential(2.0, (2, 500))
    ratios_2B = bootstrap_ratios(sums_2U, np.ones(500), 2000, seed=0)
    assert ratios_2B.std(axis=1) == pytest.approx(sums_2U.std(axis=1) / 500**0.5, rel=0.08)
    assert ratios_2B.mean(axis=1) == pytest.approx(sums_2U.mean(axis=1), rel=0.01)


def test_resamples_of_two_figures_are_paired() -> None:
    sums_U = np.random.default_rng(1).exponential(2.0, 300)
    one_B, two_B = bootstrap_ratios(np.stack([sums_U, sums_U + 1]), np.ones(300), 50, seed=0)
    assert two_B - one_B == pytest.approx(np.ones(50))
