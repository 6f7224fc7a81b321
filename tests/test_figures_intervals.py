"""Intervals of sums and ratios against exact limits, and in worlds where there is nothing to gain."""

import math

import numpy as np
import pytest
from scipy.stats import beta, norm

from benchmarks.evaluation.null_logs import FUSION_WORLDS, OFF_POLICY_WORLDS
from benchmarks.evaluation.null_worlds import Tally, holds, tallied
from funnel.figures.intervals import LEVEL, SPARE, effective_size, interval, ratio_parts, tail_index
from funnel.figures.verdict import Gain, verdict

MISSED = SPARE * (1 - LEVEL)
"""What the limits themselves may miss, on both sides together."""


def of_mean(values_U, **more):
    value, part_U = ratio_parts(values_U, np.ones(len(values_U)))
    return interval(value, part_U, **more)


def test_without_an_event_the_upper_end_is_clopper_and_pearsons():
    for rounds in (30, 300, 30_000):
        low, high = of_mean(np.zeros(rounds), up=1 / rounds)
        assert low == 0
        exact = beta.ppf(1 - MISSED / 2, 1, rounds)
        assert exact <= high < 1.08 * exact
    assert (LEVEL, SPARE) == (0.95, 0.5)
    assert of_mean(np.zeros(300), up=1 / 300)[1] == pytest.approx(4.382 / 300, rel=1e-3)


@pytest.mark.parametrize("events", [1, 2, 5, 20])
def test_few_events_have_limits_at_least_as_wide_as_the_exact_ones(events):
    rounds = 2000
    low, high = of_mean((np.arange(rounds) < events).astype(float), up=1 / rounds)
    assert low <= beta.ppf(MISSED / 2, events, rounds - events + 1) * 1.02
    exact = beta.ppf(1 - MISSED / 2, events + 1, rounds - events)
    assert exact * 0.98 <= high <= exact * 1.1


def test_many_units_have_the_normal_interval():
    values = np.random.default_rng(0).standard_normal(200_000)
    low, high = of_mean(values)
    half = norm.ppf(1 - MISSED / 2) * values.std() / math.sqrt(len(values))
    assert (high - low) / 2 == pytest.approx(half, rel=0.01)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.02 * half)
    ratio, part_U = ratio_parts(values + 3, 2 + values**2)
    assert ratio == pytest.approx((values + 3).sum() / (2 + values**2).sum())
    assert part_U.sum() == pytest.approx(0, abs=1e-9)


def test_nothing_known_of_the_other_side_is_no_certainty():
    """Three units differ, all to the better: an unseen one may be worse by as much."""
    part_U = np.where(np.arange(500) < 3, 0.01, 0.0)
    assert interval(0.03, part_U)[0] > 0
    assert interval(0.03, part_U, down=0.01)[0] < 0
    assert interval(0.0, np.zeros(9)) == (0, 0)


def test_the_tail_index_is_hills():
    rng = np.random.default_rng(0)
    assert tail_index(rng.pareto(2.0, 100_000) + 1) == pytest.approx(0.5, abs=0.1)
    assert tail_index(np.r_[np.zeros(50), np.full(20, 7.0)]) == 0
    assert tail_index(np.array([0.0, 3.0, -5.0])) == 0  # too few
    values = np.array([8.0, -4.0, 2.0, 1.0])
    assert tail_index(values) == pytest.approx((math.log(8 / 2) + math.log(4 / 2)) / 2)
    heavy = rng.pareto(1.2, 300)
    assert of_mean(heavy, tail=tail_index(heavy))[1] > of_mean(heavy)[1]


def test_the_effective_size_is_kishs():
    assert effective_size(np.full(7, 3.0)) == pytest.approx(7)
    assert effective_size(np.array([1.0, 0, 0, 3])) == pytest.approx(16 / 10)
    assert effective_size(np.zeros(3)) == 0


