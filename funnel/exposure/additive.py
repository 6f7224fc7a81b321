"""An outcome model in the leaves of a forest, additive over categories, and the exact best shares under it.

    E[y | leaf, t] = c + sum_k g_k(t_k),   g_k a linear spline with knots at multiples of 1/steps

fitted by ridge regression, all categories together: more of one category is less of the others, and only a joint fit
tells whose doing an outcome is (a curve of one category alone, as D is made of, cannot). The curves of the leaves that
a user falls into are averaged over trees, and

    max sum_k g_k(t_k)   subject to   t_k a multiple of 1/steps within what the log has seen,  sum_k t_k = 1

is solved exactly by dynamic programming: V_k(s) = max over u of V_{k-1}(s - u) + g_k(u). Where the response is not
additive this is a first-order model of it. Shapes: R rows, U users, K categories, S = steps + 1 points of the grid, B
trees, P parameters of a leaf.
"""

from dataclasses import dataclass

import numpy as np

from data.errors import UserError

RIDGES = (1.0, 10.0, 100.0, 1000.0, 10_000.0)
KEPT = 0.8
"""The least ridge is taken that predicts this part of what the best one predicts beyond a leaf's mean. What predicts
best smooths the peaks, which are what counts: on the paper's simulation with noise .3 the best ridge has seven times
the regret of the one taken."""
PIECE = 2048
"""Rows whose basis is held at a time."""
SEEN = 0.995
"""Quantile of a category's share up to which it may be raised; beyond it the spline has hardly a row to stand on."""


@dataclass(frozen=True)
class AdditiveSettings:
    steps: int = 20
    """Shares are multiples of 1/steps, and so are the knots."""
    ridge: float = 0.0
    """Weight of the squared changes of slopes, in rows; 0: the least of 1, 10, 100, 1000, 10000 that predicts, of what
    the best of them predicts of the rows that each tree was not grown on, at least four fifths."""

    def __post_init__(self) -> None:
        if not 2 <= self.steps <= 200:
            raise UserError(f"steps is {self.steps}, must be from 2 to 200")
        if not 0 <= self.ridge < np.inf:
            raise UserError(f"ridge is {self.ridge}, must be a finite number of at least 0")

    @property
    def ridges(self) -> tuple[float, ...]:
        """Those that are tried."""
        return (self.ridge,) if self.ridge else RIDGES


def basis(share_R: np.ndarray, steps: int, most: int) -> np.ndarray:
    """(R, most) hinges min(t, m/steps) - (m-1)/steps, cut at 0: the part of t within each step up to `most`/steps."""
    begins = np.arange(most) / steps
    return np.clip(share_R[:, None] - begins, 0.0, 1.0 / steps) * steps


def reach(shares_RK: np.ndarray, steps: int) -> np.ndarray:
    """(K,) whole steps up to which each category may be raised. Their sum is at least `steps`."""
    most_K = np.ceil(np.quantile(shares_RK, SEEN, axis=0) * steps - 1e-9).astype(int)
    if most_K.sum() < steps:
        most_K = np.ceil(shares_RK.max(axis=0) * steps - 1e-9).astype(int)
    return np.clip(most_K, 1, steps)


