"""The losses of pre-ranking against formulas: several positives, distillation, survival, the point-wise baseline."""

import itertools
import math

import numpy as np
import pytest
import torch

from data.encode import Rows
from funnel.lists.units import Lists
from funnel.prerank.losses import labels_of, pointwise_loss, request_loss
from funnel.prerank.settings import PreRankSettings
from funnel.prerank.units import PreRankBatch, PreRankUnits
from models.objectives.listwise import listwise_terms
from models.objectives.listwise_softmax import distilled_terms, softmax_terms
from models.objectives.listwise_survival import LEAST, membership, survival_terms


def test_with_one_positive_a_list_both_losses_are_the_plain_one() -> None:
    rng = np.random.default_rng(0)
    list_B = torch.tensor([0] * 4 + [1] * 6 + [2] * 3)
    label_B = torch.zeros(13, dtype=torch.float64)
    label_B[[2, 5, 12]] = 1
    z_B = torch.from_numpy(rng.normal(0, 2, 13)).requires_grad_()
    expected = sum(
        torch.nn.functional.cross_entropy(z_B[list_B == number].unsqueeze(0), torch.tensor([place]))
        for number, place in ((0, 2), (1, 1), (2, 2))
    )
    for terms in (listwise_terms, softmax_terms):
        found = terms(z_B, list_B, 3, label_B)[1].sum()
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found, z_B)[0], torch.autograd.grad(expected, z_B, retain_graph=True)[0]
        )


def test_no_gradient_between_positives() -> None:
    """Moving one positive changes nothing for the others; with the plain softmax it does."""
    list_B, label_B = torch.zeros(5, dtype=torch.int64), torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0])
    z_B = torch.tensor([0.3, -1.0, 0.8, 0.1, 2.0], requires_grad=True)
    for terms, between in ((listwise_terms, False), (softmax_terms, True)):
        index_P, term_P = terms(z_B, list_B, 1, label_B)
        assert index_P.tolist() == [0, 1, 4]
        for place, positive in enumerate(index_P.tolist()):
            (gradient,) = torch.autograd.grad(term_P[place], z_B, retain_graph=True)
            others = [other for other in index_P.tolist() if other != positive]
            assert bool((gradient[others] != 0).all()) is between
            assert gradient[positive] < 0


def test_the_gradient_of_distillation_by_hand() -> None:
    """softmax(z)_j sum_i p_i - p_j: of two lists, one of which the student has learnt already."""
    p_B = torch.tensor([0.6, 0.3, 0.1, 0.2, 0.05], dtype=torch.float64)
    list_B = torch.tensor([0, 0, 0, 1, 1])
    z_B = torch.tensor([1.0, -0.5, 0.2, math.log(4.0), 0.0], dtype=torch.float64, requires_grad=True)
    loss = distilled_terms(z_B, list_B, 2, p_B).sum()
    loss.backward()
    weights = [math.exp(x) for x in (1.0, -0.5, 0.2)]
    by_hand = [weight / sum(weights) * 1.0 - p for weight, p in zip(weights, (0.6, 0.3, 0.1), strict=True)]
    assert z_B.grad is not None
    assert z_B.grad.tolist() == pytest.approx([*by_hand, 0.0, 0.0], abs=1e-12)


def test_softmax_of_large_scores_is_finite() -> None:
    z_B = torch.tensor([900.0, -900.0, 0.0], requires_grad=True)
    distilled_terms(z_B, torch.tensor([0, 0, 1]), 2, torch.tensor([0.5, 0.5, 0.5])).sum().backward()
    assert z_B.grad is not None
    assert torch.isfinite(z_B.grad).all()


def test_survival_is_membership_of_the_first_k_when_the_order_is_hard() -> None:
    """With a small tau it is 1 for the first k of a list and 0 for the others, whatever the lists' lengths."""
    rng = np.random.default_rng(1)
    lengths, firsts = [4, 7, 1, 3], [2, 3, 1, 3]
    list_B = torch.from_numpy(np.repeat(np.arange(4), lengths))
    score_B = torch.from_numpy(rng.normal(size=15))
    found_B = membership(score_B, list_B, 4, torch.tensor(firsts, dtype=torch.float64), 1e-3)
    for number, first in enumerate(firsts):
        own = score_B[list_B == number]
        expected = (own >= own.sort(descending=True).values[first - 1]).double()
        torch.testing.assert_close(found_B[list_B == number], expected, rtol=0, atol=1e-5)


