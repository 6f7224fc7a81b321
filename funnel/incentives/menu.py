"""A menu of strategies as an objective for evolution: curves over the day, shares by allocation under the budget.

theta holds for each strategy of the menu the level, amplitude and phase of amount and number and the level of the
interval (strategies.DayCurves); the first strategy is nothing and stays. The return of a menu is what its best
allocation brings a user, by effects that are true (of a simulated world) or estimated (DML over vectors, which serves
any vector; one outside of what was tried is refused: its candidate brings nothing). Shapes: N users, A strategies.
"""

from typing import Any, ClassVar

import numpy as np

from data.errors import UserError
from es.policies import Box, Policy, Positive
from funnel.effects.dml import VectorEffects
from funnel.effects.overlap import refuse_beyond
from funnel.incentives.plan import per_user
from funnel.incentives.strategies import HOURS, DayCurve, DayCurves
from funnel.incentives.world import World, claims

MINUTE = 0.01
START = ((0.6, 1.0), (0.8, 2.0), (1.0, 3.0), (1.2, 4.0), (1.4, 6.0))
"""(amount, number) of the strategies that a menu of six begins with."""
PRESENCE_H = 1 + 0.7 * np.sin(2 * np.pi * (np.arange(HOURS) - 14) / HOURS)
"""How many users are there by hour: most in the evening."""


def knobs(strategies: int) -> Policy:
    """Seven numbers a strategy, each mapped from all of R."""
    places: list[Any] = []
    for s in range(strategies):
        amount, number = START[s % len(START)]
        places += [
            Positive((f"amount.{s}",), amount),
            Box((f"amount.swing.{s}",), 0.0, 1.0, 0.05),
            Box((f"amount.phase.{s}",), -np.pi, np.pi, 0.0),
            Positive((f"number.{s}",), number),
            Box((f"number.swing.{s}",), 0.0, 1.0, 0.05),
            Box((f"number.phase.{s}",), -np.pi, np.pi, 0.0),
            Positive((f"interval.{s}",), 2.0),
        ]
    return Policy(tuple(places))


def curves_of(values: dict[str, float], s: int) -> DayCurves:
    """The curves of strategy s; a swing is a share of the level."""
    amount, number = values[f"amount.{s}"], values[f"number.{s}"]
    return DayCurves(
        DayCurve(amount, amount * values[f"amount.swing.{s}"], phase=values[f"amount.phase.{s}"]),
        DayCurve(values[f"interval.{s}"]),
        DayCurve(number, number * values[f"number.swing.{s}"], phase=values[f"number.phase.{s}"]),
    )


class MenuObjective:
    """es/objectives/base.py: what a menu brings users under a budget."""

    batch_pairs: ClassVar[int] = 4

    def __init__(
        self, world: World, user_N: np.ndarray, strategies: int, budget: float,
        model: VectorEffects | None = None, tried_NT: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.world, self.user_N, self.budget, self.model, self.tried_NT = world, user_N, budget, model, tried_NT
        self.knobs, self.strategies = knobs(strategies), strategies

    def initial(self) -> np.ndarray:
        return self.knobs.initial()

    def describe(self) -> dict[str, Any]:
        return {"objective": "incentives.menu", "strategies": self.strategies, "budget": self.budget,
                "users": len(self.user_N), "estimated": self.model is not None}  # fmt: skip

    def menu(self, theta_D: np.ndarray) -> tuple[np.ndarray, list[DayCurves]]:
        """(vectors (A, 3), nothing first; the curves they come from)."""
        values = self.knobs.values(theta_D)
        curves = [curves_of(values, s) for s in range(self.strategies)]
        return np.array([np.zeros(3), *(one.aggregated(PRESENCE_H)[0] for one in curves)]), curves

    def costs(self, vectors_A3: np.ndarray) -> np.ndarray:
        taken_N = claims(self.world.activity_U[self.user_N])
        return np.asarray(taken_N[:, None] * (vectors_A3[:, 0] * vectors_A3[:, 2])[None])

    def gains(self, vectors_A3: np.ndarray) -> np.ndarray:
        """Of each strategy against nothing, as this objective knows it, (N, A)."""
        if self.model is None:
            value_NA = self.world.truth(self.user_N, vectors_A3).value(MINUTE)
            return value_NA - value_NA[:, :1]
        assert self.tried_NT is not None
        names = [f"strategy {a}" for a in range(len(vectors_A3))]
        refuse_beyond(self.model.treatment, self.tried_NT, vectors_A3, names)
        return self.model.effects(self.world.features(self.user_N), vectors_A3)

    def worth(self, theta_D: np.ndarray) -> float:
        """The gain a user under the budget; 0 for a menu that was refused."""
        vectors_A3, _ = self.menu(theta_D)
        try:
            gain_NA = self.gains(vectors_A3)
        except UserError:
            return 0.0
        found = per_user(gain_NA, self.costs(vectors_A3), self.budget)
        return found.allocation.value / len(self.user_N)

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        return np.array([self.worth(theta_D) for theta_D in theta_PD])
