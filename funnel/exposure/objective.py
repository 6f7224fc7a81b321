"""The return of a policy on the simplex: what a model, a doubly robust estimate or the simulator says of it over users.

Users whose shares the overlap floor refuses are given the log's mean shares, so a policy gains nothing by going where
nobody was seen. All candidates of a call are scored in one product a layer, in float32 on one thread: the engine cuts
calls alike for any number of workers, so returns are the same bits. The doubly robust correction is over the first
`correcting` rows, always the same, the model's level over users drawn anew for each evaluation.
Shapes: C candidates, D parameters, U users, N rows that correct, F features, K categories.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from funnel.exposure.outcome import OutcomeModel, one_thread
from funnel.exposure.overlap import Overlap
from funnel.exposure.policy import SharePolicy
from funnel.exposure.shares import ShareRows

PIECE = 16_384
"""Rows that the model and the floor see at a time: what they hold of them stays small."""


class ShareObjective:
    """es/objectives/base.py. `rows`: users that candidates are scored on, and whose residuals correct the model."""

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
        correcting: int = 4000,
    ) -> None:
        self.estimate, self.policy, self.rows, self.model = estimate, policy, rows, model
        self.overlap, self.users, self.smallest, self.seed = overlap, min(users, len(rows)), smallest, seed
        self.mean_F, self.scale_F = overlap.mean_F, overlap.scale_F
        self.fallback_K = np.asarray(policy.start_K)
        self.scale = float(rows.outcome_R.std()) or 1.0
        self.standard_RF = torch.from_numpy(self.standard(rows.features_RF)).float()
        group_R = overlap.group(rows.features_RF)
        self.group_R, self.kernels = torch.from_numpy(group_R), overlap.tensors()
        self.fallback = torch.from_numpy(self.fallback_K).float()
        if estimate == "simulator":
            assert rows.best_RK is not None
            self.best_RK = torch.from_numpy(rows.best_RK).float()
            return
        assert model is not None
        self.weights, self.user_RF = model.tensors(), model.users(rows.features_RF)
        self.centre_K = torch.from_numpy(model.centre_K).float()
        self.spread_K = torch.from_numpy(model.scale_K).float()
        if estimate == "doubly_robust":
            few = slice(0, correcting)
            features_NF, shares_NK = rows.features_RF[few], rows.shares_RK[few]
            self.residual_N = torch.from_numpy(rows.outcome_R[few] - model.predict(features_NF, shares_NK)).float()
            self.log_density_N = torch.from_numpy(overlap.log_density(group_R[few], shares_NK)).float()
            self.shares_NK = torch.from_numpy(shares_NK).float()

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
        users = [np.random.default_rng(seed).integers(0, len(self.rows), self.users) for seed in seeds_P.tolist()]
        some_CU, theta_CD = torch.from_numpy(np.stack(users)), torch.from_numpy(np.array(theta_PD, np.float32))
        with one_thread(), torch.inference_mode():
            worth_C = self.level(self.policy.of_candidates(theta_CD, self.standard_RF[some_CU]), some_CU)
            if self.estimate == "doubly_robust":
                corrected_1NF = self.standard_RF[None, : len(self.residual_N)]
                for candidate, theta_1D in enumerate(theta_CD[:, None]):
                    worth_C[candidate] += self.correction(self.policy.of_candidates(theta_1D, corrected_1NF)[0])
            return worth_C.numpy()

    def worth_of_constant(self, shares_K: np.ndarray, some_U: np.ndarray) -> float:
        """The estimate where everybody gets the same shares."""
        shares = torch.from_numpy(shares_K).float()
        some_1U = torch.from_numpy(some_U)[None]
        with one_thread(), torch.inference_mode():
            found = float(self.level(shares.expand(1, len(some_U), -1), some_1U)[0])
            if self.estimate == "doubly_robust":
                found += float(self.correction(shares.expand(len(self.residual_N), -1)))
        return found

    def level(self, shares_CUK: Tensor, some_CU: Tensor) -> Tensor:
        """(C,) float64: the mean outcome by the model, or by the simulator, of shares for these of the rows."""
        candidates, users, categories = shares_CUK.shape
        if self.estimate == "simulator":
            best_CUK = self.best_RK[some_CU]
            gain_CU = best_CUK.square().sum(2) - (shares_CUK - best_CUK).abs().sum(2)
            return gain_CU.double().mean(1)
        found, model = list[Tensor](), self.model
        assert model is not None
        some_N, shares_NK = some_CU.reshape(-1), shares_CUK.reshape(-1, categories)
        for some, shares in zip(some_N.split(PIECE), shares_NK.split(PIECE), strict=True):
            given = self.after_floor(shares, self.group_R[some])
            dose = (given - self.centre_K) / self.spread_K
            found.append(model.forward(self.user_RF[some], dose, self.weights))
        return torch.cat(found).view(candidates, users).double().mean(1)

    def after_floor(self, shares_NK: Tensor, group_N: Tensor) -> Tensor:
        """The shares, and the log's mean ones where nobody like the user was seen with anything like them."""
        refused_N = self.overlap.refused_fast(group_N, shares_NK, self.kernels)
        return torch.where(refused_N[:, None], self.fallback, shares_NK)

    def correction(self, shares_NK: Tensor) -> float:
        """What rows that were shown nearly such shares add to the model, less a penalty where they are few."""
        given_NK = self.after_floor(shares_NK, self.group_R[: len(shares_NK)])
        square_N = (self.shares_NK - given_NK).square().sum(1)
        exponent_N = -square_N / (2 * self.overlap.width**2) - self.log_density_N
        weight_N = (exponent_N - exponent_N.max()).exp().double()
        size = float(weight_N.sum() ** 2 / weight_N.square().sum())
        missing = max(0.0, 1 - size / self.smallest) if self.smallest else 0.0
        return float((weight_N * self.residual_N).sum() / weight_N.sum()) - missing * self.scale

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
            "correcting": len(self.residual_N) if self.estimate == "doubly_robust" else 0,
            "data": state.hexdigest()[:16],
        }
