"""Rows of a table taken, handed out and summed on a CPU by torch's embedding_bag: one row a bag, or one bag a row.

It prefetches the rows that come next, and adds those of a bag in registers; index_select and index_add do neither, and
give the same numbers: a bag is added in the order of its rows, from 0 on (so that -0 becomes 0). A GPU keeps
those two.

Shapes: R looked-up ids, U distinct ones, N rows of a table, E width.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

INT32_ROWS = 1 << 31


class Distinct(NamedTuple):
    """ids_U sorted and distinct; ids_U[position_R] are the ids again. Those equal to ids_U[u] lie at
    order_R[begin_U[u] : begin_U[u + 1]], in the order in which they came."""

    ids_U: Tensor
    position_R: Tensor
    order_R: Tensor
    begin_U: Tensor

    def to(self, device: torch.device) -> "Distinct":
        return Distinct(*(tensor.to(device) for tensor in self))


def distinct_ids(ids_R: Tensor, rows: int) -> Distinct:
    """Ids of a table of so many rows by one stable sort, which tells also where the equal ones are."""
    keys_R = ids_R.int() if rows < INT32_ROWS else ids_R  # half the bytes to sort
    sorted_R, order_R = torch.sort(keys_R, stable=True)
    first_R = torch.ones(len(ids_R), dtype=torch.bool, device=ids_R.device)
    torch.ne(sorted_R[1:], sorted_R[:-1], out=first_R[1:])
    begin_U = first_R.nonzero().squeeze(1)
    position_R = torch.empty_like(order_R).scatter_(0, order_R, first_R.cumsum(0).sub_(1))
    return Distinct(sorted_R.index_select(0, begin_U).to(ids_R.dtype), position_R, order_R, begin_U)


def take_rows(table_NE: Tensor, ids_R: Tensor) -> Tensor:
    """The rows (R, E), without a gradient."""
    if table_NE.device.type != "cpu" or not len(ids_R):
        return table_NE.index_select(0, ids_R)
    begin_R = torch.arange(len(ids_R), dtype=ids_R.dtype)
    return functional.embedding_bag(ids_R, table_NE.detach(), begin_R, mode="sum")


def sum_rows(values_NE: Tensor, order_R: Tensor, begin_U: Tensor) -> Tensor:
    """(U, E): row u is the sum of the rows order_R[begin_U[u] : begin_U[u + 1]], in this order, from 0 on. CPU."""
    if not len(order_R):
        return values_NE.new_zeros(len(begin_U), values_NE.shape[1])
    return functional.embedding_bag(order_R, values_NE, begin_U, mode="sum")


class HandOut(torch.autograd.Function):
    """vectors_UE, distinct -> vectors_UE[position_R]; the gradient of a row is the sum over where it went."""

    @staticmethod
    def forward(ctx: Any, vectors_UE: Tensor, distinct: Distinct) -> Tensor:
        ctx.distinct = distinct
        return take_rows(vectors_UE, distinct.position_R)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_RE: Tensor) -> tuple[Tensor, None]:
        found: Distinct = ctx.distinct
        if gradient_RE.device.type == "cpu" and len(gradient_RE):
            return sum_rows(gradient_RE, found.order_R, found.begin_U), None
        sum_UE = gradient_RE.new_zeros(len(found.ids_U), gradient_RE.shape[1])
        return sum_UE.index_add_(0, found.position_R, gradient_RE), None
