"""Double machine learning over a treatment vector, with effects linear in features of the user.

    y - m(x) = sum_jp theta_jp (phi_j(t) - E[phi_j(t) | x]) psi_p(x) + noise

[Chernozhukov et al. 2018; partially linear model, "linear DML"]. m(x) = E[y|x] and E[phi|x] are cross-fitted: a row's
come from models of other folds. Where propensities are known E[phi|x] is their mean of phi, else that of a fitted
propensity model (arms) or a regression of each phi_j (vectors of their own). How rich psi is and how strong the penalty
is chosen by the loss on held-out folds, from the same sums. Intervals are heteroskedasticity-robust, over clusters
where rows have them.

Shapes: R rows, J of phi, P of psi, Q = J * P, A arms, T numbers of a treatment, K folds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from data.errors import UserError
from funnel.effects.basis import KINDS, Kind, TreatmentBasis, UserBasis, kronecker
from funnel.effects.gram import Sums, covariance, scores, sums
from funnel.effects.nuisances import (
    NuisanceSettings,
    folds,
    propensities,
    propensity_model,
    regression,
)
from funnel.effects.rows import TreatedRows
from funnel.fitted import Map, here

PENALTIES = (1.0, 10.0, 100.0, 1000.0)


@dataclass(frozen=True)
class DMLSettings:
    """One model over treatment vectors."""

    degree: int = 2
    """Powers and products of the treatment's numbers up to this one."""
    basis: Kind | Literal["auto"] = "auto"
    """Features of the user that effects are linear in: constant < linear < squares < pairs; auto: what the held-out
    loss says, of those up to `richest`."""
    richest: Kind = "pairs"
    """auto: the richest features of the user that are tried."""
    most_columns: int = 1200
    """auto: a basis with more coefficients is not tried; sums take their square in time and memory."""
    folds: int = 5
    """Over how many folds outcomes and treatments are cross-fitted."""
    penalty: float = -1.0
    """Of coefficients, as so many rows; below 0: what the held-out loss says."""
    features: tuple[int, ...] = ()
    """Columns of the features that effects depend on; none: all."""

    def __post_init__(self) -> None:
        if not 1 <= self.degree <= 4:
            raise UserError(f"degree is {self.degree}, must lie in 1..4")
        if self.folds < 2:
            raise UserError(f"folds is {self.folds}, must be at least 2")


@dataclass(frozen=True)
class VectorEffects:
    """Fitted effects of treatment vectors, with what their errors follow from."""

    treatment: TreatmentBasis
    user: UserBasis
    features: tuple[int, ...]
    theta_JP: np.ndarray
    covariance_QQ: np.ndarray
    facts: Mapping[str, Any] = field(default_factory=dict)

    def psi(self, x_RF: np.ndarray) -> np.ndarray:
        return self.user(x_RF[:, list(self.features)] if self.features else x_RF)

    def contrasts(self, arms_AT: np.ndarray, base_T: np.ndarray) -> np.ndarray:
        """phi of each arm less that of the baseline, (A, J)."""
        return self.treatment(arms_AT) - self.treatment(base_T[None])

    def effects(self, x_RF: np.ndarray, arms_AT: np.ndarray, base_T: np.ndarray | None = None) -> np.ndarray:
        """What each arm brings a user against the baseline (none: the first arm), (R, A)."""
        slope_AP = self.contrasts(arms_AT, arms_AT[0] if base_T is None else base_T) @ self.theta_JP
        return np.concatenate([self.psi(x_RF[piece]) @ slope_AP.T for piece in pieces(len(x_RF))])

    def standard_errors(self, x_RF: np.ndarray, arms_AT: np.ndarray, base_T: np.ndarray | None = None) -> np.ndarray:
        """Of `effects`, (R, A)."""
        found = np.zeros((len(x_RF), len(arms_AT)))
        for a, contrast_J in enumerate(self.contrasts(arms_AT, arms_AT[0] if base_T is None else base_T)):
            own_PP = self.contracted(contrast_J)
            for piece in pieces(len(x_RF)):
                psi_BP = self.psi(x_RF[piece])
                found[piece, a] = np.sqrt(np.maximum(((psi_BP @ own_PP) * psi_BP).sum(1), 0))
        return found

    def average(self, x_RF: np.ndarray, arms_AT: np.ndarray, base_T: np.ndarray | None = None) -> np.ndarray:
        """(effect, standard error) of each arm averaged over these users, (A, 2)."""
        psi_P = np.mean([self.psi(x_RF[piece]).sum(0) for piece in pieces(len(x_RF))], 0)
        psi_P *= len(pieces(len(x_RF))) / len(x_RF)
        found = []
        for contrast_J in self.contrasts(arms_AT, arms_AT[0] if base_T is None else base_T):
            variance = float(psi_P @ self.contracted(contrast_J) @ psi_P)
            found.append((float(contrast_J @ self.theta_JP @ psi_P), np.sqrt(max(variance, 0.0))))
        return np.array(found)

    def mean_slopes(self, x_RF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What a unit of each phi brings on average over these users, and the covariance of that, (J,) and (J, J):
        the effect of t against t' is (phi(t) - phi(t')) . slopes."""
        psi_P = np.sum([self.psi(x_RF[piece]).sum(0) for piece in pieces(len(x_RF))], 0) / max(len(x_RF), 1)
        j, p = self.theta_JP.shape
        spread_JJ = np.einsum("p,jpkq,q->jk", psi_P, self.covariance_QQ.reshape(j, p, j, p), psi_P)
        return self.theta_JP @ psi_P, spread_JJ

    def contracted(self, contrast_J: np.ndarray) -> np.ndarray:
        """Covariance of an arm's coefficients of psi, (P, P)."""
        j, p = self.theta_JP.shape
        return np.einsum("j,jpkq,k->pq", contrast_J, self.covariance_QQ.reshape(j, p, j, p), contrast_J)

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "scale_T": self.treatment.scale_T,
            "degree": np.array(self.treatment.degree),
            "mean_F": self.user.mean_F,
            "std_F": self.user.std_F,
            "kind": np.array(KINDS.index(self.user.kind)),
            "features": np.array(self.features, np.int64),
            "theta_JP": self.theta_JP,
            "covariance_QQ": self.covariance_QQ,
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "VectorEffects":
        user = UserBasis(arrays["mean_F"], arrays["std_F"], KINDS[int(arrays["kind"])])
        treatment = TreatmentBasis(arrays["scale_T"], int(arrays["degree"]))
        features = tuple(int(each) for each in arrays["features"])
        return cls(treatment, user, features, arrays["theta_JP"], arrays["covariance_QQ"], facts)


