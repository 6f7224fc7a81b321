"""One tree of an MDP2 Forest: groups of users that differ in which shares suit them [Yu et al., KDD 2022, Algorithm 1].

A level at a time: one histogram of counts and outcomes over (node, bin of a feature, category, bin of its share),
summed over the bins below a cut, gives both children of every split; a split is worth

    sum over both children and the categories that the simplex walk visits of  |R| D*^2          (eq. 4 and 5)
    less  penalty D0 sum |R_val| |D*(R_val) - D*(R)|                                             (eq. 6)

with D* = D at the group's own t* (preference.py). D has the outcome's units, so the penalty is in units of D0, the
root's mean D*. A node is split where the best split is worth more than the node.

D asks where on its whole range a share is best, and its last interval counts by its width: where shares have long tails
(many near 0, few large ones) t* says little. Splits by slopes, which are not the paper's, are worth

    sum over both children and all categories of  cov(y, t_k)^2 n / var(t_k)

what a line through each category's interval means explains of the outcome within the children: groups are told apart by
which way more of a category moves the outcome. Nothing here draws a number but from the tree's own seed, so it does not
matter where a tree is grown.

Shapes: N rows, F features, K categories, X bins of all features, Q of a share, V nodes of a level, C cuts (X - F).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from funnel.exposure.preference import ShareGrid, walk, whole

CHUNK = 1 << 16
"""Rows that are counted at a time: their cells take N F K indices of 8 bytes."""
NODES = 32
"""Nodes of a level whose histograms are held together."""


@dataclass(frozen=True)
class TreeSettings:
    depth: int
    least: int
    """Rows of a child, at least."""
    tried: int
    """Features that a node may be split by, drawn anew for each; 0: all."""
    temperature: float
    """Of the soft maximum; 0: argmax."""
    penalty: float
    validation: float
    """Share of the tree's rows that eq. 6 validates with, where there is a penalty."""


@dataclass(frozen=True)
class Tree:
    """Nodes in order of creation; node 0 is the root. Left where bin <= cut."""

    feature_V: np.ndarray
    """int16; -1: a leaf."""
    cut_V: np.ndarray
    """uint8."""
    left_V: np.ndarray
    """int32, of the left child; the right one is the next."""
    rows_V: np.ndarray
    """int64: training rows."""
    shares_VK: np.ndarray
    """What each node's rows would get, float64; sums to 1."""
    gain_V: np.ndarray
    """What its split is worth more than the node itself; 0 of leaves."""

    def leaves(self, bins_RF: np.ndarray) -> np.ndarray:
        """The leaf of every row, (R,) int64."""
        node_R = np.zeros(len(bins_RF), np.int64)
        inner_R = np.flatnonzero(self.feature_V[node_R] >= 0)
        while len(inner_R):
            node = node_R[inner_R]
            right = bins_RF[inner_R, self.feature_V[node]] > self.cut_V[node]
            node_R[inner_R] = self.left_V[node] + right
            inner_R = inner_R[self.feature_V[node_R[inner_R]] >= 0]
        return node_R

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in NAMES}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "Tree":
        return cls(**{name: arrays[name] for name in NAMES})


NAMES = ("feature_V", "cut_V", "left_V", "rows_V", "shares_VK", "gain_V")


