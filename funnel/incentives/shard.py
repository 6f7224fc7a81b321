"""One shard of users in an allocation: their options, which of them a price makes best, and sums over them.

Shapes: U users of a shard, A options of each, M limits, N active users.

Given prices lambda_M, user u takes argmax_a v_ua - sum_m lambda_m c_uam; of options that are equally good the cheapest
one, then the first. The same arrays give the same choice wherever they lie, and sums are taken over blocks of a fixed
number of users and added up exactly, so that no figure depends on how users are dealt to shards.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

BLOCK = 1 << 16
"""Users whose values and costs are added up at a time; shards begin at multiples of it."""


@dataclass
class Totals:
    """Sums over users, one number a block, so that whoever adds them all up gets the same bits for any sharding."""

    cost_KM: np.ndarray
    value_K: np.ndarray
    lagrangian_K: np.ndarray
    """Of max_a v - lambda c."""

    def plus(self, more: "Totals", price_M: np.ndarray) -> "Totals":
        """With other users of the same blocks; self's lagrangian is taken anew at these prices."""
        cost_KM, value_K = self.cost_KM + more.cost_KM, self.value_K + more.value_K
        return Totals(cost_KM, value_K, self.value_K - self.cost_KM @ price_M + more.lagrangian_K)

    @staticmethod
    def sum(parts: Sequence["Totals"]) -> tuple[np.ndarray, float, float]:
        """(cost_M, value, lagrangian), correctly rounded: the same for any order of the parts."""
        cost_KM = np.concatenate([part.cost_KM for part in parts])
        cost_M = np.array([math.fsum(cost_KM[:, m]) for m in range(cost_KM.shape[1])])
        value = math.fsum(number for part in parts for number in part.value_K)
        lagrangian = math.fsum(number for part in parts for number in part.lagrangian_K)
        return cost_M, value, lagrangian


