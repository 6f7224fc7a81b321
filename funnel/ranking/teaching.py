"""The ranker as a teacher of earlier stages (funnel/tools.py: Teaching): calibrated probabilities of batches."""

from typing import Any

import torch
from torch import Tensor

from data.errors import UserError
from funnel.batch import Batch
from funnel.problem import Given
from funnel.ranking.calibration import Calibration
from models.hidden_cause import log_both


class RankerTeacher:
    """A finished ranker, held as it is; calibrated if its run is."""

    def __init__(self, run: Given) -> None:
        self.network: Any = run.network
        for task in ("ctr", "cvr"):
            if task not in getattr(run.network, "tasks", ()):
                raise UserError(f"{run.directory}: its model has no task {task!r}; a teacher says pCTR and pCTCVR")
        self.calibration = Calibration.load(run.directory, run.checksum)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.network(batch)
        if self.calibration is not None:
            logits = self.calibration.apply(dict(logits))
        both_B = log_both(logits).exp()
        return {"click": logits["ctr"].sigmoid().float(), "purchase": both_B.float()}


def teacher(run: Given) -> RankerTeacher:
    """Raises UserError for a model that predicts no clicks or conversions, or a damaged calibration."""
    return RankerTeacher(run)
