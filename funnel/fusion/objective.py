"""Score fusion as an objective: value@k or reward-NDCG@k of a log's requests, ordered by the fused score.

Constraints ("reward up, clicks not down by more than 0.5%") are penalties: with F the metric, G value@k of the
constrained outcome, and F0, G0 those of the untuned policy,

    return = F - F0 sum_c penalty_c max(0, (1 - tolerance_c) - G_c / G0_c)

so that a penalty of 10 takes 10% of F0 for each 1% beyond the tolerance. P policies, D parameters, C candidates.
"""

import hashlib
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data.errors import UserError
from funnel.fusion.forms import Fusion, ScoredLog
from funnel.lists.request_blocks import Requests

METRICS = ("value", "ndcg")


@dataclass(frozen=True)
class Constraint:
    """`outcome` (a name in ScoredLog.outcomes) may fall by `tolerance`, relative to the untuned policy."""

    outcome: str
    tolerance: float = 0.005
    penalty: float = 10.0

    def check(self) -> None:
        """UserError, one line, for what cannot be."""
        if not (0 <= self.tolerance < 1 and math.isfinite(self.penalty) and self.penalty >= 0):
            raise UserError(
                f"constraint on {self.outcome!r}: tolerance {self.tolerance} must be in [0, 1), "
                f"penalty {self.penalty} at least 0"
            )


class ScoreFusion:
    """The objective: the metric of a policy on the requests of a log (the tune half). Deterministic."""

    def __init__(
        self, log: ScoredLog, fusion: Fusion, metric: str, k: int, constraints: tuple[Constraint, ...] = ()
    ) -> None:
        assert metric in METRICS, metric
        self.fusion, self.metric, self.k, self.constraints = fusion, metric, k, constraints
        features_MC = fusion.features(log)
        self.requests = Requests.build(log.request_C, features_MC, log.reward_C, k)
        self._check_lengths(np.bincount(log.request_C)[self.requests.ideal_R > 0])
        self.guarded: list[Requests] = []
        for constraint in constraints:
            constraint.check()
            self.guarded.append(Requests.build(log.request_C, features_MC, log.outcome(constraint.outcome), k))
        untuned_1D = fusion.policy.decode(self.initial()[None, :])
        self.untuned = float(self._mean(self.requests, untuned_1D, metric)[0])
        self.floors = []
        for constraint, requests in zip(constraints, self.guarded, strict=True):
            untuned = float(self._mean(requests, untuned_1D, "value")[0])
            if untuned <= 0:
                raise UserError(f"constraint on {constraint.outcome!r}: the untuned policy has none of it to keep")
            self.floors.append(untuned)
        self.digest = _digest(log, fusion.by, tuple(constraint.outcome for constraint in constraints))

    def _check_lengths(self, lengths_R: np.ndarray) -> None:
        if not self.requests.rewarded:
            raise UserError("no click or conversion in the half of the log that is tuned on: nothing to tune for")
        if lengths_R.max() == 1:
            raise UserError("every request with a click has a single candidate: there is nothing to order")
        if self.metric == "value" and lengths_R.max() <= self.k:
            raise UserError(
                f"no request with a click has more than {self.k} candidates, so value@{self.k} is the same for any "
                "order: choose a smaller --k or --metric ndcg"
            )

    def initial(self) -> np.ndarray:
        return self.fusion.policy.initial()

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        return self.evaluate(self.fusion.policy.decode(theta_PD))

    def evaluate(self, values_PD: np.ndarray) -> np.ndarray:
        """The metric less the penalties of policies given by the values of their parameters, (P,)."""
        return_P = self._mean(self.requests, values_PD, self.metric)
        for constraint, requests, floor in zip(self.constraints, self.guarded, self.floors, strict=True):
            kept_P = self._mean(requests, values_PD, "value") / floor
            short_P = np.maximum(0.0, (1 - constraint.tolerance) - kept_P)
            return_P = return_P - self.untuned * constraint.penalty * short_P
        return return_P

    def _mean(self, requests: Requests, values_PD: np.ndarray, metric: str) -> np.ndarray:
        return requests.mean(lambda part: self.fusion.score(values_PD[part]), len(values_PD), metric)

    def describe(self) -> dict[str, Any]:
        about = {
            "objective": "score_fusion",
            "fusion": self.fusion.kind,
            "scores": list(self.fusion.names),
            "metric": self.metric,
            "k": self.k,
            "data": self.digest,
        }
        extras = {"by": list(self.fusion.by), "constraints": [asdict(constraint) for constraint in self.constraints]}
        return about | {name: value for name, value in extras.items() if value}


def _digest(log: ScoredLog, by: tuple[str, ...], outcomes: tuple[str, ...]) -> str:
    state = hashlib.sha256()
    columns = [log.feature(name) for name in by] + [log.outcome(name) for name in outcomes]
    for array in (log.scores_MC, log.reward_C, log.request_C, *columns):
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()[:16]
