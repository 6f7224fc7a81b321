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
from models.row_kernels import Distinct, distinct_ids


@dataclass(frozen=True)
class Plan:
    """own: the ids of the lookup; everyone: those of all workers, sizes[w] from worker w."""

    own: Distinct
    sizes: list[int]
    everyone: Distinct

    def to(self, device: torch.device) -> "Plan":
        return Plan(self.own.to(device), self.sizes, self.everyone.to(device))


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
        own = distinct_ids(ids_R, self.table.rows)
        sizes = gather_numbers(own.ids_U.new_tensor([len(own.ids_U)]), group).flatten().tolist()
        ids_A = gather_rows(own.ids_U.to(wire_ids(self.table.rows)), sizes, "ids", group)
        return Plan(own, sizes, distinct_ids(ids_A.long(), self.table.rows))

    def use(self, plan: Plan) -> None:
        self.ready = plan

    def distinct_ids(self, ids_R: Tensor) -> Distinct:
        """The table's hook: the distinct ids of a training lookup."""
        self.current, self.ready = self.ready or self.plan(ids_R), None
        return self.current.own

    def collect(self, touched: TouchedRows) -> Sums:
        plan = self.current
        if plan is None:  # a worker alone
            return Sums(touched.ids_U, touched.gradient(), touched.vectors_UE.detach())
        gradient_AE = gather_rows(touched.gradient().to(self.wire), plan.sizes, "rows").float()
        return Sums(plan.everyone.ids_U, add_by_rank(plan.everyone, gradient_AE, plan.sizes))
