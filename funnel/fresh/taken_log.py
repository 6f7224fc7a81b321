"""What users consumed, as a log that both nominators learn from: an item that was taken, with the history before it.

    user, user_core, user_taste_0 ..               who asks: activity, mean content of the items consumed last
    history_item, _category, _dwell, _gap          the last consumed items, oldest first; dwell and time since in steps
    item_id, item_category, item_content_0 ..      the item that was taken: id, category, its observed content
    item_length, item_rating, item_popularity      log seconds, mean rating, log(1 + positives)
    age_days, taken                                days since its upload; 1

Shapes: E events in order of time, I items, U users, R rows, D dimensions of content, S history entries.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from data.bags import offsets
from data.errors import UserError
from data.fields import CategoricalField, Many
from data.schema import Schema
from data.write import PartWriter, new_log

DWELL_STEPS = (3.0, 10.0, 20.0, 40.0, 80.0, 160.0)
"""Seconds at which one step of dwell ends and the next begins."""
GAP_STEPS = (1 / 96, 1 / 24, 1 / 6, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Days: a quarter of an hour up to eight days."""
LABEL = "taken"


@dataclass(frozen=True)
class Items:
    """What is observed of items."""

    category_I: np.ndarray
    content_ID: np.ndarray
    length_I: np.ndarray
    """Log seconds."""
    rating_I: np.ndarray
    popularity_I: np.ndarray
    """Positive interactions."""
    uploaded_I: np.ndarray
    """Day of upload."""


@dataclass(frozen=True)
class Events:
    """Clicks in order of time. taken: a good click."""

    user_E: np.ndarray
    item_E: np.ndarray
    day_E: np.ndarray
    """Days since the beginning, with fractions."""
    dwell_E: np.ndarray
    """Seconds."""
    taken_E: np.ndarray

    def __len__(self) -> int:
        return len(self.user_E)


@dataclass(frozen=True)
class TakenLog:
    """Sizes of the columns' vocabularies: the same in every round, so that a network can go on from the last."""

    categories: int
    content: int
    item_ids: int = 4096
    """Rows of the table of item ids; ids are hashed to them."""
    history: int = 20
    """Items of a history, the last ones."""

    def schema(self) -> Schema:
        many = Many("mean", self.history)
        item = CategoricalField("item_id", "hash", size=self.item_ids)
        category = CategoricalField("item_category", "range", size=self.categories)
        categorical = (
            CategoricalField("user_core", "range", size=2),
            item,
            category,
            item.shared("history_item", many),
            category.shared("history_category", many),
            CategoricalField("history_dwell", "range", size=len(DWELL_STEPS) + 1, many=many),
            CategoricalField("history_gap", "range", size=len(GAP_STEPS) + 1, many=many),
        )
        numeric = [f"user_taste_{d}" for d in range(self.content)] + [f"item_content_{d}" for d in range(self.content)]
        numeric += ["item_length", "item_rating", "item_popularity"]
        return Schema("items taken", categorical, tuple(numeric), {LABEL: LABEL}, user="user")

    def table(
        self,
        user_R: np.ndarray,
        item_R: np.ndarray,
        day_R: np.ndarray,
        core_U: np.ndarray,
        items: Items,
        events: Events,
        before_R: np.ndarray | None = None,
    ) -> pa.Table:
        """Rows of users asking at these days, paired with items. The history of a row is what its user clicked among
        the first `before_R` events (None: all of them)."""
        entry_S, offset_R1 = histories(user_R, events, self.history, before_R)
        content_SD = items.content_ID[events.item_E[entry_S]]
        row_S = np.repeat(np.arange(len(user_R)), np.diff(offset_R1))
        taste_RD = np.zeros((len(user_R), self.content))
        np.add.at(taste_RD, row_S, content_SD)
        taste_RD /= np.maximum(np.diff(offset_R1), 1)[:, None]

        def listed(value_S: np.ndarray) -> pa.Array:
            return pa.LargeListArray.from_arrays(pa.array(offset_R1), pa.array(value_S, pa.int64()))

        chosen = events.item_E[entry_S]
        columns = {
            "user": pa.array(user_R, pa.int64()),
            "user_core": pa.array(core_U[user_R].astype(np.int64)),
            "item_id": pa.array(item_R, pa.int64()),
            "item_category": pa.array(items.category_I[item_R], pa.int64()),
            "history_item": listed(chosen),
            "history_category": listed(items.category_I[chosen]),
            "history_dwell": listed(np.searchsorted(DWELL_STEPS, events.dwell_E[entry_S], side="right")),
            "history_gap": listed(np.searchsorted(GAP_STEPS, day_R[row_S] - events.day_E[entry_S], side="right")),
        }
        numbers = {f"user_taste_{d}": taste_RD[:, d] for d in range(self.content)}
        numbers |= {f"item_content_{d}": items.content_ID[item_R, d] for d in range(self.content)}
        numbers |= {"item_length": items.length_I[item_R], "item_rating": items.rating_I[item_R]}
        numbers |= {"item_popularity": np.log1p(items.popularity_I[item_R])}
        numbers |= {"age_days": day_R - items.uploaded_I[item_R]}
        columns |= {name: pa.array(value_R, pa.float32()) for name, value_R in numbers.items()}
        return pa.table({**columns, LABEL: pa.array(np.ones(len(user_R)), pa.int8())})

    def write(
        self, out: Path, core_U: np.ndarray, items: Items, events: Events, use_E: np.ndarray, seed: int, valid: int = 8
    ) -> int:
        """Write the taken events among `use_E` (bool) as a log; one in `valid`, drawn by the seed, is its valid part.

        Returns the rows. Raises UserError if either part would be empty.
        """
        place_R = np.flatnonzero(use_E & events.taken_E)
        held_R = np.random.default_rng(seed).permutation(len(place_R)) < max(len(place_R) // valid, 1)
        if len(place_R) < 2:
            raise UserError(f"{out}: {len(place_R)} items were taken in this round; a log needs at least 2")
        with new_log(out, self.schema()) as directory:
            for part, of_R in (("train", ~held_R), ("valid", held_R)):
                row_R = place_R[of_R]
                sides = events.user_E[row_R], events.item_E[row_R], events.day_E[row_R]
                with PartWriter(directory, part, self.schema()) as writer:
                    writer.write(self.table(*sides, core_U, items, events, row_R))
        return len(place_R)


def histories(
    user_R: np.ndarray, events: Events, most: int, before_R: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(entry_S, offset_R1): the places among the events of each row's history, oldest first, at most `most` of them."""
    order_E = np.argsort(events.user_E, kind="stable")  # by user, and in order of time within one
    sorted_E = events.user_E[order_E]
    first_R = np.searchsorted(sorted_E, user_R, side="left")
    last_R = np.searchsorted(sorted_E, user_R, side="right")
    if before_R is not None:
        # (user, place) is sorted too: the first entry of the user that is not before the row ends its history.
        span = len(events) + 1
        last_R = np.searchsorted(sorted_E.astype(np.int64) * span + order_E, user_R.astype(np.int64) * span + before_R)
    begin_R = np.maximum(first_R, last_R - most)
    offset_R1 = offsets(last_R - begin_R)
    entry_S = np.repeat(begin_R - offset_R1[:-1], np.diff(offset_R1)) + np.arange(offset_R1[-1])
    return order_E[entry_S], offset_R1
