"""The items of a pre-ranker as files, and exact top k over them.

    items.parquet    a row an item: its id as in the log, and its place in the matrix
    vectors.npy      float32 (I, O), mapped into memory, not read: many processes of a machine share it

score = query . item with the exported user tower's vectors, which carry the learnt scale: what the network says of a
pair. Up to some 1e6 items every item is compared; that is one matrix product a block. Shapes: Q queries, I items, O
width, k found.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data.errors import UserError
from data.filesystems import UNREADABLE, first_line

ITEMS, VECTORS = "items.parquet", "vectors.npy"
FLOATS = 1 << 24
"""Scores in memory at a time."""


class TopK:
    """An index of item vectors, exact."""

    def __init__(self, ids_I: pa.Array, vector_IO: np.ndarray) -> None:
        """Raises UserError for ids and vectors that do not go together, and for a vector that is no number."""
        if vector_IO.ndim != 2 or len(ids_I) != len(vector_IO) or vector_IO.dtype != np.float32:
            raise UserError(f"{len(ids_I)} items and vectors {vector_IO.dtype} {vector_IO.shape} do not go together")
        for begin in range(0, len(vector_IO), 1 << 16):
            finite_B = np.isfinite(vector_IO[begin : begin + (1 << 16)]).all(1)
            if not finite_B.all():
                item = ids_I[begin + int(finite_B.argmin())].as_py()
                raise UserError(f"the vector of item {item!r} is no finite number: the training diverged")
        self.ids_I, self.vector_IO = ids_I, vector_IO
        self.items = torch.from_numpy(vector_IO if vector_IO.flags.writeable else np.asarray(vector_IO))

    def __len__(self) -> int:
        return len(self.ids_I)

    def save(self, directory: Path) -> None:
        np.save(directory / VECTORS, self.vector_IO)
        pq.write_table(pa.table({"item": self.ids_I, "place": np.arange(len(self))}), directory / ITEMS)

    @classmethod
    def load(cls, directory: Path) -> "TopK":
        """Raises UserError naming the file that is not there or broken."""
        try:
            ids_I = pq.read_table(directory / ITEMS, columns=["item"]).column("item").combine_chunks()
        except UNREADABLE as error:
            raise UserError(f"{directory / ITEMS}: cannot be read ({first_line(error)})") from None
        try:
            # Copy on write: torch wants memory that may be written, and nothing is written.
            vector_IO = np.load(directory / VECTORS, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{directory / VECTORS}: cannot be read ({first_line(error)})") from None
        return cls(ids_I, vector_IO)

    def top(self, query_QO: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(places (Q, k) int64, scores (Q, k) float32), best first; of equal scores the first items. Places count the
        rows of the matrix; `ids_I.take(places)` are the items. Raises UserError for k above the items, or queries that
        are no finite numbers of the vectors' width."""
        if query_QO.ndim != 2 or query_QO.shape[1] != self.vector_IO.shape[1]:
            raise UserError(f"queries {query_QO.shape} are no vectors of width {self.vector_IO.shape[1]}")
        if not 1 <= k <= len(self):
            raise UserError(f"the top {k} of {len(self)} items: ask for 1 to {len(self)}")
        if not np.isfinite(query_QO).all():
            raise UserError("a query's vector is no finite number")
        found = [best(block_BO @ self.items.T, k) for block_BO in self.blocks(query_QO)]
        if not found:
            return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
        places, scores = zip(*found, strict=True)
        return np.concatenate(places), np.concatenate(scores)

    def blocks(self, query_QO: np.ndarray) -> Iterator[torch.Tensor]:
        queries = torch.from_numpy(np.ascontiguousarray(query_QO, np.float32))
        return iter(queries.split(max(1, FLOATS // max(len(self), 1)))) if len(queries) else iter(())


def best(score_BI: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest of each row, by score and then by place: torch's own order among equals is none."""
    score_Bk, place_Bk = score_BI.topk(k, dim=1)
    last_B1 = score_Bk[:, -1:]
    # Where the last score is shared by an item beyond the cut, a stable sort says which of them are in.
    for row in ((score_BI >= last_B1).sum(1) > k).nonzero().flatten().tolist():
        order = score_BI[row].sort(descending=True, stable=True)
        score_Bk[row], place_Bk[row] = order.values[:k], order.indices[:k]
    scores, places = score_Bk.numpy(), place_Bk.numpy()
    order_Bk = np.lexsort((places, -scores), axis=1)
    return np.take_along_axis(places, order_Bk, 1), np.take_along_axis(scores, order_Bk, 1)
