"""Propensities from a click model that was trained before.

The CTR tower that learns beside CVR is as good as two epochs and one rate for everything make it, and in the first
steps it weighs clicks with what it does not know yet. A click model of its own may take the epochs, rates and width it
needs [two-stage inverse propensity scoring, as in Schnabel et al., ICML 2016, and MRDR, SIGIR 2021].
"""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from distributed.finished_run import load_run
from funnel.batch import Batch
from models.objectives.base import Labels


class ClickModel:
    """The CTR tower of a finished run, calibrated if the run is, held as it is.

    Raises ValueError if the run is not finished, or its model is damaged or has no CTR.
    """

    def __init__(self, run: Path, device: torch.device) -> None:
        trained = load_run(run)
        self.model = trained.model.to(device)
        self.calibrator = trained.calibration.tasks.get("ctr") if trained.calibration else None

    @torch.no_grad()
    def logits(self, batch: Batch) -> Tensor:
        """Click logits of the batch's rows, float32 [B]."""
        logit_B = self.model(batch.ids_BK, batch.numeric_BN, batch.bags)["ctr"]
        return (logit_B if self.calibrator is None else self.calibrator.apply_logit(logit_B)).float()

    def told(self, batch: Batch) -> Labels:
        """The batch's labels with these propensities."""
        return dataclasses.replace(batch.labels, click_logit_B=self.logits(batch))