def leaf_curves(
    leaf_R: np.ndarray,
    shares_RK: np.ndarray,
    outcome_R: np.ndarray,
    fit_R: np.ndarray,
    settings: AdditiveSettings,
    nodes: int,
    reach_K: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(curves (L, V, K, S) of each ridge, g_k on the grid in every node of a tree that is a leaf, g_k(0) = 0; squared
    errors (L + 1,) of the rows that are not fitted on, the last by the mean of each leaf alone). Nodes without rows
    have curves of 0.

    Differences of neighbouring slopes are shrunk, so that a step without rows goes on as its neighbours do.
    """
    found = np.zeros((len(settings.ridges), nodes, len(reach_K), settings.steps + 1))
    error_L1 = np.zeros(len(settings.ridges) + 1)
    ends = np.concatenate([[0], np.cumsum(reach_K)])
    rough_PP = roughness(reach_K)
    order_R = np.argsort(leaf_R, kind="stable")
    values, begins = np.unique(leaf_R[order_R], return_index=True)
    for leaf, own in zip(values, np.split(order_R, begins[1:]), strict=True):
        fitted, other = (Products.of(shares_RK, outcome_R, own[fit_R[own] == fit], settings.steps, reach_K)
                         for fit in (True, False))  # fmt: skip
        if not fitted.rows:
            continue
        gram, moment, _ = fitted.about(fitted.mean_Q)
        other_gram, other_moment, other_square = other.about(fitted.mean_Q)
        error_L1[-1] += other_square
        for number, ridge in enumerate(settings.ridges):
            slope_P = np.linalg.solve(gram + ridge * rough_PP, moment)
            error_L1[number] += other_square - 2 * slope_P @ other_moment + slope_P @ other_gram @ slope_P
            for k, most in enumerate(reach_K):
                found[number, leaf, k, 1 : most + 1] = np.cumsum(slope_P[ends[k] : ends[k + 1]])
    return found, error_L1


@dataclass(frozen=True)
class Products:
    """Sums over some rows of the basis of all categories and the outcome, Q = P + 1 columns, and of their products."""

    rows: int
    sum_Q: np.ndarray
    product_QQ: np.ndarray

    @classmethod
    def of(
        cls, shares_RK: np.ndarray, outcome_R: np.ndarray, own: np.ndarray, steps: int, reach_K: np.ndarray
    ) -> "Products":
        """Some thousand rows at a time: what they hold stays in the processor's cache."""
        width = int(reach_K.sum()) + 1
        sum_Q, product_QQ = np.zeros(width), np.zeros((width, width))
        for begin in range(0, len(own), PIECE):
            rows = own[begin : begin + PIECE]
            piece_NQ = np.empty((len(rows), width))
            piece_NQ[:, -1] = outcome_R[rows]
            end = 0
            for share_N, most in zip(shares_RK[rows].T, reach_K, strict=True):
                piece_NQ[:, end : end + most] = basis(share_N, steps, most)
                end += most
            sum_Q += piece_NQ.sum(axis=0)
            product_QQ += piece_NQ.T @ piece_NQ
        return cls(len(own), sum_Q, product_QQ)

    @property
    def mean_Q(self) -> np.ndarray:
        return self.sum_Q / max(self.rows, 1)

    def about(self, centre_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """(products of the basis (P, P), those with the outcome (P,), the outcome's squares), all about this centre."""
        both_QQ = np.outer(centre_Q, self.sum_Q)
        about_QQ = self.product_QQ - both_QQ - both_QQ.T + self.rows * np.outer(centre_Q, centre_Q)
        return about_QQ[:-1, :-1], about_QQ[:-1, -1], float(about_QQ[-1, -1])


def least_ridge(error_L1: np.ndarray) -> int:
    """The place of the first ridge that keeps enough of what can be predicted; the last one where nothing can."""
    error_L, plain = error_L1[:-1], error_L1[-1]
    enough_L = plain - error_L >= KEPT * max(plain - error_L.min(), 0.0)
    return int(np.argmax(enough_L)) if enough_L.any() else len(error_L) - 1


def roughness(reach_K: np.ndarray) -> np.ndarray:
    """(P, P): squared differences of neighbouring slopes of a category, and a little of the slopes themselves."""
    size = int(reach_K.sum())
    found, begin = np.zeros((size, size)), 0
    for most in reach_K:
        change = np.diff(np.eye(most), axis=0)
        found[begin : begin + most, begin : begin + most] = change.T @ change
        begin += most
    return found + 0.01 * np.eye(size)


def allocate(curves_UKS: np.ndarray, reach_K: np.ndarray) -> np.ndarray:
    """(U, K): the best shares on the grid; of equally good ones those that give later categories less."""
    users, categories, points = curves_UKS.shape
    steps = points - 1
    best_US = np.full((users, points), -np.inf)
    best_US[:, 0] = 0.0
    chosen_KUS = np.zeros((categories, users, points), np.uint8)
    for k in range(categories):
        value_US = np.full((users, points), -np.inf)
        for u in range(int(reach_K[k]) + 1):
            tried_US = best_US[:, : points - u] + curves_UKS[:, k, u, None]
            better_US = tried_US > value_US[:, u:]
            value_US[:, u:] = np.where(better_US, tried_US, value_US[:, u:])
            chosen_KUS[k, :, u:] = np.where(better_US, u, chosen_KUS[k, :, u:])
        best_US = value_US
    left_U, shares_UK = np.full(users, steps), np.zeros((users, categories))
    for k in reversed(range(categories)):
        taken_U = chosen_KUS[k, np.arange(users), left_U].astype(int)
        shares_UK[:, k] = taken_U / steps
        left_U = left_U - taken_U
    return shares_UK
