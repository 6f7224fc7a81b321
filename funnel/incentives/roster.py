"""The strategies of an operation: which stand, which are tried on whom, which were replaced by what.

A strategy has a number for good. Random traffic is given out in batches of strategies, the cheapest one (the baseline)
in each of them; batches take days in turn. Within a day the users of a batch are dealt into lanes of equal traffic, a
lane a strategy, and lanes rotate over time slices and days (proposals.py). Shapes: S strategies ever, K of a batch,
N users, D days, R rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np

from data.errors import UserError
from funnel.incentives.proposals import PruneRules, batches, lanes, rotation
from funnel.incentives.strategies import bill
from funnel.platform.draws import key, uniforms

LANE, REACH = 502, 1.25


@dataclass(frozen=True)
class ProposalSettings:
    """How strategies are tried and replaced."""

    by: Literal["grid", "evolution", "none"] = "none"
    """Where new strategies come from: a grid over the numbers that were tried, or evolution among them, by DML's
    estimate of what they add under the budget; none: weak strategies are reported and stay."""
    every: int = 7
    """Days between two reviews, at which weak strategies are replaced."""
    judged: Literal["effects", "means"] = "effects"
    """How strategies are judged at a review. effects: by DML's average effects, for which the rows of all strategies
    count; means: by the mean outcome of whom each was given to, which rests on no model and takes far more traffic."""
    batch: int = 8
    """Strategies that share the random traffic of a day, the baseline among them; batches take days in turn."""
    slices: int = 4
    """Time slices of a day, over which lanes of users rotate."""
    level: float = 1.96
    """Standard errors on either side of an estimate: a strategy is weak whose upper end is below the lower end of one
    that costs no more."""
    reach: float = REACH
    """By what factor a number of a new strategy may go beyond those that were tried."""
    rules: PruneRules = field(default_factory=PruneRules)

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("batch", 2)):
            if getattr(self, name) < least:
                raise UserError(f"proposals.{name} is {getattr(self, name)}, must be at least {least}")
        if self.slices not in DIVISORS:
            raise UserError(f"proposals.slices is {self.slices}, must divide the 24 hours of a day")
        if not 0 < self.level < np.inf:
            raise UserError(f"proposals.level is {self.level}, must be a finite number above 0")
        if not 1 <= self.reach <= 4:
            raise UserError(f"proposals.reach is {self.reach}, must lie in [1, 4]")
        if self.by == "none":
            for name, plain in (("reach", REACH), ("rules", PruneRules())):
                if getattr(self, name) != plain:
                    raise UserError(f"proposals.{name} has no effect with proposals.by none: nothing new is proposed")


DIVISORS = tuple(each for each in range(1, 25) if 24 % each == 0)


@dataclass
class Roster:
    vectors_S3: np.ndarray
    """Every strategy there ever was, by its number."""
    size: int
    """Of a batch."""
    slices: int
    born: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    """The day on which a strategy was dropped; -1: it stands."""
    follows: list[int] = field(default_factory=list)
    """The strategy whose place it took; -1: a free one."""
    since: int = 0
    """The day since which these strategies stand."""

    @classmethod
    def of(cls, vectors_A3: np.ndarray, settings: ProposalSettings) -> Self:
        count = len(vectors_A3)
        return cls(vectors_A3, settings.batch, settings.slices, [0] * count, [-1] * count, [-1] * count)

    @property
    def live(self) -> np.ndarray:
        """Numbers of the strategies that stand, the cheapest first."""
        return self.ordered(np.flatnonzero(np.array(self.dropped) < 0))

    def ordered(self, ids_A: np.ndarray) -> np.ndarray:
        """The cheapest first; of the same bill the older one."""
        return np.asarray(ids_A[np.argsort(bill(self.vectors_S3[ids_A]), kind="stable")])

    @property
    def batches(self) -> list[np.ndarray]:
        """Numbers of the strategies of each batch, the baseline first."""
        live_A = self.live
        return [live_A[part] for part in batches(len(live_A), self.size)]

    def batch_of(self, day: int) -> np.ndarray:
        found = self.batches
        return found[(day - self.since) % len(found)]

    def deal(self, day: int, user_N: np.ndarray, slice_N: np.ndarray, seed: int) -> np.ndarray:
        """The strategy of each user of the random traffic: the day's batch in lanes of equal traffic."""
        batch_K, count = self.batch_of(day), len(self.batches)
        plan_KP = rotation(len(batch_K), self.slices, (day - self.since) // count)
        lane_N = lanes(uniforms(key(seed, LANE), user_N), slice_N, len(batch_K))
        return np.asarray(batch_K[plan_KP[lane_N, slice_N]])

    def replace(self, day: int, weak_N: np.ndarray, new_M3: np.ndarray) -> np.ndarray:
        """Drop these strategies and add new ones in their places, then in free ones; the new ones' numbers."""
        first = len(self.vectors_S3)
        for number in weak_N.tolist():
            self.dropped[number] = day
        self.vectors_S3 = np.concatenate([self.vectors_S3, new_M3]) if len(new_M3) else self.vectors_S3
        self.born += [day] * len(new_M3)
        self.dropped += [-1] * len(new_M3)
        self.follows += [*weak_N.tolist(), *([-1] * len(new_M3))][: len(new_M3)]
        if len(weak_N) or len(new_M3):
            self.since = day
        return np.arange(first, first + len(new_M3))

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {"vectors": self.vectors_S3}, {name: getattr(self, name) for name in REMEMBERED}

    def resume(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        self.vectors_S3 = arrays["vectors"]
        for name in REMEMBERED:
            setattr(self, name, facts[name])


REMEMBERED = ("born", "dropped", "follows", "since")


def check_batches(settings: ProposalSettings, strategies: int, warmup: int) -> None:
    """Raise UserError where some batch would have no day before the first decision, or between two reviews."""
    turns = len(batches(strategies, settings.batch))
    for name, days in (("warmup", warmup), ("proposals.every", settings.every)):
        if turns > days:
            raise UserError(f"{strategies} strategies in batches of {settings.batch} take {turns} days in turn, more "
                            f"than {name}, {days}: raise proposals.batch or {name}")  # fmt: skip


def learnable(
    history: Sequence[Mapping[str, np.ndarray]], ids_A: np.ndarray, least_A: np.ndarray, by_day: bool
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(rows of these strategies with how likely each of them was, the strategies in the order in which the rows number
    them). Strategies that fewer than `least_A` rows got, or nobody, are left out.

    `by_day`: how likely on that day (its batch); else in all days together, as learners of single arms take it.
    """
    count_S = np.bincount(np.concatenate([each["arm"] for each in history]), minlength=int(ids_A.max()) + 1)
    ids_A = ids_A[count_S[ids_A] >= np.maximum(least_A, 1)]
    place_S = np.full(len(count_S), -1)
    place_S[ids_A] = np.arange(len(ids_A))
    rows, shares = [], []
    for each in history:
        own_N = np.flatnonzero(place_S[each["arm"]] >= 0)
        own_K = place_S[each["batch"]]
        own_K = own_K[own_K >= 0]
        if len(own_K) < 2:  # what can be compared with nothing teaches nothing
            continue
        rows.append({name: value[own_N] for name, value in each.items() if name != "batch"})
        share_A = np.zeros(len(ids_A))
        share_A[own_K] = 1 / len(own_K)
        shares.append(np.tile(share_A, (len(own_N), 1)))
    if not rows:
        raise UserError("no day has random rows of two strategies: there is nothing to learn from yet")
    found = {name: np.concatenate([each[name] for each in rows]) for name in rows[0]}
    found["arm"] = place_S[found["arm"]]
    found["shares"] = np.concatenate(shares)
    if not by_day:
        share_A = np.bincount(found["arm"], minlength=len(ids_A)) / len(found["arm"])
        found["shares"] = np.tile(share_A, (len(found["arm"]), 1))
    return found, ids_A
