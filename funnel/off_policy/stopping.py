"""How far to follow what was learnt: decided on rounds that the search has not seen.

Of all the policies a search tries it keeps the one that looks best, and with few rewards that is chance. So a third
part of the log judges the way from the anchor (theta = 0) to the learnt theta: shares of theta are compared by the
lower end of their gain over the anchor, and where none is above 0 the policy stays the anchor.
"""

from dataclasses import dataclass

import numpy as np

from funnel.off_policy.evaluation import difference, ends, judge_value
from funnel.off_policy.objective import LoggedActions, OffPolicy

SHARES = (0.125, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Settled:
    """The theta that is used, as a share of the learnt one, and why."""

    theta_D: np.ndarray
    share: float
    reason: str


def settle(objective: OffPolicy, theta_D: np.ndarray, stop: LoggedActions) -> Settled:
    """The share of theta whose gain over the anchor on `stop` has the highest lower end, at the settings' level."""
    settings = objective.settings
    level = 2 * settings.level - 1  # of two sides, so that the lower end has the level of one
    model_AR = stop.model() if settings.estimator == "dr" else None
    anchored = judge_value(settings, objective.probabilities(0 * theta_D, stop), stop, model_AR)
    rounds, best, highest, absent = len(stop.reward_R), 0.0, 0.0, ""
    for share in SHARES:
        probability_AR = objective.probabilities(np.float32(share) * theta_D, stop)
        gain = difference(judge_value(settings, probability_AR, stop, model_AR), anchored)
        low = 0.0 if gain.absent else ends(gain.value, gain, stop, level)[0]
        absent = absent or gain.absent
        if low > highest:
            best, highest = share, low
    if best:
        reason = f"{best:g} of the way from the anchor to what was learnt gains most on {rounds:,} rounds set apart"
    else:
        reason = f"nothing learnt held on the {rounds:,} rounds set apart" + (f" ({absent})" if absent else "")
    return Settled(np.float32(best) * theta_D, best, reason)


def warning(objective: OffPolicy) -> str:
    """Said where more is to be learnt than was rewarded; empty otherwise."""
    parameters, rewarded = len(objective.initial()), objective.log.rewarded
    if parameters <= rewarded:
        return ""
    return f"{parameters:,} parameters are learnt from {rewarded:,} rewarded rounds: expect nothing that holds"


def with_intercept(weights_FA: np.ndarray, anchor_A: np.ndarray) -> np.ndarray:
    """The anchor as part of the first feature's weights, where that is 1 throughout."""
    folded_FA = weights_FA.astype(np.float64)
    folded_FA[0] += anchor_A
    return folded_FA
