"""Whole requests with what their rows are to a pre-ranker (funnel/problem.py: Units, Batch).

A batch holds all rows of its requests; `sample` holds those that are learnt from. Validation scores all of them.
Shapes: B rows, D drawn rows, L requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from funnel.batch import Batch
from funnel.lists.units import ListBatch, Lists
from models.pooling import BagTensors
from models.pre_ranker import bag_rows


@dataclass(frozen=True)
class PreRankBatch(ListBatch):
    """`taught`: the teacher's probabilities of the sample's rows, by label, where there is a teacher."""

    taught: Mapping[str, Tensor] | None = None

    def to(self, device: torch.device) -> "PreRankBatch":
        if device.type == "cpu":
            return self
        return replace(self, rows=self.rows.to(device), begin_L1=self.begin_L1.to(device))

    @cached_property
    def sample(self) -> ListBatch:
        """The drawn rows, request by request."""
        drawn_B = self.rows.labels["drawn"] > 0.5
        if bool(drawn_B.all()):
            return ListBatch(self.rows, self.begin_L1)
        index_D = drawn_B.nonzero().squeeze(1)
        before_B1 = torch.cat([drawn_B.new_zeros(1, dtype=torch.int64), drawn_B.cumsum(0)])
        return ListBatch(rows_of(self.rows, index_D), before_B1.index_select(0, self.begin_L1))


def rows_of(rows: Batch, index_D: Tensor) -> Batch:
    """Some rows of a batch."""
    return Batch(
        rows.ids_BK.index_select(0, index_D),
        rows.numeric_BN.index_select(0, index_D),
        {name: label_B.index_select(0, index_D) for name, label_B in rows.labels.items()},
        None,
        tuple(BagTensors(*bag_rows(bag, index_D)) for bag in rows.bags),
    )


@dataclass(frozen=True)
class PreRankUnits:
    lists: Lists

    def __len__(self) -> int:
        return len(self.lists)

    def take(self, index: np.ndarray | slice) -> "PreRankUnits":
        return PreRankUnits(self.lists.take(index))

    @classmethod
    def join(cls, parts: Sequence["PreRankUnits"]) -> "PreRankUnits":
        return cls(Lists.join([part.lists for part in parts]))

    def batch(self) -> PreRankBatch:
        plain = self.lists.batch()
        return PreRankBatch(plain.rows, plain.begin_L1)
