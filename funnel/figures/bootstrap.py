"""95% intervals by the Poisson bootstrap over users (rows, where there are no users), from binned counts alone.

A replicate counts every user Poisson(1) times. All figures are functions of how many rows of each kind (label, score
group) there are, so a replicate is a vector of counts, and all of them together one sparse-by-dense product per chunk
of users: counts_CB = S_CU w_UB. Rows without users are independent: a replicate's counts are Poisson(counts).
Weights follow from (seed, bucket, chunk) and the users' order in it: the order of the log's rows does not matter.
Scores fall into at most K groups of equal count; what that shifts is taken off (the interval is moved by the figure
minus the same figure from the groups).
Where rows have weights, a cell holds what its rows weigh in place of how many they are.
Shapes: R rows, U users, B replicates, C cells, G slices, L labels, K groups of scores, N fine bins, V of them in use.
"""

from collections.abc import Iterator

import numpy as np
import scipy.sparse

from funnel.figures.binary import BINS, LIMIT

GROUPS = 512
CHUNK_USERS = 8192
LEVEL = 0.95


class Replicates:
    """Counts of C cells in each of B replicates; sums of row weights where rows are `weighted`."""

    def __init__(self, cells: int, replicates: int, weighted: bool = False) -> None:
        self.counts_CB = np.zeros((cells, replicates), np.float64 if weighted else np.int32)

    def add(
        self, cell_R: np.ndarray, user_R: np.ndarray, weight_UB: np.ndarray, row_weight_R: np.ndarray | None = None
    ) -> None:
        """Rows of a chunk: their cells, their users (0..U-1), the users' weights (float32 whole numbers)."""
        shape = (len(self.counts_CB), len(weight_UB))
        rows_R = np.ones(len(cell_R), np.float32) if row_weight_R is None else row_weight_R.astype(np.float64)
        counts_CU = scipy.sparse.csr_array((rows_R, (cell_R, user_R)), shape=shape)
        used = np.flatnonzero(np.diff(counts_CU.indptr))
        self.counts_CB[used] += (counts_CU[used] @ weight_UB).astype(self.counts_CB.dtype)

    def draw(self, counts_C: np.ndarray, rng: np.random.Generator, squares_C: np.ndarray | None = None) -> None:
        """Independent rows: every cell's count is Poisson around what was found.

        With `squares_C`, sums of squared row weights, counts_C are sums of weights: a cell is then a scaled Poisson
        number of the mean and the variance that its rows give it, each counted Poisson(1) times.
        """
        used = np.flatnonzero(counts_C)
        rows = counts_C[used, None]
        scale = 1 if squares_C is None else squares_C[used, None] / rows
        self.counts_CB[used] = scale * rng.poisson(rows / scale, (len(used), self.counts_CB.shape[1]))


def chunks(
    user_R: np.ndarray, bucket: int, seed: int, replicates: int
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Of rows sorted by user: (rows, local user_R, weight_UB) for some thousand users at a time."""
    if not len(user_R):
        return
    starts_U = np.flatnonzero(np.concatenate([[True], user_R[1:] != user_R[:-1]]))
    ends_U = np.append(starts_U[1:], len(user_R))
    for number, first in enumerate(range(0, len(starts_U), CHUNK_USERS)):
        last = min(first + CHUNK_USERS, len(starts_U))
        local_R = np.repeat(np.arange(last - first), ends_U[first:last] - starts_U[first:last])
        rng = np.random.default_rng([seed, bucket, number])
        weight_UB = rng.poisson(1.0, (last - first, replicates)).astype(np.float32)
        yield slice(starts_U[first], ends_U[last - 1]), local_R, weight_UB


def fine_bins(logit_R: np.ndarray) -> np.ndarray:
    """The bins of metrics.BinaryMetrics."""
    return np.clip((logit_R + LIMIT) * (BINS / (2 * LIMIT)), 0, BINS - 1).astype(np.int64)


class ScoreGroups:
    """Up to K groups of equal count, made of fine bins. counts_LN: rows by label and fine bin."""

    def __init__(self, counts_LN: np.ndarray, groups: int = GROUPS) -> None:
        used = np.flatnonzero(counts_LN.any(axis=0))
        self.size = groups
        self.counts_LV = counts_LN[:, used].astype(np.float64)
        self.logit_V = (used + 0.5) * (2 * LIMIT / BINS) - LIMIT
        """Centres of the V bins in use."""
        total_V = self.counts_LV.sum(0)
        before_V = np.cumsum(total_V) - total_V
        self.of_V = np.minimum(before_V * groups / (total_V.sum() or 1), groups - 1).astype(np.int64)
        self.of_N = np.zeros(BINS, np.int16)
        self.of_N[used] = self.of_V
        self.counts_LK = np.stack([np.bincount(self.of_V, row, groups) for row in self.counts_LV])

    def means(self, label: int, value_V: np.ndarray) -> np.ndarray:
        """Mean of a function of the score over the rows of a label, by group; 0 where there are none."""
        sums_K = np.bincount(self.of_V, self.counts_LV[label] * value_V, self.size)
        return sums_K / np.where(self.counts_LK[label] > 0, self.counts_LK[label], 1)


def figures_by_replicate(counts_2KB: np.ndarray, groups: ScoreGroups) -> dict[str, np.ndarray]:
    """auc, log_loss and pcoc of every replicate; NaN where it cannot be computed."""
    negative_KB, positive_KB = counts_2KB.astype(np.float64)
    logit_V = groups.logit_V
    predictions = [groups.means(label, 1 / (1 + np.exp(-logit_V))) for label in (0, 1)]
    losses = [groups.means(label, np.logaddexp(0, logit_V) - label * logit_V) for label in (0, 1)]
    positives_B, negatives_B = positive_KB.sum(0), negative_KB.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        below_KB = np.cumsum(negative_KB, axis=0) - 0.5 * negative_KB
        auc_B = (positive_KB * below_KB).sum(0) / (positives_B * negatives_B)
        log_loss_B = (losses[0] @ negative_KB + losses[1] @ positive_KB) / (positives_B + negatives_B)
        pcoc_B = (predictions[0] @ negative_KB + predictions[1] @ positive_KB) / positives_B
    return {"auc": auc_B, "log_loss": log_loss_B, "pcoc": pcoc_B}


def interval(value: float, same: float, replicates_B: np.ndarray) -> tuple[float, float] | None:
    """Percentile interval, moved by value - same (the figure from fine and from coarse counts).

    None where more than one replicate in ten could not be computed.
    """
    known_B = replicates_B[np.isfinite(replicates_B)]
    if len(known_B) < 0.9 * len(replicates_B):
        return None
    low, high = np.quantile(known_B, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low + value - same), float(high + value - same)


def intervals(
    values: dict[str, float],
    counts_2KB: np.ndarray,
    groups: ScoreGroups,
    keep: dict[str, np.ndarray] | None = None,
) -> dict[str, float]:
    """{"auc.low": ..., "auc.high": ...} for those figures of `values` that have an interval. `keep` is given their
    replicates, moved as the interval is."""
    same = figures_by_replicate(groups.counts_LK[:, :, None], groups)
    found = {}
    for name, replicates_B in figures_by_replicate(counts_2KB, groups).items():
        bounds = interval(values[name], float(same[name][0]), replicates_B) if name in values else None
        if bounds is not None:
            found[f"{name}.low"], found[f"{name}.high"] = bounds
            if keep is not None:
                keep[name] = replicates_B + (values[name] - float(same[name][0]))
    return found
