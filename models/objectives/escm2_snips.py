"""Self-normalised IPS in ESCM2 [Swaminathan and Joachims, NIPS 2015; Wang et al., SIGIR 2022].

L     = lambda_ctr L_CTR + lambda_c L_CVR + lambda_g L_CTCVR
L_CVR = sum_D o delta(r, p) / q~  /  sum_D o / q~,   q~ = stop_gradient(max(q, clip))

Both sums run over the GLOBAL batch: the denominator is one of the totals that are summed over workers, so the loss does
not depend on how rows are dealt. E[sum o / q] = |D|, so the weights of a batch that drew too few or too many likely
clicks are scaled back: less variance than IPS, for a bias that falls with the clicks in a batch.
"""

import torch
from torch import Tensor

from models.objectives.base import CLICKS, TINY, Labels, Objective

WEIGHTS = CLICKS + 1


class Escm2Snips(Objective):
    takes_delays = True
    uses_propensities = True

    def totals(self, logits: dict[str, Tensor], labels: Labels) -> Tensor:
        weights = labels.weigh(self.weights(logits, labels)).sum(dtype=torch.float64)
        return torch.cat([labels.totals(), weights.unsqueeze(0)])

    def __call__(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> dict[str, Tensor]:
        ctr, ctcvr = self.ctr(logits, labels, totals), self.ctcvr(logits, labels, totals)
        delta_B = self.conversion_loss(logits, labels)
        cvr = labels.weigh(self.weights(logits, labels) * delta_B).sum() / totals[WEIGHTS].clamp(min=TINY)
        return {"loss": self.combine(ctr, cvr, ctcvr), "ctr": ctr, "cvr": cvr, "ctcvr": ctcvr}

    def weights(self, logits: dict[str, Tensor], labels: Labels) -> Tensor:
        return labels.click_B * self.inverse_propensity(logits, labels)
