"""The simulation of MDP2 Forest [Yu et al., KDD 2022, s.4.2 and B.1]: six categories, eight groups, a known optimum.

    features  age, sex, education, city, x_alpha, x_beta, independent
    shares    six whole numbers from 0 to 100, divided by their sum
    best      age < 45:        game .35, life .05       else .05, .35
              education >= 2:  film .25, outdoors .05   else .05, .25
              x_alpha >= .5:   food .25, beauty .05     else .05, .25
    outcome   - sum_k |t_k - best_k| + sum_k best_k^2 + noise

so the value lost by shares t is their L1 distance from the best ones, and best_k^2 sums to the same .255 for everybody:
the groups have no main effect, and what tells them apart is the shape of the response alone. The simulation is additive
in the shares. Shapes: R rows, F features, K categories.
"""

import numpy as np

from data.errors import UserError
from funnel.exposure.shares import ShareRows

CATEGORIES = ("film", "food", "game", "life", "outdoors", "beauty")
FEATURES = ("age", "sex", "education", "city", "x_alpha", "x_beta")
OFFSET = 2.0
"""Keeps outcomes above 0."""


def simulate(rows: int = 50_000, seed: int = 0, noise: float = 0.0) -> ShareRows:
    """The rows of one seed. noise: standard deviation of what is added to the outcome, which itself varies by .22."""
    if rows < 1 or not 0 <= noise < np.inf:
        raise UserError(f"rows is {rows} and noise {noise}; want at least 1 row and a finite noise of at least 0")
    random = np.random.default_rng([seed, 18])
    features_RF = np.stack(
        [
            random.integers(8, 71, rows),
            random.integers(0, 2, rows),
            random.integers(0, 5, rows),
            random.integers(0, 5, rows),
            random.random(rows),
            random.random(rows),
        ],
        axis=1,
    ).astype(np.float64)
    amount_RK = random.integers(0, 101, (rows, len(CATEGORIES))).astype(np.float64)
    amount_RK[amount_RK.sum(axis=1) == 0] = 1.0
    shares_RK = amount_RK / amount_RK.sum(axis=1, keepdims=True)
    best_RK = best_shares(features_RF)
    outcome_R = value(shares_RK, best_RK) + OFFSET + noise * random.standard_normal(rows)
    return ShareRows(features_RF, shares_RK, outcome_R, FEATURES, CATEGORIES, best_RK, "simulation")


def best_shares(features_RF: np.ndarray) -> np.ndarray:
    """(R, K): the optimum of each row's group."""
    age_R, education_R, alpha_R = features_RF[:, 0], features_RF[:, 2], features_RF[:, 4]

    def pair(first_R: np.ndarray, high: float) -> tuple[np.ndarray, np.ndarray]:
        return np.where(first_R, high, 0.05), np.where(first_R, 0.05, high)

    game_R, life_R = pair(age_R < 45, 0.35)
    film_R, outdoors_R = pair(education_R >= 2, 0.25)
    food_R, beauty_R = pair(alpha_R >= 0.5, 0.25)
    return np.stack([film_R, food_R, game_R, life_R, outdoors_R, beauty_R], axis=1)


def value(shares_RK: np.ndarray, best_RK: np.ndarray) -> np.ndarray:
    """(R,): the expected outcome of these shares, without the offset."""
    lost_R: np.ndarray = np.abs(shares_RK - best_RK).sum(axis=1)
    return (best_RK**2).sum(axis=1) - lost_R
