"""Maps between a flat vector and what its numbers mean."""

import numpy as np
import pytest

from es.policies import Box, Free, Policy, Positive, Simplex


def test_theta_zero_is_the_initial_values_and_steps_are_the_formulas():
    policy = Policy(
        (
            Free(("a", "b"), (1.0, -2.0), scale=0.5),
            Positive(("c",), 3.0, scale=2.0),
            Box(("d",), low=-1.0, high=4.0, initial=0.0),
            Simplex(("e", "f", "g"), (0.2, 0.3, 0.5)),
        )
    )
    assert policy.names == tuple("abcdefg")
    assert policy.dimension == 7
    np.testing.assert_allclose(policy.decode(policy.initial()[None])[0], [1, -2, 3, 0, 0.2, 0.3, 0.5], atol=1e-12)
    theta = np.arange(1, 8, dtype=np.float32) / 4
    odds = np.array([0.2, 0.3, 0.5]) * np.exp(theta[4:].astype(np.float64))
    logit = np.log(0.2 / 0.8) + 1.0
    expected = [1 + 0.125, -2 + 0.25, 3 * np.exp(1.5), -1 + 5 / (1 + np.exp(-logit)), *(odds / odds.sum())]
    np.testing.assert_allclose(policy.decode(theta[None])[0], expected, rtol=1e-12)
    assert list(policy.values(theta)) == list("abcdefg")


def test_values_stay_in_their_range():
    theta = np.random.default_rng(0).uniform(-30, 30, (200, 5)).astype(np.float32)
    policy = Policy((Positive(("a",)), Box(("b",), 2.0, 3.0, 2.5), Simplex(("c", "d", "e"), (0.1, 0.1, 0.8))))
    values = policy.decode(theta)
    assert (values[:, 0] > 0).all()
    assert ((values[:, 1] >= 2) & (values[:, 1] <= 3)).all()
    assert (values[:, 2:] > 0).all()
    np.testing.assert_allclose(values[:, 2:].sum(axis=1), 1)


def test_the_maps_are_differentiable():
    """Central differences against the derivatives of the formulas, and no overflow far out."""
    policy = Policy(
        (
            Free(("a",), 1.0, scale=0.5),
            Positive(("b",), 3.0, scale=2.0),
            Box(("c",), low=-1.0, high=4.0, initial=0.0, scale=1.5),
            Simplex(("d", "e", "f"), (0.2, 0.3, 0.5), scale=0.7),
        )
    )
    theta, step = np.array([0.3, -0.4, 0.8, 0.2, -1.0, 0.5]), 1e-6
    up, down = (policy.decode(theta + sign * step * np.eye(6)) for sign in (1, -1))
    slopes = (up - down) / (2 * step)  # row i: the derivatives of all values by theta_i
    value = policy.decode(theta[None])[0]
    expected, shares = np.zeros((6, 6)), value[3:]
    expected[0, 0], expected[1, 1] = 0.5, 2.0 * value[1]
    expected[2, 2] = 1.5 * (value[2] + 1) * (4 - value[2]) / 5
    expected[3:, 3:] = 0.7 * (np.diag(shares) - np.outer(shares, shares))
    np.testing.assert_allclose(slopes, expected, atol=1e-8)
    with np.errstate(over="raise", invalid="raise"):
        bounds = Policy((Box(("x", "y"), 2.0, 3.0, 2.5),)).decode(np.array([[-1e4, 1e4]]))
    np.testing.assert_array_equal(bounds, [[2, 3]])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Positive(("x",), 0.0),
        lambda: Box(("x",), 0.0, 1.0, 1.0),
        lambda: Simplex(("x", "y"), (0.5, 0.6)),
        lambda: Simplex(("x", "y"), (0.0, 1.0)),
    ],
)
def test_impossible_starts_are_refused(make):
    with pytest.raises(ValueError, match=r"^x"):
        make()
