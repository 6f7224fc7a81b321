"""Rows of a log as what is shuffled, dealt out and batched (funnel/problem.py: Units)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.encode import Rows
from funnel.batch import Batch


@dataclass(frozen=True)
class RowUnits:
    """Encoded rows, each a unit of its own."""

    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: np.ndarray | slice) -> "RowUnits":
        return RowUnits(self.rows.take(index))

    @classmethod
    def join(cls, parts: Sequence["RowUnits"]) -> "RowUnits":
        return cls(Rows.join([part.rows for part in parts]))

    def batch(self) -> Batch:
        return Batch.of(self.rows)
