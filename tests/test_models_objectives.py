"""Objectives against direct float64 formulas, and their gradients in the logits."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.hidden_cause import CAUSE, log_clicked, log_clicked_and
from models.objectives.base import Labels, Objective, ObjectiveConfig
from models.objectives.escm2_dr import Escm2Dr
from models.objectives.propensity import inverse_propensity, resolve_clip
from models.registry import OBJECTIVES, build_objective

ROWS = 400
DECAYS = {"gamma_ctr": 1.1, "gamma_c": 0.5, "gamma_g": 0.8, "gamma_imp": 0.7}


def batch(seed: int = 0, rows: int = ROWS) -> tuple[dict[str, Tensor], Labels]:
    generator = torch.Generator().manual_seed(seed)
    logits = {
        task: (torch.randn(rows, generator=generator, dtype=torch.float64) - 1).requires_grad_()
        for task in ("ctr", "cvr", "imputation")
    }
    logits[CAUSE] = torch.full((rows,), 0.5, dtype=torch.float64, requires_grad=True)
    click_B = (torch.rand(rows, generator=generator) < 0.3).double()
    conversion_B = click_B * (torch.rand(rows, generator=generator) < 0.4).double()
    return logits, Labels(click_B, conversion_B)


def apply(objective: Objective, logits: dict[str, Tensor], labels: Labels) -> dict[str, Tensor]:
    return objective(logits, labels, objective.totals(logits, labels))


def delta(label_B: Tensor, probability_B: Tensor) -> Tensor:
    return -(label_B * probability_B.log() + (1 - label_B) * (1 - probability_B).log())


def expected_terms(
    name: str, logits: dict[str, Tensor], labels: Labels, clip: float, config: ObjectiveConfig, epoch: int = 0
) -> dict:
    """docs/math.md, written down naively in float64."""
    lambda_ctr, lambda_c, lambda_g, lambda_imp = (
        getattr(config, f"lambda_{term}") * getattr(config, f"gamma_{term}") ** epoch
        for term in ("ctr", "c", "g", "imp")
    )
    q_B, p_B = logits["ctr"].sigmoid(), logits["cvr"].sigmoid()
    o_B, c_B = labels.click_B, labels.conversion_B
    weighing_B = q_B if labels.click_logit_B is None else labels.click_logit_B.sigmoid()
    weighted_B = o_B / weighing_B.clamp(min=clip)
    product_B = delta(c_B, q_B * p_B)
    space = "entire" if name == "esmm" else config.ctcvr_space
    own_B = o_B * product_B + o_B * (1 / weighing_B.clamp(min=clip) - 1) * delta(0 * c_B, q_B * p_B)
    ctcvr = {"entire": product_B.mean(), "click": product_B[o_B == 1].mean(), "click_ips": own_B.mean()}[space]
    terms = {"ctr": delta(o_B, q_B).mean(), "ctcvr": ctcvr}
    if name == "naive":
        cvr = (o_B * delta(c_B, p_B)).sum() / o_B.sum()
        return {"loss": lambda_ctr * terms["ctr"] + config.gamma_c**epoch * cvr, "ctr": terms["ctr"], "cvr": cvr}
    if name.startswith("escm2_joint"):  # tests/test_models_hidden_cause.py has these sums against integrals
        one_B, zero_B = log_clicked(logits["ctr"], logits[CAUSE])
        both_B = log_clicked_and(logits["ctr"], logits["cvr"], logits[CAUSE], c_B)
        ctr, cvr = -torch.where(o_B == 1, one_B, zero_B).mean(), (one_B - both_B)[o_B == 1].mean()
        if name == "escm2_joint_ips":
            q_B = one_B.exp() if labels.click_logit_B is None else weighing_B
            cvr = (o_B / q_B.clamp(min=clip) * (one_B - both_B)).mean()
        return {"loss": lambda_ctr * ctr + lambda_c * cvr, "ctr": ctr, "cvr": cvr}
    if name == "mtl_imp":
        cvr = delta(c_B, p_B).mean()
        return {"loss": lambda_ctr * terms["ctr"] + config.gamma_c**epoch * cvr, "ctr": terms["ctr"], "cvr": cvr}
    if name == "esmm":
        return {"loss": lambda_ctr * terms["ctr"] + config.gamma_g**epoch * terms["ctcvr"], **terms}
    error_B = delta(c_B, p_B)
    if name in ("escm2_ips", "escm2_snips"):
        total = len(o_B) if name == "escm2_ips" else weighted_B.sum()
        terms["cvr"] = (weighted_B * error_B).sum() / total
    else:
        imputed_B = (1 + logits["imputation"].exp()).log()
        if config.imputation == "label":
            imputed_B = delta(logits["imputation"].sigmoid(), p_B)
        terms["cvr"] = (imputed_B + weighted_B * (error_B - imputed_B)).mean()
        q_clipped_B = weighing_B.clamp(min=clip)
        share_B = weighted_B if name == "escm2_dr" else o_B * (1 - q_clipped_B) / q_clipped_B**2
        terms["imputation"] = (share_B * (error_B - imputed_B) ** 2).mean()
    loss = lambda_ctr * terms["ctr"] + lambda_c * terms["cvr"] + lambda_g * terms["ctcvr"]
    return {"loss": loss + lambda_imp * terms.get("imputation", 0), **terms}


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"imputation": "label", "ctcvr_space": "click", "lambda_ctr": 2.5},
        {"ctcvr_space": "click_ips", "lambda_imp": 0.3, **DECAYS},
    ],
)
@pytest.mark.parametrize("given", [False, True])
def test_terms_equal_the_formulas(name: str, settings: dict, given: bool) -> None:
    """`given`: the propensities of another model weigh the clicks, and nothing else."""
    config = ObjectiveConfig(name=name, lambda_c=0.7, lambda_g=1.3, clip=0.2, **settings)
    logits, labels = batch()
    if given:
        labels = replace(labels, click_logit_B=batch(1)[0]["ctr"])
    objective = build_objective(config, click_rate=0.3)
    objective.epoch = 2
    terms = apply(objective, logits, labels)
    expected = expected_terms(name, logits, labels, 0.2, config, epoch=2)
    assert terms.keys() == expected.keys()
    for key in expected:
        assert terms[key].item() == pytest.approx(expected[key].item(), rel=1e-12), key


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_parts_of_a_batch_add_up_to_the_whole(name: str) -> None:
    """Ranks that share the global totals sum to the single process, though their clicks differ."""
    logits, labels = batch(3)
    objective = build_objective(ObjectiveConfig(name=name, ctcvr_space="click_ips"), click_rate=0.3)
    whole = apply(objective, logits, labels)["loss"]
    whole_gradients = torch.autograd.grad(whole, list(logits.values()), allow_unused=True)
    order_B = torch.argsort(labels.click_B)  # the first rank gets no click at all
    ranks = [
        ({task: logit[rows] for task, logit in logits.items()}, Labels(labels.click_B[rows], labels.conversion_B[rows]))
        for rows in (order_B[:150], order_B[150:])
    ]
    totals = torch.stack([objective.totals(*rank) for rank in ranks]).sum(0)
    loss = torch.stack([objective(*rank, totals)["loss"] for rank in ranks]).sum()
    part_gradients = torch.autograd.grad(loss, list(logits.values()), allow_unused=True)
    assert loss.item() == pytest.approx(whole.item(), rel=1e-12)
    for ours, theirs in zip(part_gradients, whole_gradients, strict=True):
        if theirs is not None:
            assert ours is not None
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_row_weight_two_equals_the_row_twice(name: str) -> None:
    logits, labels = batch(4, rows=50)
    objective = build_objective(ObjectiveConfig(name=name, ctcvr_space="click"), click_rate=0.3)
    weight_B = torch.ones(50, dtype=torch.float64)
    weight_B[:10] = 2
    weighted = Labels(labels.click_B, labels.conversion_B, weight_B)
    rows = torch.cat([torch.arange(50), torch.arange(10)])
    doubled = Labels(labels.click_B[rows], labels.conversion_B[rows])
    ours = apply(objective, logits, weighted)
    theirs = apply(objective, {task: logit[rows] for task, logit in logits.items()}, doubled)
    for key in theirs:
        assert ours[key].item() == pytest.approx(theirs[key].item(), rel=1e-12), key


@pytest.mark.parametrize("name", sorted(OBJECTIVES.keys() - {"esmm", "escm2_joint", "escm2_joint_ips"}))
@pytest.mark.parametrize("imputation", ["error", "label"])
def test_no_gradient_from_what_is_weighted_to_the_ctr_tower(name: str, imputation: str) -> None:
    logits, labels = batch()
    objective = build_objective(ObjectiveConfig(name=name, imputation=imputation), click_rate=0.3)
    terms = apply(objective, logits, labels)
    for term in terms.keys() - {"loss", "ctr", "ctcvr"}:
        (gradient,) = torch.autograd.grad(terms[term], [logits["ctr"]], allow_unused=True, retain_graph=True)
        assert gradient is None or gradient.abs().max() == 0, term


def test_ips_gives_unclicked_rows_no_gradient_and_clicked_rows_one_over_q() -> None:
    logits, labels = batch()
    objective = build_objective(ObjectiveConfig(name="escm2_ips", clip=0.2), click_rate=0.3)
    cvr = apply(objective, logits, labels)["cvr"]
    (gradient_B,) = torch.autograd.grad(cvr, [logits["cvr"]])
    clicked_B = labels.click_B == 1
    assert gradient_B[~clicked_B].abs().max() == 0
    q_B = logits["ctr"].detach().sigmoid().clamp(min=0.2)
    expected_B = (logits["cvr"].detach().sigmoid() - labels.conversion_B) / q_B / ROWS
    torch.testing.assert_close(gradient_B[clicked_B], expected_B[clicked_B], rtol=1e-10, atol=0)


def test_snips_weighs_as_ips_does_up_to_one_factor_for_the_batch() -> None:
    """Scaling all propensities leaves it alone: only ratios of weights count."""
    logits, labels = batch()
    snips, ips = (build_objective(ObjectiveConfig(name=n, clip=0.2), 0.3) for n in ("escm2_snips", "escm2_ips"))
    ours_B, theirs_B = (torch.autograd.grad(apply(o, logits, labels)["cvr"], [logits["cvr"]])[0] for o in (snips, ips))
    weights = (labels.click_B * inverse_propensity(logits["ctr"], 0.2)).sum()
    torch.testing.assert_close(ours_B, theirs_B * ROWS / weights, rtol=1e-10, atol=0)
    half = Labels(labels.click_B, labels.conversion_B, torch.full((ROWS,), 0.5, dtype=torch.float64))
    assert apply(snips, logits, half)["cvr"].item() == pytest.approx(apply(snips, logits, labels)["cvr"].item())


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_batch_without_a_click_gives_finite_terms(name: str) -> None:
    logits, _ = batch()
    none = Labels(torch.zeros(ROWS, dtype=torch.float64), torch.zeros(ROWS, dtype=torch.float64))
    terms = apply(build_objective(ObjectiveConfig(name=name, ctcvr_space="click"), 0.3), logits, none)
    assert all(torch.isfinite(term) for term in terms.values())
    terms["loss"].backward()
    assert all(torch.isfinite(logit.grad).all() for logit in logits.values() if logit.grad is not None)


@pytest.mark.parametrize("name", ["escm2_dr", "escm2_mrdr"])
def test_alternating_trains_one_of_the_two_at_a_time(name: str) -> None:
    logits, labels = batch()
    config = ObjectiveConfig(name=name, alternate_every=3, lambda_c=0.7, lambda_imp=0.7)
    objective = build_objective(config, 0.3)
    trained = []
    for step in range(8):
        objective.step = step
        terms = apply(objective, logits, labels)
        own = (terms["loss"] - terms["ctr"] - terms["ctcvr"]).item() / 0.7
        trained += [term for term in ("imputation", "cvr") if terms[term].item() == pytest.approx(own, rel=1e-9)]
        (gradient,) = torch.autograd.grad(terms["loss"], [logits["imputation"]], allow_unused=True)
        assert (gradient is not None) == (trained[-1] == "imputation")
    assert trained == ["imputation"] * 3 + ["cvr"] * 3 + ["imputation"] * 2


@pytest.mark.parametrize("name", sorted(OBJECTIVES.keys() - {"naive", "mtl_imp", "escm2_joint", "escm2_joint_ips"}))
def test_ctcvr_teaches_the_cvr_tower_on_clicked_rows_alone_if_told_to(name: str) -> None:
    """The value and the CTR tower's gradient stay."""
    logits, labels = batch()
    every, clicked = (
        apply(build_objective(ObjectiveConfig(name=name, ctcvr_gradient=rows), 0.3), logits, labels)["ctcvr"]
        for rows in ("entire", "click")
    )
    assert every.item() == clicked.item()
    inputs = [logits["ctr"], logits["cvr"]]
    (ctr_B, cvr_B), (own_ctr_B, own_cvr_B) = (torch.autograd.grad(term, inputs) for term in (every, clicked))
    assert torch.equal(ctr_B, own_ctr_B)
    assert cvr_B.abs().min() > 0
    assert torch.equal(own_cvr_B, torch.where(labels.click_B > 0.5, cvr_B, 0))


