"""Control tasks: networks against plain formulas, moments against direct ones, and what a seed decides."""

import sys

import numpy as np
import pytest

from es.config import ESConfig
from es.engine import run
from es.objectives.base import Observing
from es.objectives.control import SMALLEST_CAP, Control
from es.objectives.networks import Network

pytest.importorskip("gymnasium")
SEEDS = np.arange(1, 7, dtype=np.uint64)


def candidates(objective, count=6, size=0.3):
    theta = objective.initial()
    return theta + size * np.random.default_rng(0).standard_normal((count, len(theta))).astype(np.float32)


def test_a_network_is_its_formula():
    network = Network((5, 7, 3, 2))
    theta = np.random.default_rng(0).standard_normal(network.dimension).astype(np.float32)
    x = np.random.default_rng(1).standard_normal(5).astype(np.float32)
    assert network.dimension == 5 * 7 + 7 + 7 * 3 + 3 + 3 * 2 + 2
    first, rest = theta[:42], theta[42:]
    hidden = np.tanh(first[:35].reshape(7, 5) @ x + first[35:])
    hidden = np.tanh(rest[:21].reshape(3, 7) @ hidden + rest[21:24])
    expected = rest[24:30].reshape(2, 3) @ hidden + rest[30:]
    np.testing.assert_allclose(network.bind(theta)(x), expected, rtol=1e-5, atol=1e-6)


def test_initial_weights_have_their_lengths():
    network = Network((5, 64, 3))
    theta = network.initial(0)
    weights = theta[:320].reshape(64, 5)
    np.testing.assert_allclose(np.sqrt((weights**2).sum(axis=1)), 1, rtol=1e-5)
    last = theta[384:-3].reshape(3, 64)
    np.testing.assert_allclose(np.sqrt((last**2).sum(axis=1)), 0.01, rtol=1e-5)
    assert not theta[320:384].any()
    np.testing.assert_array_equal(theta, network.initial(0))
    assert (theta != network.initial(1)).any()


def test_virtual_batch_norm_normalises_by_the_reference_batch():
    """Over the reference batch, each unit's input to tanh has mean shift and deviation 1 + gain."""
    network = Network((4, 6, 2), normalised=True)
    generator = np.random.default_rng(0)
    reference = 3 + 2 * generator.standard_normal((200, 4)).astype(np.float32)
    theta = generator.standard_normal(network.dimension).astype(np.float32)
    weights, gain, shift = theta[:24].reshape(6, 4), theta[24:30], theta[30:36]
    sums = reference @ weights.T
    hidden = np.tanh((sums - sums.mean(axis=0)) / sums.std(axis=0) * (1 + gain) + shift)
    expected = hidden @ theta[36:48].reshape(2, 6).T + theta[48:]
    act = network.bind(theta, reference)
    np.testing.assert_allclose([act(x).copy() for x in reference], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"policy": "linear"}, {"virtual_batch_norm": True, "normalise": False}])
def test_equal_seeds_give_equal_returns_in_any_batch(settings):
    one, other = Control(**settings), Control(**settings)
    theta = candidates(one)
    together, seen = one.evaluate_observed(theta, SEEDS)
    reverse, seen_reverse = other.evaluate_observed(theta[::-1], SEEDS[::-1])
    np.testing.assert_array_equal(together, reverse[::-1])
    np.testing.assert_array_equal(seen, seen_reverse[::-1])
    np.testing.assert_array_equal(together, other.evaluate_batch(theta, SEEDS))
    assert len(np.unique(together)) > 1
    assert isinstance(one, Observing)


def test_merged_moments_equal_direct_ones(monkeypatch):
    """Every observation the policy acted on, gathered as it goes by, against the sums that come back."""
    control, seen = Control(episodes=2), []
    actor = control.actor
    monkeypatch.setattr(control, "actor", lambda theta: lambda x: (seen.append(np.array(x)), actor(theta)(x))[1])
    _, first = control.evaluate_observed(candidates(control), SEEDS)
    figures = control.observe(first.reshape(3, 2, -1))
    assert figures["steps"] == len(seen)
    assert figures["episode_length"] == pytest.approx(len(seen) / 12)
    mean, deviation = np.mean(seen, axis=0, dtype=np.float64), np.std(seen, axis=0, dtype=np.float64)
    x = np.array([0.1, -0.2, 0.01, 0.3])
    np.testing.assert_allclose(control._normalised(x), (x - mean) / np.maximum(deviation, 1e-2), rtol=1e-4)
    _, second = control.evaluate_observed(candidates(control), SEEDS + np.uint64(9))
    control.observe(second.reshape(3, 2, -1))
    np.testing.assert_allclose(control.state()["moments"][0], np.sum(seen, axis=0, dtype=np.float64), rtol=1e-9)
    assert control.state()["count"][0] == len(seen)


