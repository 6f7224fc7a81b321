"""Whole requests as what is shuffled, dealt out and batched (funnel/problem.py: Units), and what keeps them whole.

Shapes: R rows, L requests; begin_L1 says where the rows of each request begin, its last entry is R.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from data.credentials import shown
from data.encode import Rows, one_chunk
from data.errors import UserError
from data.hashing import hash_array
from data.labels import THREADS
from data.log import Log, Part, PartFile
from funnel.batch import Batch, tensor


@dataclass(frozen=True)
class ListBatch:
    """The rows of whole requests, end to end, and where each request begins."""

    rows: Batch
    begin_L1: Tensor

    def __len__(self) -> int:
        return len(self.begin_L1) - 1

    @property
    def list_B(self) -> Tensor:
        """int64: the number of each row's request."""
        length_L = self.begin_L1.diff()
        return torch.repeat_interleave(torch.arange(len(self), device=length_L.device), length_L)

    def to(self, device: torch.device) -> "ListBatch":
        if device.type == "cpu":
            return self
        return replace(self, rows=self.rows.to(device), begin_L1=self.begin_L1.to(device))


@dataclass(frozen=True)
class Lists:
    """Encoded rows of whole requests."""

    rows: Rows
    begin_L1: np.ndarray

    def __len__(self) -> int:
        return len(self.begin_L1) - 1

    def take(self, index: np.ndarray | slice) -> "Lists":
        if isinstance(index, slice):
            first, stop, _ = index.indices(len(self))
            begin_L1 = self.begin_L1[first : max(stop, first) + 1]
            return Lists(self.rows.take(slice(int(begin_L1[0]), int(begin_L1[-1]))), begin_L1 - begin_L1[0])
        length_L = np.diff(self.begin_L1)[index]
        end_L = np.cumsum(length_L)
        # The rows of the wanted requests, one request after the other: each counts up from where it begins.
        row_R = np.arange(end_L[-1] if len(end_L) else 0) + np.repeat(
            self.begin_L1[:-1][index] - (end_L - length_L), length_L
        )
        return Lists(self.rows.take(row_R), np.concatenate([[0], end_L]))

    @classmethod
    def join(cls, parts: Sequence["Lists"]) -> "Lists":
        if len(parts) == 1:
            return parts[0]
        length_L = np.concatenate([np.diff(part.begin_L1) for part in parts])
        return cls(Rows.join([part.rows for part in parts]), np.concatenate([[0], np.cumsum(length_L)]))

    def batch(self) -> ListBatch:
        return ListBatch(Batch.of(self.rows), tensor(self.begin_L1))


def request_begins(request_R: pa.Array) -> np.ndarray:
    """begin_L1 of rows in which a request's rows stand together."""
    if not len(request_R):
        return np.zeros(1, np.int64)
    changes = pc.not_equal(request_R[1:], request_R[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], 1 + np.flatnonzero(changes), [len(request_R)]])


def request_sizes(log: Log, part: Part, request: str) -> tuple[int, ...]:
    """How many requests each row group holds. 8 bytes of memory a request.

    Raises UserError naming file and row: a request that is missing, or whose rows do not stand together in one row
    group (a log that is not sorted by request, or whose writer cut one in two).
    """
    groups = list(part.row_groups())

    def look(group: tuple[PartFile, int]) -> tuple[np.ndarray, np.ndarray]:
        """(first row, hash) of every request of a row group."""
        file, index = group
        column = one_chunk(log.read_row_group(file, index, [request]), request)
        before = sum(file.row_groups[:index])
        if column.null_count:
            row = before + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise UserError(f"{file.path}: row {row}: column {request!r} is missing; every row needs its request")
        begin_L = request_begins(column)[:-1]
        return before + begin_L, hash_array(column.take(pa.array(begin_L)))

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(look, groups))
    sizes = tuple(len(row_L) for row_L, _ in found)
    hash_L = np.concatenate([hashes for _, hashes in found])
    order_L = np.argsort(hash_L, kind="stable")
    again = order_L[1:][hash_L[order_L[1:]] == hash_L[order_L[:-1]]]
    if len(again):
        place = int(again.min())
        number = int(np.searchsorted(np.cumsum(sizes), place, side="right"))
        row = int(found[number][0][place - sum(sizes[:number])])
        raise UserError(
            f"{groups[number][0].path}: row {row}: its request (column {request!r}) has rows before that do not stand "
            f"beside it in one row group; sort {shown(log.location)}/{part.name} by request and end row groups where "
            "requests end, as jobs.make_data does"
        )
    return sizes
