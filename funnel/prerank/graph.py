"""A tower traced, written as a torch.export program and as ONNX, and read back as a function."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.files import naming
from funnel.prerank.serving import OUTPUT, UserTower

ONE_FILE_BYTES = 1 << 30  # an ONNX file itself ends at 2 GiB
Graph = Callable[[tuple[Tensor, ...]], np.ndarray]


def traced(tower: UserTower) -> torch.export.ExportedProgram:
    """With a dynamic batch; says nothing of where its source stood."""
    with torch.no_grad(), quiet():
        program = torch.export.export(tower, tower.example(), dynamic_shapes=(tower.dynamic_shapes(),), strict=True)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def save_program(program: torch.export.ExportedProgram, path: Path) -> None:
    # By way of memory: where a write fails, torch's own writer ends the process.
    written = io.BytesIO()
    torch.export.save(program, written)
    with naming(path):
        path.write_bytes(written.getvalue())


def save_onnx(tower: UserTower, program: torch.export.ExportedProgram, path: Path) -> None:
    """Weights beyond 1 GiB go to PATH.data, which has to stay beside it."""
    with torch.no_grad(), quiet():
        converted = torch.onnx.export(
            program,
            tower.example(),
            dynamo=True,
            input_names=list(tower.inputs),
            output_names=[OUTPUT],
            dynamic_shapes=(tower.dynamic_shapes(),),
            verbose=False,
        )
    assert converted is not None
    for node in converted.model.graph:
        node.metadata_props.clear()
    with naming(path):
        converted.save(path, external_data=tower.weight.numel() * 4 > ONE_FILE_BYTES)


def load(kind: str, path: Path) -> Graph:
    """The file, read back, as a function from the inputs to the queries' vectors."""
    if kind == "pt2":
        module = torch.export.load(path).module()

        def run_program(inputs: tuple[Tensor, ...]) -> np.ndarray:
            with torch.no_grad():
                found: np.ndarray = module(*inputs).numpy()
                return found

        return run_program

    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run_onnx(inputs: tuple[Tensor, ...]) -> np.ndarray:
        found: np.ndarray = session.run(None, dict(zip(names, (one.numpy() for one in inputs), strict=True)))[0]
        return found

    return run_onnx


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that torch's exporters and ONNX's packages give about their own insides."""
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
