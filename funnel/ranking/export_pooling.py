"""The poolings of models/pooling.py in operations that ONNX has and that say nothing about the size of the batch.

Same results to rounding. index_add of single numbers is traced into a test whether there is one row: hence scatter_add.
Shapes: B rows, S values of all rows together, E their width, V vectors, Q the query's width.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.embedding import FusedEmbedding
from models.pooling import WeightedPooling


def rows_of_values(begin_B: Tensor, values: int) -> Tensor:
    """row_S: the row that each of the `values` values belongs to, by how many rows have begun at it or before."""
    begun = torch.zeros(values + 1, dtype=torch.int64).scatter_add(0, begin_B, torch.ones_like(begin_B))
    return begun.cumsum(0)[:values] - 1


class ExportedPooling(nn.Module):
    """Stands in for one pooling module while a model is traced; shares its parameters."""

    def __init__(self, pooling: nn.Module) -> None:
        super().__init__()
        self.pooling = pooling
        self.averages = getattr(pooling, "mode", None) == "mean"

    def forward(self, vectors_VE: Tensor, position_S: Tensor, offset_B1: Tensor, query_BQ: Tensor | None) -> Tensor:
        begin_B = offset_B1[:-1]
        rows = begin_B.shape[0]
        row_S = rows_of_values(begin_B, position_S.shape[0])
        vectors_SE = vectors_VE.index_select(0, position_S)
        if isinstance(self.pooling, WeightedPooling):
            assert query_BQ is not None
            vectors_SE = vectors_SE * self.pooling.weights(vectors_SE, row_S, query_BQ).unsqueeze(1)
        pooled_BE = vectors_SE.new_zeros(rows, vectors_VE.shape[1]).index_add(0, row_S, vectors_SE)
        if self.averages:
            length_B = pooled_BE.new_zeros(rows).scatter_add(0, row_S, torch.ones_like(vectors_SE[:, 0]))
            pooled_BE = pooled_BE / length_B.clamp(min=1).unsqueeze(1)
        return pooled_BE


@contextmanager
def exported_pooling(embedding: FusedEmbedding) -> Iterator[None]:
    """Within, the embedding pools in exportable operations."""
    own = embedding.pools
    embedding.pools = nn.ModuleList([ExportedPooling(pooling) for pooling in own])
    try:
        yield
    finally:
        embedding.pools = own
