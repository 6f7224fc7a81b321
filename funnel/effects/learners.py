"""Effects of several arms against the cheapest one (arm 0), by the learners of the field.

    t   mu_a(x) - mu_0(x), a model of the outcome for each arm
    s   one model mu(x, t) of the outcome with the arm's vector t as features: arms share what they have in common
    x   tau = e tau_0(x) + (1 - e) tau_1(x), e = p_a / (p_a + p_0) [Künzel et al. 2019]: tau_1 is fitted on the arm's
        rows' y - mu_0(x), tau_0 on the baseline's mu_a(x) - y
    dr  a regression of mu_a - mu_0 + 1[a] (y - mu_a) / p_a - 1[0] (y - mu_0) / p_0 [Kennedy 2023], cross-fitted; linear
        in psi(x) with robust intervals, or boosted

Stages are independent pieces that run through a map. Shapes: R rows, F features, A arms, T numbers of an arm.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from data.errors import UserError
from funnel.effects.basis import UserBasis
from funnel.effects.gram import Sums, covariance, scores, sums
from funnel.effects.nuisances import (
    Linear,
    NuisanceSettings,
    Predictor,
    folds,
    propensities,
    propensity_model,
    regression,
    restored,
)
from funnel.effects.overlap import check_arms
from funnel.effects.rows import TreatedRows
from funnel.fitted import Map, here

Name = Literal["t", "s", "x", "dr"]


@dataclass(frozen=True, kw_only=True)
class ArmSettings:
    """A model an arm."""

    folds: int = 2
    """dr: over how many folds outcomes and propensities are cross-fitted."""
    final: Literal["linear", "boosting"] = "boosting"
    """x, dr: what effects are regressed with; linear: on `basis` of the nuisances, and dr has intervals then."""
    smallest_arm: int = 30
    """Rows that an arm needs, at least."""
    smallest_propensity: float = 0.005
    """dr: smaller propensities count as this one, which bounds the weight of a row."""

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise UserError(f"folds is {self.folds}, must be at least 2")
        if self.smallest_arm < 1:
            raise UserError(f"smallest_arm is {self.smallest_arm}, must be at least 1")
        if not 0 < self.smallest_propensity < 1:
            raise UserError(f"smallest_propensity is {self.smallest_propensity}, must lie in (0, 1)")


@dataclass(frozen=True)
class LearnerSettings(ArmSettings):
    """A model an arm, by which learner."""

    learner: Name = "x"
    """t, s, x or dr."""


@dataclass(frozen=True)
class ArmEffects:
    """Fitted models by role and arm."""

    learner: Name
    arms_AT: np.ndarray
    models: Mapping[str, Predictor]
    """"mu.A", "tau0.A", "tau1.A", "tau.A", "all", "propensity"."""
    covariances: Mapping[int, np.ndarray] = field(default_factory=dict)
    """Of the coefficients of an arm's effect, where that is linear and its error known."""
    propensity_A: np.ndarray | None = None
    """Where it is the same for everybody."""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def effects(self, x_RF: np.ndarray) -> np.ndarray:
        """What each arm brings against arm 0, (R, A)."""
        arms, models = len(self.arms_AT), self.models
        found = np.zeros((len(x_RF), arms))
        if self.learner == "s":
            level_RA = np.stack([models["all"].predict(joined(x_RF, vector_T)) for vector_T in self.arms_AT], 1)
            return np.asarray(level_RA - level_RA[:, :1])
        if self.learner == "t":
            level_RA = np.stack([models[f"mu.{a}"].predict(x_RF) for a in range(arms)], 1)
            return np.asarray(level_RA - level_RA[:, :1])
        share_RA = self.shares(x_RF) if self.learner == "x" else found
        for a in range(1, arms):
            if self.learner == "dr":
                found[:, a] = models[f"tau.{a}"].predict(x_RF)
                continue
            e_R = share_RA[:, a] / (share_RA[:, a] + share_RA[:, 0])
            found[:, a] = e_R * models[f"tau0.{a}"].predict(x_RF) + (1 - e_R) * models[f"tau1.{a}"].predict(x_RF)
        return found

    def shares(self, x_RF: np.ndarray) -> np.ndarray:
        if self.propensity_A is not None:
            return np.tile(self.propensity_A, (len(x_RF), 1))
        model = self.models["propensity"]
        assert isinstance(model, Linear)
        return propensities(model, x_RF)

    def standard_errors(self, x_RF: np.ndarray) -> np.ndarray | None:
        """Of `effects`, (R, A); None where the learner has none."""
        if not self.covariances:
            return None
        found = np.zeros((len(x_RF), len(self.arms_AT)))
        for a, own_PP in self.covariances.items():
            model = self.models[f"tau.{a}"]
            assert isinstance(model, Linear)
            psi_RP = model.basis(x_RF)
            found[:, a] = np.sqrt(np.maximum(((psi_RP @ own_PP) * psi_RP).sum(1), 0))
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        found = {f"{role}/{name}": value for role, model in self.models.items()
                 for name, value in model.arrays().items()}  # fmt: skip
        found |= {f"covariance/{a}": value for a, value in self.covariances.items()}
        if self.propensity_A is not None:
            found["propensity_A"] = self.propensity_A
        return found | {"arms_AT": self.arms_AT}

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "ArmEffects":
        by_role: dict[str, dict[str, np.ndarray]] = {}
        for key, value in arrays.items():
            role, slash, name = key.partition("/")
            if slash:
                by_role.setdefault(role, {})[name] = value
        covariances = {int(a): value for a, value in by_role.pop("covariance", {}).items()}
        models = {role: restored(own) for role, own in by_role.items()}
        return cls(facts["learner"], arrays["arms_AT"], models, covariances, arrays.get("propensity_A"), facts)


