"""Objectives against direct float64 formulas, their gradients, and their expectation over every click pattern."""

import itertools

import pytest
import torch
from torch import Tensor

from models.objectives.base import Labels, ObjectiveConfig
from models.objectives.escm2_dr import Escm2Dr
from models.objectives.propensity import AUTO_CLIP_SHARE, inverse_propensity, resolve_clip
from models.registry import OBJECTIVES, build_objective

ROWS = 400


def batch(seed: int = 0, rows: int = ROWS) -> tuple[dict[str, Tensor], Labels]:
    generator = torch.Generator().manual_seed(seed)
    logits = {
        task: (torch.randn(rows, generator=generator, dtype=torch.float64) - 1).requires_grad_()
        for task in ("ctr", "cvr", "imputation")
    }
    click_B = (torch.rand(rows, generator=generator) < 0.3).double()
    conversion_B = click_B * (torch.rand(rows, generator=generator) < 0.4).double()
    return logits, Labels(click_B, conversion_B)


def delta(label_B: Tensor, probability_B: Tensor) -> Tensor:
    return -(label_B * probability_B.log() + (1 - label_B) * (1 - probability_B).log())


def expected_terms(name: str, logits: dict[str, Tensor], labels: Labels, clip: float, config: ObjectiveConfig) -> dict:
    """methods.md s.3, written down naively in float64."""
    q_B, p_B = logits["ctr"].sigmoid(), logits["cvr"].sigmoid()
    o_B, c_B = labels.click_B, labels.conversion_B
    weighted_B = o_B / q_B.clamp(min=clip)
    terms = {"ctr": delta(o_B, q_B).mean(), "ctcvr": delta(c_B, q_B * p_B).mean()}
    if name == "naive":
        cvr = (o_B * delta(c_B, p_B)).sum() / o_B.sum()
        return {"loss": terms["ctr"] + cvr, "ctr": terms["ctr"], "cvr": cvr}
    if name == "esmm":
        return {"loss": terms["ctr"] + terms["ctcvr"], **terms}
    if name == "escm2_ips":
        cvr = (weighted_B * delta(c_B, p_B)).mean()
        loss = terms["ctr"] + config.lambda_c * cvr + config.lambda_g * terms["ctcvr"]
        return {"loss": loss, "cvr": cvr, **terms}
    if config.imputation == "error":
        imputed_B = (1 + logits["imputation"].exp()).log()
    else:
        imputed_B = delta(logits["imputation"].sigmoid(), p_B)
    error_B = delta(c_B, p_B)
    cvr = (imputed_B + weighted_B * (error_B - imputed_B)).mean()
    imputation = (weighted_B * (error_B - imputed_B) ** 2).mean()
    loss = terms["ctr"] + config.lambda_c * (cvr + imputation) + config.lambda_g * terms["ctcvr"]
    return {"loss": loss, "cvr": cvr, "imputation": imputation, **terms}


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("imputation", ["error", "label"])
def test_terms_equal_the_formulas(name: str, imputation: str) -> None:
    config = ObjectiveConfig(name=name, lambda_c=0.7, lambda_g=1.3, clip=0.2, imputation=imputation)
    logits, labels = batch()
    terms = build_objective(config, click_rate=0.3)(logits, labels, labels.totals())
    expected = expected_terms(name, logits, labels, 0.2, config)
    assert terms.keys() == expected.keys()
    for key in expected:
        assert terms[key].item() == pytest.approx(expected[key].item(), rel=1e-12), key


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_parts_of_a_batch_add_up_to_the_whole(name: str) -> None:
    """Ranks that share the global totals sum to the single process, though their clicks differ."""
    logits, labels = batch(3)
    objective = build_objective(ObjectiveConfig(name=name), click_rate=0.3)
    totals = labels.totals()
    whole = objective(logits, labels, totals)["loss"]
    whole_gradients = torch.autograd.grad(whole, list(logits.values()), allow_unused=True)
    order_B = torch.argsort(labels.click_B)  # the first rank gets no click at all
    loss = torch.zeros((), dtype=torch.float64)
    for rows in (order_B[:150], order_B[150:]):
        part = Labels(labels.click_B[rows], labels.conversion_B[rows])
        loss = loss + objective({task: logit[rows] for task, logit in logits.items()}, part, totals)["loss"]
    part_gradients = torch.autograd.grad(loss, list(logits.values()), allow_unused=True)
    assert loss.item() == pytest.approx(whole.item(), rel=1e-12)
    for ours, theirs in zip(part_gradients, whole_gradients, strict=True):
        if theirs is not None:
            assert ours is not None
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


def test_row_weight_two_equals_the_row_twice() -> None:
    logits, labels = batch(4, rows=50)
    objective = build_objective(ObjectiveConfig(name="escm2_dr"), click_rate=0.3)
    weight_B = torch.ones(50, dtype=torch.float64)
    weight_B[:10] = 2
    weighted = Labels(labels.click_B, labels.conversion_B, weight_B)
    rows = torch.cat([torch.arange(50), torch.arange(10)])
    doubled = Labels(labels.click_B[rows], labels.conversion_B[rows])
    ours = objective(logits, weighted, weighted.totals())
    theirs = objective({task: logit[rows] for task, logit in logits.items()}, doubled, doubled.totals())
    for key in theirs:
        assert ours[key].item() == pytest.approx(theirs[key].item(), rel=1e-12), key


