"""Which action for whom, learnt from a log of another policy's actions: off-policy values as an objective.

A policy scores every action linearly in features of context and action and chooses by the scores:

    score(r, a) = sum_fe theta_fe x_rf z_ae + sum_j theta_j phi_jra
    softmax   pi(a | r) = exp(score / temperature) / sum
    greedy    pi(a | r) = 1 - epsilon for the highest score (the first of equals), and epsilon / A for every action

To the score an action's anchor is added: theta = 0, where the search begins and to which weight decay pulls, is a
policy that is known to be safe (by default the log's own shares of actions). The return is the lower confidence bound
of an estimate (funnel/off_policy/estimators.py) less a penalty while the effective sample size is below its floor. That
keeps the search from policies of which the log holds hardly anything, but the bound is one of each policy by itself: of
the thousands that a search tries the highest bound is too high, the more so the fewer rewards there are. It is no
result; funnel/off_policy/stopping.py and evaluation.py say on other rounds what holds.

R rounds, A actions, F context features, E action features, J features of context and action together, P policies.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from data.errors import UserError
from funnel.off_policy.estimators import (
    ESTIMATORS,
    Estimate,
    cross_fitted_rewards,
    estimate,
    estimate_gain,
    ratio_parts,
)

ANCHORS = ("logging", "best_constant", "uniform")
MOSTLY = 0.9
"""How often the anchor best_constant takes its action under softmax."""


@dataclass(frozen=True)
class LoggedActions:
    """Rounds of a logged policy. UserError, naming the round, for what cannot be."""

    context_FR: np.ndarray  # float32; include a row of ones for scores that do not depend on the context
    action_R: np.ndarray  # int64, the action taken
    propensity_R: np.ndarray  # the logging policy's probability of that action, in (0, 1]
    reward_R: np.ndarray  # float64
    actions_EA: np.ndarray  # float32; the identity for a weight vector per action
    pairs_JAR: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0), np.float32))
    cluster_R: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """Whose round it is, numbered from 0, none left out: rounds of one cluster hang together, clusters are independent.
    Empty: every round is independent."""

    def __post_init__(self) -> None:
        rounds, actions = len(self.action_R), self.actions_EA.shape[1]
        for name, bad_R in (
            ("propensity", ~((self.propensity_R > 0) & (self.propensity_R <= 1))),
            ("action", (self.action_R < 0) | (self.action_R >= actions)),
            ("reward", ~np.isfinite(self.reward_R)),
            ("context", ~np.isfinite(self.context_FR).all(axis=0)),
        ):
            if bad_R.any():
                where = int(np.argmax(bad_R))
                raise UserError(f"{name} of round {where} cannot be used ({int(bad_R.sum())} rounds in all)")
        if not rounds:
            raise UserError("a log without rounds")
        assert self.context_FR.shape[1] == rounds == len(self.propensity_R) == len(self.reward_R)
        assert not len(self.pairs_JAR) or self.pairs_JAR.shape[1:] == (actions, rounds)
        assert len(self.cluster_R) in (0, rounds)

    @property
    def actions(self) -> int:
        return int(self.actions_EA.shape[1])

    def part(self, mask_R: np.ndarray) -> "LoggedActions":
        """The rounds of a mask."""
        return LoggedActions(
            np.ascontiguousarray(self.context_FR[:, mask_R]),
            self.action_R[mask_R],
            self.propensity_R[mask_R],
            self.reward_R[mask_R],
            self.actions_EA,
            np.ascontiguousarray(self.pairs_JAR[:, :, mask_R]) if len(self.pairs_JAR) else self.pairs_JAR,
            np.unique(self.cluster_R[mask_R], return_inverse=True)[1] if len(self.cluster_R) else self.cluster_R,
        )

    def summed(self, values_R: np.ndarray) -> np.ndarray:
        """Sums over independent units, (U,): the rounds themselves, or the clusters."""
        return np.bincount(self.cluster_R, values_R) if len(self.cluster_R) else values_R

    def model(self, folds: int = 5, seed: int = 0) -> np.ndarray:
        """q(x_r, a) for dr, (A, R): ridge regressions on the context, each fold predicted by the others."""
        context_FR = self.context_FR.astype(np.float64)
        return cross_fitted_rewards(context_FR, self.action_R, self.reward_R, self.actions, folds, seed, self.cluster_R)

    @property
    def rewarded(self) -> int:
        """Rounds that tell rewards apart: with two values those of the rarer one, else those that are not 0."""
        values, counts = np.unique(self.reward_R, return_counts=True)
        return int(counts.min()) if len(values) == 2 else int(np.count_nonzero(self.reward_R))


@dataclass(frozen=True)
class OffPolicySettings:
    policy: Literal["softmax", "greedy"] = "softmax"
    """How scores become actions: drawn by them, or the best one but for a share of the rounds."""
    temperature: float = 1.0
    """Of softmax; scores are in its units."""
    greedy_epsilon: float = 0.1
    """Of greedy: the share of rounds in which the action is drawn uniformly."""
    estimator: Literal["ips", "clipped", "snips", "dr"] = "snips"
    """Of the value on the rounds that are tuned on (docs/evolve.md)."""
    clip: float = 20.0
    """Largest weight under clipped."""
    level: float = 0.9
    """Confidence of the lower bound that is maximised, and with which a gain must hold on the rounds set apart for
    stopping; 0.5 takes the estimate itself."""
    anchor: Literal["logging", "best_constant", "uniform"] = "logging"
    """Where the search begins and weight decay pulls to: the log's shares of actions, mostly the best constant action,
    or every action alike."""
    smallest_size: float = 100.0
    """Effective sample size below which a policy is penalised, in proportion to what is missing."""
    baseline: Literal["none", "best_constant"] = "none"
    """What the bound is of: the policy's value, or its gain over the best constant action on the same rounds (a policy
    then leaves that action only where the log is sure enough)."""

    def __post_init__(self) -> None:
        for name, holds, what in (
            ("policy", self.policy in ("softmax", "greedy"), "softmax or greedy"),
            ("estimator", self.estimator in ESTIMATORS, "one of " + ", ".join(ESTIMATORS)),
            ("baseline", self.baseline in ("none", "best_constant"), "none or best_constant"),
            ("anchor", self.anchor in ANCHORS, "one of " + ", ".join(ANCHORS)),
            ("temperature", self.temperature > 0, "above 0"),
            ("greedy_epsilon", 0 <= self.greedy_epsilon <= 1, "between 0 and 1"),
            ("clip", self.clip > 0, "above 0"),
            ("level", 0.5 <= self.level < 1, "between 0.5 and 1"),
            ("smallest_size", self.smallest_size >= 0, "at least 0"),
        ):
            if not holds:
                raise UserError(f"{name} is {getattr(self, name)!r}: it must be {what}")


class OffPolicy:
    """The objective over a log (the part that is tuned on). Deterministic."""

    def __init__(self, settings: OffPolicySettings, log: LoggedActions) -> None:
        self.settings, self.log = settings, log
        self.model_AR = log.model() if settings.estimator == "dr" else None
        self.constant = int(np.argmax([self.value(constant(action, log)).value for action in range(log.actions)]))
        self.anchor_A = anchor(settings, log, self.constant)
        self.rival = self._parts(constant(self.constant, log))
        # What a whole missing sample costs: more than any policy of this log can be worth.
        self.scale = float(np.abs(log.reward_R / log.propensity_R).mean()) or 1.0

    def initial(self) -> np.ndarray:
        log = self.log
        return np.zeros(len(log.context_FR) * len(log.actions_EA) + len(log.pairs_JAR), np.float32)

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        return np.asarray([self._bound(theta_D) for theta_D in theta_PD])

    def _bound(self, theta_D: np.ndarray) -> float:
        settings = self.settings
        probability_AR = self.probabilities(theta_D, self.log)
        found = self.value(probability_AR) if settings.baseline == "none" else self.gain(probability_AR)
        missing = max(0.0, 1 - found.effective_size / settings.smallest_size) if settings.smallest_size else 0.0
        return max(found.lower(settings.level), -self.scale) - missing * self.scale

    def probabilities(self, theta_D: np.ndarray, log: LoggedActions) -> np.ndarray:
        """pi(a | r) of one theta on any rounds, (A, R)."""
        return probabilities(self.settings, theta_D, log, self.anchor_A)

    def value(self, probability_AR: np.ndarray) -> Estimate:
        """The estimate for a policy given by its probabilities."""
        weight_U = self.log.summed(weights(probability_AR, self.log))
        return estimate(self.settings.estimator, weight_U, self._parts(probability_AR))

    def gain(self, probability_AR: np.ndarray) -> Estimate:
        """The estimated gain over the best constant action."""
        weight_U = self.log.summed(weights(probability_AR, self.log))
        return estimate_gain(self.settings.estimator, weight_U, self._parts(probability_AR), self.rival)

    def _parts(self, probability_AR: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        numerator_R, denominator_R = policy_parts(self.settings, probability_AR, self.log, self.model_AR)
        return self.log.summed(numerator_R), self.log.summed(denominator_R)

    def describe(self) -> dict[str, Any]:
        log, state = self.log, hashlib.sha256()
        arrays = (log.context_FR, log.action_R, log.propensity_R, log.reward_R, log.actions_EA, log.pairs_JAR)
        for array in (*arrays, log.cluster_R):
            state.update(np.ascontiguousarray(array).data)
        return {"objective": "off_policy", **asdict(self.settings), "data": state.hexdigest()[:16]}


def scores(theta_D: np.ndarray, log: LoggedActions) -> np.ndarray:
    """score(r, a), (A, R) float64; summed feature by feature, so that bits do not depend on BLAS."""
    wide_D = theta_D.astype(np.float64)
    crossed = len(log.context_FR) * len(log.actions_EA)
    weights_FA = np.einsum("fe,ea->fa", wide_D[:crossed].reshape(len(log.context_FR), -1), log.actions_EA)
    total_AR = np.zeros((log.actions, len(log.action_R)))
    for weights_A, context_R in zip(weights_FA, log.context_FR, strict=True):
        total_AR += weights_A[:, None] * context_R
    for weight, pairs_AR in zip(wide_D[crossed:], log.pairs_JAR, strict=True):
        total_AR += weight * pairs_AR
    return total_AR


def anchor(settings: OffPolicySettings, log: LoggedActions, best: int) -> np.ndarray:
    """What is added to the scores of each action, (A,); 0 for all is the uniform policy."""
    if settings.anchor == "uniform":
        return np.zeros(log.actions)
    share_A = np.full(log.actions, (1 - MOSTLY) / (log.actions - 1)) if log.actions > 1 else np.ones(1)
    if settings.anchor == "best_constant":
        share_A[best] = MOSTLY
    else:
        share_A = (np.bincount(log.action_R, minlength=log.actions) + 1) / (len(log.action_R) + log.actions)
    return np.asarray(settings.temperature * np.log(share_A / share_A.max()))


def probabilities(
    settings: OffPolicySettings, theta_D: np.ndarray, log: LoggedActions, anchor_A: np.ndarray | None = None
) -> np.ndarray:
    """pi(a | r) of one theta, (A, R)."""
    score_AR = scores(theta_D, log)
    if anchor_A is not None:
        score_AR += anchor_A[:, None]
    if settings.policy == "greedy":
        chosen_AR = np.full(score_AR.shape, settings.greedy_epsilon / log.actions)
        chosen_AR[score_AR.argmax(axis=0), np.arange(score_AR.shape[1])] += 1 - settings.greedy_epsilon
        return chosen_AR
    odds_AR = np.exp((score_AR - score_AR.max(axis=0)) / settings.temperature)
    return np.asarray(odds_AR / np.add.reduce(odds_AR, axis=0))


def constant(action: int, log: LoggedActions) -> np.ndarray:
    """The policy that always takes one action, (A, R)."""
    probability_AR = np.zeros((log.actions, len(log.action_R)))
    probability_AR[action] = 1
    return probability_AR


def weights(probability_AR: np.ndarray, log: LoggedActions) -> np.ndarray:
    """pi(a_r | x_r) / p_r, (R,)."""
    taken_R = probability_AR[log.action_R, np.arange(len(log.action_R))]
    return np.asarray(taken_R / log.propensity_R)


def policy_parts(
    settings: OffPolicySettings, probability_AR: np.ndarray, log: LoggedActions, model_AR: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators of a policy's value, round by round."""
    weight_R = weights(probability_AR, log)
    if model_AR is None:
        return ratio_parts(settings.estimator, weight_R, log.reward_R, settings.clip)
    expected_R = np.add.reduce(probability_AR * model_AR, axis=0)
    predicted_R = model_AR[log.action_R, np.arange(len(log.action_R))]
    return ratio_parts("dr", weight_R, log.reward_R, expected_R=expected_R, predicted_R=predicted_R)
