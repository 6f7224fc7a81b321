"""Preference curves from histograms, and the point where what lies above differs most from what lies below [MDP2
Forest, Yu et al., KDD 2022, eq. 2-3].

Of one category, with edges Q_0 < ... < Q_q (quantiles of its share in the log), widths w_i, and f_i the mean outcome of
the rows whose share lies in interval i (the group's mean where none does):

    F(Q_{i+1}) = F(Q_i) + f_i w_i,   F(Q_0) = 0                       the preference curve, the integral of f
    D(Q_m) = mean of F over [Q_m, Q_q] - mean of F over [Q_0, Q_m]    means over the share, trapezoids
    t* = argmax_m D(Q_m)                                              m = 1 .. q-1

Outcomes are centred by their mean over the log: D of a constant outcome c is c (Q_q - Q_0)/2 at every point. The
paper's eq. 7 divides F by what was passed, which makes it a running mean and not the integral of eq. 2; taken
literally it does not find the optimum of the paper's own simulation (docs/exposure.md).

argmax can only answer with an edge, and where D only falls (a peak near the low end) always with the first one. The
soft maximum averages the edges by exp[(D - max D)/(temperature (max D - min D))].
Shapes: K categories, Q intervals (the longest category's; shorter ones end with intervals of width 0), M = Q - 1 inner
edges; ... any leading axes.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ShareGrid:
    """Edges of every category's intervals."""

    edges_KQ1: np.ndarray

    @classmethod
    def of(cls, shares_RK: np.ndarray, quantiles: int) -> "ShareGrid":
        """Edges at equal counts of rows. A category that is mostly absent has its edges at quantiles of where it is
        shown, so that one point at least lies within."""
        found = []
        for share_R in shares_RK.T:
            edges = np.unique(np.quantile(share_R, np.linspace(0, 1, quantiles + 1), method="lower"))
            if len(edges) < 4:
                shown = share_R[share_R > edges[0]]
                edges = np.unique(
                    np.concatenate([edges[:1], np.quantile(shown, np.linspace(0, 1, quantiles), method="lower")])
                )
            if len(edges) < 3:  # two values in all: the point between them
                edges = np.array([edges[0], edges.mean(), edges[-1]])
            found.append(edges)
        longest = max(max(len(edges) for edges in found), 3)
        padded = [np.concatenate([edges, np.full(longest - len(edges), edges[-1])]) for edges in found]
        return cls(np.array(padded))

    @property
    def intervals(self) -> int:
        return self.edges_KQ1.shape[1] - 1

    @property
    def width_KQ(self) -> np.ndarray:
        return np.diff(self.edges_KQ1, axis=1)

    @property
    def points_KM(self) -> np.ndarray:
        """The inner edges, which t* is one of."""
        return self.edges_KQ1[:, 1:-1]

    def bins(self, shares_RK: np.ndarray) -> np.ndarray:
        """Interval of every share, (R, K) uint8; an edge belongs to the interval above it, shares beyond the ends to
        the outermost intervals."""
        found = np.empty(shares_RK.shape, np.uint8)
        for k, edges_Q1 in enumerate(self.edges_KQ1):
            inner = edges_Q1[1:-1]
            found[:, k] = np.searchsorted(inner[inner < edges_Q1[-1]], shares_RK[:, k], side="right")
        return found

    def difference(self, count: np.ndarray, total: np.ndarray) -> np.ndarray:
        """D at the inner edges, (..., K, M), of groups given by (..., K, Q) counts and sums of centred outcomes; -inf
        where an edge is an end."""
        width_KQ, edges_KQ1 = self.width_KQ, self.edges_KQ1
        rows = count.sum(axis=-1, keepdims=True)
        mean = total.sum(axis=-1, keepdims=True) / np.maximum(rows, 1)
        f = np.where(count > 0, total / np.maximum(count, 1), mean)
        step = f * width_KQ
        middle = np.cumsum(step, axis=-1) - step / 2
        area = np.cumsum(middle * width_KQ, axis=-1)
        below_KM = edges_KQ1[:, 1:-1] - edges_KQ1[:, :1]
        above_KM = edges_KQ1[:, -1:] - edges_KQ1[:, 1:-1]
        within_KM = (below_KM > 0) & (above_KM > 0)
        left = area[..., :-1] / np.where(within_KM, below_KM, 1.0)
        right = (area[..., -1:] - area[..., :-1]) / np.where(within_KM, above_KM, 1.0)
        return np.where(within_KM, right - left, -np.inf)

    def peak(self, difference: np.ndarray, temperature: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """(t*, D there), both (..., K). temperature above 0: the soft maximum's t*."""
        highest = difference.max(axis=-1)
        if temperature <= 0:
            chosen = difference.argmax(axis=-1)
            return self.points_KM[np.arange(len(self.edges_KQ1)), chosen], highest
        finite = np.isfinite(difference)
        lowest = np.where(finite, difference, np.inf).min(axis=-1)
        scale = temperature * np.maximum(highest - lowest, 1e-300)
        odds = np.exp(np.where(finite, (difference - highest[..., None]) / scale[..., None], -np.inf))
        return (odds * self.points_KM).sum(axis=-1) / odds.sum(axis=-1), highest


def walk(peak: np.ndarray, order_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(shares before rescaling, which categories were visited), both (..., K) [eq. 5].

    In the given order each category gets its t* until 1 is used up: the one that passes it gets what is left, later
    ones get 0 and are not visited.
    """
    ordered = peak[..., order_K]
    before = np.cumsum(ordered, axis=-1) - ordered
    left = np.maximum(1.0 - before, 0.0)
    taken, visited = np.empty_like(peak), np.empty(peak.shape, bool)
    taken[..., order_K] = np.minimum(ordered, left)
    visited[..., order_K] = left > 0
    return taken, visited


def whole(taken: np.ndarray) -> np.ndarray:
    """Shares that sum to 1: what the walk took, divided by its sum; equal ones where it took nothing."""
    total = taken.sum(axis=-1, keepdims=True)
    return np.where(total > 0, taken / np.where(total > 0, total, 1.0), 1.0 / taken.shape[-1])
