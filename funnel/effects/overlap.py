"""Who could have got what: arms that nobody got, users who could not have got them, how alike the arms' users are.

An effect is refused where it would have to be extrapolated: an arm without rows, a user whose propensity of an arm is
next to nothing, a treatment vector outside of those that were tried. Shapes: R rows, A arms, F features, J of phi.
"""

from dataclasses import dataclass

import numpy as np

from data.errors import UserError
from funnel.effects.basis import TreatmentBasis
from funnel.effects.rows import TreatedRows
from funnel.figures.intervals import effective_size

SMALLEST = 0.01
"""A propensity below which a user counts as one who could not have got the arm."""


def check_arms(rows: TreatedRows, least: int = 30) -> None:
    """Raise UserError, naming the arm, where fewer rows than `least` got one of the arms."""
    got_A = np.bincount(rows.arm_R, minlength=rows.arms)
    arm = int(np.argmin(got_A))
    if got_A[arm] == 0:
        raise UserError(f"arm {arm}: nobody got it, so its effect cannot be learnt; leave it out or try it on somebody")
    if got_A[arm] < least:
        raise UserError(f"arm {arm}: {got_A[arm]} rows got it; at least {least} are needed")


@dataclass(frozen=True)
class Overlap:
    """Of each arm."""

    rows_A: np.ndarray
    smallest_A: np.ndarray
    """The 1% quantile of its propensity over all rows."""
    rare_A: np.ndarray
    """Share of the rows whose propensity of it is below SMALLEST."""
    effective_A: np.ndarray
    """Rows of the arm after weighting to all users: (sum w)^2 / sum w^2."""
    before_AF: np.ndarray
    """Standardised difference of the arm's feature means to all rows'."""
    after_AF: np.ndarray
    """The same, weighted by 1 / propensity: near 0 where the propensities account for who got what."""

    @property
    def worst_before(self) -> float:
        return float(np.abs(self.before_AF).max())

    @property
    def worst_after(self) -> float:
        return float(np.abs(self.after_AF).max())


def overlap(rows: TreatedRows, propensity_RA: np.ndarray) -> Overlap:
    """How much the arms' users overlap, under these propensities (known or fitted)."""
    x_RF = np.nan_to_num(rows.x_RF - np.nanmean(rows.x_RF, 0))
    std_F = x_RF.std(0)
    std_F = np.where(std_F > 0, std_F, 1.0)
    before: list[np.ndarray] = []
    after: list[np.ndarray] = []
    effective: list[float] = []
    for a in range(rows.arms):
        own_N = np.flatnonzero(rows.arm_R == a)
        if not len(own_N):
            nothing_F = np.full(x_RF.shape[1], np.inf)
            before, after, effective = [*before, nothing_F], [*after, nothing_F], [*effective, 0.0]
            continue
        weight_N = 1 / np.maximum(propensity_RA[own_N, a], 1e-9)
        before.append(x_RF[own_N].mean(0) / std_F)
        after.append(np.average(x_RF[own_N], axis=0, weights=weight_N) / std_F)
        effective.append(effective_size(weight_N))
    return Overlap(
        np.bincount(rows.arm_R, minlength=rows.arms),
        np.quantile(propensity_RA, 0.01, axis=0),
        (propensity_RA < SMALLEST).mean(0),
        np.array(effective),
        np.array(before),
        np.array(after),
    )


def possible(propensity_RA: np.ndarray, smallest: float = SMALLEST) -> np.ndarray:
    """bool (R, A): who could have got what. Effects of the others would be extrapolated."""
    return propensity_RA >= smallest


def beyond(basis: TreatmentBasis, tried_NT: np.ndarray, new_MT: np.ndarray, slack: float = 1.0) -> np.ndarray:
    """bool_M: treatment vectors outside of what was tried. Their leverage phi' (sum phi phi')^-1 phi is more than
    `slack` times that of any vector tried, or a direction of phi was never tried at all."""
    tried_NJ = np.column_stack([np.ones(len(tried_NT)), basis(tried_NT)])
    new_MJ = np.column_stack([np.ones(len(new_MT)), basis(new_MT)])
    values_J, vectors_JJ = np.linalg.eigh(tried_NJ.T @ tried_NJ / len(tried_NJ))
    known_J = values_J > 1e-9 * values_J.max()
    turned_NJ, turned_MJ = tried_NJ @ vectors_JJ, new_MJ @ vectors_JJ
    scale_J = np.where(known_J, values_J, np.inf)
    reach = float((turned_NJ**2 / scale_J).sum(1).max())
    leverage_M = (turned_MJ**2 / scale_J).sum(1)
    unknown_M = (turned_MJ[:, ~known_J] ** 2).sum(1)
    return np.asarray((leverage_M > slack * reach * (1 + 1e-6)) | (unknown_M > 1e-6 * (turned_MJ**2).sum(1)))


def refuse_beyond(basis: TreatmentBasis, tried_NT: np.ndarray, new_MT: np.ndarray, names: list[str]) -> None:
    """Raise UserError, naming it, for a treatment vector outside of what was tried."""
    for m in np.flatnonzero(beyond(basis, tried_NT, new_MT)):
        raise UserError(
            f"{names[m]} {np.round(new_MT[m], 4).tolist()} lies outside of the treatments that were tried: its "
            "effect would be extrapolated; try it on somebody first"
        )
