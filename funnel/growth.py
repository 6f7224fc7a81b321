"""Weights of a network for more features: those of a network for fewer, and new ones that change nothing at first.

Rows of embedding tables and the columns of first layers are moved to where the larger network has them. A new feature's
rows begin as drawn, its columns in the first layers with 0: the network says what the smaller one said, until it has
learnt what the feature is good for.
"""

import torch
from torch import Tensor

from data.schema import Schema
from funnel.network import BatchNetwork

TABLES, POOLS, STANDARDISE = "embedding.tables.", "embedding.pools.", "standardise."


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
        elif wanted[name].shape == tensor.shape:
            wanted[name].copy_(tensor)
        else:
            spread_columns(tensor, wanted[name], columns)


def in_order(small: BatchNetwork, own: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The fields as the small network's first layers read them."""
    return sorted(own, key=lambda pair: small.embedding.places[pair[0]].start)


def spread_columns(small: Tensor, large: Tensor, columns: Tensor) -> None:
    """A first layer's weights: column n of the small one becomes column columns[n], the others 0."""
    assert small.shape == (large.shape[0], len(columns)), f"{small.shape} in {large.shape}"
    large.zero_()
    large[:, columns] = small