def joined(x_RF: np.ndarray, vector_T: np.ndarray) -> np.ndarray:
    return np.concatenate([x_RF, np.broadcast_to(vector_T, (len(x_RF), len(vector_T)))], 1)


@dataclass(frozen=True)
class Shared:
    rows: TreatedRows
    settings: LearnerSettings
    nuisances: NuisanceSettings
    seed: int
    fold_R: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    mu: Mapping[int, Predictor] = field(default_factory=dict)
    target_RA: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))


def fit_learner(
    rows: TreatedRows, settings: LearnerSettings, nuisances: NuisanceSettings, seed: int = 0, map: Map = here
) -> ArmEffects:
    """The effects of all arms; the same bits for any map. Raises UserError for an arm that too few got."""
    assert rows.arms, "vectors without arms: fit_dml"
    check_arms(rows, settings.smallest_arm)
    shared = Shared(rows, settings, nuisances, seed)
    facts = {"learner": settings.learner, "rows": len(rows), "by_arm": np.bincount(rows.arm_R).tolist()}
    arms = range(rows.arms)
    if settings.learner == "s":
        return ArmEffects("s", rows.arms_AT, {"all": map(one_for_all, shared, [0])[0]}, facts=facts)
    if settings.learner == "dr":
        return doubly_robust(shared, map, facts)
    mu = dict(zip(arms, map(outcome_of_arm, shared, arms), strict=True))
    models: dict[str, Predictor] = {f"mu.{a}": model for a, model in mu.items()}
    if settings.learner == "t":
        return ArmEffects("t", rows.arms_AT, models, facts=facts)
    second = Shared(rows, settings, nuisances, seed, mu=mu)
    pairs = [(side, a) for a in arms[1:] for side in (0, 1)]
    found = map(imputed_effect, second, pairs)
    stages: dict[str, Predictor] = {f"tau{side}.{a}": model for (side, a), model in zip(pairs, found, strict=True)}
    share_A, model = arm_shares(rows, nuisances, seed)
    return ArmEffects("x", rows.arms_AT, stages | model, propensity_A=share_A, facts=facts)


def arm_shares(
    rows: TreatedRows, nuisances: NuisanceSettings, seed: int
) -> tuple[np.ndarray | None, dict[str, Predictor]]:
    """Propensities for users to come: the design's, where it is the same for everybody, else a model."""
    known_RA = rows.propensity_RA
    if known_RA is not None and float(np.ptp(known_RA, 0).max()) < 1e-9:
        return known_RA[0].astype(np.float64), {}
    return None, {"propensity": propensity_model(nuisances, rows.x_RF, rows.arm_R, rows.arms, seed)}


def stage(settings: LearnerSettings, nuisances: NuisanceSettings) -> NuisanceSettings:
    """What effects are regressed with."""
    return replace(nuisances, learner=settings.final)


def one_for_all(shared: Shared, _: int) -> Predictor:
    rows = shared.rows
    with_arm_RF = np.concatenate([rows.x_RF, rows.arms_AT[rows.arm_R]], 1)
    return regression(shared.nuisances, with_arm_RF, rows.outcome_R, shared.seed)


