"""When new effects replace the standing ones: a small-traffic experiment that has been stable.

Users of the trial group get what the candidate's effects say, the others what the standing ones do, under the same
budget, caps, floors and ceilings. A candidate that spends more must not win by the money alone: what is compared is

    net = outcome - price * cost

with the price of money at the standing decisions (what one unit more would bring there, the budget's multiplier of the
allocation; 0 where it is not used up). The differences of outcome and of cost are told beside it. Each day the
difference over all days so far is looked at. After `days` days the candidate replaces the standing effects if the lower
end of the interval is above -`tolerance` and the sign of the difference did not turn on the last two looks; a candidate
whose interval lies below 0 is dropped at once. Repeated looks make the interval's level nominal: the tolerance, not the
level, bounds the loss. Errors are over user-days.
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
    """What a user may lose of the outcome less what is spent, by the lower end of the interval."""
    patience: int = 10
    """Days after which an experiment that is neither is dropped."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 0.5:
            raise UserError(f"gate.share is {self.share}, must lie in [0, 0.5]")
        if not 1 <= self.days <= self.patience:
            raise UserError(f"gate.days is {self.days}, must lie between 1 and gate.patience, {self.patience}")
        if not 0 <= self.tolerance < np.inf:
            raise UserError(f"gate.tolerance is {self.tolerance}, must be a finite number of at least 0")


SERIES = ("net", "outcome", "cost")


@dataclass
class Trial:
    """Sums over the days of an experiment, of both groups: rows, values and their squares, of net, outcome and cost."""

    price: float = 0.0
    """What a unit of cost counts in net."""
    sums_323: np.ndarray = field(default_factory=lambda: np.zeros((len(SERIES), 2, 3)))
    looks: list[float] = field(default_factory=list)

    def add(self, outcome_N: np.ndarray, cost_N: np.ndarray, trial_N: np.ndarray) -> None:
        """A day of the decided users."""
        for sums_23, value_N in zip(self.sums_323, (outcome_N - self.price * cost_N, outcome_N, cost_N), strict=True):
            for group in (0, 1):
                own = value_N[trial_N == bool(group)]
                sums_23[group] += (len(own), own.sum(), (own**2).sum())
        self.looks.append(self.difference()[0])

    def difference(self, series: str = "net") -> tuple[float, float]:
        """(trial less the others, its standard error)."""
        count_2, total_2, square_2 = self.sums_323[SERIES.index(series)].T
        if (count_2 < 2).any():
            return 0.0, np.inf
        mean_2 = total_2 / count_2
        variance_2 = np.maximum(square_2 / count_2 - mean_2**2, 0) / (count_2 - 1)
        return float(mean_2[1] - mean_2[0]), float(np.sqrt(variance_2.sum()))

    def figures(self) -> dict[str, float | None]:
        """gate.difference (net), gate.outcome, gate.cost, each with .low and .high (None: too few rows)."""
        found: dict[str, float | None] = {"gate.price": self.price}
        for series, key in zip(SERIES, ("gate.difference", "gate.outcome", "gate.cost"), strict=True):
            value, error = self.difference(series)
            known = bool(np.isfinite(error))
            found |= {key: value if known else None, f"{key}.low": value - 1.96 * error if known else None,
                      f"{key}.high": value + 1.96 * error if known else None}  # fmt: skip
        return found

    def answer(self, settings: GateSettings) -> Answer:
        value, error = self.difference()
        if value + 1.96 * error < 0:
            return "drop"
        days = len(self.looks)
        steady = days >= 2 and np.sign(self.looks[-1]) == np.sign(self.looks[-2])
        if days >= settings.days and steady and value - 1.96 * error > -settings.tolerance:
            return "replace"
        return "drop" if days >= settings.patience else "wait"
