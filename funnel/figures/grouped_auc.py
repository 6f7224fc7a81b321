"""GAUC: each user's own AUC, weighted by the user's exposures, over users who have both labels.

Where rows have weights, a row stands for so many: in the AUC of its user and in what the user weighs.
Shapes: R rows, U users.
"""

from dataclasses import dataclass, field

import numpy as np


def auc_by_user(
    user_R: np.ndarray, score_R: np.ndarray, label_R: np.ndarray, weight_R: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(auc_U, rows_U) for users 0 .. max(user_R); NaN where a user has one label only. Ties count half.

    AUC = (sum of the ranks of positives - n+ (n+ + 1)/2) / (n+ n-), ranks within the user, averaged over ties. With
    weights it is sum over pairs w+ w- [score+ > score-] / (W+ W-), and rows_U are sums of weights.
    """
    if weight_R is not None:
        return weighted_auc_by_user(user_R, score_R, label_R, weight_R)
    users = int(user_R.max(initial=-1)) + 1
    order_R = np.lexsort((score_R, user_R))
    user_R, score_R, label_R = user_R[order_R], score_R[order_R], label_R[order_R] > 0.5
    rows_U = np.bincount(user_R, minlength=users)
    start_U = np.cumsum(rows_U) - rows_U
    first_R = np.ones(len(user_R), bool)
    first_R[1:] = (user_R[1:] != user_R[:-1]) | (score_R[1:] != score_R[:-1])
    tie_R = np.cumsum(first_R) - 1
    begin_T = np.flatnonzero(first_R)
    length_T = np.diff(np.append(begin_T, len(user_R)))
    rank_R = (begin_T + (length_T + 1) / 2)[tie_R] - start_U[user_R]
    positives_U = np.bincount(user_R, label_R, users)
    negatives_U = rows_U - positives_U
    ranks_U = np.bincount(user_R, rank_R * label_R, users)
    with np.errstate(invalid="ignore", divide="ignore"):
        auc_U = (ranks_U - positives_U * (positives_U + 1) / 2) / (positives_U * negatives_U)
    return auc_U, rows_U


def weighted_auc_by_user(
    user_R: np.ndarray, score_R: np.ndarray, label_R: np.ndarray, weight_R: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """auc_by_user where rows have weights."""
    users = int(user_R.max(initial=-1)) + 1
    order_R = np.lexsort((score_R, user_R))
    user_R, score_R, label_R = user_R[order_R], score_R[order_R], label_R[order_R] > 0.5
    weight_R = weight_R[order_R].astype(np.float64)
    first_R = np.ones(len(user_R), bool)
    first_R[1:] = (user_R[1:] != user_R[:-1]) | (score_R[1:] != score_R[:-1])
    tie_R = np.cumsum(first_R) - 1
    negative_T = np.bincount(tie_R, weight_R * ~label_R)
    positive_T = np.bincount(tie_R, weight_R * label_R)
    user_T = user_R[first_R]
    negatives_U, positives_U = (np.bincount(user_T, part_T, users) for part_T in (negative_T, positive_T))
    # Weights of negatives below a tie: of all before it, less those of the users before.
    below_T = np.cumsum(negative_T) - negative_T - (np.cumsum(negatives_U) - negatives_U)[user_T]
    wins_U = np.bincount(user_T, positive_T * (below_T + negative_T / 2), users)
    with np.errstate(invalid="ignore", divide="ignore"):
        return wins_U / (positives_U * negatives_U), positives_U + negatives_U


@dataclass
class GroupedAuc:
    """Sums over chunks of whole users, and the same sums in every replicate of the bootstrap."""

    replicates: int
    sums_2B: np.ndarray = field(init=False)
    total: float = 0.0
    rows: float = 0
    users: int = 0
    left_out: int = 0

    def __post_init__(self) -> None:
        self.sums_2B = np.zeros((2, self.replicates))

    def add(
        self,
        user_R: np.ndarray,
        score_R: np.ndarray,
        label_R: np.ndarray,
        weight_UB: np.ndarray,
        row_weight_R: np.ndarray | None = None,
    ) -> None:
        """Rows of a chunk in which users are numbered from 0; weight_UB has a line for each of them."""
        auc_U, rows_U = auc_by_user(user_R, score_R, label_R, row_weight_R)
        counted_U = np.isfinite(auc_U)
        self.left_out += int(((rows_U > 0) & ~counted_U).sum())
        self.users += int(counted_U.sum())
        self.total += float((auc_U * rows_U)[counted_U].sum())
        self.rows += rows_U[counted_U].sum().item()
        terms_2U = np.stack([(auc_U * rows_U)[counted_U], rows_U[counted_U].astype(np.float64)])
        self.sums_2B += terms_2U @ weight_UB[: len(rows_U)][counted_U]

    def figures(self) -> dict[str, float]:
        """gauc, its replicates' interval, how many users it rests on and how many have one label only."""
        found: dict[str, float] = {"gauc_users": self.users, "gauc_users_left_out": self.left_out}
        if self.rows:
            found["gauc"] = self.total / self.rows
        return found

    def by_replicate(self) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return self.sums_2B[0] / self.sums_2B[1]
