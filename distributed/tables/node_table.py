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

import torch
from torch import Tensor

from distributed.checkpoint.rows import RowTensor
from distributed.tables.collectives import exchange, world_size
from distributed.tables.node import Neighbours
from models.embedding import EmbeddingTable, TouchedRows
from models.rows import Share, initial_rows

BLOCK_ROWS = 1 << 16


class NodeTables:
    """All tables of a network, on this machine. They have been built without rows: models.rows.NO_ROW."""

    def __init__(self, tables: Sequence[EmbeddingTable]) -> None:
        self.neighbours = Neighbours()
        self.placements = [NodeTable(self, table) for table in tables]
        self.finish()

    def zeros(self, shape: Sequence[int]) -> Tensor:
        return self.neighbours.tensor(shape)

    def lay(self, sizes_TW: Sequence[Sequence[int]]) -> None:
        """After backward: lay this worker's gradients open. sizes_TW: rows of each table that each worker touched."""
        for placement, sizes in zip(self.placements, sizes_TW, strict=True):
            placement.lay(sizes)
        self.neighbours.arrive()

    def finish(self) -> None:
        """This worker has written the rows that it moves."""
        self.neighbours.arrive()

    def settle(self) -> None:
        """Until all have done what came before their last `lay` or `finish`."""
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
        self.fill()
        # Room for every row, of which only what was ever written takes memory.
        self.ids_WR = self.neighbours.tensor((world_size(), rows), torch.int64)
        self.gradient_WRE = self.neighbours.tensor((world_size(), rows, width))
        table.fetch = self.fetch

    def fill(self) -> None:
        """This worker's share of the first values: those of models/rows.py, in blocks."""
        table, first, every = self.table, self.neighbours.place, len(self.neighbours.ranks)
        for begin in range(first, table.rows, BLOCK_ROWS * every):
            end = min(begin + BLOCK_ROWS * every, table.rows)
            table.weight[begin:end:every] = initial_rows(
                table.address, end, table.width, table.scale, Share(begin, every)
            )

    def fetch(self, ids_R: Tensor) -> Tensor:
        self.node.settle()
        return self.table.own_rows(ids_R)

    def lay(self, sizes: Sequence[int]) -> None:
        touched, neighbours = self.table.touched, self.neighbours
        assert touched is not None
        count, rank = len(touched.ids_U), neighbours.rank
        self.ids_WR[rank, :count] = touched.ids_U
        self.gradient_WRE[rank, :count] = touched.gradient()
        if len(neighbours.nodes) > 1:
            self.lay_others(touched, sizes)

    def lay_others(self, touched: TouchedRows, sizes: Sequence[int]) -> None:
        """Send this worker's rows to one worker of every other machine, and lay open what comes in return."""
        neighbours = self.neighbours
        own, nodes = neighbours.node_of[neighbours.rank], range(len(neighbours.nodes))
        sent_to = {neighbours.receiver(neighbours.rank, node) for node in nodes if node != own}
        taken_from = [
            rank
            for rank, node in enumerate(neighbours.node_of)
            if node != own and neighbours.receiver(rank, own) == neighbours.rank
        ]
        ids_U, gradient_UE = touched.ids_U, touched.gradient()
        packed = torch.cat([ids_U.view(torch.int32).view(-1, 2), gradient_UE.view(torch.int32)], 1)
        out = [len(ids_U) if rank in sent_to else 0 for rank in range(len(sizes))]
        back = [size if rank in taken_from else 0 for rank, size in enumerate(sizes)]
        found = exchange(packed.repeat(len(sent_to), 1), out, back, "rows")
        for rank, rows in zip(taken_from, found.split([sizes[rank] for rank in taken_from]), strict=True):
            self.ids_WR[rank, : len(rows)] = rows[:, :2].contiguous().view(torch.int64).flatten()
            self.gradient_WRE[rank, : len(rows)] = rows[:, 2:].contiguous().view(torch.float32)

    def collect(self, touched: TouchedRows, sizes: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """The rows that this worker moves (ids_V), and all workers' gradients for them summed (V, E)."""
        assert sizes is not None
        self.node.settle()
        place, workers = self.neighbours.place, len(self.neighbours.ranks)
        lists = [self.ids_WR[rank, :size] for rank, size in enumerate(sizes)]
        longest = max(lists, key=len)
        inner = [len(longest) * k // workers for k in range(1, workers)]
        borders = longest[inner] if len(longest) else longest.new_zeros(workers - 1)
        ends = [[0, *torch.searchsorted(ids_U, borders).tolist(), len(ids_U)] for ids_U in lists]
        slices = [slice(own[place], own[place + 1]) for own in ends]
        return added(
            [ids_U[own] for ids_U, own in zip(lists, slices, strict=True)],
            [self.gradient_WRE[rank, own] for rank, own in enumerate(slices)],
        )


def added(lists: Sequence[Tensor], gradients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Distinct ids of several sorted lists, and their gradients added in the order of the lists."""
    ids_V = torch.unique(torch.cat(list(lists)))
    sum_VE = gradients[0].new_zeros(len(ids_V), gradients[0].shape[1])
    for ids_U, gradient_UE in zip(lists, gradients, strict=True):
        sum_VE.index_add_(0, torch.searchsorted(ids_V, ids_U), gradient_UE)
    return ids_V, sum_VE
