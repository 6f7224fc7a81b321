"""One message a machine: workers of several machines that each have something for each of the others.

Shapes: W workers, L of them on this worker's machine, M in its group, C of which send to it.

What a worker has for the workers of another machine it sends to one of them, its receiver there, which lays it open in
memory that they share; and what they have for it comes back from the receiver. Each is its own receiver on its own
machine, so that what is near goes the same way and is only copied.

Who sends to each other are a group of their own: gloo's all-to-all sends a message to every member of a group, an empty
one to whom there is nothing for, and an empty one costs as much. They are the workers with the same place on their
machines. Where a machine has fewer workers than others, those without a counterpart on it join a lower place's group.
"""

from collections.abc import Sequence
from datetime import timedelta
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

from distributed.tables.collectives import Group, communicating, count_sent, world_size
from distributed.tables.node import Neighbours


def receiver(nodes: Sequence[Sequence[int]], rank: int, node: int) -> int:
    """The worker of machine `node` that takes in what `rank` has for those on it; nodes: the ranks of every machine."""
    place = next(ranks.index(rank) for ranks in nodes if rank in ranks)
    return nodes[node][place if place < len(nodes[node]) else place % min(map(len, nodes))]


class Counterparts:
    """Those of one worker, for one of its threads (that of `neighbours`). All workers make one at the same time.

    receivers: by machine; clients: the workers that this one takes in from; both with itself, in the order of ranks.
    order: all workers, machine by machine in the order of receivers: what is sent must lie in this order.
    """

    def __init__(self, neighbours: Neighbours) -> None:
        self.neighbours, nodes = neighbours, neighbours.nodes
        self.alone = len(nodes) == 1
        own, rank = neighbours.node_of[neighbours.rank], neighbours.rank
        of_machine = {receiver(nodes, rank, node): ranks for node, ranks in enumerate(nodes)}
        self.receivers, clients = sorted(of_machine), clients_of(nodes, own)
        self.clients = clients[neighbours.place]
        self.most_clients = max(map(len, clients))
        """Of any worker of this machine."""
        self.order = [other for to in self.receivers for other in of_machine[to]]
        self.ends = [0, *accumulate(len(of_machine[to]) for to in self.receivers)]
        groups: dict[int, list[int]] = {}
        for ranks in nodes:
            for place, other in enumerate(ranks):
                groups.setdefault(place % min(map(len, nodes)), []).append(other)
        self.members = [rank]
        self.group: Group = None
        for members in map(sorted, groups.values()) if not self.alone else ():
            # all workers make all groups, in the same order
            group = dist.new_group(members, backend="gloo", timeout=timedelta(seconds=neighbours.timeout))
            if rank in members:
                self.members, self.group = members, group
        # Where in blocks of equal size, one for each member, the numbers for all workers lie.
        self.block = max(map(len, nodes)) + 1
        begin_of = {other: self.members.index(to) * self.block + place
                    for to, ranks in of_machine.items() for place, other in enumerate(ranks)}  # fmt: skip
        self.at_W = torch.tensor([begin_of[other] for other in self.order])
        self.of_C = torch.tensor([self.members.index(client) for client in self.clients])

    def by_machine(self, sizes: Sequence[int]) -> list[int]:
        """What `sizes`, by worker in this one's order, come to for each receiver."""
        sums = [0, *accumulate(sizes)]
        return [sums[end] - sums[begin] for begin, end in zip(self.ends, self.ends[1:], strict=False)]

    def counts(self, out_W: Tensor, word: int) -> tuple[Tensor, Tensor]:
        """Tell each worker one number, and all of them a word. Of each client (C, L): its numbers for the workers of
        this machine; and its word (C)."""
        if self.alone:
            return out_W.view(1, -1), out_W.new_tensor([word])
        blocks = out_W.new_zeros(len(self.members), self.block)
        blocks.view(-1)[self.at_W] = out_W
        blocks[:, -1] = word
        found = torch.empty_like(blocks)
        with communicating(self.neighbours.group):
            dist.all_to_all_single(found.view(-1), blocks.view(-1), group=self.group)
        count_sent("counts", blocks[0].nbytes * (len(self.members) - 1))
        come = found[self.of_C]
        return come[:, : len(self.neighbours.ranks)], come[:, -1]

    def tell_all(self, numbers_N: Tensor) -> Tensor:
        """(C, N): the same numbers for all workers; those of each client."""
        to, of = len(self.receivers), len(self.clients)
        return self.send(numbers_N.expand(to, len(numbers_N)), [1] * to, [1] * of, "")

    def deal(self, blocks_WN: Tensor) -> Tensor:
        """(C, L, N): block w for worker w; those of each client for the workers of this machine."""
        if self.order != sorted(self.order):
            blocks_WN = blocks_WN[self.order]
        near, of = len(self.neighbours.ranks), len(self.clients)
        found = self.send(blocks_WN, self.by_machine([1] * len(blocks_WN)), [near] * of, "")
        return found.view(of, near, -1)

    def send(
        self, values: Tensor, out: Sequence[int], back: Sequence[int], kind: str, into: Tensor | None = None
    ) -> Tensor:
        """out[m] of the values to each receiver. What the clients had for this worker, back[c] each. kind: as what
        bytes are counted, if they are."""
        return self._exchange(values, self.receivers, out, self.clients, back, kind, into)

    def reply(self, values: Tensor, out: Sequence[int], back: Sequence[int], kind: str) -> Tensor:
        """The other way: out[c] of the values to each client. What the receivers had for this worker, back[m] each."""
        return self._exchange(values, self.clients, out, self.receivers, back, kind, None)

    def _exchange(
        self,
        values: Tensor,
        to: Sequence[int],
        out: Sequence[int],
        of: Sequence[int],
        back: Sequence[int],
        kind: str,
        into: Tensor | None,
    ) -> Tensor:
        if self.alone:
            return values if into is None else into.copy_(values)
        found = values.new_empty(sum(back), *values.shape[1:]) if into is None else into
        away, come = (
            [dict(zip(ranks, sizes, strict=True)).get(member, 0) for member in self.members]
            for ranks, sizes in ((to, out), (of, back))
        )
        with communicating(self.neighbours.group):
            dist.all_to_all_single(found, values.contiguous(), come, away, group=self.group)
        if kind and len(values):
            own = away[self.members.index(self.neighbours.rank)]
            count_sent(kind, values[0].nbytes * (len(values) - own))
        return found


def clients_of(nodes: Sequence[Sequence[int]], node: int) -> list[list[int]]:
    """Of each worker of a machine: the workers that it takes in from, in the order of ranks."""
    return [[rank for rank in range(world_size()) if receiver(nodes, rank, node) == worker] for worker in nodes[node]]
