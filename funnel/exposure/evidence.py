"""Whether rows in the direction of a forest's shares come to more: a test before anybody's shares are moved.

Of every row r, by those trees alone that were not grown on it: the shares s_r that the forest would give, the mean
outcome m_r and the mean shares c_r of the row's leaves. With the way d_r = s_r - the log's mean shares,

    y_r - m_r = b (t_r - c_r) . d_r + error,     evidence = b / its standard error (heteroscedastic)

b above 0: who happened to be shown shares nearer to those of the forest brought more than others of the group. In noise
alone it lies within 2 for 19 of 20 logs. Shares are taken to be as good as drawn within a group of users.
Shapes: R rows, K categories, B trees, S points of a curve.
"""

import numpy as np

from funnel.exposure.additive import allocate
from funnel.exposure.forest import MDP2Forest, sampled_rows
from funnel.exposure.preference import whole
from funnel.exposure.shares import ShareRows

MOST, BLOCK = 20_000, 4096
"""Rows that are asked, at most, and how many at a time."""


def evidence(forest: MDP2Forest, rows: ShareRows, seed: int) -> float:
    """Standard errors by which b is above 0; 0 where no tree left rows out. rows: what the forest was fitted on."""
    asked = np.sort(np.random.default_rng([seed, 23]).permutation(len(rows))[:MOST])
    bins_AF, shares_AK, outcome_A = forest.bins(rows.features_RF[asked]), rows.shares_RK[asked], rows.outcome_R[asked]
    out_BA, leaf_BA = [], []
    sums_A, count_A = np.zeros((len(asked), shares_AK.shape[1] + 1)), np.zeros(len(asked))
    both_A = np.column_stack([outcome_A, shares_AK])
    for number, tree in enumerate(forest.trees):
        grown_R = np.zeros(len(rows), bool)
        grown_R[sampled_rows(len(rows), forest.sampled(rows), seed, number)[0]] = True
        out_A, leaf_A = ~grown_R[asked], tree.leaves(bins_AF)
        nodes = len(tree.feature_V)
        grown_V = np.bincount(leaf_A[~out_A], minlength=nodes)
        mean_V = np.stack([np.bincount(leaf_A[~out_A], value_A[~out_A], nodes) for value_A in both_A.T], axis=1)
        out_A &= grown_V[leaf_A] > 0
        sums_A[out_A] += (mean_V / np.maximum(grown_V, 1)[:, None])[leaf_A[out_A]]
        count_A += out_A
        out_BA.append(out_A)
        leaf_BA.append(leaf_A)
    known = np.flatnonzero(count_A > 0)
    if len(known) < 3:
        return 0.0
    given_AK = np.concatenate([of_others(forest, out_BA, leaf_BA, part) for part in np.split(known, range(
        BLOCK, len(known), BLOCK))])  # fmt: skip
    centre_A = sums_A[known] / count_A[known, None]
    way_AK = given_AK - rows.shares_RK.mean(axis=0)
    along_A = ((shares_AK[known] - centre_A[:, 1:]) * way_AK).sum(axis=1)
    gap_A, size = outcome_A[known] - centre_A[:, 0], float(along_A @ along_A)
    if not size:
        return 0.0
    slope = float(along_A @ gap_A) / size
    error = float(np.sqrt(np.square(along_A * (gap_A - slope * along_A)).sum())) / size
    return slope / error if error else 0.0


def of_others(forest: MDP2Forest, out_BA: list[np.ndarray], leaf_BA: list[np.ndarray], part: np.ndarray) -> np.ndarray:
    """(R, K): the forest's shares of these rows by the trees that they were left out of."""
    values = forest.curves or [tree.shares_VK for tree in forest.trees]
    total, count = np.zeros((len(part), *values[0].shape[1:])), np.zeros(len(part))
    for value, out_A, leaf_A in zip(values, out_BA, leaf_BA, strict=True):
        own = np.flatnonzero(out_A[part])
        total[own] += value[leaf_A[part[own]]]
        count[own] += 1
    mean = total / count.reshape(-1, *[1] * (total.ndim - 1))
    return allocate(mean, forest.reach_K) if forest.curves else np.asarray(whole(mean))
