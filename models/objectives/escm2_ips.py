"""ESCM2-IPS [Wang et al., ESCM2: Entire Space Counterfactual Multi-Task Model, SIGIR 2022, arXiv 2204.05125].

L = lambda_ctr L_CTR + lambda_c L_CVR + lambda_g L_CTCVR
    L_CTR   = mean_D delta(o, q)
    L_CVR   = (1/|D|) sum_D o delta(r, p) / q~,   q~ = stop_gradient(max(q, clip))
    L_CTCVR = mean_D delta(c, q p)
"""

from torch import Tensor

from models.objectives.base import EXPOSURES, Labels, Objective


class Escm2Ips(Objective):
    takes_delays = True
    uses_propensities = True

    def __call__(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> dict[str, Tensor]:
        ctr, ctcvr = self.ctr(logits, labels, totals), self.ctcvr(logits, labels, totals)
        delta_B = self.conversion_loss(logits, labels)
        weight_B = labels.click_B * self.inverse_propensity(logits, labels)
        cvr = labels.weigh(weight_B * delta_B).sum() / totals[EXPOSURES]
        return {"loss": self.combine(ctr, cvr, ctcvr), "ctr": ctr, "cvr": cvr, "ctcvr": ctcvr}
