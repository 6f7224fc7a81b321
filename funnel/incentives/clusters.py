"""Users in clusters that are treated alike: k-means on standardised features, or on what a network sees in them.

Shapes: R rows, F features (or numbers of a representation), G clusters.
"""

from dataclasses import dataclass

import numpy as np

from funnel.effects.nuisances import some_rows

ROWS = 100_000
"""Rows that the centres are found on, at most."""


@dataclass(frozen=True)
class Clusters:
    """Centres in standardised coordinates."""

    mean_F: np.ndarray
    std_F: np.ndarray
    centre_GF: np.ndarray

    @classmethod
    def fit(cls, x_RF: np.ndarray, count: int, seed: int = 0, standardise: bool = True) -> "Clusters":
        """k-means; at most as many clusters as rows. Numbers of one unit, such as effects, need no standardising."""
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        x_NF = x_RF[some_rows(len(x_RF), ROWS, seed)].astype(np.float64)
        mean_F, std_F = np.nanmean(x_NF, 0), np.nanstd(x_NF, 0)
        std_F = np.where((std_F > 0) & standardise, std_F, 1.0)
        z_NF = np.nan_to_num((x_NF - mean_F) / std_F)
        with threadpool_limits(1):
            model = KMeans(min(count, len(z_NF)), n_init=1, random_state=seed).fit(z_NF)
        return cls(mean_F, std_F, np.asarray(model.cluster_centers_))

    def of(self, x_RF: np.ndarray) -> np.ndarray:
        """The nearest centre of each row, (R,)."""
        found = np.empty(len(x_RF), np.int64)
        square_G = (self.centre_GF**2).sum(1)
        for begin in range(0, len(x_RF), 65_536):
            z_BF = np.nan_to_num((x_RF[begin : begin + 65_536] - self.mean_F) / self.std_F)
            found[begin : begin + len(z_BF)] = (square_G - 2 * z_BF @ self.centre_GF.T).argmin(1)
        return found
