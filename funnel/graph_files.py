"""A network as a graph for a serving side that has none of this code: traced, written as a torch.export program and as
ONNX, and read back.

What is exported (Exported) is a module whose arguments are its `inputs` in order and whose results are its `outputs`.
"""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.files import naming

ONE_FILE_BYTES = 1 << 30  # an ONNX file itself ends at 2 GiB
Graph = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


class Exported(nn.Module):
    """A module that takes `inputs`, by these names, in this order, as forward(*inputs)."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the right types; no dimension that varies is 1, which a trace would take for a constant."""
        raise NotImplementedError

    def dynamic_shapes(self) -> tuple[dict[int, torch.export.Dim], ...]:
        """What may vary, by input."""
        raise NotImplementedError


def traced(module: Exported) -> torch.export.ExportedProgram:
    """The graph, in evaluation mode and without gradients, on the CPU. It says nothing of where its source stood."""
    module.eval().requires_grad_(False)
    with torch.no_grad(), quiet():
        # Strict: the models ask for len(tensor), which the other mode would take for a constant.
        program = torch.export.export(module, module.example(), dynamic_shapes=(module.dynamic_shapes(),), strict=True)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


class Uninterrupted(io.RawIOBase):
    """A file for torch's writer, which ends the process where a write fails: the first error is kept for later."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.file, self.path = path.open("wb", buffering=0), path
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = 0) -> int:
        return self.file.seek(place, whence)

    def tell(self) -> int:
        return self.file.tell()

    def write(self, content: Any) -> int:
        left = memoryview(content).cast("B")
        size = len(left)
        while self.error is None and len(left):
            try:
                left = left[self.file.write(left) or 0 :]
            except OSError as error:
                self.error = error
        return size

    def finish(self) -> None:
        """Raises the OSError of the first write that failed, with the file's name."""
        self.file.close()
        if self.error is not None:
            raise OSError(self.error.errno, self.error.strerror, str(self.path))


def save_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write the program as torch.export.save does. Raises OSError, naming the file, for a full disk."""
    file = Uninterrupted(path)
    try:
        torch.export.save(program, file)  # type: ignore[arg-type]
    finally:
        file.finish()


def save_onnx(module: Exported, program: torch.export.ExportedProgram, path: Path) -> None:
    """Write the program as ONNX. Weights beyond 1 GiB go to PATH.data, which has to stay beside it."""
    with torch.no_grad(), quiet():
        converted = torch.onnx.export(
            program,
            module.example(),
            dynamo=True,
            input_names=list(module.inputs),
            output_names=list(module.outputs),
            dynamic_shapes=(module.dynamic_shapes(),),
            verbose=False,
        )
    assert converted is not None
    for node in converted.model.graph:
        node.metadata_props.clear()
    weights = sum(tensor.nbytes for tensor in program.state_dict.values())
    with naming(path):
        converted.save(path, external_data=weights > ONE_FILE_BYTES)


def load(kind: str, path: Path, inputs: Sequence[str], options: Any = None) -> Graph:
    """The file, read back, as a function from arrays (in the order of `inputs`) to arrays.

    `options`: onnxruntime's, for its session. A graph does not name an input that nothing of it reads.
    """
    if kind == "pt2":
        module = torch.export.load(path).module()

        def run_program(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            with torch.no_grad():
                found = module(*map(torch.from_numpy, arrays))
            return [tensor.numpy() for tensor in ([found] if isinstance(found, Tensor) else found)]

        return run_program

    import onnxruntime

    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    read = {entry.name for entry in session.get_inputs()}

    def run_onnx(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        given = dict(zip(inputs, arrays, strict=True))
        return list(session.run(None, {name: array for name, array in given.items() if name in read}))

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
