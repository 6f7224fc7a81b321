"""What one outcome costs in another: tune a fusion for each of several trade-offs, judge all on the other half.

    objectives = weight_objectives(tune, "click", "conversion", fusion, k=10)
    points = sweep(test, objectives, ("click", "conversion"), ESConfig(generations=60))

Two ways to make the objectives: mixtures (1 - w) A + w B of two outcomes, each relative to its mean; or the reward
under a constraint of ever larger penalty. Values are value@k of each outcome on the half that was not tuned on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from es import engine
from es.config import ESConfig
from funnel.fusion.forms import Fusion, ScoredLog
from funnel.fusion.objective import Constraint, ScoreFusion
from funnel.fusion.user_figures import means
from funnel.lists.request_blocks import Requests


@dataclass(frozen=True)
class Point:
    """A tuned policy (or the untuned one), its two held-out values with 95% intervals; `efficient`: on the front."""

    label: str
    theta: tuple[float, ...]
    first: float
    second: float
    first_interval: tuple[float, float]
    second_interval: tuple[float, float]
    efficient: bool


def weight_objectives(
    tune: ScoredLog,
    first: str,
    second: str,
    fusion: Fusion,
    k: int,
    weights: tuple[float, ...] = (0, 0.25, 0.5, 0.75, 1),
) -> dict[str, ScoreFusion]:
    """An objective for each mixture: value@k of (1 - w) first / mean(first) + w second / mean(second)."""
    columns = [tune.outcome(name).astype(np.float64) for name in (first, second)]
    for name, column in zip((first, second), columns, strict=True):
        if not column.any():
            raise ValueError(f"outcome {name!r} is 0 throughout: there is nothing to trade")
    one_C, other_C = (column / column.mean() for column in columns)
    objectives = {}
    for weight in weights:
        mixed_C = ((1 - weight) * one_C + weight * other_C).astype(np.float32)
        objectives[f"weight {weight:g}"] = ScoreFusion(replace(tune, reward_C=mixed_C), fusion, "value", k)
    return objectives


def penalty_objectives(
    tune: ScoredLog, constraint: Constraint, fusion: Fusion, k: int, penalties: tuple[float, ...] = (0, 0.3, 1, 3, 10)
) -> dict[str, ScoreFusion]:
    """An objective for each penalty: value@k of the reward, the constrained outcome held ever more firmly."""
    return {
        f"penalty {penalty:g}": ScoreFusion(tune, fusion, "value", k, (replace(constraint, penalty=penalty),))
        for penalty in penalties
    }


def sweep(
    test: ScoredLog,
    objectives: Mapping[str, ScoreFusion],
    outcomes: tuple[str, str],
    config: ESConfig,
) -> list[Point]:
    """Tune each objective with the same settings and seed; the untuned policy comes first."""
    fusion = next(iter(objectives.values())).fusion
    thetas = {"untuned": fusion.policy.initial()}
    thetas |= {label: engine.run(objective, config).theta for label, objective in objectives.items()}
    k = next(iter(objectives.values())).k
    values_PD = fusion.policy.decode(np.stack(list(thetas.values())))
    judged: list[tuple[np.ndarray, np.ndarray]] = []
    for name in outcomes:
        requests = Requests.build(test.request_C, fusion.features(test), test.outcome(name), k)
        per_PR = requests.per_request(lambda part: fusion.score(values_PD[part]), len(values_PD), "value")
        judged.append(_means(per_PR, test))
    (first_P, first_2P), (second_P, second_2P) = judged
    efficient_P = on_front(first_P, second_P)
    return [
        Point(
            label,
            tuple(theta_D.tolist()),
            float(first_P[index]),
            float(second_P[index]),
            (float(first_2P[0, index]), float(first_2P[1, index])),
            (float(second_2P[0, index]), float(second_2P[1, index])),
            bool(efficient_P[index]),
        )
        for index, (label, theta_D) in enumerate(thetas.items())
    ]


def _means(per_PR: np.ndarray, test: ScoredLog) -> tuple[np.ndarray, np.ndarray]:
    """Means over requests, (P,), and the ends of their intervals over users, (2, P); NaN where users are too few."""
    user_R = np.zeros(per_PR.shape[1], np.int64)
    user_R[test.request_C] = test.user_C
    names = [str(index) for index in range(len(per_PR))]
    found = means("", names, per_PR, np.ones(per_PR.shape[1]), user_R, 0.0).figures
    ends_2P = [[found.get(f".{name}.{end}", np.nan) for name in names] for end in ("low", "high")]
    return per_PR.mean(axis=1), np.array(ends_2P)


def on_front(first_P: np.ndarray, second_P: np.ndarray) -> np.ndarray:
    """True for a point that no other equals or beats in both values and beats in one, (P,)."""
    at_least = (first_P[:, None] >= first_P) & (second_P[:, None] >= second_P)
    more = (first_P[:, None] > first_P) | (second_P[:, None] > second_P)
    return np.asarray(~(at_least & more).any(axis=0))
