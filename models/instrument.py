"""Features that the click tower alone reads: where and when an exposure was shown, which moves clicks, not conversions.

They leave the input of crossing, backbone and every other tower, and a small network of their own adds its logit to
that of the click tower [the shallow tower of Zhao et al., RecSys 2019, there for the position]:

    a(x, z) = tower_ctr(backbone(x)) + shallow(z)

so that what they add stands apart: how far they move clicks at all, and the click logit without them.
Shapes: B rows, I inputs (embeddings, then numerics), J of them instruments.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.embedding import FusedEmbedding
from models.layers import MLP

SHIFT = "instrument"
"""Name of a network's output: what the instruments add to the click logit."""


@dataclass(frozen=True)
class Instruments:
    """Which features are instruments, by their numbers among the categorical and the numeric ones."""

    fields: tuple[int, ...] = ()
    numerics: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.fields or self.numerics)


class ShallowTower(nn.Module):
    """x_BI -> (x without the instruments (B, I - J), what they add to the click logit (B))."""

    own: Tensor
    rest: Tensor

    def __init__(
        self, instruments: Instruments, embedding: FusedEmbedding, numerics: int, hidden: Sequence[int]
    ) -> None:
        super().__init__()
        width = embedding.output_width
        own = [column for k in instruments.fields for column in range(width)[embedding.places[k]]]
        own += [width + n for n in instruments.numerics]
        rest = sorted(set(range(width + numerics)) - set(own))
        self.register_buffer("own", torch.tensor(own, dtype=torch.int64), persistent=False)
        self.register_buffer("rest", torch.tensor(rest, dtype=torch.int64), persistent=False)
        self.tower = MLP(len(own), tuple(hidden), 1, 0.0)
        taken = {embedding.places[k].start for k in instruments.fields}
        starts = sorted((place.start, place.stop - place.start) for place in embedding.places)
        self.rest_widths = tuple(width for start, width in starts if start not in taken)
        """Widths of the fields that are left, in the order in which the input holds them."""

    def forward(self, x_BI: Tensor) -> tuple[Tensor, Tensor]:
        return x_BI.index_select(1, self.rest), self.tower(x_BI.index_select(1, self.own)).squeeze(1)
