"""Sharded tables of workers that share machines: between workers of one machine everything goes through shared memory.

Shapes: as in sharded.py; L workers on this machine.

Their shards lie beside each other in one tensor, and a lookup reads the rows of all L of them where they lie. What a
worker tells an owner on its machine (which rows it wants, which gradients it has for them) it lays open, and the owner
reads it there: nothing is picked, packed and sent. To and from other machines rows travel as sharded.py says. Which
numbers are added, and in which order, is the same, and so are the bits.

The barriers of node.py keep order: gradients are read once all lie there; rows are read again once all are written. The
thread beside the training (ahead.py) has barriers of its own, and one more rule: rows that it fetches are read once all
have applied what the last step has kept back. Gradients lie in two places in turn, so that those that are kept back
still lie there while the next ones are written.
"""

from collections.abc import Sequence
from itertools import accumulate, compress

import torch
from torch import Tensor

from distributed.checkpoint.rows import RowTensor
from distributed.tables.collectives import Group, exchange, world_size
from distributed.tables.node import Neighbours
from distributed.tables.node_sums import NodeSums
from distributed.tables.protocol import Sums, wire_ids
from distributed.tables.sharded import Asked, Plan, Route, Sharded
from models.embedding import EmbeddingTable, TouchedRows
from models.row_kernels import sum_rows, take_rows
from models.rows import Share, fill


class NodeShards:
    """All tables of a network, on this machine. They have been built without rows: models.rows.NO_ROW.

    Where all workers are on one machine, what else a step has them tell each other goes through the shared memory too.
    """

    def __init__(self, neighbours: Neighbours, tables: Sequence[EmbeddingTable], wire: torch.dtype) -> None:
        self.neighbours, self.sums = neighbours, NodeSums(neighbours)
        self.beside: dict[Group, Neighbours] = {None: neighbours}
        self.placements = [NodeShard(self, table, wire) for table in tables]
        self.finish()

    def join(self, group: Group) -> None:
        """Lay out what a thread that talks over this group needs. All workers call it at the same time."""
        self.beside[group] = Neighbours(group)
        for placement in self.placements:
            placement.join(group)

    def zeros(self, shape: Sequence[int]) -> Tensor:
        """The state of a row lies with its owner alone."""
        return torch.zeros(*shape)

    def gather(self, numbers_N: Tensor) -> Tensor:
        """(W, N): every worker's numbers, in the order of ranks."""
        return self.sums.gather(numbers_N)

    def lay(self) -> None:
        """After backward: lay this worker's gradients open."""
        for placement in self.placements:
            placement.lay()

    def add(self, flat_N: Tensor) -> Tensor:
        """The sum over all workers of their dense gradients. What was laid open can be collected then."""
        return self.sums.add(flat_N)

    def finish(self) -> None:
        """This worker has written its rows."""
        self.neighbours.arrive()

    def settle(self) -> None:
        """Until all have done what came before the last barrier that this worker came to."""
        self.neighbours.wait()

    def part(self, row: RowTensor) -> RowTensor:
        """What of a tensor this worker is to fill when a checkpoint is read: all that it holds."""
        return row


