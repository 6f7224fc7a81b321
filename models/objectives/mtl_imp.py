"""MTL-IMP, the baseline of Wang et al. (ESCM2, SIGIR 2022): unclicked exposures count as not converting.

L = lambda_ctr L_CTR + mean_D delta(c, p). What it learns as pCVR is the rate of conversions among exposures, pCTCVR.
"""

from torch import Tensor

from models.objectives.base import EXPOSURES, Labels, Objective
from models.objectives.terms import binary_cross_entropy


class MtlImp(Objective):
    def __call__(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> dict[str, Tensor]:
        ctr = self.ctr(logits, labels, totals)
        cvr = labels.weigh(binary_cross_entropy(self.own(logits, "cvr"), labels.conversion_B)).sum() / totals[EXPOSURES]
        return {"loss": self.weight("ctr") * ctr + self.decay("c") * cvr, "ctr": ctr, "cvr": cvr}
