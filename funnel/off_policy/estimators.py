"""The value of a policy from a log that another policy wrote, knowing how likely each logged action was.

With weights w_r = pi(a_r | x_r) / p_r (p_r the logging policy's probability of the logged action), rewards y_r:

    ips      mean_r w_r y_r                                     unbiased; Horvitz and Thompson 1952
    clipped  mean_r min(w_r, clip) y_r                          bounded variance, biased towards 0 for rewards above 0
    snips    sum_r w_r y_r / sum_r w_r                          Swaminathan and Joachims 2015
    dr       mean_r [ sum_a pi(a|x_r) q(x_r, a) + w_r (y_r - q(x_r, a_r)) ]     Dudik et al. 2011; q a reward model

Standard errors: of the mean, and for snips the delta method's sqrt(sum w^2 (y - value)^2) / sum w. The effective sample
size is (sum w)^2 / sum w^2, over all rounds.

R rounds, A actions, F features.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from funnel.figures.intervals import effective_size

ESTIMATORS = ("ips", "clipped", "snips", "dr")


@dataclass(frozen=True)
class Estimate:
    """A value, its standard error and the effective sample size behind it."""

    value: float
    standard_error: float
    effective_size: float

    def lower(self, level: float) -> float:
        """Lower end of the one-sided confidence interval of that level, by the normal approximation."""
        return self.value - NormalDist().inv_cdf(level) * self.standard_error


def ratio_parts(
    kind: str,
    weight_R: np.ndarray,
    reward_R: np.ndarray,
    clip: float = math.inf,
    expected_R: np.ndarray | None = None,
    predicted_R: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators of rounds whose ratio of sums is the value; both (R,) float64.

    For dr: `expected_R` = sum_a pi(a|x) q(x, a), `predicted_R` = q of the logged action.
    """
    assert kind in ESTIMATORS, kind
    ones_R = np.ones(len(reward_R))
    if kind == "ips":
        return weight_R * reward_R, ones_R
    if kind == "clipped":
        return np.minimum(weight_R, clip) * reward_R, ones_R
    if kind == "snips":
        return weight_R * reward_R, weight_R
    assert expected_R is not None
    assert predicted_R is not None
    return expected_R + weight_R * (reward_R - predicted_R), ones_R


def estimate(kind: str, weight_R: np.ndarray, parts: tuple[np.ndarray, np.ndarray]) -> Estimate:
    """From the parts of `ratio_parts`. All weights 0: value 0 with an infinite standard error."""
    numerator_R, denominator_R = parts
    rounds, total = len(weight_R), float(np.add.reduce(denominator_R))
    if total <= 0:
        return Estimate(0.0, math.inf, 0.0)
    value = float(np.add.reduce(numerator_R)) / total
    residual_R = numerator_R - value * denominator_R
    spread = float(np.add.reduce(residual_R * residual_R))
    if kind != "snips":
        spread *= rounds / max(rounds - 1, 1)
    return Estimate(value, math.sqrt(spread) / total, effective_size(weight_R))


def estimate_gain(
    kind: str, weight_R: np.ndarray, parts: tuple[np.ndarray, np.ndarray], rival: tuple[np.ndarray, np.ndarray]
) -> Estimate:
    """The value less that of a rival on the same rounds. Rounds in which both do the same add no error: the standard
    error is that of the sum of paired residuals, sqrt(sum_r (e_r - e'_r)^2), e_r = (y_r - value d_r) / sum d for a
    value sum y / sum d."""
    own, other = estimate(kind, weight_R, parts), estimate(kind, weight_R, rival)
    if not (math.isfinite(own.standard_error) and math.isfinite(other.standard_error)):
        return Estimate(own.value - other.value, math.inf, own.effective_size)
    residual_R = np.zeros(len(weight_R))
    for sign, found, (numerator_R, denominator_R) in ((1, own, parts), (-1, other, rival)):
        residual_R += sign * (numerator_R - found.value * denominator_R) / np.add.reduce(denominator_R)
    spread = float(np.add.reduce(residual_R * residual_R))
    if kind != "snips":
        spread *= len(weight_R) / max(len(weight_R) - 1, 1)
    return Estimate(own.value - other.value, math.sqrt(spread), own.effective_size)


def ridge_rewards(
    context_FR: np.ndarray, action_R: np.ndarray, reward_R: np.ndarray, actions: int, penalty: float = 100.0
) -> np.ndarray:
    """A linear reward model for each action, (A, 1 + F): intercept first. Ridge regression of reward minus mean reward.

    `penalty` counts as so many rounds at the mean: an action never taken is predicted the mean reward.
    """
    mean = reward_R.mean()
    design_GR = np.concatenate([np.ones((1, len(reward_R))), context_FR])
    weights_AG = np.zeros((actions, len(design_GR)))
    for action in range(actions):
        chosen_Gr = design_GR[:, action_R == action]
        gram_GG = chosen_Gr @ chosen_Gr.T + penalty * np.eye(len(design_GR))
        weights_AG[action] = np.linalg.solve(gram_GG, chosen_Gr @ (reward_R[action_R == action] - mean))
    weights_AG[:, 0] += mean
    return weights_AG


def predict_rewards(weights_AG: np.ndarray, context_FR: np.ndarray) -> np.ndarray:
    """q(x_r, a), (A, R)."""
    return weights_AG[:, :1] + weights_AG[:, 1:] @ context_FR


def cross_fitted_rewards(
    context_FR: np.ndarray,
    action_R: np.ndarray,
    reward_R: np.ndarray,
    actions: int,
    folds: int = 5,
    seed: int = 0,
    cluster_R: np.ndarray | None = None,
) -> np.ndarray:
    """q(x_r, a), (A, R), each round predicted by a model fitted on the other folds; a cluster's rounds share a fold."""
    if cluster_R is not None and len(cluster_R):
        fold_R = (np.random.default_rng(seed).permutation(int(cluster_R.max()) + 1) % folds)[cluster_R]
    else:
        fold_R = np.random.default_rng(seed).permutation(len(reward_R)) % folds
    predicted_AR = np.empty((actions, len(reward_R)))
    for fold in range(folds):
        fit, apply = fold_R != fold, fold_R == fold
        model_AG = ridge_rewards(context_FR[:, fit], action_R[fit], reward_R[fit], actions)
        predicted_AR[:, apply] = predict_rewards(model_AG, context_FR[:, apply])
    return predicted_AR
