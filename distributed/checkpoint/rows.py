"""Rows of tables in the shard files of a checkpoint: shard k of S holds rows k, k + S, k + 2 S, ... of every table.

A worker reads what it holds, in blocks, whatever S was: its memory is its rows and one block.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from data.errors import UserError
from models.rows import Share

BLOCK_ROWS = 1 << 18


@dataclass(frozen=True)
class RowTensor:
    """The rows of `share` (first dimension) of a table of `rows` rows, or of what goes with it row by row."""

    tensor: Tensor
    rows: int
    share: Share

    def shard(self, number: int, shards: int) -> Tensor:
        """What of it belongs into shard `number`. A worker that holds only a share holds just its shard."""
        if self.share == Share(number, shards):
            return self.tensor
        assert self.share == Share(), f"{self.share} has not all of shard {number} of {shards}"
        return self.tensor[number::shards]


def shard_name(number: int, shards: int) -> str:
    return f"tables-{number:05d}-of-{shards:05d}.safetensors"


def fill_rows(directory: Path, tables: dict[str, RowTensor], shards: int) -> None:
    """Fill the held rows of every table in place from the shard files.

    Reads all of a shard that has rows to give, even if only some of them are held: all shards if the number of workers
    has changed to one that shares no factor with theirs. Raises UserError naming the file that cannot be read.
    """
    for number in range(shards):
        file = directory / shard_name(number, shards)
        for name, table in tables.items():
            try:
                fill_from_shard(file, name, table, number, shards)
            except (OSError, SafetensorError) as error:
                raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from None


def check_shard(directory: Path, tables: dict[str, list[int]], number: int, shards: int) -> None:
    """Raise UserError unless the shard's header has its rows of every table, given as [rows, width, ...]."""
    file = directory / shard_name(number, shards)
    try:
        with safe_open(file, "pt") as source:
            found = {name: list(source.get_slice(name).get_shape()) for name in source.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from None
    for name, (rows, *shape) in tables.items():
        if found.get(name) != [Share(number, shards).held(rows), *shape]:
            raise UserError(f"{file}: holds {found.get(name)} of table {name!r}, which has {[rows, *shape]}")


def fill_from_shard(file: Path, name: str, table: RowTensor, number: int, shards: int) -> None:
    first, every = table.share.first, table.share.every
    # The shard's row j is the table's j * shards + number; ours are those that leave `first` when divided by `every`.
    step = every // math.gcd(every, shards)
    begins = [j for j in range(step) if (j * shards + number - first) % every == 0]
    if not begins:
        return
    begin = begins[0]
    count = Share(number, shards).held(table.rows)
    own = (begin * shards + number - first) // every  # where it lies with us
    own_step = step * shards // every
    block = max(step, BLOCK_ROWS // step * step)
    for start in range(begin, count, block):
        # opened for each block: what a mapping has read counts as memory of this process until it is closed
        with safe_open(file, "pt") as source:
            found = source.get_slice(name)[start : min(count, start + block)][::step]
        table.tensor[own : own + len(found) * own_step : own_step].copy_(found)
        own += len(found) * own_step


def snapshot(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU that later steps do not touch."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
