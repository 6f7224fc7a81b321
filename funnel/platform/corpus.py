"""The corpus of a world: its items, what each has had, and what its systems have learnt of them.

Arms that share a corpus share all of this. Counters move after each round of requests; once a day they are copied
(`refresh`), and what trains daily knows the copy. Shapes: I items, U users, D dimensions.
"""

from dataclasses import fields

import numpy as np

from funnel.platform.numbers import log_counts, on_grid
from funnel.platform.population import Items, Population
from funnel.platform.view import NOBODY, Counts, Feedback, History, ItemFacts, Learner, UserFacts, View

MEMORY = 10.0
"""Impressions after which the main system has learnt half of an item's hidden part."""
PAST = 16
"""Clicks kept of each user."""
LATELY = 40
"""Items kept of each user that were shown last: not shown again."""


class Corpus:
    """Items, counters, histories; grows by uploads."""

    def __init__(self, population: Population, items: Items) -> None:
        self.population, self.items = population, items
        users = len(population.users)
        self.live = np.zeros((4, len(items)), np.int64)
        self.daily = self.live
        self.history = History(
            np.full((users, PAST), NOBODY, np.int32),
            np.zeros((users, PAST), np.float32),
            np.zeros((users, PAST), np.float32),
        )
        self.centre_KD = on_grid(population.centre_KD)
        self.shown_UN = np.full((users, LATELY), NOBODY, np.int32)
        known = population.users
        self.user_facts = UserFacts(
            known.known_taste_UD, known.core_U, known.visits_U.astype(np.float32), known.budget_U
        )
        self.refresh()

    def add(self, items: Items) -> None:
        """Uploads, at the end of the order."""
        old = self.items
        both = {one.name: np.concatenate([getattr(old, one.name), getattr(items, one.name)]) for one in fields(Items)}
        self.items = Items(**both)
        self.live = np.concatenate([self.live, np.zeros((4, len(items)), np.int64)], axis=1)

    def refresh(self) -> None:
        """The main system trains: what is live now is what it knows until the next time."""
        items = self.items
        self.daily = self.live.copy()
        self.learner = Learner(items.content_ID, items.hidden_ID, items.rating_I, items.quality_I)
        self.learnt_ID = self.learner.vectors(self.daily[0], MEMORY)
        self.quality_I = self.learner.quality(self.daily[0], MEMORY)
        self.popularity_I = log_counts(self.daily[1])
        self.item_facts = ItemFacts(
            items.category_I,
            items.content_ID,
            items.rating_I,
            items.length_I,
            items.log_price_I,
            items.provider_I,
            items.upload_I,
            items.key_I,
        )

    def view(self, day: int, tick: int, now: float) -> View:
        """What policies see; the live counters are copied, so that they stand still while a round runs."""
        return View(
            day,
            tick,
            now,
            self.user_facts,
            self.item_facts,
            Counts(*self.live.copy()),
            Counts(*self.daily),
            self.learnt_ID,
            self.quality_I,
            self.popularity_I,
            self.centre_KD,
            self.history,
            self.learner,
        )

    def take(self, feedback: Feedback) -> None:
        """Count what a block of requests came to, and write its users' histories. A user has one request of a round."""
        items, seen_RS, slot_RS = len(self.items), feedback.seen_RS, feedback.slot_RS
        for row, mask_RS in enumerate(
            (seen_RS, feedback.good_RS, seen_RS & slot_RS, feedback.good_RS & slot_RS),
        ):
            self.live[row] += np.bincount(feedback.item_RS[mask_RS], minlength=items)
        user_R, now = feedback.requests.user_R, feedback.requests.now
        # What was seen: the last LATELY of the old list and this page, latest first.
        latest_RS = np.where(seen_RS, feedback.item_RS, NOBODY)[:, ::-1]
        self.shown_UN[user_R] = pushed(latest_RS, latest_RS != NOBODY, self.shown_UN[user_R])[0]
        click_RS = feedback.click_RS[:, ::-1]
        time_RS = np.full(click_RS.shape, now, np.float32)
        past = self.history
        past.item_UN[user_R], past.dwell_UN[user_R], past.time_UN[user_R] = pushed(
            latest_RS,
            click_RS,
            past.item_UN[user_R],
            (feedback.dwell_RS[:, ::-1], past.dwell_UN[user_R]),
            (time_RS, past.time_UN[user_R]),
        )


def pushed(
    new_RS: np.ndarray, kept_RS: np.ndarray, old_RN: np.ndarray, *more: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, ...]:
    """Lists with the kept new entries before the old ones, cut to N; `more`: further (new, old) moved likewise."""
    length = old_RN.shape[1]
    kept_RA = np.concatenate([kept_RS, np.ones(old_RN.shape, bool)], axis=1)
    # Stable: kept ones first, in order.
    order_RN = np.argsort(~kept_RA, axis=1, kind="stable")[:, :length]
    return tuple(
        np.take_along_axis(np.concatenate([new, old], axis=1), order_RN, 1) for new, old in ((new_RS, old_RN), *more)
    )
