"""The list scorer as one graph for a device that has none of this code: torch.export program and ONNX.

    ids_IK int64 (offsets added), numeric_IN float32 (NaN = missing): every item, candidates and watched ones
    asking_C int64: the item whose row has the request's features; before_CN int64: what stands before, the latest
    first, as places among the items, -1: none; known_CN float32: 1 where it was watched; feedback_CNF float32: log(1+x)
        -> view_CI, like_CI, next_CI float32: of every item, if it came next in that context

A step of a beam search is one call with a context for each list. Shapes: I items (from 1), C contexts (from 1), K
categorical and N numeric features; before: `model.before` places, as trained.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data.files import naming
from funnel.rerank.counts import Maps
from models.list_scorer import HEADS, Before, ListScorer

EXAMPLE_ITEMS, EXAMPLE_CONTEXTS = 5, 3  # not 1, which a trace would take for a constant
INPUTS = ("ids", "numeric", "asking", "before", "known", "feedback")


class ListGraph(nn.Module):
    """What is exported: calibrated probabilities."""

    slope_T: Tensor
    offset_T: Tensor

    def __init__(self, scorer: ListScorer, maps: Maps | None, fields: int, numerics: int) -> None:
        super().__init__()
        self.scorer, self.fields, self.numerics = scorer, fields, numerics
        pairs = [(maps or {}).get(head, (1.0, 0.0)) for head in HEADS]
        self.register_buffer("slope_T", torch.tensor([slope for slope, _ in pairs]))
        self.register_buffer("offset_T", torch.tensor([offset for _, offset in pairs]))

    def forward(
        self, ids_IK: Tensor, numeric_IN: Tensor, asking_C: Tensor, before_CN: Tensor, known_CN: Tensor,
        feedback_CNF: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        query_IO, item_IO = self.scorer.vectors(ids_IK, numeric_IN)
        there_CN = before_CN >= 0
        before = Before(item_IO[before_CN.clamp(min=0)], there_CN, there_CN & (known_CN > 0.5), feedback_CNF)
        target_CIO = item_IO.unsqueeze(0).expand(asking_C.shape[0], -1, -1)
        logit_CIT = self.scorer.logits(query_IO[asking_C], target_CIO, before)
        view_CI, like_CI, next_CI = (logit_CIT * self.slope_T + self.offset_T).sigmoid().unbind(-1)
        return view_CI, like_CI, next_CI

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the right types and shapes."""
        places = self.scorer.config.before
        return (
            torch.zeros((EXAMPLE_ITEMS, self.fields), dtype=torch.int64),
            torch.zeros((EXAMPLE_ITEMS, self.numerics)),
            torch.zeros(EXAMPLE_CONTEXTS, dtype=torch.int64),
            torch.zeros((EXAMPLE_CONTEXTS, places), dtype=torch.int64),
            torch.ones((EXAMPLE_CONTEXTS, places)),
            torch.zeros((EXAMPLE_CONTEXTS, places, self.scorer.feedback)),
        )

    def dynamic_shapes(self) -> tuple[dict[int, torch.export.Dim], ...]:
        items, contexts = torch.export.Dim("items", min=1), torch.export.Dim("contexts", min=1)
        return ({0: items}, {0: items}, {0: contexts}, {0: contexts}, {0: contexts}, {0: contexts})


def export_program(graph: ListGraph) -> torch.export.ExportedProgram:
    """The traced graph, in evaluation mode; it says nothing of where its source stood."""
    graph.eval().requires_grad_(False)
    with torch.no_grad(), quiet():
        program = torch.export.export(graph, graph.example(), dynamic_shapes=graph.dynamic_shapes(), strict=True)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def save_program(program: torch.export.ExportedProgram, path: Path) -> None:
    with naming(path):
        torch.export.save(program, path)


def save_onnx(graph: ListGraph, program: torch.export.ExportedProgram, path: Path) -> None:
    """The program as one ONNX file."""
    with torch.no_grad(), quiet():
        converted = torch.onnx.export(
            program,
            graph.example(),
            dynamo=True,
            input_names=list(INPUTS),
            output_names=list(HEADS),
            dynamic_shapes=graph.dynamic_shapes(),
            verbose=False,
        )
    assert converted is not None
    for node in converted.model.graph:
        node.metadata_props.clear()
    with naming(path):
        converted.save(path, external_data=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporters and ONNX's packages warn of about their own insides."""
    import logging

    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def loaded(kind: str, path: Path, options: Any = None) -> Any:
    """The file, read back, as a function from arrays to arrays; `options`: onnxruntime's, for its session."""
    if kind == "pt2":
        module = torch.export.load(path).module()

        def run_program(arrays: list[Any]) -> list[Any]:
            with torch.no_grad():
                return [tensor.numpy() for tensor in module(*map(torch.from_numpy, arrays))]

        return run_program
    import onnxruntime

    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted = {entry.name for entry in session.get_inputs()}

    def run_onnx(arrays: list[Any]) -> list[Any]:
        return list(session.run(None, {name: a for name, a in zip(INPUTS, arrays, strict=True) if name in wanted}))

    return run_onnx