def test_soft_membership_is_the_relaxed_permutation() -> None:
    """Against NeuralSort written out for one list, and its gradient is that of no other list."""
    score_B = torch.tensor([0.2, -0.4, 1.1, 0.9, 5.0, 6.0], dtype=torch.float64, requires_grad=True)
    list_B = torch.tensor([0, 0, 0, 0, 1, 1])
    found_B = membership(score_B, list_B, 2, torch.tensor([2.0, 1.0]), 0.7)
    s = score_B.detach()[:4]
    away = (s[:, None] - s[None, :]).abs().sum(1)
    rows = [torch.softmax(((4 + 1 - 2 * i) * s - away) / 0.7, 0) for i in (1, 2)]
    torch.testing.assert_close(found_B[:4].detach(), sum(rows).clamp(max=1.0))
    (gradient,) = torch.autograd.grad(found_B[:4].sum() * 0 + found_B[1], score_B)
    assert gradient[1] > 0
    assert gradient[4:].tolist() == [0, 0]


def test_a_positive_counts_by_how_far_the_later_stage_would_show_it() -> None:
    own_B, later_B = torch.tensor([0.5, 0.9, 0.0]), torch.tensor([0.4, 1.0, 0.3])
    found = survival_terms(own_B, later_B, torch.tensor([1.0, 0.0, 1.0]))
    assert found.tolist() == pytest.approx([-1.4 * math.log(0.5), 0.0, -1.3 * math.log(LEAST)], rel=1e-5)


# ---- what is a positive of which task


MARK = {
    #                    shown      shown, clicked, bought   ranked   cut, bought elsewhere   cut, clicked elsewhere
    "exposed": (1, 1, 0, 0, 0),
    "click": (0, 1, 0, 0, 0),
    "conversion": (0, 1, 0, 0, 0),
    "elsewhere_click": (0, 0, 0, 1, 1),
    "elsewhere_purchase": (0, 0, 0, 1, 0),
    "ranked": (0, 0, 1, 0, 0),
    "cut": (0, 0, 0, 1, 1),
    "candidate": (1, 1, 1, 1, 1),
    "drawn": (1, 1, 1, 1, 1),
}


def marks() -> dict[str, torch.Tensor]:
    return {name: torch.tensor(values, dtype=torch.float32) for name, values in MARK.items()}


def test_bought_is_above_clicked_is_above_shown() -> None:
    found = labels_of(PreRankSettings(), marks())
    assert found["purchase"].tolist() == [0, 1, 0, 1, 0]
    assert found["click"].tolist() == [0, 1, 0, 1, 1]
    assert found["exposure"].tolist() == [1, 1, 0, 1, 1]
    inside = labels_of(PreRankSettings(labels="in"), marks())
    assert inside["purchase"].tolist() == inside["click"].tolist() == [0, 1, 0, 0, 0]
    assert inside["exposure"].tolist() == [1, 1, 0, 0, 0]


def batch_of(taught: dict[str, torch.Tensor] | None = None, times: int = 1) -> PreRankBatch:
    count = 5 * times
    labels = {name: np.tile(np.array(values, np.float32), times) for name, values in MARK.items()}
    rows = Rows(np.zeros((count, 0), np.int64), np.zeros((count, 1), np.float32), labels, None)
    batch = PreRankUnits(Lists(rows, np.arange(times + 1) * 5)).batch()
    return PreRankBatch(batch.rows, batch.begin_L1, taught)


