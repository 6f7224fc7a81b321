"""Optimizers step as torch.optim's do."""

import numpy as np
import pytest
import torch

from es.config import ESConfig
from es.optimizers import ClipUp, make_optimizer


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_equals_torch(name, dtype):
    config = ESConfig(optimizer=name, learning_rate=0.03, momentum=0.8, betas=(0.8, 0.95), epsilon=1e-6)
    generator = np.random.default_rng(1)
    theta = generator.standard_normal(50).astype(dtype)
    parameter = torch.nn.Parameter(torch.from_numpy(theta.copy()))
    if name == "sgd":
        reference: torch.optim.Optimizer = torch.optim.SGD([parameter], lr=0.03, momentum=0.8)
    else:
        reference = torch.optim.Adam([parameter], lr=0.03, betas=(0.8, 0.95), eps=1e-6)
    optimizer = make_optimizer(config, theta)
    for _ in range(40):
        gradient = generator.standard_normal(50).astype(dtype)
        theta = optimizer.step(theta, gradient)
        parameter.grad = torch.from_numpy(gradient)
        reference.step()
    assert theta.dtype == dtype
    tolerance = 2e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(theta, parameter.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["sgd", "adam", "clipup"])
def test_state_carries_over_bit_for_bit(name):
    config = ESConfig(optimizer=name)
    gradients = np.random.default_rng(2).standard_normal((10, 20)).astype(np.float32)
    theta = np.ones(20, np.float32)
    straight = make_optimizer(config, theta)
    expected = theta
    for gradient in gradients:
        expected = straight.step(expected, gradient)
    first = make_optimizer(config, theta)
    for gradient in gradients[:4]:
        theta = first.step(theta, gradient)
    second = make_optimizer(config, theta)
    second.load({key: value.copy() for key, value in first.state().items()})
    for gradient in gradients[4:]:
        theta = second.step(theta, gradient)
    np.testing.assert_array_equal(theta, expected)


def test_clipup_speed():
    """First step: lr along the unit gradient whatever its length. Speed never exceeds 2 lr."""
    optimizer = ClipUp(np.zeros(2), learning_rate=0.1, momentum=0.9)
    theta = optimizer.step(np.zeros(2), np.array([300.0, 400.0]))
    np.testing.assert_allclose(theta, [-0.1 * 3 / 5, -0.1 * 4 / 5])
    for _ in range(30):
        before, theta = theta, optimizer.step(theta, np.array([3.0, 4.0]))
        assert np.linalg.norm(theta - before) <= 0.2 * (1 + 1e-12)
    np.testing.assert_allclose(np.linalg.norm(theta - before), 0.2)
    optimizer.step(theta, np.zeros(2))  # a gradient of length 0 is no direction, and no division by 0
