"""Sums of a part from which every figure by task and space (all exposures, clicked ones) follows.

Truth, where the log has it, is joined here and nowhere else: no training step ever sees it.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from data.encode import Rows
from data.truth import Truth
from funnel.batch import Batch
from funnel.figures.binary import FIGURES, BinaryMetrics
from funnel.network import BatchNetwork
from funnel.problem import Outputs
from funnel.ranking.calibration import Calibration
from funnel.ranking.propensity_health import PropensityHealth
from models.hidden_cause import both_logit
from models.objectives.propensity import inverse_propensity

ROWS = 8192
PROPENSITIES = "propensities"
"""The role of a click model that gives the propensities."""
WEIGHTED = "cvr.weighted"
"""CVR over clicked exposures, each weighed by its inverse propensity: an estimate of the figures over all exposures."""
NO_TRUTH = "the log has no truth: conversions of unclicked exposures are not observed"


@dataclass
class RankingCounts:
    """Figures of ctr, cvr (clicked exposures; all exposures where truth is known) and ctcvr on one part."""

    clip: float
    calibration: Calibration | None = None
    """Applied to the logits before they are counted."""
    weighted: bool = False
    """Whether the log's rows have weights: every figure obeys them."""
    truth: Truth | None = None
    key: str | None = None
    """Column by which the truth is looked up."""
    click_model: bool = False
    """Whether the outputs hold click logits of a model of their own, which gave the training its propensities."""
    threshold: float | None = None
    """For precision, recall and F1 (funnel/figures/binary.py)."""
    weighs: bool = False
    """Whether the training weighs clicks: then its figures on weighed clicks are counted too."""
    spaces: dict[str, BinaryMetrics] = field(default_factory=dict)
    propensity: PropensityHealth = field(init=False)

    def __post_init__(self) -> None:
        self.propensity = PropensityHealth(self.clip)
        for space in ("ctr", "cvr.click", "ctcvr", *(("cvr.entire",) if self.truth else ())):
            self.spaces.setdefault(space, BinaryMetrics(self.weighted, threshold=self.threshold))
        if self.weighs:
            self.spaces.setdefault(WEIGHTED, BinaryMetrics(weighted=True, threshold=self.threshold))
        self.clicks = BinaryMetrics(self.weighted) if self.click_model else self.spaces["ctr"]

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.key,) if self.truth is not None and self.key else ()

    def add(self, outputs: Outputs, batch: Batch, table: pa.Table) -> None:
        """Count the rows of a table."""
        logits = dict(outputs) if self.calibration is None else self.calibration.apply(dict(outputs))
        click_B, conversion_B, weight_B = batch.labels["click"], batch.labels["conversion"], batch.weight_B
        clicked = click_B > 0.5
        self.spaces["ctr"].add(logits["ctr"], click_B, weight_B)
        weight_of_clicked_B = weight_B[clicked] if weight_B is not None else None
        self.spaces["cvr.click"].add(logits["cvr"][clicked], conversion_B[clicked], weight_of_clicked_B)
        self.spaces["ctcvr"].add(both_logit(logits), conversion_B, weight_B)
        if self.truth is not None:
            found = self.truth.lookup(table.column(self.key).to_numpy())
            potential_B = torch.from_numpy(self.truth.potential_R[found].astype(np.float32))
            self.spaces["cvr.entire"].add(logits["cvr"], potential_B, weight_B)
        # What weighs the clicks: the given click model, else the CTR tower as it is in training, not calibrated.
        weighing_B = outputs[PROPENSITIES] if self.click_model else outputs["ctr"]
        self.propensity.add(weighing_B, click_B, weight_B)
        if self.weighs:
            inverse_B = inverse_propensity(weighing_B[clicked].double(), self.clip)
            counted_B = inverse_B if weight_of_clicked_B is None else inverse_B * weight_of_clicked_B
            self.spaces[WEIGHTED].add(logits["cvr"][clicked], conversion_B[clicked], counted_B)
        if self.click_model:
            self.clicks.add(weighing_B, click_B, weight_B)

    def sums(self) -> list[Tensor]:
        binary = [tensor for space in sorted(self.spaces) for tensor in self.spaces[space].sums()]
        return [*binary, *self.propensity.sums(), *(self.clicks.sums() if self.click_model else [])]

    def peaks(self) -> list[Tensor]:
        return self.propensity.peaks()

    def figures(self) -> dict[str, Any]:
        """Flat: "ctr.auc", "cvr.entire.pcoc", "propensity.share_clipped", ... and "absent": {key: reason}."""
        figures, absent = space_figures(self.spaces)
        if "cvr.entire" not in self.spaces:
            absent |= {f"cvr.entire.{name}": NO_TRUTH for name in FIGURES}
        figures |= {f"propensity.{name}": value for name, value in self.propensity.figures().items()}
        if self.clicks.count and "ctr.ece" in figures:
            figures["propensity.ece"] = self.clicks.ece() if self.click_model else figures["ctr.ece"]
        return figures | {"absent": absent}

    def curves(self) -> dict[str, Any]:
        """What plots need: calibration groups by space, histogram of the inverse propensities."""
        return {
            "calibration": {space: metrics.calibration() for space, metrics in self.spaces.items()},
            "propensity": {**self.propensity.figures(), "weight_histogram": self.propensity.weight_histogram()},
        }


def space_figures(spaces: dict[str, BinaryMetrics]) -> tuple[dict[str, Any], dict[str, str]]:
    """({"ctr.auc": ...}, {"ctr.ks": reason}) of all spaces."""
    figures: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for space, metrics in spaces.items():
        here, missing = metrics.figures()
        figures |= {f"{space}.{name}": value for name, value in here.items()}
        absent |= {f"{space}.{name}": reason for name, reason in missing.items()}
    return figures, absent


@torch.inference_mode()
def predict(network: BatchNetwork, rows: Rows, device: torch.device) -> dict[str, Tensor]:
    """Logits of encoded rows, on the CPU, in pieces of at most 8192 rows."""
    pieces: list[dict[str, Tensor]] = []
    for begin in range(0, len(rows), ROWS):
        batch = Batch.of(rows.take(slice(begin, begin + ROWS))).to(device)
        pieces.append({task: logit_B.cpu() for task, logit_B in network(batch).items()})
    return {task: torch.cat([piece[task] for piece in pieces]) for task in network.says}
