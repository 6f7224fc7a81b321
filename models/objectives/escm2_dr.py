"""ESCM2-DR [Wang et al., SIGIR 2022, arXiv 2204.05125]: the doubly robust CVR term, with an imputation tower.

L_CVR = (1/|D|) sum_D [ d^ + o (delta(r, p) - d^) / q~ ]
L_imp = (1/|D|) sum_D o (delta(r, p) - d^)^2 / q~        (delta held constant: it trains the imputation only)
L     = lambda_ctr L_CTR + lambda_c L_CVR + lambda_imp L_imp + lambda_g L_CTCVR

L_imp is a mean of squares with weights 1/q~: in the embedding and the experts its gradient can be hundreds of times
that of L_CTR. It ends in the imputation tower unless `imputation_gradient: shared`.
imputation = "error" (the paper): d^ = softplus(imputation logit), which may exceed 1 as delta does, and is held
constant in L_CVR, or L_CVR would drive it to 0 on unclicked rows. Its value is doubly robust; its gradient in the CVR
tower is then exactly that of IPS, and what differs is what the imputation task teaches the shared layers.
imputation = "label": the tower predicts the potential conversion, r^ = sigmoid(imputation logit), and d^ = delta(r^, p)
with r^ held constant: unclicked rows pull p towards r^, the doubly robust gradient [Wang et al., ICML 2019].
alternate_every = n: L_imp alone for n steps, L_CVR alone for n, and so on, as that paper trains the two; a tower whose
loss rests is not touched.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from models.objectives.base import EXPOSURES, Labels, Objective
from models.objectives.terms import binary_cross_entropy


class Escm2Dr(Objective):
    takes_delays = True
    uses_propensities = True
    tasks = ("ctr", "cvr", "imputation")

    def __call__(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> dict[str, Tensor]:
        ctr, ctcvr = self.ctr(logits, labels, totals), self.ctcvr(logits, labels, totals)
        cvr_B, imputation_B = self.own(logits, "cvr"), self.own(logits, "imputation")
        delta_B = self.conversion_loss(logits, labels)
        weight_B = labels.click_B * self.inverse_propensity(logits, labels)
        if self.config.imputation == "label":
            label_B = imputation_B.sigmoid()
            constant_B = binary_cross_entropy(cvr_B, label_B.detach())
            trained_B = binary_cross_entropy(cvr_B.detach(), label_B)
        else:
            trained_B = softplus(imputation_B)
            constant_B = trained_B.detach()
        cvr = labels.weigh(constant_B + weight_B * (delta_B - constant_B)).sum() / totals[EXPOSURES]
        error_B = self.imputation_weight(weight_B) * (delta_B.detach() - trained_B).square()
        imputation = labels.weigh(error_B).sum() / totals[EXPOSURES]
        turn = self.turn()
        loss = self.combine(ctr, cvr if "cvr" in turn else torch.zeros_like(cvr), ctcvr)
        if "imputation" in turn:
            loss = loss + self.weight("imp") * imputation
        return {"loss": loss, "ctr": ctr, "cvr": cvr, "imputation": imputation, "ctcvr": ctcvr}

    def imputation_weight(self, weight_B: Tensor) -> Tensor:
        """From o/q~, how much a row counts in L_imp."""
        return weight_B

    def turn(self) -> tuple[str, ...]:
        """Which of the two terms are differentiated at this step; the imputation begins."""
        every = self.config.alternate_every
        if every == 0:
            return "cvr", "imputation"
        return ("cvr",) if self.step // every % 2 else ("imputation",)
