"""What users consumed, as a log that both nominators learn from: an item that was taken, with the history before it.

    user, user_core, user_taste_0 ..               who asks: activity, mean content of the items consumed last
    history_item, _category, _dwell, _gap          the last consumed items, oldest first; dwell and time since in steps
    item_id, item_category, item_content_0 ..      the item that was taken: id, category, its observed content
    item_length, item_rating, item_popularity      log seconds, mean rating, log(1 + positives)
    age_days, taken                                days since its upload; 1

Shapes: I items, U users, R rows, D dimensions of content, S history entries, N entries of a ring.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
class Histories:
    """The items that each row's user consumed last, oldest first; row r has entries offset_R1[r : r + 1]."""

    item_S: np.ndarray
    dwell_S: np.ndarray
    """Seconds."""
    day_S: np.ndarray
    """Days since the beginning, with fractions."""
    offset_R1: np.ndarray

    @classmethod
    def of_rings(cls, item_RN: np.ndarray, dwell_RN: np.ndarray, day_RN: np.ndarray) -> "Histories":
        """From lists of equal length, latest first, in which items below 0 stand for none."""
        there_RN = item_RN[:, ::-1] >= 0
        return cls(
            item_RN[:, ::-1][there_RN].astype(np.int64),
            dwell_RN[:, ::-1][there_RN],
            day_RN[:, ::-1][there_RN],
            offsets(there_RN.sum(1)),
        )

    @classmethod
    def none(cls, rows: int) -> "Histories":
        return cls(np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros(rows + 1, np.int64))

    def take(self, row_R: np.ndarray) -> "Histories":
        length_R = np.diff(self.offset_R1)[row_R]
        offset_R1 = offsets(length_R)
        entry_S = np.repeat(self.offset_R1[:-1][row_R] - offset_R1[:-1], length_R) + np.arange(offset_R1[-1])
        return Histories(self.item_S[entry_S], self.dwell_S[entry_S], self.day_S[entry_S], offset_R1)

    @classmethod
    def join(cls, parts: Sequence["Histories"]) -> "Histories":
        item_S, dwell_S, day_S = (joined(parts, name) for name in ("item_S", "dwell_S", "day_S"))
        return cls(item_S, dwell_S, day_S, offsets(np.concatenate([np.diff(part.offset_R1) for part in parts])))


@dataclass(frozen=True)
class Taken:
    """Items that users took, a row each, with the histories before."""

    user_R: np.ndarray
    item_R: np.ndarray
    day_R: np.ndarray
    history: Histories

    def __len__(self) -> int:
        return len(self.user_R)

    def take(self, row_R: np.ndarray) -> "Taken":
        return Taken(self.user_R[row_R], self.item_R[row_R], self.day_R[row_R], self.history.take(row_R))

    @classmethod
    def join(cls, parts: Sequence["Taken"]) -> "Taken":
        user_R, item_R, day_R = (joined(parts, name) for name in ("user_R", "item_R", "day_R"))
        return cls(user_R, item_R, day_R, Histories.join([part.history for part in parts]))


def joined(parts: Sequence[Any], name: str) -> np.ndarray:
    return np.concatenate([getattr(part, name) for part in parts])


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

    def table(self, taken: Taken, core_U: np.ndarray, items: Items) -> pa.Table:
        """The rows of the log."""
        past, item_R = taken.history, taken.item_R
        rows = len(taken)
        row_S: np.ndarray = np.repeat(np.arange(rows), np.diff(past.offset_R1))
        content_SD = items.content_ID[past.item_S]
        # Sums by row as differences of running sums: one pass, and rows without history are 0.
        running = np.concatenate([np.zeros((1, self.content)), np.cumsum(content_SD, 0, dtype=np.float64)])
        taste_RD = running[past.offset_R1[1:]] - running[past.offset_R1[:-1]]
        taste_RD /= np.maximum(np.diff(past.offset_R1), 1)[:, None]

        def listed(value_S: Any) -> pa.Array:
            return pa.LargeListArray.from_arrays(pa.array(past.offset_R1), pa.array(value_S, pa.int64()))

        columns = {
            "user": pa.array(taken.user_R, pa.int64()),
            "user_core": pa.array(core_U[taken.user_R].astype(np.int64)),
            "item_id": pa.array(item_R, pa.int64()),
            "item_category": pa.array(items.category_I[item_R], pa.int64()),
            "history_item": listed(past.item_S),
            "history_category": listed(items.category_I[past.item_S]),
            "history_dwell": listed(np.searchsorted(DWELL_STEPS, past.dwell_S, side="right")),
            "history_gap": listed(np.searchsorted(GAP_STEPS, taken.day_R[row_S] - past.day_S, side="right")),
        }
        numbers = {f"user_taste_{d}": taste_RD[:, d] for d in range(self.content)}
        numbers |= {f"item_content_{d}": items.content_ID[item_R, d] for d in range(self.content)}
        numbers |= {"item_length": items.length_I[item_R], "item_rating": items.rating_I[item_R]}
        numbers |= {"item_popularity": np.log1p(items.popularity_I[item_R])}
        numbers |= {"age_days": taken.day_R - items.uploaded_I[item_R]}
        columns |= {name: pa.array(value_R, pa.float32()) for name, value_R in numbers.items()}
        return pa.table({**columns, LABEL: pa.array(np.ones(rows), pa.int8())})

    def write(self, out: Path, taken: Taken, core_U: np.ndarray, items: Items, seed: int, valid: int = 8) -> int:
        """Write a log; one row in `valid`, drawn by the seed, is of its valid part. Returns the rows.

        Raises UserError if either part would be empty.
        """
        if len(taken) < 2:
            raise UserError(f"{out}: {len(taken)} items were taken in this round; a log needs at least 2")
        held_R = np.random.default_rng(seed).permutation(len(taken)) < max(len(taken) // valid, 1)
        with new_log(out, self.schema()) as directory:
            for part, of_R in (("train", ~held_R), ("valid", held_R)):
                with PartWriter(directory, part, self.schema()) as writer:
                    writer.write(self.table(taken.take(np.flatnonzero(of_R)), core_U, items))
        return len(taken)
