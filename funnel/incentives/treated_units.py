"""Treated rows as what is shuffled, dealt out and batched (funnel/problem.py: Units), and the figures over a part.

Shapes: R or B rows, N features, A arms, K bins of a score.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from funnel.batch import tensor
from funnel.problem import Outputs

BINS, REACH = 64, 3.0
"""Bins of effects between -REACH and REACH standard deviations of the outcome."""


@dataclass(frozen=True)
class TreatedBatch:
    """x, the arm each row got, and its outcome (standardised)."""

    numeric_BN: Tensor
    arm_B: Tensor
    outcome_B: Tensor

    def __len__(self) -> int:
        return len(self.arm_B)

    def to(self, device: torch.device) -> "TreatedBatch":
        return TreatedBatch(self.numeric_BN.to(device), self.arm_B.to(device), self.outcome_B.to(device))


@dataclass(frozen=True)
class TreatedUnits:
    x_RN: np.ndarray
    arm_R: np.ndarray
    outcome_R: np.ndarray

    def __len__(self) -> int:
        return len(self.arm_R)

    def take(self, index: np.ndarray | slice) -> "TreatedUnits":
        return TreatedUnits(self.x_RN[index], self.arm_R[index], self.outcome_R[index])

    @classmethod
    def join(cls, parts: Sequence["TreatedUnits"]) -> "TreatedUnits":
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("x_RN", "arm_R",
                                                                                        "outcome_R")))  # fmt: skip

    def batch(self) -> TreatedBatch:
        return TreatedBatch(tensor(self.x_RN), tensor(self.arm_R), tensor(self.outcome_R))


@dataclass
class EffectCounts:
    """Sums over a part: errors of the factual outcomes, calibration by arm, outcomes by bin of the predicted effect.

    Effects are ordered by bins, so that sums of workers add up: within a bin the order is left to chance.
    """

    arms: int
    scale: float
    """Standard deviation of the outcome: errors are given in its units."""
    columns: tuple[str, ...] = ()
    errors_2: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    """Rows, squared errors."""
    by_arm_A3: Tensor = field(init=False)
    """Rows, outcomes, predictions of each arm."""
    bins_AK4: Tensor = field(init=False)
    """Of each arm but the first: rows and outcomes of the arm and of arm 0, by bin of the arm's predicted effect."""

    def __post_init__(self) -> None:
        self.by_arm_A3 = torch.zeros(self.arms, 3, dtype=torch.float64)
        self.bins_AK4 = torch.zeros(max(self.arms - 1, 1), BINS, 4, dtype=torch.float64)

    def add(self, outputs: Outputs, batch: TreatedBatch, table: pa.Table) -> None:
        outcome_BA, y_B, arm_B = outputs["outcome"].double(), batch.outcome_B.double(), batch.arm_B
        own_B = outcome_BA.gather(1, arm_B.unsqueeze(1)).squeeze(1)
        self.errors_2 += torch.tensor([float(len(y_B)), float((own_B - y_B).square().sum())], dtype=torch.float64)
        self.by_arm_A3.index_add_(0, arm_B, torch.stack([torch.ones_like(y_B), y_B, own_B], 1))
        effect_BA = outcome_BA - outcome_BA[:, :1]
        place_BA = ((effect_BA / REACH + 1) / 2 * BINS).long().clamp(0, BINS - 1)
        for arm in range(1, self.arms):
            for side, which_B in enumerate((arm_B == arm, arm_B == 0)):
                place = place_BA[which_B, arm]
                bins_K4 = self.bins_AK4[arm - 1]
                bins_K4[:, 2 * side] += torch.bincount(place, minlength=BINS).double()
                bins_K4[:, 2 * side + 1] += torch.bincount(place, y_B[which_B], minlength=BINS)

    def sums(self) -> list[Tensor]:
        return [self.errors_2, self.by_arm_A3, self.bins_AK4]

    def peaks(self) -> list[Tensor]:
        return []

    def figures(self) -> dict[str, Any]:
        """outcome.rmse, outcome.ece (mean absolute difference of mean outcome and prediction over arms, by rows),
        auuc.A of each arm against arm 0, and auuc, their mean; in units of the outcome. Between arms that were not
        drawn evenly AUUC mixes effect and choice."""
        rows, squares = self.errors_2.tolist()
        if not rows:
            return {"rows": 0, "absent": dict.fromkeys(("outcome.rmse", "outcome.ece", "auuc"), "no rows")}
        _, outcome_A, predicted_A = self.by_arm_A3.T
        figures: dict[str, Any] = {
            "rows": int(rows),
            "outcome.rmse": self.scale * (squares / rows) ** 0.5,
            "outcome.ece": self.scale * float((outcome_A - predicted_A).abs().sum()) / rows,
        }
        absent, found = {}, []
        for arm in range(1, self.arms):
            area = binned_auuc(self.bins_AK4[arm - 1].numpy())
            if area is None:
                absent[f"auuc.{arm}"] = "no row of the arm or of arm 0"
            else:
                figures[f"auuc.{arm}"] = self.scale * area
                found.append(self.scale * area)
        if found:
            figures["auuc"] = float(np.mean(found))
        else:
            absent["auuc"] = "no arm can be compared with arm 0"
        return figures | {"absent": absent}

    def curves(self) -> dict[str, Any]:
        return {}


def binned_auuc(bins_K4: np.ndarray) -> float | None:
    """Area between the uplift curve and the straight line, from rows and outcomes of both sides by bin of the score;
    None where a side has no rows. The curve rises by a bin's outcomes over each side's rows in all, as weights of one
    even draw have it."""
    treated_K, gained_K, control_K, lost_K = bins_K4[::-1].T
    treated, control = treated_K.sum(), control_K.sum()
    if not treated or not control:
        return None
    # Each side's own mean is kept: a bin with more of the treated by chance would move the curve otherwise.
    overall = (gained_K.sum() + lost_K.sum()) / (treated + control)
    rise_K = (gained_K - overall * treated_K) / treated - (lost_K - overall * control_K) / control
    share_K = np.cumsum(treated_K + control_K) / (treated + control)
    height_K = np.cumsum(rise_K)
    x, y = np.append(0.0, share_K), np.append(0.0, height_K)
    return float(np.trapezoid(y, x) - height_K[-1] / 2)
