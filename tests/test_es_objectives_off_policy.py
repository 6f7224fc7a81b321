"""Off-policy values: unbiasedness by enumeration of all logs, direct formulas, policies, the guard, and real logs."""

import itertools
import math

import numpy as np
import pytest

from es.config import ESConfig
from es.engine import run
from funnel.figures.intervals import effective_size
from funnel.off_policy.estimators import (
    cross_fitted_rewards,
    estimate,
    estimate_gain,
    predict_rewards,
    ratio_parts,
    ridge_rewards,
)
from funnel.off_policy.evaluation import compare_policies
from funnel.off_policy.objective import LoggedActions, OffPolicy, OffPolicySettings, constant, probabilities, scores
from funnel.off_policy.stopping import settle, warning

# A toy in which everything is known: 2 contexts, 3 actions.
CONTEXT_X = np.array([0.3, 0.7])
REWARD_XA = np.array([[1.0, 0.0, 4.0], [2.0, 5.0, 0.5]])
LOGGING_XA = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
TARGET_XA = np.array([[0.1, 0.1, 0.8], [0.25, 0.5, 0.25]])
MODEL_XA = np.array([[0.5, 0.5, 1.0], [2.0, 1.0, 0.0]])  # wrong on purpose
TRUTH = float((CONTEXT_X[:, None] * TARGET_XA * REWARD_XA).sum())


def toy_value(kind, rounds, clip=math.inf):
    """The estimate on one log, a tuple of (context, action)."""
    x, a = np.array(rounds).T
    weight = TARGET_XA[x, a] / LOGGING_XA[x, a]
    expected = (TARGET_XA * MODEL_XA).sum(axis=1)[x]
    return estimate(kind, weight, ratio_parts(kind, weight, REWARD_XA[x, a], clip, expected, MODEL_XA[x, a])).value


def expectation(kind, length=2, clip=math.inf):
    """Over every log of `length` rounds, by its probability."""
    total = 0.0
    for rounds in itertools.product(itertools.product(range(2), range(3)), repeat=length):
        chance = math.prod(CONTEXT_X[x] * LOGGING_XA[x, a] for x, a in rounds)
        total += chance * toy_value(kind, rounds, clip)
    return total


def test_ips_and_dr_are_unbiased_whatever_the_model():
    assert expectation("ips") == pytest.approx(TRUTH, rel=1e-12)
    assert expectation("dr") == pytest.approx(TRUTH, rel=1e-12)
    assert expectation("clipped") == pytest.approx(TRUTH, rel=1e-12)  # nothing is above an infinite clip
    assert expectation("clipped", clip=1.5) < TRUTH
    bias = [abs(expectation("snips", length) - TRUTH) for length in (1, 2, 3, 4)]
    assert bias == sorted(bias, reverse=True)  # consistent: the bias falls with the length of the log
    assert bias[-1] < 0.5 * bias[0]


def test_direct_formulas():
    generator = np.random.default_rng(0)
    w, y, expected, predicted = generator.exponential(size=(4, 50))
    value = estimate("snips", w, ratio_parts("snips", w, y))
    assert value.value == pytest.approx((w * y).sum() / w.sum())
    assert value.standard_error == pytest.approx(math.sqrt((w**2 * (y - value.value) ** 2).sum()) / w.sum())
    assert value.effective_size == pytest.approx(w.sum() ** 2 / (w**2).sum())
    for kind, rows in (
        ("ips", w * y),
        ("clipped", np.minimum(w, 0.7) * y),
        ("dr", expected + w * (y - predicted)),
    ):
        value = estimate(kind, w, ratio_parts(kind, w, y, 0.7, expected, predicted))
        assert value.value == pytest.approx(rows.mean())
        assert value.standard_error == pytest.approx(rows.std(ddof=1) / math.sqrt(50))
    assert value.lower(0.95) == pytest.approx(value.value - 1.6448536 * value.standard_error)
    assert value.lower(0.5) == value.value
    assert effective_size(np.ones(30)) == 30
    nothing = estimate("snips", np.zeros(3), ratio_parts("snips", np.zeros(3), np.ones(3)))
    assert (nothing.value, nothing.effective_size) == (0, 0)


