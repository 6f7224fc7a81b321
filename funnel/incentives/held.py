"""Floors and ceilings beside a tight budget: a price for each of them, the budget kept exactly at every price.

    h(mu) = max { sum_u v_u - sum_k mu_k c_ku  :  the budget }  +  sum_k mu_k C_k

Prices of a budget and of a floor pull users apart: moved in turn (limits.py) they stop at a kink, short of plans that
keep both. Here allocate() keeps the budget for each mu, what a limit then costs falls as its own price rises, and the
price is found at which it is just kept. h(mu) bounds every plan's value. Of many rows an even sample says where to
look: prices start a little below the sample's. Shapes: R rows, A arms, K limits.
"""

from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from data.errors import UserError
from funnel.incentives.allocation import Allocation, LocalShards, allocate, cut, improved
from funnel.incentives.shard import Totals

SWEEPS = 12
STEPS = 24
CLOSE = 1e-5
"""Share of a limit within which its sum is close enough, and of a price within which it is known well enough: one
user's choice may change the sum by more than that."""
SAMPLE = 10_000
"""Rows of the sample that prices start from, where there are more than four times as many."""
BELOW, STEP = (0.95, 0.85, 0.5, 0.0), 1.05
"""How far below the sample's prices one starts: the first that is low enough; by what factor a price above 0 is raised
at first."""


@dataclass
class Held:
    """Plans under the budget at prices of the limits, and the smallest bound so far."""

    value_RA: np.ndarray
    cost_RA: np.ndarray
    budget: float
    cost_KRA: np.ndarray
    limit_K: np.ndarray
    """Sums over all rows, as `budget` is."""
    bound: float = np.inf
    last: Allocation = field(init=False)

    def over(self, price_K: np.ndarray) -> np.ndarray:
        """By how much each limit is exceeded at these prices, (K,)."""
        priced_RA = self.value_RA - np.tensordot(price_K, self.cost_KRA, 1)
        self.last = allocate(LocalShards(cut(priced_RA, self.cost_RA[None])), self.budget)
        self.bound = min(self.bound, self.last.bound + float(price_K @ self.limit_K))
        rows = np.arange(len(self.value_RA))
        return np.asarray(self.cost_KRA[:, rows, self.last.option_U].sum(1, dtype=np.float64) - self.limit_K)


def hold(
    value_RA: np.ndarray, cost_RA: np.ndarray, budget: float, cost_KRA: np.ndarray, limit_K: np.ndarray
) -> Allocation:
    """The assignment under the budget and all limits (sums over rows); value -inf: not allowed. Raises UserError
    where no prices keep them together, or the cheapest plan is above the budget."""
    held = Held(value_RA, cost_RA, budget, cost_KRA, limit_K)
    price_K = np.zeros(len(limit_K))
    if len(value_RA) > 4 * SAMPLE:
        some = slice(None, None, len(value_RA) // SAMPLE)
        share = len(value_RA[some]) / len(value_RA)
        sample = Held(value_RA[some], cost_RA[some], budget * share, cost_KRA[:, some], limit_K * share)
        with suppress(UserError):  # what a sample cannot keep, all rows may
            price_K = prices(sample, price_K)
        for below in BELOW:  # from prices that are too low for each limit
            if (held.over(below * price_K)[price_K > 0] > 0).all():
                break
        price_K = below * price_K
    price_K = prices(held, price_K)
    limit_M = np.array([budget, *limit_K])
    shards = LocalShards(cut(value_RA, np.stack([cost_RA, *cost_KRA])))
    shards.call("assign", np.arange(len(value_RA)), held.last.option_U)
    nobody = np.zeros(0, np.int64)
    cost_M, _, _ = Totals.sum(shards.call("assigned", nobody, nobody))
    return improved(shards, limit_M, np.array([*held.last.price_M, *price_K]), cost_M, held.bound)


def prices(held: Held, price_K: np.ndarray) -> np.ndarray:
    """Prices at which all limits are kept, from these upwards, (K,); `held.last` is the plan at them. Raises UserError
    if there are none."""
    price_K = price_K.copy()
    over_K = held.over(price_K)
    for _ in range(SWEEPS):
        if (over_K <= 0).all():
            return price_K
        for k in np.flatnonzero(over_K > 0):
            price_K[k] = price_of(held, price_K, int(k))
        over_K = held.over(price_K)
    if (over_K > 0).any():
        raise UserError("no prices keep all limits together")
    return price_K


def price_of(held: Held, price_K: np.ndarray, k: int) -> float:
    """The price of limit k, the others' held, at which it is kept and hardly any of it is unused. Raises UserError if
    none keeps it."""

    def over(price: float) -> float:
        tried_K = price_K.copy()
        tried_K[k] = price
        return float(held.over(tried_K)[k])

    slack = CLOSE * max(abs(float(held.limit_K[k])), 1e-9)
    slack = max(slack, min(10 * slack, float(np.ptp(held.cost_KRA[k], 1).max())))  # one user's choice, where it is less
    low, above = float(price_K[k]), over(float(price_K[k]))
    if above <= 0:
        return low
    finite_RA = np.where(np.isfinite(held.value_RA), held.value_RA, 0.0)
    unit = max(float(np.ptp(finite_RA, 1).mean()), 1e-12) / max(float(np.ptp(held.cost_KRA[k], 1).mean()), 1e-12)
    high, factor = (STEP * low, STEP) if low > 0 else (0.1 * unit, 4.0)
    while (below := over(high)) > 0:
        if high > 1e6 * unit:
            raise UserError("no prices keep all limits together")
        factor = min(factor**2, 4.0)
        low, above, high = high, below, factor * high
    unused = -below
    for _ in range(STEPS):  # false position, the Illinois rule
        if unused <= slack or high - low <= CLOSE * high:
            break
        middle = high - below * (high - low) / (below - above)
        if not low < middle < high:
            middle = low + (high - low) / 2
        excess = over(middle)
        if excess <= 0:
            high, below, above, unused = middle, excess, above / 2, -excess
        else:
            low, above, below = middle, excess, below / 2
    return high
