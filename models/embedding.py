"""One embedding table for all fields, whose gradient is the rows a batch touched and nothing else.

Shapes: B rows, K fields, E width, U distinct table rows in the batch.

Ids arrive with each field's offset already added (see data/encode.py), so a batch of K fields is one lookup. In
training the distinct rows are taken out once and become a leaf of the graph: its gradient is summed per row, and a step
costs what the batch touches, not the table (torch's `sparse=True` leaves B*K rows for `coalesce` to sort).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class TouchedRows:
    """The distinct table rows of the last training batch: sorted ids_U and their vectors, a leaf that gets .grad."""

    ids_U: Tensor
    vectors_UE: Tensor

    def gradient(self) -> Tensor:
        gradient_UE = self.vectors_UE.grad
        return torch.zeros_like(self.vectors_UE) if gradient_UE is None else gradient_UE


class FusedEmbedding(nn.Module):
    """A table of sum(field_rows) x width; ids_BK -> vectors (B, K * E).

    Initialised N(0, scale^2) from the generator in force. The table itself takes no gradient: after backward in
    training mode, `touched` holds the ids and the gradients of their rows for a row-wise optimizer.
    """

    table: Tensor

    def __init__(self, field_rows: tuple[int, ...], width: int, scale: float = 0.01) -> None:
        super().__init__()
        self.field_rows = field_rows
        self.width = width
        self.register_buffer("table", torch.empty(max(sum(field_rows), 1), width).normal_(0.0, scale))
        self.touched: TouchedRows | None = None

    @property
    def output_width(self) -> int:
        return len(self.field_rows) * self.width

    def forward(self, ids_BK: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            ids_U, position_R = torch.unique(ids_BK.reshape(-1), return_inverse=True)
            self.touched = TouchedRows(ids_U, self.table.index_select(0, ids_U).requires_grad_())
            vectors_RE = self.touched.vectors_UE.index_select(0, position_R)
        else:
            vectors_RE = self.table.index_select(0, ids_BK.reshape(-1))
        return vectors_RE.view(len(ids_BK), self.output_width)
