"""User features in the weights, constraints, trade-offs, GAUC: each against its formula or a plain reference."""

import dataclasses

import numpy as np
import pytest

from benchmarks.es.trade_offs import on_front, penalty_objectives, sweep, weight_objectives
from es.config import ESConfig
from es.engine import run
from funnel.fusion.evaluation import best_single, compare, weighted_gauc
from funnel.fusion.forms import Fusion, ScoredLog
from funnel.fusion.objective import Constraint, ScoreFusion
from funnel.lists import request_blocks

NAMES = ("pctr", "pcvr")


def make_log(requests=300, length=12, seed=0):
    """Users of segment 1 (four in five) reward the first score, the others the second; clicks follow the second."""
    generator = np.random.default_rng(seed)
    request = np.repeat(np.arange(requests), length)
    user = request // 3
    segment = (user % 5 > 0).astype(np.float32)
    latent = generator.standard_normal((2, request.size))
    own = np.where(segment > 0, latent[0], latent[1])
    reward = generator.random(request.size) < 1 / (1 + np.exp(2.5 - 2 * own))
    click = generator.random(request.size) < 1 / (1 + np.exp(1.5 - 2 * latent[1]))
    features = np.stack([segment, user / user.max()]).astype(np.float32)
    return ScoredLog(
        NAMES,
        np.exp(latent).astype(np.float32),
        reward.astype(np.float32),
        request,
        user,
        ("segment", "rank"),
        features,
        {"click": click.astype(np.float32)},
    )


@pytest.mark.parametrize("kind", ["product", "sum", "rank"])
def test_a_user_has_weights_of_its_own(kind):
    """Fused scores equal those of a fusion without features whose weights were multiplied by exp(slopes z)."""
    log = make_log(requests=12)
    fusion, plain = Fusion.fit(kind, log, ("segment", "rank")), Fusion.fit(kind, log)
    base = plain.policy.dimension
    assert fusion.policy.names[base:] == (
        "slope.pctr.segment",
        "slope.pctr.rank",
        "slope.pcvr.segment",
        "slope.pcvr.rank",
    )
    theta = 0.4 * np.random.default_rng(1).standard_normal(fusion.policy.dimension).astype(np.float32)
    slopes = theta[base:].reshape(2, 2).astype(np.float64)
    fused = fusion.fused(log, theta)
    z = (log.features_SC - log.features_SC.mean(axis=1, keepdims=True)) / log.features_SC.std(axis=1, keepdims=True)
    values = plain.policy.decode(theta[None, :base])
    for row in range(0, log.request_C.size, 7):
        own = values.copy()
        own[0, :2] *= np.exp(slopes @ z[:, row])
        expected = plain.score(own)(plain.features(log)[:, None, None, row : row + 1])[0, 0, 0]
        assert fused[row] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_slopes_of_zero_change_nothing_and_bits_do_not_depend_on_the_batch(monkeypatch):
    log = make_log()
    for kind in ("product", "sum", "rank"):
        plain = ScoreFusion(log, Fusion.fit(kind, log), "ndcg", 5)
        by = ScoreFusion(log, Fusion.fit(kind, log, ("segment",)), "ndcg", 5)
        seeds = np.zeros(7, np.uint64)
        assert plain.evaluate_batch(plain.initial()[None], seeds[:1]) == by.evaluate_batch(
            by.initial()[None], seeds[:1]
        )
        theta = 0.3 * np.random.default_rng(0).standard_normal((7, len(by.initial()))).astype(np.float32)
        together = by.evaluate_batch(theta, seeds)
        monkeypatch.setattr(request_blocks, "CHUNK_FLOATS", 500)
        np.testing.assert_array_equal(together, [by.evaluate_batch(row[None], seeds[:1])[0] for row in theta])


def test_features_pay_where_segments_differ():
    log, config = make_log(), ESConfig(generations=30, pairs=16)
    tune, test = (log.part(mask) for mask in (log.user_C % 4 < 2, log.user_C % 4 >= 2))
    reached = {}
    for by in ((), ("segment",)):
        objective = ScoreFusion(tune, Fusion.fit("sum", tune, by), "value", 3)
        theta = run(objective, config).theta
        figures = compare(test, objective.fusion, theta, best_single(tune, "value", 3), "value", 3)
        reached[by] = figures["fusion.value_at_3.tuned"]
    assert reached[("segment",)] > 1.1 * reached[()]


def test_a_gain_over_one_rival_alone_is_not_significant():
    """The best single score, tuned to: far better than the untuned sum of it and noise, and no better than itself."""
    log = make_log()
    noise = np.exp(np.random.default_rng(5).standard_normal(log.request_C.size)).astype(np.float32)
    log = dataclasses.replace(log, scores_MC=np.stack([log.scores_MC[0], noise]))
    single = best_single(log, "value", 3)
    assert single.name == "pctr"
    theta = np.array([0, -1], np.float32)  # weights 1 and 0
    figures = compare(log, Fusion.fit("sum", log), theta, single, "value", 3)
    assert figures["fusion.value_at_3.gain_over_untuned.low"] > 0.05
    assert figures["fusion.value_at_3.gain_over_best_single"] == 0
    assert figures["fusion.significant"] is False
    # and the other way round: equal to the untuned fusion, better than a bad single score
    worse = dataclasses.replace(single, index=1, name="pcvr")
    figures = compare(log, Fusion.fit("sum", log), np.zeros(2, np.float32), worse, "value", 3)
    assert figures["fusion.value_at_3.gain_over_best_single.low"] > 0.05
    assert figures["fusion.significant"] is False
    figures = compare(log, Fusion.fit("sum", log), theta, worse, "value", 3)
    assert figures["fusion.significant"] is True