@pytest.mark.parametrize("name", ["naive", "escm2_ips", "escm2_dr"])
@pytest.mark.parametrize("imputation", ["error", "label"])
def test_no_gradient_from_the_cvr_loss_to_the_ctr_tower(name: str, imputation: str) -> None:
    logits, labels = batch()
    objective = build_objective(ObjectiveConfig(name=name, imputation=imputation), click_rate=0.3)
    terms = objective(logits, labels, labels.totals())
    (gradient,) = torch.autograd.grad(terms["cvr"], [logits["ctr"]], allow_unused=True)
    assert gradient is None or gradient.abs().max() == 0


def test_ips_gives_unclicked_rows_no_gradient_and_clicked_rows_one_over_q() -> None:
    logits, labels = batch()
    objective = build_objective(ObjectiveConfig(name="escm2_ips", clip=0.2), click_rate=0.3)
    cvr = objective(logits, labels, labels.totals())["cvr"]
    (gradient_B,) = torch.autograd.grad(cvr, [logits["cvr"]])
    clicked_B = labels.click_B == 1
    assert gradient_B[~clicked_B].abs().max() == 0
    q_B = logits["ctr"].detach().sigmoid().clamp(min=0.2)
    expected_B = (logits["cvr"].detach().sigmoid() - labels.conversion_B) / q_B / ROWS
    torch.testing.assert_close(gradient_B[clicked_B], expected_B[clicked_B], rtol=1e-10, atol=0)


def test_weight_of_a_row_does_not_depend_on_its_batch() -> None:
    logits, _ = batch()
    whole_B = inverse_propensity(logits["ctr"], 0.1)
    torch.testing.assert_close(whole_B[:7], inverse_propensity(logits["ctr"][:7], 0.1), rtol=0, atol=0)
    assert not whole_B.requires_grad


def test_dr_trains_each_tower_with_its_own_loss() -> None:
    logits, labels = batch()
    terms = build_objective(ObjectiveConfig(name="escm2_dr"), 0.3)(logits, labels, labels.totals())
    (from_cvr,) = torch.autograd.grad(terms["cvr"], [logits["imputation"]], allow_unused=True, retain_graph=True)
    (from_imputation,) = torch.autograd.grad(terms["imputation"], [logits["cvr"]], allow_unused=True)
    assert from_cvr is None
    assert from_imputation is None
    label = build_objective(ObjectiveConfig(name="escm2_dr", imputation="label"), 0.3)
    terms = label(logits, labels, labels.totals())
    (from_cvr,) = torch.autograd.grad(terms["cvr"], [logits["imputation"]], allow_unused=True, retain_graph=True)
    (unclicked_B,) = torch.autograd.grad(terms["cvr"], [logits["cvr"]])
    assert from_cvr is None
    assert unclicked_B[labels.click_B == 0].abs().min() > 0  # unclicked rows do teach the CVR tower here


# --- expectation over all click patterns of a toy of six exposures -------------------------------------------------

TRUE_Q = torch.tensor([0.15, 0.3, 0.45, 0.6, 0.75, 0.9], dtype=torch.float64)
POTENTIAL = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
CVR_LOGIT = torch.tensor([-1.0, 0.5, 2.0, -0.3, 0.1, -2.0], dtype=torch.float64)


def expectation(
    name: str, ctr_q: Tensor, imputation: Tensor | None = None, kind: str = "error"
) -> tuple[float, Tensor]:
    """E over o ~ Bernoulli(TRUE_Q) of L_CVR and of its gradient in the CVR logits, over all 64 patterns."""
    config = ObjectiveConfig(name=name, clip=0.0, imputation=kind)
    objective = build_objective(config, click_rate=0.5)
    value, gradient = 0.0, torch.zeros(6, dtype=torch.float64)
    for pattern in itertools.product([0.0, 1.0], repeat=6):
        click = torch.tensor(pattern, dtype=torch.float64)
        chance = torch.where(click == 1, TRUE_Q, 1 - TRUE_Q).prod().item()
        labels = Labels(click, click * POTENTIAL)
        cvr_logit = CVR_LOGIT.clone().requires_grad_()
        logits = {"ctr": ctr_q.logit(), "cvr": cvr_logit, "imputation": torch.zeros(6, dtype=torch.float64)}
        if imputation is not None:
            logits["imputation"] = imputation
        term = objective(logits, labels, labels.totals())["cvr"]
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


# --- settings ------------------------------------------------------------------------------------------------------


def test_clip_auto_follows_the_click_rate() -> None:
    assert resolve_clip("auto", click_rate=0.04) == AUTO_CLIP_SHARE * 0.04
    assert resolve_clip(0.05, click_rate=0.04) == 0.05
    assert Escm2Dr(ObjectiveConfig(name="escm2_dr", clip="auto"), click_rate=0.1).clip == AUTO_CLIP_SHARE * 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip": 1.5}, "objective.clip"),
        ({"clip": "often"}, "objective.clip"),
        ({"lambda_c": -1.0}, "objective.lambda_c"),
        ({"imputation": "mean"}, "objective.imputation"),
    ],
)
def test_bad_settings_name_their_key(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig(**settings)


def test_unknown_objective_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown objective 'ips'; valid: escm2_dr, escm2_ips, esmm, naive"):
        build_objective(ObjectiveConfig(name="ips"), 0.1)
