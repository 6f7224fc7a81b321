"""The semi-synthetic recipe of MDP2 Forest on any features, shares and outcomes [Yu et al., KDD 2022, B.2].

    1. graph of the K_n nearest neighbours of the standardised features, both ways
    2. Louvain communities of it: clusters c
    3. of each cluster the mean shares tbar_c, the covariance S_c of its shares, and its mean outcome ybar_c
    4. best shares of the cluster b_c = |tbar_c + e| / sum |tbar_c + e|,  e ~ N(0, shift) a category
    5. outcome y = ybar_c p_c(t),  p_c the normal density N(b_c, S_c), here divided by its peak: y = ybar_c at b_c

The paper says N(0, .05): we take .05 for the standard deviation. Density and covariance are of K categories whose
shares sum to 1, so S_c is singular; `ridge` is added to its diagonal, as a share of its mean variance. With S_c itself
a logged row lies sqrt(K) deviations from the peak and its outcome is exp(-K/2) of the highest one: hardly any row says
where the peak is. `spread` widens the covariance; K times makes logged outcomes about .5 of the highest. The response
is not additive in the shares.
Shapes: R rows, F features, K categories, C clusters.
"""

from dataclasses import dataclass, replace

import numpy as np
from networkx import Graph
from networkx.algorithms.community import louvain_communities
from scipy.spatial import cKDTree

from data.errors import UserError
from funnel.exposure.shares import ShareRows


@dataclass(frozen=True)
class Recipe:
    neighbours: int = 10
    """Of the graph."""
    resolution: float = 1.0
    """Of Louvain: more makes more and smaller clusters."""
    shift: float = 0.05
    """Standard deviation of a cluster's best shares around its mean ones, before they are made whole."""
    ridge: float = 0.1
    """Added to the diagonal of a cluster's covariance, as a share of its mean variance."""
    spread: float = 0.0
    """Factor of the covariance: the larger, the flatter the response. 1: as in the paper; 0: the number of
    categories."""

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise UserError(f"neighbours is {self.neighbours}, must be at least 1")
        for name in ("resolution", "shift", "ridge"):
            if not 0 < getattr(self, name) < np.inf:
                raise UserError(f"{name} is {getattr(self, name)}, must be a finite number above 0")
        if not 0 <= self.spread < np.inf:
            raise UserError(f"spread is {self.spread}, must be a finite number of at least 0")


@dataclass(frozen=True)
class Response:
    """The true response: of every row its cluster, and of every cluster its peak."""

    cluster_R: np.ndarray
    best_CK: np.ndarray
    inverse_CKK: np.ndarray
    height_C: np.ndarray

    def value(self, shares_RK: np.ndarray, cluster_R: np.ndarray | None = None) -> np.ndarray:
        """(R,): the expected outcome of these shares for the rows' clusters."""
        cluster_R = self.cluster_R if cluster_R is None else cluster_R
        gap_RK = shares_RK - self.best_CK[cluster_R]
        square_R = np.einsum("rk,rkl,rl->r", gap_RK, self.inverse_CKK[cluster_R], gap_RK)
        return np.asarray(self.height_C[cluster_R] * np.exp(-0.5 * square_R))


def clusters(features_RF: np.ndarray, recipe: Recipe, seed: int) -> np.ndarray:
    """(R,) Louvain communities of the nearest neighbours' graph, numbered from 0 in the order of their first row."""
    scale_F = features_RF.std(axis=0)
    standard_RF = (features_RF - features_RF.mean(axis=0)) / np.where(scale_F > 0, scale_F, 1.0)
    rows = len(features_RF)
    _, near_RN = cKDTree(standard_RF).query(standard_RF, k=min(recipe.neighbours + 1, rows))
    graph = Graph()
    graph.add_nodes_from(range(rows))
    graph.add_edges_from((row, other) for row, near in enumerate(near_RN.tolist()) for other in near if other != row)
    found = sorted(louvain_communities(graph, resolution=recipe.resolution, seed=seed), key=min)
    cluster_R = np.empty(rows, np.int64)
    for number, members in enumerate(found):
        cluster_R[list(members)] = number
    return cluster_R


def respond(
    rows: ShareRows, cluster_R: np.ndarray, recipe: Recipe, seed: int, noise: float = 0.0
) -> tuple[ShareRows, Response]:
    """(the rows with the recipe's outcome and best shares, the response). noise: standard deviation, as a share of the
    outcome's own."""
    random = np.random.default_rng([seed, 22])
    best, inverse, height = [], [], []
    for cluster in range(int(cluster_R.max()) + 1):
        own = rows.shares_RK[cluster_R == cluster]
        if len(own) < 2:
            raise UserError(
                f"{rows.where}: cluster {cluster} has {len(own)} row; a covariance needs 2: more neighbours"
            )
        mean_K = own.mean(axis=0)
        peak_K = np.abs(mean_K + recipe.shift * random.standard_normal(len(mean_K)))
        best.append(peak_K / peak_K.sum())
        cov_KK = np.cov(own.T) * (recipe.spread or len(mean_K))
        cov_KK += recipe.ridge * max(np.trace(cov_KK) / len(cov_KK), 1e-6) * np.eye(len(cov_KK))
        inverse.append(np.linalg.inv(cov_KK))
        height.append(float(rows.outcome_R[cluster_R == cluster].mean()))
    response = Response(cluster_R, np.array(best), np.array(inverse), np.array(height))
    outcome_R = response.value(rows.shares_RK)
    outcome_R = outcome_R + noise * outcome_R.std() * random.standard_normal(len(outcome_R))
    return replace(rows, outcome_R=outcome_R, best_RK=response.best_CK[cluster_R]), response
