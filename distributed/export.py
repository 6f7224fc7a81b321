"""The trained ranker as one graph, for a serving side that has none of this code: torch.export program and ONNX.

    ids_BK int64 (field offsets added), numeric_BN float32 (NaN = missing)[, value_B float32]
        -> pctr_B, pcvr_B, pctcvr_B float32[, fused_B float32]

An input that the schema has no column for (no categorical or no numeric feature) is left out of the graph.
Shapes: B rows (dynamic, from 1), K categorical fields, N numeric features, M scores that are fused.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models.entire_space import EntireSpaceModel
from models.objectives.terms import log_product

SCORES = ("pctr", "pcvr", "pctcvr")
FUSED, VALUE = "fused", "value"
EXPORTED_FUSIONS = ("product", "sum")
EXAMPLE_ROWS = 5  # not 1, which a trace would take for a constant
ONE_FILE_BYTES = 1 << 30  # an ONNX file itself ends at 2 GiB


@dataclass(frozen=True)
class FusionWeights:
    """A tuned fusion of M scores, each with its own numbers.

    product   fused = sum_i weight_i log(p_i + shift_i)    the logarithm of prod_i (p_i + bias_i)^exponent_i
    sum       fused = sum_i weight_i p_i / scale_i
    The product stays a logarithm: the order is the same, and no power of small probabilities underflows.
    """

    kind: str
    scores: tuple[str, ...]
    weight: tuple[float, ...]
    shift: tuple[float, ...]
    scale: tuple[float, ...]


class Fuse(nn.Module):
    """(B, M) scores -> fused_B, as FusionWeights says; float32 like es/objectives/fusion.py."""

    weight: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, fusion: FusionWeights) -> None:
        super().__init__()
        self.logarithm = fusion.kind == "product"
        for name in ("weight", "shift", "scale"):
            self.register_buffer(name, torch.tensor(getattr(fusion, name), dtype=torch.float32))

    def forward(self, scores_BM: Tensor) -> Tensor:
        terms_BM = (scores_BM + self.shift) / self.scale
        return ((terms_BM.log() if self.logarithm else terms_BM) * self.weight).sum(1)


class Ranker(nn.Module):
    """What is served: the model's probabilities, calibrated and fused where that is wanted.

    `inputs` and `outputs` name the graph's arguments and results in order.
    """

    def __init__(
        self, model: EntireSpaceModel, fields: int, numerics: int, fusion: FusionWeights | None = None
    ) -> None:
        super().__init__()
        absent = [task for task in ("ctr", "cvr") if task not in model.tasks]
        if absent:
            raise ValueError(
                f"the run's model has no task {absent[0]!r} (it has {', '.join(model.tasks)}): not a ranker"
            )
        self.model = model
        self.fields, self.numerics = fields, numerics
        self.fuse = Fuse(fusion) if fusion else None
        self.fused_scores = fusion.scores if fusion else ()
        self.inputs = ("ids",) * bool(fields) + ("numeric",) * bool(numerics) + (VALUE,) * (VALUE in self.fused_scores)
        self.outputs = SCORES + (FUSED,) * bool(fusion)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.inputs, inputs, strict=True))
        rows = inputs[0].shape[0]
        ids_BK = given["ids"] if self.fields else inputs[0].new_zeros((rows, 0), dtype=torch.int64)
        numeric_BN = given["numeric"] if self.numerics else inputs[0].new_zeros((rows, 0), dtype=torch.float32)
        logits = self.model(ids_BK, numeric_BN)
        scores = {
            "pctr": logits["ctr"].sigmoid(),
            "pcvr": logits["cvr"].sigmoid(),
            "pctcvr": log_product(logits["ctr"], logits["cvr"]).exp(),
        }
        result = tuple(scores[name] for name in SCORES)
        if self.fuse is None:
            return result
        scores[VALUE] = given.get(VALUE, scores["pctr"])
        return (*result, self.fuse(torch.stack([scores[name] for name in self.fused_scores], dim=1)))

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the right types: every id 0, every number 0."""
        shapes = {"ids": (EXAMPLE_ROWS, self.fields), "numeric": (EXAMPLE_ROWS, self.numerics), VALUE: (EXAMPLE_ROWS,)}
        types = {"ids": torch.int64}
        return tuple(torch.zeros(shapes[name], dtype=types.get(name, torch.float32)) for name in self.inputs)


def export_program(ranker: Ranker) -> torch.export.ExportedProgram:
    """Trace the ranker (put into evaluation mode, no gradients; on the CPU) with a dynamic batch.

    The program says nothing of where its source stood.
    """
    ranker.eval().requires_grad_(False)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad(), quiet():
        # Strict: the models ask for len(tensor), which the other mode would take for a constant.
        program = torch.export.export(
            ranker, ranker.example(), dynamic_shapes=(tuple({0: batch} for _ in ranker.inputs),), strict=True
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def save_onnx(ranker: Ranker, program: torch.export.ExportedProgram, path: Path) -> None:
    """Write the program as ONNX. Weights beyond 1 GiB go to PATH.data, which has to stay beside it."""
    with torch.no_grad(), quiet():
        converted = torch.onnx.export(
            program,
            ranker.example(),
            dynamo=True,
            input_names=list(ranker.inputs),
            output_names=list(ranker.outputs),
            dynamic_shapes=(tuple({0: "batch"} for _ in ranker.inputs),),
            verbose=False,
        )
    assert converted is not None
    for node in converted.model.graph:
        node.metadata_props.clear()
    weights = sum(tensor.nbytes for tensor in program.state_dict.values())
    converted.save(path, external_data=weights > ONE_FILE_BYTES)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that torch's exporters give about torch's own insides and packages we have no use for."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
