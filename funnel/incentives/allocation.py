"""Who gets which option under a budget: the multiple-choice knapsack, by a price on the budget.

    maximise sum_u v_{u,a(u)}   subject to   sum_u c_{u,a(u)} <= B,   one option a(u) for every user

At a price lambda each user takes the option with the largest v - lambda c. What all of them cost falls as the price
rises, so that the price at which the budget is just kept is found by bisection [the Lagrangian dual; as in LBCF, WWW
2022, arXiv 2201.12585]. Users whose choice at both ends of the range is the same are not looked at again: the work of
all steps together is that of a few passes. The last users, who would be indifferent at the exact price, are moved to
dearer options in the order of what a unit of cost brings, as long as the budget holds. The dual value
lambda B + sum_u max_a (v - lambda c) bounds what any assignment could reach; the gap to it is reported.

Shapes: U users, A options, M limits. Several limits: funnel/incentives/limits.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from data.errors import UserError
from funnel.incentives.shard import BLOCK, Shard, Totals

FEW = 2_048
"""Active users that are handed to the caller, who orders their options one by one."""
MOVES = 4_096
"""Moves that are weighed at the end, one by one."""


class Shards(Protocol):
    """Shards in the order of their users, here or on other machines."""

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """The named method of every shard, in order."""


@dataclass
class LocalShards:
    shards: Sequence[Shard]

    def call(self, method: str, *arguments: Any) -> list[Any]:
        return [getattr(shard, method)(*arguments) for shard in self.shards]


@dataclass(frozen=True)
class Allocation:
    """An assignment that keeps every limit, and how far it may be from the best one."""

    option_U: np.ndarray
    value: float
    cost_M: np.ndarray
    price_M: np.ndarray
    """What one unit more of each limit would bring."""
    bound: float
    """No assignment within the limits has a larger value (nor has one that may split users)."""

    @property
    def gap(self) -> float:
        """(bound - value) / |bound|: 0 is proven to be the best."""
        return max(self.bound - self.value, 0.0) / max(abs(self.bound), 1e-300)


def cut(value_UA: np.ndarray, cost_MUA: np.ndarray, shards: int = 1) -> list[Shard]:
    """The users dealt to at most so many shards, whole blocks each. Raises UserError for what is no table of options.

    value_UA: the expected value of each option, -inf where a user may not have it; cost_MUA: of each limit.
    """
    check(value_UA, cost_MUA)
    users = len(value_UA)
    blocks = -(-users // BLOCK)
    ends = [min(BLOCK * (blocks * s // shards), users) for s in range(shards + 1)]
    return [
        Shard(
            np.ascontiguousarray(value_UA[begin:end].T),
            np.ascontiguousarray(cost_MUA[:, begin:end].transpose(0, 2, 1)),
            begin,
        )
        for begin, end in pairwise(ends)
        if end > begin
    ]


def check(value_UA: np.ndarray, cost_MUA: np.ndarray) -> None:
    """Raise UserError, naming user and option, for values and costs that no choice can be made from."""
    if value_UA.ndim != 2 or not value_UA.size or cost_MUA.shape[1:] != value_UA.shape:
        raise UserError(
            f"values are {value_UA.shape} and costs {cost_MUA.shape}: want (users, options) and (limits, users, "
            "options)"
        )
    if value_UA.shape[1] > 127:
        raise UserError(f"{value_UA.shape[1]} options: at most 127 can be told apart")
    # Sums are not finite where an entry is not: one pass in place of a mask of the whole table.
    if not math.isfinite(float(cost_MUA.sum(dtype=np.float64))):
        limit, user, option = np.argwhere(~np.isfinite(cost_MUA))[0]
        raise UserError(f"user {user}, option {option}: cost {cost_MUA[limit, user, option]} of limit {limit}")
    best_U = value_UA.max(1)
    if not np.isfinite(best_U).all():
        user = int(np.flatnonzero(~np.isfinite(best_U))[0])
        if np.isneginf(best_U[user]):
            raise UserError(f"user {user}: no option is allowed")
        option = int(np.flatnonzero(np.isnan(value_UA[user]) | np.isposinf(value_UA[user]))[0])
        raise UserError(f"user {user}, option {option}: value {value_UA[user, option]} is no number")


def allocate(shards: Shards, budget: float, narrowest: int = FEW) -> Allocation:
    """The assignment under one budget; the same bits for any number of shards.

    Raises UserError if even the cheapest option of every user costs more than the budget.
    """
    cost, value, bound = summed(shards.call("at", np.zeros(1)))
    if cost <= budget:
        option_U = np.concatenate(shards.call("choose", np.zeros(1)))
        return Allocation(option_U, value, np.array([cost]), np.zeros(1), bound)
    refuse_below(shards, 0, budget)
    low, high = 0.0, max(value, 1e-300) / max(abs(cost), 1e-300) + 1e-300
    while (reached := summed(shards.call("at", np.array([high]))))[0] > budget:
        low, high = high, high * 8
    bound = high * budget + reached[2]
    shards.call("begin", low, high)
    while True:
        price = low + (high - low) / 2
        if not low < price < high:
            break
        cost, _, lagrangian = summed(shards.call("between", price))
        bound = min(bound, price * budget + lagrangian)
        upper = cost <= budget
        low, high = (low, price) if upper else (price, high)
        if sum(shards.call("narrow", upper)) <= narrowest:
            break
    return filled(shards, budget, high, bound)


def refuse_below(shards: Shards, m: int, limit: float) -> None:
    """Raise UserError if even the plan that costs least of limit m is above it."""
    cost_M, _, _ = Totals.sum(shards.call("least", m))
    if cost_M[m] > limit:
        raise UserError(f"limit {m}: the cheapest option of every user comes to {cost_M[m]:g}, above {limit:g}")


def summed(parts: list[Totals]) -> tuple[float, float, float]:
    """(cost, value, lagrangian) under one limit."""
    cost_M, value, lagrangian = Totals.sum(parts)
    return float(cost_M[0]), value, lagrangian


def filled(shards: Shards, budget: float, price: float, bound: float) -> Allocation:
    """From the choices at the upper end: the active users' options in the order of what a unit of cost brings."""
    user_N, value_NA, cost_NA, low_N, high_N = (
        np.concatenate(each) for each in zip(*shards.call("undecided"), strict=True)
    )
    nobody = np.zeros(0, np.int64)
    cost, _, _ = summed(shards.call("assigned", nobody, nobody))
    steps = upgrades(value_NA, cost_NA, high_N, low_N)
    # A hair is left, so that what is summed up here in steps is not over when it is added up exactly.
    left = budget - cost - 1e-12 * abs(budget)
    option_N, stopped = high_N.copy(), np.zeros(len(user_N), bool)
    fallen = None
    for rate, n, option, extra in steps:
        if stopped[n]:
            continue
        if extra <= left:
            option_N[n], left = option, left - extra
        else:
            stopped[n] = True  # a dearer option of this user costs more still
            fallen = rate if fallen is None else fallen
    exact = price if fallen is None else fallen
    bound = min(bound, exact * budget + summed(shards.call("at", np.array([exact])))[2])
    shards.call("assign", user_N, option_N)
    cost, _, _ = summed(shards.call("assigned", nobody, nobody))
    return improved(shards, np.array([budget]), np.array([exact]), np.array([cost]), bound)


