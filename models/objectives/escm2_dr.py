"""ESCM2-DR [Wang et al., SIGIR 2022, arXiv 2204.05125]: the doubly robust CVR term, with an imputation tower.

L_CVR = (1/|D|) sum_D [ d^ + o (delta(r, p) - d^) / q~ ]
L_imp = (1/|D|) sum_D o (delta(r, p) - d^)^2 / q~        (delta held constant: it trains the imputation only)
L     = L_CTR + lambda_c (L_CVR + L_imp) + lambda_g L_CTCVR

imputation = "error" (the paper): d^ = softplus(imputation logit), which may exceed 1 as delta does, and is held
constant in L_CVR, or L_CVR would drive it to 0 on unclicked rows. Its value is doubly robust; its gradient in the CVR
tower is then exactly that of IPS, and what differs is what the imputation task teaches the shared layers.
imputation = "label": the tower predicts the potential conversion, r^ = sigmoid(imputation logit), and d^ = delta(r^, p)
with r^ held constant: unclicked rows pull p towards r^, the doubly robust gradient [Wang et al., ICML 2019].
"""

from torch import Tensor
from torch.nn.functional import softplus

from models.objectives.base import Labels, ObjectiveConfig
from models.objectives.propensity import inverse_propensity, resolve_clip
from models.objectives.terms import binary_cross_entropy, product_cross_entropy


class Escm2Dr:
    tasks: tuple[str, ...] = ("ctr", "cvr", "imputation")

    def __init__(self, config: ObjectiveConfig, click_rate: float) -> None:
        self.clip = resolve_clip(config.clip, click_rate)
        self.lambda_c, self.lambda_g = config.lambda_c, config.lambda_g
        self.imputes_label = config.imputation == "label"

    def __call__(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> dict[str, Tensor]:
        exposures = totals[0]
        ctr = labels.weigh(binary_cross_entropy(logits["ctr"], labels.click_B)).sum() / exposures

        delta_B = binary_cross_entropy(logits["cvr"], labels.conversion_B)
        weight_B = labels.click_B * inverse_propensity(logits["ctr"], self.clip)
        if self.imputes_label:
            label_B = logits["imputation"].sigmoid()
            constant_B = binary_cross_entropy(logits["cvr"], label_B.detach())
            trained_B = binary_cross_entropy(logits["cvr"].detach(), label_B)
        else:
            trained_B = softplus(logits["imputation"])
            constant_B = trained_B.detach()
        cvr = labels.weigh(constant_B + weight_B * (delta_B - constant_B)).sum() / exposures
        imputation = labels.weigh(weight_B * (delta_B.detach() - trained_B).square()).sum() / exposures

        ctcvr_B = product_cross_entropy(logits["ctr"], logits["cvr"], labels.conversion_B)
        ctcvr = labels.weigh(ctcvr_B).sum() / exposures
        loss = ctr + self.lambda_c * (cvr + imputation) + self.lambda_g * ctcvr
        return {"loss": loss, "ctr": ctr, "cvr": cvr, "imputation": imputation, "ctcvr": ctcvr}
