"""Sharded tables of workers that share machines: between workers of one machine everything goes through shared memory.

Shapes: as in sharded.py; L workers on this machine; C rows that the clients of a worker ask this machine for.

The shards of a machine lie beside each other in one tensor, so that any of its workers reads the rows of all of them
where they lie. To another machine goes one message: to a worker's counterpart there (counterparts.py). The counterpart
lays open which rows are asked for, where the owners read it; answers from the shards that it sees; and lays open the
gradients that come, where the owners read them, at the places in which the rows' numbers lay. For a worker's own rows
on its machine it is its own counterpart. Which numbers are added, and in which order, is as in sharded.py, and so are
the bits.

The barriers of node.py keep order: gradients are read once all lie there; rows are read again, for whomever, once all
are written. The thread beside the training (ahead.py) has barriers of its own, and one more rule: rows that it fetches
are read once all have applied what the last step has kept back. Gradients lie in two places in turn, so that those that
are kept back still lie there, or come, while the next ones are written.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distributed.checkpoint.rows import RowTensor
from distributed.tables.collectives import Group, world_size
from distributed.tables.counterparts import Counterparts
from distributed.tables.node import Neighbours
from distributed.tables.node_sums import NodeSums
from distributed.tables.protocol import Sums, wire_ids
from distributed.tables.sharded import Asked, Plan, Relay, Route, Sharded
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
        self.across: dict[Group, Counterparts] = {None: self.sums.across}
        self.placements = [NodeShard(self, table, wire) for table in tables]
        self.finish()

    def join(self, group: Group) -> None:
        """Lay out what a thread that talks over this group needs. All workers call it at the same time."""
        self.beside[group] = Neighbours(group)
        self.across[group] = Counterparts(self.beside[group])
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
        shards_LHE = near.tensor((len(near.ranks), self.most, table.width))
        share = Share(self.rank, self.workers)
        table.weight = shards_LHE[near.place, : share.held(table.rows)]
        fill(table.weight, table.address, table.scale, share)
        self.shards_NE = shards_LHE.flatten(0, 1)
        across = node.across[None]
        if across.order != list(range(self.workers)):
            self.order = torch.tensor(across.order)
            self.slots = self.order.argsort()
        # Of each worker here what its clients have for those here: room for every row, of which only what was ever
        # written takes memory.
        self.room = across.most_clients * len(near.ranks) * self.most
        self.start = near.place * self.room
        self.gradient_2NE = near.tensor((2, len(near.ranks) * self.room, table.width))
        self.turn = 0
        self.desks: dict[Group, Desk] = {}
        self.join(None)

    def join(self, group: Group) -> None:
        self.desks[group] = Desk(self.node.beside[group], self.room)

    # ---- plans

    def ask(self, key_U: Tensor, row_U: Tensor, size_W: Tensor, more: bool, group: Group) -> Asked:
        across, near = self.node.across[group], self.node.beside[group]
        heads, numbers_N = self.desks[group].clear(wire_ids(self.table.rows))
        size_CL, more_C = across.counts(size_W, more)
        sizes = size_CL.sum(1).tolist()
        own_C = numbers_N[self.start : self.start + sum(sizes)]
        across.send(row_U.to(numbers_N.dtype), across.by_machine(size_W.tolist()), sizes, "ids", into=own_C)
        end_CL = (size_CL.flatten().cumsum(0) + self.start).view_as(size_CL)
        heads[across.clients] = torch.cat([end_CL[:, :1] - size_CL[:, :1], end_CL, more_C[:, None]], 1)
        near.arrive()
        near.wait()
        begin_W, end_W, more_W = heads[:, [near.place, near.place + 1, -1]].unbind(1)
        back_W = end_W - begin_W
        gap_W = begin_W - back_W.cumsum(0) + back_W
        lies_A = gap_W.repeat_interleave(back_W)
        lies_A += torch.arange(len(lies_A))
        rows_A = numbers_N.index_select(0, lies_A).long()
        if not across.alone:
            shard_CL = (torch.arange(len(near.ranks)) * self.most).repeat(len(sizes))
            key_U = own_C + shard_CL.repeat_interleave(size_CL.flatten())
        return Asked(back_W.tolist(), rows_A, bool(more_W.any()), lies_A, Relay(sizes, key_U))

    def tell(self, one: Route, two: Route, one_A: Tensor, two_A: Tensor, group: Group) -> Any:
        """Marks lie where the numbers lay of the rows that they belong to."""
        across, near = self.node.across[group], self.node.beside[group]
        _, marks = self.desks[group].clear(torch.uint8)
        routes, laid = (one, two), marks[: 2 * self.room * len(near.ranks)].view(2, -1)
        for marks_N, route, mark_A in zip(laid, routes, (one_A, two_A), strict=True):
            assert route.lies_A is not None
            marks_N.index_copy_(0, route.lies_A, mark_A.to(torch.uint8))
        near.arrive()
        near.wait()
        sizes = [relay_of(route).sizes for route in routes]
        of_C = [marks_N[self.start : self.start + sum(own)].bool() for marks_N, own in zip(laid, sizes, strict=True)]
        if across.alone:
            return [(mark_C, mark_C) for mark_C in of_C]
        both = zip(*(mark_C.split(own) for mark_C, own in zip(of_C, sizes, strict=True)), strict=True)
        away = torch.cat([mark for pair in both for mark in pair]).to(torch.uint8)
        backs = [across.by_machine(route.out) for route in routes]
        out, back = ([a + b for a, b in zip(*pair, strict=True)] for pair in (sizes, backs))
        come = across.reply(away, out, back, "marks").bool()
        pieces = come.split([size for pair in zip(*backs, strict=True) for size in pair])
        return [(torch.cat(pieces[number::2]), of_C[number]) for number in range(2)]

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
        across, relay = self.node.across[group], relay_of(route)
        vectors_CE = take_rows(self.shards_NE, relay.key_C).to(self.wire)
        return across.reply(vectors_CE, relay.sizes, across.by_machine(route.out), "rows").float()

    def answer(self) -> bool:
        """Where all are on one machine, lookups beside a training need nobody's answer."""
        return not self.node.sums.alone and super().answer()

    # ---- gradients

    def lay(self) -> None:
        touched = self.table.touched
        assert touched is not None
        self.turn ^= 1
        if self.node.sums.alone:
            count = len(touched.ids_U)
            self.gradient_2NE[self.turn, self.start : self.start + count] = touched.gradient().to(self.wire)

    def outgoing(self, route: Route, touched: TouchedRows) -> tuple[Tensor, Tensor | None]:
        """Where gradients are laid, and those that are to be sent."""
        return self.gradient_2NE[self.turn], None if self.node.sums.alone else route.own(touched.gradient())

    def sum(self, route: Route, outgoing: tuple[Tensor, Tensor | None], group: Group = None) -> Sums:
        gradient_NE, own = outgoing
        assert route.asked is not None
        assert route.lies_A is not None
        if own is not None:
            self.take_in(route, own.to(self.wire), gradient_NE[self.start :], group)
            self.node.beside[group].arrive()
            self.node.beside[group].wait()
        return Sums(route.asked.ids_U, sum_rows(gradient_NE, route.lies_A[route.asked.order_R], route.asked.begin_U))

    def take_in(self, route: Route, own: Tensor, laid_NE: Tensor, group: Group) -> None:
        """Send gradients, and lay open those that come."""
        across, relay = self.node.across[group], relay_of(route)
        all_CE = laid_NE[: sum(relay.sizes)]
        into = all_CE if relay.at_C is None and self.wire == all_CE.dtype else None
        come = across.send(own, across.by_machine(route.out), relay.sizes, "rows", into)
        if relay.at_C is not None:
            laid_NE.index_copy_(0, relay.at_C, come.to(laid_NE.dtype))
        elif into is None:
            all_CE.copy_(come)


def relay_of(route: Route) -> Relay:
    assert route.relay is not None
    return route.relay


class Desk:
    """Where the workers of a machine lay out numbers for each other; one thread's. What is at numbers_N[p * size] and
    after it is laid there by the worker with place p. Two places in turn: who is still reading one reads another than
    who writes the next.
    """

    def __init__(self, neighbours: Neighbours, size: int) -> None:
        workers = len(neighbours.ranks)
        self.heads_2WL = neighbours.tensor((2, world_size(), workers + 2), torch.int64)
        self.bytes_2N = neighbours.tensor((2, 8 * workers * size), torch.uint8)
        self.turn = 0

    def clear(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The next place: heads (W, L + 2), one for the list of each worker, and numbers_N. A list has what is for the
        worker with place p from head[p] to head[p + 1]; its last number is a word."""
        self.turn ^= 1
        return self.heads_2WL[self.turn], self.bytes_2N[self.turn].view(dtype)