def test_a_constraint_is_its_formula_and_holds():
    log = make_log()
    fusion, click = Fusion.fit("sum", log), Constraint("click", tolerance=0.01, penalty=5)
    free, bound = ScoreFusion(log, fusion, "value", 3), ScoreFusion(log, fusion, "value", 3, (click,))
    clicks = ScoreFusion(dataclasses.replace(log, reward_C=log.outcome("click")), fusion, "value", 3)
    theta = np.array([[0, 0], [1.0, -0.8], [-0.5, 1]], np.float32)
    seeds = np.zeros(3, np.uint64)
    reward, kept = (each.evaluate_batch(theta, seeds) for each in (free, clicks))
    expected = reward - reward[0] * 5 * np.maximum(0, 0.99 - kept / kept[0])
    np.testing.assert_allclose(bound.evaluate_batch(theta, seeds), expected, rtol=1e-12)
    assert expected[1] < reward[1]
    assert expected[2] == reward[2]  # more clicks than before: no penalty
    config = ESConfig(generations=30, pairs=16)
    tuned = {objective: run(objective, config).theta for objective in (free, bound)}
    figures = [
        compare(log, fusion, theta, best_single(log, "value", 3), "value", 3, (click,)) for theta in tuned.values()
    ]
    assert figures[0]["fusion.kept.click"] < 0.95
    assert figures[1]["fusion.kept.click"] > 0.98
    assert (
        figures[1]["fusion.kept.click.low"] <= figures[1]["fusion.kept.click"] <= figures[1]["fusion.kept.click.high"]
    )
    assert free.describe() != bound.describe()


def test_gauc_is_the_weighted_mean_of_the_groups_auc():
    generator = np.random.default_rng(0)
    group = generator.integers(0, 20, 400)
    score = np.round(generator.standard_normal(400), 1)
    positive = generator.random(400) < 0.2
    positive[group == 3] = False
    total = weight = 0.0
    for each in range(20):
        ones, zeros = score[(group == each) & positive], score[(group == each) & ~positive]
        if len(ones) and len(zeros):
            pairs = (ones[:, None] > zeros).sum() + 0.5 * (ones[:, None] == zeros).sum()
            size = (group == each).sum()
            total, weight = total + size * pairs / (len(ones) * len(zeros)), weight + size
    assert weighted_gauc(group, positive, score) == pytest.approx(total / weight, rel=1e-12)
    assert weighted_gauc(group, np.zeros(400, bool), score) is None


def test_the_front_by_hand():
    first, second = np.array([1, 2, 3, 2, 1.0]), np.array([3, 2, 1, 1.5, 3.0])
    assert on_front(first, second).tolist() == [True, True, True, False, True]


def test_a_sweep_trades_one_outcome_for_the_other():
    log = make_log(requests=600)
    tune, test = (log.part(mask) for mask in (log.user_C % 4 < 2, log.user_C % 4 >= 2))
    fusion, config = Fusion.fit("sum", tune), ESConfig(generations=15, pairs=8, learning_rate=0.1)
    points = sweep(test, weight_objectives(tune, "reward", "click", fusion, 3, (0, 1)), ("reward", "click"), config)
    assert [point.label for point in points] == ["untuned", "weight 0", "weight 1"]
    assert points[1].first > points[2].first
    assert points[2].second > points[1].second
    assert points[1].efficient
    assert points[2].efficient
    requests = request_blocks.Requests.build(test.request_C, fusion.features(test), test.outcome("click"), 3)
    direct = requests.mean(lambda part: fusion.score(np.ones((1, 2))[part]), 1, "value")[0]
    assert points[0].second == pytest.approx(direct)
    objectives = penalty_objectives(tune, Constraint("click"), fusion, 3, (0, 10))
    free, bound = sweep(test, objectives, ("reward", "click"), config)[1:]
    assert bound.second >= free.second


def test_mistakes_are_said():
    log = make_log(requests=20)
    with pytest.raises(ValueError, match=r"no user feature 'age' \(there is segment, rank\)"):
        Fusion.fit("sum", log, ("age",))
    fusion = Fusion.fit("sum", log)
    for constraint, message in [
        (Constraint("sales"), "no outcome 'sales' .there is reward, click."),
        (Constraint("click", tolerance=2), "tolerance 2 must be in"),
    ]:
        with pytest.raises(ValueError, match=message):
            ScoreFusion(log, fusion, "value", 3, (constraint,))
    nothing = dataclasses.replace(log, outcomes={"click": log.outcome("click") * 0})
    with pytest.raises(ValueError, match="has none of it to keep"):
        ScoreFusion(nothing, fusion, "value", 3, (Constraint("click"),))
    with pytest.raises(ValueError, match="'click' is 0 throughout"):
        weight_objectives(nothing, "reward", "click", Fusion.fit("sum", log), 3)
