"""DCMT [Zhu et al., A Direct Entire-Space Causal Multi-Task Framework for Post-Click Conversion, ICDE 2023].

L      = lambda_ctr L_CTR + lambda_c L_DCMT + lambda_g L_CTCVR
L_DCMT = mean_D o delta(r, p) / q~  +  mean_D (1 - o) delta(1, p*) / (1 - q)~  +  constraint mean_D |1 - (p + p*)|

p* is a second CVR tower's "counterfactual" conversion: on unclicked exposures, where no conversion was seen, its label
is 1. Clicked rows count 1/q~, unclicked ones 1/(1 - q)~, both clipped and held constant. The prior p + p* = 1 is what
carries anything from unclicked rows to p. The paper also offers self-normalised weights; these are the plain ones.
"""

from torch import Tensor

from models.objectives.base import EXPOSURES, Labels, Objective
from models.objectives.propensity import inverse_propensity
from models.objectives.terms import binary_cross_entropy


class Dcmt(Objective):
    tasks = ("ctr", "cvr", "counterfactual")

    def __call__(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> dict[str, Tensor]:
        ctr, ctcvr = self.ctr(logits, labels, totals), self.ctcvr(logits, labels, totals)
        clicked_B = labels.click_B * inverse_propensity(logits["ctr"], self.clip)
        unclicked_B = (1 - labels.click_B) * inverse_propensity(-logits["ctr"], self.clip)
        factual_B = clicked_B * binary_cross_entropy(logits["cvr"], labels.conversion_B)
        counterfactual_B = unclicked_B * binary_cross_entropy(logits["counterfactual"], 1 - labels.conversion_B)
        prior_B = (1 - logits["cvr"].sigmoid() - logits["counterfactual"].sigmoid()).abs()
        cvr = labels.weigh(factual_B).sum() / totals[EXPOSURES]
        counterfactual = labels.weigh(counterfactual_B).sum() / totals[EXPOSURES]
        prior = labels.weigh(prior_B).sum() / totals[EXPOSURES]
        loss = self.combine(ctr, cvr + counterfactual + self.config.constraint * prior, ctcvr)
        terms = {"ctr": ctr, "cvr": cvr, "counterfactual": counterfactual, "prior": prior, "ctcvr": ctcvr}
        return {"loss": loss, **terms}
