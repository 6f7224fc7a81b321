"""Rows of a log of consumed items as what is shuffled, dealt out and batched (funnel/problem.py: Units).

Shapes: R rows of units, B rows of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from data.encode import Rows
from funnel.batch import Batch, tensor


@dataclass(frozen=True)
class NominationBatch:
    """Features of query and item; which item it is, log Q of it, whether it was taken; and which rows are each other's
    negatives: so many consecutive ones, group by group."""

    rows: Batch
    item_B: Tensor
    log_q_B: Tensor
    taken_B: Tensor
    groups: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.item_B)

    def to(self, device: torch.device) -> "NominationBatch":
        if device.type == "cpu":
            return self
        moved = {name: getattr(self, name).to(device) for name in ("item_B", "log_q_B", "taken_B")}
        return replace(self, rows=self.rows.to(device), **moved)


@dataclass(frozen=True)
class Nominations:
    """Encoded rows. `parts`: how many rows each of the parts had that were joined last.

    A global batch is joined from the shares of its lanes, and rows of one lane are each other's negatives. Lanes lie
    on one worker whole, so a loss over them is the same for any number of workers.
    """

    rows: Rows
    item_R: np.ndarray
    """int64: equal for rows of one item."""
    log_q_R: np.ndarray
    taken_R: np.ndarray
    age_R: np.ndarray
    """Days since upload, float32; NaN where the log does not say."""
    parts: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.item_R)

    def take(self, index: np.ndarray | slice) -> "Nominations":
        return Nominations(
            self.rows.take(index), self.item_R[index], self.log_q_R[index], self.taken_R[index], self.age_R[index]
        )

    @classmethod
    def join(cls, parts: Sequence["Nominations"]) -> "Nominations":
        def joined(name: str) -> np.ndarray:
            return np.concatenate([getattr(part, name) for part in parts])

        rows, sizes = Rows.join([part.rows for part in parts]), tuple(len(part) for part in parts)
        return cls(rows, joined("item_R"), joined("log_q_R"), joined("taken_R"), joined("age_R"), sizes)

    def batch(self) -> NominationBatch:
        item_B, log_q_B, taken_B = (tensor(column) for column in (self.item_R, self.log_q_R, self.taken_R))
        return NominationBatch(Batch.of(self.rows), item_B, log_q_B, taken_B, self.parts or (len(self),))