class Histograms:
    """Counts and sums of outcomes of the nodes of a level, by bin of every feature, category and share."""

    def __init__(
        self, bins_NF: np.ndarray, share_bins_NK: np.ndarray, outcome_N: np.ndarray, bins_F: np.ndarray, intervals: int
    ) -> None:
        categories = share_bins_NK.shape[1]
        self.begin_F = np.concatenate([[0], np.cumsum(bins_F)])
        self.shape = (int(self.begin_F[-1]), categories, intervals)
        self.size = int(np.prod(self.shape))
        self.outcome_N, self.cells = outcome_N, list[np.ndarray]()
        for begin in range(0, len(bins_NF), CHUNK):
            rows = slice(begin, begin + CHUNK)
            place_NF = (self.begin_F[:-1] + bins_NF[rows]) * (categories * intervals)
            share_NK = np.arange(categories) * intervals + share_bins_NK[rows]
            cells = place_NF[:, :, None] + share_NK[:, None, :]
            self.cells.append(cells.reshape(len(cells), -1).astype(np.int32))

    def level(self, node_N: np.ndarray, nodes: int, last: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(count, total), both (V, X, K, Q) float64, of rows whose node is 0 .. V-1; others do not count.

        `last`: the nodes are not split any more, so the bins of the first feature do."""
        shape = (int(self.begin_F[1]), *self.shape[1:]) if last else self.shape
        size, used = int(np.prod(shape)), self.shape[1] if last else None
        count, total = np.zeros(nodes * size), np.zeros(nodes * size)
        for chunk, cells in enumerate(self.cells):
            node = node_N[chunk * CHUNK : chunk * CHUNK + len(cells)]
            rows = np.flatnonzero((node >= 0) & (node < nodes))
            if not len(rows):
                continue
            own = cells[rows, :used]
            place = (own + (node[rows] * size)[:, None]).ravel()
            weight = np.repeat(self.outcome_N[chunk * CHUNK + rows], own.shape[1])
            count += np.bincount(place, minlength=len(count))
            total += np.bincount(place, weight, minlength=len(total))
        return count.reshape(nodes, *shape), total.reshape(nodes, *shape)

    def node(self, level: np.ndarray) -> np.ndarray:
        """(V, K, Q) of whole nodes: the sum over the bins of any feature."""
        return np.asarray(level[:, : self.begin_F[1]].sum(axis=1))

    def left(self, level: np.ndarray) -> np.ndarray:
        """(V, C, K, Q) of the left children of all cuts, feature by feature."""
        edges = zip(self.begin_F[:-1], self.begin_F[1:], strict=True)
        return np.concatenate([np.cumsum(level[:, a : b - 1], axis=1) for a, b in edges], axis=1)

    def cut(self, place_V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(feature, bin) of cuts by their place in `left`."""
        first_F = self.begin_F[:-1] - np.arange(len(self.begin_F) - 1)
        feature_V = np.searchsorted(first_F, place_V, side="right") - 1
        while (self.begin_F[feature_V + 1] - self.begin_F[feature_V] < 2).any():  # a feature without cuts has no place
            feature_V = np.where(self.begin_F[feature_V + 1] - self.begin_F[feature_V] < 2, feature_V - 1, feature_V)
        return feature_V, place_V - first_F[feature_V]

    @property
    def feature_C(self) -> np.ndarray:
        """The feature of every cut."""
        return np.repeat(np.arange(len(self.begin_F) - 1), np.diff(self.begin_F) - 1)


@dataclass(frozen=True)
class Worth:
    """What groups are worth: |R| sum of D*^2 over visited categories, their D*, and their shares."""

    score: np.ndarray
    peak: np.ndarray
    visited: np.ndarray
    taken: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, grid: ShareGrid, count: np.ndarray, total: np.ndarray, order_K: np.ndarray, soft: float) -> "Worth":
        """Of (..., K, Q) counts and sums."""
        point, peak = grid.peak(grid.difference(count, total), soft)
        taken, visited = walk(point, order_K)
        rows = count[..., 0, :].sum(axis=-1)
        return cls(rows * np.where(visited, peak**2, 0.0).sum(axis=-1), peak, visited, taken, rows)

    def penalty(self, validation: "Worth") -> np.ndarray:
        """|R_val| sum over visited categories of |D*_val - D*|."""
        gap = np.where(self.visited, np.abs(validation.peak - self.peak), 0.0)
        return np.asarray(validation.rows * gap.sum(axis=-1))


def explained(centre_KQ: np.ndarray, count: np.ndarray, total: np.ndarray) -> np.ndarray:
    """(...,) of (..., K, Q) counts and sums: what lines through the interval means explain, in all categories."""
    rows = np.maximum(count.sum(axis=-1), 1.0)
    mean, outcome = (count * centre_KQ).sum(axis=-1) / rows, total.sum(axis=-1)
    together = (total * centre_KQ).sum(axis=-1) - mean * outcome
    spread = (count * centre_KQ**2).sum(axis=-1) - rows * mean**2
    return np.asarray((together**2 / np.maximum(spread, 1e-9)).sum(axis=-1))


