"""Which shares the log has seen for whom: the density of logged shares near a user's, and its floor.

Users are divided by k-means on their features; in each group the density of shares is a mean of Gaussian kernels around
logged rows of that group [Parzen]. Shares are refused where the density lies below that of all but a small part of the
logged rows themselves (each left out of its own density): nobody like this user was shown anything like it. A kernel
needs no shape of the simplex and stands zeros, of which real shares are full.

Shapes: R rows, F features, K categories, G groups, M kernels of a group.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from data.errors import UserError
from funnel.exposure.shares import ShareRows

PIECE = 2048


@dataclass(frozen=True)
class OverlapSettings:
    user_groups: int = 8
    """Groups of users that are alike."""
    kernels: int = 128
    """Logged rows of a group that its density is made of."""
    width: float = 2.0
    """Of the kernels, in Silverman's widths. One suits the density itself; weights of 1/density then hang on the few
    rows that lie farthest out (of 6,700 rows of the paper's simulation the best shares' correction rests on 4, with 2
    on 147)."""
    floor: float = 0.01
    """Shares are refused where the density is below that of all but this part of the logged rows; 0 refuses none."""

    def __post_init__(self) -> None:
        for name in ("user_groups", "kernels"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 1")
        if not 0 < self.width < np.inf:
            raise UserError(f"width is {self.width}, must be a finite number above 0")
        if not 0 <= self.floor < 1:
            raise UserError(f"floor is {self.floor}, must be at least 0 and below 1")


@dataclass(frozen=True)
class Overlap:
    centre_GF: np.ndarray
    mean_F: np.ndarray
    scale_F: np.ndarray
    kernels: tuple[np.ndarray, ...]
    """Of each group (M, K)."""
    width: float
    floor_G: np.ndarray
    """The log density under which shares are refused."""

    @classmethod
    def fit(cls, rows: ShareRows, settings: OverlapSettings, seed: int) -> "Overlap":
        random = np.random.default_rng([seed, 11])
        with np.errstate(invalid="ignore"):
            mean_F = np.nan_to_num(np.nanmean(rows.features_RF, axis=0))
            scale_F = np.nanstd(rows.features_RF, axis=0)
        scale_F = np.where(scale_F > 0, scale_F, 1.0)
        x_RF = np.nan_to_num((rows.features_RF - mean_F) / scale_F)
        groups = min(settings.user_groups, max(1, len(rows) // 50))
        some = random.permutation(len(rows))[:20_000]
        centre_GF = KMeans(groups, n_init=1, random_state=seed).fit(x_RF[some]).cluster_centers_
        # Silverman's width for K - 1 free shares, from the mean variance of a share
        free = rows.shares_RK.shape[1] - 1
        spread = float(np.sqrt(rows.shares_RK.var(axis=0).mean()))
        count = min(settings.kernels, len(rows) // groups)
        width = settings.width * spread * (4 / ((free + 2) * max(count, 1))) ** (1 / (free + 4))
        plain = cls(centre_GF, mean_F, scale_F, (), width, np.full(groups, -np.inf))
        group_R = plain.group(rows.features_RF)
        kernels, floors = [], []
        for group in range(groups):
            own = np.flatnonzero(group_R == group)
            drawn = random.permutation(own)[: settings.kernels]
            kernels.append(rows.shares_RK[drawn])
            log_M = log_density(kernels[-1], kernels[-1], width, own=True)
            floors.append(np.quantile(log_M, settings.floor) if settings.floor and len(log_M) > 1 else -np.inf)
        return cls(centre_GF, mean_F, scale_F, tuple(kernels), width, np.array(floors))

    def group(self, features_RF: np.ndarray) -> np.ndarray:
        """(R,) the group of each user: the nearest centre."""
        x_RF = np.nan_to_num((features_RF - self.mean_F) / self.scale_F)
        square_RG = np.stack([((x_RF - centre_F) ** 2).sum(axis=1) for centre_F in self.centre_GF], axis=1)
        return square_RG.argmin(axis=1)

    def log_density(self, group_R: np.ndarray, shares_RK: np.ndarray) -> np.ndarray:
        """(R,) log of the density of shares like these in the user's group, up to a constant."""
        found = np.empty(len(group_R))
        for group, kernels_MK in enumerate(self.kernels):
            own = np.flatnonzero(group_R == group)
            found[own] = log_density(shares_RK[own], kernels_MK, self.width)
        return found

    def refused(self, group_R: np.ndarray, shares_RK: np.ndarray) -> np.ndarray:
        """(R,) bool: whether nobody like the user was seen with anything like these shares."""
        return np.asarray(self.log_density(group_R, shares_RK) < self.floor_G[group_R])

    def drawn_in(self, features_UF: np.ndarray, shares_UK: np.ndarray, mean_K: np.ndarray) -> np.ndarray:
        """(U, K): of the way from the log's mean shares to each user's, in tenths, as much as users like this one have
        seen. A share of every category moves, none is cut off."""
        group_U, given_UK = self.group(features_UF), shares_UK.copy()
        for tenths in range(9, -1, -1):
            far = np.flatnonzero(self.refused(group_U, given_UK))
            if not len(far):
                break
            given_UK[far] = mean_K + tenths / 10 * (shares_UK[far] - mean_K)
        return given_UK

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, for a file of arrays."""
        return {
            "centre": self.centre_GF,
            "mean": self.mean_F,
            "scale": self.scale_F,
            "kernels": np.concatenate(self.kernels),
            "of_group": np.array([len(kernels_MK) for kernels_MK in self.kernels]),
            "width": np.array([self.width]),
            "floor": self.floor_G,
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray]) -> "Overlap":
        kernels = np.split(arrays["kernels"], np.cumsum(arrays["of_group"])[:-1])
        return cls(arrays["centre"], arrays["mean"], arrays["scale"], tuple(kernels), float(arrays["width"][0]),
                   arrays["floor"])  # fmt: skip

    def tensors(self) -> list[tuple[Tensor, Tensor]]:
        """Of each group its kernels, transposed and in units of the width, and half their squares."""
        scaled = [torch.from_numpy(kernels_MK / self.width).float() for kernels_MK in self.kernels]
        return [(kernels_MK.T.contiguous(), 0.5 * kernels_MK.square().sum(1)) for kernels_MK in scaled]

    def refused_fast(self, group_R: Tensor, shares_RK: Tensor, tensors: list[tuple[Tensor, Tensor]]) -> Tensor:
        """`refused` in float32 by one product a group, for the many candidates of a search: shares within some 1e-5 of
        the floor's log density may be told otherwise."""
        found_R = torch.zeros(len(group_R), dtype=torch.bool)
        scaled_RK = shares_RK / self.width
        half_R = 0.5 * scaled_RK.square().sum(1)
        for group, (kernel_KM, half_M) in enumerate(tensors):
            if not np.isfinite(self.floor_G[group]):
                continue
            own = (group_R == group).nonzero().squeeze(1)
            exponent_RM = torch.addmm(-half_M, scaled_RK[own], kernel_KM)
            needed_R = half_R[own] + (float(self.floor_G[group]) + np.log(len(half_M)))
            doubtful = (exponent_RM.amax(1) < needed_R).nonzero().squeeze(1)  # the nearest kernel alone is not enough
            found_R[own[doubtful]] = exponent_RM[doubtful].logsumexp(1) < needed_R[doubtful]
        return found_R


def log_density(shares_RK: np.ndarray, kernels_MK: np.ndarray, width: float, own: bool = False) -> np.ndarray:
    """(R,). own: the rows are the kernels, and each is left out of its own density."""
    found = []
    for begin in range(0, len(shares_RK), PIECE):
        piece = shares_RK[begin : begin + PIECE]
        # summed category by category, so that bits do not depend on BLAS and its threads
        square = np.zeros((len(piece), len(kernels_MK)))
        for share, kernel_M in zip(piece.T, kernels_MK.T, strict=True):
            square += (share[:, None] - kernel_M) ** 2
        exponent = square / (-2 * width**2)
        if own:
            exponent[np.arange(len(piece)), begin + np.arange(len(piece))] = -np.inf
        top = exponent.max(axis=1, keepdims=True)
        top = np.where(np.isfinite(top), top, 0.0)
        total = np.exp(exponent - top).sum(axis=1)
        found.append(np.log(np.maximum(total, 1e-300)) + top[:, 0] - np.log(len(kernels_MK) - own or 1))
    return np.concatenate(found) if found else np.empty(0)