def test_a_state_carries_over():
    control = Control()
    _, seen = control.evaluate_observed(candidates(control), SEEDS)
    before = control.evaluate_batch(candidates(control), SEEDS)
    control.observe(seen.reshape(3, 2, -1))
    other = Control()
    other.load(control.state())
    after = control.evaluate_batch(candidates(control), SEEDS)
    np.testing.assert_array_equal(after, other.evaluate_batch(candidates(control), SEEDS))
    assert (before != after).any()


def test_the_cap_is_twice_the_mean_length_and_for_training_only():
    control = Control(adaptive_cap=True, env="MountainCar-v0")  # 200 steps unless the hill is climbed
    _, seen = control.evaluate_observed(candidates(control, 2), SEEDS[:2])
    assert seen[:, 0].tolist() == [200, 200]
    rows = np.zeros((1, 2, seen.shape[1]))
    rows[0, :, 0], rows[0, :, 1] = (30, 50), 1
    assert control.observe(rows)["episode_cap"] == 80
    returns, seen = control.evaluate_observed(candidates(control, 2), SEEDS[:2])
    assert (seen[:, 0].tolist(), returns.tolist()) == ([80, 80], [-80, -80])
    assert control.evaluate_batch(candidates(control, 2), SEEDS[:2]).tolist() == [-200, -200]
    assert control.observe(seen.reshape(1, 2, -1))["episode_cap"] == 160
    rows[0, :, 0] = 1
    assert control.observe(rows)["episode_cap"] == SMALLEST_CAP


def test_bins_cover_the_actions():
    control = Control(env="Pendulum-v1", policy="linear", action_bins=5, max_steps=5)
    assert control.network.widths == (3, 5)
    theta = np.zeros(20, np.float32)
    theta[15 + 3] = 1  # the fourth bin's bias
    assert control.actor(theta)(np.zeros(3)) == pytest.approx(1.0)  # -2, -1, 0, 1, 2
    assert control.evaluate_batch(theta[None], SEEDS[:1]).shape == (1,)


@pytest.mark.slow
def test_cart_pole_is_learnt():
    control = Control(policy="linear", max_steps=200)
    config = ESConfig(pairs=16, generations=20, sigma=0.1, learning_rate=0.1, seed=1)
    result = run(control, config)
    fresh = 1000 + np.arange(10, dtype=np.uint64)
    untrained = Control(policy="linear", max_steps=200)
    before = untrained.evaluate_batch(np.tile(untrained.initial(), (10, 1)), fresh).mean()
    after = control.evaluate_batch(np.tile(result.theta, (10, 1)), fresh).mean()
    assert before < 50
    assert after > 150
    assert all(metrics["steps"] > 0 for metrics in result.history)


@pytest.mark.slow
def test_virtual_batch_norm_learns_to_choose_between_actions():
    """CartPole-v1 counts as solved at 475: a tanh layer of 16 reaches it in 12 generations of 16 pairs."""
    control = Control(hidden=(16,), virtual_batch_norm=True, normalise=False, seed=1)
    untrained = control.evaluate_batch(np.tile(control.initial(), (10, 1)), 1000 + np.arange(10, dtype=np.uint64))
    config = ESConfig(pairs=16, generations=12, sigma=0.1, learning_rate=0.1, seed=1, centre_every=0)
    theta = run(control, config).theta
    trained = control.evaluate_batch(np.tile(theta, (10, 1)), 1000 + np.arange(10, dtype=np.uint64))
    assert untrained.mean() < 100
    assert trained.mean() > 475


@pytest.mark.ray
def test_workers_do_not_change_a_bit(ray_cluster):
    """theta, and the moments merged on the way, with two workers as with none."""
    results = {}
    for workers in (0, 2):
        control = Control(policy="linear", adaptive_cap=True, max_steps=60)
        result = run(control, ESConfig(pairs=5, generations=4, learning_rate=0.1, workers=workers))
        steps = [metrics["steps"] for metrics in result.history]
        results[workers] = (result.theta.tobytes(), control.state()["moments"].tobytes(), steps)
    assert results[0] == results[2]
    assert sum(results[0][2]) == control.state()["count"][0]


def test_mistakes_are_said():
    for settings, message in [
        ({"env": "NoSuchTask-v0"}, "NoSuchTask"),
        ({"action_bins": 3}, "discrete actions already"),
        ({"env": "Pendulum-v1", "action_bins": 1}, "at least 2"),
        ({"env": "FrozenLake-v1"}, "flat vectors"),
    ]:
        with pytest.raises(ValueError, match=message):
            Control(**settings)


def test_without_gymnasium_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ValueError, match=r"pip install 'gymnasium\[mujoco\]'"):
        Control()
