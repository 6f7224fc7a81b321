"""Binned figures against scikit-learn and direct formulas."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from sklearn.metrics import log_loss, precision_recall_fscore_support, roc_auc_score

from data.errors import UserError
from funnel.figures.binary import ECE_GROUPS, BinaryMetrics
from funnel.ranking.problem import EntireSpaceSettings
from funnel.ranking.propensity_health import PropensityHealth


def sample(rows: int, seed: int = 0, rate: float = -3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logit_B = torch.randn(rows, generator=generator) * 1.5 + rate
    label_B = (torch.rand(rows, generator=generator) < (logit_B * 0.8).sigmoid()).float()
    return logit_B, label_B


@pytest.mark.parametrize(("rows", "seed"), [(500, 0), (20_000, 1), (200_000, 2)])
def test_auc_and_log_loss_match_scikit_learn(rows: int, seed: int) -> None:
    logit_B, label_B = sample(rows, seed)
    metrics = BinaryMetrics()
    for start in range(0, rows, 7000):
        metrics.add(logit_B[start : start + 7000], label_B[start : start + 7000])
    figures, absent = metrics.figures()
    probability_B = logit_B.double().sigmoid()
    exact = roc_auc_score(label_B, logit_B)
    assert not absent
    assert abs(figures["auc"] - exact) <= metrics.auc_error() + 1e-12
    assert figures["auc"] == pytest.approx(exact, abs=2e-6)
    assert metrics.auc_error() < 1e-4
    assert figures["log_loss"] == pytest.approx(log_loss(label_B, probability_B), rel=1e-9)
    assert figures["pcoc"] == pytest.approx((probability_B.mean() / label_B.double().mean()).item(), rel=1e-9)
    assert figures["count"] == rows
    exact = ks_2samp(logit_B[label_B == 1], logit_B[label_B == 0]).statistic
    assert figures["ks"] == pytest.approx(exact, abs=2e-3 if rows < 1000 else 2e-4)


def test_ece_is_its_formula_over_groups_of_equal_count() -> None:
    logit_B, label_B = sample(20_000, 6, rate=-1.0)
    metrics = BinaryMetrics()
    metrics.add(logit_B, label_B)
    order_B = logit_B.argsort()
    groups = order_B.view(ECE_GROUPS, -1)
    gaps = (logit_B.double().sigmoid()[groups].mean(1) - label_B.double()[groups].mean(1)).abs()
    assert metrics.ece() == pytest.approx(gaps.mean().item(), abs=2e-4)


def test_auc_with_ties_and_scores_beyond_the_bins() -> None:
    logit_B = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, -50.0, 50.0, -30.0])
    label_B = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    metrics = BinaryMetrics()
    metrics.add(logit_B, label_B)
    assert metrics.auc() == pytest.approx(roc_auc_score(label_B, logit_B), abs=1e-12)


def test_counts_add_in_any_order_to_the_same_bits() -> None:
    logit_B, label_B = sample(5000)
    whole, parts = BinaryMetrics(), BinaryMetrics()
    whole.add(logit_B, label_B)
    for rows in torch.randperm(5000).split(617):
        parts.add(logit_B[rows], label_B[rows])
    assert torch.equal(whole.counts_2N, parts.counts_2N)
    assert whole.auc() == parts.auc()


def test_figures_that_do_not_exist_say_why() -> None:
    empty = BinaryMetrics().figures()
    assert empty[1]["auc"] == "no rows"
    metrics = BinaryMetrics()
    metrics.add(torch.zeros(3), torch.zeros(3))
    figures, absent = metrics.figures()
    assert absent == dict.fromkeys(("auc", "ks", "pcoc", "precision", "recall", "f1"), "no positives")
    assert "auc" not in figures
    assert figures["log_loss"] == pytest.approx(np.log(2))


@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.5, None])
def test_precision_recall_and_f1_match_scikit_learn(threshold: float | None) -> None:
    """None: a row is called positive from the mean label on."""
    logit_B, label_B = sample(20_000, 5)
    metrics = BinaryMetrics(threshold=threshold)
    metrics.add(logit_B, label_B)
    figures, absent = metrics.figures()
    where = label_B.double().mean().item() if threshold is None else threshold
    assert figures["threshold"] == pytest.approx(where)
    called_B = logit_B.double().sigmoid() >= where
    expected = precision_recall_fscore_support(label_B, called_B, average="binary")[:3]
    for name, value in zip(("precision", "recall", "f1"), expected, strict=True):
        assert figures[name] == pytest.approx(value, abs=1e-3), (
            name
        )  # rows of the threshold's own bin count as reaching it
    assert not absent


def test_the_row_at_the_threshold_counts_as_reaching_it() -> None:
    """By hand: 3 of 4 positives and 1 of 4 negatives at or above .5."""
    metrics = BinaryMetrics(threshold=0.5)
    metrics.add(torch.tensor([0.0, 2, 30, -1, 0.1, -0.1, -2, -30]), torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0]))
    figures, _ = metrics.figures()
    assert (figures["precision"], figures["recall"], figures["f1"]) == (0.75, 0.75, 0.75)
    high = BinaryMetrics(threshold=0.99)
    high.add(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
    figures, absent = high.figures()
    assert (figures["recall"], figures["f1"]) == (0, 0)
    assert absent == {"precision": "no prediction reaches the threshold"}


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, float("nan"), "often"])
def test_a_threshold_is_a_probability_or_auto(threshold: float | str) -> None:
    with pytest.raises(UserError, match="threshold must be 'auto' or a probability between 0 and 1"):
        EntireSpaceSettings(threshold=threshold)


def test_calibration_groups_hold_all_rows() -> None:
    logit_B, label_B = sample(20_000, 3)
    metrics = BinaryMetrics()
    metrics.add(logit_B, label_B)
    groups = metrics.calibration(10)
    assert sum(group["count"] for group in groups) == 20_000
    assert all(1500 < group["count"] < 2500 for group in groups)
    order_B = logit_B.argsort()
    top = order_B[-groups[-1]["count"] :]
    assert groups[-1]["mean_prediction"] == pytest.approx(logit_B[top].double().sigmoid().mean().item(), rel=2e-4)
    assert groups[-1]["mean_label"] == pytest.approx(label_B[top].mean().item(), rel=1e-6)
    labels = sum(group["mean_label"] * group["count"] for group in groups)
    assert labels == pytest.approx(label_B.sum().item())


def test_propensity_health_is_its_formula() -> None:
    logit_B, click_B = sample(3000, 4)
    health = PropensityHealth(clip=0.05)
    for rows in torch.arange(3000).split(700):
        health.add(logit_B[rows], click_B[rows])
    q_B = logit_B[click_B == 1].double().sigmoid()
    weight_B = 1 / q_B.clamp(min=0.05)
    figures = health.figures()
    assert figures["clicks"] == len(q_B)
    assert figures["effective_sample_size"] == pytest.approx((weight_B.sum() ** 2 / (weight_B**2).sum()).item())
    assert figures["largest_weight"] == pytest.approx(weight_B.max().item())
    assert figures["share_clipped"] == pytest.approx((q_B < 0.05).double().mean().item())
    histogram = health.weight_histogram()
    assert sum(histogram["counts"]) == len(q_B)
    assert len(histogram["edges"]) == len(histogram["counts"]) + 1
    assert PropensityHealth(clip=0.1).figures() == {"clicks": 0, "clip": 0.1}
