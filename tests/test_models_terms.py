"""Loss terms against exact arithmetic: mpmath for extreme logits, plain float64 formulas elsewhere."""

import mpmath
import pytest
import torch

from models.objectives.terms import (
    binary_cross_entropy,
    log_one_minus_product,
    log_product,
    product_cross_entropy,
    product_logit,
)

LOGITS = [-60.0, -30.0, -8.0, -1.5, 0.0, 0.7, 9.0, 30.0, 60.0]


def exact(a: float, b: float) -> dict[str, float]:
    with mpmath.workdps(80):
        q, p = 1 / (1 + mpmath.e ** (-mpmath.mpf(a))), 1 / (1 + mpmath.e ** (-mpmath.mpf(b)))
        qp = q * p
        return {
            "log": float(mpmath.log(qp)),
            "log1m": float(mpmath.log(1 - qp)),
            "logit": float(mpmath.log(qp / (1 - qp))),
            # d/da log(1 - qp) = -q(1-q)p / (1-qp)
            "grad1m": float(-q * (1 - q) * p / (1 - qp)),
        }


@pytest.mark.parametrize("a", LOGITS)
@pytest.mark.parametrize("b", LOGITS)
def test_product_in_log_space_is_exact_in_float32(a: float, b: float) -> None:
    reference = exact(a, b)
    a_1 = torch.tensor([a], dtype=torch.float32, requires_grad=True)
    b_1 = torch.tensor([b], dtype=torch.float32)
    assert log_product(a_1, b_1).item() == pytest.approx(reference["log"], rel=2e-6, abs=1e-30)
    log1m = log_one_minus_product(a_1, b_1)
    # where q p is near 0, log(1 - q p) is about -q p: relative accuracy is asked down to float32's own resolution at 1
    assert log1m.item() == pytest.approx(reference["log1m"], rel=2e-5, abs=2e-7)
    assert product_logit(a_1, b_1).item() == pytest.approx(reference["logit"], rel=2e-5, abs=3e-7)
    log1m.sum().backward()
    assert a_1.grad is not None
    assert a_1.grad.item() == pytest.approx(reference["grad1m"], rel=2e-4, abs=2e-7)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_cross_entropies_equal_the_direct_float64_formula(label: float) -> None:
    generator = torch.Generator().manual_seed(1)
    a_B, b_B = (torch.randn(500, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    q_B, p_B = a_B.sigmoid(), b_B.sigmoid()
    label_B = torch.full_like(a_B, label)
    direct_B = -(label_B * q_B.log() + (1 - label_B) * (1 - q_B).log())
    torch.testing.assert_close(binary_cross_entropy(a_B, label_B), direct_B, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        binary_cross_entropy(a_B.float(), label_B.float()).double(), direct_B, rtol=1e-5, atol=1e-6
    )
    direct_B = -(label_B * (q_B * p_B).log() + (1 - label_B) * (1 - q_B * p_B).log())
    torch.testing.assert_close(product_cross_entropy(a_B, b_B, label_B), direct_B, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        product_cross_entropy(a_B.float(), b_B.float(), label_B.float()).double(), direct_B, rtol=1e-5, atol=1e-6
    )


def test_losses_and_gradients_are_finite_at_extreme_logits() -> None:
    a_B = torch.tensor([-60.0, 60.0, -60.0, 60.0], requires_grad=True)
    b_B = torch.tensor([-60.0, 60.0, 60.0, -60.0], requires_grad=True)
    for label in (0.0, 1.0):
        loss = product_cross_entropy(a_B, b_B, torch.full((4,), label)).sum()
        gradients = torch.autograd.grad(loss, [a_B, b_B])
        assert torch.isfinite(loss)
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
