"""The trained ranker as one graph, for a serving side that has none of this code: torch.export program and ONNX.

    ids_BK int64 (field offsets added), numeric_BN float32 (NaN = missing; float64 if a feature is far from 0, see
    models/layers.py: Standardise)[, value_B float32]
    [, FIELD.ids_S int64, FIELD.begins_B int64 for every multi-valued field]
        -> pctr_B, pcvr_B, pctcvr_B float32[, fused_B float32]

An input that the schema has no column for (no single-valued or no numeric feature) is left out of the graph.
Shapes: B rows (dynamic, from 1), K categorical fields, N numeric features, S values of
a multi-valued field, M scores that are fused.
"""

import torch
from torch import Tensor

from data.schema import Schema
from funnel.graph_files import Exported, traced
from funnel.network import BatchNetwork
from funnel.ranking.calibration import Calibration
from funnel.ranking.export_pooling import exported_pooling
from funnel.tools import Served
from models.hidden_cause import log_both
from models.pooling import BagTensors

SCORES = ("pctr", "pcvr", "pctcvr")
FUSED, VALUE = "fused", "value"
EXAMPLE_ROWS = 5  # not 1, which a trace would take for a constant


class Ranker(Exported):
    """What is served: the model's probabilities, calibrated and fused where that is wanted, as jobs.score gives them.

    `inputs` and `outputs` name the graph's arguments and results in order.
    """

    def __init__(
        self,
        model: BatchNetwork,
        schema: Schema,
        calibration: Calibration | None = None,
        policy: Served | None = None,
    ) -> None:
        super().__init__()
        self.model, self.calibration = model, calibration
        self.fields, self.numerics = len(schema.single), len(schema.numeric)
        self.many = tuple(field.name for field in schema.many)
        far = self.numerics and bool(model.standardise.far().any())
        self.numeric_type = torch.float64 if far else torch.float32
        self.fuse = policy.module() if policy else None
        self.fused_scores = policy.scores if policy else ()
        plain = {"ids": bool(self.fields), "numeric": bool(self.numerics), VALUE: VALUE in self.fused_scores}
        bags = [name for field in self.many for name in bag_inputs(field)]
        self.inputs = (*(name for name, wanted in plain.items() if wanted), *bags)
        self.outputs = SCORES + (FUSED,) * (policy is not None)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.inputs, inputs, strict=True))
        bags = [with_end(*(given[name] for name in bag_inputs(field))) for field in self.many]
        rows = inputs[-1].shape[0]  # no input but the values of a multi-valued field has another length
        ids_BK = given["ids"] if self.fields else inputs[0].new_zeros((rows, 0), dtype=torch.int64)
        numeric_BN = given["numeric"] if self.numerics else inputs[0].new_zeros((rows, 0), dtype=torch.float32)
        logits = self.model.logits(ids_BK, numeric_BN, bags)
        if self.calibration is not None:
            logits = self.calibration.apply(logits)
        scores = {
            "pctr": logits["ctr"].sigmoid().float(),
            "pcvr": logits["cvr"].sigmoid().float(),
            "pctcvr": log_both(logits).exp().float(),
        }
        result = tuple(scores[name] for name in SCORES)
        if self.fuse is None:
            return result
        scores[VALUE] = given.get(VALUE, scores["pctr"])
        return (*result, self.fuse(torch.stack([scores[name] for name in self.fused_scores], dim=1)))

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the right types: every id and every number 0, two values in each row of a multi-valued field."""
        examples = {
            "ids": torch.zeros((EXAMPLE_ROWS, self.fields), dtype=torch.int64),
            "numeric": torch.zeros((EXAMPLE_ROWS, self.numerics), dtype=self.numeric_type),
            VALUE: torch.zeros(EXAMPLE_ROWS),
        }
        for field in self.many:
            ids, begins = bag_inputs(field)
            examples[ids] = torch.zeros(2 * EXAMPLE_ROWS, dtype=torch.int64)
            examples[begins] = torch.arange(EXAMPLE_ROWS) * 2
        return tuple(examples[name] for name in self.inputs)

    def dynamic_shapes(self) -> tuple[dict[int, torch.export.Dim], ...]:
        """What may vary: the rows, and the values of each multi-valued field."""
        batch = torch.export.Dim("batch", min=1)
        varies = {}
        for number, field in enumerate(self.many):
            varies[bag_inputs(field)[0]] = torch.export.Dim(f"values_{number}", min=0)
        return tuple({0: varies.get(name, batch)} for name in self.inputs)


def bag_inputs(field: str) -> tuple[str, str]:
    """Names of the two inputs of a multi-valued field: all values end to end, and where each row's begin."""
    return f"{field}.ids", f"{field}.begins"


def with_end(ids_S: Tensor, begin_B: Tensor) -> BagTensors:
    return BagTensors(ids_S, torch.cat([begin_B, begin_B.new_full((1,), ids_S.shape[0])]))


def export_program(ranker: Ranker) -> torch.export.ExportedProgram:
    """Trace the ranker with a dynamic batch."""
    with exported_pooling(ranker.model.embedding):
        return traced(ranker)
