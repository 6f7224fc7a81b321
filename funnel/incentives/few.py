"""Few choices under several limits, exactly: groups by a mixed integer program, shares of arms by a linear one.

Prices (limits.py) need many users, of whom some are nearly indifferent; of fifty groups none is. HiGHS solves both.
Shapes: G groups, A arms, M limits, the budget first.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array

from data.errors import UserError
from funnel.incentives.allocation import Allocation, check

CLOSE = 1e-4
"""Share of the value within which the search for groups ends."""
SECONDS = 60.0


def few_choices(value_GA: np.ndarray, cost_MGA: np.ndarray, limit_M: np.ndarray, texts: Sequence[str]) -> Allocation:
    """One arm for each group. Raises UserError where no choice keeps all limits; `texts` says what they are."""
    check(value_GA, cost_MGA)
    groups, arms = value_GA.shape
    own = np.repeat(np.arange(groups), arms)
    one_each = csr_array((np.ones(groups * arms), (own, np.arange(groups * arms))))
    scale_M = np.maximum(np.abs(limit_M), 1e-9)  # limits of one size: the solver's tolerance is absolute
    for slack in (0.0, 1e-6, 1e-4):  # what the solver takes for kept may be over by its tolerance
        kept = LinearConstraint(cost_MGA.reshape(len(limit_M), -1) / scale_M[:, None], ub=limit_M / scale_M - slack)
        found = milp(
            -value_GA.ravel() / max(float(np.abs(value_GA).max()), 1e-300),
            integrality=np.ones(groups * arms),
            bounds=Bounds(0, 1),
            constraints=[kept, LinearConstraint(one_each, 1, 1)],
            options={"mip_rel_gap": CLOSE, "time_limit": SECONDS},
        )
        if found.x is None:
            break
        option_G = found.x.reshape(groups, arms).argmax(1)
        cost_M = cost_MGA[:, np.arange(groups), option_G].sum(1)
        if (cost_M <= limit_M).all():
            value = float(value_GA[np.arange(groups), option_G].sum())
            return Allocation(
                option_G.astype(np.int8), value, cost_M, np.zeros(len(limit_M)), value + CLOSE * abs(value)
            )
    raise UserError(f"no choice for the {groups} groups keeps the budget together with {' and '.join(texts)}")


def shares(value_A: np.ndarray, cost_MA: np.ndarray, limit_M: np.ndarray) -> np.ndarray:
    """The best shares of the arms, (A,): the budget is kept on average, the other limits as far as it goes. All of the
    cheapest arm where the budget is below it."""
    arms, more = len(value_A), len(limit_M) - 1
    scale_M = np.maximum(np.abs(limit_M), 1e-9)
    over_MK = np.eye(more + 1)[:, 1:]  # what a limit is exceeded by, at a price beyond any value
    price = 1e4 * max(float(np.ptp(value_A)), 1e-12)
    found = linprog(
        np.concatenate([-value_A, np.full(more, price)]),
        np.concatenate([cost_MA / scale_M[:, None], -over_MK], 1),
        limit_M / scale_M,
        np.concatenate([np.ones(arms), np.zeros(more)])[None],
        [1.0],
    )
    if found.status != 0:
        return np.eye(arms)[int(cost_MA[0].argmin())]
    share_A = np.maximum(found.x[:arms], 0)
    return np.asarray(share_A / share_A.sum())
