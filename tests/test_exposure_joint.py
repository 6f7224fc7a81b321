"""The network of all shares at once, and the policy that is held to what was seen."""

import numpy as np
import pytest
import torch

from data.errors import UserError
from funnel.exposure.constrained import ConstrainedSettings, learn
from funnel.exposure.joint import JointSettings, JointShares
from funnel.exposure.outcome import OutcomeSettings
from funnel.exposure.overlap import Overlap, OverlapSettings
from funnel.exposure.policy import SharePolicy
from funnel.exposure.shares import ShareRows
from funnel.exposure.simulation import simulate
from models.joint_dose import JointDose, JointDoseConfig, basis


def test_the_basis_and_a_layer_by_hand() -> None:
    dose, knots = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.0, 0.4], [-2.0, 1.0]])
    found = basis(dose, knots)[0].tolist()
    assert found == pytest.approx([1, 0.5, -1, 0.25, 1, 0.25, 0.01, 1, 0], abs=1e-6)
    network = JointDose(3, knots, JointDoseConfig(hidden=4, head=(5,)), 2)
    x = torch.randn(1, 3)
    first, last = network.layers
    psi, hidden = basis(dose, knots)[0], network.body(x)[0]
    inner = (hidden @ torch.einsum("l,lio->io", psi, first.weight) + psi @ first.bias).relu()
    expected = inner @ torch.einsum("l,lio->io", psi, last.weight) + psi @ last.bias
    torch.testing.assert_close(network(x, dose), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="positive widths"):
        JointDoseConfig(hidden=0)


def narrow(rows: int = 600) -> ShareRows:
    """Users who were all shown about a third of each of three categories."""
    random = np.random.default_rng(3)
    shares = np.abs(np.array([0.34, 0.33, 0.33]) + 0.03 * random.standard_normal((rows, 3)))
    shares /= shares.sum(axis=1, keepdims=True)
    x = random.standard_normal((rows, 2))
    return ShareRows(x, shares, shares[:, 0].copy(), ("a", "b"), ("k", "l", "m"), where="narrow")


def test_a_fine_keeps_the_policy_where_users_were_seen() -> None:
    """By a model that promises more of the first category without end."""
    rows = narrow()
    overlap = Overlap.fit(rows, OverlapSettings(user_groups=2, floor=0.05), 0)
    policy = SharePolicy.of(2, rows.categories, rows.shares_RK.mean(axis=0), 0)
    standard = torch.from_numpy(rows.features_RF).float()
    group = overlap.group(rows.features_RF)

    def promises(numeric: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        return 5 * shares[:, 0]

    def first_share(price_rate: float) -> tuple[float, float]:
        settings = ConstrainedSettings(hidden=0, steps=150, starts=1, users=200, price_rate=price_rate)
        theta = learn(promises, policy, standard, overlap, group, settings, 0)
        given = policy.shares(theta, rows.features_RF)
        return float(given[:, 0].mean()), float(overlap.refused(group, given).mean())

    free, free_refused = first_share(1e-9)
    held, held_refused = first_share(1.0)
    assert free > 0.6
    assert free_refused == 1.0
    assert 0.35 < held < 0.5
    assert held_refused < 0.2


def test_float32_densities_are_those_of_float64() -> None:
    rows = simulate(2000, 0)
    overlap = Overlap.fit(rows, OverlapSettings(user_groups=3), 0)
    group, kernels = overlap.group(rows.features_RF), overlap.tensors()
    shares = torch.from_numpy(0.7 * rows.shares_RK + 0.3 * np.eye(6)[2]).float().requires_grad_()
    fast = overlap.log_density_fast(torch.from_numpy(group), shares, kernels)
    exact = overlap.log_density(group, shares.detach().double().numpy())
    np.testing.assert_allclose(fast.detach().numpy(), exact, atol=2e-4)
    refused = overlap.refused_fast(torch.from_numpy(group), shares.detach(), kernels).numpy()
    np.testing.assert_array_equal(refused, exact < overlap.floor_G[group])
    assert 0.01 < refused.mean() < 0.99
    fast.sum().backward()
    step = 1e-4 * torch.randn_like(shares)
    later = overlap.log_density(group, (shares + step).detach().double().numpy())
    assert later.sum() - exact.sum() == pytest.approx(float((shares.grad * step).sum()), rel=0.05, abs=0.02)


def test_shares_are_drawn_in_as_little_as_it_takes() -> None:
    rows = narrow()
    overlap, mean = Overlap.fit(rows, OverlapSettings(user_groups=2), 0), rows.shares_RK.mean(axis=0)
    wanted = np.tile([0.8, 0.1, 0.1], (len(rows), 1))
    given, group = overlap.drawn_in(rows.features_RF, wanted, mean), overlap.group(rows.features_RF)
    assert not overlap.refused(group, given).any()
    part = (given[:, 0] - mean[0]) / (0.8 - mean[0])
    np.testing.assert_allclose(10 * part, np.round(10 * part), atol=1e-9)
    assert (part > 0).all()
    assert overlap.refused(group, mean + (part + 0.1)[:, None] * (wanted - mean)).all()
    seen = overlap.drawn_in(rows.features_RF, np.tile(mean, (len(rows), 1)), mean)
    np.testing.assert_array_equal(seen, np.tile(mean, (len(rows), 1)))
    again = Overlap.restore(overlap.arrays())
    np.testing.assert_array_equal(again.drawn_in(rows.features_RF, wanted, mean), given)


@pytest.mark.slow
def test_joint_shares_of_the_simulation() -> None:
    rows, test = simulate(8000, 1), simulate(1500, 2)
    assert test.best_RK is not None
    arrays = {"x": rows.features_RF, "treatment": rows.shares_RK, "outcome.value": rows.outcome_R,
              "features": np.array(rows.feature_names), "categories": np.array(rows.categories)}  # fmt: skip
    settings = JointSettings(steps=500, policy=ConstrainedSettings(steps=250, starts=1), outcome_model=OutcomeSettings(
        hidden=32, steps=200))  # fmt: skip
    fitted = JointShares.fit(settings, arrays, 0)
    shares = fitted.shares(test.features_RF)
    assert np.abs(shares - test.best_RK).sum(axis=1).mean() < 0.55
    stored, facts = fitted.state()
    again = JointShares.restore(settings, stored, facts)
    np.testing.assert_array_equal(again.shares(test.features_RF), shares)
    figures, _ = fitted.judge({**arrays, "best": rows.best_RK}, 0, 0)
    assert figures["exposure.policy.l1"] < 0.55 < figures["exposure.mean.l1"]
    assert JointShares.results(figures) is not None
