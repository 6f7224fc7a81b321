"""The pre-ranker: two towers over whole requests, z = exp(scale) cos(query, item) with a scale that is learnt.

The query tower runs once a request, on the request's first row; the item tower once a row. Values of a multi-valued
field are averaged, whatever the ranker does with them: a tower sees one side alone.

Shapes: B rows of L requests, K single-valued fields, N numeric features, S values of a multi-valued field, E width of a
table's vectors, O width of the towers' vectors.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.embedding import EmbeddingTable
from models.layers import MLP, Standardise
from models.pooling import BagTensors
from models.rows import EVERY_ROW, Share
from models.two_tower import Side, TowerConfig, averaged


class PreRanker(nn.Module):
    """rows: of the fused table; numerics: how many numeric features; seed: the whole initialisation; share: which rows
    of the table are held here; scale: what the cosine is multiplied by at first."""

    def __init__(
        self,
        config: TowerConfig,
        rows: int,
        numerics: int,
        query: Side,
        item: Side,
        scale: float,
        seed: int,
        share: Share = EVERY_ROW,
    ) -> None:
        super().__init__()
        self.config, self.query, self.item = config, query, item
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.table = EmbeddingTable(max(rows, 1), config.width, config.embedding_scale, share)
            self.standardise = Standardise(numerics)
            self.towers = nn.ModuleList(
                [MLP(self.width_of(side), config.hidden, config.output) for side in (query, item)]
            )
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def width_of(self, side: Side) -> int:
        """Inputs of a side's tower."""
        return self.config.width * (len(side.single) + len(side.bags)) + len(side.numeric)

    def forward(
        self, ids_BK: Tensor, numeric_BN: Tensor, bags: Sequence[BagTensors], begin_L1: Tensor, list_B: Tensor
    ) -> Tensor:
        """z_B of the rows of whole requests; list_B: the request of each row."""
        query_LO, item_BO = self.both(ids_BK, numeric_BN, bags, begin_L1)
        return self.log_scale.exp() * (query_LO.index_select(0, list_B) * item_BO).sum(1)

    def both(
        self, ids_BK: Tensor, numeric_BN: Tensor, bags: Sequence[BagTensors], begin_L1: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Unit vectors: (query_LO, item_BO)."""
        first_L = begin_L1[:-1]
        wanted = self.wanted(ids_BK, bags, first_L)
        # One lookup of the table a step: its gradient is that of the rows touched last (models/embedding.py).
        vector_SE = self.table(torch.cat([ids for ids, _ in wanted])).split([len(ids) for ids, _ in wanted])
        numeric_BN = self.standardise(numeric_BN)
        found, place = [], 0
        for side, rows_BN in ((self.query, numeric_BN.index_select(0, first_L)), (self.item, numeric_BN)):
            count = len(side.bags) + 1
            parts = [
                vectors.view(len(rows_BN), -1) if offset is None else averaged(vectors, offset)
                for vectors, (_, offset) in zip(
                    vector_SE[place : place + count], wanted[place : place + count], strict=True
                )
            ]
            found.append(self.vector(side, torch.cat([*parts, rows_BN[:, list(side.numeric)]], 1)))
            place += count
        return found[0], found[1]

    def vector(self, side: Side, inputs: Tensor) -> Tensor:
        """Unit vectors of one side from what its tower reads."""
        tower = self.towers[0 if side is self.query else 1]
        return functional.normalize(tower(inputs), dim=1)

    def wanted(self, ids_BK: Tensor, bags: Sequence[BagTensors], first_L: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """(ids, offsets of a multi-valued field or None) in the order of the lookup: query side, then item side."""
        found: list[tuple[Tensor, Tensor | None]] = [
            (ids_BK.index_select(0, first_L)[:, list(self.query.single)].reshape(-1), None)
        ]
        for m in self.query.bags:
            bag = bag_rows(bags[m], first_L)
            found.append((bag.ids_S, bag.offset_B1))
        found.append((ids_BK[:, list(self.item.single)].reshape(-1), None))
        found += [(bags[m].ids_S, bags[m].offset_B1) for m in self.item.bags]
        return found

    def asked(self, ids_BK: Tensor, bags: Sequence[BagTensors], begin_L1: Tensor) -> Tensor:
        """The table's rows that a batch asks for, in the order of the lookup."""
        return torch.cat([ids for ids, _ in self.wanted(ids_BK, bags, begin_L1[:-1])])


def bag_rows(bag: BagTensors, row_R: Tensor) -> BagTensors:
    """The values of some rows, in their order."""
    length_R = bag.offset_B1.diff().index_select(0, row_R)
    offset_R1 = torch.cat([length_R.new_zeros(1), length_R.cumsum(0)])
    shift_R = bag.offset_B1.index_select(0, row_R) - offset_R1[:-1]
    place_S = torch.arange(int(offset_R1[-1]), device=row_R.device) + shift_R.repeat_interleave(length_R)
    return BagTensors(bag.ids_S.index_select(0, place_S), offset_R1)