BETTER, SAME, WORSE = Gain("A", 0.5, 0.1, 0.9), Gain("B", 0.3, -0.1, 0.7), Gain("C", -0.5, -0.9, -0.1)


@pytest.mark.parametrize(
    ("gains", "told"),
    [
        ([BETTER, Gain("D", 0.2, 0.05, 0.35)],
         "Tuning gains +0.20 points against D (95% interval +0.05 to +0.35): significant, as against A."),
        # The larger gain is the one that cannot be told: it decides, and it is the one that is named.
        ([Gain("D", 0.01, 0.005, 0.02), SAME],
         "Tuning changes +0.30 points against B (95% interval -0.10 to +0.70): not significant, keep B; ahead of D "
         "alone (+0.01)."),
        ([BETTER, WORSE], "Tuning loses -0.50 points against C (95% interval -0.90 to -0.10): keep C."),
        ([SAME, WORSE], "Tuning loses -0.50 points against C (95% interval -0.90 to -0.10): keep C."),
        ([BETTER, Gain("E", absent="7 rounds: too few")],
         "Tuning cannot be told from E: 7 rounds: too few; ahead of A (+0.50)."),
        ([SAME, Gain("E", absent="7 rounds: too few")],
         "Tuning changes +0.30 points against B (95% interval -0.10 to +0.70): not significant, keep B."),
    ],
)  # fmt: skip
def test_the_verdict_names_the_rival_that_decides(gains, told):
    for order in (gains, gains[::-1]):
        assert verdict("Tuning", order, "+.2f", "points") == told
    assert BETTER.significant
    assert not any(gain.significant for gain in (SAME, WORSE, Gain("E", low=1, absent="none")))


def test_a_gain_is_read_from_figures():
    figures = {"g": 1.0, "g.low": 0.5, "g.high": 2.0, "h": 1.0, "absent": {"h": "too few"}}
    assert Gain.of(figures, "g", "X") == Gain("X", 1.0, 0.5, 2.0)
    assert Gain.of(figures, "h", "X").absent == "too few"
    assert Gain.of(figures, "i", "X").absent


def check(simulate, worlds):
    """Nothing printed misses what is asked for; a share of 30 or 200 worlds may be off by chance: three standard errors
    of 97.5% beyond."""
    slack = max(0.0, 0.93 - (0.975 - 3 * math.sqrt(0.975 * 0.025 / worlds)))
    tallies = tallied(simulate, worlds)
    told = {name: (tally.printed, tally.above, tally.below) for name, tally in tallies.items()}
    assert tallies
    assert all(holds(name, tally, slack) for name, tally in tallies.items()), told
    return tallies


@pytest.mark.parametrize("kind", ["rare_few_rounds", "common_3", "users", "spends_heavy", "tiny_normal"])
def test_worlds_without_a_gain(kind):
    check(OFF_POLICY_WORLDS[kind], 30)


def test_lists_without_a_gain():
    check(FUSION_WORLDS["few_users"], 20)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rare_46", "rare_few_rounds", "skewed_10", "users_rare", "users_heavy", "pareto"])
def test_two_hundred_worlds_without_a_gain(kind):
    """46 actions at a rate of .0045: a gain over "0 [0, 0]" lay above 0 in 55% of such worlds, and 41% of gains did
    where an action was drawn once a user."""
    tallies = check(OFF_POLICY_WORLDS[kind], 200)
    if kind == "rare_46":
        assert tallies["snips gain_over_best_constant"].printed > 150
        assert tallies["snips best_constant"].printed > 150


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["heavy_users", "heavy_users_rare", "rare_clicks"])
def test_two_hundred_lists_without_a_gain(kind):
    check(FUSION_WORLDS[kind], 200)


def test_what_holds_is_what_is_asked_for():
    assert holds("gain", Tally(200, 7, 7))
    assert not holds("gain", Tally(200, 8, 0))  # 4% of gains above 0
    assert holds("value", Tally(200, 14, 0))
    assert not holds("value", Tally(200, 8, 7))  # covers in 92.5%
