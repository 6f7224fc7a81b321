"""What the stages' policies see: a block of requests, the platform as its systems know it, and what users did.

Shapes: R requests of a block, C candidates, S slots, I items (those uploaded so far), U users, D dimensions, N past
clicks kept of each user. Arrays are lent: a policy copies what it keeps and writes to none. Users and items are numbers
0 .. U-1 and 0 .. I-1; an item's number is its place in the order of uploads. Time is in days since the world began.
"""

from dataclasses import dataclass

import numpy as np

from funnel.platform.numbers import on_grid

NOBODY = -1
"""In an array of items: there is none."""


@dataclass(frozen=True)
class Requests:
    """Requests for one page each, of one round: all ask for page number `page` of their visit."""

    day: int
    tick: int
    page: int
    now: float
    """Time: day + tick / ticks."""
    user_R: np.ndarray
    """int64."""
    intent_R: np.ndarray
    """int64: the category that the user has come for, known to all stages as a search word would be."""
    visit_R: np.ndarray
    """int64: number of the visit, unique in the world; with `page` it names the request."""
    key_R: np.ndarray
    """uint64: address of the request's randomness (draws.py): equal in worlds of one seed, whatever their policies."""
    shown_RN: np.ndarray
    """int32: items that the user was shown lately, this visit's among them; NOBODY where there are fewer."""

    def __len__(self) -> int:
        return len(self.user_R)


@dataclass(frozen=True)
class UserFacts:
    """What the platform knows of its users."""

    taste_UD: np.ndarray
    """float32 on the grid: the tastes as the platform has learnt them (close to the true ones)."""
    core_U: np.ndarray
    """bool: comes often."""
    activity_U: np.ndarray
    """float32: visits on an average day."""
    budget_U: np.ndarray
    """float32: the log of the price, relative to the median item's, that suits the user."""


@dataclass(frozen=True)
class ItemFacts:
    """What is known of an item from its upload on."""

    category_I: np.ndarray
    content_ID: np.ndarray
    """float32 on the grid: what the content shows; `settings.content` of the item's true vector."""
    rating_I: np.ndarray
    """float32 on the grid: an early, noisy view of the quality (the provider's standing, a first look)."""
    length_I: np.ndarray
    """float32: seconds."""
    log_price_I: np.ndarray
    """float32: log of the price relative to the median item's."""
    provider_I: np.ndarray
    upload_I: np.ndarray
    """float32: time of upload; negative before the world began."""
    key_I: np.ndarray
    """uint64: address of the item's randomness: (provider, number of the upload), equal in worlds of one seed."""


@dataclass(frozen=True)
class Counts:
    """What an item has had so far; int64_I. Positives are good clicks: 10 s or more after the click."""

    impressions_I: np.ndarray
    positives_I: np.ndarray
    slot_impressions_I: np.ndarray
    """Of those, in the fresh slot."""
    slot_positives_I: np.ndarray


@dataclass(frozen=True)
class History:
    """The last N clicks of every user, latest first; a ring that the world writes after each round."""

    item_UN: np.ndarray
    """int32; NOBODY: none."""
    dwell_UN: np.ndarray
    """float32: seconds."""
    time_UN: np.ndarray
    """float32: days."""


class Learner:
    """Stands for training: what a system would have learnt of items after n impressions of each.

    vector = content + hidden part * n / (n + memory), quality = (early view's share * memory + quality * n) /
    (n + memory): a system of small memory learns fast.
    """

    def __init__(
        self, content_ID: np.ndarray, hidden_ID: np.ndarray, rating_I: np.ndarray, quality_I: np.ndarray
    ) -> None:
        self._content_ID, self._hidden_ID = content_ID, hidden_ID
        self._rating_I, self._quality_I = rating_I, quality_I

    def vectors(self, impressions_I: np.ndarray, memory: float) -> np.ndarray:
        """float32_ID on the grid, of the items 0 .. len(impressions_I) - 1."""
        count = len(impressions_I)
        share_I = impressions_I / (impressions_I + memory)
        return on_grid(self._content_ID[:count] + self._hidden_ID[:count] * share_I[:, None])

    def quality(self, impressions_I: np.ndarray, memory: float) -> np.ndarray:
        """float32_I on the grid. Before any impression: half of the early view, whose noise is as large as what it
        shows."""
        count = len(impressions_I)
        share_I = impressions_I / (impressions_I + memory)
        return on_grid(0.5 * self._rating_I[:count] * (1 - share_I) + self._quality_I[:count] * share_I)


@dataclass(frozen=True)
class View:
    """The platform as its systems know it when a round begins. `live` is as of the last round, `daily` as of the
    day's refresh (what a main system that trains once a day knows)."""

    day: int
    tick: int
    now: float
    users: UserFacts
    items: ItemFacts
    live: Counts
    daily: Counts
    learnt_ID: np.ndarray
    """float32 on the grid: item vectors as the main system has learnt them up to the daily refresh: the content, and
    the hidden part to n / (n + 10) after n impressions."""
    quality_I: np.ndarray
    """float32 on the grid: item quality, learnt likewise from the early view on."""
    popularity_I: np.ndarray
    """float32: log(1 + positives) as of the daily refresh."""
    centre_KD: np.ndarray
    """float32 on the grid: the direction of each category's content."""
    history: History
    learner: Learner
    """What a system that learns at another pace would know: see corpus.py."""

    def __len__(self) -> int:
        return len(self.items.category_I)


@dataclass(frozen=True)
class Feedback:
    """What one block of requests came to. Arrays are (R, S), in the order in which the page was looked through; columns
    beyond where the user left have seen_RS False and all else 0."""

    requests: Requests
    item_RS: np.ndarray
    seen_RS: np.ndarray
    """bool: the user looked at it. An impression is a seen item."""
    slot_RS: np.ndarray
    """bool: it stood there as the fresh slot's item."""
    click_RS: np.ndarray
    good_RS: np.ndarray
    """bool: a click with 10 s or more."""
    dwell_RS: np.ndarray
    """float32 seconds, 0 without a click; multiples of 1/16."""
    like_RS: np.ndarray
    purchase_RS: np.ndarray
    next_RS: np.ndarray
    """bool: the user looked on after it (to the next item, or the next page)."""
