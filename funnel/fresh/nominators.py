"""Who proposes fresh items for a request: fast stand-ins for trained networks, behind the interface of both.

    two-tower            affinity taste . content + category w_c + early rating          content alone, never counts
      with ids           adds the popularity, and in place of a new item's content the noise of an id that was never
                         trained: content n/(n + m) + noise m/(n + m), n impressions up to the daily refresh
    real-time            affinity taste . (content + hidden n/(n + m)), n impressions up to the last tick, m small

`category`: what share of the user's last clicks was of the item's category, and 1 if the user has come for it, times
w_c, the category's IDF to the power idf_power (mean 1). A nominator that serves trained networks is in trained.py.
Shapes: R requests, P items of the pool, I items, U users, K categories, N past clicks, D dimensions.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from funnel.fresh.features import inverse_frequency
from funnel.platform.draws import words
from funnel.platform.numbers import normal_table, on_grid, top
from funnel.platform.settings import PlatformSettings
from funnel.platform.view import Requests, View

FAST = 3.0
"""Impressions after which the real-time nominator has learnt half of an item's hidden part (the main system: 10)."""
CATEGORY = 0.6
"""Weight of the category term, in the logit of a click."""
RATING = 0.5
"""Weight of the early rating: what regressing quality on it gives."""
POPULARITY = 0.25
"""Weight of log(1 + positives) where a nominator sees it."""
UNTRAINED = 30.0
"""Impressions after which a two-tower with ids relies half on content and half on its id."""
ID_NOISE = 0.35
"""Length of the noise of an id that was never trained, against 1 of an item's vector."""


class Nominator(Protocol):
    """What proposes items of a pool for requests."""

    def refresh(self, view: View) -> None:
        """Once a day."""

    def tick(self, view: View) -> None:
        """Before each part of a day."""

    def best(self, requests: Requests, pool_P: np.ndarray, view: View, count: int) -> np.ndarray:
        """int64 (R, count): places in the pool of what suits each request best, in any order; each row by itself."""


@dataclass
class Categories:
    """The category term of both stand-ins."""

    world: PlatformSettings
    power: float

    def refresh(self, view: View) -> None:
        """w_c from the items that are there."""
        with_K = np.bincount(view.items.category_I, minlength=self.world.categories)
        self.weight_K = weighed(with_K, len(view), self.power)

    def tick(self, view: View) -> None:
        """Shares of categories among each user's last clicks."""
        past_UN = view.history.item_UN
        there_UN = past_UN >= 0
        users, kinds = len(past_UN), self.world.categories
        kind_UN = view.items.category_I[np.where(there_UN, past_UN, 0)]
        flat = (np.arange(users)[:, None] * kinds + kind_UN)[there_UN]
        count_UK = np.bincount(flat, minlength=users * kinds).reshape(users, kinds)
        self.share_UK = (count_UK / np.maximum(count_UK.sum(1, keepdims=True), 1)).astype(np.float32)

    def scores(self, requests: Requests, kind_P: np.ndarray) -> np.ndarray:
        share_RK = self.share_UK[requests.user_R]
        share_RK[np.arange(len(requests)), requests.intent_R] += 1.0
        return (np.float32(CATEGORY) * self.weight_K * share_RK)[:, kind_P]


def weighed(with_K: np.ndarray, items: int, power: float) -> np.ndarray:
    """IDF^power by category as float32, 1 on average over the categories that there are."""
    weight_K = inverse_frequency(with_K, items) ** power
    there_K = with_K > 0
    return (weight_K / max(float(weight_K[there_K].mean()), 1e-12)).astype(np.float32) if there_K.any() else weight_K


class Scored:
    """A nominator that scores every item of the pool."""

    def scores(self, requests: Requests, pool_P: np.ndarray, view: View) -> np.ndarray:
        """float32_RP, the larger the better."""
        raise NotImplementedError

    def best(self, requests: Requests, pool_P: np.ndarray, view: View, count: int) -> np.ndarray:
        return top(self.scores(requests, pool_P, view), count)


class ContentTower(Scored):
    """Stands for the two-tower without ids and popularity; `ids`: with them."""

    def __init__(self, world: PlatformSettings, idf_power: float, ids: bool = False) -> None:
        self.world, self.ids, self.categories = world, ids, Categories(world, idf_power)

    def refresh(self, view: View) -> None:
        self.categories.refresh(view)
        items = view.items
        self.item_ID, self.bias_I = items.content_ID, np.float32(RATING) * items.rating_I
        if self.ids:
            shown_I = view.daily.impressions_I
            trained_I = (shown_I / (shown_I + UNTRAINED))[:, None]
            drawn_ID = words(np.uint64(17), items.key_I.view(np.int64), items.content_ID.shape[1])
            noise_ID = normal_table().take(drawn_ID) * (ID_NOISE / np.sqrt(items.content_ID.shape[1]))
            self.item_ID = on_grid(items.content_ID + (1 - trained_I) * noise_ID)
            self.bias_I = (self.bias_I + np.float32(POPULARITY) * view.popularity_I).astype(np.float32)

    def tick(self, view: View) -> None:
        self.categories.tick(view)

    def scores(self, requests: Requests, pool_P: np.ndarray, view: View) -> np.ndarray:
        taste_RD = view.users.taste_UD[requests.user_R]
        score_RP = np.float32(self.world.affinity) * (taste_RD @ self.item_ID[pool_P].T)
        return score_RP + self.bias_I[pool_P] + self.categories.scores(requests, view.items.category_I[pool_P])


class RealTime(Scored):
    """Stands for the near-real-time sequence nominator: what a few impressions have shown of an item is known at the
    next tick; with an id for every item, it needs no rating."""

    def __init__(self, world: PlatformSettings, idf_power: float) -> None:
        self.world, self.categories = world, Categories(world, idf_power)

    def refresh(self, view: View) -> None:
        self.categories.refresh(view)

    def tick(self, view: View) -> None:
        self.categories.tick(view)
        shown_I, good_I = view.live.impressions_I, view.live.positives_I
        self.item_ID = view.learner.vectors(shown_I, FAST)
        # What clicks say of the quality beyond taste: the smoothed rate against the platform's.
        mean = (good_I.sum() + 1) / (shown_I.sum() + 4)
        rate_I = (good_I + mean * FAST) / (shown_I + FAST)
        self.bias_I = on_grid(2.0 * (rate_I - mean), 2.0**-10)

    def scores(self, requests: Requests, pool_P: np.ndarray, view: View) -> np.ndarray:
        taste_RD = view.users.taste_UD[requests.user_R]
        score_RP = np.float32(self.world.affinity) * (taste_RD @ self.item_ID[pool_P].T)
        return score_RP + self.bias_I[pool_P] + self.categories.scores(requests, view.items.category_I[pool_P])
