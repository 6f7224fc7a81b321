"""What users can be given on a day: the strategies that some fitted effects know, with values, costs and bounds.

Strategies keep their numbers while they come and go: one that is new is known to the effects that were fitted on its
random rows and to no others, and can be given only by these. One axis of strategies serves all users of a day, with
what a user may not have marked. Shapes: N users, A strategies of the axis, F fits, K limits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from funnel.incentives.aims import Limited
from funnel.incentives.cadence import CadenceSettings, allowed, start_weight
from funnel.incentives.clusters import Clusters
from funnel.incentives.fitted import IncentiveEffects

NOBODY = np.empty(0, np.int64)


@dataclass(frozen=True)
class Fit:
    """Fitted effects, with the numbers of their strategies."""

    effects: IncentiveEffects
    ids_A: np.ndarray

    @property
    def bill_A(self) -> np.ndarray:
        """What a strategy costs of a user who takes all of it; of strategies that have only a name, on average."""
        costs = self.effects.facts["cost"]
        return np.array(costs["bill"] if costs["kind"] == "claims" else costs["by_arm"])


class Choice:
    def __init__(self, fits: Sequence[Fit], gone_N: np.ndarray = NOBODY) -> None:
        """`fits`: the standing effects first; `gone_N`: numbers of strategies that stand no longer."""
        self.fits = fits
        bill_of: dict[int, float] = {}
        for fit in reversed(fits):
            bill_of |= dict(zip(fit.ids_A.tolist(), fit.bill_A.tolist(), strict=True))
        ids = [number for number in sorted(bill_of) if number not in set(gone_N.tolist())]
        if fits[0].effects.facts["cost"]["kind"] == "claims":  # the cheapest first; of one bill the older
            ids = sorted(ids, key=lambda number: bill_of[number])
        self.ids_A, self.bill_A = np.array(ids, np.int64), np.array([bill_of[number] for number in ids])
        self.column_S = np.full(max(bill_of) + 1, -1)
        self.column_S[self.ids_A] = np.arange(len(ids))
        self.known_FA = np.array([np.isin(self.ids_A, fit.ids_A) for fit in fits])

    def columns(self, number_N: np.ndarray) -> np.ndarray:
        """Where these strategies are on the axis; -1: nowhere, or no strategy at all."""
        inside_N = (number_N >= 0) & (number_N < len(self.column_S))
        return np.where(inside_N, self.column_S[np.where(inside_N, number_N, 0)], -1)

    def has(self, mine_N: np.ndarray, number_N: np.ndarray) -> np.ndarray:
        """bool_N: users whose strategy is one that their effects (`mine_N`: which fit) still give."""
        column_N = self.columns(number_N)
        return np.asarray((column_N >= 0) & self.known_FA[mine_N, np.maximum(column_N, 0)])

    def spread(self, fit: Fit, found_NB: np.ndarray) -> np.ndarray:
        """What a fit says of its strategies, (..., B), on the axis; 0 for others."""
        column_B = self.columns(fit.ids_A)
        spread_NA = np.zeros((*found_NB.shape[:-1], len(self.ids_A)), found_NB.dtype)
        spread_NA[..., column_B[column_B >= 0]] = found_NB[..., column_B >= 0]
        return spread_NA

    def costs(self, x_NF: np.ndarray) -> np.ndarray:
        """(N, A): by the standing effects' rows where these have the strategy."""
        cost_NA = np.zeros((len(x_NF), len(self.ids_A)))
        for fit, known_A in zip(reversed(self.fits), self.known_FA[::-1], strict=True):
            cost_NA[:, known_A] = self.spread(fit, fit.effects.cost(x_NF))[:, known_A]
        return cost_NA

    def values(self, x_NF: np.ndarray, mine_N: np.ndarray) -> np.ndarray:
        """(N, A): what each strategy brings against the cheapest, by each user's own fit."""
        value_NA = np.zeros((len(x_NF), len(self.ids_A)))
        for number, fit in enumerate(self.fits):
            own_N = np.flatnonzero(mine_N == number)
            if len(own_N):
                value_NA[own_N] = self.spread(fit, fit.effects.effects(x_NF[own_N]))
        return value_NA

    def limited(self, x_NF: np.ndarray) -> Limited | None:
        """Floors and ceilings on the axis: by the standing effects' levels where these have the strategy."""
        found: Limited | None = None
        for fit, known_A in zip(reversed(self.fits), self.known_FA[::-1], strict=True):
            own = fit.effects.limited(x_NF)
            if own is None:
                return None
            cost_KNA = self.spread(fit, own.cost_KRA)
            if found is not None:
                cost_KNA = np.where(known_A, cost_KNA, found.cost_KRA)
            found = Limited(own.texts, cost_KNA, own.limit_K)
        return found

    def allowed(self, cadence: CadenceSettings, sensitive_N: np.ndarray, mine_N: np.ndarray) -> np.ndarray:
        """bool (N, A): strategies that a user's fit knows, within the cap of the sensitive."""
        return allowed(cadence, sensitive_N, self.bill_A) & self.known_FA[mine_N]

    def weighted(
        self, cadence: CadenceSettings, x_NF: np.ndarray, tenure_N: np.ndarray, mine_N: np.ndarray
    ) -> np.ndarray:
        """Values as decisions count them: a new user's more, (N, A)."""
        return self.values(x_NF, mine_N) * start_weight(cadence, tenure_N)[:, None]


def grouped(all_NF: np.ndarray, own_NF: np.ndarray, clusters: int, seed: int, mine_N: np.ndarray) -> np.ndarray:
    """The group of each of these users: his cluster among all, apart by whose effects decide."""
    group_N = 2 * Clusters.fit(all_NF, clusters, seed).of(own_NF) + mine_N
    return np.unique(group_N, return_inverse=True)[1].astype(np.int64)


def aligned(before: Fit, after: Fit, x_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(effects before, after, errors after) of the strategies that both know, the cheapest first, (N, A) each."""
    both_A = after.ids_A[np.isin(after.ids_A, before.ids_A)]
    old_A = np.array([np.flatnonzero(before.ids_A == number)[0] for number in both_A], np.int64)
    new_A = np.flatnonzero(np.isin(after.ids_A, both_A))
    errors_NA = after.effects.standard_errors(x_NF)
    return (before.effects.effects(x_NF)[:, old_A], after.effects.effects(x_NF)[:, new_A],
            None if errors_NA is None else errors_NA[:, new_A])  # fmt: skip
