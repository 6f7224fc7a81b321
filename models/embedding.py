"""Embedding tables whose gradient is the rows a batch touched and nothing else.

Shapes: R looked-up ids, B rows, K fields, E width, U distinct table rows in the batch.

Ids arrive with each field's offset already added (see data/encode.py), so a batch of K fields is one lookup. In
training the distinct rows are taken out once and become a leaf of the graph: its gradient is summed per row, and a step
costs what the batch touches, not the table (torch's `sparse=True` leaves B*K rows for `coalesce` to sort).
"""

from collections.abc import Callable
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


class EmbeddingTable(nn.Module):
    """rows x width numbers; ids_R -> vectors (R, width).

    Initialised N(0, scale^2) from the generator in force. The weight is a buffer and takes no gradient: after backward
    in training mode, `touched` holds the ids and the gradients of their rows for a row-wise optimizer. `fetch` is where
    vectors come from: the weight here, or wherever a table that lies on several workers finds them.
    """

    weight: Tensor

    def __init__(self, rows: int, width: int, scale: float = 0.01) -> None:
        super().__init__()
        self.rows, self.width = rows, width
        self.register_buffer("weight", torch.empty(rows, width).normal_(0.0, scale))
        self.touched: TouchedRows | None = None
        self.fetch: Callable[[Tensor], Tensor] = self.own_rows

    def own_rows(self, ids_U: Tensor) -> Tensor:
        return self.weight.index_select(0, ids_U)

    def forward(self, ids_R: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return self.fetch(ids_R)
        ids_U, position_R = torch.unique(ids_R, return_inverse=True)
        self.touched = TouchedRows(ids_U, self.fetch(ids_U).requires_grad_())
        return self.touched.vectors_UE.index_select(0, position_R)


class FusedEmbedding(nn.Module):
    """All fields in as few tables as there are widths; ids_BK -> vectors (B, K * E)."""

    def __init__(self, field_rows: tuple[int, ...], width: int, scale: float = 0.01) -> None:
        super().__init__()
        self.output_width = len(field_rows) * width
        self.tables = nn.ModuleList([EmbeddingTable(max(sum(field_rows), 1), width, scale)])

    def forward(self, ids_BK: Tensor) -> Tensor:
        return self.tables[0](ids_BK.reshape(-1)).view(len(ids_BK), self.output_width)
