"""New strategies that are worth a trial, as DML over vectors estimates what they add to those that stand.

At the standing menu's price of money lambda a user's best strategy brings best_u = max_a (v_ua - lambda c_ua). A new
one adds mean_u max(v_u - lambda c_u - best_u, 0): an upper bound of what it adds under the budget. `grid` takes the
best of a grid over the numbers that were tried, one by one, each with the price that the ones before have left;
`evolution` moves these by the evolution engine. What lies outside of what was tried, further than `reach` lets it, is
no candidate: its effect would be extrapolated. As long as the tried vectors do not tell the numbers' effects apart (a
ladder moves one number alone), places go to what is farthest from all of them. Floors and ceilings play no part here: a
strategy is decided on by its trial. Shapes: N users, A strategies, M new ones, C candidates.
"""

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from data.errors import UserError
from es.policies import Box, Policy
from funnel.effects.dml import VectorEffects
from funnel.effects.overlap import beyond
from funnel.incentives.plan import per_user
from funnel.incentives.proposals import pruned
from funnel.incentives.roster import ProposalSettings
from funnel.incentives.strategies import NUMBERS, bill
from funnel.operation import Maximise

LEVELS = 7
"""Of each number in the grid."""
LEAST = 1e-3
"""What a new strategy has to add, as a share of what the menu brings."""


@dataclass(frozen=True)
class Asked:
    """What is known when new strategies are proposed."""

    model: VectorEffects
    x_NF: np.ndarray
    """Some users, over whom a menu is judged."""
    claim_N: np.ndarray
    """The share of a bill that each of them takes."""
    menu_A3: np.ndarray
    """What stands, the cheapest first."""
    tried_B3: np.ndarray
    """What the model was fitted on."""
    ever_S3: np.ndarray
    """Every strategy there ever was: none is tried twice."""
    budget: float
    settings: ProposalSettings
    seed: int
    maximise: Maximise
    """The evolution engine."""

    def value(self, vectors_A3: np.ndarray) -> np.ndarray:
        """Against the cheapest strategy, (N, A)."""
        return self.model.effects(self.x_NF, vectors_A3, self.menu_A3[0])

    def cost(self, vectors_A3: np.ndarray) -> np.ndarray:
        return np.asarray(self.claim_N[:, None] * bill(vectors_A3)[None])

    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """(least, most) of each number of a new strategy: of those tried that give anything, and `reach` beyond."""
        own_B3 = self.tried_B3[bill(self.tried_B3) > 0]
        return own_B3.min(0) / self.settings.reach, own_B3.max(0) * self.settings.reach

    def told_apart(self) -> bool:
        """Whether the tried vectors tell all terms of the model apart."""
        design_BJ = np.column_stack([np.ones(len(self.tried_B3)), self.model.treatment(self.tried_B3)])
        return bool(np.linalg.matrix_rank(design_BJ) == design_BJ.shape[1])

    def fit(self, vectors_C3: np.ndarray) -> np.ndarray:
        """bool_C: vectors that keep the rules and are near no strategy there ever was."""
        rules, (low_3, high_3) = self.settings.rules, self.box()
        fits_C = (bill(vectors_C3) <= rules.largest_bill) & (vectors_C3[:, 2] <= rules.most_a_day)
        fits_C &= (vectors_C3[:, 1] >= rules.shortest_interval) & (bill(vectors_C3) > bill(self.menu_A3[:1])[0])
        return np.asarray(fits_C & (self.apart(vectors_C3, self.ever_S3, high_3 - low_3) >= rules.distance))

    def within(self, vectors_C3: np.ndarray) -> np.ndarray:
        """bool_C: vectors whose effects need not be extrapolated, but as far as `reach` lets it: phi has powers up to
        the degree, leverage their squares."""
        basis = self.model.treatment
        return ~beyond(basis, self.tried_B3, vectors_C3, self.settings.reach ** (2 * basis.degree))

    @staticmethod
    def apart(vectors_C3: np.ndarray, others_S3: np.ndarray, width_3: np.ndarray) -> np.ndarray:
        """How far each vector is from the nearest of the others, in shares of the numbers' ranges."""
        width_3 = np.where(width_3 > 0, width_3, 1.0)
        return np.asarray((np.abs(vectors_C3[:, None] - others_S3[None]) / width_3).max(2).min(1))


def proposed(asked: Asked, count: int) -> tuple[np.ndarray, str]:
    """(at most so many new strategies (M, 3), where they come from, in a word)."""
    low_3, high_3 = asked.box()
    levels = [
        np.geomspace(low, high, LEVELS) if 0 < low < high else [low] for low, high in zip(low_3, high_3, strict=True)
    ]
    try:
        pool_C3 = pruned(np.array(list(itertools.product(*levels))), asked.settings.rules)
    except UserError:  # nothing keeps the rules
        return np.empty((0, 3)), "none"
    pool_C3 = pool_C3[asked.fit(pool_C3)]
    if count < 1 or not len(pool_C3):
        return np.empty((0, 3)), "none"
    if not asked.told_apart():
        return farthest(asked, pool_C3, count), "farthest"
    pool_C3 = pool_C3[asked.within(pool_C3)]
    found_M3 = greedy(asked, pool_C3, count)
    if asked.settings.by == "evolution" and len(found_M3):
        return evolved(asked, found_M3), "evolution"
    return found_M3, "grid"


