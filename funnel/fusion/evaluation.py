"""Is the tuned policy better? Measured on users it was not tuned on, against the untuned one and the best single score,
and beside the best of a grid of weights (funnel/fusion/grid.py).

Users are split in two by a seeded hash. The best single score and the grid's best are chosen on the half that is tuned
on. Intervals are over the test half's users (funnel/fusion/user_figures.py); those of gains are of differences user by
user. Whether to use the tuned policy is a matter of the first two; the grid says whether the search was needed for it.

R requests, U users, P policies.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import UserError
from es.hashing import hash64
from funnel.figures.verdict import Gain, verdict
from funnel.fusion.forms import Fusion, ScoredLog
from funnel.fusion.grid import Grid
from funnel.fusion.objective import METRICS, Constraint
from funnel.fusion.user_figures import UserFigures, means, too_few_rewards
from funnel.lists.request_blocks import Requests, Score, ranks_within

RIVALS = ("untuned", "best_single")


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
    constraints: tuple[Constraint, ...] = (),
    grid: Grid | None = None,
    possible: float = 0.0,
) -> dict[str, Any]:
    """Figures of the test half as `fusion.*` keys: each metric of each scoring, the gains, their
    intervals, "absent" (why there is none) and "message".

    Of each constraint: `fusion.kept.OUTCOME`, value@k of the outcome as a share of the untuned policy's, its interval,
    and whether it is at or above 1 - tolerance. `fusion.gauc.*` is reported only: see `weighted_gauc`. `metric` is the
    one tuned for: the message is about it. A gain is significant if the intervals of the gains over untuned and best
    single both lie above 0. `possible`: the largest reward a candidate may have, if the log need not show it.
    """
    values_PD = fusion.policy.decode(np.stack([theta_D, np.zeros_like(theta_D)]))
    if grid is not None:
        values_PD = np.concatenate([values_PD, grid.values_D[None]])
    fused = Requests.build(test.request_C, fusion.features(test), test.reward_C, k)
    single_requests = Requests.build(test.request_C, test.scores_MC, test.reward_C, k)
    user_R = np.zeros(fused.requests, np.int64)
    user_R[test.request_C] = test.user_C
    names = ("tuned", "untuned", "best_single", *(["grid"] if grid is not None else []))
    values = dict(zip(("tuned", "untuned", "grid"), values_PD, strict=False))
    alike = [name for name, values_D in values.items() if np.array_equal(values_D, values["tuned"])]
    found, why = UserFigures(), too_few_rewards(fused.rewarded)
    for each in METRICS:
        fused_PR = fused.per_request(lambda part: fusion.score(values_PD[part]), len(values_PD), each)
        single_1R = single_requests.per_request(_single_scores([single.index]), 1, each)
        per_SR = np.concatenate([fused_PR[:2], single_1R, fused_PR[2:]])
        counted_R = np.ones(fused.requests) if each == "value" else (fused.ideal_R > 0).astype(np.float64)
        largest = max(float(test.reward_C.max()), possible) if each == "value" else 1.0
        measured = means(f"fusion.{each}_at_{k}", names, per_SR, counted_R, user_R, largest, why, alike)
        found.figures |= measured.figures
        found.absent |= measured.absent
    for constraint in constraints:
        outcome = Requests.build(test.request_C, fusion.features(test), test.outcome(constraint.outcome), k)
        per_2R = outcome.per_request(lambda part: fusion.score(values_PD[:2][part]), 2, "value")
        _kept(found, constraint, per_2R, user_R, test.users)
    figures: dict[str, Any] = {**found.figures, "absent": found.absent, "fusion.best_single_name": single.name}
    if grid is not None:
        figures |= {"fusion.grid_weights": grid.weights, "fusion.grid_points": grid.points}
    theta_by_scoring = {"tuned": theta_D, "untuned": np.zeros_like(theta_D)}
    fused_by_scoring = {name: fusion.fused(test, theta) for name, theta in theta_by_scoring.items()}
    for name, fused_C in {**fused_by_scoring, "best_single": test.scores_MC[single.index]}.items():
        gauc = weighted_gauc(test.user_C, test.reward_C > 0, fused_C)
        figures |= {} if gauc is None else {f"fusion.gauc.{name}": gauc}
    key = f"fusion.{metric}_at_{k}"
    lengths_R = np.bincount(test.request_C)
    return figures | {
        "fusion.significant": all(Gain.of(figures, f"{key}.gain_over_{name}", name).significant for name in RIVALS),
        "message": message(figures, key, metric, k, test.users),
        "fusion.test_users": test.users,
        "fusion.test_requests": fused.requests,
        "fusion.test_requests_with_reward": fused.rewarded,
        "fusion.test_requests_of_at_most_k": int(np.count_nonzero(lengths_R <= k)),
        "fusion.test_requests_of_one": int(np.count_nonzero(lengths_R == 1)),
    }


def _kept(found: UserFigures, constraint: Constraint, per_2R: np.ndarray, user_R: np.ndarray, users: int) -> None:
    """Tuned over untuned, user by user."""
    tuned_U, untuned_U = (np.bincount(user_R, weights=row, minlength=users) for row in per_2R)
    key = f"fusion.kept.{constraint.outcome}"
    if untuned_U.any():
        found.ratio(key, tuned_U, untuned_U)
        found.figures[f"{key}.met"] = found.figures[key] >= 1 - constraint.tolerance


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


def message(figures: dict[str, Any], key: str, metric: str, k: int, users: int) -> str:
    """The verdict over untuned and best single score, then what a grid search of weights would have done."""
    single = f"{figures['fusion.best_single_name']} alone, the best score"
    names = {"untuned": "the untuned fusion", "best_single": single}
    gains = [Gain.of(figures, f"{key}.gain_over_{name}", names[name]) for name in RIVALS]
    unit = f"{'value' if metric == 'value' else 'NDCG'}@{k}"
    told = verdict("Tuning", gains, "+.4f", unit, f" over {users:,} held-out users")
    if f"{key}.grid" not in figures:
        return told
    grid = Gain.of(figures, f"{key}.gain_over_grid", "")
    if grid.absent:
        return told
    word = "more than" if grid.low > 0 else "less than" if grid.high < 0 else "no difference to tell from"
    return (
        f"{told} That is {word} a grid search of {figures['fusion.grid_points']} weights "
        f"({grid.value:+.4f}, {grid.low:+.4f} to {grid.high:+.4f})."
    )
