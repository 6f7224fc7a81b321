"""What the random traffic says of each strategy, and which are weak: beaten by one that costs no more.

By effects: DML's average effects over the users, for which the rows of all strategies count; the error of a difference
is that of the two vectors' contrast. By means: the mean outcome of those who got a strategy, adjusted for who they are
(linear in the features) and for the days on which it was tried, by least squares on strategies, features and days;
batches are compared through the baseline, which is in all of them. Errors are robust and over users. Shapes: R rows,
A strategies, F features, D days, J of phi.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from funnel.effects.dml import VectorEffects
from funnel.effects.gram import covariance, scores, sums
from funnel.effects.reading import outcome_of
from funnel.incentives.proposals import weak
from funnel.incentives.strategies import NUMBERS

PENALTY = 1e-6


@dataclass(frozen=True)
class Review:
    """Of the strategies `ids_A`, the baseline first: what each brings against it (nan: not judged, for lack of rows
    or because the newest effects were fitted before there were enough)."""

    ids_A: np.ndarray
    gain_A: np.ndarray
    error_A: np.ndarray
    rows_A: np.ndarray
    weak_A: np.ndarray

    @property
    def weak_ids(self) -> np.ndarray:
        return np.asarray(self.ids_A[self.weak_A])

    def told(self, vectors_S3: np.ndarray, level: float) -> list[dict[str, Any]]:
        """A record a strategy, for the day's figures and the page."""
        found = []
        for a, number in enumerate(self.ids_A.tolist()):
            one: dict[str, Any] = {"strategy": number, "rows": int(self.rows_A[a]), "weak": bool(self.weak_A[a])}
            if vectors_S3.shape[1] == len(NUMBERS):
                one |= dict(zip(NUMBERS, vectors_S3[number].tolist(), strict=True))
            if np.isfinite(self.gain_A[a]):
                half = level * float(self.error_A[a])
                one |= {"gain": float(self.gain_A[a]), "low": float(self.gain_A[a]) - half,
                        "high": float(self.gain_A[a]) + half}  # fmt: skip
            found.append(one)
        return found


def rows_of(history: Sequence[Mapping[str, np.ndarray]], ids_A: np.ndarray) -> np.ndarray:
    """How many random rows got each strategy, (A,)."""
    arm_R = np.concatenate([each["arm"] for each in history])
    count_S = np.bincount(arm_R, minlength=int(ids_A.max()) + 1)
    return np.asarray(count_S[ids_A])


def by_effects(
    model: VectorEffects, x_RF: np.ndarray, vectors_A3: np.ndarray, ids_A: np.ndarray, rows_A: np.ndarray,
    cost_A: np.ndarray, level: float, least: int,
    tried_A: np.ndarray | None = None,
) -> Review:  # fmt: skip
    """Strategies with fewer than `least` rows are not judged, nor those which the model was not fitted on (`tried_A`
    False)."""
    slope_J, spread_JJ = model.mean_slopes(x_RF)
    contrast_AJ = model.contrasts(vectors_A3, vectors_A3[0])
    apart_AAJ = contrast_AJ[:, None] - contrast_AJ[None]
    error_AA = np.sqrt(np.maximum(np.einsum("abj,jk,abk->ab", apart_AAJ, spread_JJ, apart_AAJ), 0))
    gain_A, judged_A = contrast_AJ @ slope_J, rows_A >= max(least, 2)
    judged_A &= True if tried_A is None else tried_A
    return Review(ids_A, np.where(judged_A, gain_A, np.nan), error_AA[:, 0], rows_A,
                  found_weak(gain_A, error_AA, cost_A, level, judged_A))  # fmt: skip


def by_means(
    history: Sequence[Mapping[str, np.ndarray]], weights: Mapping[str, float], ids_A: np.ndarray, cost_A: np.ndarray,
    level: float, least: int,
) -> Review:  # fmt: skip
    """Strategies with fewer than `least` rows are not judged."""
    rows = {name: np.concatenate([each[name] for each in history])
            for name in history[0] if name != "batch"}  # fmt: skip
    day_R = np.repeat(np.arange(len(history)), [len(each["arm"]) for each in history])
    rows_A = rows_of(history, ids_A)
    place_S = np.full(max(int(rows["arm"].max()), int(ids_A.max())) + 1, -1)
    place_S[ids_A] = np.arange(len(ids_A))
    own_N = np.flatnonzero(place_S[rows["arm"]] >= 0)
    cluster_R = rows["user"][own_N] if "user" in rows else np.arange(len(own_N))
    mean_A, spread_AA = adjusted(place_S[rows["arm"][own_N]], len(ids_A), rows["x"][own_N].astype(np.float64),
                                 day_R[own_N], outcome_of(rows, weights)[own_N], cluster_R)  # fmt: skip
    judged_A, own_A = rows_A >= max(least, 2), np.diag(spread_AA)
    weak_A = found_weak(mean_A, np.sqrt(np.maximum(own_A, 0)), cost_A, level, judged_A)
    error_A = np.sqrt(np.maximum(own_A + own_A[0] - 2 * spread_AA[0], 0))
    return Review(ids_A, np.where(judged_A, mean_A - mean_A[0], np.nan), error_A, rows_A, weak_A)


def found_weak(
    value_A: np.ndarray, error_A: np.ndarray, cost_A: np.ndarray, level: float, judged_A: np.ndarray
) -> np.ndarray:
    """bool_A of proposals.weak among those that are judged."""
    own_N = np.flatnonzero(judged_A)
    weak_A = np.zeros(len(value_A), bool)
    if len(own_N):
        errors = error_A[own_N] if error_A.ndim == 1 else error_A[np.ix_(own_N, own_N)]
        weak_A[own_N] = weak(value_A[own_N], errors, cost_A[own_N], level)
    weak_A[int(np.argmin(cost_A))] = False  # the baseline, judged or not
    return weak_A


def adjusted(
    arm_R: np.ndarray, arms: int, x_RF: np.ndarray, day_R: np.ndarray, outcome_R: np.ndarray, cluster_R: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(mean outcome of each arm at the mean features and the mean day, the covariance of these)."""
    x_RF = np.nan_to_num(x_RF - np.nanmean(x_RF, 0))
    days_D = np.unique(day_R)
    day_RD = (day_R[:, None] == days_D[None, 1:]).astype(np.float64)
    rest_RQ = np.column_stack([x_RF, day_RD - day_RD.mean(0)])
    order_R = np.argsort(cluster_R, kind="stable")

    def block(piece: slice) -> tuple[np.ndarray, np.ndarray]:
        own_B = order_R[piece]
        return np.column_stack([np.eye(arms)[arm_R[own_B]], rest_RQ[own_B]]), outcome_R[own_B]

    total = sums(len(arm_R), arms + rest_RQ.shape[1], block)
    theta_Q = total.solve(PENALTY)
    spread_QQ = covariance(total, scores(theta_Q, len(arm_R), block, cluster_R[order_R]), PENALTY)
    return theta_Q[:arms], spread_QQ[:arms, :arms]