def farthest(asked: Asked, pool_C3: np.ndarray, count: int) -> np.ndarray:
    """One after the other what is farthest from all strategies there are; of several the cheapest."""
    low_3, high_3 = asked.box()
    near_S3, found = asked.ever_S3, []
    for _ in range(min(count, len(pool_C3))):
        best = int(np.argmax(asked.apart(pool_C3, near_S3, high_3 - low_3).round(9)))
        found.append(pool_C3[best])
        near_S3 = np.concatenate([near_S3, pool_C3[best : best + 1]])
    return np.array(found)


@dataclass(frozen=True)
class Priced:
    """The menu under the budget: what it brings, the price of money and each user's best surplus at it."""

    value: float
    price: float
    best_N: np.ndarray

    @classmethod
    def of(cls, asked: Asked, menu_A3: np.ndarray) -> "Priced":
        value_NA, cost_NA = asked.value(menu_A3), asked.cost(menu_A3)
        budget = max(asked.budget, float(cost_NA.min(1).mean()) * (1 + 1e-9))
        found = per_user(value_NA, cost_NA, budget).allocation
        price = float(found.price_M[0])
        return cls(found.value / len(value_NA), price, (value_NA - price * cost_NA).max(1))

    def added(self, asked: Asked, vectors_C3: np.ndarray) -> np.ndarray:
        """What each strategy adds a user, alone, (C,)."""
        surplus_NC = asked.value(vectors_C3) - self.price * asked.cost(vectors_C3)
        return np.maximum(surplus_NC - self.best_N[:, None], 0).mean(0)

    def added_together(self, asked: Asked, vectors_M3: np.ndarray) -> float:
        surplus_NM = asked.value(vectors_M3) - self.price * asked.cost(vectors_M3)
        return float(np.maximum(surplus_NM.max(1) - self.best_N, 0).mean())


def greedy(asked: Asked, pool_C3: np.ndarray, count: int) -> np.ndarray:
    """The candidates that add most, one by one, as long as they add anything worth a trial."""
    menu_A3, found = asked.menu_A3, []
    for _ in range(count):
        if not len(pool_C3):
            break
        priced = Priced.of(asked, menu_A3)
        added_C = priced.added(asked, pool_C3)
        best = int(np.argmax(added_C))
        if added_C[best] <= LEAST * max(priced.value, 1e-12):
            break
        found.append(pool_C3[best])
        menu_A3 = np.concatenate([menu_A3, pool_C3[best : best + 1]])
        pool_C3 = np.delete(pool_C3, best, 0)
        width_3 = asked.box()[1] - asked.box()[0]
        pool_C3 = pool_C3[Asked.apart(pool_C3, np.array(found), width_3) >= asked.settings.rules.distance]
    return np.array(found).reshape(-1, 3)


class NewStrategies:
    """es/objectives/base.py: the numbers of some new strategies, by what they add together at the menu's price."""

    batch_pairs: ClassVar[int] = 4

    def __init__(self, asked: Asked, start_M3: np.ndarray) -> None:
        low_3, high_3 = asked.box()
        inside_M3 = np.clip(start_M3, low_3 + 1e-6 * (high_3 - low_3), high_3 - 1e-6 * (high_3 - low_3))
        self.asked, self.count, self.priced = asked, len(start_M3), Priced.of(asked, asked.menu_A3)
        self.moved_3 = np.flatnonzero(high_3 > low_3)
        self.start_M3 = start_M3
        self.knobs = Policy(tuple(
            Box((f"{NUMBERS[t]}.{m}",), float(low_3[t]), float(high_3[t]), float(inside_M3[m, t]))
            for m in range(self.count) for t in self.moved_3
        ))  # fmt: skip

    def initial(self) -> np.ndarray:
        return self.knobs.initial()

    def describe(self) -> dict[str, Any]:
        return {"objective": "incentives.new_strategies", "strategies": self.count}

    def vectors(self, theta_D: np.ndarray) -> np.ndarray:
        found_M3 = self.start_M3.copy()
        found_M3[:, self.moved_3] = self.knobs.decode(theta_D[None])[0].reshape(self.count, -1)
        return found_M3

    def worth(self, theta_D: np.ndarray) -> float:
        """A vector that is no candidate adds nothing."""
        vectors_M3 = self.vectors(theta_D)
        kept_M3 = vectors_M3[self.asked.fit(vectors_M3) & self.asked.within(vectors_M3)]
        return self.priced.added_together(self.asked, kept_M3) if len(kept_M3) else 0.0

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        return np.array([self.worth(theta_D) for theta_D in theta_PD])


def evolved(asked: Asked, start_M3: np.ndarray) -> np.ndarray:
    """The same number of strategies or fewer, moved to where they add more together."""
    objective = NewStrategies(asked, start_M3)
    best_M3 = objective.vectors(asked.maximise(objective, asked.seed))
    found_M3 = greedy(asked, best_M3[asked.fit(best_M3) & asked.within(best_M3)], len(start_M3))
    priced = objective.priced
    if len(found_M3) and priced.added_together(asked, found_M3) > priced.added_together(asked, start_M3):
        return found_M3
    return start_M3
