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
