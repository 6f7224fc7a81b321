"""Strategies of rewards, in three spellings: an arm, a vector of three numbers, curves over the day.

    arm      one of A strategies, one-hot: it has nothing but a name
    vector   (amount, interval, number): how much one reward is, how many hours lie between two, how many a day
    curves   amount, interval and number at hour h of the day, each  A sin(omega h + phi) + b, cut at 0

The day is an aggregate (X of the day before, T of the day, Y afterwards: a fork), so curves are summed up by when users
are there: rewards are given at rate number(h), the vector holds the amount and the interval of an average reward and
the number of all. Its bill is the sum over the day of amount(h) number(h). Shapes: A arms, H hours.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.errors import UserError

HOURS = 24
NUMBERS = ("amount", "interval", "number")


@dataclass(frozen=True)
class DayCurve:
    """amplitude * sin(omega * h + phase) + level, not below 0."""

    level: float
    amplitude: float = 0.0
    omega: float = 2 * np.pi / HOURS
    phase: float = 0.0

    def at(self, hours_H: np.ndarray) -> np.ndarray:
        return np.maximum(self.amplitude * np.sin(self.omega * hours_H + self.phase) + self.level, 0.0)


@dataclass(frozen=True)
class DayCurves:
    """A strategy as three functions of time."""

    amount: DayCurve
    interval: DayCurve
    number: DayCurve

    def aggregated(self, presence_H: np.ndarray | None = None) -> tuple[np.ndarray, float]:
        """(vector, bill). `presence_H`: how many users are there at each hour, of mean 1; even without it."""
        hours_H = np.arange(HOURS) + 0.5
        weight_H = np.ones(HOURS) if presence_H is None else presence_H / presence_H.mean()
        rate_H = self.number.at(hours_H) * weight_H / HOURS
        number = float(rate_H.sum())
        if number <= 0:
            return np.zeros(3), 0.0
        amount = float((rate_H * self.amount.at(hours_H)).sum()) / number
        interval = float((rate_H * self.interval.at(hours_H)).sum()) / number
        return np.array([amount, interval, number]), amount * number


def constant_curves(vector_3: np.ndarray) -> DayCurves:
    """The curves that say the same at every hour: `aggregated` gives the vector back."""
    amount, interval, number = (DayCurve(float(each)) for each in vector_3)
    return DayCurves(amount, interval, number)


def grid(levels: Sequence[Sequence[float]]) -> np.ndarray:
    """All combinations of levels of amount, interval and number, (A, 3), the cheapest bill first."""
    vectors_A3 = np.array(list(itertools.product(*levels)), np.float64)
    return cheapest_first(vectors_A3)


def cheapest_first(vectors_A3: np.ndarray) -> np.ndarray:
    """Ordered by bill, then by the numbers; equal strategies once."""
    unique_A3 = np.unique(vectors_A3, axis=0)
    return unique_A3[np.lexsort((*unique_A3.T[::-1], bill(unique_A3)))]


def bill(vectors_A3: np.ndarray) -> np.ndarray:
    """What a strategy costs of a user who takes every reward: amount * number."""
    return vectors_A3[:, 0] * vectors_A3[:, 2]


def one_hot(arm_R: np.ndarray, arms: int) -> np.ndarray:
    """(R, A)"""
    return np.eye(arms)[arm_R]


def arm_of(vectors_RT: np.ndarray, arms_AT: np.ndarray) -> np.ndarray:
    """The arm of each vector. Raises UserError for one that is none of the strategies."""
    distance_RA = np.abs(vectors_RT[:, None, :] - arms_AT[None]).max(2)
    arm_R = distance_RA.argmin(1)
    off_R = distance_RA[np.arange(len(arm_R)), arm_R] > 1e-6 * max(float(np.abs(arms_AT).max()), 1.0)
    if off_R.any():
        row = int(np.argmax(off_R))
        raise UserError(f"row {row}: {vectors_RT[row].tolist()} is none of the {len(arms_AT)} strategies")
    return arm_R


def check_strategies(vectors_A3: np.ndarray) -> None:
    """Raise UserError for what is no strategy."""
    if vectors_A3.ndim != 2 or vectors_A3.shape[1] != 3 or len(vectors_A3) < 2:
        raise UserError(f"strategies are {vectors_A3.shape}: want at least 2 of amount, interval and number")
    bad = np.argwhere(~(np.isfinite(vectors_A3) & (vectors_A3 >= 0)))
    if len(bad):
        row, column = bad[0]
        raise UserError(f"strategy {row}: {NUMBERS[column]} is {vectors_A3[row, column]}, must be at least 0")


NOTHING = np.zeros((1, 3))
"""The empty strategy: no reward."""


def six_arms() -> np.ndarray:
    """A ladder of rewards from nothing to eight a day, for one dimension of cost."""
    return np.concatenate([NOTHING, np.array([[1.0, 2.0, each] for each in (1.0, 2.0, 3.5, 5.5, 8.0)])])


def grid_arms() -> np.ndarray:
    """27 strategies: three levels each of amount, interval and number."""
    return grid(((0.3, 0.8, 1.6), (0.5, 2.0, 4.0), (1.0, 3.0, 6.0)))


STRATEGIES = {"ladder": six_arms, "grid": grid_arms}
