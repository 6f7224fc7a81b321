"""Many vectors of a row -> one: sum, mean, or attention to what the row shows. No values give the zero vector.

Shapes: B rows, S values of all rows together, E their width, V vectors to choose from, Q width of the query.
Row b has the values position_S[offset_B1[b] : offset_B1[b + 1]] of vectors_VE; nothing is padded.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class BagTensors(NamedTuple):
    """A multi-valued field of a batch: row b holds ids_S[offset_B1[b] : offset_B1[b + 1]]; both int64."""

    ids_S: Tensor
    offset_B1: Tensor


class SumPooling(nn.Module):
    mode = "sum"

    def forward(self, vectors_VE: Tensor, position_S: Tensor, offset_B1: Tensor, query_BQ: Tensor | None) -> Tensor:
        return functional.embedding_bag(position_S, vectors_VE, offset_B1, mode=self.mode, include_last_offset=True)


class MeanPooling(SumPooling):
    mode = "mean"


class AttentionPooling(nn.Module):
    """sum_s softmax_s(<v_s, W q> / sqrt(E)) v_s over the values s of each row.

    Scaled dot-product attention [Vaswani et al., Attention Is All You Need, NeurIPS 2017, eq. 1] with one query a row,
    projected to the values' width by W (E x Q, at first the identity); keys and values are the vectors themselves. What
    a user did is so weighed by what is shown now, as in DIN [Zhou et al., KDD 2018], whose unnormalised weights come
    from a small network instead.
    """

    def __init__(self, width: int, query_width: int) -> None:
        super().__init__()
        self.project = nn.Parameter(torch.eye(width, query_width))

    def forward(self, vectors_VE: Tensor, position_S: Tensor, offset_B1: Tensor, query_BQ: Tensor | None) -> Tensor:
        assert query_BQ is not None
        rows, width = len(query_BQ), vectors_VE.shape[1]
        length_B = offset_B1.diff()
        row_S = torch.arange(rows, device=offset_B1.device).repeat_interleave(length_B, output_size=len(position_S))
        vectors_SE = vectors_VE.index_select(0, position_S)
        query_BE = query_BQ @ self.project.T / width**0.5
        score_S = (vectors_SE * query_BE.index_select(0, row_S)).sum(1)
        # The largest score of a row is taken off, which leaves the weights as they are and keeps exp in range.
        largest_B = score_S.new_full((rows,), -torch.inf)
        largest_B = largest_B.scatter_reduce(0, row_S, score_S.detach(), "amax")
        share_S = (score_S - largest_B.index_select(0, row_S)).exp()
        total_B = share_S.new_zeros(rows).index_add(0, row_S, share_S)
        weight_S = share_S / total_B.index_select(0, row_S)
        pooled_BE = vectors_SE.new_zeros(rows, width)
        return pooled_BE.index_add(0, row_S, vectors_SE * weight_S.unsqueeze(1))


def build_pooling(name: str | None, width: int, query_width: int) -> nn.Module:
    """`query_width` matters to attention alone."""
    if name == "attention":
        return AttentionPooling(width, query_width)
    assert name in ("sum", "mean")
    return MeanPooling() if name == "mean" else SumPooling()
