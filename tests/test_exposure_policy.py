"""Policies on the simplex: their maps, which shares are refused, doubly robust values by hand, evolution end to end."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import error_line

from data.errors import UserError
from es.config import ESConfig
from es.engine import run
from funnel.exposure.objective import ShareObjective
from funnel.exposure.outcome import OutcomeModel, OutcomeSettings
from funnel.exposure.overlap import Overlap, OverlapSettings, log_density
from funnel.exposure.policy import SharePolicy
from funnel.exposure.shares import ShareRows, check_policy
from funnel.exposure.simulation import simulate
from funnel.exposure.tuning import ExposureTuning, ExposureTuningSettings
from funnel.exposure.value import Judge
from jobs import evolve, fit, make_data

QUICK = OutcomeSettings(hidden=16, steps=60)


def test_theta_zero_gives_everybody_the_logs_mean_shares() -> None:
    mean = np.array([0.5, 0.3, 0.2])
    users = np.random.default_rng(0).standard_normal((7, 4))
    for hidden, dimension in ((0, 5 * 3), (6, 5 * 6 + 7 * 3)):
        policy = SharePolicy.of(4, ("a", "b", "c"), mean, hidden)
        assert policy.dimension == dimension
        np.testing.assert_allclose(policy.shares(policy.initial(), users), np.tile(mean, (7, 1)), atol=1e-12)
    linear = SharePolicy.of(4, ("a", "b", "c"), mean, 0)
    theta = np.random.default_rng(1).standard_normal(15).astype(np.float32)
    weights = theta.reshape(5, 3).astype(float)
    logits = np.log(mean) + users @ weights[:4] + weights[4]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(linear.shares(theta, users), expected, rtol=1e-12)
    with pytest.raises(UserError, match="hidden is -1"):
        SharePolicy(4, ("a", "b"), (0.5, 0.5), -1)


def test_densities_are_means_of_kernels() -> None:
    kernels = np.array([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]])
    at = np.array([[0.3, 0.7]])
    square = ((at - kernels) ** 2).sum(axis=1)
    expected = np.log(np.exp(-square / (2 * 0.15**2)).mean())
    assert log_density(at, kernels, 0.15)[0] == pytest.approx(expected, rel=1e-12)
    own = log_density(kernels, kernels, 0.15, own=True)
    others = ((kernels[0] - kernels[1:]) ** 2).sum(axis=1)
    assert own[0] == pytest.approx(np.log(np.exp(-others / (2 * 0.15**2)).mean()), rel=1e-12)


def rows(count: int = 3000, seed: int = 0) -> ShareRows:
    return simulate(count, seed)


def test_shares_that_nobody_saw_are_refused() -> None:
    log = rows()
    overlap = Overlap.fit(log, OverlapSettings(user_groups=3, floor=0.02), 0)
    group = overlap.group(log.features_RF)
    seen = overlap.refused(group, log.shares_RK)
    assert 0.005 < seen.mean() < 0.06
    alone = np.zeros((len(log), 6))
    alone[:, 2] = 1.0
    assert overlap.refused(group, alone).all()
    assert not overlap.refused(group, np.full((len(log), 6), 1 / 6)).any()
    never = Overlap.fit(log, OverlapSettings(user_groups=3, floor=0.0), 0)
    assert not never.refused(never.group(log.features_RF), alone).any()


def test_the_doubly_robust_value_is_the_model_and_weighted_residuals() -> None:
    log, mean = rows(400), np.full(6, 1 / 6)
    overlap = Overlap.fit(log, OverlapSettings(user_groups=2), 0)

    def predict(features: np.ndarray, shares: np.ndarray) -> np.ndarray:
        return shares[:, 0] + 0.01 * features[:, 0]

    judge = Judge(log, predict, overlap, mean)
    given = np.tile(np.array([0.3, 0.3, 0.1, 0.1, 0.1, 0.1]), (400, 1))
    worth = judge.worth(given)
    weight = np.exp(-((log.shares_RK - given) ** 2).sum(axis=1) / (2 * overlap.width**2))
    weight /= np.exp(overlap.log_density(overlap.group(log.features_RF), log.shares_RK))
    residual = log.outcome_R - predict(log.features_RF, log.shares_RK)
    assert worth["model"].value == pytest.approx(predict(log.features_RF, given).mean(), rel=1e-12)
    expected = predict(log.features_RF, given).mean() + (weight @ residual) / weight.sum()
    assert worth["doubly_robust"].value == pytest.approx(expected, rel=1e-9)
    assert worth["doubly_robust"].effective == pytest.approx(weight.sum() ** 2 / (weight @ weight), rel=1e-9)
    alone = np.zeros((400, 6))
    alone[:, 0] = 1
    used, refused = judge.used(alone)
    assert refused.all()
    np.testing.assert_array_equal(used, np.tile(mean, (400, 1)))


def test_a_wrong_model_is_corrected_where_shares_were_seen() -> None:
    """With a model that knows nothing the doubly robust value still tells better shares from worse ones."""
    log = rows(20_000, 1)
    assert log.best_RK is not None
    overlap = Overlap.fit(log, OverlapSettings(user_groups=2), 0)
    judge = Judge(log, lambda features, shares: np.zeros(len(features)), overlap, np.full(6, 1 / 6))
    near = 0.5 * log.best_RK + 0.5 / 6
    far = 0.5 * (2 / 6 - log.best_RK).clip(0) / (2 / 6 - log.best_RK).clip(0).sum(axis=1, keepdims=True) + 0.5 / 6
    gain = judge.worth(near)["doubly_robust"].value - judge.worth(far)["doubly_robust"].value
    assert gain > 0.1
    assert judge.worth(near)["model"].value == 0


def test_an_outcome_model_is_the_same_bits_and_predicts() -> None:
    log, other = rows(3000), rows(1000, 5)
    settings = OutcomeSettings(hidden=32, steps=400)
    one, two = OutcomeModel.fit(log, settings, 3), OutcomeModel.fit(log, settings, 3)
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    error = other.outcome_R - one.predict(other.features_RF, other.shares_RK)
    assert 1 - error.var() / other.outcome_R.var() > 0.5
    assert one.r2 > 0.5


def test_an_outcome_that_follows_from_nothing_is_given_its_mean() -> None:
    log = rows(300)
    noise = dataclasses.replace(log, outcome_R=3 + np.random.default_rng(0).standard_normal(300))
    model = OutcomeModel.fit(noise, OutcomeSettings(hidden=16, steps=100, learning_rate=0.05), 0)
    found = model.predict(log.features_RF, log.shares_RK)
    assert model.r2 == 0
    np.testing.assert_allclose(found, noise.outcome_R.mean(), rtol=1e-6)


def objective(estimate: str) -> ShareObjective:
    log = rows(1200)
    overlap = Overlap.fit(log, OverlapSettings(user_groups=2), 0)
    policy = SharePolicy.of(6, log.categories, log.shares_RK.mean(axis=0), 0)
    return ShareObjective(estimate, policy, log, OutcomeModel.fit(log, QUICK, 0), overlap, 200, 20.0, 0)


@pytest.mark.parametrize("estimate", ["model", "doubly_robust", "simulator"])
def test_returns_follow_from_theta_and_seed(estimate: str) -> None:
    own = objective(estimate)
    thetas = 0.3 * np.random.default_rng(2).standard_normal((4, own.policy.dimension)).astype(np.float32)
    seeds = np.array([5, 5, 6, 7], np.uint64)
    found = own.evaluate_batch(thetas, seeds)
    np.testing.assert_array_equal(found[2:], own.evaluate_batch(thetas[2:], seeds[2:]))
    assert len(set(found)) == 4
    assert own.describe()["data"] == objective(estimate).describe()["data"]


def test_a_doubly_robust_return_is_the_formulas() -> None:
    """In float64 by numpy: level over the drawn users, correction over the first rows, shares after the floor."""
    own = objective("doubly_robust")
    own.smallest, theta = 0.0, 0.3 * np.random.default_rng(2).standard_normal(own.policy.dimension).astype(np.float32)
    some, log, model = np.random.default_rng(5).integers(0, 1200, 200), own.rows, own.model
    assert model is not None
    given = own.given(theta, log.features_RF)
    level = model.predict(log.features_RF[some], given[some]).mean()
    exponent = -((log.shares_RK - given) ** 2).sum(axis=1) / (2 * own.overlap.width**2)
    weight = np.exp(exponent - own.overlap.log_density(own.overlap.group(log.features_RF), log.shares_RK))
    residual = log.outcome_R - model.predict(log.features_RF, log.shares_RK)
    found = own.evaluate_batch(theta[None], np.array([5], np.uint64))[0]
    assert found == pytest.approx(level + (weight @ residual) / weight.sum(), abs=2e-4)


def test_a_network_passes_what_no_linear_policy_reaches() -> None:
    """The groups' borders are steps: softmax(linear) cannot come below .30, by gradient on the simulator neither."""
    log, overlap = rows(8000), Overlap.fit(rows(2000), OverlapSettings(user_groups=2), 0)
    policy = SharePolicy.of(6, log.categories, log.shares_RK.mean(axis=0), 24)
    own = ShareObjective("simulator", policy, log, None, overlap, 50, 0.0, 0)
    settings = {**ExposureTuning.presets["thorough"](), "generations": 150, "centre_every": 0}
    settings.pop("users")
    theta = run(own, ESConfig(**settings)).theta
    assert log.best_RK is not None
    assert np.abs(own.shares(theta, log.features_RF) - log.best_RK).sum(axis=1).mean() < 0.26