def outcome_of_arm(shared: Shared, arm: int) -> Predictor:
    rows, own_N = shared.rows, np.flatnonzero(shared.rows.arm_R == arm)
    return regression(shared.nuisances, rows.x_RF[own_N], rows.outcome_R[own_N], shared.seed + arm)


def imputed_effect(shared: Shared, which: tuple[int, int]) -> Predictor:
    """X-learner's second stage: side 1 on the arm's rows, side 0 on those of the baseline."""
    side, arm = which
    rows = shared.rows
    own_N = np.flatnonzero(rows.arm_R == (arm if side else 0))
    x_NF, y_N = rows.x_RF[own_N], rows.outcome_R[own_N]
    imputed_N = y_N - shared.mu[0].predict(x_NF) if side else shared.mu[arm].predict(x_NF) - y_N
    return regression(stage(shared.settings, shared.nuisances), x_NF, imputed_N, shared.seed + 2 * arm + side)


def doubly_robust(shared: Shared, map: Map, facts: dict[str, Any]) -> ArmEffects:
    rows, settings = shared.rows, shared.settings
    fold_R = folds(len(rows), settings.folds, shared.seed, rows.cluster_R)
    first = Shared(rows, settings, shared.nuisances, shared.seed, fold_R)
    target_RA = np.zeros((len(rows), rows.arms))
    for own_N, target_NA in map(pseudo_outcomes, first, range(settings.folds)):
        target_RA[own_N] = target_NA
    second = Shared(rows, settings, shared.nuisances, shared.seed, fold_R, target_RA=target_RA)
    arms = range(1, rows.arms)
    found = map(regressed, second, arms)
    models = {f"tau.{a}": model for a, (model, _) in zip(arms, found, strict=True)}
    covariances = {a: own_PP for a, (_, own_PP) in zip(arms, found, strict=True) if own_PP is not None}
    return ArmEffects("dr", rows.arms_AT, models, covariances, facts=facts)


def pseudo_outcomes(shared: Shared, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows of the fold, their doubly robust outcome of each arm), with models of the other folds."""
    rows, own_N = shared.rows, np.flatnonzero(shared.fold_R == fold)
    others = rows.take(np.flatnonzero(shared.fold_R != fold))
    x_NF, arm_N, y_N = rows.x_RF[own_N], rows.arm_R[own_N], rows.outcome_R[own_N]
    inner = Shared(others, shared.settings, shared.nuisances, shared.seed + 7919 * (fold + 1))
    level_NA = np.stack([outcome_of_arm(inner, a).predict(x_NF) for a in range(rows.arms)], 1)
    if rows.propensity_RA is not None:
        share_NA = rows.propensity_RA[own_N]
    else:
        model = propensity_model(shared.nuisances, others.x_RF, others.arm_R, rows.arms, inner.seed)
        share_NA = propensities(model, x_NF)
    n = np.arange(len(own_N))
    weight_N = 1 / np.maximum(share_NA[n, arm_N], shared.settings.smallest_propensity)
    level_NA[n, arm_N] += weight_N * (y_N - level_NA[n, arm_N])
    return own_N, level_NA


def regressed(shared: Shared, arm: int) -> tuple[Predictor, np.ndarray | None]:
    """The effect of an arm as a function of the user, and the covariance of its coefficients."""
    rows = shared.rows
    target_R = shared.target_RA[:, arm] - shared.target_RA[:, 0]
    if shared.settings.final == "boosting":
        return regression(shared.nuisances, rows.x_RF, target_R, shared.seed + arm), None
    order_R = np.argsort(rows.cluster_R, kind="stable") if len(rows.cluster_R) else np.arange(len(rows))
    basis = UserBasis.of(rows.x_RF, shared.nuisances.basis)

    def block(piece: slice) -> tuple[np.ndarray, np.ndarray]:
        return basis(rows.x_RF[order_R[piece]]), target_R[order_R[piece]]

    cluster_R = rows.cluster_R[order_R] if len(rows.cluster_R) else rows.cluster_R
    with threadpool_limits(1):
        total: Sums = sums(len(rows), basis.size, block)
        theta_P = total.solve()
        middle_PP = scores(theta_P, len(rows), block, cluster_R)
        return Linear(basis, theta_P), covariance(total, middle_PP)