def test_a_gain_is_paired():
    generator = np.random.default_rng(0)
    w, v, y = generator.exponential(size=(3, 60))
    gain = estimate_gain("ips", w, ratio_parts("ips", w, y), ratio_parts("ips", v, y))
    difference = (w - v) * y
    assert gain.value == pytest.approx(difference.mean())
    assert gain.standard_error == pytest.approx(difference.std(ddof=1) / math.sqrt(60))
    for kind in ("ips", "snips"):
        same = estimate_gain(kind, w, ratio_parts(kind, w, y), ratio_parts(kind, w, y))
        assert (same.value, same.standard_error) == (0, 0)
    one, other = estimate("snips", w, ratio_parts("snips", w, y)), estimate("snips", v, ratio_parts("snips", v, y))
    gain = estimate_gain("snips", w, ratio_parts("snips", w, y), ratio_parts("snips", v, y))
    assert gain.value == pytest.approx(one.value - other.value)
    residual = w * (y - one.value) / w.sum() - v * (y - other.value) / v.sum()
    assert gain.standard_error == pytest.approx(math.sqrt((residual**2).sum()))


def make_log(rounds=4000, seed=0, actions=3):
    """Action 0 pays where x > 0, action 1 where x < 0, the others never; logged at known uneven odds."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal(rounds)
    odds = np.exp(0.5 * generator.standard_normal((actions, rounds)))
    odds /= odds.sum(axis=0)
    action = (odds.cumsum(axis=0) < generator.random(rounds)).sum(axis=0)
    chance = 0.1 + 0.5 * ((action == 0) & (x > 0)) + 0.5 * ((action == 1) & (x < 0))
    reward = (generator.random(rounds) < chance).astype(np.float64)
    context = np.stack([np.ones(rounds), x]).astype(np.float32)
    return LoggedActions(context, action, odds[action, np.arange(rounds)], reward, np.eye(actions, dtype=np.float32))


def test_scores_and_policies_are_their_formulas():
    generator = np.random.default_rng(0)
    log = LoggedActions(
        generator.standard_normal((4, 6)).astype(np.float32),
        np.zeros(6, np.int64),
        np.ones(6),
        np.ones(6),
        generator.standard_normal((2, 5)).astype(np.float32),
        generator.standard_normal((3, 5, 6)).astype(np.float32),
    )
    theta = generator.standard_normal(4 * 2 + 3).astype(np.float32)
    expected = np.empty((5, 6))
    for a, r in np.ndindex(5, 6):
        expected[a, r] = sum(theta[2 * f + e] * log.context_FR[f, r] * log.actions_EA[e, a]
                             for f in range(4) for e in range(2))  # fmt: skip
        expected[a, r] += sum(theta[8 + j] * log.pairs_JAR[j, a, r] for j in range(3))
    np.testing.assert_allclose(scores(theta, log), expected, rtol=1e-6)
    softmax = probabilities(OffPolicySettings(temperature=2), theta, log)
    np.testing.assert_allclose(softmax, np.exp(expected / 2) / np.exp(expected / 2).sum(axis=0), rtol=1e-6)
    greedy = probabilities(OffPolicySettings(policy="greedy", greedy_epsilon=0.2), theta, log)
    np.testing.assert_allclose(greedy.sum(axis=0), 1)
    np.testing.assert_array_equal(greedy.argmax(axis=0), expected.argmax(axis=0))
    np.testing.assert_allclose(np.sort(greedy, axis=0)[-1], 0.8 + 0.04)


def test_the_reward_model_finds_a_line():
    generator = np.random.default_rng(0)
    x, action = generator.standard_normal((2, 3000)), generator.integers(0, 2, 3000)
    reward = np.where(action == 0, 1 + 2 * x[0], -3 * x[1])
    model = ridge_rewards(x, action, reward, actions=2, penalty=1e-6)
    np.testing.assert_allclose(model, [[1, 2, 0], [0, 0, -3]], atol=1e-6)
    np.testing.assert_allclose(predict_rewards(model, x)[0], 1 + 2 * x[0], atol=1e-5)
    assert ridge_rewards(x, action, reward, actions=3)[2] == pytest.approx([reward.mean(), 0, 0])
    crossed = cross_fitted_rewards(x, action, reward, 2)
    assert np.abs(crossed[action, np.arange(3000)] - reward).mean() < 0.2  # shrunk by the default penalty


@pytest.mark.parametrize("estimator", ["ips", "clipped", "snips", "dr"])
def test_learning_finds_the_policy_that_pays(estimator):
    tune, test = make_log(2000), make_log(2000, seed=1)
    objective = OffPolicy(OffPolicySettings(estimator=estimator), tune)
    result = run(objective, ESConfig(generations=30, pairs=8, sigma=0.3, learning_rate=0.3))
    figures = compare_policies(objective, result.theta, test)
    assert figures["off_policy.significant"]
    assert "significant" in figures["message"]
    assert 0.5 < figures["off_policy.learnt"] < 0.65  # the best there is: 0.6
    assert figures["off_policy.logging"] == pytest.approx(test.reward_R.mean())


def test_too_small_a_sample_never_looks_good():
    log = make_log(rounds=300)
    settings = OffPolicySettings(level=0.5, smallest_size=250, policy="greedy", greedy_epsilon=0.0)
    objective = OffPolicy(settings, log)
    theta = np.zeros((2, 6), np.float32)
    theta[1, :2] = 5, -5  # where x > 0 action 0, elsewhere action 1
    theta[1, 3:5] = 5, -5
    unguarded = OffPolicy(OffPolicySettings(level=0.5, smallest_size=0, policy="greedy", greedy_epsilon=0.0), log)
    seeds = np.zeros(2, np.uint64)
    assert (objective.evaluate_batch(theta, seeds) < unguarded.evaluate_batch(theta, seeds) - 0.1).all()
    tame = OffPolicy(OffPolicySettings(level=0.5, smallest_size=50), log)
    plain = OffPolicy(OffPolicySettings(level=0.5, smallest_size=0), log)
    zero = np.zeros((1, 6), np.float32)
    assert tame.evaluate_batch(zero, seeds[:1]) == plain.evaluate_batch(zero, seeds[:1])


def test_a_return_does_not_depend_on_its_neighbours():
    objective = OffPolicy(OffPolicySettings(estimator="dr"), make_log(500))
    theta = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    seeds = np.zeros(5, np.uint64)
    apart = [objective.evaluate_batch(theta[i : i + 1], seeds[:1])[0] for i in range(5)]
    np.testing.assert_array_equal(objective.evaluate_batch(theta, seeds), apart)
    assert objective.describe() == OffPolicy(OffPolicySettings(estimator="dr"), make_log(500)).describe()
    assert objective.describe() != OffPolicy(OffPolicySettings(estimator="dr"), make_log(501)).describe()


def test_bounding_the_gain_keeps_the_constant_where_nothing_else_pays():
    """Action 0 is best for everybody: the learnt policy takes it, and bounding the gain says so exactly."""
    log = make_log(2000)
    generator = np.random.default_rng(5)
    flat = LoggedActions(
        log.context_FR,
        log.action_R,
        log.propensity_R,
        (generator.random(2000) < np.where(log.action_R == 0, 0.6, 0.2)).astype(np.float64),
        log.actions_EA,
    )
    objective = OffPolicy(OffPolicySettings(baseline="best_constant"), flat)
    assert objective.constant == 0
    gain = objective.gain(constant(0, flat))
    assert (gain.value, gain.standard_error) == (0, 0)
    theta = np.random.default_rng(0).standard_normal((1, 6)).astype(np.float32)
    bound = objective.gain(objective.probabilities(theta[0], flat)).lower(objective.settings.level)
    assert objective.evaluate_batch(theta, np.zeros(1, np.uint64))[0] == bound
    plain = OffPolicy(OffPolicySettings(), flat)
    assert plain.evaluate_batch(theta, np.zeros(1, np.uint64))[0] != bound
    result = run(objective, ESConfig(generations=30, pairs=8, sigma=0.3, learning_rate=0.3))
    assert objective.probabilities(result.theta, flat)[0].mean() > 0.9


def test_mistakes_are_said():
    log = make_log(20)
    for name, value, message in [
        ("propensity_R", np.where(np.arange(20) == 7, 0, log.propensity_R), "propensity of round 7"),
        ("action_R", np.where(np.arange(20) == 3, 3, log.action_R), "action of round 3"),
        ("reward_R", np.full(20, np.nan), "reward of round 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            LoggedActions(**{**vars(log), name: value})
    with pytest.raises(ValueError, match="clip is 0"):
        OffPolicySettings(clip=0)


def rare(rounds=10_000, actions=46, rate=0.0045, seed=3):
    """Clicks that no action changes, actions drawn evenly."""
    generator = np.random.default_rng(seed)
    action = generator.integers(0, actions, rounds)
    reward = (generator.random(rounds) < rate).astype(float)
    context = np.ones((1, rounds), np.float32)
    return LoggedActions(context, action, np.full(rounds, 1 / actions), reward, np.eye(actions, dtype=np.float32))


@pytest.mark.parametrize("estimator", ["ips", "clipped", "snips", "dr"])
def test_no_reward_among_the_matched_rounds_is_no_certain_zero(estimator):
    log = rare()
    tune, test = log.part(np.arange(10_000) % 2 == 0), log.part(np.arange(10_000) % 2 == 1)
    objective = OffPolicy(OffPolicySettings(estimator=estimator), tune)
    objective.constant = int(np.argmin(np.bincount(test.action_R, test.reward_R, 46)))  # an action without a click
    matched = int((test.action_R == objective.constant).sum())
    figures = compare_policies(objective, np.zeros(46, np.float32), test)
    key = "off_policy.best_constant"
    assert figures[f"{key}.high"] >= 0.9 * 4.38 / matched
    if estimator != "dr":  # whose model takes something off the rounds that paid nothing
        assert figures[key] == 0
        assert figures[f"{key}.low"] == 0
        assert figures[f"{key}.high"] == pytest.approx(4.38 / matched, rel=0.35 if estimator != "snips" else 0.01)
    gain = "off_policy.gain_over_best_constant"
    assert figures[f"{gain}.low"] < 0 < figures[f"{gain}.high"]
    assert not figures["off_policy.significant"]


def test_what_too_few_rounds_say_is_not_printed_but_why():
    log = rare(rounds=1500)
    objective = OffPolicy(OffPolicySettings(), log)
    figures = compare_policies(objective, np.zeros(46, np.float32), log.part(np.arange(1500) < 700))
    assert "off_policy.best_constant" not in figures
    reason = figures["absent"]["off_policy.best_constant"]
    assert reason.startswith("the 700 rounds held out are worth ")
    assert reason.endswith("of the policy's own: too few")
    assert figures["absent"]["off_policy.gain_over_best_constant"] == reason
    assert "off_policy.learnt.low" in figures  # weights average 1.03 here: near enough to 1
    assert "off_policy.logging.low" in figures
    assert "cannot be told from" in figures["message"] or "logging policy" in figures["message"]
    sizes = LoggedActions(**{**vars(log), "reward_R": log.reward_R * np.arange(1500)})
    few = compare_policies(OffPolicy(OffPolicySettings(), sizes), np.zeros(46, np.float32), sizes)
    assert "rewarded rounds were held out: too few for rewards of many sizes" in few["absent"]["off_policy.logging"]


def test_propensities_that_are_not_the_logs_are_told_by_the_weights():
    log = rare(rounds=4000, actions=4, rate=0.2)
    wrong = LoggedActions(**{**vars(log), "propensity_R": np.full(4000, 0.5)})
    figures = compare_policies(OffPolicy(OffPolicySettings(), wrong), np.zeros(4, np.float32), wrong)
    assert "its weights average 0.5" in figures["absent"]["off_policy.learnt"]
    assert "off_policy.learnt" not in figures


def test_clusters_are_the_units():
    """20 rounds of a user are one draw: the same figures, and intervals as of the users' sums."""
    generator = np.random.default_rng(0)
    users, rounds = 400, 20
    action = np.repeat(generator.integers(0, 3, users), rounds)
    reward = np.repeat(generator.random(users) < 0.3, rounds).astype(float)
    context, propensity = np.ones((1, users * rounds), np.float32), np.full(users * rounds, 1 / 3)
    shared = (context, action, propensity, reward, np.eye(3, dtype=np.float32))
    user = np.repeat(np.arange(users), rounds)
    apart, together = LoggedActions(*shared), LoggedActions(*shared, cluster_R=user)
    single = LoggedActions(*(np.ascontiguousarray(each[..., ::rounds]) for each in shared[:4]), shared[4])
    found = [
        compare_policies(OffPolicy(OffPolicySettings(estimator="ips"), log), np.zeros(3, np.float32), log)
        for log in (apart, together, single)
    ]
    half = [each["off_policy.best_constant.high"] - each["off_policy.best_constant"] for each in found]
    assert found[0]["off_policy.best_constant"] == pytest.approx(found[1]["off_policy.best_constant"])
    assert half[1] == pytest.approx(half[2], rel=0.02)  # a user's rounds say no more than one of them
    assert half[1] > 4 * half[0]
    fits = [OffPolicy(OffPolicySettings(), log).value(constant(0, log)) for log in (together, single)]
    assert fits[0].standard_error == pytest.approx(fits[1].standard_error)
    model = cross_fitted_rewards(shared[0].astype(float), action, reward, 3, cluster_R=user)
    assert (model.reshape(3, users, rounds).std(axis=2) < 1e-12).all()  # one fold a user: predicted by one model


