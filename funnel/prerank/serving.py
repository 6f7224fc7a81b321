"""The user tower as one graph for a serving side that has none of this code, and the vectors of items.

    ids int64 (B, K), numeric float32 (B, N), and FIELD.ids (S), FIELD.begins (B) for each list of the query's side
        -> query float32 (B, O): the unit vector times the learnt scale, so that query . item is the score

The graph reads the columns of the query's side alone, in the schema's order. Shapes: B requests, K single-valued
fields, N numeric features, S values of a list, O width, I items.
"""

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import UserError
from data.schema import Schema
from funnel.graph_files import Exported
from funnel.lists.units import ListBatch
from funnel.prerank.network import PreRankNetwork
from funnel.prerank.units import rows_of
from models.pre_ranker import PreRanker

EXAMPLE_ROWS = 5  # not 1, which a trace would take for a constant
OUTPUT = "query"


class UserTower(Exported):
    """`inputs` names the graph's arguments in order."""

    outputs = (OUTPUT,)
    weight: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, ranker: PreRanker, schema: Schema) -> None:
        super().__init__()
        side = ranker.query
        self.tower, self.log_scale = ranker.towers[0], ranker.log_scale
        self.register_buffer("weight", ranker.table.weight)
        mean, std = (stat[list(side.numeric)].float() for stat in (ranker.standardise.mean, ranker.standardise.std))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        if bool(ranker.standardise.far()[list(side.numeric)].any()):
            raise UserError("a numeric feature of the query is too far from 0 for float32; change its 'transform'")
        self.single, self.numerics = side.single, side.numeric
        self.bags, self.many = side.bags, tuple(schema.many[m].name for m in side.bags)
        plain = {"ids": bool(side.single), "numeric": bool(side.numeric)}
        lists = [name for field in self.many for name in (f"{field}.ids", f"{field}.begins")]
        self.inputs = (*(name for name, wanted in plain.items() if wanted), *lists)

    def forward(self, *inputs: Tensor) -> Tensor:
        given = dict(zip(self.inputs, inputs, strict=True))
        rows = inputs[-1].shape[0]
        parts = []
        if "ids" in given:
            parts.append(self.weight[given["ids"]].reshape(rows, -1))
        for field in self.many:
            parts.append(mean_of(self.weight[given[f"{field}.ids"]], given[f"{field}.begins"]))
        if "numeric" in given:
            numeric = (given["numeric"] - self.mean) / self.std
            parts.append(torch.nan_to_num(numeric, nan=0.0).clamp(-10.0, 10.0))
        unit = nn.functional.normalize(self.tower(torch.cat(parts, 1)), dim=1)
        return self.log_scale.exp() * unit

    def example(self) -> tuple[Tensor, ...]:
        found = {
            "ids": torch.zeros((EXAMPLE_ROWS, len(self.single)), dtype=torch.int64),
            "numeric": torch.zeros((EXAMPLE_ROWS, len(self.numerics))),
        }
        for field in self.many:
            found[f"{field}.ids"] = torch.zeros(2 * EXAMPLE_ROWS, dtype=torch.int64)
            found[f"{field}.begins"] = torch.arange(EXAMPLE_ROWS) * 2
        return tuple(found[name] for name in self.inputs)

    def dynamic_shapes(self) -> tuple[dict[int, torch.export.Dim], ...]:
        batch = torch.export.Dim("batch", min=1)
        varies = {f"{field}.ids": torch.export.Dim(f"values_{m}", min=0) for m, field in enumerate(self.many)}
        return tuple({0: varies.get(name, batch)} for name in self.inputs)

    def arguments(self, batch: ListBatch) -> list[np.ndarray]:
        """What the graph reads of a batch's requests: their first rows."""
        first = rows_of(batch.rows, batch.begin_L1[:-1])
        found = {
            "ids": first.ids_BK[:, list(self.single)].contiguous(),
            "numeric": first.numeric_BN[:, list(self.numerics)].float().contiguous(),
        }
        for field, place in zip(self.many, self.bags, strict=True):
            bag = first.bags[place]
            found |= {f"{field}.ids": bag.ids_S, f"{field}.begins": bag.offset_B1[:-1].contiguous()}
        return [found[name].numpy() for name in self.inputs]


def mean_of(vector_SE: Tensor, begin_B: Tensor) -> Tensor:
    """(B, E): the mean of each row's vectors, 0 where it has none; by differences of running sums, which every graph
    format knows."""
    running_SE = vector_SE.double().cumsum(0)
    running_SE = torch.cat([running_SE.new_zeros(1, running_SE.shape[1]), running_SE])
    begin_B1 = torch.cat([begin_B, begin_B.new_full((1,), vector_SE.shape[0])])
    # Not begin_B1[1:]: a trace would take from it that there are two rows or more.
    end_B = begin_B1[torch.arange(begin_B.shape[0], device=begin_B.device) + 1]
    length_B1 = (end_B - begin_B).unsqueeze(1)
    total_BE = running_SE[end_B] - running_SE[begin_B]
    return (total_BE / length_B1.clamp(min=1)).float()


@torch.inference_mode()
def vectors(network: PreRankNetwork, batch: ListBatch) -> tuple[Tensor, Tensor]:
    """(query_LO with the scale, item_BO) of whole requests."""
    (ranker,) = network.rankers
    rows = batch.rows
    query_LO, item_BO = ranker.both(rows.ids_BK, rows.numeric_BN, rows.bags, batch.begin_L1)
    return ranker.log_scale.exp() * query_LO, item_BO