def pieces(rows: int) -> list[slice]:
    return [slice(begin, begin + 16_384) for begin in range(0, rows, 16_384)] or [slice(0, 0)]


def fit_dml(
    rows: TreatedRows, settings: DMLSettings, nuisances: NuisanceSettings, seed: int = 0, map: Map = here
) -> VectorEffects:
    """The effects; the same bits for any map. Raises UserError for fewer rows than coefficients."""
    if len(rows.cluster_R):  # a cluster's rows lie together, for its part of the covariance
        rows = rows.take(np.argsort(rows.cluster_R, kind="stable"))
    treatment = TreatmentBasis.of(rows.arms_AT if rows.arms else rows.treatment_RT, settings.degree)
    check_features(settings, rows.x_RF.shape[1])
    effect_x_RF = rows.x_RF[:, list(settings.features)] if settings.features else rows.x_RF
    user = UserBasis.of(effect_x_RF, settings.richest if settings.basis == "auto" else settings.basis)
    sizes, products = user.sizes(), len(treatment.products)
    while settings.basis == "auto" and user.kind != "constant" and products * user.size > settings.most_columns:
        user = replace(user, kind=KINDS[KINDS.index(user.kind) - 1])
    columns = products * user.size
    least = products * sizes["constant" if settings.basis == "auto" else user.kind]
    if len(rows) <= 2 * least:
        raise UserError(f"{len(rows)} rows for {least} coefficients: too few to learn effects from")
    fold_R = folds(len(rows), settings.folds, seed, rows.cluster_R)
    shared = Shared(rows, treatment, user, settings, nuisances, fold_R, seed)
    parts: list[Part] = map(part_of, shared, range(settings.folds))
    total = Sums.over([part.sums for part in parts])
    kind, penalty, tried = choose(settings, total, [part.sums for part in parts], user, products)
    kept_Q = kept(sizes[kind], user.size, products)
    chosen = UserBasis(user.mean_F, user.std_F, kind)
    small = total.some(kept_Q)
    with threadpool_limits(1):
        theta_Q = small.solve(penalty)
        middles = map(middle_of, Second(shared, chosen, theta_Q), parts)
        covariance_QQ = covariance(small, np.sum(middles, 0), penalty)
    facts = {
        "rows": len(rows),
        "basis": kind,
        "penalty": penalty,
        "coefficients": len(kept_Q),
        "r_loss": small.loss(theta_Q),
        "r_loss_without_effect": small.square / len(rows),
        "held_out_loss": tried,
        "richest": columns,
    }
    theta_JP = theta_Q.reshape(products, chosen.size)
    return VectorEffects(treatment, chosen, settings.features, theta_JP, covariance_QQ, facts)


def check_features(settings: DMLSettings, columns: int) -> None:
    """Raise UserError for columns that effects are to depend on and that are not there."""
    for column in settings.features:
        if not 0 <= column < columns:
            raise UserError(f"dml.features: column {column}, but there are {columns} numeric features, from 0")


@dataclass(frozen=True)
class Shared:
    rows: TreatedRows
    treatment: TreatmentBasis
    user: UserBasis
    settings: DMLSettings
    nuisances: NuisanceSettings
    fold_R: np.ndarray
    seed: int

    def psi(self, x_RF: np.ndarray, basis: UserBasis) -> np.ndarray:
        return basis(x_RF[:, list(self.settings.features)] if self.settings.features else x_RF)