def test_weight_of_a_row_does_not_depend_on_its_batch() -> None:
    logits, _ = batch()
    whole_B = inverse_propensity(logits["ctr"], 0.1)
    torch.testing.assert_close(whole_B[:7], inverse_propensity(logits["ctr"][:7], 0.1), rtol=0, atol=0)
    assert not whole_B.requires_grad


@pytest.mark.parametrize("name", ["escm2_dr", "escm2_mrdr"])
def test_dr_trains_each_tower_with_its_own_loss(name: str) -> None:
    logits, labels = batch()
    terms = apply(build_objective(ObjectiveConfig(name=name), 0.3), logits, labels)
    (from_cvr,) = torch.autograd.grad(terms["cvr"], [logits["imputation"]], allow_unused=True, retain_graph=True)
    (from_imputation,) = torch.autograd.grad(terms["imputation"], [logits["cvr"]], allow_unused=True)
    assert from_cvr is None
    assert from_imputation is None
    terms = apply(build_objective(ObjectiveConfig(name=name, imputation="label"), 0.3), logits, labels)
    (from_cvr,) = torch.autograd.grad(terms["cvr"], [logits["imputation"]], allow_unused=True, retain_graph=True)
    (unclicked_B,) = torch.autograd.grad(terms["cvr"], [logits["cvr"]])
    assert from_cvr is None
    assert unclicked_B[labels.click_B == 0].abs().min() > 0  # unclicked rows do teach the CVR tower here


