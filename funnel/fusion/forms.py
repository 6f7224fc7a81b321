"""Score fusion: how the scores of a candidate become the one number its request is ordered by.

    product   prod_i (p_i + b_i)^a_i         exponents a_i from 1, biases b_i > 0 from 1% of the mean of p_i
    sum       sum_i w_i p_i / s_i            weights w_i from 1, s_i the standard deviation of p_i
    rank      sum_i w_i / (rank_i + offset)  weights w_i > 0 from 1, offset > 0 from 10 ("ensemble sort");
                                             rank_i from 1 within the request, ties averaged

With user features, exponents and weights are the user's own: each times exp(sum_s slope_is z_s), a linear map from the
standardised features z to log-weights; a one-hot segment gets a factor of its own. theta = 0 is the untuned policy:
the starting values above and slopes of 0.

C candidates, M scores, S user features, P policies, D parameters; L slots and G requests of a block.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.errors import UserError
from es.policies import Free, Policy, Positive
from funnel.lists.request_blocks import Score, ranks_within

FUSIONS = ("product", "sum", "rank")
BIAS_SHARE = 0.01  # of a score's mean: small beside it, yet not 0, where the logarithm ends
BIAS_SCALE = 2.0  # e-folds per unit of theta: biases matter over decades
OFFSET = 10.0
STEEPEST = 5.0  # of the exponent of a user's factor, either way: keeps float32 finite


def _no_features() -> np.ndarray:
    return np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class ScoredLog:
    """A scored log as arrays: what a request showed, what the models said, and what came of it."""

    names: tuple[str, ...]
    scores_MC: np.ndarray  # float32, finite
    reward_C: np.ndarray  # float32, at least 0
    request_C: np.ndarray  # numbers from 0, none left out
    user_C: np.ndarray  # numbers from 0, none left out; one user per request
    feature_names: tuple[str, ...] = ()
    features_SC: np.ndarray = field(default_factory=_no_features)  # float32, the same for all of a user's candidates
    outcomes: dict[str, np.ndarray] = field(default_factory=dict)
    """Other outcomes by name, (C,) each, at least 0: what constraints and trade-offs are about (clicks, say)."""
    most: float | None = None
    """The largest reward of a conversion in the file, where it has a column of rewards."""

    def part(self, mask_C: np.ndarray) -> "ScoredLog":
        """The candidates of a mask, requests and users numbered from 0; itself where the mask holds for all."""
        if mask_C.all():
            return self
        request_C = np.unique(self.request_C[mask_C], return_inverse=True)[1]
        user_C = np.unique(self.user_C[mask_C], return_inverse=True)[1]
        return ScoredLog(
            self.names,
            self.scores_MC[:, mask_C],
            self.reward_C[mask_C],
            request_C,
            user_C,
            self.feature_names,
            self.features_SC[:, mask_C] if self.feature_names else self.features_SC,
            {name: values_C[mask_C] for name, values_C in self.outcomes.items()},
            self.most,
        )

    @property
    def users(self) -> int:
        return int(self.user_C.max(initial=-1)) + 1

    def feature(self, name: str) -> np.ndarray:
        """A user feature by name, (C,). UserError where there is none of that name."""
        if name not in self.feature_names:
            raise UserError(f"no user feature {name!r} (there is {', '.join(self.feature_names) or 'none'})")
        return np.asarray(self.features_SC[self.feature_names.index(name)])

    def outcome(self, name: str) -> np.ndarray:
        """An outcome by name, (C,); "reward" is the reward. UserError where there is none of that name."""
        if name == "reward":
            return self.reward_C
        if name not in self.outcomes:
            raise UserError(f"no outcome {name!r} (there is {', '.join(['reward', *self.outcomes])})")
        return self.outcomes[name]


@dataclass(frozen=True)
class Fusion:
    """One of the three forms, with the constants it took from the tune half."""

    kind: str
    names: tuple[str, ...]
    constants: tuple[float, ...]
    policy: Policy
    by: tuple[str, ...] = ()
    """User features that weights depend on."""
    moments: tuple[tuple[float, float], ...] = ()
    """Mean and standard deviation of each, over the tune half's candidates."""

    @classmethod
    def fit(cls, kind: str, log: ScoredLog, by: tuple[str, ...] = ()) -> "Fusion":
        """Take means and deviations from a log. UserError for a negative score under `product`, an unknown feature."""
        assert kind in FUSIONS, kind
        wide_MC = log.scores_MC.astype(np.float64)
        slopes = [Free(_named(f"slope.{name}", by), 0.0) for name in log.names] if by else []
        constants: tuple[float, ...] = ()
        if kind == "product":
            for name, scores_C in zip(log.names, wide_MC, strict=True):
                if (scores_C < 0).any():
                    raise UserError(f"score {name!r} has negative values: --fusion product needs scores of at least 0")
            means = np.maximum(wide_MC.mean(axis=1), 1e-6)
            constants = tuple(means.tolist())
            biases = Positive(_named("bias", log.names), tuple((BIAS_SHARE * means).tolist()), BIAS_SCALE)
            policy = Policy((Free(_named("exponent", log.names), 1.0), biases, *slopes))
        elif kind == "sum":
            deviations = wide_MC.std(axis=1)
            constants = tuple(np.where(deviations > 0, deviations, 1.0).tolist())
            policy = Policy((Free(_named("weight", log.names), 1.0), *slopes))
        else:
            policy = Policy((Positive(_named("weight", log.names), 1.0), Positive(("offset",), OFFSET), *slopes))
        columns = [log.feature(name).astype(np.float64) for name in by]
        moments = tuple((float(column.mean()), float(column.std()) or 1.0) for column in columns)
        return cls(kind, log.names, constants, policy, by, moments)

    def features(self, log: ScoredLog) -> np.ndarray:
        """What the formula takes of each candidate, (M + S, C) float32: scores, then standardised user features."""
        if self.kind == "rank":
            own_MC = np.stack([ranks_within(log.request_C, scores_C) for scores_C in log.scores_MC]).astype(np.float32)
        elif self.kind == "sum":
            own_MC = (log.scores_MC / np.asarray(self.constants)[:, None]).astype(np.float32)
        else:
            own_MC = log.scores_MC
        if not self.by:
            return own_MC
        users = [(log.feature(name) - mean) / std for name, (mean, std) in zip(self.by, self.moments, strict=True)]
        return np.concatenate([own_MC, np.stack(users).astype(np.float32)])

    def score(self, values_PD: np.ndarray) -> Score:
        """The scoring function of P policies, given the values of their parameters. One feature after the other, so
        that the bits of a policy's scores do not depend on the others'."""
        values_DP1 = values_PD.T.astype(np.float32)[:, :, None]
        count, users = len(self.names), len(self.by)
        first_MP1, rest_P1 = values_DP1[:count], values_DP1[count:]
        slopes_MSP1 = rest_P1[len(rest_P1) - count * users :].reshape(count, users, len(values_PD), 1)

        def split(features_ML1G: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
            """The scores' features, and each one's weight: (P, 1), or (P, G) where users have their own."""
            if not users:
                return features_ML1G, list(first_MP1)
            user_S1G = features_ML1G[count:, 0]  # slot 0 is never padding
            factors = (
                np.exp(np.clip(_sum(s_P1 * z_1G for s_P1, z_1G in zip(slopes_SP1, user_S1G, strict=True)),
                               -STEEPEST, STEEPEST))
                for slopes_SP1 in slopes_MSP1
            )  # fmt: skip
            return features_ML1G[:count], [w * factor for w, factor in zip(first_MP1, factors, strict=True)]

        def product(features_ML1G: np.ndarray) -> np.ndarray:
            features, exponents = split(features_ML1G)
            pairs = zip(features, exponents, rest_P1[:count], strict=True)
            return _sum(np.log(feature_L1G + bias_P1) * exponent for feature_L1G, exponent, bias_P1 in pairs)

        def weighted(features_ML1G: np.ndarray) -> np.ndarray:
            return _sum(feature * weight for feature, weight in zip(*split(features_ML1G), strict=True))

        def rank(features_ML1G: np.ndarray) -> np.ndarray:
            offset = rest_P1[0]
            return _sum(weight / (feature + offset) for feature, weight in zip(*split(features_ML1G), strict=True))

        return {"product": product, "sum": weighted, "rank": rank}[self.kind]

    def fused(self, log: ScoredLog, theta_D: np.ndarray) -> np.ndarray:
        """The fused score of every candidate under one theta, (C,) float32."""
        features_M11C = self.features(log)[:, None, None, :]
        return np.asarray(self.score(self.policy.decode(theta_D[None, :]))(features_M11C)[0, 0])


def _sum(terms: Any) -> np.ndarray:
    total = None
    for term in terms:
        total = term if total is None else np.add(total, term, out=total)
    assert total is not None
    return np.asarray(total)


def _named(what: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{what}.{name}" for name in names)
