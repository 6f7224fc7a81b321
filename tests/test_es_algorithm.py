"""Shaping by hand, OpenAI-ES against its formula and the analytic gradient, optimizers at work, settings."""

import numpy as np
import pytest

from es.algorithms.openai_es import OpenAIES
from es.config import ESConfig
from es.engine import run
from es.noise import open_noise
from es.objectives.toy import Sphere
from es.shaping import centred_ranks, raw, standardised


def test_centred_ranks_by_hand():
    returns = np.array([[3.0, -1.0], [3.0, 10.0], [0.0, 5.0]])
    # sorted: -1 0 3 3 5 10 -> ranks 0 1 2.5 2.5 4 5 of 5
    expected = np.array([[2.5, 0], [2.5, 5], [1, 4]]) / 5 - 0.5
    np.testing.assert_array_equal(centred_ranks(returns), expected)


def test_failures_rank_worst_and_tie():
    returns = np.array([[np.nan, 1.0], [np.inf, -np.inf], [-5.0, 2.0]])
    # three failures share ranks 0, 1, 2; then -5, 1, 2
    expected = np.array([[1, 4], [1, 1], [3, 5]]) / 5 - 0.5
    np.testing.assert_array_equal(centred_ranks(returns), expected)
    np.testing.assert_array_equal(raw(returns), [[-5, 1], [-5, -5], [-5, 2]])


def test_ranks_ignore_scale_and_sum_to_zero():
    returns = np.random.default_rng(0).standard_normal((50, 2))
    np.testing.assert_array_equal(centred_ranks(returns), centred_ranks(np.exp(3 * returns)))
    assert abs(centred_ranks(returns).sum()) < 1e-12
    assert centred_ranks(returns).min() == -0.5
    assert centred_ranks(returns).max() == 0.5


def test_equal_returns_give_no_direction():
    returns = np.full((4, 2), 7.0)
    np.testing.assert_array_equal(centred_ranks(returns), np.zeros((4, 2)))
    np.testing.assert_array_equal(standardised(returns), np.zeros((4, 2)))


def test_standardised():
    returns = np.array([[1.0, 2.0], [3.0, 6.0]])
    np.testing.assert_allclose(standardised(returns), (returns - 3) / np.sqrt((4 + 1 + 0 + 9) / 4))


def rows_of(algorithm, rows):
    """The perturbations of generation 0, (rows, D) float64."""
    eps = np.empty((rows, len(algorithm.theta_D)), np.float32)
    for start in range(0, rows, 64):
        stop = min(start + 64, rows)
        algorithm.noise.write(0, range(start, stop), 1.0, eps[start:stop])
    return eps.astype(np.float64)


def test_estimator_is_the_gradient_in_expectation():
    """F(x) = -x'Ax/2 + b'x: E[g] = -A theta + b (pairs cancel the even part); 400 seeds, 4 standard errors."""
    dimension, pairs, sigma = 5, 16, 0.3
    generator = np.random.default_rng(3)
    matrix = generator.standard_normal((dimension, dimension))
    matrix, bias = matrix @ matrix.T, generator.standard_normal(dimension)
    theta = generator.standard_normal(dimension).astype(np.float32)
    steps = []
    for seed in range(400):
        config = ESConfig(
            seed=seed, pairs=pairs, sigma=sigma, shaping="raw", optimizer="sgd", momentum=0.0, learning_rate=1.0
        )
        algorithm = OpenAIES(config, theta, open_noise(config, dimension))
        eps = rows_of(algorithm, pairs)
        points = theta + sigma * np.stack([eps, -eps], axis=1)
        algorithm.tell(-0.5 * np.einsum("nci,ij,ncj->nc", points, matrix, points) + points @ bias)
        steps.append(algorithm.theta_D - theta)
    mean, error = np.mean(steps, axis=0), np.std(steps, axis=0, ddof=1) / np.sqrt(len(steps))
    assert (np.abs(mean - (-matrix @ theta + bias)) < 4 * error).all()


def test_tell_is_the_formula():
    config = ESConfig(pairs=100, sigma=0.2, optimizer="sgd", momentum=0.0, learning_rate=0.5, weight_decay=0.1)
    theta = np.linspace(-1, 1, 7).astype(np.float32)
    algorithm = OpenAIES(config, theta, open_noise(config, 7))
    returns = np.random.default_rng(0).standard_normal((100, 2))
    eps = rows_of(algorithm, 100)
    shaped = centred_ranks(returns)
    gradient = (shaped[:, 0] - shaped[:, 1]) @ eps / (2 * 100 * 0.2)
    step = algorithm.tell(returns)
    np.testing.assert_allclose(algorithm.theta_D, theta - 0.5 * (-gradient + 0.1 * theta), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(step.grad_norm, np.linalg.norm(gradient), rtol=1e-5)
    assert algorithm.generation == 1


@pytest.mark.parametrize("optimizer", ["sgd", "clipup"])
def test_other_optimizers_converge(optimizer):
    rate = 0.05 if optimizer == "clipup" else 0.005
    result = run(Sphere(10), ESConfig(generations=150, sigma=0.05, optimizer=optimizer, learning_rate=rate))
    assert result.final_return > -0.05


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("pairs", 0),
        ("sigma", 0.0),
        ("sigma", float("nan")),
        ("seed", -1),
        ("seed", True),
        ("optimizer", "rmsprop"),
        ("momentum", 1.0),
        ("betas", (0.9, 1.0)),
        ("batch_pairs", 12),
        ("workers", -1),
        ("table_floats", 10),
    ],
)
def test_impossible_settings_are_named(setting, value):
    with pytest.raises(ValueError, match=f"^{setting} is .*: it must be"):
        ESConfig(**{setting: value}).check()
