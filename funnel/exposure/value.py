"""What given shares are worth on logged rows: by a model of the outcome, and doubly robust.

    model          mean_r q(x_r, pi_r)
    doubly robust  the same + sum_r w_r (y_r - q(x_r, t_r)) / sum_r w_r,   w_r = K((t_r - pi_r)/h) / p(t_r | x_r)

with a Gaussian kernel K of the overlap's width and its density p of logged shares (overlap.py): rows that were shown
nearly what the policy would show them correct the model there. Kernels blur: the correction is of shares within some
h. Where a policy's shares are refused by the overlap floor the row is given `fallback`, the log's mean shares.
Shapes: R rows, K categories.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from funnel.exposure.overlap import Overlap
from funnel.exposure.shares import ShareRows
from funnel.figures.intervals import effective_size, interval

ESTIMATES = ("model", "doubly_robust")


@dataclass(frozen=True)
class Worth:
    """Each row's part of an estimate; `value` is their mean."""

    part_R: np.ndarray
    effective: float
    """Rows that the correction rests on; all rows for the model."""

    @property
    def value(self) -> float:
        return float(self.part_R.mean())


class Judge:
    """Rows that judge, with a model that did not see them."""

    def __init__(self, rows: ShareRows, predict: Any, overlap: Overlap, fallback_K: np.ndarray) -> None:
        self.rows, self.overlap, self.fallback_K, self.predict = rows, overlap, fallback_K, predict
        self.group_R = overlap.group(rows.features_RF)
        self.log_density_R = overlap.log_density(self.group_R, rows.shares_RK)
        self.residual_R = rows.outcome_R - predict(rows.features_RF, rows.shares_RK)

    def used(self, shares_RK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the shares that are given, whether the policy's were refused)."""
        refused_R = self.overlap.refused(self.group_R, shares_RK)
        return np.where(refused_R[:, None], self.fallback_K, shares_RK), refused_R

    def weights(self, shares_RK: np.ndarray) -> np.ndarray:
        """(R,) w of each row, up to a constant."""
        square_R = ((self.rows.shares_RK - shares_RK) ** 2).sum(axis=1)
        exponent_R = -square_R / (2 * self.overlap.width**2) - self.log_density_R
        return np.asarray(np.exp(exponent_R - exponent_R.max()))

    def worth(self, shares_RK: np.ndarray) -> dict[str, Worth]:
        """By both estimates, of shares that are given (after `used`)."""
        model_R = self.predict(self.rows.features_RF, shares_RK)
        weight_R = self.weights(shares_RK)
        correction = float((weight_R * self.residual_R).sum() / weight_R.sum())
        # the parts of a ratio's error, and its value once
        part_R = weight_R * (self.residual_R - correction) / weight_R.mean() + correction
        return {
            "model": Worth(model_R, float(len(model_R))),
            "doubly_robust": Worth(model_R + part_R, effective_size(weight_R)),
        }


def compare(judge: Judge, policies: Mapping[str, np.ndarray], own: str, rivals: tuple[str, ...]) -> dict[str, Any]:
    """{NAME.ESTIMATE[.low|.high], OWN.over.RIVAL.ESTIMATE[...], NAME.refused, NAME.effective}; intervals over rows."""
    figures: dict[str, Any] = {}
    worths = {}
    for name, shares_RK in policies.items():
        used_RK, refused_R = judge.used(shares_RK)
        worths[name] = judge.worth(used_RK)
        figures[f"{name}.refused"] = float(refused_R.mean())
        figures[f"{name}.effective"] = worths[name]["doubly_robust"].effective
        for estimate in ESTIMATES:
            figures |= ends(f"{name}.{estimate}", worths[name][estimate].part_R)
    for rival in rivals:
        for estimate in ESTIMATES:
            gap_R = worths[own][estimate].part_R - worths[rival][estimate].part_R
            figures |= ends(f"{own}.over.{rival}.{estimate}", gap_R)
    return figures


def ends(key: str, part_R: np.ndarray) -> dict[str, float]:
    value = float(part_R.mean())
    low, high = interval(value, (part_R - value) / len(part_R))
    return {key: value, f"{key}.low": low, f"{key}.high": high}
