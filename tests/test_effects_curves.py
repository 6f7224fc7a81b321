"""Uplift, Qini and cost curves by hand and by chance; values of policies against the estimators' formulas."""

import numpy as np
import pytest

from funnel.effects import curves
from funnel.effects.value import Logged, compare, gain, policy_value


def randomised(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(true effect, treated, outcome, propensity of what happened), treated with probability .3."""
    draws = np.random.default_rng(seed)
    effect_R = draws.uniform(-1, 2, rows)
    treated_R = (draws.random(rows) < 0.3).astype(int)
    outcome_R = effect_R * treated_R + draws.normal(0, 0.3, rows)
    return effect_R, treated_R, outcome_R, np.where(treated_R == 1, 0.3, 0.7)


def test_the_uplift_curve_is_its_definition() -> None:
    """By brute force at every share, without the mean that is taken off."""
    effect_R, treated_R, outcome_R, share_R = randomised(400)
    found = curves.uplift(effect_R, treated_R, outcome_R, share_R, resamples=0)
    order_R, centred_R = np.argsort(-effect_R), outcome_R - outcome_R.mean()
    part_R = np.where(treated_R == 1, centred_R, -centred_R) / share_R
    for k in (0, 10, 25, 50):
        count = round(found.x_K[k] * 400)
        assert found.y_K[k] == pytest.approx(part_R[order_R][:count].sum() / 400, abs=1e-12)


def test_the_area_of_a_known_order_is_the_integral() -> None:
    """Effects uniform on (-1, 2), best first: U(k) = 2k - 1.5 k^2, so AUUC = 1 - .5 - .25 = .25."""
    effect_R, treated_R, outcome_R, share_R = randomised(60_000)
    found = curves.uplift(effect_R, treated_R, outcome_R, share_R, resamples=20)
    assert found.area == pytest.approx(0.25, abs=0.02)
    assert found.low < 0.25 < found.high
    assert curves.uplift(-effect_R, treated_R, outcome_R, share_R, 0).area == pytest.approx(-0.25, abs=0.02)


def test_a_score_that_says_nothing_has_no_area() -> None:
    areas = []
    for seed in range(10):
        _, treated_R, outcome_R, share_R = randomised(2000, seed)
        found = curves.uplift(np.zeros(2000), treated_R, outcome_R, share_R, 60, seed)
        areas.append((found.low, found.high))
    assert sum(low <= 0 <= high for low, high in areas) >= 8


def test_rows_of_other_arms_count_as_users_alone() -> None:
    """Three arms drawn evenly: a third of the rows says nothing of the pair, and the area stays what it is."""
    draws = np.random.default_rng(3)
    effect_R, arm_R = draws.uniform(-1, 2, 30_000), draws.integers(0, 3, 30_000)
    outcome_R = effect_R * (arm_R == 2) + draws.normal(0, 0.3, 30_000)
    treated_R = np.where(arm_R == 2, 1, np.where(arm_R == 0, 0, -1))
    found = curves.uplift(effect_R, treated_R, outcome_R, np.full(30_000, 1 / 3), 20)
    assert found.low < 0.25 < found.high


def test_qini_by_hand() -> None:
    """Four rows, T C T C with outcomes 3 1 0 1: after each row Y_t - Y_c N_t / N_c is 3, 2, 3 - 2, 3 - 2."""
    found = curves.qini(
        np.array([4.0, 3.0, 2.0, 1.0]), np.array([1, 0, 1, 0]), np.array([3.0, 1.0, 0.0, 1.0]), resamples=0
    )
    by_share = dict(zip(found.x_K.round(2).tolist(), (2 * found.y_K).round(9).tolist(), strict=True))
    assert [by_share[share] for share in (0.5, 1.0)] == [2.0, 1.0]
    assert np.interp([0.25, 0.75], found.x_K, 2 * found.y_K) == pytest.approx([3.0, 1.0], abs=0.15)


def test_the_cost_curve_rises_fastest_for_the_right_effects() -> None:
    draws = np.random.default_rng(0)
    rows = 20_000
    effect_RA = np.column_stack([np.zeros(rows), draws.gamma(0.5, 1, rows), 1.5 * draws.gamma(0.5, 1, rows)])
    cost_RA = np.tile([0.0, 1.0, 2.0], (rows, 1))
    arm_R = draws.integers(0, 3, rows)
    outcome_R = effect_RA[np.arange(rows), arm_R] + draws.normal(0, 0.3, rows)
    share_R = np.full(rows, 1 / 3)
    right = curves.cost_curve(effect_RA, cost_RA, arm_R, outcome_R, share_R, 20)
    wrong = curves.cost_curve(effect_RA[draws.permutation(rows)], cost_RA, arm_R, outcome_R, share_R, 20)
    assert right.low > 0.65
    assert right.low > wrong.high
    assert wrong.area == pytest.approx(0.6, abs=0.12)  # arms are still chosen by their means


def test_values_are_the_estimators_formulas() -> None:
    draws = np.random.default_rng(1)
    rows = 500
    arm_R, outcome_R = draws.integers(0, 3, rows), draws.normal(size=rows)
    share_R, policy_R = draws.uniform(0.2, 0.5, rows), draws.integers(0, 3, rows)
    level_RA = draws.normal(size=(rows, 3))
    logged = Logged(arm_R, share_R, outcome_R, level_RA)
    weight_R = (policy_R == arm_R) / share_R
    own = np.arange(rows)
    assert policy_value(policy_R, logged, "ips").value == pytest.approx((weight_R * outcome_R).mean())
    assert policy_value(policy_R, logged, "snips").value == pytest.approx((weight_R * outcome_R).sum() / weight_R.sum())
    robust = level_RA[own, policy_R] + weight_R * (outcome_R - level_RA[own, arm_R])
    found = policy_value(policy_R, logged, "dr")
    assert found.value == pytest.approx(robust.mean())
    assert found.low < found.value < found.high
    assert policy_value(np.eye(3)[policy_R], logged, "dr").value == pytest.approx(found.value)


def test_intervals_cover_the_truth_and_pairs_are_narrower() -> None:
    hits = []
    for seed in range(40):
        draws = np.random.default_rng(seed)
        arm_R = draws.integers(0, 2, 400)
        outcome_R = 0.5 * arm_R + draws.normal(size=400)
        logged = Logged(arm_R, np.full(400, 0.5), outcome_R)
        found = policy_value(np.ones(400, int), logged, "snips")
        hits.append(found.low <= 0.5 <= found.high)
    assert sum(hits) >= 36
    policy_R = np.where(np.arange(400) < 40, 1, 0)
    values = [policy_value(each, logged, "snips") for each in (policy_R, np.zeros(400, int))]
    paired = gain(*values, logged)
    assert paired.high - paired.low < values[0].high - values[0].low


def test_a_policy_that_nobody_followed_has_no_value() -> None:
    logged = Logged(np.zeros(100, int), np.full(100, 0.5), np.ones(100))
    figures = compare({"new": np.ones(100, int), "old": np.zeros(100, int)}, logged, ("old",), ("snips",))
    assert figures["absent"] == {"new.snips": "0 rows got what it would give: too few"}
    assert figures["old.snips"] == 1.0
    assert "new.snips" not in figures
