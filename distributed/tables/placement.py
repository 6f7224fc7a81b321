"""Where the rows of an embedding table lie: on every worker (replicated), or each on one of them (sharded).

Shapes: W workers, U distinct rows of this worker's batch, A rows that all workers ask this one for, V distinct ones
among them, E width.

Sharded, row r lies on worker r % W, as row r // W of its weight. A field's common values have low numbers, so blocks
would put them on one worker; modulo deals them out evenly, and who holds a row, and where, follows from its number.

A step sends out the ids (U), gets vectors back (U x E) and returns gradients (U x E): this worker's batch, whatever the
table's size. The owner adds the gradients of a row in the order of ranks, so that no sum depends on who came first.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distributed.tables.collectives import exchange, sum_rows, world_size
from distributed.tables.node_table import NodeTables
from models.embedding import EmbeddingTable, TouchedRows
from models.rows import EVERY_ROW, NO_ROW, Share

COUNTS = 16  # bytes of a lookup's head to each other worker: how many ids come, whether it will ask again


class Placement(Protocol):
    def collect(self, touched: TouchedRows, sizes: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """After backward: rows of this worker's weight (ids_V), and all workers' gradients for them summed (V, E).

        sizes: how many distinct rows each worker's batch touched, if that is known already.
        """
        ...


class Replicated:
    """Every worker holds every row, and all gradients travel to all."""

    def collect(self, touched: TouchedRows, sizes: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        return sum_rows(touched.ids_U, touched.gradient(), sizes)


@dataclass(frozen=True)
class Lookup:
    """Who asked whom for what: order_U sorts this worker's ids by owner, asked_A are rows of its own weight."""

    order_U: Tensor
    out: list[int]
    asked_A: Tensor
    back: list[int]


class Sharded:
    """This worker's part of a sharded table; the table's lookups go through it.

    Every worker must look up the same number of times: in training each takes every step, if need be with an empty
    batch; where numbers differ, `answering` makes up for it.
    """

    def __init__(self, table: EmbeddingTable) -> None:
        self.table, self.rank, self.workers = table, dist.get_rank(), world_size()
        self.lookup: Lookup | None = None
        self.others_ask = False
        table.fetch = self.fetch

    def fetch(self, ids_R: Tensor) -> Tensor:
        """The vectors (R, E) of any rows of the whole table. In training ids_R must be distinct."""
        if self.table.training and torch.is_grad_enabled():
            vectors_RE, self.lookup = self._vectors(ids_R, more=True)
            return vectors_RE
        ids_U, position_R = torch.unique(ids_R, return_inverse=True)
        return self._vectors(ids_U, more=True)[0].index_select(0, position_R)

    def collect(self, touched: TouchedRows, sizes: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        lookup = self.lookup
        assert lookup is not None
        gradient_UE = touched.gradient().index_select(0, lookup.order_U)
        gradient_AE = exchange(gradient_UE, lookup.out, lookup.back, "rows")
        ids_V, position_A = torch.unique(lookup.asked_A, return_inverse=True)
        sum_VE = gradient_AE.new_zeros(len(ids_V), gradient_AE.shape[1])
        # one rank at a time: no two of its rows are the same, so that the order of the sum is fixed on a GPU as well
        pieces = zip(position_A.split(lookup.back), gradient_AE.split(lookup.back), strict=True)
        for position, gradient in pieces:
            sum_VE.index_add_(0, position, gradient)
        return ids_V, sum_VE

    def answer(self) -> bool:
        """Take part in a lookup without asking anything; whether any worker did."""
        none = torch.empty(0, dtype=torch.int64, device=self.table.weight.device)
        self._vectors(none, more=False)
        return self.others_ask

    def _vectors(self, ids_U: Tensor, more: bool) -> tuple[Tensor, Lookup]:
        owner_U = ids_U % self.workers
        order_U = owner_U.argsort(stable=True)
        out = torch.bincount(owner_U, minlength=self.workers)
        counts_W2 = torch.stack([out, torch.full_like(out, int(more))], 1)
        found = exchange(counts_W2, [1] * self.workers, [1] * self.workers, "counts").tolist()
        self.others_ask = any(asks for _, asks in found)
        sizes, back = out.tolist(), [count for count, _ in found]
        asked_A = exchange(ids_U.index_select(0, order_U), sizes, back, "ids") // self.workers
        vectors_UE = exchange(self.table.weight.index_select(0, asked_A), back, sizes, "rows")
        found_UE = torch.empty_like(vectors_UE).index_copy_(0, order_U, vectors_UE)
        return found_UE, Lookup(order_U, sizes, asked_A, back)


def share_of(tables: str, rank: int) -> Share:
    """The rows of every table that a worker holds under a placement of TrainConfig.tables."""
    return Share(rank, world_size()) if tables == "sharded" else EVERY_ROW


def built_share(tables: str, rank: int) -> Share:
    """The rows that it makes as its network is built."""
    return NO_ROW if tables == "node" and world_size() > 1 else share_of(tables, rank)


def place(network: nn.Module, tables: str) -> Sequence[Placement]:
    """The placement of each of the network's tables, whose lookups go through it from now on."""
    found = list(embedding_tables(network).values())
    if tables == "replicated" or world_size() == 1:
        return [Replicated() for _ in found]
    if tables == "node":
        return NodeTables(found).placements
    return [Sharded(table) for table in found]


def embedding_tables(network: nn.Module) -> dict[str, EmbeddingTable]:
    """The network's tables by the name of their weight, in the order in which a forward pass asks them."""
    return {f"{name}.weight": module for name, module in network.named_modules() if isinstance(module, EmbeddingTable)}


@contextmanager
def answering(network: nn.Module) -> Iterator[None]:
    """Within it workers may apply the network different numbers of times; who is done answers until all are.

    All workers must enter and leave it. With replicated tables it does nothing.
    """
    yield
    fetches = [table.fetch for table in embedding_tables(network).values()]
    sharded = [own for fetch in fetches if isinstance(own := getattr(fetch, "__self__", None), Sharded)]
    # a forward pass asks every table once, in this order
    while sharded and sharded[0].answer():
        for own in sharded[1:]:
            own.answer()
