"""Every algorithm against its formula written out, and in expectation against the gradients of a quadratic."""

import math

import cma
import numpy as np
import pytest

from es.algorithms.registry import make_algorithm
from es.algorithms.xnes import exponential
from es.config import ESConfig
from es.noise import open_noise
from es.shaping import centred_ranks, nes

PLAIN = {"shaping": "raw", "optimizer": "sgd", "momentum": 0.0}


def build(config, theta):
    theta = np.asarray(theta, np.float32)
    return make_algorithm(config, theta, open_noise(config, len(theta)))


def rows_of(algorithm, generation=0):
    """The rows of noise of a generation, (n, D) or (2n, D), float64."""
    rows = algorithm.config.pairs * algorithm.config.rows_per_pair
    eps = np.empty((rows, len(algorithm.theta_D)), np.float32)
    for start in range(0, rows, algorithm.noise.run_rows):
        stop = min(start + algorithm.noise.run_rows, rows)
        algorithm.noise.write(generation, range(start, stop), 1.0, eps[start:stop])
    return eps.astype(np.float64)


def points_of(algorithm):
    """The candidates of the generation to come, (n, 2, D) float64."""
    proposal, eps = algorithm.ask(), rows_of(algorithm, algorithm.generation)
    if proposal.candidates_PD is not None:
        return proposal.candidates_PD.reshape(-1, 2, eps.shape[1]).astype(np.float64)
    eps = np.stack([eps, -eps], axis=1) if proposal.mirrored else eps.reshape(-1, 2, eps.shape[1])
    return proposal.theta_D.astype(np.float64) + np.asarray(proposal.sigma, np.float64) * eps


def quadratic(dimension, seed):
    """F(x) = -x'Ax/2 + b'x, its gradient, and A."""
    generator = np.random.default_rng(seed)
    matrix = generator.standard_normal((dimension, dimension))
    matrix, bias = matrix @ matrix.T / dimension, generator.standard_normal(dimension)
    return (
        lambda x: -0.5 * np.einsum("...i,ij,...j->...", x, matrix, x) + x @ bias,
        lambda x: -matrix @ x + bias,
        matrix,
    )


def within(samples, expected, errors=4.5):
    """Is the mean of the samples (seeds, D) within so many standard errors of what is expected, in each coordinate?"""
    samples = np.asarray(samples, np.float64)
    error = samples.std(axis=0, ddof=1) / math.sqrt(len(samples))
    return (np.abs(samples.mean(axis=0) - expected) < errors * error).all()


@pytest.mark.parametrize("perturb", [{}, {"perturb": "subset", "subset": 0.4}])
def test_gradient_of_a_quadratic(perturb):
    """OpenAI-ES: the mean of g over 500 seeds is the gradient, within 4.5 standard errors, for every perturbation."""
    function, gradient, _ = quadratic(7, seed=3)
    theta, steps = np.random.default_rng(4).standard_normal(7), []
    for seed in range(500):
        algorithm = build(ESConfig(seed=seed, pairs=16, sigma=0.3, learning_rate=1.0, **PLAIN, **perturb), theta)
        algorithm.tell(function(points_of(algorithm)))
        steps.append(algorithm.theta_D.astype(np.float64) - np.float32(theta))
    assert within(steps, gradient(np.float32(theta)))


@pytest.mark.parametrize("symmetric", [True, False])
def test_pgpe_follows_the_gradients_in_expectation(symmetric):
    """E[d_theta] = sigma^2 grad F and E[d_sigma_i] = sigma_i^3 d2F/dx_i^2 = -sigma^3 A_ii (times the step sizes)."""
    function, gradient, matrix = quadratic(5, seed=1)
    theta, sigma, moves, changes = np.random.default_rng(2).standard_normal(5), 0.5, [], []
    for seed in range(800):
        config = ESConfig(algorithm="pgpe", seed=seed, pairs=16, sigma=sigma, learning_rate=1.0, symmetric=symmetric,
                          sigma_learning_rate=0.01, sigma_max_change=1e9, **PLAIN)  # fmt: skip
        algorithm = build(config, theta)
        # Not the first generation's own mean, which each return is a part of: the paper's baseline is the past's.
        algorithm.baseline = float(function(np.float32(theta)))
        algorithm.tell(function(points_of(algorithm)))
        moves.append(algorithm.theta_D.astype(np.float64) - np.float32(theta))
        changes.append((algorithm.sigma_D.astype(np.float64) - sigma) / 0.01)
    assert within(moves, sigma**2 * gradient(np.float32(theta)))
    assert within(changes, -(sigma**3) * np.diag(matrix))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