def test_clip_auto_is_a_quarter_of_the_click_rate() -> None:
    assert resolve_clip("auto", click_rate=0.04) == pytest.approx(0.01)
    assert resolve_clip(0.05, click_rate=0.04) == 0.05
    assert Escm2Dr(ObjectiveConfig(name="escm2_dr", clip="auto"), click_rate=0.1).clip == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip": 1.5}, "objective.clip"),
        ({"clip": "often"}, "objective.clip"),
        ({"lambda_c": -1.0}, "objective.lambda_c"),
        ({"lambda_ctr": -1.0}, "objective.lambda_ctr"),
        ({"alternate_every": -1}, "objective.alternate_every"),
        ({"ctcvr_space": "clicks"}, "objective.ctcvr_space"),
        ({"imputation": "mean"}, r"objective.imputation must be 'error' or 'label', got 'mean'"),
        ({"lambda_imp": float("nan")}, "objective.lambda_imp"),
        ({"lambda_g": float("inf")}, "objective.lambda_g"),
        ({"gamma_c": 0.0}, "objective.gamma_c must be a number above 0"),
        ({"cvr_gradient": "none"}, r"objective.cvr_gradient must be 'shared' or 'tower'"),
        ({"imputation_gradient": "none"}, "objective.imputation_gradient"),
        ({"ctcvr_gradient": "clicks"}, "objective.ctcvr_gradient"),
    ],
)
def test_bad_settings_name_their_key(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig(**settings)


def test_unknown_objective_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown objective 'ips'; valid: escm2_dr, .*, naive"):
        build_objective(ObjectiveConfig(name="ips"), 0.1)
