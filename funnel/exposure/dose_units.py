"""Rows with a dose, or with all shares, as what is shuffled, dealt out and batched (funnel/problem.py: Units).

Shapes: R rows of units, B rows of a batch, N numeric features; K categories,
where the dose is the vector of all shares: dose_B is then (B, K), dose_R (R, K), as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from funnel.batch import tensor

BEYOND = 0.02
"""How far outside the trained range of doses a row may lie, as a share of the range: it counts as the end."""


@dataclass(frozen=True)
class DoseBatch:
    """Features; the dose in [0, 1] and the outcome, both scaled; row ids are of no use to anybody."""

    numeric_BN: Tensor
    dose_B: Tensor
    outcome_B: Tensor

    def __len__(self) -> int:
        return len(self.dose_B)

    def to(self, device: torch.device) -> "DoseBatch":
        if device.type == "cpu":
            return self
        moved = {name: getattr(self, name).to(device) for name in ("numeric_BN", "dose_B", "outcome_B")}
        return replace(self, **moved)


@dataclass(frozen=True)
class DoseUnits:
    numeric_RN: np.ndarray
    """float32, NaN where missing."""
    dose_R: np.ndarray
    """float32, of the range that training saw: 0 its lowest, 1 its highest. Rows further beyond than BEYOND are in no
    figure."""
    outcome_R: np.ndarray
    """float32, in standard deviations of the training part from its mean."""

    def __len__(self) -> int:
        return len(self.dose_R)

    def take(self, index: np.ndarray | slice) -> "DoseUnits":
        return DoseUnits(self.numeric_RN[index], self.dose_R[index], self.outcome_R[index])

    @classmethod
    def join(cls, parts: Sequence["DoseUnits"]) -> "DoseUnits":
        def joined(name: str) -> np.ndarray:
            return np.concatenate([getattr(part, name) for part in parts])

        return cls(joined("numeric_RN"), joined("dose_R"), joined("outcome_R"))

    def batch(self) -> DoseBatch:
        return DoseBatch(tensor(self.numeric_RN), tensor(self.dose_R), tensor(self.outcome_R))
