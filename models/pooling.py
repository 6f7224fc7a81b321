"""Many vectors of a row -> one: sum, mean, or weighed by what the row shows. No values give the zero vector.

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


class WeightedPooling(nn.Module):
    """sum_s a_s v_s over the values s of each row, a_s a function of the value and of the row's query."""

    def forward(self, vectors_VE: Tensor, position_S: Tensor, offset_B1: Tensor, query_BQ: Tensor | None) -> Tensor:
        assert query_BQ is not None
        rows = len(query_BQ)
        row_S = torch.arange(rows, device=offset_B1.device)
        row_S = row_S.repeat_interleave(offset_B1.diff(), output_size=len(position_S))
        vectors_SE = vectors_VE.index_select(0, position_S)
        weight_S = self.weights(vectors_SE, row_S, query_BQ)
        return vectors_SE.new_zeros(rows, vectors_VE.shape[1]).index_add(0, row_S, vectors_SE * weight_S.unsqueeze(1))

    def weights(self, vectors_SE: Tensor, row_S: Tensor, query_BQ: Tensor) -> Tensor:
        """a_S, where row_S says which row each value belongs to."""
        raise NotImplementedError


class AttentionPooling(WeightedPooling):
    """a = softmax_s(<v_s, W q> / sqrt(E)): of each row the weights add up to 1.

    Scaled dot-product attention [Vaswani et al., Attention Is All You Need, NeurIPS 2017, eq. 1] with one query a row,
    projected to the values' width by W (E x Q, at first the identity); keys and values are the vectors themselves.
    """

    def __init__(self, width: int, query_width: int) -> None:
        super().__init__()
        self.project = nn.Parameter(torch.eye(width, query_width))

    def weights(self, vectors_SE: Tensor, row_S: Tensor, query_BQ: Tensor) -> Tensor:
        rows = len(query_BQ)
        query_BE = query_BQ @ self.project.T / vectors_SE.shape[1] ** 0.5
        score_S = (vectors_SE * query_BE.index_select(0, row_S)).sum(1)
        return softmax_by_row(score_S, row_S, rows)


class ActivationPooling(WeightedPooling):
    """a_s = u relu(A [v_s, v_s * q, q] + b) + c, not normalised: many fitting values count more than one.

    DIN's local activation unit [Zhou et al., Deep Interest Network, KDD 2018, eq. 3 and fig. 2]: 36 hidden units on the
    two vectors and their product, which is taken elementwise here, with ReLU for the paper's PReLU and Dice. A query of
    another width is projected to the values' first.
    """

    def __init__(self, width: int, query_width: int, hidden: int = 36) -> None:
        super().__init__()
        self.project = nn.Linear(query_width, width, bias=False) if query_width != width else nn.Identity()
        self.first = nn.Linear(3 * width, hidden)
        self.last = nn.Linear(hidden, 1)

    def weights(self, vectors_SE: Tensor, row_S: Tensor, query_BQ: Tensor) -> Tensor:
        query_SE = self.project(query_BQ).index_select(0, row_S)
        both = torch.cat([vectors_SE, vectors_SE * query_SE, query_SE], 1)
        return self.last(torch.relu(self.first(both))).squeeze(1)


def softmax_by_row(score_S: Tensor, row_S: Tensor, rows: int) -> Tensor:
    """Weights of each row's values, which add up to 1."""
    # The largest score of a row is taken off, which leaves the weights as they are and keeps exp in range.
    largest_B = score_S.new_full((rows,), -torch.inf)
    largest_B = largest_B.scatter_reduce(0, row_S, score_S.detach(), "amax")
    share_S = (score_S - largest_B.index_select(0, row_S)).exp()
    total_B = share_S.new_zeros(rows).index_add(0, row_S, share_S)
    return share_S / total_B.index_select(0, row_S)


def build_pooling(name: str | None, width: int, query_width: int) -> nn.Module:
    """`query_width` matters to attention and din alone."""
    if name == "attention":
        return AttentionPooling(width, query_width)
    if name == "din":
        return ActivationPooling(width, query_width)
    assert name in ("sum", "mean")
    return MeanPooling() if name == "mean" else SumPooling()