def grow(
    bins_NF: np.ndarray,
    share_bins_NK: np.ndarray,
    outcome_N: np.ndarray,
    grid: ShareGrid,
    bins_F: np.ndarray,
    settings: TreeSettings,
    random: np.random.Generator,
    centre_KQ: np.ndarray | None = None,
) -> Tree:
    """The tree of these rows; outcomes are centred by the caller. centre_KQ: the mean share of each interval, for
    splits by slopes; without, they are by D."""
    order_K = random.permutation(share_bins_NK.shape[1])
    fit_N = np.ones(len(outcome_N), bool)
    if settings.penalty > 0:
        fit_N[random.permutation(len(outcome_N))[: round(settings.validation * len(outcome_N))]] = False
    histograms = Histograms(bins_NF, share_bins_NK, outcome_N, bins_F, grid.intervals)
    masks = [fit_N, ~fit_N] if settings.penalty > 0 else [fit_N]
    made = _Nodes(share_bins_NK.shape[1])
    node_N, level = np.zeros(len(outcome_N), np.int64), [made.add()]
    unit: float | None = None
    for depth in range(settings.depth + 1):
        following: list[int] = []
        for begin in range(0, len(level), NODES):
            block = level[begin : begin + NODES]
            place = np.full(made.count, -1, np.int64)
            place[block] = np.arange(len(block))
            local_N = place[node_N]
            found = [
                histograms.level(np.where(mask, local_N, -1), len(block), depth == settings.depth) for mask in masks
            ]
            own = [Worth.of(grid, histograms.node(count), histograms.node(total), order_K, settings.temperature)
                   for count, total in found]  # fmt: skip
            for v, node in enumerate(block):
                made.rows[node], made.shares[node] = int(own[0].rows[v]), whole(own[0].taken[v])
            if depth == settings.depth:
                continue
            if unit is None:
                unit = float(np.abs(own[0].peak[0]).mean())
            best_V, place_V = _best(histograms, grid, found, order_K, settings, unit, random, centre_KQ)
            feature_V, cut_V = histograms.cut(place_V)
            worth_V = own[0].score
            if centre_KQ is not None:
                worth_V = explained(centre_KQ, *(histograms.node(each) for each in found[0]))
            if settings.penalty > 0:
                worth_V = worth_V - settings.penalty * unit * own[0].penalty(own[1])
            for v, node in enumerate(block):
                if best_V[v] > worth_V[v]:
                    following += made.split(node, int(feature_V[v]), int(cut_V[v]), float(best_V[v] - worth_V[v]))
        if not following:
            break
        node_N = made.step(node_N, bins_NF)
        level = following
    return made.tree()


def _best(
    histograms: Histograms,
    grid: ShareGrid,
    found: list[tuple[np.ndarray, np.ndarray]],
    order_K: np.ndarray,
    settings: TreeSettings,
    unit: float,
    random: np.random.Generator,
    centre_KQ: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """(worth, place among the cuts) of the best split of each node; -inf where none is allowed."""
    sides = []
    for level in found:
        left = [histograms.left(each) for each in level]
        right = [histograms.node(each)[:, None] - part for each, part in zip(level, left, strict=True)]
        sides.append((left, right))
    if centre_KQ is not None:
        score_VC = sum(explained(centre_KQ, *side) for side in sides[0])
    else:
        soft = settings.temperature
        worths = [[Worth.of(grid, count, total, order_K, soft) for count, total in both] for both in sides]
        score_VC = worths[0][0].score + worths[0][1].score
        if settings.penalty > 0:
            lost_VC = sum(train.penalty(val) for train, val in zip(worths[0], worths[1], strict=True))
            score_VC = score_VC - settings.penalty * unit * lost_VC
    rows_VC = [count[..., 0, :].sum(axis=-1) for count, _ in sides[0]]
    allowed_VC = (rows_VC[0] >= settings.least) & (rows_VC[1] >= settings.least)
    if settings.tried:
        features = len(histograms.begin_F) - 1
        for v in range(len(allowed_VC)):
            drawn = random.permutation(features)[: settings.tried]
            allowed_VC[v] &= np.isin(histograms.feature_C, drawn)
    score_VC = np.where(allowed_VC, score_VC, -np.inf)
    place_V = score_VC.argmax(axis=1)
    return score_VC[np.arange(len(score_VC)), place_V], place_V


class _Nodes:
    """Nodes of a tree that grows."""

    def __init__(self, categories: int) -> None:
        self.feature: list[int] = []
        self.cut: list[int] = []
        self.left: list[int] = []
        self.gain: list[float] = []
        self.rows: list[int] = []
        self.shares: list[np.ndarray] = []
        self.categories = categories

    @property
    def count(self) -> int:
        return len(self.feature)

    def add(self) -> int:
        for values, value in ((self.feature, -1), (self.cut, 0), (self.left, 0), (self.rows, 0)):
            values.append(value)
        self.gain.append(0.0)
        self.shares.append(np.full(self.categories, 1 / self.categories))
        return self.count - 1

    def split(self, node: int, feature: int, cut: int, gain: float) -> list[int]:
        self.feature[node], self.cut[node], self.left[node], self.gain[node] = feature, cut, self.count, gain
        return [self.add(), self.add()]

    def step(self, node_N: np.ndarray, bins_NF: np.ndarray) -> np.ndarray:
        """Rows of nodes that were split go to a child."""
        feature_V, cut_V, left_V = np.array(self.feature), np.array(self.cut), np.array(self.left)
        moved_N = np.flatnonzero(feature_V[node_N] >= 0)
        node = node_N[moved_N]
        result_N = node_N.copy()
        result_N[moved_N] = left_V[node] + (bins_NF[moved_N, feature_V[node]] > cut_V[node])
        return result_N

    def tree(self) -> Tree:
        return Tree(
            np.array(self.feature, np.int16),
            np.array(self.cut, np.uint8),
            np.array(self.left, np.int32),
            np.array(self.rows, np.int64),
            np.array(self.shares),
            np.array(self.gain),
        )
