"""Weights of a network for more features: those of a network for fewer, and new ones that change nothing at first.

Rows of embedding tables and the columns of first layers are moved to where the larger network has them. A new feature's
rows begin as drawn, its columns in the first layers (and in cross layers) with 0: the network says what the smaller one
said, until it has learnt what the feature is good for. A factorisation machine adds products with its first vectors.
"""

import torch
from torch import Tensor

from data.schema import Schema
from funnel.network import BatchNetwork

TABLES, POOLS, STANDARDISE, SECOND = "embedding.tables.", "embedding.pools.", "standardise.", "pairs.second"
SHALLOW = "shallow."


@torch.no_grad()
def grow(small: BatchNetwork, before: Schema, large: BatchNetwork, now: Schema) -> None:
    """Write the small network's weights, for the features of `before`, into the large one's for those of `now`.

    The features of `before` are all in `now`, and mean the same there.
    """
    fields = {field.name: k for k, field in enumerate(now.categorical)}
    own = [(k, fields[field.name]) for k, field in enumerate(before.categorical)]
    for k, at in own:
        (table, rows), (other, others) = small.embedding.blocks[k], large.embedding.blocks[at]
        weight = small.embedding.tables[table].weight
        large.embedding.tables[other].weight[others] = weight[rows]  # type: ignore[index,operator]
    numbers = torch.tensor([now.numeric.index(name) for name in before.numeric], dtype=torch.int64)
    columns = torch.cat(
        [
            *(
                torch.arange(large.embedding.places[at].start, large.embedding.places[at].stop)
                for _, at in in_order(small, own)
            ),
            large.embedding.output_width + numbers,
        ]
    )
    instruments = columns
    if small.shallow is not None and large.shallow is not None:  # the input without them, and they alone
        instruments = places(columns[small.shallow.own], large.shallow.own)
        columns = places(columns[small.shallow.rest], large.shallow.rest)
    found, wanted = small.state_dict(), large.state_dict()
    pools = [field.name for field in now.many]
    for name, tensor in found.items():
        if name.startswith(TABLES):
            continue
        if name.startswith(POOLS):
            place, rest = name.removeprefix(POOLS).split(".", 1)
            wanted[f"{POOLS}{pools.index(before.many[int(place)].name)}.{rest}"].copy_(tensor)
        elif name.startswith(STANDARDISE):
            wanted[name][numbers] = tensor
        elif name == SECOND:
            assert small.pairs is not None
            assert large.pairs is not None
            ends = zip(large.pairs.widths, wanted[name].split(large.pairs.widths, 1), strict=True)
            own_part = dict(zip(small.pairs.widths, tensor.split(small.pairs.widths, 1), strict=True))
            for width, part in ends:
                part.copy_(own_part.get(width, part))
        elif wanted[name].shape == tensor.shape:
            wanted[name].copy_(tensor)
        else:
            spread(tensor, wanted[name], instruments if name.startswith(SHALLOW) else columns)


def places(columns: Tensor, among: Tensor) -> Tensor:
    """Where each of the columns stands among others."""
    where = {column: place for place, column in enumerate(among.tolist())}
    return torch.tensor([where[column] for column in columns.tolist()], dtype=torch.int64)


def in_order(small: BatchNetwork, own: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The fields as the small network's first layers read them."""
    return sorted(own, key=lambda pair: small.embedding.places[pair[0]].start)


def spread(small: Tensor, large: Tensor, columns: Tensor) -> None:
    """Weights of what reads (or gives) all inputs: input n of the small one is columns[n] of the large, others are 0.

    A dimension that is as long in both is not one of inputs, as every new feature makes those longer.
    """
    place = torch.zeros_like(large)
    index = [
        columns if own != other else torch.arange(own) for own, other in zip(small.shape, large.shape, strict=True)
    ]
    assert all(len(one) == own for one, own in zip(index, small.shape, strict=True)), f"{small.shape} in {large.shape}"
    place[torch.meshgrid(*index, indexing="ij")] = small
    large.copy_(place)
