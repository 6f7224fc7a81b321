"""Is the learnt policy better? Its value on rounds it was not learnt from, against the best constant and the log's own.

The constant action is chosen on the rounds learnt from. Intervals are those of funnel/figures/intervals.py over
independent units (rounds, or clusters of them); gains are differences round by round. An estimate is linear in the
rewards, so the largest part a unit not seen may have is known: that of any unit of the log, had it had the largest (or
the smallest) reward of the log. No figure is given, but the reason, where too little of the log is what the policy
does.

R rounds, U units.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from funnel.figures.intervals import effective_size, interval, ratio_parts, tail_index
from funnel.figures.verdict import Gain, verdict
from funnel.off_policy.objective import (
    LoggedActions,
    OffPolicy,
    OffPolicySettings,
    constant,
    policy_parts,
)
from funnel.off_policy.objective import weights as importance_weights

FEWEST_UNITS = 20
"""Effective independent units that a figure rests on, at least."""
FEWEST_REWARDS = 20
"""Rewarded rounds, at least, where rewards are no yes or no: the size of those that were not seen is a guess then."""
SURE = 0.999
NEAR = 0.05
"""Level of the interval of the mean weight that must hold 1; how far off it may be anyway, for rounded propensities."""
RIVALS = ("best_constant", "logging")
POLICIES = ("learnt", *RIVALS)


@dataclass(frozen=True)
class Judged:
    """A policy's value on a log: per unit what each reward adds to the error of the value, or why there is none."""

    value: float = 0.0
    fixed_U: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    """Parts of the units' errors that no reward changes."""
    slope_R: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    """What a round's reward counts: part_U = fixed_U + sum over its rounds of slope_R reward_R."""
    tail: float = 0.0
    absent: str = ""


def judge_value(
    settings: OffPolicySettings, probability_AR: np.ndarray | None, log: LoggedActions, model_AR: np.ndarray | None
) -> Judged:
    """The value of a policy given by its probabilities; None: the logging policy's, the mean reward.

    Weights are never clipped here: that would take value from the policy that differs most from the log's.
    """
    settings = judging(settings)
    rounds = len(log.reward_R)
    if probability_AR is None:
        weight_R, slope_R = np.ones(rounds), np.ones(rounds)
        numerator_R, denominator_R = log.reward_R, np.ones(rounds)
    else:
        weight_R = slope_R = importance_weights(probability_AR, log)
        numerator_R, denominator_R = policy_parts(settings, probability_AR, log, model_AR)
    if absent := unfounded(log, weight_R):
        return Judged(absent=absent)
    total = float(np.add.reduce(denominator_R))
    value = float(np.add.reduce(numerator_R)) / total
    fixed_R = (numerator_R - slope_R * log.reward_R - value * denominator_R) / total
    tail = max(tail_index(log.summed(weight_R)), reward_tail(log))
    return Judged(value, log.summed(fixed_R), slope_R / total, tail)


def judging(settings: OffPolicySettings) -> OffPolicySettings:
    """With the estimator that judges: ips where clipped is maximised."""
    return dataclasses.replace(settings, estimator="ips") if settings.estimator == "clipped" else settings


def unfounded(log: LoggedActions, weight_R: np.ndarray) -> str:
    """Why no value can be told from rounds of these weights; empty: one can."""
    weight_U = log.summed(weight_R)
    units = "clusters" if len(log.cluster_R) else "rounds"
    # Weights average 1: where they are more or fewer by chance, the size is neither better nor worse known for that.
    mean = float(weight_U.sum()) / len(weight_R)
    size = effective_size(weight_U) / max(mean, 1.0) ** 2
    if size < FEWEST_UNITS:
        return f"the {len(weight_U):,} {units} held out are worth {size:.3g} of the policy's own: too few"
    if not yes_or_no(log) and log.rewarded < FEWEST_REWARDS:
        return f"{log.rewarded} rewarded rounds were held out: too few for rewards of many sizes"
    mean, part_U = ratio_parts(weight_U, log.summed(np.ones(len(weight_R))))
    low, high = interval(mean, part_U, tail=tail_index(weight_U), level=SURE)
    if not low <= 1 <= high and abs(mean - 1) > NEAR:
        return (
            f"its weights average {mean:.3g} ({low:.3g} to {high:.3g}), not 1: the log lacks what it does, or the "
            "propensities are not the logging policy's"
        )
    return ""


