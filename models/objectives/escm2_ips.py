"""ESCM2-IPS [Wang et al., ESCM2: Entire Space Counterfactual Multi-Task Model, SIGIR 2022, arXiv 2204.05125].

L = L_CTR + lambda_c L_CVR + lambda_g L_CTCVR
    L_CTR   = mean_D delta(o, q)
    L_CVR   = (1/|D|) sum_D o delta(r, p) / q~,   q~ = stop_gradient(max(q, clip))
    L_CTCVR = mean_D delta(c, q p)
"""

from torch import Tensor

from models.objectives.base import Labels, ObjectiveConfig
from models.objectives.propensity import inverse_propensity, resolve_clip
from models.objectives.terms import binary_cross_entropy, product_cross_entropy


class Escm2Ips:
    tasks: tuple[str, ...] = ("ctr", "cvr")

    def __init__(self, config: ObjectiveConfig, click_rate: float) -> None:
        self.clip = resolve_clip(config.clip, click_rate)
        self.lambda_c, self.lambda_g = config.lambda_c, config.lambda_g

    def __call__(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> dict[str, Tensor]:
        exposures = totals[0]
        ctr = labels.weigh(binary_cross_entropy(logits["ctr"], labels.click_B)).sum() / exposures
        delta_B = binary_cross_entropy(logits["cvr"], labels.conversion_B)
        weight_B = labels.click_B * inverse_propensity(logits["ctr"], self.clip)
        cvr = labels.weigh(weight_B * delta_B).sum() / exposures
        ctcvr_B = product_cross_entropy(logits["ctr"], logits["cvr"], labels.conversion_B)
        ctcvr = labels.weigh(ctcvr_B).sum() / exposures
        return {"loss": ctr + self.lambda_c * cvr + self.lambda_g * ctcvr, "ctr": ctr, "cvr": cvr, "ctcvr": ctcvr}
