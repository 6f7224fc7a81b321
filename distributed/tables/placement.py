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
from torch import Tensor

from distributed.tables.collectives import exchange, sum_rows, world_size
from models.embedding import EmbeddingTable, TouchedRows
from models.entire_space import EntireSpaceModel
from models.rows import EVERY_ROW, Share

COUNTS = 16  # bytes that a lookup tells each other worker: how many ids come, whether more lookups will


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
        told = torch.stack([out, torch.full_like(out, int(more))], 1)
        heard = exchange(told, [1] * self.workers, [1] * self.workers, "counts").tolist()
        self.others_ask = any(asks for _, asks in heard)
        sizes, back = out.tolist(), [count for count, _ in heard]
        asked_A = exchange(ids_U.index_select(0, order_U), sizes, back, "ids") // self.workers
        vectors_UE = exchange(self.table.weight.index_select(0, asked_A), back, sizes, "rows")
        found_UE = torch.empty_like(vectors_UE).index_copy_(0, order_U, vectors_UE)
        return found_UE, Lookup(order_U, sizes, asked_A, back)


def share_of(tables: str, rank: int) -> Share:
    """The rows of every table that a worker holds under a placement of TrainConfig.tables."""
    return Share(rank, world_size()) if tables == "sharded" else EVERY_ROW


def place(model: EntireSpaceModel, tables: str) -> list[Placement]:
    """The placement of each of the model's tables, whose lookups go through it from now on."""
    if tables == "replicated" or world_size() == 1:
        return [Replicated() for _ in model.embedding.tables]
    return [Sharded(table) for table in embedding_tables(model)]


def embedding_tables(model: EntireSpaceModel) -> list[EmbeddingTable]:
    tables = list(model.embedding.tables)
    assert all(isinstance(table, EmbeddingTable) for table in tables)
    return tables  # type: ignore[return-value]


@contextmanager
def answering(model: EntireSpaceModel) -> Iterator[None]:
    """Within it workers may apply the model different numbers of times; who is done answers until all are.

    All workers must enter and leave it. With replicated tables it does nothing.
    """
    yield
    fetches = [table.fetch for table in embedding_tables(model)]
    sharded = [own for fetch in fetches if isinstance(own := getattr(fetch, "__self__", None), Sharded)]
    # a forward pass asks every table once, in this order
    while sharded and sharded[0].answer():
        for own in sharded[1:]:
            own.answer()


def bytes_per_step(distinct: int, own: int, asked: int, width: int, workers: int) -> int:
    """Bytes that one worker sends for one sharded table in one training step.

    distinct: rows of its batch, `own` of them lying with itself; asked: rows that the others ask it for. Ids and
    gradients go out, vectors are handed back; with ids dealt out evenly asked = distinct - own = distinct (1 - 1/W).
    """
    away = distinct - own
    return COUNTS * (workers - 1) + 8 * away + 4 * width * (away + asked)


def bytes_to_all(most: int, width: int, workers: int) -> int:
    """The same for a replicated table; most: distinct rows of the batch of the worker that has most of them."""
    return (workers - 1) * most * (8 + 4 * width)


def bytes_of_rows(rows: int, width: int, optimizer: str) -> int:
    """Bytes that rows of a table take with their optimizer's state: adagrad one number a row, adam two a weight."""
    return 4 * rows * (width + 1 if optimizer == "adagrad" else 3 * width)
