"""The losses of a batch of requests, from scores of its drawn rows. Shapes: D drawn rows, L requests."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from funnel.prerank.settings import PreRankSettings
from funnel.prerank.units import PreRankBatch
from funnel.problem import Outputs
from models.objectives.listwise import listwise_terms
from models.objectives.listwise_softmax import distilled_terms, softmax_terms
from models.objectives.listwise_survival import membership, survival_terms


def labels_of(settings: PreRankSettings, mark: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """{"exposure", "click", "purchase"}: float_D, 1 where a row is a positive of the task. bought > clicked > shown."""
    purchase_D, click_D = mark[settings.purchase], mark[settings.click]
    if settings.labels == "all":
        purchase_D = torch.maximum(purchase_D, mark["elsewhere_purchase"])
        click_D = torch.maximum(click_D, mark["elsewhere_click"])
    click_D = torch.maximum(click_D, purchase_D)
    return {"exposure": torch.maximum(mark["exposed"], click_D), "click": click_D, "purchase": purchase_D}


def weights_of(settings: PreRankSettings) -> dict[str, float]:
    weights = {
        "exposure": settings.exposure_weight,
        "click": settings.click_weight,
        "purchase": settings.purchase_weight,
    }
    return {task: weight for task, weight in weights.items() if weight}


def request_loss(settings: PreRankSettings, score_D: Tensor, batch: PreRankBatch, totals: Tensor) -> dict[str, Tensor]:
    """{"loss", a term a task, "distill.click", "distill.purchase"}: shares of the means over the global batch."""
    sample = batch.sample
    list_D, lists, mark = sample.list_B, len(sample), sample.rows.labels
    labels, terms = labels_of(settings, mark), {}
    memberships = stage_memberships(settings, score_D, batch) if settings.loss == "survival" and lists else None
    for task in weights_of(settings):
        if memberships is not None:
            terms[task] = survival_terms(*memberships, labels[task]).sum()
        elif settings.loss == "softmax":
            terms[task] = softmax_terms(score_D, list_D, lists, labels[task])[1].sum()
        else:
            terms[task] = listwise_terms(score_D, list_D, lists, labels[task])[1].sum()
    total = sum((weight * terms[task] for task, weight in weights_of(settings).items()), start=score_D.sum() * 0.0)
    if batch.taught is not None and settings.loss != "survival":
        heard_D = mark["exposed"] > 0.5 if settings.distill == "exposed" else torch.ones_like(list_D, dtype=torch.bool)
        for task in ("click", "purchase"):
            if task in weights_of(settings):
                taught_D = batch.taught[task][heard_D]
                term = distilled_terms(score_D[heard_D], list_D[heard_D], lists, taught_D).sum()
                terms[f"distill.{task}"] = term
                total = total + weights_of(settings)[task] * term
    requests = totals[0].clamp(min=1e-12).to(score_D.dtype)
    # An empty batch still takes part: its loss is 0, and its graph reaches the network.
    return {"loss": total / requests, **{name: term / requests for name, term in terms.items()}}


def stage_memberships(settings: PreRankSettings, score_D: Tensor, batch: PreRankBatch) -> tuple[Tensor, Tensor]:
    """(own_D, later_D): how far each row is among what pre-ranking hands on by the scores, and among what is shown by
    the teacher's pCTCVR (1 without a teacher). Sizes are those of the sample: its rows that were ranked, and shown."""
    sample = batch.sample
    list_D, lists, mark = sample.list_B, len(sample), sample.rows.labels

    def counted(name: str) -> Tensor:
        return torch.zeros(lists, device=list_D.device).index_add_(0, list_D, mark[name])

    shown_L = counted("exposed")
    handed_L = shown_L + counted("ranked")
    own_D = membership(score_D, list_D, lists, handed_L, settings.tau)
    if batch.taught is None:
        return own_D, torch.ones_like(own_D)
    odds_D = torch.logit(batch.taught["purchase"].clamp(1e-6, 1 - 1e-6))
    return own_D, membership(odds_D, list_D, lists, shown_L, settings.tau)


def pointwise_loss(
    settings: PreRankSettings, outputs: Outputs, mark: Mapping[str, Tensor], totals: Tensor
) -> dict[str, Tensor]:
    """Cross entropy of clicks among what was shown, and of purchases among what was clicked."""
    exposed_D, click_D = mark["exposed"], mark[settings.click]
    terms = {}
    for name, label_D, among_D, total in (
        ("click", click_D, exposed_D, totals[1]),
        ("purchase", mark[settings.purchase], click_D, totals[2]),
    ):
        term_D = binary_cross_entropy_with_logits(outputs[f"{name}_logit"], label_D, reduction="none")
        terms[name] = (term_D * among_D).sum() / total.clamp(min=1e-12).to(term_D.dtype)
    return {"loss": terms["click"] + terms["purchase"], **terms}