class NodeShard(Sharded):
    """One of them."""

    def __init__(self, node: NodeShards, table: EmbeddingTable, wire: torch.dtype) -> None:
        super().__init__(table, wire)
        self.node, near = node, node.neighbours
        self.near = [rank in near.ranks for rank in range(self.workers)]
        """Whether each worker is on this machine; this one is."""
        shards_LHE = near.tensor((len(near.ranks), self.most, table.width))
        share = Share(self.rank, self.workers)
        table.weight = shards_LHE[near.place, : share.held(table.rows)]
        fill(table.weight, table.address, table.scale, share)
        self.shards_NE = shards_LHE.flatten(0, 1)
        # Of each worker here the gradients, and what has come for it from elsewhere; room for every row, of which only
        # what was ever written takes memory.
        self.room = self.workers * self.most
        self.gradient_2MRE = near.tensor((2, 2 * len(near.ranks), self.room, table.width))
        self.turn = 0
        self.desks: dict[Group, Desk] = {}
        self.join(None)

    def join(self, group: Group) -> None:
        self.desks[group] = Desk(self.node.beside[group], self.room)

    # ---- what is near is read, what is far is sent

    def far(self, values: Tensor, sizes: Sequence[int]) -> Tensor:
        """Of values of which sizes[w] belong to worker w, those of workers on other machines."""
        if self.node.sums.alone:
            return values[:0]
        return torch.cat([piece for piece, near in zip(values.split(list(sizes)), self.near, strict=True) if not near])

    def send(self, far: Tensor, out: Sequence[int], back: Sequence[int], kind: str, group: Group) -> Tensor:
        """Exchange with workers on other machines; out and back are as among all."""
        if self.node.sums.alone:
            return far
        away, come = (
            [0 if near else size for size, near in zip(sizes, self.near, strict=True)] for sizes in (out, back)
        )
        return exchange(far, away, come, kind, group)

    def merged(self, near: Sequence[Tensor], far: Tensor, sizes: Sequence[int]) -> Tensor:
        """In the order of ranks: a piece of each worker here, and sizes[w] of each elsewhere."""
        if self.node.sums.alone:
            return torch.cat(list(near))
        here = iter(near)
        come = iter(far.split(list(compress(sizes, [not near for near in self.near]))))
        return torch.cat([next(here if near else come) for near in self.near])

    # ---- plans

    def ask(self, row_U: Tensor, out: list[int], more: bool, group: Group) -> Asked:
        back: list[int] = []
        if not self.node.sums.alone:
            back, more = self.counts(row_U.new_tensor(out), more, group)
        numbers_U = row_U.to(wire_ids(self.table.rows))
        lists, begins, asks = self.desks[group].exchange(numbers_U, out, more)
        back = back or list(map(len, lists))
        far = self.send(self.far(numbers_U, out), out, back, "ids", group)
        lies = [
            torch.arange(begin, begin + len(own)) + place * self.room
            for place, (begin, own) in enumerate(zip(begins, lists, strict=True))
        ]
        lies_A = self.merged(lies, self.arrivals(len(far)), back)
        return Asked(back, self.merged(lists, far, back).long(), any(asks), lies_A)

    def tell(self, marks: Tensor, out: list[int], back: list[int], group: Group) -> Tensor:
        lists, _, _ = self.desks[group].exchange(marks, out)
        return self.merged(lists, self.send(self.far(marks, out), out, back, "marks", group), back)

    def arrivals(self, count: int) -> Tensor:
        """Where gradients of other machines' workers are laid."""
        near = self.node.neighbours
        return torch.arange(count) + (len(near.ranks) + near.place) * self.room

    # ---- vectors

    def fetch(self, ids_R: Tensor) -> Tensor:
        self.node.settle()
        if self.node.sums.alone and not (self.table.training and torch.is_grad_enabled()):
            return self.shards_NE.index_select(0, self.keys(ids_R)).to(self.wire).float()
        return super().fetch(ids_R)

    def prefetch(self, plan: Plan, group: Group = None) -> None:
        self.node.beside[group].arrive()
        self.node.beside[group].wait()
        super().prefetch(plan, group)

    def travel(self, route: Route, group: Group = None) -> Tensor:
        if self.node.sums.alone:
            return take_rows(self.shards_NE, route.key_U).to(self.wire).float()
        ranks, key_of = self.node.neighbours.ranks, route.key_U.split(route.out)
        at_U = torch.cat([key_of[rank] + (place - rank) * self.most for place, rank in enumerate(ranks)])
        near = take_rows(self.shards_NE, at_U).to(self.wire).float().split([route.out[rank] for rank in ranks])
        asked = take_rows(self.table.weight, self.far(route.rows_A, route.back)).to(self.wire)
        return self.merged(near, self.send(asked, route.back, route.out, "rows", group).float(), route.out)

    def answer(self) -> bool:
        """Where all are on one machine, lookups beside a training need nobody's answer."""
        return not self.node.sums.alone and super().answer()

    # ---- gradients

    def lay(self) -> None:
        touched = self.table.touched
        assert touched is not None
        self.turn ^= 1
        own_RE = self.gradient_2MRE[self.turn, self.node.neighbours.place]
        own_RE[: len(touched.ids_U)] = touched.gradient().to(self.wire)

    def outgoing(self, route: Route, touched: TouchedRows) -> tuple[Tensor, Tensor]:
        """Where gradients lie, and those that are to be sent."""
        far = self.far(route.own(touched.gradient()), route.out) if not self.node.sums.alone else torch.empty(0)
        return self.gradient_2MRE[self.turn], far

    def sum(self, route: Route, outgoing: tuple[Tensor, Tensor], group: Group = None) -> Sums:
        gradient_MRE, far = outgoing
        asked, lies_A = route.asked, route.lies_A
        assert asked is not None
        assert lies_A is not None
        if not self.node.sums.alone:
            come = self.send(far.to(self.wire), route.out, route.back, "rows", group)
            near = self.node.neighbours
            gradient_MRE[len(near.ranks) + near.place, : len(come)] = come
            away_A = lies_A >= len(near.ranks) * self.room
            lies_A = lies_A.masked_scatter(away_A, self.arrivals(len(come)))  # of a part of a plan: without gaps
        return Sums(asked.ids_U, sum_rows(gradient_MRE.flatten(0, 1), lies_A[asked.order_R], asked.begin_U))


class Desk:
    """Where workers of one machine lay out lists of numbers for each other, cut by who is to read what; one thread's.

    size: numbers of a list, of at most 8 bytes each. What a list has for worker w begins at begins[w]. Two places in
    turn: who is still reading one reads another than who writes the next.
    """

    def __init__(self, neighbours: Neighbours, size: int) -> None:
        self.neighbours, workers = neighbours, len(neighbours.ranks)
        self.head_2LN = neighbours.tensor((2, workers, world_size() + 2), torch.int64)
        self.bytes_2LS = neighbours.tensor((2, workers, 8 * size), torch.uint8)
        self.turn = 0

    def exchange(self, numbers: Tensor, out: Sequence[int], word: int = 0) -> tuple[list[Tensor], list[int], list[int]]:
        """out[w] of the numbers are for worker w. Of each worker here: what it has for this one, which is to be read
        before the next call; where in its list that begins; its word."""
        self.turn ^= 1
        heads, place, rank = self.head_2LN[self.turn], self.neighbours.place, self.neighbours.rank
        heads[place] = torch.tensor([0, *accumulate(out), word])
        lists = self.bytes_2LS[self.turn].view(numbers.dtype)
        lists[place, : len(numbers)] = numbers
        self.neighbours.arrive()
        self.neighbours.wait()
        found = heads.tolist()
        own = [lists[other, head[rank] : head[rank + 1]] for other, head in enumerate(found)]
        return own, [head[rank] for head in found], [head[-1] for head in found]
