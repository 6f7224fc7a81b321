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

SEEN = 0.995
"""Quantile of a category's share up to which it may be raised; beyond it the spline has hardly a row to stand on."""


@dataclass(frozen=True)
class AdditiveSettings:
    steps: int = 20
    """Shares are multiples of 1/steps, and so are the knots."""
    ridge: float = 1.0
    """Weight of the squared slopes' changes, in rows."""

    def __post_init__(self) -> None:
        if not 2 <= self.steps <= 200:
            raise UserError(f"steps is {self.steps}, must be from 2 to 200")
        if not 0 < self.ridge < np.inf:
            raise UserError(f"ridge is {self.ridge}, must be a finite number above 0")


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
    leaf_N: np.ndarray,
    shares_NK: np.ndarray,
    outcome_N: np.ndarray,
    settings: AdditiveSettings,
    nodes: int,
    reach_K: np.ndarray,
) -> np.ndarray:
    """(V, K, S): g_k on the grid in every node of a tree that is a leaf; g_k(0) = 0. 0 in nodes without rows.

    Differences of neighbouring slopes are shrunk, so that a step without rows goes on as its neighbours do.
    """
    found = np.zeros((nodes, len(reach_K), settings.steps + 1))
    ends = np.concatenate([[0], np.cumsum(reach_K)])
    penalty_PP = roughness(reach_K, settings.ridge)
    design_NP = np.concatenate(
        [basis(share_N, settings.steps, most) for share_N, most in zip(shares_NK.T, reach_K, strict=True)], axis=1
    )
    order_N = np.argsort(leaf_N, kind="stable")
    values, begins = np.unique(leaf_N[order_N], return_index=True)
    for leaf, own in zip(values, np.split(order_N, begins[1:]), strict=True):
        design, outcome = design_NP[own], outcome_N[own]
        design, outcome = design - design.mean(axis=0), outcome - outcome.mean()
        slope_P = np.linalg.solve(design.T @ design + penalty_PP, design.T @ outcome)
        for k, most in enumerate(reach_K):
            found[leaf, k, 1 : most + 1] = np.cumsum(slope_P[ends[k] : ends[k + 1]])
    return found


def roughness(reach_K: np.ndarray, ridge: float) -> np.ndarray:
    """(P, P): ridge times the squared differences of neighbouring slopes of a category, and a little of the slopes."""
    size = int(reach_K.sum())
    found, begin = np.zeros((size, size)), 0
    for most in reach_K:
        change = np.diff(np.eye(most), axis=0)
        found[begin : begin + most, begin : begin + most] = change.T @ change
        begin += most
    return ridge * (found + 0.01 * np.eye(size))


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