@dataclass(frozen=True)
class Part:
    """Of one fold: its rows, what is left of their outcomes, and what its treatments were expected to be."""

    rows_N: np.ndarray
    residual_N: np.ndarray
    expected_NJ: np.ndarray
    sums: Sums


@dataclass(frozen=True)
class Second:
    shared: Shared
    basis: UserBasis
    theta_Q: np.ndarray


def part_of(shared: Shared, fold: int) -> Part:
    """Nuisances from the other folds, residuals and sums of this one."""
    rows, own_N = shared.rows, np.flatnonzero(shared.fold_R == fold)
    others = rows.take(np.flatnonzero(shared.fold_R != fold))
    x_NF, seed = rows.x_RF[own_N], shared.seed + 7919 * (fold + 1)
    outcome = regression(shared.nuisances, others.x_RF, others.outcome_R, seed)
    residual_N = (rows.outcome_R[own_N] - outcome.predict(x_NF)).astype(np.float32)
    expected_NJ = expected(shared, others, own_N, seed).astype(np.float32)
    part = Part(own_N, residual_N, expected_NJ, Sums.none(0))
    columns = len(shared.treatment.products) * shared.user.size
    with threadpool_limits(1):
        found = sums(len(own_N), columns, lambda piece: design(shared, shared.user, part, piece))
    return Part(own_N, residual_N, expected_NJ, found)


def expected(shared: Shared, others: TreatedRows, own_N: np.ndarray, seed: int) -> np.ndarray:
    """E[phi(t) | x] of these rows, (N, J)."""
    rows = shared.rows
    if not rows.arms:
        phi_RJ, x_NF = shared.treatment(others.treatment_RT), rows.x_RF[own_N]
        fitted = [regression(shared.nuisances, others.x_RF, phi_R, seed).predict(x_NF) for phi_R in phi_RJ.T]
        return np.stack(fitted, 1)
    if rows.propensity_RA is not None:
        share_NA = rows.propensity_RA[own_N]
    else:
        model = propensity_model(shared.nuisances, others.x_RF, others.arm_R, rows.arms, seed)
        share_NA = propensities(model, rows.x_RF[own_N])
    return np.asarray(share_NA @ shared.treatment(rows.arms_AT))


def design(shared: Shared, basis: UserBasis, part: Part, piece: slice) -> tuple[np.ndarray, np.ndarray]:
    """(design_BQ, residual_B) of a slice of a fold."""
    here_B = part.rows_N[piece]
    phi_BJ = shared.treatment(shared.rows.vectors_at(here_B)) - part.expected_NJ[piece]
    design_BQ = kronecker(phi_BJ, shared.psi(shared.rows.x_RF[here_B], basis))
    return design_BQ, part.residual_N[piece].astype(np.float64)


def middle_of(second: Second, part: Part) -> np.ndarray:
    """The middle of the covariance over the rows of one fold."""
    shared = second.shared
    cluster_N = shared.rows.cluster_R[part.rows_N] if len(shared.rows.cluster_R) else shared.rows.cluster_R
    with threadpool_limits(1):
        return scores(
            second.theta_Q,
            len(part.rows_N),
            lambda piece: design(shared, second.basis, part, piece),
            cluster_N,
        )


def kept(size: int, full: int, products: int) -> np.ndarray:
    """Columns of the design that are left where psi has only its first `size` columns."""
    return (np.arange(products)[:, None] * full + np.arange(size)[None]).ravel()


def choose(
    settings: DMLSettings, total: Sums, parts: list[Sums], user: UserBasis, products: int
) -> tuple[Kind, float, dict[str, float]]:
    """(basis, penalty, held-out loss by both): of each fold with coefficients of the others, from sums alone."""
    kinds = KINDS[: KINDS.index(user.kind) + 1] if settings.basis == "auto" else (user.kind,)
    penalties = PENALTIES if settings.penalty < 0 else (settings.penalty,)
    tried: dict[str, float] = {}
    best: tuple[float, Kind, float] | None = None
    for kind in kinds:
        kept_Q = kept(user.sizes()[kind], user.size, products)
        if 2 * len(kept_Q) >= total.rows:
            continue
        for penalty in penalties if len(kinds) * len(penalties) > 1 else ():
            loss = held_out(total.some(kept_Q), [part.some(kept_Q) for part in parts], penalty)
            tried[f"{kind}, {penalty:g}"] = loss
            if best is None or loss < best[0]:
                best = (loss, kind, penalty)
    if best is None:
        return user.kind, max(settings.penalty, 0.0), tried
    return best[1], best[2], tried


def held_out(total: Sums, parts: list[Sums], penalty: float) -> float:
    losses = []
    for part in parts:
        others = Sums(total.gram_QQ, total.cross_Q, total.square, total.rows)
        others.add(part, -1)
        losses.append(part.loss(others.solve(penalty)) * part.rows)
    return float(np.sum(losses)) / total.rows
