"""What a placement of an embedding table's rows must do for the step, and what it hands to the row-wise optimizer.

Shapes: R looked-up ids, U distinct rows of this worker's batch, V distinct rows that an update moves, E width.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from distributed.tables.collectives import Group
from models.embedding import TouchedRows
from models.row_kernels import Distinct, sum_rows

WIRES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What vectors and gradients of rows may travel as."""


class Sums(NamedTuple):
    """Rows of this worker's weight (ids_V), all workers' gradients for them summed (V, E), and what the rows hold now
    (V, E) where it is known, so that the optimizer need not read it again."""

    ids_V: Tensor
    gradient_VE: Tensor
    vectors_VE: Tensor | None = None


class Placement(Protocol):
    """Every worker makes the same calls in the same order."""

    def plan(self, ids_R: Tensor, group: Group = None) -> Any:
        """What can be known of a training batch as soon as it is read: its distinct rows, who holds them, what the
        others ask for. Exchanges ids over `group`."""

    def use(self, plan: Any) -> None:
        """The next training lookup is that of this plan; without it a lookup makes its own."""

    def collect(self, touched: TouchedRows) -> Sums:
        """After backward: what the last training lookup moves."""


def wire_ids(rows: int) -> torch.dtype:
    """What row numbers of a table of so many rows travel as."""
    return torch.int32 if rows < 1 << 31 else torch.int64


def add_by_rank(asked: Distinct, gradient_AE: Tensor, sizes: list[int]) -> Tensor:
    """(V, E): the gradients of each distinct row summed, those of worker 0 first, then those of worker 1, ...

    `asked` tells equal rows apart of all that the workers asked for, sizes[w] by worker w. On a GPU one worker at a
    time: no two of its rows are the same, so that the order of a sum is fixed there as well.
    """
    if gradient_AE.device.type == "cpu":
        return sum_rows(gradient_AE, asked.order_R, asked.begin_U)
    sum_VE = gradient_AE.new_zeros(len(asked.ids_U), gradient_AE.shape[1])
    for position, gradient in zip(asked.position_R.split(sizes), gradient_AE.split(sizes), strict=True):
        sum_VE.index_add_(0, position, gradient)
    return sum_VE
