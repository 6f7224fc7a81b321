"""ESMM [Ma et al., Entire Space Multi-Task Model, SIGIR 2018]: L = mean_D delta(o, q) + mean_D delta(c, q p).

pCVR is only implied: no term looks at it alone, which is where its over-estimation comes from.
"""

from torch import Tensor

from models.objectives.base import Labels, ObjectiveConfig
from models.objectives.propensity import resolve_clip
from models.objectives.terms import binary_cross_entropy, product_cross_entropy


class Esmm:
    tasks: tuple[str, ...] = ("ctr", "cvr")

    def __init__(self, config: ObjectiveConfig, click_rate: float) -> None:
        self.clip = resolve_clip(config.clip, click_rate)

    def __call__(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> dict[str, Tensor]:
        exposures = totals[0]
        ctr = labels.weigh(binary_cross_entropy(logits["ctr"], labels.click_B)).sum() / exposures
        ctcvr_B = product_cross_entropy(logits["ctr"], logits["cvr"], labels.conversion_B)
        ctcvr = labels.weigh(ctcvr_B).sum() / exposures
        return {"loss": ctr + ctcvr, "ctr": ctr, "ctcvr": ctcvr}