def test_the_loss_is_the_weighted_sum_of_the_tasks() -> None:
    z = torch.tensor([0.3, -0.2, 0.5, 0.0, 1.0])
    settings = PreRankSettings(exposure_weight=0.2, click_weight=0.7, purchase_weight=2.0)

    def each(positives: list[int]) -> float:
        negatives = [z[n].item() for n in range(5) if n not in positives]
        return sum(math.log1p(sum(math.exp(n - z[p].item()) for n in negatives)) for p in positives)

    tasks = {"exposure": each([0, 1, 3, 4]), "click": each([1, 3, 4]), "purchase": each([1, 3])}
    found = request_loss(settings, z, batch_of(), torch.tensor([1.0, 2.0, 1.0]))
    for task, value in tasks.items():
        assert found[task].item() == pytest.approx(value, rel=1e-5)
    whole = 0.2 * tasks["exposure"] + 0.7 * tasks["click"] + 2.0 * tasks["purchase"]
    assert found["loss"].item() == pytest.approx(whole, rel=1e-5)
    # The same request three times: the mean is the same.
    thrice = request_loss(settings, z.repeat(3), batch_of(times=3), torch.tensor([3.0, 6.0, 3.0]))
    assert thrice["loss"].item() == pytest.approx(whole, rel=1e-5)


def test_a_task_of_weight_0_is_left_out_and_the_teacher_is_heard_on_what_was_shown() -> None:
    z = torch.tensor([0.3, -0.2, 0.5, 0.0, 1.0])
    taught = {"click": torch.tensor([0.4, 0.8, 0.9, 0.9, 0.9]), "purchase": torch.tensor([0.1, 0.6, 0.9, 0.9, 0.9])}
    totals = torch.tensor([1.0, 2.0, 1.0])
    settings = PreRankSettings(exposure_weight=0.0)
    found = request_loss(settings, z, batch_of(taught), totals)
    assert "exposure" not in found
    log_p = torch.log_softmax(z[:2], 0)
    assert found["distill.click"].item() == pytest.approx(-(0.4 * log_p[0] + 0.8 * log_p[1]).item(), rel=1e-5)
    everywhere = request_loss(PreRankSettings(distill="all"), z, batch_of(taught), totals)
    log_p = torch.log_softmax(z, 0)
    assert everywhere["distill.purchase"].item() == pytest.approx(-(taught["purchase"] * log_p).sum().item(), rel=1e-5)


def test_the_exposure_task_of_shown_rows_alone_is_0() -> None:
    """Without negatives there is nothing to tell apart: no NaN, no gradient."""
    labels = {name: np.array([values[0]] * 3, np.float32) for name, values in MARK.items()}
    rows = Rows(np.zeros((3, 0), np.int64), np.zeros((3, 1), np.float32), labels, None)
    batch = PreRankUnits(Lists(rows, np.array([0, 3]))).batch()
    z = torch.tensor([0.1, 0.2, 0.3], requires_grad=True)
    found = request_loss(PreRankSettings(), z, batch, torch.tensor([1.0, 3.0, 0.0]))
    found["loss"].backward()
    assert found["loss"].item() == 0
    assert z.grad is not None
    assert z.grad.tolist() == [0, 0, 0]


def test_the_point_wise_loss_is_two_cross_entropies() -> None:
    logits = {"click_logit": torch.tensor([0.5, 1.0, 9.0, 9.0, 9.0]), "purchase_logit": torch.full((5,), 0.3)}
    found = pointwise_loss(PreRankSettings(loss="pointwise"), logits, marks(), torch.tensor([1.0, 2.0, 1.0]))
    sigmoid = [1 / (1 + math.exp(-x)) for x in (0.5, 1.0, 0.3)]
    assert found["click"].item() == pytest.approx(-(math.log(1 - sigmoid[0]) + math.log(sigmoid[1])) / 2, rel=1e-5)
    assert found["purchase"].item() == pytest.approx(-math.log(sigmoid[2]), rel=1e-5)


def test_lists_of_a_sample_begin_where_their_drawn_rows_do() -> None:
    batch = batch_of(times=3)
    drawn = torch.tensor([1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1], dtype=torch.float32)
    batch.rows.labels["drawn"].copy_(drawn)
    sample = PreRankBatch(batch.rows, batch.begin_L1).sample
    assert sample.begin_L1.tolist() == [0, 2, 3, 8]
    assert [len(range(*pair)) for pair in itertools.pairwise(sample.begin_L1.tolist())] == [2, 1, 5]
    assert len(sample.rows) == 8
