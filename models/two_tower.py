"""Two towers, one for the query and one for the item, whose unit vectors' product says how well they fit.

    query_BE = normalise(MLP([query features])),   item_BE = normalise(MLP([item features]))

Every categorical value's vector is weighed by `importance` of its table row (IDF: a rare category says more than a
common one; 1 for all others) [Wang et al., Fresh Content Needs More Attention, KDD 2023, s.4]. Values of a multi-valued
field are averaged. Nothing here knows which item a row is about unless an id is among the item's features.

Shapes: B rows, K single-valued fields, N numeric features, S values of a multi-valued field, E width of a table's
vectors, O width of the towers' vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from data.errors import UserError
from models.embedding import EmbeddingTable
from models.layers import MLP, Standardise
from models.pooling import BagTensors
from models.rows import EVERY_ROW, Share


@dataclass(frozen=True)
class TowerConfig:
    width: int = 16
    """Width of an embedding vector."""
    hidden: tuple[int, ...] = (64,)
    """Layer widths of either tower."""
    output: int = 32
    """Width of the vectors that are compared."""
    embedding_scale: float = 0.05
    """Standard deviation of the embedding's initial values."""
    positions: int = 50
    """Places of a history that are told apart, counted from its end; only the sequence nominator has them."""
    weight_hidden: int = 16
    """Hidden units of f, which weighs a history by dwell, gap and place; only the sequence nominator has it."""

    def __post_init__(self) -> None:
        for key in ("width", "output", "positions", "weight_hidden"):
            if getattr(self, key) < 1:
                raise UserError(f"model.{key} must be at least 1, got {getattr(self, key)}")
        if any(width < 1 for width in self.hidden):
            raise UserError(f"model.hidden needs positive widths, got {self.hidden}")
        if not self.embedding_scale > 0:
            raise UserError(f"model.embedding_scale must be positive, got {self.embedding_scale}")


@dataclass(frozen=True)
class Side:
    """Places of one side's features among the single-valued fields, the numeric features and the multi-valued ones."""

    single: tuple[int, ...]
    numeric: tuple[int, ...]
    bags: tuple[int, ...]


class TwoTower(nn.Module):
    """{"query": (B, O), "item": (B, O)}, rows of length 1.

    rows: of the fused table; numerics: how many numeric features; seed: the whole initialisation; share: which rows of
    the table are held here, where others hold the rest.
    """

    importance: Tensor

    def __init__(
        self,
        config: TowerConfig,
        rows: int,
        numerics: int,
        query: Side,
        item: Side,
        seed: int,
        share: Share = EVERY_ROW,
    ) -> None:
        super().__init__()
        self.config, self.sides = config, (query, item)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.table = EmbeddingTable(rows, config.width, config.embedding_scale, share)
            self.register_buffer("importance", torch.ones(rows))
            self.standardise = Standardise(numerics)
            self.towers = nn.ModuleList([MLP(self.width_of(side), config.hidden, config.output) for side in self.sides])
            self.build()

    def build(self) -> None:
        """What a kind of two towers has besides."""

    def width_of(self, side: Side) -> int:
        """Inputs of a side's tower."""
        return self.config.width * (len(side.single) + len(side.bags)) + len(side.numeric)

    def forward(self, ids_BK: Tensor, numeric_BN: Tensor, bags: Sequence[BagTensors] = ()) -> dict[str, Tensor]:
        rows = len(ids_BK)
        # One lookup of the table a step: its gradient is that of the rows touched last (models/embedding.py).
        ids_V = torch.cat([ids_BK.reshape(-1), *(bag.ids_S for bag in bags)])
        vector_VE = self.table(ids_V) * self.importance.index_select(0, ids_V).unsqueeze(1)
        sizes = [ids_BK.numel(), *(len(bag.ids_S) for bag in bags)]
        single_VE, *bag_SE = vector_VE.split(sizes)
        single_BKE = single_VE.view(rows, ids_BK.shape[1], self.config.width)
        numeric_BN = self.standardise(numeric_BN)
        parts = [self.inputs(side, single_BKE, numeric_BN, bag_SE, bags) for side in self.sides]
        query_BO, item_BO = (
            functional.normalize(tower(torch.cat(part, 1)), dim=1)
            for tower, part in zip(self.towers, parts, strict=True)
        )
        return {"query": query_BO, "item": item_BO}

    def inputs(
        self,
        side: Side,
        single_BKE: Tensor,
        numeric_BN: Tensor,
        bag_SE: Sequence[Tensor],
        bags: Sequence[BagTensors],
    ) -> list[Tensor]:
        """What a side's tower reads, to be put end to end."""
        found = [single_BKE[:, k] for k in side.single]
        found += [averaged(bag_SE[m], bags[m].offset_B1) for m in side.bags]
        return [*found, numeric_BN[:, list(side.numeric)]]


def averaged(vector_SE: Tensor, offset_B1: Tensor) -> Tensor:
    """(B, E): the mean of each row's vectors, 0 where it has none."""
    length_B = offset_B1.diff()
    row_S = torch.arange(len(length_B), device=offset_B1.device).repeat_interleave(length_B, output_size=len(vector_SE))
    total_BE = vector_SE.new_zeros(len(length_B), vector_SE.shape[1]).index_add(0, row_S, vector_SE)
    return total_BE / length_B.clamp(min=1).unsqueeze(1)