def test_a_correction_that_rests_on_few_rows_is_penalised() -> None:
    own = objective("doubly_robust")
    theta = own.initial()
    own.smallest = 0.0
    plain = own.evaluate_batch(theta[None], np.array([1], np.uint64))[0]
    own.smallest = 1e9
    assert own.evaluate_batch(theta[None], np.array([1], np.uint64))[0] == pytest.approx(plain - own.scale, rel=1e-3)


def test_evolution_on_the_simulator_finds_better_shares(tmp_path: Path) -> None:
    given = evolve.arguments_of("--objective", "exposure", "--estimate", "simulator", "--rows", 2000, "--users", 200,
                                "--hidden", 0, "--generations", 25, "--pairs", 12, "--learning-rate", 0.1,
                                "--workers", 0, "--out", tmp_path / "run")  # fmt: skip
    summary = evolve.run(given)
    assert summary["exposure.policy.l1"] < 0.6 < summary["exposure.mean.l1"]
    policy = json.loads((tmp_path / "run" / "policy.json").read_text())
    assert policy["categories"][2] == "game"
    assert len(policy["layers"][0]) == 7


@pytest.mark.slow
def test_forest_and_policy_from_a_log(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    log = tmp_path / "log"
    make_data.run(make_data_arguments("--world", "shares", "--rows", 3000, "--out", log))
    fitted = fit.run(fit.arguments_of("--system", "exposure", "--data", log, "--out", tmp_path / "forest",
                                      "--forest.trees", 4, "--outcome-model.steps", 100))  # fmt: skip
    assert fitted["exposure.policy.l1"] < 0.45 < fitted["exposure.mean.l1"]
    assert fitted["exposure.policy.over.mean.model.low"] > 0
    model = fit.read_model(tmp_path / "forest")
    shares = model.shares(simulate(50, 9).features_RF)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-12)
    page = (tmp_path / "forest" / "report.html").read_text()
    assert "What groups are told apart by" in page
    assert "Who gets what" in page
    tuned = evolve.run(evolve.arguments_of("--objective", "exposure", "--data", log, "--out", tmp_path / "policy",
                                           "--generations", 3, "--pairs", 4, "--workers", 0, "--users", 100,
                                           "--outcome-model.steps", 60))  # fmt: skip
    assert tuned["exposure.users"] == 300
    assert "learnt shares" in tuned["message"]
    line = error_line(evolve, ("--objective", "exposure", "--out", tmp_path / "no"), monkeypatch, capsys)
    assert "--data LOG is needed" in line


def make_data_arguments(*words: object) -> Any:
    from jobs.command.cli import parse

    return parse(make_data.options_for, [str(word) for word in words])


def test_shares_outside_of_what_was_seen_are_refused() -> None:
    low, high = np.array([0.0, 0.1]), np.array([0.5, 0.9])
    check_policy(np.array([[0.4, 0.6]]), low, high, ("a", "b"))
    with pytest.raises(UserError, match=r"share 'a' is 0.7 in row 0, must be within 0 to 0.5, which the log has seen"):
        check_policy(np.array([[0.7, 0.3]]), low, high, ("a", "b"))
    with pytest.raises(UserError, match="users is 3, must be at least 10"):
        ExposureTuningSettings(users=3)
    with pytest.raises(UserError, match="--data goes with"):
        ExposureTuning.open(ExposureTuningSettings(data=Path("x"), estimate="simulator"), 0)
