"""Propensities from click models that were trained before.

The CTR tower that learns beside CVR is as good as two epochs and one rate for everything make it, and in the first
steps it weighs clicks with what it does not know yet. A click model of its own may take the epochs, rates and width it
needs [two-stage inverse propensity scoring, as in Schnabel et al., ICML 2016, and MRDR, SIGIR 2021]. Several are
averaged, and those of `leave_out` weigh the rows they have not seen (folds.py). Shapes: M models, B rows.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from data.encode import Rows
from data.errors import UserError
from funnel.batch import Batch
from funnel.problem import Given
from funnel.ranking.calibration import Calibration
from funnel.ranking.counts import PROPENSITIES, predict
from funnel.ranking.folds import FOLD, LeftOut
from funnel.tools import GivenTo

MOST = 9
ROLES = (PROPENSITIES, *(f"{PROPENSITIES}-{number}" for number in range(2, MOST + 1)))
"""Of the finished runs that together are the click model."""


class ClickModel:
    """The CTR towers of finished runs, each calibrated if its run is, held as they are.

    Raises UserError if a run's model has no task "ctr", a calibration is damaged, or runs leave out folds of different
    numbers of folds.
    """

    def __init__(self, *runs: Given) -> None:
        self.networks: list[Any] = [run.network for run in runs]
        self.calibrators, self.left_out = [], list[LeftOut]()
        for run in runs:
            if "ctr" not in getattr(run.network, "tasks", ()):
                raise UserError(f"{run.directory}: its model predicts no clicks (it has no task 'ctr')")
            calibration = Calibration.load(run.directory, run.checksum)
            self.calibrators.append(calibration.tasks.get("ctr") if calibration else None)
            self.left_out.append(LeftOut.of(getattr(run.problem.settings, "leave_out", "")))
        counts = {left_out.folds for left_out in self.left_out} - {0}
        if len(counts) > 1:
            raise UserError(
                f"the click models leave out folds of {' and '.join(map(str, sorted(counts)))}: of one number"
            )
        self.folds = counts.pop() if counts else 0
        """Into how many folds users are dealt; 0: no model leaves out any."""

    @torch.no_grad()
    def logits(self, batch: Batch) -> Tensor:
        """Click logits of the batch's rows, float32 [B]."""
        return self.averaged(lambda network: network(batch)["ctr"], batch.labels.get(FOLD))

    def logits_of(self, rows: Rows, device: torch.device) -> Tensor:
        """The same of any number of encoded rows (with_folds), on the CPU."""
        fold_R = rows.labels.get(FOLD)
        fold = torch.from_numpy(fold_R) if fold_R is not None else None
        return self.averaged(lambda network: predict(network, rows, device)["ctr"], fold)

    def averaged(self, logits: Callable[[Any], Tensor], fold_B: Tensor | None) -> Tensor:
        """The mean logit over the models that were trained without a row's fold; over all, where there is no such."""
        pairs = zip(self.networks, self.calibrators, strict=True)
        found = [logits(network) if c is None else c.apply_logit(logits(network)) for network, c in pairs]
        if len(found) == 1:
            return found[0].float()
        logit_MB = torch.stack([logit_B.float() for logit_B in found])
        if not self.folds or fold_B is None:
            return logit_MB.mean(0)
        numbers_M1 = torch.tensor([[left_out.fold - 1] for left_out in self.left_out], device=fold_B.device)
        unseen_MB = (fold_B == numbers_M1).to(logit_MB)
        weight_MB = torch.where(unseen_MB.sum(0) > 0, unseen_MB, 1.0)
        return (logit_MB * weight_MB).sum(0) / weight_MB.sum(0)


def click_model_of(given: GivenTo) -> tuple[ClickModel | None, str]:
    """The click model that a finished training was given (None: it was given none), and why it cannot be had, if so:
    its runs may be gone or retrained by now."""
    try:
        runs = [run for run in map(given, ROLES) if run]
        return (ClickModel(*runs) if runs else None), ""
    except UserError as error:
        return None, f"the propensities of the training cannot be had ({error})"
