"""Rows of users who were treated: what learners of treatment effects are fitted on.

Shapes: R rows, F features of a user, A arms, T numbers of a treatment.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from data.errors import UserError

SUM = 1e-4
"""By how much the propensities of a row may miss 1: rounded ones do."""


@dataclass(frozen=True)
class TreatedRows:
    """A treatment is one of A arms (`arm_R`, of which each has a vector), or a vector of its own (`treatment_RT`).

    x_RF: features known before the treatment, NaN where missing. outcome_R: what came of it.
    """

    x_RF: np.ndarray
    outcome_R: np.ndarray
    arm_R: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    arms_AT: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    treatment_RT: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    propensity_RA: np.ndarray | None = None
    """How likely each arm was for the row, where that is known (an experiment's design)."""
    cluster_R: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """Whose row it is (a user seen on several days): folds keep a cluster together, intervals are over clusters."""

    def __len__(self) -> int:
        return len(self.outcome_R)

    @property
    def arms(self) -> int:
        return len(self.arms_AT)

    def vectors_at(self, rows_N: np.ndarray) -> np.ndarray:
        """The treatments of these rows as vectors, (N, T)."""
        return self.arms_AT[self.arm_R[rows_N]] if self.arms else self.treatment_RT[rows_N]

    def take(self, index_N: np.ndarray) -> "TreatedRows":
        def some(rows: np.ndarray) -> np.ndarray:
            return rows[index_N] if len(rows) else rows

        return replace(
            self,
            x_RF=self.x_RF[index_N],
            outcome_R=self.outcome_R[index_N],
            arm_R=some(self.arm_R),
            treatment_RT=some(self.treatment_RT),
            propensity_RA=None if self.propensity_RA is None else self.propensity_RA[index_N],
            cluster_R=some(self.cluster_R),
        )

    def check(self, where: str = "") -> "TreatedRows":
        """Itself. Raises UserError in one line, naming the row, for what no effect can be learnt from."""
        front = f"{where}: " if where else ""
        if not len(self):
            raise UserError(f"{front}no rows")
        finite(self.outcome_R, f"{front}outcome")
        if np.isinf(self.x_RF).any():
            row, column = np.argwhere(np.isinf(self.x_RF))[0]
            raise UserError(f"{front}row {row}: feature {column} is infinite")
        if not self.arms:
            if len(self.treatment_RT) != len(self):
                raise UserError(f"{front}{len(self.treatment_RT)} treatments for {len(self)} rows")
            finite(self.treatment_RT, f"{front}treatment")
            return self
        finite(self.arms_AT, f"{front}arm")
        if self.arm_R.min() < 0 or self.arm_R.max() >= self.arms:
            row = int(np.argmax((self.arm_R < 0) | (self.arm_R >= self.arms)))
            raise UserError(f"{front}row {row}: arm {self.arm_R[row]}, but the arms are 0 to {self.arms - 1}")
        if self.propensity_RA is not None:
            check_propensities(self.propensity_RA, self.arm_R, front)
        return self


def finite(values: np.ndarray, what: str) -> None:
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise UserError(f"{what} of row {row} is {values[row]}, not a finite number")


def check_propensities(propensity_RA: np.ndarray, arm_R: np.ndarray, front: str) -> None:
    """Raise UserError for what is no probability, sums to something else than 1, or says that what happened could not
    (or could not but) happen."""
    bad_R = ~((propensity_RA >= 0) & (propensity_RA <= 1)).all(1)
    if bad_R.any():
        row = int(np.argmax(bad_R))
        raise UserError(f"{front}row {row}: propensities {propensity_RA[row].tolist()} are no probabilities")
    off_R = np.abs(propensity_RA.sum(1) - 1) > SUM
    if off_R.any():
        row = int(np.argmax(off_R))
        raise UserError(f"{front}row {row}: its propensities sum to {propensity_RA[row].sum():.6g}, not 1")
    own_R = propensity_RA[np.arange(len(arm_R)), arm_R]
    for value, why in ((0.0, "it got what it could not get"), (1.0, "nothing else could happen to it")):
        if (own_R == value).any():
            row = int(np.argmax(own_R == value))
            raise UserError(f"{front}row {row}: propensity {value:g} of its own arm {arm_R[row]}: {why}")


def one_hot(arms: int) -> np.ndarray:
    """(A, A): arms that have nothing but a name."""
    return np.eye(arms)
