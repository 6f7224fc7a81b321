"""Every worker holds every row of an embedding table, and gradients of the rows that a batch touched travel to all.

Shapes: R looked-up ids, U distinct rows of this worker's batch, A those of all workers one after the other, V distinct
ones among them, E width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from distributed.tables.collectives import Group, gather_numbers, gather_rows, world_size
from distributed.tables.protocol import Sums, add_by_rank, wire_ids
from models.embedding import EmbeddingTable, TouchedRows


@dataclass(frozen=True)
class Plan:
    """ids_U[position_R] are the ids of the lookup; ids_V[position_A] those of all workers, sizes[w] from worker w."""

    ids_U: Tensor
    position_R: Tensor
    sizes: list[int]
    ids_V: Tensor
    position_A: Tensor

    def to(self, device: torch.device) -> "Plan":
        ids_U, position_R, ids_V, position_A = (
            tensor.to(device) for tensor in (self.ids_U, self.position_R, self.ids_V, self.position_A)
        )
        return Plan(ids_U, position_R, self.sizes, ids_V, position_A)


class Replicated:
    """The rows of one table, all of them here. Equal ids are added in the order of ranks: every worker gets the same
    bits."""

    def __init__(self, table: EmbeddingTable, wire: torch.dtype = torch.float32) -> None:
        self.table, self.wire = table, wire
        self.ready: Plan | None = None
        self.current: Plan | None = None
        if world_size() > 1:
            table.distinct_ids = self.distinct_ids

    def plan(self, ids_R: Tensor, group: Group = None) -> Plan:
        ids_U, position_R = torch.unique(ids_R, return_inverse=True)
        sizes = gather_numbers(ids_U.new_tensor([len(ids_U)]), group).flatten().tolist()
        ids_A = gather_rows(ids_U.to(wire_ids(self.table.rows)), sizes, "ids", group)
        ids_V, position_A = torch.unique(ids_A.long(), return_inverse=True)
        return Plan(ids_U, position_R, sizes, ids_V, position_A)

    def use(self, plan: Plan) -> None:
        self.ready = plan

    def distinct_ids(self, ids_R: Tensor) -> tuple[Tensor, Tensor]:
        """The table's hook: of a training lookup, its distinct ids and where each id is among them."""
        self.current, self.ready = self.ready or self.plan(ids_R), None
        return self.current.ids_U, self.current.position_R

    def collect(self, touched: TouchedRows) -> Sums:
        plan = self.current
        if plan is None:  # a worker alone
            return Sums(touched.ids_U, touched.gradient(), touched.vectors_UE.detach())
        gradient_AE = gather_rows(touched.gradient().to(self.wire), plan.sizes, "rows").float()
        return Sums(plan.ids_V, add_by_rank(plan.position_A, gradient_AE, plan.sizes, len(plan.ids_V)))
