"""The return of a policy on the simplex: what a model, a doubly robust estimate or the simulator says of it over users.

Users whose shares the overlap floor refuses are given the log's mean shares, so a policy gains nothing by going where
nobody was seen. Shapes: P candidates, D parameters, U users, F features, K categories.
"""

import hashlib
from typing import Any, ClassVar

import numpy as np

from funnel.exposure.outcome import OutcomeModel
from funnel.exposure.overlap import Overlap
from funnel.exposure.policy import SharePolicy
from funnel.exposure.shares import ShareRows
from funnel.exposure.simulation import value
from funnel.figures.intervals import effective_size


class ShareObjective:
    """es/objectives/base.py. `rows`: users that candidates are scored on, and whose residuals correct the model."""

    batch_pairs: ClassVar[int] = 1

    def __init__(
        self,
        estimate: str,
        policy: SharePolicy,
        rows: ShareRows,
        model: OutcomeModel | None,
        overlap: Overlap,
        users: int,
        smallest: float,
        seed: int,
    ) -> None:
        self.estimate, self.policy, self.rows, self.model = estimate, policy, rows, model
        self.overlap, self.users, self.smallest, self.seed = overlap, min(users, len(rows)), smallest, seed
        self.mean_F, self.scale_F = overlap.mean_F, overlap.scale_F
        self.standard_RF = self.standard(rows.features_RF)
        self.group_R = overlap.group(rows.features_RF)
        self.fallback_K = np.asarray(policy.start_K)
        self.scale = float(rows.outcome_R.std()) or 1.0
        if estimate == "doubly_robust":
            assert model is not None
            self.residual_R = rows.outcome_R - model.predict(rows.features_RF, rows.shares_RK)
            self.log_density_R = overlap.log_density(self.group_R, rows.shares_RK)

    def standard(self, features_RF: np.ndarray) -> np.ndarray:
        """Standardised features, missing ones at the mean."""
        return np.nan_to_num((features_RF - self.mean_F) / self.scale_F).clip(-10, 10)

    def initial(self) -> np.ndarray:
        return self.policy.initial(self.seed)

    def shares(self, theta_D: np.ndarray, features_RF: np.ndarray) -> np.ndarray:
        """What theta would give, (R, K)."""
        return self.policy.shares(theta_D, self.standard(features_RF))

    def given(self, theta_D: np.ndarray, features_RF: np.ndarray) -> np.ndarray:
        """What theta gives after the overlap floor, (R, K)."""
        shares_RK = self.shares(theta_D, features_RF)
        refused_R = self.overlap.refused(self.overlap.group(features_RF), shares_RK)
        return np.where(refused_R[:, None], self.fallback_K, shares_RK)

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        found = []
        for theta_D, seed in zip(theta_PD, seeds_P.tolist(), strict=True):
            some = np.random.default_rng(seed).integers(0, len(self.rows), self.users)
            found.append(self.worth(self.policy.shares(theta_D, self.standard_RF[some]), some))
        return np.array(found)

    def worth(self, shares_UK: np.ndarray, some_U: np.ndarray) -> float:
        """The estimated mean outcome of shares for these of the rows."""
        if self.estimate == "simulator":
            assert self.rows.best_RK is not None
            return float(value(shares_UK, self.rows.best_RK[some_U]).mean())
        assert self.model is not None
        refused_U = self.overlap.refused(self.group_R[some_U], shares_UK)
        shares_UK = np.where(refused_U[:, None], self.fallback_K, shares_UK)
        level = float(self.model.predict(self.rows.features_RF[some_U], shares_UK).mean())
        if self.estimate == "model":
            return level
        square_U = ((self.rows.shares_RK[some_U] - shares_UK) ** 2).sum(axis=1)
        exponent_U = -square_U / (2 * self.overlap.width**2) - self.log_density_R[some_U]
        weight_U = np.exp(exponent_U - exponent_U.max())
        missing = max(0.0, 1 - effective_size(weight_U) / self.smallest) if self.smallest else 0.0
        return level + float((weight_U * self.residual_R[some_U]).sum() / weight_U.sum()) - missing * self.scale

    def describe(self) -> dict[str, Any]:
        state = hashlib.sha256()
        rows = self.rows
        arrays = [rows.features_RF, rows.shares_RK, rows.outcome_R, *(self.model.weights if self.model else [])]
        for array in arrays:
            state.update(np.ascontiguousarray(array).data)
        return {
            "objective": "exposure",
            "estimate": self.estimate,
            "hidden": self.policy.hidden,
            "users": self.users,
            "smallest_size": self.smallest,
            "data": state.hexdigest()[:16],
        }
