"""Whole sessions, their items in the order in which they were watched, as what is dealt out and batched.

A row's context in training is what stands before it in its session. Of the last `hide` items of it the feedback is
hidden, as it is from items that are planned and not watched yet; how many follows from the session and the place alone,
so it is the same in every epoch and for any number of workers. Shapes: R rows, B rows of a batch, F feedback values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from data.hashing import splitmix64
from funnel.batch import tensor
from funnel.lists.units import ListBatch, Lists

HIDDEN_MOST = 8
"""Items at most whose feedback is hidden; none for every other row."""


@dataclass(frozen=True)
class SessionBatch:
    """Rows of whole sessions, end to end."""

    lists: ListBatch
    feedback_BF: Tensor
    label_B3: Tensor
    """0 or 1: an effective view, a like, looked on."""
    hide_B: Tensor
    """int64."""

    def __len__(self) -> int:
        return len(self.lists)

    @property
    def place_B(self) -> Tensor:
        """int64: 0 for the first item of a session."""
        begin_B = self.lists.begin_L1[:-1].index_select(0, self.lists.list_B)
        return torch.arange(len(begin_B), device=begin_B.device) - begin_B

    def to(self, device: torch.device) -> "SessionBatch":
        if device.type == "cpu":
            return self
        moved = {name: getattr(self, name).to(device) for name in ("feedback_BF", "label_B3", "hide_B")}
        return replace(self, lists=self.lists.to(device), **moved)


@dataclass(frozen=True)
class Sessions:
    """Encoded rows of whole sessions (funnel/problem.py: Units)."""

    lists: Lists
    feedback_RF: np.ndarray
    label_R3: np.ndarray
    hide_R: np.ndarray

    def __len__(self) -> int:
        return len(self.lists)

    def take(self, index: np.ndarray | slice) -> "Sessions":
        row_R = rows_of(self.lists.begin_L1, index)
        return Sessions(self.lists.take(index), self.feedback_RF[row_R], self.label_R3[row_R], self.hide_R[row_R])

    @classmethod
    def join(cls, parts: Sequence["Sessions"]) -> "Sessions":
        if len(parts) == 1:
            return parts[0]
        feedback_RF, label_R3, hide_R = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("feedback_RF", "label_R3", "hide_R")
        )
        return cls(Lists.join([part.lists for part in parts]), feedback_RF, label_R3, hide_R)

    def batch(self) -> SessionBatch:
        return SessionBatch(self.lists.batch(), tensor(self.feedback_RF), tensor(self.label_R3), tensor(self.hide_R))


def rows_of(begin_L1: np.ndarray, index: np.ndarray | slice) -> np.ndarray:
    """The rows of some lists, in their order."""
    begin_L, length_L = begin_L1[:-1][index], np.diff(begin_L1)[index]
    end_L = np.cumsum(length_L)
    total = int(end_L[-1]) if len(end_L) else 0
    return np.arange(total) + np.repeat(begin_L - (end_L - length_L), length_L)


def hidden(session_R: np.ndarray, begin_L1: np.ndarray) -> np.ndarray:
    """int64_R: how many of the items before each row are taken for planned ones; 0 for about half the rows.

    session_R: uint64, equal within a session.
    """
    place_R = np.arange(len(session_R)) - np.repeat(begin_L1[:-1], np.diff(begin_L1))
    word_R = splitmix64(session_R + place_R.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    many_R = 1 + (word_R >> np.uint64(1)) % np.uint64(HIDDEN_MOST)
    return np.where(word_R & np.uint64(1), many_R, np.uint64(0)).astype(np.int64)
