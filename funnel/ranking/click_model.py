"""Propensities from a click model that was trained before.

The CTR tower that learns beside CVR is as good as two epochs and one rate for everything make it, and in the first
steps it weighs clicks with what it does not know yet. A click model of its own may take the epochs, rates and width it
needs [two-stage inverse propensity scoring, as in Schnabel et al., ICML 2016, and MRDR, SIGIR 2021].
"""

from typing import Any

import torch
from torch import Tensor

from data.encode import Rows
from data.errors import UserError
from funnel.batch import Batch
from funnel.problem import Given
from funnel.ranking.calibration import Calibration
from funnel.ranking.counts import PROPENSITIES, predict
from funnel.tools import GivenTo


class ClickModel:
    """The CTR tower of a finished run, calibrated if the run is, held as it is.

    Raises UserError if the run's model has no task "ctr", or its calibration is damaged.
    """

    def __init__(self, run: Given) -> None:
        self.network: Any = run.network
        if "ctr" not in getattr(run.network, "tasks", ()):
            raise UserError(f"{run.directory}: its model predicts no clicks (it has no task 'ctr')")
        calibration = Calibration.load(run.directory, run.checksum)
        self.calibrator = calibration.tasks.get("ctr") if calibration else None

    @torch.no_grad()
    def logits(self, batch: Batch) -> Tensor:
        """Click logits of the batch's rows, float32 [B]."""
        return self.calibrated(self.network(batch)["ctr"])

    def logits_of(self, rows: Rows, device: torch.device) -> Tensor:
        """The same of any number of encoded rows, on the CPU."""
        return self.calibrated(predict(self.network, rows, device)["ctr"])

    def calibrated(self, logit_B: Tensor) -> Tensor:
        return (logit_B if self.calibrator is None else self.calibrator.apply_logit(logit_B)).float()


def click_model_of(given: GivenTo) -> tuple[ClickModel | None, str]:
    """The click model that a finished training was given (None: it was given none), and why it cannot be had, if so:
    its run may be gone or retrained by now."""
    try:
        run = given(PROPENSITIES)
        return (ClickModel(run) if run else None), ""
    except UserError as error:
        return None, f"the propensities of the training cannot be had ({error})"
