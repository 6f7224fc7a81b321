"""Matching by several routes with a quota each: how many candidates of which kind the pre-ranker is asked about.

    taste     lists of items whose members suit the user and the intent best (funnel/platform/matching.py), best first
    intent    of the category that the user has come for, the best for everybody
    popular   of all items, those with most positive interactions
    fresh     uploaded in the last days, by the early view of their quality

An item that several routes find is a candidate once. Cost of a request: every candidate is pre-ranked, and what
pre-ranking keeps (`keep` of its policy) is ranked, which is dearer. Shapes: R requests, C candidates, L lists, I items.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import UserError
from funnel.platform.matching import Lists, ListSettings, recency
from funnel.platform.numbers import on_grid
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policy
from funnel.platform.view import NOBODY, Requests, View

ROUTES = ("taste", "intent", "popular", "fresh")
MOST = 5_000
"""Of a route."""
LENGTH = 10
"""Items of a list of the taste route: its quota is met to the item, the last list in part."""


@dataclass(frozen=True)
class RouteSettings:
    """Candidates of each route."""

    taste: int = 300
    intent: int = 100
    popular: int = 50
    fresh: int = 50

    def __post_init__(self) -> None:
        for name in ROUTES:
            if not 0 <= getattr(self, name) <= MOST:
                raise UserError(f"{name} is {getattr(self, name)}, must lie in 0..{MOST:,}")


class Routes(Policy):
    """funnel/platform/stages.py: Matching."""

    settings_type = RouteSettings

    def __init__(self, settings: RouteSettings, world: PlatformSettings, seed: int) -> None:
        super().__init__(settings, world, seed)
        total = sum(getattr(settings, name) for name in ROUTES)
        if total < world.slots:
            raise UserError(f"the routes' quotas are {total} together: they cannot fill a page of {world.slots} slots")
        count = max(-(-settings.taste // LENGTH), -(-world.slots // LENGTH))
        self.lists = Lists(ListSettings(lists=count, length=LENGTH, depth=MOST), world, seed)
        self.found, self.requests = 0, 0
        """Candidates that were found so far, and of how many requests."""

    def refresh(self, view: View) -> None:
        settings: RouteSettings = self.settings
        self.lists.refresh(view)
        fresh_I = recency(view.items.upload_I, view.now, 3.0)
        worth_I = on_grid(0.3 * view.popularity_I + view.quality_I + 0.5 * fresh_I, 2.0**-10)
        category_I = view.items.category_I
        best_I = np.lexsort((np.arange(len(view)), -worth_I, category_I))
        first_K1 = np.searchsorted(category_I[best_I], np.arange(self.world.categories + 1))
        self.own_KC = np.full((self.world.categories, settings.intent), NOBODY, np.int64)
        for category in range(self.world.categories):
            here = best_I[first_K1[category] : first_K1[category + 1]][: settings.intent]
            self.own_KC[category, : len(here)] = here
        self.popular_C = np.argsort(-view.popularity_I, kind="stable")[: settings.popular]
        new_I = np.flatnonzero(view.now - view.items.upload_I < self.world.fresh_days)
        self.fresh_C = new_I[np.argsort(-view.items.rating_I[new_I], kind="stable")][: settings.fresh]

    def candidates(self, requests: Requests, view: View) -> np.ndarray:
        settings: RouteSettings = self.settings
        rows = len(requests)
        parts = [self.lists.best_first(requests, view)[:, : settings.taste], self.own_KC[requests.intent_R]]
        parts += [np.broadcast_to(route, (rows, len(route))) for route in (self.popular_C, self.fresh_C)]
        item_RC = without_doubles(np.concatenate(parts, axis=1))
        self.found += int(np.count_nonzero(item_RC != NOBODY))
        self.requests += rows
        return item_RC

    def cost(self) -> float:
        """Candidates of a request so far, on average."""
        return self.found / max(self.requests, 1)


def without_doubles(item_RC: np.ndarray) -> np.ndarray:
    """The same with NOBODY where the item stands in an earlier column of the row."""
    order_RC = np.argsort(item_RC, axis=1, kind="stable")
    sorted_RC = np.take_along_axis(item_RC, order_RC, 1)
    again_RC = np.zeros(item_RC.shape, bool)
    np.put_along_axis(again_RC, order_RC[:, 1:], sorted_RC[:, 1:] == sorted_RC[:, :-1], 1)
    found: np.ndarray[Any, Any] = np.where(again_RC, NOBODY, item_RC)
    return found