def yes_or_no(log: LoggedActions) -> bool:
    """Rewards are 0 and 1: the size of those not seen is known."""
    return bool(((log.reward_R == 0) | (log.reward_R == 1)).all())


def reward_tail(log: LoggedActions) -> float:
    """Tail index of the units' rewards; 0 where a reward has two values."""
    if yes_or_no(log) and not len(log.cluster_R):
        return 0.0
    reward_U = log.summed(log.reward_R)
    return tail_index(reward_U - np.median(reward_U))


def ends(value: float, judged: Judged, log: LoggedActions, level: float = 0.95) -> tuple[float, float]:
    """The interval of a value, or of a gain whose parts `judged` holds."""
    reward_U = log.summed(log.reward_R)
    part_U = judged.fixed_U + log.summed(judged.slope_R * log.reward_R)
    steepest_U, flattest_U = judged.slope_R, judged.slope_R
    if len(log.cluster_R):
        steepest_U, flattest_U = np.full(len(reward_U), -np.inf), np.full(len(reward_U), np.inf)
        np.maximum.at(steepest_U, log.cluster_R, judged.slope_R)
        np.minimum.at(flattest_U, log.cluster_R, judged.slope_R)
    possible = [judged.fixed_U + slope_U * reward
                for slope_U in (steepest_U, flattest_U) for reward in (reward_U.min(), reward_U.max())]  # fmt: skip
    up, down = max(0.0, np.max(possible)), max(0.0, -np.min(possible))
    return interval(value, part_U, float(up), float(down), judged.tail, level)


def difference(own: Judged, other: Judged) -> Judged:
    """The gain of one policy over another on the same rounds."""
    if absent := own.absent or other.absent:
        return Judged(absent=absent)
    fixed_U, slope_R = own.fixed_U - other.fixed_U, own.slope_R - other.slope_R
    return Judged(own.value - other.value, fixed_U, slope_R, max(own.tail, other.tail))


def compare_policies(
    objective: OffPolicy,
    theta_D: np.ndarray,
    test: LoggedActions,
    judge: Literal["ips", "snips", "dr"] | None = None,
) -> dict[str, Any]:
    """Values on `test` of the learnt policy, the best constant and the logging policy, their gains, and "message".

    `judge`: the estimator that judges, where it is not the one that was maximised.
    Keys: off_policy.{learnt,best_constant,logging}[.low|.high], off_policy.gain_over_{best_constant,logging}[...],
    off_policy.best_constant_action, .effective_size (the learnt policy's), .significant; message; absent.
    """
    settings, action = objective.settings, objective.constant
    settings = judging(dataclasses.replace(settings, estimator=judge or settings.estimator))
    model_AR = test.model() if settings.estimator == "dr" else None
    learnt_AR = objective.probabilities(theta_D, test)
    chosen = {"learnt": learnt_AR, "best_constant": constant(action, test), "logging": None}
    judged = {name: judge_value(settings, each, test, model_AR) for name, each in chosen.items()}
    judged |= {f"gain_over_{name}": difference(judged["learnt"], judged[name]) for name in RIVALS}
    figures: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for name, found in judged.items():
        key = f"off_policy.{name}"
        if found.absent:
            absent[key] = found.absent
            continue
        low, high = ends(found.value, found, test)
        figures |= {key: found.value, f"{key}.low": low, f"{key}.high": high}
    names = {"best_constant": f"always action {action}", "logging": "the logging policy"}
    told = figures | {"absent": absent}
    gains = [Gain.of(told, f"off_policy.gain_over_{name}", names[name]) for name in RIVALS]
    return told | {
        "off_policy.best_constant_action": action,
        "off_policy.effective_size": effective_size(test.summed(importance_weights(learnt_AR, test))),
        "off_policy.rounds": len(test.action_R),
        "off_policy.significant": all(gain.significant for gain in gains),
        "message": verdict("Learning", gains, "+.4g", f"a round by {settings.estimator}"),
    }


def policy_value(objective: OffPolicy, theta_D: np.ndarray, log: LoggedActions) -> float:
    """The estimated value of one theta on a log."""
    settings, probability_AR = objective.settings, objective.probabilities(theta_D, log)
    model_AR = log.model() if settings.estimator == "dr" else None
    top_R, bottom_R = policy_parts(settings, probability_AR, log, model_AR)
    return float(top_R.sum() / max(bottom_R.sum(), 1e-300))
