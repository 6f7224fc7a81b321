"""The baseline that a tuned fusion must beat: a grid search of the scores' weights, on the users that are tuned on.

The weights (exponents of a product) run over the simplex in equal steps: all shares of 1/STEPS that add up to 1, single
scores and, where the steps allow it, equal weights among them. An order does not change if all weights are doubled, so
nothing else need be tried. A fusion by rank is tried with several offsets too; biases stay as they are untuned, and
weights are the same for all users.

M scores, P points, D parameters.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from funnel.fusion.objective import ScoreFusion

OFFSETS = (1.0, 10.0, 100.0)
FINEST, MOST_POINTS = 12, 200
"""Steps of the simplex: as many as keep the points below the most."""


@dataclass(frozen=True)
class Grid:
    """The best point (the first of equals): values of the fusion's parameters, and the objective's return there."""

    values_D: np.ndarray
    weights: dict[str, float]
    points: int
    on_tune: float


def grid_search(objective: ScoreFusion) -> Grid:
    """The best of the grid on the objective's log."""
    fusion = objective.fusion
    names, start_D = list(fusion.policy.names), fusion.policy.decode(objective.initial()[None])[0]
    scores = len(fusion.names)
    weights_PM = simplex(scores)
    offsets = OFFSETS if fusion.kind == "rank" else (None,)
    values_PD = np.repeat(start_D[None], len(weights_PM) * len(offsets), axis=0)
    values_PD[:, :scores] = np.tile(weights_PM, (len(offsets), 1))
    if fusion.kind == "rank":
        values_PD[:, names.index("offset")] = np.repeat(OFFSETS, len(weights_PM))
    return_P = objective.evaluate(values_PD)
    best = int(np.argmax(return_P))
    changed = [index for index, name in enumerate(names) if index < scores or name == "offset"]
    return Grid(
        values_PD[best],
        {names[index]: round(float(values_PD[best, index]), 6) for index in changed},
        len(values_PD),
        float(return_P[best]),
    )


def simplex(scores: int) -> np.ndarray:
    """All weights in steps of 1/n that add up to 1, (P, M): n a multiple of M where that fits."""
    sizes = {steps: count(scores, steps) for steps in range(1, FINEST + 1)}
    fitting = [steps for steps, points in sizes.items() if points <= MOST_POINTS] or [1]
    steps = max([each for each in fitting if each % scores == 0] or fitting)
    points = [
        np.diff(np.array([-1, *bars, steps + scores - 1])) - 1
        for bars in itertools.combinations(range(steps + scores - 1), scores - 1)
    ]
    return np.array(points, np.float64)[::-1] / steps


def count(scores: int, steps: int) -> int:
    """Points of the simplex: steps + M - 1 over M - 1."""
    total = 1
    for index in range(1, scores):
        total = total * (steps + index) // index
    return total
