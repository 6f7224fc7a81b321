"""Where the rows of an embedding table lie: on every worker (replicated), once on each machine (node), or each on one
worker (sharded)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from distributed.tables.collectives import world_size
from distributed.tables.node_table import NodeTable, NodeTables
from distributed.tables.protocol import WIRES, Placement
from distributed.tables.replicated import Replicated
from distributed.tables.sharded import Sharded
from models.embedding import EmbeddingTable
from models.rows import EVERY_ROW, NO_ROW, Share


def share_of(tables: str, rank: int) -> Share:
    """The rows of every table that a worker holds under a placement of TrainConfig.tables."""
    return Share(rank, world_size()) if tables == "sharded" else EVERY_ROW


def built_share(tables: str, rank: int) -> Share:
    """The rows that it makes as its network is built."""
    return NO_ROW if tables == "node" and world_size() > 1 else share_of(tables, rank)


def place(network: nn.Module, tables: str, wire: str = "float32") -> Sequence[Placement | NodeTable]:
    """The placement of each of the network's tables, whose lookups go through it from now on."""
    found = list(embedding_tables(network).values())
    if tables == "replicated" or world_size() == 1:
        return [Replicated(table, WIRES[wire]) for table in found]
    if tables == "node":
        return NodeTables(found).placements
    return [Sharded(table, WIRES[wire]) for table in found]


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
