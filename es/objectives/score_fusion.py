"""Score fusion: how the scores of a candidate become the one number its request is ordered by.

    product   prod_i (p_i + b_i)^a_i         exponents a_i from 1, biases b_i > 0 from 1% of the mean of p_i
    sum       sum_i w_i p_i / s_i            weights w_i from 1, s_i the standard deviation of p_i
    rank      sum_i w_i / (rank_i + offset)  weights w_i > 0 from 1, offset > 0 from 10 ("ensemble sort");
                                             rank_i from 1 within the request, ties averaged
theta = 0 is the untuned policy with these starting values. The objective is value@k or reward-NDCG@k, the mean over
requests of what a log with known outcomes says about the order (es/objectives/request_blocks.py).

C candidates, M scores, P policies, D parameters; L slots and G requests of a block.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from es.objectives.request_blocks import Requests, Score, ranks_within
from es.policies import Free, Policy, Positive

FUSIONS, METRICS = ("product", "sum", "rank"), ("value", "ndcg")
BIAS_SHARE = 0.01  # of a score's mean: small beside it, yet not 0, where the logarithm ends
BIAS_SCALE = 2.0  # e-folds per unit of theta: biases matter over decades
OFFSET = 10.0


@dataclass(frozen=True)
class ScoredLog:
    """A scored log as arrays: what a request showed, what the models said, and what came of it."""

    names: tuple[str, ...]
    scores_MC: np.ndarray  # float32, finite
    reward_C: np.ndarray  # float32, at least 0
    request_C: np.ndarray  # numbers from 0, none left out
    user_C: np.ndarray  # numbers from 0, none left out; one user per request

    def part(self, mask_C: np.ndarray) -> "ScoredLog":
        """The candidates of a mask, requests and users numbered anew."""
        request_C = np.unique(self.request_C[mask_C], return_inverse=True)[1]
        user_C = np.unique(self.user_C[mask_C], return_inverse=True)[1]
        return ScoredLog(self.names, self.scores_MC[:, mask_C], self.reward_C[mask_C], request_C, user_C)

    @property
    def users(self) -> int:
        return int(self.user_C.max(initial=-1)) + 1


@dataclass(frozen=True)
class Fusion:
    """One of the three forms, with the constants it took from the tune half."""

    kind: str
    names: tuple[str, ...]
    constants: tuple[float, ...]
    policy: Policy

    @classmethod
    def fit(cls, kind: str, log: ScoredLog) -> "Fusion":
        """Take means or deviations from a log. ValueError for a negative score under `product`."""
        assert kind in FUSIONS, kind
        wide_MC = log.scores_MC.astype(np.float64)
        if kind == "product":
            for name, scores_C in zip(log.names, wide_MC, strict=True):
                if (scores_C < 0).any():
                    raise ValueError(f"score {name!r} has negative values: --fusion product needs scores of at least 0")
            means = np.maximum(wide_MC.mean(axis=1), 1e-6)
            constants = tuple(means.tolist())
            biases = Positive(_named("bias", log.names), tuple((BIAS_SHARE * means).tolist()), BIAS_SCALE)
            policy = Policy((Free(_named("exponent", log.names), 1.0), biases))
        elif kind == "sum":
            deviations = wide_MC.std(axis=1)
            constants = tuple(np.where(deviations > 0, deviations, 1.0).tolist())
            policy = Policy((Free(_named("weight", log.names), 1.0),))
        else:
            constants = ()
            policy = Policy((Positive(_named("weight", log.names), 1.0), Positive(("offset",), OFFSET)))
        return cls(kind, log.names, constants, policy)

    def features(self, log: ScoredLog) -> np.ndarray:
        """What the formula takes of each candidate, (M, C) float32."""
        if self.kind == "rank":
            return np.stack([ranks_within(log.request_C, scores_C) for scores_C in log.scores_MC]).astype(np.float32)
        if self.kind == "sum":
            return (log.scores_MC / np.asarray(self.constants)[:, None]).astype(np.float32)
        return log.scores_MC

    def score(self, values_PD: np.ndarray) -> Score:
        """The scoring function of P policies, given the values of their parameters. One feature after the other, so
        that the bits of a policy's scores do not depend on the others'."""
        values_DP1 = values_PD.T.astype(np.float32)[:, :, None]
        count = len(self.names)
        first_MP1, rest_P1 = values_DP1[:count], values_DP1[count:]

        def product(features_ML1G: np.ndarray) -> np.ndarray:
            terms = (
                np.log(feature_L1G + bias_P1) * exponent_P1
                for feature_L1G, exponent_P1, bias_P1 in zip(features_ML1G, first_MP1, rest_P1, strict=True)
            )
            return _sum(terms)

        def weighted(features_ML1G: np.ndarray) -> np.ndarray:
            return _sum(feature * weight for feature, weight in zip(features_ML1G, first_MP1, strict=True))

        def rank(features_ML1G: np.ndarray) -> np.ndarray:
            offset = rest_P1[0]
            return _sum(weight / (feature + offset) for feature, weight in zip(features_ML1G, first_MP1, strict=True))

        return {"product": product, "sum": weighted, "rank": rank}[self.kind]


def _sum(terms: Any) -> np.ndarray:
    total = None
    for term in terms:
        total = term if total is None else np.add(total, term, out=total)
    assert total is not None
    return np.asarray(total)


def _named(what: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{what}.{name}" for name in names)


class ScoreFusion:
    """The objective: the metric of a policy on the requests of a log (the tune half). Deterministic."""

    def __init__(self, log: ScoredLog, fusion: Fusion, metric: str, k: int) -> None:
        assert metric in METRICS, metric
        self.fusion, self.metric, self.k = fusion, metric, k
        self.requests = Requests.build(log.request_C, fusion.features(log), log.reward_C, k)
        if not self.requests.rewarded:
            raise ValueError("no click or conversion in the half of the log that is tuned on: nothing to tune for")
        lengths_R = np.bincount(log.request_C)[self.requests.ideal_R > 0]
        if metric == "value" and lengths_R.max() <= k:
            raise ValueError(
                f"no request with a click has more than {k} candidates, so value@{k} is the same for any order: "
                "choose a smaller --k or --metric ndcg"
            )
        if metric == "ndcg" and lengths_R.max() == 1:
            raise ValueError("every request with a click has a single candidate: there is nothing to order")
        self.digest = _digest(log)

    def initial(self) -> np.ndarray:
        return self.fusion.policy.initial()

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        return self.evaluate(self.fusion.policy.decode(theta_PD))

    def evaluate(self, values_PD: np.ndarray) -> np.ndarray:
        """The metric of policies given by the values of their parameters, (P,)."""
        return self.requests.mean(lambda part: self.fusion.score(values_PD[part]), len(values_PD), self.metric)

    def describe(self) -> dict[str, Any]:
        return {
            "objective": "score_fusion",
            "fusion": self.fusion.kind,
            "scores": list(self.fusion.names),
            "metric": self.metric,
            "k": self.k,
            "data": self.digest,
        }


def _digest(log: ScoredLog) -> str:
    state = hashlib.sha256()
    for array in (log.scores_MC, log.reward_C, log.request_C):
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()[:16]
