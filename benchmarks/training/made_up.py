"""The other workers of a training, as far as worker 0 hears of them: their messages are made up.

Shapes: W workers, N machines of L; C rows that worker 0 hands on.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.training import table_size
from distributed.tables import placement
from distributed.tables.node import Neighbours
from distributed.tables.node_shards import NodeShard
from distributed.tables.protocol import wire_ids
from distributed.tables.sharded import Sharded, common


class Others:
    """The W - 1 other workers, each on a machine of its own."""

    def __init__(self, rows: int, workers: int, batch: int) -> None:
        self.rows, self.workers, self.batch = rows, workers, batch
        self.asked: list[np.ndarray] = []
        self.random = np.random.default_rng(0)
        self.values = torch.randn(1 << 22) * 1e-3

    def draw(self) -> None:
        """The rows of worker 0 that each other worker's next batch asks it for."""
        fields = table_size.Arguments.fields
        size = self.rows // fields
        self.asked = []
        for rank in range(1, self.workers):
            place = self.random.random((self.batch, fields))
            place = np.square(place) ** (table_size.STEEPNESS / 2)  # in a fifth of the time of the power itself
            ids = (place * size).astype(np.int64) + np.arange(fields) * size
            self.hear(rank, ids)

    def hear(self, rank: int, ids: np.ndarray) -> None:
        self.asked.append(np.unique(ids[ids % self.workers == 0] // self.workers).astype(np.int32))

    def lay(self, own: Sharded) -> None:
        """Before a plan is made: what others lay open for worker 0."""

    def mark(self, own: Sharded, before: Any, plan: Any) -> None:
        """Before two plans are divided."""

    def neighbours(self) -> Neighbours | None:
        return None

    @contextmanager
    def emulated(self) -> Iterator[None]:
        """Within it torch.distributed is worker 0's view of a group of W workers."""
        if self.workers == 1:
            yield
            return
        names: Any = {
            "new_group": lambda ranks=None, **_: ranks,
            "is_initialized": lambda: True,
            "get_world_size": lambda: self.workers,
            "get_rank": lambda: 0,
        }
        apart = mock.patch.object(placement, "neighbours_of", side_effect=lambda _: self.neighbours())
        with (
            apart,
            mock.patch.multiple(dist, all_to_all_single=self.all_to_all_single, all_reduce=mock.Mock(), **names),
        ):
            yield

    def all_to_all_single(
        self, found: Tensor, values: Tensor, back: Sequence[int] = (), out: Sequence[int] = (), group: Any = None
    ) -> None:
        if values.dtype == torch.int64:  # how many ids come
            found.fill_(1)
            counts = found.view(-1, 2)
            counts[0] = values.view(-1, 2)[0]
            counts[1:, 0] = torch.tensor([len(asked) for asked in self.asked])
        elif not back:  # pieces of equal size: totals, and dense gradients
            found.copy_(values)
        elif values.dtype == torch.int32:
            found[: back[0]] = values[: out[0]]
            found[back[0] :] = torch.from_numpy(np.concatenate(self.asked))
        elif values.dtype == torch.uint8:  # as many marks as here
            found.copy_(torch.rand(len(found)) < values.float().mean())
        else:
            flat = found.view(-1)
            for begin in range(0, len(flat), len(self.values)):
                piece = flat[begin : begin + len(self.values)]
                piece.copy_(self.values[: len(piece)])


class Machine(Neighbours):
    """Worker 0's view of its machine: nobody is waited for."""

    def __init__(self, workers: int, near: int) -> None:
        self.rank, self.place, self.group, self.timeout, self.peers = 0, 0, None, 1.0, {}
        self.nodes = [list(range(first, first + near)) for first in range(0, workers, near)]
        self.node_of = [rank // near for rank in range(workers)]
        self.ranks = self.nodes[0]
        self.begun, self.heard = 0, {}


class NearOthers(Others):
    """The same with `near` workers a machine: worker 0 hands on what its clients, the first workers of the other
    machines, have for those on its own, and reads what is laid open for it, its neighbours' own and what they hand on.
    """

    def __init__(self, rows: int, workers: int, batch: int, near: int) -> None:
        super().__init__(rows, workers, batch)
        self.near = near
        self.lists: dict[int, list[np.ndarray]] = {}
        """Of each client, its rows of each worker here; of all others, their rows of worker 0."""
        self.known: NodeShard | None = None

    def neighbours(self) -> Neighbours:
        return Machine(self.workers, self.near)

    def hear(self, rank: int, ids: np.ndarray) -> None:
        owners = range(self.near if rank % self.near == 0 else 1)
        self.lists[rank] = [np.unique(ids[ids % self.workers == w] // self.workers).astype(np.int32) for w in owners]

    def lay(self, own: Sharded) -> None:
        assert isinstance(own, NodeShard)
        if own is not self.known:  # everything that worker 0 reads has been written by somebody
            self.known = own
            for tensor in (own.shards_NE[own.most :], *own.gradient_2NE.split(1)):
                flat = tensor.view(-1)
                extent = len(flat) if tensor.dim() == 2 else 0
                for place in range(0 if extent else self.near):
                    begin = place * own.room * own.table.width
                    laid = 2 * self.workers // self.near * self.mean() * self.near * own.table.width
                    self.fill(flat[begin : begin + laid])
                self.fill(flat[:extent])
        desk = own.desks[None]
        heads, numbers_N = (tensors[desk.turn ^ 1] for tensors in (desk.heads_2WL, desk.bytes_2N))
        numbers_N = numbers_N.view(wire_ids(self.rows))
        for rank, (mine, *_) in self.lists.items():
            place, machine = rank % self.near, rank // self.near
            if place:
                begin = place * own.room + machine * self.near * self.mean()
                numbers_N[begin : begin + len(mine)] = torch.from_numpy(mine)
                heads[rank] = begin + len(mine)
                heads[rank, 0], heads[rank, -1] = begin, 1

    def mean(self) -> int:
        """Rows that a worker asks one for, about."""
        return int(np.mean([len(mine) for mine, *_ in self.lists.values()]))

    def fill(self, flat: Tensor) -> None:
        for begin in range(0, len(flat), len(self.values)):
            piece = flat[begin : begin + len(self.values)]
            piece.copy_(self.values[: len(piece)])

    def mark(self, own: Sharded, before: Any, plan: Any) -> None:
        """Neighbours mark the rows of worker 0's clients, and its own, as often as worker 0 does."""
        assert isinstance(own, NodeShard)
        desk = own.desks[None]
        marks = desk.bytes_2N[desk.turn ^ 1][: 2 * own.room * self.near].view(2, -1)
        shares = common(before.whole.asked.ids_U, plan.whole.asked.ids_U)
        for marks_N, route, share_V in zip(marks, (before.whole, plan.whole), shares, strict=True):
            share = share_V[route.asked.position_R].float().mean()
            count = sum(route.relay.sizes)
            marks_N[:count] = torch.rand(count) < share

    def all_to_all_single(
        self, found: Tensor, values: Tensor, back: Sequence[int] = (), out: Sequence[int] = (), group: Any = None
    ) -> None:
        machines = range(1, self.workers // self.near)
        if values.dtype == torch.int64:
            counts = found.view(len(machines) + 1, -1)
            counts[0] = values.view_as(counts)[0]
            for machine in machines:
                counts[machine] = torch.tensor([*map(len, self.lists[machine * self.near]), 1])
        elif values.dtype == torch.int32:
            found[: back[0]] = values[: out[0]]
            clients = [mine for machine in machines for mine in self.lists[machine * self.near]]
            found[back[0] :] = torch.from_numpy(np.concatenate(clients))
        elif list(back) == list(out):  # totals and dense gradients
            found.copy_(values)
        else:
            super().all_to_all_single(found, values, back, out, group)
