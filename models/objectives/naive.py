"""Naive: CTR over exposures, CVR over clicked exposures only. L = lambda_ctr L_CTR + mean_O delta(r, p)."""

from torch import Tensor

from models.objectives.base import CLICKS, TINY, Labels, Objective


class Naive(Objective):
    takes_delays = True

    def __call__(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> dict[str, Tensor]:
        ctr = self.ctr(logits, labels, totals)
        delta_B = self.conversion_loss(logits, labels)
        cvr = labels.weigh(labels.click_B * delta_B).sum() / totals[CLICKS].clamp(min=TINY)
        return {"loss": self.weight("ctr") * ctr + self.decay("c") * cvr, "ctr": ctr, "cvr": cvr}
