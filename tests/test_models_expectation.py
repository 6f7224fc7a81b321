"""Objectives in expectation: over every click pattern of a toy of six exposures, at its chance."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from models.objectives.base import Labels, Objective, ObjectiveConfig
from models.registry import build_objective


def apply(objective: Objective, logits: dict[str, Tensor], labels: Labels) -> dict[str, Tensor]:
    return objective(logits, labels, objective.totals(logits, labels))


def delta(label_B: Tensor, probability_B: Tensor) -> Tensor:
    return -(label_B * probability_B.log() + (1 - label_B) * (1 - probability_B).log())


TRUE_Q = torch.tensor([0.15, 0.3, 0.45, 0.6, 0.75, 0.9], dtype=torch.float64)
POTENTIAL = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
CVR_LOGIT = torch.tensor([-1.0, 0.5, 2.0, -0.3, 0.1, -2.0], dtype=torch.float64)


def click_patterns() -> Iterator[tuple[Tensor, float]]:
    """Every click pattern of the six exposures, with its chance at the true propensities."""
    for pattern in itertools.product([0.0, 1.0], repeat=6):
        click = torch.tensor(pattern, dtype=torch.float64)
        yield click, torch.where(click == 1, TRUE_Q, 1 - TRUE_Q).prod().item()


def expectation(
    name: str, ctr_q: Tensor, imputation: Tensor | None = None, kind: str = "error"
) -> tuple[float, Tensor]:
    """E over o ~ Bernoulli(TRUE_Q) of L_CVR and of its gradient in the CVR logits, over all 64 patterns."""
    config = ObjectiveConfig(name=name, clip=0.0, imputation=kind)
    objective = build_objective(config, click_rate=0.5)
    value, gradient = 0.0, torch.zeros(6, dtype=torch.float64)
    for click, chance in click_patterns():
        labels = Labels(click, click * POTENTIAL)
        cvr_logit = CVR_LOGIT.clone().requires_grad_()
        logits = {"ctr": ctr_q.logit(), "cvr": cvr_logit, "imputation": torch.zeros(6, dtype=torch.float64)}
        if imputation is not None:
            logits["imputation"] = imputation
        term = apply(objective, logits, labels)["cvr"]
        value += chance * term.item()
        gradient += chance * torch.autograd.grad(term, [cvr_logit])[0]
    return value, gradient


FULL = delta(POTENTIAL, CVR_LOGIT.sigmoid()).mean().item()
FULL_GRADIENT = (CVR_LOGIT.sigmoid() - POTENTIAL) / 6
WRONG_Q = TRUE_Q * 0.6 + 0.1
WRONG_IMPUTATION = torch.tensor([0.2, -1.0, 0.4, 3.0, -0.5, 1.0], dtype=torch.float64)
RIGHT_IMPUTATION = delta(POTENTIAL, CVR_LOGIT.sigmoid()).expm1().log()  # softplus of it is delta itself


def test_ips_is_unbiased_with_the_true_propensities() -> None:
    value, gradient = expectation("escm2_ips", TRUE_Q)
    assert value == pytest.approx(FULL, rel=1e-12)
    torch.testing.assert_close(gradient, FULL_GRADIENT, rtol=1e-10, atol=1e-14)


def test_ctcvr_from_weighted_clicks_is_that_of_all_exposures() -> None:
    """Over all click patterns: click_ips has the expectation of the entire-space term, value and gradients; the mean
    over clicks has not, nor has o delta(c, q p)/q."""
    ctr_logit = torch.tensor([0.3, -1.0, 0.2, 1.5, -0.4, 0.9], dtype=torch.float64)
    found = {}
    for space in ("entire", "click", "click_ips"):
        objective = build_objective(ObjectiveConfig(name="escm2_ips", clip=0.0, ctcvr_space=space), 0.5)
        value, gradients = 0.0, torch.zeros(2, 6, dtype=torch.float64)
        for click, chance in click_patterns():
            logits = {"ctr": ctr_logit.clone().requires_grad_(), "cvr": CVR_LOGIT.clone().requires_grad_()}
            labels = Labels(click, click * POTENTIAL, click_logit_B=TRUE_Q.logit())
            term = apply(objective, logits, labels)["ctcvr"]
            value += chance * term.item()
            gradients += chance * torch.stack(torch.autograd.grad(term, [logits["ctr"], logits["cvr"]]))
        found[space] = (value, gradients)
    assert found["click_ips"][0] == pytest.approx(found["entire"][0], rel=1e-12)
    torch.testing.assert_close(found["click_ips"][1], found["entire"][1], rtol=1e-10, atol=1e-14)
    assert abs(found["click"][0] - found["entire"][0]) > 0.02
    only_weighted = delta(POTENTIAL, ctr_logit.sigmoid() * CVR_LOGIT.sigmoid()).mean().item()  # E[o delta(c, q p)/q]
    assert abs(only_weighted - found["entire"][0]) > 0.02


def test_ips_with_wrong_propensities_and_naive_are_biased() -> None:
    assert abs(expectation("escm2_ips", WRONG_Q)[0] - FULL) > 0.02
    assert abs(expectation("naive", TRUE_Q)[0] - FULL) > 0.02


@pytest.mark.parametrize(
    ("ctr_q", "imputation"),
    [(TRUE_Q, WRONG_IMPUTATION), (WRONG_Q, RIGHT_IMPUTATION), (TRUE_Q, RIGHT_IMPUTATION)],
    ids=["imputation wrong", "propensity wrong", "both right"],
)
def test_dr_value_is_unbiased_if_either_nuisance_is_right(ctr_q: Tensor, imputation: Tensor) -> None:
    assert expectation("escm2_dr", ctr_q, imputation)[0] == pytest.approx(FULL, rel=1e-12)


def test_dr_is_biased_if_both_nuisances_are_wrong() -> None:
    assert abs(expectation("escm2_dr", WRONG_Q, WRONG_IMPUTATION)[0] - FULL) > 0.02


def test_dr_with_imputed_labels_has_a_doubly_robust_gradient() -> None:
    sure = (POTENTIAL * 2 - 1) * 40.0  # r^ = r to float precision
    for ctr_q, imputation in ((TRUE_Q, WRONG_IMPUTATION), (WRONG_Q, sure)):
        value, gradient = expectation("escm2_dr", ctr_q, imputation, kind="label")
        assert value == pytest.approx(FULL, rel=1e-9)
        torch.testing.assert_close(gradient, FULL_GRADIENT, rtol=1e-9, atol=1e-14)


def test_dr_with_imputed_errors_has_the_gradient_of_ips() -> None:
    """The reason `imputation: label` exists; see docs/math.md."""
    _, dr = expectation("escm2_dr", WRONG_Q, RIGHT_IMPUTATION)
    _, ips = expectation("escm2_ips", WRONG_Q)
    torch.testing.assert_close(dr, ips, rtol=1e-12, atol=1e-15)


def test_mrdr_weighs_the_imputation_with_its_share_of_the_variance() -> None:
    """E over clicks of L_imp at the true propensities = |D| times the variance of the doubly robust estimate."""
    errors = delta(POTENTIAL, CVR_LOGIT.sigmoid()) - (1 + WRONG_IMPUTATION.exp()).log()
    expected, estimates, chances = 0.0, [], []
    objective = build_objective(ObjectiveConfig(name="escm2_mrdr", clip=0.0), 0.5)
    logits = {"ctr": TRUE_Q.logit(), "cvr": CVR_LOGIT, "imputation": WRONG_IMPUTATION}
    for click, chance in click_patterns():
        terms = apply(objective, logits, Labels(click, click * POTENTIAL))
        expected += chance * terms["imputation"].item()
        estimates.append(terms["cvr"].item())
        chances.append(chance)
    mean = sum(c * e for c, e in zip(chances, estimates, strict=True))
    variance = sum(c * (e - mean) ** 2 for c, e in zip(chances, estimates, strict=True))
    assert expected == pytest.approx(6 * variance, rel=1e-10)
    assert expected == pytest.approx(((1 - TRUE_Q) / TRUE_Q * errors**2).mean().item(), rel=1e-10)
