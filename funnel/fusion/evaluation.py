"""Is the tuned policy better? Measured on users it was not tuned on, against the untuned one and the best single score.

Users are split in two by a seeded hash. The best single score is chosen on the half that is tuned on. Intervals are
percentile bootstrap intervals over the test half's users (all requests of a user go together), the same resamples for
every figure, so that those of the gains are paired.

S scorings, R requests, U users, B resamples.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import UserError
from es.hashing import hash64
from funnel.figures.resampling import bootstrap_ratios, percentiles
from funnel.fusion.forms import Fusion, ScoredLog
from funnel.fusion.objective import METRICS, Constraint
from funnel.lists.request_blocks import Requests, Score, ranks_within

SCORINGS = ("tuned", "untuned", "best_single")


def split_users(user_keys_U: np.ndarray, seed: int, tune_share: float = 0.5) -> np.ndarray:
    """True for the users to tune on: the share with the smallest seeded hashes, at least one on each side.

    `user_keys_U` (uint64) identifies each user wherever it stands in the file. UserError for a single user.
    """
    users = len(user_keys_U)
    if users < 2:
        raise UserError(f"{users} user in all: tuning on some users and testing on others needs at least two")
    order = np.lexsort((user_keys_U, hash64((seed,), user_keys_U)))
    tune = np.zeros(users, bool)
    tune[order[: min(max(round(users * tune_share), 1), users - 1)]] = True
    return tune


@dataclass(frozen=True)
class Baseline:
    """A single score and the metric it reached on the tune half."""

    index: int
    name: str
    on_tune: float


def best_single(tune: ScoredLog, metric: str, k: int) -> Baseline:
    """The score that orders the tune half best by itself (the first of equals)."""
    requests = Requests.build(tune.request_C, tune.scores_MC, tune.reward_C, k)
    reached = requests.mean(_single_scores(range(len(tune.names))), len(tune.names), metric)
    best = int(np.argmax(reached))
    return Baseline(best, tune.names[best], float(reached[best]))


def _single_scores(indices: Any) -> Any:
    chosen = np.asarray(list(indices))

    def of_part(part: slice) -> Score:
        return lambda features_ML1G: np.ascontiguousarray(features_ML1G[chosen[part], :, 0].transpose(1, 0, 2))

    return of_part


def compare(
    test: ScoredLog,
    fusion: Fusion,
    theta_D: np.ndarray,
    single: Baseline,
    metric: str,
    k: int,
    resamples: int,
    seed: int,
    constraints: tuple[Constraint, ...] = (),
) -> dict[str, Any]:
    """Figures of the test half as `fusion.*` keys: each metric of each scoring, the gains, their
    intervals, and "message".

    Of each constraint: `fusion.kept.OUTCOME`, value@k of the outcome as a share of the untuned policy's, its interval,
    and whether it is at or above 1 - tolerance. `fusion.gauc.*` is reported only: see `weighted_gauc`. `metric` is the
    one tuned for: the message is about it. A gain is significant if the intervals of the gains over both baselines lie
    above 0.
    """
    values_2D = fusion.policy.decode(np.stack([theta_D, np.zeros_like(theta_D)]))
    fused = Requests.build(test.request_C, fusion.features(test), test.reward_C, k)
    single_requests = Requests.build(test.request_C, test.scores_MC, test.reward_C, k)
    user_R = np.zeros(fused.requests, np.int64)
    user_R[test.request_C] = test.user_C
    figures: dict[str, Any] = {"fusion.best_single_name": single.name}
    for each in METRICS:
        per_SR = np.concatenate(
            [
                fused.per_request(lambda part: fusion.score(values_2D[part]), 2, each),
                single_requests.per_request(_single_scores([single.index]), 1, each),
            ]
        )
        counted_R = np.ones(fused.requests) if each == "value" else (fused.ideal_R > 0).astype(np.float64)
        figures |= _figures(f"fusion.{each}_at_{k}", per_SR, counted_R, user_R, test.users, resamples, seed)
    for constraint in constraints:
        outcome = Requests.build(test.request_C, fusion.features(test), test.outcome(constraint.outcome), k)
        per_2R = outcome.per_request(lambda part: fusion.score(values_2D[part]), 2, "value")
        figures |= _kept(constraint, per_2R, user_R, test.users, resamples, seed)
    theta_by_scoring = {"tuned": theta_D, "untuned": np.zeros_like(theta_D)}
    fused_by_scoring = {name: fusion.fused(test, theta) for name, theta in theta_by_scoring.items()}
    for name, fused_C in {**fused_by_scoring, "best_single": test.scores_MC[single.index]}.items():
        gauc = weighted_gauc(test.user_C, test.reward_C > 0, fused_C)
        figures |= {} if gauc is None else {f"fusion.gauc.{name}": gauc}
    key = f"fusion.{metric}_at_{k}"
    low = min(figures[f"{key}.gain_over_{name}.low"] for name in SCORINGS[1:])
    lengths_R = np.bincount(test.request_C)
    return figures | {
        "fusion.significant": bool(low > 0),
        "message": found(figures, key, metric, k, test.users),
        "fusion.test_users": test.users,
        "fusion.test_requests": fused.requests,
        "fusion.test_requests_with_reward": fused.rewarded,
        "fusion.test_requests_of_at_most_k": int(np.count_nonzero(lengths_R <= k)),
        "fusion.test_requests_of_one": int(np.count_nonzero(lengths_R == 1)),
    }


def _figures(
    key: str, per_SR: np.ndarray, counted_R: np.ndarray, user_R: np.ndarray, users: int, resamples: int, seed: int
) -> dict[str, float]:
    sums_SU = np.stack([np.bincount(user_R, weights=row, minlength=users) for row in per_SR])
    counts_U = np.bincount(user_R, weights=counted_R, minlength=users)
    assert counts_U.any(), "a log without any reward"
    means_S = sums_SU.sum(axis=1) / counts_U.sum()
    means_SB = bootstrap_ratios(sums_SU, counts_U, resamples, seed)
    figures: dict[str, float] = {}
    for name, mean, means_B in zip(SCORINGS, means_S, means_SB, strict=True):
        figures |= percentiles(f"{key}.{name}", mean, means_B)
    for index, name in enumerate(SCORINGS[1:], start=1):
        figures |= percentiles(f"{key}.gain_over_{name}", means_S[0] - means_S[index], means_SB[0] - means_SB[index])
    return figures


def _kept(
    constraint: Constraint, per_2R: np.ndarray, user_R: np.ndarray, users: int, resamples: int, seed: int
) -> dict[str, Any]:
    """Tuned over untuned, user by user in the same resamples."""
    tuned_U, untuned_U = (np.bincount(user_R, weights=row, minlength=users) for row in per_2R)
    key = f"fusion.kept.{constraint.outcome}"
    if not untuned_U.any():
        return {}
    share = float(tuned_U.sum() / untuned_U.sum())
    shares_B = bootstrap_ratios(tuned_U[None], untuned_U, resamples, seed)[0]
    return {**percentiles(key, share, shares_B), f"{key}.met": share >= 1 - constraint.tolerance}


def weighted_gauc(group_C: np.ndarray, positive_C: np.ndarray, score_C: np.ndarray) -> float | None:
    """AUC within each group that has both kinds, weighted by its candidates; None if no group has.

    Only ever reported: it rewards ordering the long tail of lists as much as their tops, and a controlled study that
    maximised it lost true value.
    """
    lengths_G, positives_G = np.bincount(group_C), np.bincount(group_C, weights=positive_C)
    ascending_C = lengths_G[group_C] + 1 - ranks_within(group_C, score_C)
    sums_G = np.bincount(group_C, weights=np.where(positive_C, ascending_C, 0.0))
    pairs_G = positives_G * (lengths_G - positives_G)
    both_G = pairs_G > 0
    if not both_G.any():
        return None
    auc_G = (sums_G - positives_G * (positives_G + 1) / 2)[both_G] / pairs_G[both_G]
    return float((auc_G * lengths_G[both_G]).sum() / lengths_G[both_G].sum())


def found(figures: dict[str, Any], key: str, metric: str, k: int, users: int) -> str:
    """One sentence: the gain over the stronger baseline, its interval, and whether it is significant."""
    name = max(SCORINGS[1:], key=lambda each: figures[f"{key}.{each}"])
    rival = (
        "the untuned fusion" if name == "untuned" else f"{figures['fusion.best_single_name']}, the best single score"
    )
    gain = f"{key}.gain_over_{name}"
    low = min(figures[f"{key}.gain_over_{each}.low"] for each in SCORINGS[1:])
    metric = f"{'value' if metric == 'value' else 'NDCG'}@{k}"
    measured = f"{figures[gain]:+.4f} {metric} against {rival} (95% interval {figures[gain + '.low']:+.4f} to "
    measured += f"{figures[gain + '.high']:+.4f} over {users:,} held-out users)"
    if low > 0:
        return f"Tuning gains {measured}: significant."
    if figures[gain + ".high"] < 0:
        return f"Tuning loses {measured}: keep {rival}."
    return f"Tuning changes {measured}: not significant, keep {rival}."
