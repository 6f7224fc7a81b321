"""Hillstrom, Open Bandit and KuaiRec as objectives: what the loaders say against the files. Skipped without them."""

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.es.kuairec_predictors import NAMES, predict, shrunk_means
from benchmarks.es.logged_actions import MAILS, hillstrom, open_bandit
from es.config import ESConfig
from es.engine import run
from funnel.off_policy.evaluation import compare_policies
from funnel.off_policy.objective import OffPolicy, OffPolicySettings, constant, probabilities


def folder(shared_data, name):
    path = shared_data / name
    if not path.is_dir():
        pytest.skip(f"no {path}")
    return path


def test_hillstrom_by_segment(shared_data):
    path = folder(shared_data, "hillstrom")
    log = hillstrom(path, "spend", cost=0.1)
    table = pq.read_table(path / "log.parquet").to_pandas()
    ips = OffPolicy(OffPolicySettings(estimator="ips"), log)
    snips = OffPolicy(OffPolicySettings(estimator="snips"), log)
    for action, mail in enumerate(MAILS):
        spent = table.spend[table.segment == mail].mean() - 0.1 * (action > 0)
        share = (table.segment == mail).mean()
        assert snips.value(constant(action, log)).value == pytest.approx(spent)
        assert ips.value(constant(action, log)).value == pytest.approx(3 * share * spent)
        assert share == pytest.approx(1 / 3, abs=0.01)
    assert MAILS[snips.constant] == "Mens E-Mail"
    assert np.isfinite(log.context_FR).all()
    np.testing.assert_allclose(log.context_FR[1:6].mean(axis=1), 0, atol=1e-4)


def test_a_mail_policy_is_learnt_and_judged_on_the_other_half(shared_data):
    log = hillstrom(folder(shared_data, "hillstrom"), "visit", cost=0.0)
    half = np.random.default_rng(0).random(len(log.action_R)) < 0.5
    settings = OffPolicySettings(estimator="dr", baseline="best_constant")
    objective = OffPolicy(settings, log.part(half))
    result = run(objective, ESConfig(generations=15, pairs=4, sigma=0.1, learning_rate=0.2, centre_every=0))
    figures = compare_policies(objective, result.theta, log.part(~half), judge="ips")
    assert figures["off_policy.gain_over_logging.low"] > 0  # mails bring visits
    assert figures["off_policy.learnt.low"] < figures["off_policy.learnt"] < figures["off_policy.learnt.high"]


@pytest.mark.parametrize(("campaign", "items"), [("men", 34), ("all", 80)])
def test_open_bandit_propensities(shared_data, campaign, items):
    path = folder(shared_data, "open_bandit")
    uniform = open_bandit(path, "random", campaign)
    assert uniform.actions == items
    np.testing.assert_allclose(uniform.propensity_R, 1 / items, rtol=1e-4)
    objective = OffPolicy(OffPolicySettings(estimator="ips"), uniform)
    same = probabilities(objective.settings, objective.initial(), uniform)  # without an anchor: every item alike
    assert objective.value(same).value == pytest.approx(uniform.reward_R.mean(), rel=1e-4)
    thompson = open_bandit(path, "bts", campaign)
    weight = (1 / items) / thompson.propensity_R
    assert weight.mean() == pytest.approx(1, abs=0.25)  # weights average to 1 where propensities are right
    assert uniform.pairs_JAR.any()


def test_predictors_see_training_rows_only(shared_data):
    table = pq.read_table(folder(shared_data, "kuairec_dense") / "log.parquet")
    table = table.filter(pc.less(table["user_id"], 1500))
    user, item = (np.unique(table[name].to_numpy(), return_inverse=True)[1] for name in ("user_id", "video_id"))
    ratio = np.minimum(table["watch_ratio"].to_numpy(), 2)
    train = np.random.default_rng(0).random(len(ratio)) < 0.5
    scores, features = predict(user, item, ratio, train)
    hidden, same = predict(user, item, np.where(train, ratio, 0), train)
    np.testing.assert_array_equal(scores, hidden)
    np.testing.assert_array_equal(features, same)
    assert scores.shape == (len(NAMES), len(ratio))
    correlation = [np.corrcoef(row[~train], ratio[~train])[0, 1] for row in scores]
    assert min(correlation) > 0.15


def test_shrunk_means_by_hand():
    np.testing.assert_allclose(shrunk_means(np.array([0, 0, 2]), np.array([1.0, 2, 6]), 3, 1.0), [8 / 7, 1, 11 / 6])
