"""Several limits at once: prices by dual coordinate descent, then an assignment that breaks none.

    maximise sum_u v_{u,a(u)}   subject to   sum_u c_{m,u,a(u)} <= B_m  for every limit m

A limit is a budget, or an aim turned round: "time spent does not fall below T" is c = -time, B = -T. The dual
g(lambda) = sum_m lambda_m B_m + sum_u max_a (v - sum_m lambda_m c_m) is convex; each price in turn is moved to where
its own limit is just kept, the others held still [synchronous coordinate descent, as in Zhang et al., WWW 2020, arXiv
2002.00352]. Every value of g bounds what any assignment could reach. At the last prices a few users are indifferent:
they are moved so that each limit holds, then to better options as far as all limits allow.

Shapes: M limits, U users, A options.
"""

import math
from dataclasses import dataclass

import numpy as np

from data.errors import UserError
from funnel.incentives.allocation import Allocation, Shards, improved, refuse_below
from funnel.incentives.shard import Totals

SWEEPS = 30
STEPS = 60
CLOSE = 1e-7
"""Share of a limit within which its sum is close enough in the last sweeps; the first are content with a hundredth."""
FIRST_STEP = 0.02
"""How far the first look for another price goes, as a share of the present one."""
TRIES = 60


@dataclass
class Prices:
    """The dual function, its smallest value so far and the prices there."""

    shards: Shards
    limit_M: np.ndarray

    def __post_init__(self) -> None:
        self.bound, self.best_M = math.inf, np.zeros(len(self.limit_M))

    def cost(self, price_M: np.ndarray) -> np.ndarray:
        """What everybody costs at these prices, of each limit."""
        cost_M, _, lagrangian = Totals.sum(self.shards.call("at", price_M))
        bound = float(price_M @ self.limit_M) + lagrangian
        if bound < self.bound:
            self.bound, self.best_M = bound, price_M.copy()
        return cost_M


def allocate_within(shards: Shards, limit_M: np.ndarray) -> Allocation:
    """The assignment under all limits; the same bits for any number of shards.

    Raises UserError, naming the limit, if no prices make the users keep it.
    """
    prices = Prices(shards, np.asarray(limit_M, np.float64))
    for m, limit in enumerate(prices.limit_M):
        refuse_below(shards, m, float(limit))
    price_M = np.zeros(len(limit_M))
    before = math.inf
    for sweep in range(SWEEPS):
        share = max(CLOSE, 10.0 ** -(sweep + 2))
        for m in range(len(limit_M)):
            price_M[m] = price_of(prices, price_M, m, share)
        if share == CLOSE and prices.bound >= before - CLOSE * abs(before):
            break
        before = prices.bound
    return kept(prices, price_M)


def price_of(prices: Prices, price_M: np.ndarray, m: int, share: float) -> float:
    """A price of limit m, the other prices held, at which it is kept and at most `share` of it is unused: the lowest,
    0, if it is kept there. From the present price outwards, then by false position [the Illinois rule]."""
    limit = float(prices.limit_M[m])
    slack = share * max(abs(limit), 1e-12)

    def over(price: float) -> float:
        tried_M = price_M.copy()
        tried_M[m] = price
        return float(prices.cost(tried_M)[m]) - limit

    low = high = float(price_M[m])
    above = below = over(high)
    step = max(high, 1e-3) * FIRST_STEP
    while below > 0 and high < 1e30:  # limits that contradict each other drive prices up without end
        low, above = high, below
        high, step = high + step, step * 4
        below = over(high)
    while above <= 0:
        if low == 0 or -slack <= above:
            return low
        high, below = low, above
        low, step = max(low - step, 0.0), step * 4
        above = over(low)
    unused = -below  # below and above are halved on the way, so that both ends move
    for _ in range(STEPS):
        if unused <= slack or high - low <= CLOSE * high:
            break
        middle = high - below * (high - low) / (below - above)
        if not low < middle < high:
            middle = low + (high - low) / 2
        if not low < middle < high:
            break
        excess = over(middle)
        if excess <= 0:
            high, below, above, unused = middle, excess, above / 2, -excess
        else:
            low, above, below = middle, excess, below / 2
    return high


def kept(prices: Prices, price_M: np.ndarray) -> Allocation:
    """An assignment that keeps every limit: at these prices or a little above them, then as much better as fits.

    What is over by a hair is mended by a little more of the broken limits' prices: for a million users that moves few.
    """
    shards, limit_M = prices.shards, prices.limit_M
    price_M = price_M.copy()
    raise_M = np.maximum(price_M, 1e-9) * 1e-9
    for _ in range(TRIES):
        cost_M, _, _ = Totals.sum(shards.call("settle", price_M))
        broken_M = cost_M > limit_M
        if not broken_M.any():
            return improved(shards, limit_M, price_M, cost_M, prices.bound)
        price_M = np.where(broken_M, price_M + raise_M, price_M)
        raise_M = np.where(broken_M, raise_M * 2, raise_M)
    m = int(np.argmax(broken_M))
    raise UserError(
        f"limit {m}: no prices keep it together with the others; the nearest plan comes to {cost_M[m]:g}, the limit is "
        f"{limit_M[m]:g}"
    )