def test_pgpe_is_the_papers_update(symmetric, normalise):
    """Three generations against the sums of Sehnke et al. 2010, written candidate by candidate in float64."""
    config = ESConfig(algorithm="pgpe", pairs=20, sigma=0.3, learning_rate=0.7, sigma_learning_rate=0.2,
                      symmetric=symmetric, normalise_returns=normalise, sigma_max_change=10.0, **PLAIN)  # fmt: skip
    theta, sigma, baseline, best = np.linspace(-1, 1, 6), np.full(6, 0.3), None, -np.inf
    algorithm = build(config, theta)
    generator = np.random.default_rng(0)
    for generation in range(3):
        r = generator.standard_normal((20, 2)) + generation
        eps = sigma * rows_of(algorithm, generation)
        baseline = r.mean() if baseline is None else baseline
        best = max(best, r.max())
        above = best - baseline if normalise else 1.0
        moves, changes = [], []
        if symmetric:
            for e, (plus, minus) in zip(eps, r, strict=True):
                moves.append(e * (plus - minus) / (2 * best - plus - minus if normalise else 2))
                changes.append(((plus + minus) / 2 - baseline) / above * (e**2 - sigma**2) / sigma)
        else:
            for e, value in zip(eps, r.ravel(), strict=True):
                moves.append((value - baseline) / above * e)
                changes.append((value - baseline) / above * (e**2 - sigma**2) / sigma)
        theta, sigma = theta + 0.7 * np.mean(moves, axis=0), sigma + 0.2 * np.mean(changes, axis=0)
        baseline = 0.9 * baseline + 0.1 * r.mean()
        algorithm.tell(r)
        np.testing.assert_allclose(algorithm.theta_D, theta, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(algorithm.sigma_D, sigma, rtol=2e-5)


def test_pgpe_bounds_the_change_of_sigma():
    algorithm = build(ESConfig(algorithm="pgpe", pairs=4, shaping="raw"), np.zeros(3))
    algorithm.tell(1e6 * np.random.default_rng(0).standard_normal((4, 2)))
    np.testing.assert_allclose(np.abs(algorithm.sigma_D / np.float32(0.1) - 1), 0.2, rtol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
def test_snes_is_its_formula(symmetric):
    config = ESConfig(algorithm="snes", pairs=30, sigma=0.3, symmetric=symmetric)
    theta, sigma = np.linspace(-1, 1, 6), np.full(6, 0.3)
    algorithm, generator = build(config, theta), np.random.default_rng(0)
    for generation in range(3):
        r = generator.standard_normal((30, 2))
        z = rows_of(algorithm, generation)
        z = np.stack([z, -z], axis=1).reshape(60, 6) if symmetric else z
        order = np.argsort(-r.ravel())
        utilities = np.zeros(60)
        utilities[order] = np.maximum(0, np.log(31) - np.log(np.arange(1, 61)))
        utilities = utilities / utilities.sum() - 1 / 60
        rate = (3 + math.log(6)) / (5 * math.sqrt(6))
        theta, sigma = (
            theta + sigma * (utilities @ z),
            sigma * np.exp(rate / 2 * (utilities @ (z**2 - 1))),
        )
        algorithm.tell(r)
        np.testing.assert_allclose(algorithm.theta_D, theta, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(algorithm.sigma_D, sigma, rtol=2e-5)


@pytest.mark.parametrize("symmetric", [True, False])
def test_xnes_is_its_formula(symmetric):
    """Three generations as in Glasmachers et al. 2010, sigma and B apart, exp by eigenvalues, z one by one."""
    config = ESConfig(algorithm="xnes", pairs=30, sigma=0.3, symmetric=symmetric, sigma_learning_rate=0.7)
    theta, sigma, shape = np.linspace(-1, 1, 6), 0.3, np.eye(6)
    algorithm, generator = build(config, theta), np.random.default_rng(0)

    def exp(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return vectors @ np.diag(np.exp(values)) @ vectors.T

    for generation in range(3):
        z = rows_of(algorithm, generation)
        z = np.stack([z, -z], axis=1).reshape(60, 6) if symmetric else z
        points = algorithm.ask().candidates_PD
        np.testing.assert_allclose(points, [theta + sigma * shape @ row for row in z], rtol=1e-5, atol=1e-6)
        r = np.where(np.arange(60) == 7, np.nan, 3 * points[:, 0] - (points**2).sum(axis=1))
        r[:20] += generator.standard_normal(20)
        utilities = nes(r.reshape(30, 2)).ravel()
        delta = sum(u * row for u, row in zip(utilities, z, strict=True))
        curve = sum(u * (np.outer(row, row) - np.eye(6)) for u, row in zip(utilities, z, strict=True))
        size = np.trace(curve) / 6
        theta = theta + sigma * shape @ delta
        sigma, shape = sigma * np.exp(0.35 * size), shape @ exp(0.35 * (curve - size * np.eye(6)))
        step = algorithm.tell(r.reshape(30, 2))
        np.testing.assert_allclose(algorithm.theta_D, theta, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(algorithm.root_DD, sigma * shape, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(step.sigma, np.sqrt(np.mean(np.diag(sigma**2 * shape @ shape.T))), rtol=1e-9)
    rate = build(ESConfig(algorithm="xnes"), theta).rate
    np.testing.assert_allclose(rate, 3 / 5 * (3 + math.log(6)) / (6 * math.sqrt(6)))


@pytest.mark.parametrize("length", [0.0, 1e-3, 0.4, 7.0])
def test_exponential_of_a_matrix(length):
    """Against exp of the eigenvalues, to the precision of float64 times the size of the exponent."""
    matrix = np.random.default_rng(1).standard_normal((9, 9))
    matrix = length * (matrix + matrix.T) / np.linalg.norm(matrix + matrix.T, 2)
    values, vectors = np.linalg.eigh(matrix)
    expected = vectors @ np.diag(np.exp(values)) @ vectors.T
    np.testing.assert_allclose(exponential(matrix), expected, atol=1e-13 * np.exp(length))


def test_ars_is_its_formula():
    algorithm = build(ESConfig(algorithm="ars", pairs=10, top_pairs=4, learning_rate=0.3), np.linspace(-1, 1, 6))
    r = np.random.default_rng(0).standard_normal((10, 2))
    best = sorted(range(10), key=lambda j: -max(r[j]))[:4]
    spread = np.std([r[j, member] for j in best for member in (0, 1)])
    step = sum((r[j, 0] - r[j, 1]) * rows_of(algorithm)[j] for j in best) / (4 * spread)
    algorithm.tell(r)
    np.testing.assert_allclose(algorithm.theta_D, np.linspace(-1, 1, 6) + 0.3 * step, rtol=1e-5)
    before = algorithm.theta_D
    algorithm.tell(np.ones((10, 2)))  # no spread: no direction
    np.testing.assert_array_equal(algorithm.theta_D, before)


def test_cma_is_the_library():
    """The same candidates, mean and sigma as cma itself with the same normals; failures count as the worst return."""
    algorithm = build(ESConfig(algorithm="cma", pairs=6, sigma=0.5), np.ones(4))
    drawn = []

    def normals(number, dimension):
        drawn.append(number)
        return rows_of(algorithm, len(drawn) - 1)

    library = cma.CMAEvolutionStrategy(
        np.ones(4), 0.5, {"popsize": 12, "randn": normals, "verbose": -9, "seed": np.nan}
    )
    for generation in range(20):
        candidates = library.ask()
        np.testing.assert_array_equal(algorithm.ask().candidates_PD, np.array(candidates, np.float32))
        costs = np.array([float(x @ x) for x in candidates])
        returns = -costs.reshape(6, 2)
        if generation == 3:
            returns[2, 1], costs[5] = np.nan, np.delete(costs, 5).max()
        library.tell(candidates, costs)
        step = algorithm.tell(returns)
    np.testing.assert_array_equal(algorithm.theta_D, np.float32(library.mean))
    np.testing.assert_allclose(step.sigma, np.sqrt(np.mean(library.stds**2)), rtol=1e-6)
    assert set(drawn) == {12}


def test_nes_utilities_by_hand():
    """Six returns: ln 4 - ln i for the best three, 0 below, over their sum, less 1/6; ties share, failures tie last."""
    best = np.log(4) - np.log([1, 2, 3])
    u = np.concatenate([best, [0, 0, 0]]) / best.sum() - 1 / 6
    np.testing.assert_allclose(nes(np.array([[6.0, 1], [5, 2], [4, 3]])), [[u[0], u[5]], [u[1], u[4]], [u[2], u[3]]])
    np.testing.assert_allclose(
        nes(np.array([[9.0, np.nan], [9, 2], [4, np.inf]])),
        [[(u[0] + u[1]) / 2, u[5]], [(u[0] + u[1]) / 2, u[3]], [u[2], u[4]]],
    )
    assert abs(nes(np.random.default_rng(0).standard_normal((40, 2))).sum()) < 1e-12
    np.testing.assert_allclose(nes(np.zeros((5, 2))), 0, atol=1e-15)


def test_centred_ranks_serve_pgpe_too():
    config = ESConfig(algorithm="pgpe", pairs=8, optimizer="sgd", momentum=0.0, learning_rate=1.0)
    algorithm, r = build(config, np.zeros(4)), np.random.default_rng(0).standard_normal((8, 2))
    shaped = centred_ranks(r)
    algorithm.tell(r)
    expected = 0.1 * (shaped[:, 0] - shaped[:, 1]) @ rows_of(algorithm) / 16
    np.testing.assert_allclose(algorithm.theta_D, expected, rtol=1e-4, atol=1e-7)
