"""The grid of weights that a tuned fusion must beat, and what the comparison says of it."""

import numpy as np
import pytest
from test_es_fusion import make_log

from funnel.fusion.evaluation import best_single, compare
from funnel.fusion.forms import Fusion, ScoredLog
from funnel.fusion.grid import grid_search, simplex
from funnel.fusion.objective import ScoreFusion
from funnel.fusion.results import results


def test_the_simplex_is_all_weights_in_equal_steps():
    np.testing.assert_allclose(simplex(1), [[1]])
    two = simplex(2)
    np.testing.assert_allclose(np.sort(two[:, 0]), np.arange(13) / 12)
    for scores, points in ((3, 91), (4, 165)):
        weights = simplex(scores)
        assert weights.shape == (points, scores)
        np.testing.assert_allclose(weights.sum(axis=1), 1)
        assert (weights >= 0).all()
        assert len(np.unique(weights.round(9), axis=0)) == points
        rows = {tuple(row) for row in weights.round(9).tolist()}
        assert {tuple(row) for row in np.eye(scores).tolist()} <= rows
        assert tuple(np.full(scores, 1 / scores).round(9)) in rows


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["product", "sum", "rank"])
def test_the_best_point_is_the_best_of_all(kind):
    log = make_log(requests=200)
    objective = ScoreFusion(log, Fusion.fit(kind, log), "value", 3)
    grid = grid_search(objective)
    assert grid.points == 91 * (3 if kind == "rank" else 1)
    untuned = objective.fusion.policy.decode(objective.initial()[None])[0]
    returned = []
    for weights in simplex(3):
        for offset in (1.0, 10.0, 100.0) if kind == "rank" else (None,):
            values = untuned.copy()
            values[:3] = weights
            if offset is not None:
                values[3] = offset
            returned.append(float(objective.evaluate(values[None])[0]))
    assert grid.on_tune == max(returned)
    assert objective.evaluate(grid.values_D[None])[0] == grid.on_tune
    assert grid.on_tune >= float(objective.evaluate(untuned[None])[0])  # equal weights are among the points
    singles = [best_single(log, "value", 3).on_tune]
    assert kind == "rank" or grid.on_tune >= max(singles)
    assert list(grid.weights)[:3] == list(objective.fusion.policy.names[:3])


def good_and_noise(requests=600, seed=0):
    """Only the first score says anything."""
    generator = np.random.default_rng(seed)
    request = np.repeat(np.arange(requests), 20)
    good, noise = generator.standard_normal(request.size), generator.standard_normal((2, request.size))
    reward = generator.random(request.size) < 0.2 / (1 + np.exp(-2 * good))
    scores = np.stack([noise[0], good, noise[1]]).astype(np.float32)
    return ScoredLog(("pctr", "pcvr", "pctcvr"), scores, reward.astype(np.float32), request, request // 2)


def test_a_policy_that_the_grid_equals_is_told_so():
    log = good_and_noise()
    tune, test = (log.part(mask) for mask in (log.user_C % 2 == 0, log.user_C % 2 == 1))
    fusion = Fusion.fit("sum", tune)
    grid, single = grid_search(ScoreFusion(tune, fusion, "value", 5)), best_single(tune, "value", 5)
    assert grid.weights["weight.pcvr"] > 0.8
    theta = np.array([-1.0, 0.0, -1.0], np.float32)  # weights 0, 1, 0: the second score alone
    figures = compare(test, fusion, theta, single, "value", 5, grid=grid)
    key = "fusion.value_at_5"
    assert figures[f"{key}.gain_over_untuned.low"] > 0
    assert figures[f"{key}.gain_over_best_single"] == 0
    gain = figures[f"{key}.tuned"] - figures[f"{key}.grid"]
    assert figures[f"{key}.gain_over_grid"] == pytest.approx(gain)
    assert figures[f"{key}.gain_over_grid.low"] <= gain <= figures[f"{key}.gain_over_grid.high"]
    assert not figures[
        "fusion.significant"
    ]  # untuned is beaten, the best single score is not: it decides, and is named
    told = figures["message"]
    assert told.startswith("Tuning changes +0.0000 value@5 against pcvr alone, the best score (95% interval ")
    assert "not significant, keep pcvr alone, the best score; ahead of the untuned fusion alone (+" in told
    assert " a grid search of 91 weights (" in told
    rows = {row[0]: row[1] for row in results(figures).rows}
    assert "no difference to tell" in rows["gain over best"]
    assert "no difference to tell" not in rows["gain over untuned"]
    assert "gain over grid" in rows
    poor = compare(test, fusion, np.array([1.0, -1.0, 1.0], np.float32), single, "value", 5, grid=grid)
    assert poor["message"].startswith("Tuning loses -")
    assert "That is less than a grid search of 91 weights (-" in poor["message"]
    same = compare(test, fusion, np.zeros(3, np.float32), single, "value", 5, grid=grid)
    assert same[f"{key}.gain_over_untuned.low"] == same[f"{key}.gain_over_untuned.high"] == 0


def test_too_few_users_or_rewards_have_no_interval_but_a_reason():
    log = good_and_noise(requests=60)
    fusion, single = Fusion.fit("sum", log), best_single(log, "value", 5)
    few = log.part(log.user_C < 15)
    figures = compare(few, fusion, np.array([-1.0, 0, -1.0], np.float32), single, "value", 5)
    key = "fusion.value_at_5.gain_over_untuned"
    assert key in figures
    assert f"{key}.low" not in figures
    assert figures["absent"][key] == "15 users held out, worth 15 alike: too few for an interval"
    assert "cannot be told from" in figures["message"]
    assert not figures["fusion.significant"]
    assert "no interval: 15 users held out" in results(figures).note
    rare = log.part(log.user_C < 30)
    rewarded = np.flatnonzero(rare.reward_C)[15:]
    reward_C = rare.reward_C.copy()
    reward_C[rewarded] = 0
    scarce = ScoredLog(rare.names, rare.scores_MC, reward_C, rare.request_C, rare.user_C)
    figures = compare(scarce, fusion, np.array([-1.0, 0, -1.0], np.float32), single, "value", 5)
    assert "rewarded requests held out: too few for an interval" in figures["absent"][key]


def test_the_verdict_needs_both_rivals():
    """Tuned above the untuned fusion but not above the best single score: not significant."""
    log = good_and_noise()
    fusion, single = Fusion.fit("sum", log), best_single(log, "value", 5)
    figures = compare(log, fusion, np.array([-1.0, 0, -0.9], np.float32), single, "value", 5)
    assert figures["fusion.value_at_5.gain_over_untuned.low"] > 0
    assert figures["fusion.value_at_5.gain_over_best_single.low"] <= 0
    assert figures["fusion.significant"] is False