@dataclass
class Shard:
    """Users `first`, first + 1, ... with the expected value and the costs of each of their options.

    value_AU: -inf marks an option that a user may not have (one at least must be allowed). cost_MAU: of each limit.
    Options lie in rows, so that one is compared with the next for many users at once.
    """

    value_AU: np.ndarray
    cost_MAU: np.ndarray
    first: int = 0
    low_U: np.ndarray = field(init=False)
    high_U: np.ndarray = field(init=False)
    """Choices at the lower and the upper end of the prices between which the answer lies (one limit)."""
    active_N: np.ndarray = field(init=False)
    """Users whose choices at both ends differ."""
    settled: Totals = field(init=False)
    """Sums of the others, whose choice is known."""

    def __post_init__(self) -> None:
        assert self.first % BLOCK == 0
        users = self.value_AU.shape[1]
        self.low_U, self.high_U = np.zeros((2, users), np.int8)
        self.active_N, self.blocks = np.arange(users), -(-users // BLOCK)

    def choose(self, price_M: np.ndarray, users_N: np.ndarray | None = None) -> np.ndarray:
        """The options that these users (by default all) take, int8."""
        count = self.value_AU.shape[1] if users_N is None else len(users_N)
        option_N = np.empty(count, np.int8)
        for begin in range(0, count, BLOCK):
            piece = slice(begin, begin + BLOCK)
            here = piece if users_N is None else users_N[piece]
            option_N[piece] = best(self.value_AU[:, here], self.cost_MAU[:, :, here], price_M)
        return option_N

    def totals(self, option_N: np.ndarray, price_M: np.ndarray, users_N: np.ndarray | None = None) -> Totals:
        """Sums over these users (by default all), who take these options."""
        users = np.arange(len(option_N)) if users_N is None else users_N
        value_N = self.value_AU[option_N, users].astype(np.float64)
        cost_MN = self.cost_MAU[:, option_N, users].astype(np.float64)
        block_N = users // BLOCK
        cost_MK = [np.bincount(block_N, cost_N, self.blocks) for cost_N in cost_MN]
        value_K = np.bincount(block_N, value_N, self.blocks)
        surplus_K = np.bincount(block_N, value_N - priced(cost_MN, price_M), self.blocks)
        return Totals(np.stack(cost_MK, 1), value_K, surplus_K)

    def at(self, price_M: np.ndarray) -> Totals:
        """Sums where every user takes the best option at these prices."""
        return self.totals(self.choose(price_M), price_M)

    def least(self, m: int) -> Totals:
        """Sums where every user takes the option that costs least of limit m."""
        cost_AU = np.where(np.isneginf(self.value_AU), np.inf, self.cost_MAU[m])
        return self.totals(cost_AU.argmin(0).astype(np.int8), np.zeros(len(self.cost_MAU)))

    def begin(self, low: float, high: float) -> None:
        """One limit: choices at both ends of a range of its price, from which `between` goes on."""
        self.low_U, self.high_U = (self.choose(np.array([end])) for end in (low, high))
        self.active_N = np.flatnonzero(self.low_U != self.high_U)
        rest_N = np.flatnonzero(self.low_U == self.high_U)
        self.settled = self.totals(self.high_U[rest_N], np.zeros(1), rest_N)

    def between(self, price: float) -> Totals:
        """Sums at a price between the ends. What a user costs falls as the price rises, so that one who takes the same
        at both ends takes it here too: only the others are looked at."""
        price_M = np.array([price])
        self.middle_N = self.choose(price_M, self.active_N)
        return self.settled.plus(self.totals(self.middle_N, price_M, self.active_N), price_M)

    def narrow(self, upper: bool) -> int:
        """Make the price last asked for the upper (or lower) end; how many users are still active."""
        end_U, other_U = (self.high_U, self.low_U) if upper else (self.low_U, self.high_U)
        end_U[self.active_N] = self.middle_N
        known = self.middle_N == other_U[self.active_N]
        decided_N, self.active_N = self.active_N[known], self.active_N[~known]
        self.settled = self.settled.plus(self.totals(self.high_U[decided_N], np.zeros(1), decided_N), np.zeros(1))
        return len(self.active_N)

    def undecided(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The active users: (index among all users, value_NA, cost_NA, option at the lower end, at the upper end)."""
        active = self.active_N
        return (
            self.first + active,
            self.value_AU[:, active].T.astype(np.float64),
            self.cost_MAU[0][:, active].T.astype(np.float64),
            self.low_U[active],
            self.high_U[active],
        )

    def options(self, user_C: np.ndarray, option_C: np.ndarray) -> np.ndarray:
        """int8: the options at the upper end, but those of the given users (indices among all) where they are here."""
        option_U = self.high_U.copy()
        here_C = (user_C >= self.first) & (user_C < self.first + len(option_U))
        option_U[user_C[here_C] - self.first] = option_C[here_C]
        return option_U

    def assigned(self, user_C: np.ndarray, option_C: np.ndarray) -> Totals:
        """Sums of `options`."""
        return self.totals(self.options(user_C, option_C), np.zeros(len(self.cost_MAU)))

    def settle(self, price_M: np.ndarray) -> Totals:
        """Keep the choices at these prices, from which `improvements` and `options` go on; their sums."""
        self.high_U = self.choose(price_M)
        return self.totals(self.high_U, price_M)

    def assign(self, user_C: np.ndarray, option_C: np.ndarray) -> None:
        """Keep `options` as the choices from which `improvements` go on."""
        self.high_U = self.options(user_C, option_C)

    def improvements(self, price_M: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Moves of one user to another option that bring more value than the one kept, at most `most`: those that give
        up the least surplus for what they bring. (share given up, user, option, extra cost_CM.)"""
        found = []
        users = np.arange(len(self.high_U))
        value_U = self.value_AU[self.high_U, users].astype(np.float64)
        surplus_U = value_U - priced(self.cost_MAU[:, self.high_U, users].astype(np.float64), price_M)
        for option in range(len(self.value_AU)):
            gain_U = self.value_AU[option] - value_U
            better_N = np.flatnonzero((gain_U > 0) & (self.high_U != option))
            own_N = self.value_AU[option, better_N] - priced(self.cost_MAU[:, option, better_N], price_M)
            share_N = (surplus_U[better_N] - own_N) / gain_U[better_N]
            found.append((share_N, better_N, np.full(len(better_N), option, np.int8)))
        share_N, user_N, option_N = (np.concatenate(each) for each in zip(*found, strict=True))
        order = np.lexsort((option_N, user_N, share_N))[:most]
        own_MC = self.cost_MAU[:, option_N[order], user_N[order]]
        extra_MC = own_MC - self.cost_MAU[:, self.high_U[user_N[order]], user_N[order]]
        return share_N[order], self.first + user_N[order], option_N[order], extra_MC.T


def best(value_AN: np.ndarray, cost_MAN: np.ndarray, price_M: np.ndarray) -> np.ndarray:
    """Which option of each user has the largest surplus; of equal ones the cheapest, then the first."""
    top_N = value_AN[0] - priced(cost_MAN[:, 0], price_M)
    cost_N = cost_MAN[:, 0].sum(0)
    option_N = np.zeros(value_AN.shape[1], np.int8)
    for option in range(1, len(value_AN)):
        surplus_N = value_AN[option] - priced(cost_MAN[:, option], price_M)
        own_N = cost_MAN[:, option].sum(0)
        better_N = (surplus_N > top_N) | ((surplus_N == top_N) & (own_N < cost_N))
        np.copyto(top_N, surplus_N, where=better_N)
        np.copyto(cost_N, own_N, where=better_N)
        option_N[better_N] = option
    return option_N


def priced(cost_MN: np.ndarray, price_M: np.ndarray) -> np.ndarray:
    """sum_m lambda_m c_m, in the order of the limits, float64 however the costs are stored."""
    total_N = price_M[0] * cost_MN[0]
    for m in range(1, len(price_M)):
        total_N = total_N + price_M[m] * cost_MN[m]
    return total_N