def improved(shards: Shards, limit_M: np.ndarray, price_M: np.ndarray, cost_M: np.ndarray, bound: float) -> Allocation:
    """From the assignment that the shards hold: users moved to options that bring more, as far as every limit allows,
    those first that give up the least surplus at these prices for what they bring."""
    moves = zip(*shards.call("improvements", price_M, MOVES), strict=True)
    share_C, user_C, option_C, extra_CM = (np.concatenate(each) for each in moves)
    left_M, moved = limit_M - cost_M, dict[int, int]()
    for c in np.lexsort((option_C, user_C, share_C))[:MOVES]:
        if int(user_C[c]) not in moved and (extra_CM[c] <= left_M).all():
            left_M = left_M - extra_CM[c]
            moved[int(user_C[c])] = int(option_C[c])
    while True:
        users, options = np.array([*moved], np.int64), np.array([*moved.values()], np.int8)
        cost_M, value, _ = Totals.sum(shards.call("assigned", users, options))
        # A sum that was rounded down while it was filled may be a hair over when it is added up exactly.
        if (cost_M <= limit_M).all() or not moved:
            option_U = np.concatenate(shards.call("options", users, options))
            return Allocation(option_U, value, cost_M, price_M, bound)
        moved.popitem()


def upgrades(
    value_NA: np.ndarray, cost_NA: np.ndarray, from_N: np.ndarray, to_N: np.ndarray
) -> list[tuple[float, int, int, float]]:
    """Steps (value per cost, user, option, extra cost) along the upper hull of each user's options from one option to a
    dearer one, best first; steps of one user come in the order of their costs, as a hull's slopes fall."""
    steps = []
    for n, (here, there) in enumerate(zip(from_N.tolist(), to_N.tolist(), strict=True)):
        value_A, cost_A, at = value_NA[n], cost_NA[n], here
        while at != there:
            dearer = [a for a in range(len(cost_A)) if cost_A[at] < cost_A[a] <= cost_A[there] and value_A[a] > -np.inf]
            if not dearer:
                break
            rates = [(value_A[a] - value_A[at]) / (cost_A[a] - cost_A[at]) for a in dearer]
            rate, option = max(zip(rates, dearer, strict=True), key=lambda pair: (pair[0], cost_A[pair[1]]))
            if rate <= 0:
                break
            steps.append((float(rate), n, option, float(cost_A[option] - cost_A[at])))
            at = option
    return sorted(steps, key=lambda step: (-step[0], step[1], step[3]))