def test_the_anchor_is_where_theta_is_0():
    log = make_log(3000)
    shares = (np.bincount(log.action_R) + 1) / 3003
    zero = np.zeros(6, np.float32)
    logging = OffPolicy(OffPolicySettings(), log)
    np.testing.assert_allclose(logging.probabilities(zero, log), np.repeat(shares[:, None], 3000, 1), rtol=1e-6)
    warm = OffPolicy(OffPolicySettings(temperature=3), log)
    np.testing.assert_allclose(warm.probabilities(zero, log)[:, 0], shares, rtol=1e-6)
    best = OffPolicy(OffPolicySettings(anchor="best_constant"), log)
    assert best.probabilities(zero, log)[best.constant] == pytest.approx(0.9)
    uniform = OffPolicy(OffPolicySettings(anchor="uniform"), log)
    np.testing.assert_allclose(uniform.probabilities(zero, log), 1 / 3)


def test_what_does_not_hold_on_the_rounds_set_apart_is_not_followed():
    """On 46 actions' rare clicks the maximised bound is above what the policy is worth, by chance: the anchor is kept.
    Where there is something to learn it is followed."""
    log = rare(rounds=6000)
    third = np.arange(6000) % 3
    objective = OffPolicy(OffPolicySettings(), log.part(third == 0))
    result = run(objective, ESConfig(generations=20, pairs=8, sigma=0.5, learning_rate=0.5))
    assert objective.evaluate_batch(result.theta[None], np.zeros(1, np.uint64))[0] > 0.0045
    settled = settle(objective, result.theta, log.part(third == 1))
    assert settled.share == 0
    assert not settled.theta_D.any()
    assert "nothing learnt held on the 2,000 rounds set apart" in settled.reason
    assert warning(objective) == "46 parameters are learnt from 8 rewarded rounds: expect nothing that holds"
    paying = make_log(3000)
    third = np.arange(3000) % 3
    objective = OffPolicy(OffPolicySettings(), paying.part(third == 0))
    result = run(objective, ESConfig(generations=30, pairs=8, sigma=0.3, learning_rate=0.3))
    assert settle(objective, result.theta, paying.part(third == 1)).share >= 0.5
    assert warning(objective) == ""


def test_no_round_is_predicted_by_a_model_that_has_seen_its_reward():
    """A round's own reward moves the predictions of the other folds, and not its own."""
    generator = np.random.default_rng(0)
    context_FR, action_R = generator.standard_normal((2, 60)), generator.integers(0, 3, 60)
    reward_R = generator.random(60)
    before_AR = cross_fitted_rewards(context_FR, action_R, reward_R, 3)
    for row in (0, 7, 59):
        changed_R = reward_R.copy()
        changed_R[row] += 10
        after_AR = cross_fitted_rewards(context_FR, action_R, changed_R, 3)
        np.testing.assert_array_equal(after_AR[:, row], before_AR[:, row])
        assert (after_AR != before_AR).any(axis=0).sum() == 48  # four folds of five
