"""Sums of a part from which every figure by task and by space (all exposures, clicked ones) follows.

Truth, where the log has it, is joined here and nowhere else: no training step ever sees it.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from data.encode import Rows
from funnel.batch import Batch
from funnel.figures.binary import FIGURES, BinaryMetrics, PropensityHealth
from models.entire_space import EntireSpaceModel
from models.objectives.terms import product_logit

ROWS = 8192
NO_TRUTH = "the log has no truth: conversions of unclicked exposures are not observed"


@dataclass
class Evaluation:
    """Figures of ctr, cvr (clicked exposures; all exposures where truth is known) and ctcvr on one part."""

    clip: float
    spaces: dict[str, BinaryMetrics] = field(default_factory=dict)
    propensity: PropensityHealth = field(init=False)

    def __post_init__(self) -> None:
        self.propensity = PropensityHealth(self.clip)
        for space in ("ctr", "cvr.click", "ctcvr"):
            self.spaces.setdefault(space, BinaryMetrics())

    def add(
        self, logits: dict[str, Tensor], click_B: Tensor, conversion_B: Tensor, potential_B: Tensor | None = None
    ) -> None:
        clicked = click_B > 0.5
        self.spaces["ctr"].add(logits["ctr"], click_B)
        self.spaces["cvr.click"].add(logits["cvr"][clicked], conversion_B[clicked])
        self.spaces["ctcvr"].add(product_logit(logits["ctr"], logits["cvr"]), conversion_B)
        if potential_B is not None:
            self.spaces.setdefault("cvr.entire", BinaryMetrics()).add(logits["cvr"], potential_B)
        self.propensity.add(logits["ctr"], click_B)

    def merge(self, device: torch.device) -> None:
        for space in sorted(self.spaces):
            self.spaces[space].merge(device)
        self.propensity.merge(device)

    def figures(self) -> dict[str, Any]:
        """Flat: "ctr.auc", "cvr.entire.pcoc", "propensity.share_clipped", ... and "absent": {key: reason}."""
        figures: dict[str, Any] = {}
        absent: dict[str, str] = {}
        for space, metrics in self.spaces.items():
            here, missing = metrics.figures()
            figures |= {f"{space}.{name}": value for name, value in here.items()}
            absent |= {f"{space}.{name}": reason for name, reason in missing.items()}
        if "cvr.entire" not in self.spaces:
            absent |= {f"cvr.entire.{name}": NO_TRUTH for name in FIGURES}
        figures |= {f"propensity.{name}": value for name, value in self.propensity.figures().items()}
        if "ctr.ece" in figures:
            figures["propensity.ece"] = figures["ctr.ece"]
        return figures | {"absent": absent}

    def curves(self) -> dict[str, Any]:
        """What plots need: calibration groups by space, histogram of the inverse propensities."""
        return {
            "calibration": {space: metrics.calibration() for space, metrics in self.spaces.items()},
            "propensity": {**self.propensity.figures(), "weight_histogram": self.propensity.weight_histogram()},
        }


@torch.inference_mode()
def predict(model: EntireSpaceModel, rows: Rows, device: torch.device) -> dict[str, Tensor]:
    """Logits of encoded rows, on the CPU, in pieces of at most 8192 rows."""
    pieces: list[dict[str, Tensor]] = []
    for begin in range(0, len(rows), ROWS):
        batch = Batch.of(rows.take(slice(begin, begin + ROWS))).to(device)
        pieces.append({k: v.cpu() for k, v in model(batch.ids_BK, batch.numeric_BN, batch.bags).items()})
    return {task: torch.cat([piece[task] for piece in pieces]) for task in model.tasks}
