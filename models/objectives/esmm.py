"""ESMM [Ma et al., Entire Space Multi-Task Model, SIGIR 2018]: L = lambda_ctr L_CTR + mean_D delta(c, q p).

pCVR is only implied: no term looks at it alone, which is where its over-estimation comes from.
"""

from torch import Tensor

from models.objectives.base import EXPOSURES, Labels, Objective


class Esmm(Objective):
    def __call__(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> dict[str, Tensor]:
        ctr = self.ctr(logits, labels, totals)
        ctcvr = labels.weigh(self.ctcvr_terms(logits, labels)).sum() / totals[EXPOSURES]
        return {"loss": self.weight("ctr") * ctr + self.decay("g") * ctcvr, "ctr": ctr, "ctcvr": ctcvr}
