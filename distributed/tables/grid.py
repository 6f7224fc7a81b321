"""Small messages between many workers, by way of a grid.

Shapes: W workers, in H rows of C.

gloo spends more on a message than on the bytes of a small one, and an all-to-all has W - 1 messages a worker. Laid out
in a grid, each block goes to the receiver's column first and then to its row: (C - 1) + (H - 1) messages, 14 in place
of 63 for 64 workers, and the same blocks in the same order. Bytes travel twice, so it is for what is small.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor

MANY = 9
"""From so many workers on it pays: below, all send to all."""


@dataclass(frozen=True)
class Grid:
    """Worker r is in row r // columns; the two groups hold this worker and the others of its row, of its column."""

    rows: int
    columns: int
    row: Any
    column: Any

    def swap(self, blocks_WN: Tensor) -> Tensor:
        """(W, N): block w goes to worker w; back come what the workers had for this one, in the order of ranks."""
        size = blocks_WN.shape[1]
        by_column = blocks_WN.view(self.rows, self.columns, size).transpose(0, 1).contiguous()
        of_row = by_column.new_empty(by_column.shape)  # (C, H, N): from each of the row, blocks for this column
        dist.all_to_all_single(of_row.view(-1), by_column.view(-1), group=self.row)
        by_row = of_row.transpose(0, 1).contiguous()
        found = by_row.new_empty(by_row.shape)
        dist.all_to_all_single(found.view(-1), by_row.view(-1), group=self.column)
        return found.view(-1, size)


def sides(workers: int) -> tuple[int, int]:
    """The rows and columns of the squarest grid of so many workers; one row for a prime."""
    rows = next(n for n in range(int(workers**0.5), 0, -1) if workers % n == 0)
    return rows, workers // rows


def make_grid(timeout_s: float, least: int = MANY) -> Grid | None:
    """The grid of all workers, who must call it at the same time; None where it would not save messages."""
    workers, rank = dist.get_world_size(), dist.get_rank()
    rows, columns = sides(workers)
    if workers < least or rows == 1:
        return None
    mine: dict[str, Any] = {}
    members = {"row": [list(range(r * columns, (r + 1) * columns)) for r in range(rows)]}
    members["column"] = [list(range(c, workers, columns)) for c in range(columns)]
    for side, lists in members.items():
        for ranks in lists:
            group = dist.new_group(ranks, backend="gloo", timeout=timedelta(seconds=timeout_s))
            if rank in ranks:
                mine[side] = group
    return Grid(rows, columns, mine["row"], mine["column"])
