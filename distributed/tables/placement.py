"""Where the rows of an embedding table lie: on every worker (replicated), once on each machine (node), or each on one
worker (sharded)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from distributed.tables.collectives import world_size
from distributed.tables.node import Neighbours
from distributed.tables.node_shards import NodeShard, NodeShards
from distributed.tables.node_table import NodeTable, NodeTables
from distributed.tables.protocol import WIRES, Placement
from distributed.tables.replicated import Replicated
from distributed.tables.sharded import Sharded
from models.embedding import EmbeddingTable
from models.rows import EVERY_ROW, NO_ROW, Share, initial_rows


def settle(tables: str, device: torch.device) -> tuple[str, Neighbours | None]:
    """A placement of TrainConfig.tables with auto decided, and the workers of this machine if that took finding them
    out. All workers call it.

    auto depends on nothing but what gives the same bits: a group that comes back on other machines goes on as before.
    """
    if tables != "auto":
        return tables, None
    if world_size() == 1 or device.type != "cpu":
        return "replicated", None
    near = Neighbours()
    return ("node", near) if len(near.nodes) < world_size() else ("replicated", None)


def share_of(tables: str, rank: int) -> Share:
    """The rows of every table that a worker holds under a placement of TrainConfig.tables."""
    return Share(rank, world_size()) if tables == "sharded" else EVERY_ROW


def built_share(tables: str, rank: int) -> Share:
    """The rows that it makes as its network is built; `place` makes the others, where they are to lie."""
    return NO_ROW if tables != "replicated" and world_size() > 1 else share_of(tables, rank)


def place(
    network: nn.Module, tables: str, wire: str = "float32", near: Neighbours | None = None
) -> Sequence[Placement | NodeTable | NodeShard]:
    """The placement of each of the network's tables, whose lookups go through it from now on. `near`: from `settle`."""
    found = list(embedding_tables(network).values())
    if tables == "replicated" or world_size() == 1 or not found:
        return [Replicated(table, WIRES[wire]) for table in found]
    if tables == "node":
        return NodeTables(found, near or Neighbours()).placements
    near = neighbours_of(found)
    if near is not None:
        return NodeShards(near, found, WIRES[wire]).placements
    share = share_of(tables, dist.get_rank())
    for table in found:
        rows_HE = initial_rows(table.address, table.rows, table.width, table.scale, share)
        table.weight = rows_HE.to(table.weight.device)
    return [Sharded(table, WIRES[wire]) for table in found]


def neighbours_of(tables: Sequence[EmbeddingTable]) -> Neighbours | None:
    """Workers that can share memory, where any machine has several and the tables are in main memory."""
    if not tables or tables[0].weight.device.type != "cpu":
        return None
    near = Neighbours()
    return near if len(near.nodes) < world_size() else None


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
