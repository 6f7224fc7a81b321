"""Naive: CTR over exposures, CVR over clicked exposures only. L = lambda_ctr L_CTR + mean_O delta(r, p)."""

from torch import Tensor

from models.objectives.base import CLICKS, TINY, Labels, Objective
from models.objectives.terms import binary_cross_entropy


class Naive(Objective):
    def __call__(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> dict[str, Tensor]:
        ctr = self.ctr(logits, labels, totals)
        delta_B = binary_cross_entropy(self.own(logits, "cvr"), labels.conversion_B)
        cvr = labels.weigh(labels.click_B * delta_B).sum() / totals[CLICKS].clamp(min=TINY)
        return {"loss": self.weight("ctr") * ctr + self.decay("c") * cvr, "ctr": ctr, "cvr": cvr}
