"""The gate on a log: two fits' decisions compared on random rows, as they would be made and at what they would cost.

Both decide for the rows' users as a day's decisions do: under the same budget, caps of the sensitive, start of new
users, floors and ceilings, by user or by cluster. Values are SNIPS. What is compared is the outcome less the price of
money times the cost (gate.py), so that a candidate does not win by spending more. Shapes: R rows, A strategies.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from data.errors import UserError
from funnel.effects.reading import outcome_of, parsed_weights
from funnel.effects.value import Logged, Value, gain, policy_value
from funnel.fitted import Map
from funnel.incentives.cadence import CadenceSettings
from funnel.incentives.choice import NOBODY, Choice, Fit, grouped
from funnel.incentives.fitted import IncentiveEffects
from funnel.incentives.plan import per_user
from funnel.incentives.snapshot import decide_as_far


def judged(operation: Any, before: Fit, newest: int, price: float, day: int, map: Map) -> dict[str, Any]:
    """Figures of the comparison of new effects with those that stand (operation.py: IncentiveOperation) on the random
    rows of so many newest days, which came after these were fitted, and whether they replace them.

    No row judges what it taught: users are halved, and for the new effects, which are learnt from all rows, stand on
    each half those that are learnt in the same way without that half's rows of these days.
    """
    settings, source = operation.settings, operation.source
    newest = min(newest, len(operation.history))
    older, newer = operation.history[: len(operation.history) - newest], operation.history[-newest:] if newest else []
    pieces: list[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]] = []
    for half in (0, 1):
        judging = [of_half(each, half) for each in newer]
        rows = {name: np.concatenate([each[name] for each in judging]) for name in (judging[0] if judging else ())}
        if not rows or not len(rows["arm"]):
            continue
        try:
            taught, ids_A = operation.rows([*older, *(of_half(each, 1 - half) for each in newer)])
            own = Fit(IncentiveEffects.fit(operation.effects, taught, operation.seed + day, map), ids_A)
        except UserError as error:  # enough rows in all, but not without these
            return {"replaced": 0.0, "gate.absent": str(error)}
        _, tenure_R, sensitive_R = source.traits(rows["x"])
        common = (settings.cadence, settings.by, settings.effects.clusters, operation.seed, rows["x"], tenure_R,
                  sensitive_R, settings.budget)  # fmt: skip
        pieces.append((rows, decided_alone(own, *common), decided_alone(before, *common)))
    if not pieces:
        return {"replaced": 0.0, "gate.absent": "no random row since the last fit"}
    all_rows = {name: np.concatenate([rows[name] for rows, _, _ in pieces]) for name in pieces[0][0] if name != "batch"}
    arms = np.concatenate([arm_R for _, arm_R, _ in pieces]), np.concatenate([arm_R for _, _, arm_R in pieces])
    gained, figures = compared(all_rows, arms, settings.effects.outcomes, price)
    return {**figures, "replaced": float(gained.low > -settings.gate.tolerance)}


def of_half(day: Mapping[str, np.ndarray], half: int) -> dict[str, np.ndarray]:
    """A day's random rows of every second user."""
    own_R = day["user"] % 2 == half
    return {name: value if name == "batch" else value[own_R] for name, value in day.items()}


def price_of_money(choice: Choice, cadence: CadenceSettings, x_NF: np.ndarray, tenure_N: np.ndarray,
                   sensitive_N: np.ndarray, budget: float) -> float:  # fmt: skip
    """What one unit more would bring at the standing effects, under the budget (a user) and the caps; 0 where some of
    the budget is left."""
    mine_N = np.zeros(len(x_NF), np.int64)
    cost_NA = choice.costs(x_NF)
    least = float(cost_NA.min(1).mean()) * (1 + 1e-9)
    found = per_user(choice.weighted(cadence, x_NF, tenure_N, mine_N), cost_NA, max(budget, least),
                     choice.allowed(cadence, sensitive_N, mine_N))  # fmt: skip
    return float(found.allocation.price_M[0])


def decided_alone(
    fit: Fit, cadence: CadenceSettings, by: str, clusters: int, seed: int, x_RF: np.ndarray, tenure_R: np.ndarray,
    sensitive_R: np.ndarray, budget: float,
) -> np.ndarray:  # fmt: skip
    """The strategy of each row's user if this fit decided for all of them, by number."""
    choice, mine_R = Choice([fit]), np.zeros(len(x_RF), np.int64)
    cost_RA = choice.costs(x_RF)
    group_R = grouped(x_RF, x_RF, clusters, seed, mine_R) if by == "cluster" else NOBODY
    total = max(budget * len(x_RF), float(cost_RA.min(1).sum()) * (1 + 1e-9))
    arm_R, _, _ = decide_as_far(
        choice.weighted(cadence, x_RF, tenure_R, mine_R), cost_RA, choice.allowed(cadence, sensitive_R, mine_R),
        group_R, total, choice.limited(x_RF),
    )  # fmt: skip
    return choice.ids_A[arm_R]


def compared(
    rows: Mapping[str, np.ndarray], arms: tuple[np.ndarray, np.ndarray], outcomes: tuple[str, ...], price: float
) -> tuple[Value, dict[str, float]]:
    """(the candidate's net outcome less the standing one's, figures with outcome and cost); `arms`: the candidate's and
    the standing strategies of the rows' users."""
    outcome_R = outcome_of(rows, parsed_weights(outcomes))
    logged = Logged(rows["arm"], rows["propensity"], outcome_R, cluster_R=rows.get("user"))
    figures = {"gate.price": price}
    found = {}
    for key, value_R in (("gate.outcome", outcome_R), ("gate.cost", rows["cost"]),
                         ("gate.difference", outcome_R - price * rows["cost"])):  # fmt: skip
        own = replace(logged, outcome_R=value_R)
        theirs, standing = (policy_value(arm_R, own, "snips") for arm_R in arms)
        found[key] = gain(theirs, standing, own)
        figures |= found[key].figures(key)
    return found["gate.difference"], figures
