"""Features of treatments and of users between which effects are linear.

    phi(t)  powers and products of a treatment's numbers up to a degree, without the constant
    psi(x)  of a user: constant < linear < squares < pairs, each a prefix of the next

A prefix of psi's columns is a basis of its own, so that one matrix of sums serves the choice among all of them.
Shapes: R rows, T numbers of a treatment, J of phi; F features, P of psi; A arms.
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["constant", "linear", "squares", "pairs"]
KINDS: tuple[Kind, ...] = ("constant", "linear", "squares", "pairs")


@dataclass(frozen=True)
class TreatmentBasis:
    """phi(t) of t / scale."""

    scale_T: np.ndarray
    degree: int = 2

    @classmethod
    def of(cls, vectors_NT: np.ndarray, degree: int = 2) -> "TreatmentBasis":
        """Scaled so that the largest seen of each number is 1."""
        scale_T = np.abs(vectors_NT).max(0)
        return cls(np.where(scale_T > 0, scale_T, 1.0), degree)

    @property
    def products(self) -> list[tuple[int, ...]]:
        """Which numbers are multiplied, the lower degrees first."""
        numbers = range(len(self.scale_T))
        return [
            each
            for degree in range(1, self.degree + 1)
            for each in itertools.combinations_with_replacement(numbers, degree)
        ]

    def __call__(self, vectors_RT: np.ndarray) -> np.ndarray:
        """phi, (R, J) float64."""
        scaled_RT = vectors_RT / self.scale_T
        return np.stack([scaled_RT[:, list(each)].prod(1) for each in self.products], 1)


@dataclass(frozen=True)
class UserBasis:
    """psi(x) of standardised features; a missing one stands at the mean."""

    mean_F: np.ndarray
    std_F: np.ndarray
    kind: Kind = "linear"

    @classmethod
    def of(cls, x_RF: np.ndarray, kind: Kind = "linear") -> "UserBasis":
        with np.errstate(invalid="ignore"):
            known_RF = np.where(np.isnan(x_RF), 0.0, 1.0).sum(0)
            mean_F = np.nansum(x_RF, 0, dtype=np.float64) / np.maximum(known_RF, 1)
            square_F = np.nansum(np.square(x_RF - mean_F), 0, dtype=np.float64) / np.maximum(known_RF, 1)
        std_F = np.sqrt(square_F)
        return cls(mean_F, np.where(std_F > 0, std_F, 1.0), kind)

    def sizes(self) -> dict[str, int]:
        """How many columns each kind has: they are the first so many of the largest."""
        features = len(self.mean_F)
        return {
            "constant": 1,
            "linear": 1 + features,
            "squares": 1 + 2 * features,
            "pairs": 1 + 2 * features + features * (features - 1) // 2,
        }

    @property
    def size(self) -> int:
        return self.sizes()[self.kind]

    def __call__(self, x_RF: np.ndarray) -> np.ndarray:
        """psi, (R, P) float64."""
        z_RF = np.nan_to_num((x_RF - self.mean_F) / self.std_F, nan=0.0)
        columns = [np.ones((len(z_RF), 1))]
        if self.kind != "constant":
            columns.append(z_RF)
        if self.kind in ("squares", "pairs"):
            columns.append(z_RF * z_RF)
        if self.kind == "pairs":
            left, right = np.triu_indices(z_RF.shape[1], 1)
            columns.append(z_RF[:, left] * z_RF[:, right])
        return np.concatenate(columns, 1)


def kronecker(phi_RJ: np.ndarray, psi_RP: np.ndarray) -> np.ndarray:
    """Each row's products of phi with psi, (R, J * P)."""
    return (phi_RJ[:, :, None] * psi_RP[:, None, :]).reshape(len(phi_RJ), -1)
