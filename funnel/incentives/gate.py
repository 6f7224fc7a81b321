"""When new effects replace the standing ones: a small-traffic experiment that has been stable.

Users of the trial group get what the candidate's effects say, the others what the standing ones do. Each day the
difference of outcomes over all its days so far is looked at. After `days` days the candidate replaces the standing
effects if the lower end of the interval is above -`tolerance` and the sign of the difference did not turn on the last
two looks; a candidate whose interval lies below 0 is dropped at once. Repeated looks make the interval's level nominal:
the tolerance, not the level, bounds the loss.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from data.errors import UserError

Answer = Literal["wait", "replace", "drop"]


@dataclass(frozen=True)
class GateSettings:
    """When a candidate replaces what stands."""

    share: float = 0.1
    """Of the users, in the trial group; 0: no gate, new effects apply at once."""
    days: int = 5
    """Of an experiment, at least."""
    tolerance: float = 0.02
    """What a user may lose, by the lower end of the interval."""
    patience: int = 10
    """Days after which an experiment that is neither is dropped."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 0.5:
            raise UserError(f"share is {self.share}, must lie in [0, 0.5]")
        if not 1 <= self.days <= self.patience:
            raise UserError(f"days is {self.days}, must lie between 1 and patience, {self.patience}")


@dataclass
class Trial:
    """Sums over the days of an experiment, of both groups: rows, outcomes, squares of outcomes."""

    sums_23: np.ndarray = field(default_factory=lambda: np.zeros((2, 3)))
    looks: list[float] = field(default_factory=list)

    def add(self, outcome_N: np.ndarray, trial_N: np.ndarray) -> None:
        for group in (0, 1):
            own = outcome_N[trial_N == bool(group)]
            self.sums_23[group] += (len(own), own.sum(), (own**2).sum())
        self.looks.append(self.difference()[0])

    def difference(self) -> tuple[float, float]:
        """(trial less the others, its standard error)."""
        count_2, total_2, square_2 = self.sums_23.T
        if (count_2 < 2).any():
            return 0.0, np.inf
        mean_2 = total_2 / count_2
        variance_2 = np.maximum(square_2 / count_2 - mean_2**2, 0) / (count_2 - 1)
        return float(mean_2[1] - mean_2[0]), float(np.sqrt(variance_2.sum()))

    def answer(self, settings: GateSettings) -> Answer:
        value, error = self.difference()
        if value + 1.96 * error < 0:
            return "drop"
        days = len(self.looks)
        steady = days >= 2 and np.sign(self.looks[-1]) == np.sign(self.looks[-2])
        if days >= settings.days and steady and value - 1.96 * error > -settings.tolerance:
            return "replace"
        return "drop" if days >= settings.patience else "wait"
