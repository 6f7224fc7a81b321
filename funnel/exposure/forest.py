"""MDP2 Forest: trees on halves of the rows, averaged [Yu et al., KDD 2022].

    forest = MDP2Forest(ForestSettings()).fit(rows, seed=0)
    forest.shares(features_UF)                    # (U, K), each row sums to 1

`map` may spread trees over machines: tree b draws from (seed, b) alone, so the forest is the same bits.
Shapes: R rows, U users, F features, K categories, B trees.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np

from data.errors import UserError
from funnel.exposure.additive import AdditiveSettings, allocate, leaf_curves, least_ridge, reach
from funnel.exposure.preference import ShareGrid
from funnel.exposure.shares import ShareRows
from funnel.exposure.tree import Tree, TreeSettings, grow
from funnel.fitted import Map, here

BLOCK = 8192
"""Users whose curves are held at a time."""


@dataclass(frozen=True)
class ForestSettings:
    trees: int = 20
    """Trees; more help only where they differ (features_tried, small samples)."""
    depth: int = 4
    """Splits from the root to a leaf, at most."""
    leaf_rows: int = 50
    """Rows of a leaf, at least."""
    sample: float = 0.5
    """Share of the rows that a tree is grown on, drawn without replacement."""
    features_tried: int = 0
    """Features that a node may be split by, drawn anew for each node; 0: a third of them with additive leaves, as
    regression forests have it (Breiman, 2001), all with points, as in the paper."""
    share_quantiles: int = 20
    """Intervals of a share; their edges are the points that may be chosen."""
    feature_bins: int = 64
    """Bins of a feature; their edges are where it may be split."""
    soft: float = 0.0
    """Temperature of the soft maximum of D, as a share of D's range; 0: argmax, as in the paper."""
    penalty: float = 0.0
    """Weight of the difference between training and validation in a split, in units of the root's D; 0: none."""
    validation: float = 0.25
    """Share of a tree's rows that validate, where there is a penalty."""
    splits: Literal["", "points", "slopes"] = ""
    """What groups are told apart by: their points of largest difference, as in the paper, or which way more of a
    category moves the outcome; left out, by slopes with additive leaves, by points with points or with a penalty."""
    leaves: Literal["additive", "points"] = "additive"
    """What a leaf says: points of largest difference on the simplex, as in the paper, or an additive outcome model
    whose best shares are found exactly."""
    additive: AdditiveSettings = field(default_factory=AdditiveSettings)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("trees", 1, 100_000),
            ("depth", 1, 20),
            ("leaf_rows", 1, np.inf),
            ("features_tried", 0, np.inf),
            ("share_quantiles", 2, 250),
            ("feature_bins", 2, 250),
        ):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least {low}" +
                                (f" and at most {high}" if high < np.inf else ""))  # fmt: skip
        if not 0 < self.sample <= 1:
            raise UserError(f"sample is {self.sample}, must be above 0 and at most 1")
        if self.splits not in ("", "points", "slopes"):
            raise UserError(f"splits is {self.splits!r}, must be 'points' or 'slopes'")
        if self.penalty and self.splits == "slopes":
            raise UserError("penalty goes with splits by points: it is of their largest differences")
        if self.leaves not in ("additive", "points"):
            raise UserError(f"leaves is {self.leaves!r}, must be 'additive' or 'points'")
        for name in ("soft", "penalty"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UserError(f"{name} is {getattr(self, name)}, must be a finite number of at least 0")
        if not 0 < self.validation < 1:
            raise UserError(f"validation is {self.validation}, must lie between 0 and 1")

    @property
    def by_slopes(self) -> bool:
        return self.splits == "slopes" or (not self.splits and self.leaves == "additive" and not self.penalty)

    def tried(self, features: int) -> int:
        """How many features a node may be split by; 0: all."""
        return self.features_tried or (-(-features // 3) if self.leaves == "additive" else 0)


@dataclass(frozen=True)
class Binned:
    """What every tree is grown from."""

    bins_RF: np.ndarray
    share_bins_RK: np.ndarray
    shares_RK: np.ndarray
    outcome_R: np.ndarray
    """Centred."""
    grid: ShareGrid
    bins_F: np.ndarray
    tree: TreeSettings
    sampled: int
    seed: int
    additive: AdditiveSettings | None
    reach_K: np.ndarray
    centre_KQ: np.ndarray | None
    """The mean share of each interval, where splits are by slopes."""


def one_tree(binned: Binned, number: int) -> tuple[Tree, tuple[np.ndarray, np.ndarray] | None]:
    """Tree number b and, where leaves are additive, the curves of its nodes by ridge and their errors. It all follows
    from (seed, b)."""
    rows = len(binned.outcome_R)
    drawn, random = sampled_rows(rows, binned.sampled, binned.seed, number)
    bins_NF, outcome_N = binned.bins_RF[drawn], binned.outcome_R[drawn]
    share_bins_NK = binned.share_bins_RK[drawn]
    tree = grow(bins_NF, share_bins_NK, outcome_N, binned.grid, binned.bins_F, binned.tree, random, binned.centre_KQ)
    if binned.additive is None:
        return tree, None
    fit_R = np.zeros(rows, bool)
    fit_R[drawn] = True
    leaf_R = tree.leaves(binned.bins_RF)
    nodes = len(tree.feature_V)
    return tree, leaf_curves(leaf_R, binned.shares_RK, binned.outcome_R, fit_R, binned.additive, nodes, binned.reach_K)


def interval_means(shares_RK: np.ndarray, share_bins_RK: np.ndarray, grid: ShareGrid) -> np.ndarray:
    """(K, Q): the mean share of the rows of each interval; its middle where there is none."""
    found = (grid.edges_KQ1[:, 1:] + grid.edges_KQ1[:, :-1]) / 2
    for k, (share_R, bin_R) in enumerate(zip(shares_RK.T, share_bins_RK.T, strict=True)):
        count_Q = np.bincount(bin_R, minlength=grid.intervals)
        sum_Q = np.bincount(bin_R, share_R, grid.intervals)
        found[k] = np.where(count_Q > 0, sum_Q / np.maximum(count_Q, 1), found[k])
    return found


def sampled_rows(rows: int, sampled: int, seed: int, number: int) -> tuple[np.ndarray, np.random.Generator]:
    """(the rows that tree number b is grown on, its generator after that draw)."""
    random = np.random.default_rng([seed, number, 2022])
    return (np.sort(random.permutation(rows)[:sampled]) if sampled < rows else np.arange(rows)), random


def feature_edges(values_R: np.ndarray, bins: int) -> np.ndarray:
    """Where a feature may be split: inner quantiles of its known values, each once."""
    known = values_R[~np.isnan(values_R)]
    if not len(known):
        return np.empty(0)
    edges = np.unique(np.quantile(known, np.arange(1, bins) / bins, method="lower"))
    return edges[edges < known.max()] if not np.isnan(values_R).any() else edges


@dataclass
class MDP2Forest:
    settings: ForestSettings = field(default_factory=ForestSettings)
    trees: list[Tree] = field(default_factory=list)
    curves: list[np.ndarray] = field(default_factory=list)
    """Of every tree (V, K, S), where leaves are additive."""
    ridge: float = 0.0
    """The chosen one."""
    reach_K: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    edges: list[np.ndarray] = field(default_factory=list)
    """Of every feature: bin b holds edges[b-1] < value <= edges[b]."""
    grid: ShareGrid | None = None
    feature_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()

    def fit(self, rows: ShareRows, seed: int = 0, map: Map = here) -> Self:
        """Grow the trees. Raises UserError where there are fewer rows than leaves ask for."""
        grown = map(one_tree, self.begin(rows, seed), range(self.settings.trees))
        self.trees = [tree for tree, _ in grown]
        found = [curves for _, curves in grown if curves is not None]
        if found:
            chosen = least_ridge(mean_of([error_L1 for _, error_L1 in found]))
            self.ridge = self.settings.additive.ridges[chosen]
            self.curves = [curves[chosen] for curves, _ in found]
        return self

    def sampled(self, rows: ShareRows) -> int:
        """Rows that a tree is grown on."""
        return max(round(self.settings.sample * len(rows)), 1)

    def check(self, rows: ShareRows) -> None:
        """Raise UserError in one line for rows that no two groups can be told apart by."""
        settings, sampled = self.settings, self.sampled(rows)
        fitted = sampled * ((1 - settings.validation) if settings.penalty else 1.0)
        if fitted < 2 * settings.leaf_rows:
            raise UserError(
                f"{rows.where}: {len(rows)} rows, of which a tree is grown on {int(fitted)}; two groups of leaf_rows "
                f"{settings.leaf_rows} need {2 * settings.leaf_rows}: more rows or a smaller leaf_rows"
            )
        if settings.features_tried > len(rows.feature_names):
            raise UserError(
                f"features_tried is {settings.features_tried}, but there are {len(rows.feature_names)} features"
            )
        if not any(len(feature_edges(values_R, settings.feature_bins)) for values_R in rows.features_RF.T):
            raise UserError(
                f"{rows.where}: {', '.join(rows.feature_names)}: the same in all {len(rows)} rows; groups are told "
                "apart by features"
            )

    def begin(self, rows: ShareRows, seed: int) -> Binned:
        """Edges of features and shares, and the rows as bins."""
        self.check(rows)
        settings = self.settings
        sampled = self.sampled(rows)
        self.edges = [feature_edges(values_R, settings.feature_bins) for values_R in rows.features_RF.T]
        self.grid = ShareGrid.of(rows.shares_RK, settings.share_quantiles)
        self.feature_names, self.categories = rows.feature_names, rows.categories
        tree = TreeSettings(settings.depth, settings.leaf_rows, settings.tried(len(rows.feature_names)),
                            settings.soft, settings.penalty, settings.validation)  # fmt: skip
        self.reach_K = reach(rows.shares_RK, settings.additive.steps)
        additive = settings.additive if settings.leaves == "additive" else None
        outcome_R = rows.outcome_R - rows.outcome_R.mean()
        bins_F = np.array([len(edges) + 1 for edges in self.edges])
        share_bins_RK = self.grid.bins(rows.shares_RK)
        centre_KQ = interval_means(rows.shares_RK, share_bins_RK, self.grid) if settings.by_slopes else None
        return Binned(self.bins(rows.features_RF), share_bins_RK, rows.shares_RK, outcome_R, self.grid, bins_F, tree,
                      sampled, seed, additive, self.reach_K, centre_KQ)  # fmt: skip

    def bins(self, features_UF: np.ndarray) -> np.ndarray:
        """The bin of every feature, (U, F) uint8; a missing value is in the last one."""
        found = np.empty(features_UF.shape, np.uint8)
        for f, edges in enumerate(self.edges):
            found[:, f] = np.searchsorted(edges, features_UF[:, f], side="left")
        return found

    def shares(self, features_UF: np.ndarray) -> np.ndarray:
        """The policy: shares (U, K); the mean over trees of each leaf's, or the best under the mean of their curves."""
        bins_UF = self.bins(features_UF)
        return np.concatenate([self._shares(bins_UF[begin : begin + BLOCK]) for begin in range(0, len(bins_UF), BLOCK)])

    def _shares(self, bins_UF: np.ndarray) -> np.ndarray:
        if self.curves:
            return allocate(self._mean(self.curves, bins_UF), self.reach_K)
        total_UK = self._mean([tree.shares_VK for tree in self.trees], bins_UF)
        return np.asarray(total_UK / total_UK.sum(axis=1, keepdims=True))

    def curves_mean(self, bins_UF: np.ndarray) -> np.ndarray:
        """(K, S): the mean curves of these users, where leaves are additive."""
        return np.asarray(self._mean(self.curves, bins_UF[:BLOCK]).mean(axis=0))

    def _mean(self, values: Sequence[np.ndarray], bins_UF: np.ndarray) -> np.ndarray:
        """The mean over trees of what each user's leaf holds."""
        total = np.zeros((len(bins_UF), *values[0].shape[1:]))
        for tree, value in zip(self.trees, values, strict=True):
            total += value[tree.leaves(bins_UF)]
        return total / len(self.trees)

    def leaves(self, features_UF: np.ndarray) -> np.ndarray:
        """The leaf of every user in every tree, (U, B)."""
        bins_UF = self.bins(features_UF)
        return np.stack([tree.leaves(bins_UF) for tree in self.trees], axis=1)


def mean_of(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of equal arrays, summed in order."""
    total = np.zeros_like(parts[0])
    for part in parts:
        total += part
    return total / len(parts)
