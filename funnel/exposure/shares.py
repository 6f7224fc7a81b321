"""Logged shares of exposure: who got how much of each category, and what came of it; checked.

Shapes: R rows (users), F features, K categories.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data.errors import UserError

TOLERANCE = 1e-6
"""By how much the shares of a row may differ from 1 in sum; they are then divided by their sum. float32 shares of
dozens of categories keep within it."""


@dataclass(frozen=True)
class ShareRows:
    """Rows with shares and an outcome. Raises UserError in one line, naming row and column, for what cannot be."""

    features_RF: np.ndarray
    """float64; NaN where a value is missing: trees take it for larger than any."""
    shares_RK: np.ndarray
    """float64, from 0 to 1, every row sums to 1."""
    outcome_R: np.ndarray
    feature_names: tuple[str, ...]
    categories: tuple[str, ...]
    best_RK: np.ndarray | None = None
    """The shares that are best for each row, where a simulation knows them."""
    where: str = field(default="shares", compare=False)
    """What messages begin with: the file."""

    def __post_init__(self) -> None:
        rows, where = len(self.outcome_R), self.where
        assert self.features_RF.shape == (rows, len(self.feature_names))
        assert self.shares_RK.shape == (rows, len(self.categories))
        if len(self.categories) < 2:
            raise UserError(f"{where}: {len(self.categories)} category of shares; there must be at least 2")
        if not self.feature_names:
            raise UserError(f"{where}: no features; shares could only be the same for everybody")
        if not rows:
            raise UserError(f"{where}: no rows")
        refuse(~np.isfinite(self.outcome_R), f"{where}: outcome", "a finite number", self.outcome_R)
        for k, name in enumerate(self.categories):
            share_R = self.shares_RK[:, k]
            refuse(~np.isfinite(share_R), f"{where}: share {name!r}", "a finite number", share_R)
            refuse(share_R < 0, f"{where}: share {name!r}", "at least 0", share_R)
        for f, name in enumerate(self.feature_names):
            value_R = self.features_RF[:, f]
            refuse(np.isinf(value_R), f"{where}: feature {name!r}", "finite or missing", value_R)
        sum_R = self.shares_RK.sum(axis=1)
        refuse(
            np.abs(sum_R - 1) > TOLERANCE,
            f"{where}: the sum of the shares {', '.join(self.categories)}",
            f"1 to within {TOLERANCE:g}",
            sum_R,
        )
        for k, name in enumerate(self.categories):
            if not self.shares_RK[:, k].any():
                raise UserError(
                    f"{where}: category {name!r} is never shown in {rows:,} rows; leave it out: nothing can be learnt"
                )
            if np.ptp(self.shares_RK[:, k]) == 0:
                raise UserError(
                    f"{where}: share {name!r} is {self.shares_RK[0, k]:g} in all {rows:,} rows; what never varies "
                    "has no effect to learn"
                )

    def __len__(self) -> int:
        return len(self.outcome_R)

    def take(self, index: np.ndarray) -> "ShareRows":
        """The rows of an index or a mask."""
        return ShareRows(
            self.features_RF[index],
            self.shares_RK[index],
            self.outcome_R[index],
            self.feature_names,
            self.categories,
            None if self.best_RK is None else self.best_RK[index],
            self.where,
        )


def refuse(bad_R: np.ndarray, what: str, wanted: str, value_R: np.ndarray) -> None:
    """Raise UserError with the first bad row, counted from 0."""
    if bad_R.any():
        row = int(np.argmax(bad_R))
        more = f" ({int(bad_R.sum()):,} rows in all)" if bad_R.sum() > 1 else ""
        raise UserError(f"{what} is {value_R[row]:g} in row {row}{more}, must be {wanted}")


def check_policy(
    shares_UK: np.ndarray, low_K: np.ndarray, high_K: np.ndarray, names: Sequence[str], step: float = 0.0
) -> None:
    """Raise UserError for shares that a policy would give outside the range that the log has seen, or that are no
    shares. step: the grid on which a policy's shares lie; they may end at its next point."""
    slack = step + TOLERANCE
    for k, name in enumerate(names):
        beyond_U = (shares_UK[:, k] < low_K[k] - slack) | (shares_UK[:, k] > high_K[k] + slack)
        wanted = f"within {low_K[k]:g} to {high_K[k]:g}, which the log has seen"
        refuse(beyond_U, f"share {name!r}", wanted, shares_UK[:, k])
    sum_U = shares_UK.sum(axis=1)
    refuse(np.abs(sum_U - 1) > TOLERANCE, "the sum of the shares", f"1 to within {TOLERANCE:g}", sum_U)


def limits(shares_K: np.ndarray, slack: float = 0.05) -> list[str]:
    """Shares as the limits of the list re-ranking (funnel/rerank), "CATEGORY:LEAST:MOST": of everybody, as
    its search knows categories and no users. slack: how far a page may be from them."""
    return [f"{k}:{max(share - slack, 0):.3g}:{min(share + slack, 1):.3g}" for k, share in enumerate(shares_K)]
