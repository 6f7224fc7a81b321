"""Matching: some 500 of all items, from lists that are made once a day, as an inverted index is.

Within each category the items are ordered by what holds for everybody (popularity, freshness, quality as known) and cut
into lists of `length`. A request takes the `lists` whose members, on average, suit the user and the intent best. So the
cost of a request does not grow with the corpus, and what stands far down in a large category is not found.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import UserError
from funnel.platform.numbers import on_grid, ranked, top
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policy
from funnel.platform.view import NOBODY, Requests, View

LONGEST = 10_000
"""Items of a list, at most: every list has room for so many."""


@dataclass(frozen=True)
class ListSettings:
    lists: int = 25
    """Lists that a request takes: lists * length candidates."""
    length: int = 20
    """Items of a list."""
    depth: int = 40
    """Lists of each category, at most; what stands further down cannot be found."""
    intent: float = 1.0
    """What is added to the lists of the category that the user has come for."""
    popularity: float = 0.3
    """Weight of log(1 + positives) in the order within a category."""
    freshness: float = 0.5
    """Weight of exp(-age / 3 days) in it."""

    def __post_init__(self) -> None:
        for name in ("lists", "length", "depth"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.length > LONGEST:
            raise UserError(f"length is {self.length}, must be at most {LONGEST}")


class Lists(Policy):
    settings_type = ListSettings

    def __init__(self, settings: ListSettings, world: PlatformSettings, seed: int) -> None:
        super().__init__(settings, world, seed)
        if settings.lists * settings.length < world.slots:
            raise UserError(
                f"{settings.lists} lists of {settings.length} items cannot fill a page of {world.slots} slots"
            )

    def refresh(self, view: View) -> None:
        settings: ListSettings = self.settings
        worth_I = settings.popularity * view.popularity_I + view.quality_I
        worth_I = on_grid(worth_I + settings.freshness * recency(view.items.upload_I, view.now, 3.0), 2.0**-10)
        category_I = view.items.category_I
        order_I = np.lexsort((-worth_I, category_I))
        sorted_I = category_I[order_I]
        rank_I = np.arange(len(order_I)) - np.searchsorted(sorted_I, sorted_I)
        # List number: within the category by rank, categories one after the other.
        kept = rank_I < settings.depth * settings.length
        order_I, rank_I, sorted_I = order_I[kept], rank_I[kept], sorted_I[kept]
        _, list_I = np.unique(sorted_I.astype(np.int64) * (1 << 32) + rank_I // settings.length, return_inverse=True)
        count = int(list_I.max()) + 1
        self.item_LC = np.full((count, settings.length), NOBODY, np.int64)
        self.item_LC[list_I, rank_I % settings.length] = order_I
        there_LC = self.item_LC != NOBODY
        members_L = there_LC.sum(1)
        self.category_L = category_I[self.item_LC[:, 0]]
        vectors_LCD = view.learnt_ID[self.item_LC].astype(np.float64) * there_LC[:, :, None]
        self.centre_LD = on_grid(vectors_LCD.sum(1) / members_L[:, None])
        self.worth_L = on_grid((worth_I[self.item_LC].astype(np.float64) * there_LC).sum(1) / members_L, 2.0**-10)

    def candidates(self, requests: Requests, view: View) -> np.ndarray:
        affinity_RL = self.affinity(requests, view)
        list_Rk = top(affinity_RL, min(self.settings.lists, len(self.category_L)))
        return self.item_LC.take(list_Rk, axis=0).reshape(len(requests), -1)

    def best_first(self, requests: Requests, view: View) -> np.ndarray:
        """The same candidates, those of the best list first."""
        affinity_RL = self.affinity(requests, view)
        list_Rk = ranked(affinity_RL, min(self.settings.lists, len(self.category_L)))
        return self.item_LC.take(list_Rk, axis=0).reshape(len(requests), -1)

    def affinity(self, requests: Requests, view: View) -> np.ndarray:
        """float32_RL: how well each list suits each request."""
        settings: ListSettings = self.settings
        affinity_RL: np.ndarray = view.users.taste_UD[requests.user_R] @ self.centre_LD.T
        affinity_RL *= np.float32(self.world.affinity)
        affinity_RL += self.worth_L
        affinity_RL += np.float32(settings.intent) * (self.category_L == requests.intent_R[:, None])
        return affinity_RL


def recency(upload_I: np.ndarray, now: float, days: float) -> Any:
    """float64_I: exp(-age / days)."""
    return np.exp(-np.maximum(now - upload_I.astype(np.float64), 0) / days)
