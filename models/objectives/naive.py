"""Naive: CTR over exposures, CVR over clicked exposures only. L = mean_D delta(o, q) + mean_O delta(r, p)."""

from torch import Tensor

from models.objectives.base import Labels, ObjectiveConfig
from models.objectives.propensity import resolve_clip
from models.objectives.terms import binary_cross_entropy


class Naive:
    tasks: tuple[str, ...] = ("ctr", "cvr")

    def __init__(self, config: ObjectiveConfig, click_rate: float) -> None:
        self.clip = resolve_clip(config.clip, click_rate)

    def __call__(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> dict[str, Tensor]:
        exposures, clicks = totals[0], totals[1].clamp(min=1e-12)
        ctr = labels.weigh(binary_cross_entropy(logits["ctr"], labels.click_B)).sum() / exposures
        delta_B = binary_cross_entropy(logits["cvr"], labels.conversion_B)
        cvr = labels.weigh(labels.click_B * delta_B).sum() / clicks
        return {"loss": ctr + cvr, "ctr": ctr, "cvr": cvr}
