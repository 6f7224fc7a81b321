"""What a policy is worth on rows whose propensities are known: IPS, SNIPS and DR with intervals.

Estimators are those of funnel/off_policy/estimators.py, intervals those of funnel/figures/intervals.py (they hold where
matches are few). Shapes: R rows, A arms, U clusters of rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from funnel.figures.intervals import effective_size, interval, tail_index
from funnel.off_policy.estimators import ratio_parts

ESTIMATORS = ("ips", "snips", "dr")
FEWEST = 20
"""Rows that a value rests on (effectively), at least."""


@dataclass(frozen=True)
class Logged:
    """Rows that judge: what they got, how likely that was, what came of it."""

    arm_R: np.ndarray
    propensity_R: np.ndarray
    """Of the arm that the row got."""
    outcome_R: np.ndarray
    level_RA: np.ndarray | None = None
    """Expected outcomes by a model that did not see these rows: what dr builds on."""
    cluster_R: np.ndarray | None = None


@dataclass(frozen=True)
class Value:
    """An estimate with its interval and what it rests on; each row's part of its error, for differences."""

    value: float
    low: float
    high: float
    effective: float
    part_R: np.ndarray

    def figures(self, key: str) -> dict[str, float]:
        return {key: self.value, f"{key}.low": self.low, f"{key}.high": self.high}


def policy_value(policy_RA: np.ndarray, logged: Logged, estimator: str = "dr") -> Value:
    """The mean outcome if every row were treated by the policy. `policy_RA`: probabilities, or (R,) arms."""
    rows = np.arange(len(logged.arm_R))
    same_R = policy_RA == logged.arm_R if policy_RA.ndim == 1 else policy_RA[rows, logged.arm_R]
    own_R = same_R.astype(np.float64)
    weight_R = own_R / logged.propensity_R
    expected_R = predicted_R = None
    if estimator == "dr":
        assert logged.level_RA is not None, "dr needs a model of the outcomes"
        level_RA = logged.level_RA
        expected_R = level_RA[rows, policy_RA] if policy_RA.ndim == 1 else (policy_RA * level_RA).sum(1)
        predicted_R = level_RA[rows, logged.arm_R]
    top_R, bottom_R = ratio_parts(estimator, weight_R, logged.outcome_R, np.inf, expected_R, predicted_R)
    total = float(bottom_R.sum())
    if total <= 0:
        return Value(0.0, -np.inf, np.inf, 0.0, np.zeros(len(rows)))
    value = float(top_R.sum()) / total
    part_R = (top_R - value * bottom_R) / total
    tail = tail_index(weight_R)
    low, high = interval(value, summed(part_R, logged.cluster_R), tail=tail)
    return Value(value, low, high, effective_size(weight_R), part_R)


def gain(own: Value, other: Value, logged: Logged) -> Value:
    """One policy's value less another's on the same rows: what both do alike adds no error."""
    part_R = own.part_R - other.part_R
    difference = own.value - other.value
    low, high = interval(difference, summed(part_R, logged.cluster_R), tail=tail_index(part_R))
    return Value(difference, low, high, min(own.effective, other.effective), part_R)


def summed(part_R: np.ndarray, cluster_R: np.ndarray | None) -> np.ndarray:
    if cluster_R is None or not len(cluster_R):
        return part_R
    _, own_R = np.unique(cluster_R, return_inverse=True)
    return np.bincount(own_R, part_R)


def compare(
    policies: dict[str, np.ndarray], logged: Logged, rivals: tuple[str, ...], estimators: tuple[str, ...] = ESTIMATORS
) -> dict[str, Any]:
    """Values of all policies by all estimators, {NAME.ESTIMATOR[.low|.high]}, gains of each policy over the rivals,
    {NAME.over.RIVAL.ESTIMATOR[...]}, and reasons under "absent"."""
    figures: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for estimator in estimators:
        if estimator == "dr" and logged.level_RA is None:
            continue
        values = {name: policy_value(arm, logged, estimator) for name, arm in policies.items()}
        for name, found in values.items():
            key = f"{name}.{estimator}"
            if found.effective < FEWEST:
                absent[key] = f"{found.effective:.3g} rows got what it would give: too few"
                continue
            figures |= found.figures(key)
            for rival in rivals:
                if rival != name and values[rival].effective >= FEWEST:
                    figures |= gain(found, values[rival], logged).figures(f"{name}.over.{rival}.{estimator}")
    return figures | {"absent": absent}
