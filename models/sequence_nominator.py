"""The near-real-time sequence nominator: what a user wants now, from what was consumed last and how.

    U = sum_i w_i Emb(V_i),   w_i = softmax_i f(dwell_i, gap_i, place_i)

over the last consumed items V_i [Wang et al., Fresh Content Needs More Attention, KDD 2023, s.4.1.2]: how long each was
watched, how long ago, how many others came after it, all three cut into steps and embedded; f is a small network to one
number. There is no recurrence (the paper's gained nothing). Emb(V_i) is the vector of the item's id plus that of its
category, weighed by IDF, both shared with the item's tower.

Shapes: B rows, S history items of all rows together, E width of a table's vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.layers import MLP
from models.pooling import BagTensors, softmax_by_row
from models.rows import EVERY_ROW, Share
from models.two_tower import Side, TowerConfig, TwoTower


@dataclass(frozen=True)
class History:
    """Places of the aligned lists of a history among the multi-valued fields: items, categories, dwell and gap."""

    item: int
    category: int
    dwell: int
    gap: int

    @property
    def all(self) -> tuple[int, ...]:
        return (self.item, self.category, self.dwell, self.gap)


class SequenceNominator(TwoTower):
    """Two towers whose query begins with U. `query.bags` are the lists beside the history's."""

    def __init__(
        self,
        config: TowerConfig,
        rows: int,
        numerics: int,
        query: Side,
        item: Side,
        history: History,
        seed: int,
        share: Share = EVERY_ROW,
    ) -> None:
        super().__init__(config, rows, numerics, query, item, seed, share)
        self.history = history

    def build(self) -> None:
        width = self.config.width
        self.place = nn.Embedding(self.config.positions, width)
        self.weigh = MLP(3 * width, (self.config.weight_hidden,), 1)

    def width_of(self, side: Side) -> int:
        return super().width_of(side) + (self.config.width if side is self.sides[0] else 0)

    def inputs(
        self,
        side: Side,
        single_BKE: Tensor,
        numeric_BN: Tensor,
        bag_SE: Sequence[Tensor],
        bags: Sequence[BagTensors],
    ) -> list[Tensor]:
        found = super().inputs(side, single_BKE, numeric_BN, bag_SE, bags)
        return [self.state(bag_SE, bags), *found] if side is self.sides[0] else found

    def state(self, bag_SE: Sequence[Tensor], bags: Sequence[BagTensors]) -> Tensor:
        """U of every row, (B, E); 0 for a row without history."""
        offset_B1 = bags[self.history.item].offset_B1
        vector_SE = bag_SE[self.history.item] + bag_SE[self.history.category]
        rows = len(offset_B1) - 1
        row_S = torch.arange(rows, device=offset_B1.device).repeat_interleave(
            offset_B1.diff(), output_size=len(vector_SE)
        )
        weight_S = self.weights(bag_SE[self.history.dwell], bag_SE[self.history.gap], offset_B1, row_S)
        return vector_SE.new_zeros(rows, vector_SE.shape[1]).index_add(0, row_S, vector_SE * weight_S.unsqueeze(1))

    def weights(self, dwell_SE: Tensor, gap_SE: Tensor, offset_B1: Tensor, row_S: Tensor) -> Tensor:
        """w of every history item, (S,): those of a row add up to 1."""
        later_S = offset_B1[1:].index_select(0, row_S) - 1 - torch.arange(len(row_S), device=row_S.device)
        place_SE = self.place(later_S.clamp(max=self.config.positions - 1))
        score_S = self.weigh(torch.cat([dwell_SE, gap_SE, place_SE], 1)).squeeze(1)
        return softmax_by_row(score_S, row_S, len(offset_B1) - 1)
