"""Is the learnt policy better? Its value on rounds it was not learnt from, against the best constant and the log's own.

The constant action is chosen on the rounds learnt from. Intervals are percentile bootstrap intervals over rounds, the
same resamples for every policy, so that those of the gains are paired.

S policies, R rounds, B resamples.
"""

import dataclasses
from typing import Any, Literal

import numpy as np

from funnel.figures.resampling import bootstrap_ratios, percentiles
from funnel.off_policy.objective import (
    LoggedActions,
    OffPolicy,
    OffPolicySettings,
    constant,
    policy_parts,
    probabilities,
)
from funnel.off_policy.objective import weights as importance_weights


def compare_policies(
    objective: OffPolicy,
    theta_D: np.ndarray,
    test: LoggedActions,
    resamples: int = 2000,
    seed: int = 0,
    judge: Literal["ips", "clipped", "snips", "dr"] | None = None,
) -> dict[str, Any]:
    """Values on `test` of the learnt policy, the best constant and the logging policy, their gains, and "message".

    `judge`: the estimator that judges, where it is not the one that was maximised.
    Keys: off_policy.{learnt,best_constant,logging}[.low|.high], off_policy.gain_over_{best_constant,logging}[...],
    off_policy.best_constant_action, .effective_size (the learnt policy's), .significant; message.
    """
    settings, action = objective.settings, objective.constant
    settings = dataclasses.replace(settings, estimator=judge or settings.estimator)
    model_AR = test.model() if settings.estimator == "dr" else None
    learnt_AR = probabilities(settings, theta_D, test)
    ones_R = np.ones(len(test.action_R))
    parts = {
        "learnt": policy_parts(settings, learnt_AR, test, model_AR),
        "best_constant": policy_parts(settings, constant(action, test), test, model_AR),
        "logging": (test.reward_R, ones_R),  # its own weights are 1
    }
    sums_SR = np.stack([numerator_R for numerator_R, _ in parts.values()])
    totals_SR = np.stack([denominator_R for _, denominator_R in parts.values()])
    values_SB = bootstrap_ratios(sums_SR, totals_SR, resamples, seed)
    values_S = sums_SR.sum(axis=1) / np.maximum(totals_SR.sum(axis=1), 1e-300)
    figures: dict[str, Any] = {"off_policy.best_constant_action": action}
    for index, name in enumerate(parts):
        figures |= percentiles(f"off_policy.{name}", values_S[index], values_SB[index])
        if index:
            gain_B = values_SB[0] - values_SB[index]
            figures |= percentiles(f"off_policy.gain_over_{name}", values_S[0] - values_S[index], gain_B)
    found = objective.value(probabilities(settings, theta_D, objective.log))
    low = min(figures[f"off_policy.gain_over_{name}.low"] for name in ("best_constant", "logging"))
    return figures | {
        "off_policy.on_tune": found.value,
        "off_policy.effective_size": kish(importance_weights(learnt_AR, test)),
        "off_policy.rounds": len(test.action_R),
        "off_policy.significant": bool(low > 0),
        "message": sentence(figures, settings, low > 0),
    }


def policy_value(settings: OffPolicySettings, theta_D: np.ndarray, log: LoggedActions) -> float:
    """The estimated value of one theta on a log."""
    model_AR = log.model() if settings.estimator == "dr" else None
    top_R, bottom_R = policy_parts(settings, probabilities(settings, theta_D, log), log, model_AR)
    return float(top_R.sum() / max(bottom_R.sum(), 1e-300))


def effective_size(settings: OffPolicySettings, theta_D: np.ndarray, log: LoggedActions) -> float:
    """How many rounds of the policy itself the log's weighted rounds are worth (Kish)."""
    return kish(importance_weights(probabilities(settings, theta_D, log), log))


def kish(weight_R: np.ndarray) -> float:
    return float(weight_R.sum() ** 2 / max((weight_R**2).sum(), 1e-300))


def sentence(figures: dict[str, Any], settings: OffPolicySettings, significant: bool) -> str:
    """One sentence: the gain over the stronger rival, its interval, and whether it is significant."""
    name = max(("best_constant", "logging"), key=lambda each: figures[f"off_policy.{each}"])
    rival = "the logging policy" if name == "logging" else f"always action {figures['off_policy.best_constant_action']}"
    gain, low, high = (figures[f"off_policy.gain_over_{name}{end}"] for end in ("", ".low", ".high"))
    measured = f"{gain:+.4g} a round against {rival} by {settings.estimator} (95% interval {low:+.4g} to {high:+.4g})"
    if significant:
        return f"Learning gains {measured}: significant."
    if high < 0:
        return f"Learning loses {measured}: keep {rival}."
    return f"Learning changes {measured}: not significant, keep {rival}."
