"""Placement `node`: every row once a machine, in memory that its workers share; so with what goes with it row by row.

Shapes: W workers, L of them on this machine, T tables, U distinct rows of a worker's batch, V rows that this worker
moves, E width.

A lookup is a read. After backward each worker lays its ids and gradients open for the others of its machine, in a place
of its own; those of workers on other machines are laid beside them by the worker that received them, so that a row
travels once to every other machine. Then the rows that anybody touched are dealt out to the L workers by ranges of
numbers: slices of lists that are sorted anyway, chosen so that all have about as many rows. Who moves a row adds its
gradients in the order of ranks, as workers that hold all rows do, and is the only one that writes it.

Two barriers keep order: gradients are read once all lie there; rows are read again, and places written, once all rows
are written. The second is waited for where rows are read again, so that what comes between goes on meanwhile.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distributed.checkpoint.rows import RowTensor
from distributed.tables.collectives import world_size
from distributed.tables.node import Neighbours
from distributed.tables.node_sums import NodeSums
from models.embedding import EmbeddingTable, TouchedRows
from models.row_kernels import distinct_ids, sum_rows
from models.rows import Share, fill


class NodeTables:
    """All tables of a network, on this machine. They have been built without rows: models.rows.NO_ROW.

    Where all workers are on one machine, what else a step has them tell each other goes through the shared memory too.
    """

    def __init__(self, tables: Sequence[EmbeddingTable], neighbours: Neighbours) -> None:
        self.neighbours = neighbours
        self.placements = [NodeTable(self, table) for table in tables]
        self.sums = NodeSums(self.neighbours)
        self.finish()

    def zeros(self, shape: Sequence[int]) -> Tensor:
        return self.neighbours.tensor(shape)

    def gather(self, numbers_N: Tensor) -> Tensor:
        """(W, N): every worker's numbers, in the order of ranks. With them goes what the batch has touched."""
        count = len(numbers_N)
        laid = numbers_N.new_tensor([placement.lay_ids() for placement in self.placements])
        everyone = self.sums.gather(torch.cat([numbers_N, laid]))
        for placement, sizes_W in zip(self.placements, everyone[:, count:].T.tolist(), strict=True):
            placement.sizes, placement.dealt = [int(size) for size in sizes_W], None
        return everyone[:, :count]

    def lay(self) -> None:
        """After backward: lay this worker's gradients open."""
        for placement in self.placements:
            placement.lay()

    def add(self, flat_N: Tensor) -> Tensor:
        """The sum over all workers of their dense gradients. What was laid open can be collected then."""
        return self.sums.add(flat_N, self.deal)

    def deal(self) -> None:
        for placement in self.placements:
            placement.deal()  # needs ids only

    def finish(self) -> None:
        """This worker has written the rows that it moves."""
        self.neighbours.arrive()

    def settle(self) -> None:
        """Until all have done what came before the last barrier that this worker came to."""
        self.neighbours.wait()

    def part(self, row: RowTensor) -> RowTensor:
        """What of a shared tensor this worker is to fill when a checkpoint is read."""
        own = Share(self.neighbours.place, len(self.neighbours.ranks))
        return RowTensor(row.tensor[own.first :: own.every], row.rows, own)


class NodeTable:
    """One of them. Its lookups read the shared weight."""

    def __init__(self, node: NodeTables, table: EmbeddingTable) -> None:
        self.node, self.table, self.neighbours = node, table, node.neighbours
        rows, width = table.rows, table.width
        table.weight = self.neighbours.tensor((rows, width))
        own = self.neighbours.place, len(self.neighbours.ranks)
        fill(table.weight[own[0] :: own[1]], table.address, table.scale, Share(*own))
        # Room for every row, of which only what was ever written takes memory.
        self.ids_WR = self.neighbours.tensor((world_size(), rows), torch.int64)
        self.gradient_WRE = self.neighbours.tensor((world_size(), rows, width))
        self.sizes: Sequence[int] = []
        self.dealt: Dealt | None = None
        table.fetch = self.fetch

    def fetch(self, ids_R: Tensor) -> Tensor:
        self.node.settle()
        return self.table.own_rows(ids_R)

    def lay_ids(self) -> int:
        """Lay open which rows this worker's batch has touched, and say how many."""
        touched = self.table.touched
        assert touched is not None
        self.ids_WR[self.neighbours.rank, : len(touched.ids_U)] = touched.ids_U
        return len(touched.ids_U)

    def lay(self) -> None:
        touched = self.table.touched
        assert touched is not None
        self.gradient_WRE[self.neighbours.rank, : len(touched.ids_U)] = touched.gradient()
        if not self.node.sums.alone:
            self.lay_others(touched, self.sizes)

    def lay_others(self, touched: TouchedRows, sizes: Sequence[int]) -> None:
        """Send this worker's rows to one worker of every other machine, and lay open what comes in return."""
        across, rank = self.node.sums.across, self.neighbours.rank
        ids_U, gradient_UE = touched.ids_U, touched.gradient()
        packed = torch.cat([ids_U.view(torch.int32).view(-1, 2), gradient_UE.view(torch.int32)], 1)
        out = [0 if other == rank else len(ids_U) for other in across.receivers]
        back = [0 if other == rank else sizes[other] for other in across.clients]
        found = across.send(packed.repeat(len(out) - 1, 1), out, back, "rows")
        for client, rows in zip(across.clients, found.split(back), strict=True):
            if client != rank:
                self.ids_WR[client, : len(rows)] = rows[:, :2].contiguous().view(torch.int64).flatten()
                self.gradient_WRE[client, : len(rows)] = rows[:, 2:].contiguous().view(torch.float32)

    def deal(self) -> "Dealt":
        """Which rows this worker moves, once all ids lie there."""
        if self.dealt is None:
            place, workers = self.neighbours.place, len(self.neighbours.ranks)
            lists = [self.ids_WR[rank, :size] for rank, size in enumerate(self.sizes)]
            longest = max(lists, key=len)
            inner = [len(longest) * k // workers for k in range(1, workers)]
            borders = longest[inner] if len(longest) else longest.new_zeros(workers - 1)
            ends = [[0, *torch.searchsorted(ids_U, borders).tolist(), len(ids_U)] for ids_U in lists]
            slices = [slice(own[place], own[place + 1]) for own in ends]
            found = distinct_ids(
                torch.cat([ids_U[own] for ids_U, own in zip(lists, slices, strict=True)]), self.table.rows
            )
            lies_R = torch.cat(
                [torch.arange(own.start, own.stop) + rank * self.table.rows for rank, own in enumerate(slices)]
            )
            self.dealt = Dealt(found.ids_U, lies_R[found.order_R], found.begin_U)
        return self.dealt

    def collect(self, touched: TouchedRows, sizes: object = None) -> tuple[Tensor, Tensor]:
        """The rows that this worker moves (ids_V), and all workers' gradients for them summed (V, E)."""
        dealt = self.deal()
        return dealt.ids_V, sum_rows(self.gradient_WRE.flatten(0, 1), dealt.lies_R, dealt.begin_V)


class Dealt(NamedTuple):
    """What one worker moves: distinct rows ids_V, and where the gradients of each lie, worker by worker, if those of
    all workers are counted through: at lies_R[begin_V[v] : begin_V[v + 1]]."""

    ids_V: Tensor
    lies_R: Tensor
    begin_V: Tensor
