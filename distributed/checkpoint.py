"""Checkpoints: plain tensors (safetensors) and JSON, written whole or not at all, checked when read.

    RUN/checkpoints/step-00000120/
        model.safetensors        weights, embedding table, feature statistics
        optimizer.safetensors    moments of every optimizer
        checkpoint.json          config, schema, tasks, position, counters, checksums of the two files

A checkpoint is written into a hidden directory, synced and renamed; what a crash leaves behind is never read.
"""

import dataclasses
import json
import os
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT, VERSION = "counterpoint.checkpoint", 1
MODEL, OPTIMIZER, RECORD = "model.safetensors", "optimizer.safetensors", "checkpoint.json"
STEP = "step-"


@dataclass
class Progress:
    """Where a run stands: all that decides the next step, beside the tensors."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    rows: int = 0
    train_seconds: float = 0.0
    """Seconds spent in training steps, over all starts."""
    best_score: float | None = None
    best_step: int = 0
    stale: int = 0
    """Validations since the best one."""
    finished: bool = False


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    progress: Progress
    identity: dict[str, Any]
    """What model this is: config, schema, tasks, click rate."""
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]


class CheckpointStore:
    """The checkpoints of one run: the latest (to go on from) and the best (to use) are kept."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def save(
        self, model: dict[str, Tensor], optimizer: dict[str, Tensor], progress: Progress, identity: dict[str, Any]
    ) -> Path:
        """Write a checkpoint of this step, then delete those that are neither latest nor best."""
        self.directory.mkdir(parents=True, exist_ok=True)
        final = self.directory / f"{STEP}{progress.step:08d}"
        write_checkpoint(final, model, optimizer, progress, identity)
        keep = {final.name, f"{STEP}{progress.best_step:08d}"}
        for path in self.steps():
            if path.name not in keep:
                shutil.rmtree(path, ignore_errors=True)
        return final

    def clean(self) -> None:
        """Remove what a crash left half-written. Call while nobody writes."""
        for path in self.directory.glob(".*.tmp") if self.directory.exists() else ():
            shutil.rmtree(path, ignore_errors=True)

    def steps(self) -> list[Path]:
        """Whole checkpoints by step."""
        return sorted(path for path in self.directory.glob(f"{STEP}*") if (path / RECORD).exists())

    def latest(self) -> Path | None:
        steps = self.steps()
        return steps[-1] if steps else None

    def at(self, step: int) -> Path:
        return self.directory / f"{STEP}{step:08d}"


def write_checkpoint(
    final: Path, model: dict[str, Tensor], optimizer: dict[str, Tensor], progress: Progress, identity: dict[str, Any]
) -> None:
    """Write the directory `final` whole or not at all; a checkpoint that stands there already is replaced."""
    temporary = final.parent / f".{final.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    checksums = {}
    for name, tensors in ((MODEL, model), (OPTIMIZER, optimizer)):
        if not tensors:
            continue
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, temporary / name)
        checksums[name] = checksum(temporary / name)
        sync(temporary / name)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "progress": dataclasses.asdict(progress),
        "checksums": checksums,
        **identity,
    }
    (temporary / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    sync(temporary / RECORD)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    sync(final.parent)


def read_checkpoint(path: Path, with_optimizer: bool = True) -> Checkpoint:
    """Read and check a checkpoint directory.

    Raises ValueError naming the file: absent, not ours, of a newer version, truncated or changed since it was written.
    """
    record = read_record(path / RECORD)
    tensors = {}
    for name in (MODEL, OPTIMIZER) if with_optimizer else (MODEL,):
        file = path / name
        try:
            if checksum(file) != record["checksums"].get(name):
                raise ValueError(f"{file}: damaged (its checksum is not the one in {RECORD})")
            tensors[name] = load_file(file)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from None
    progress = Progress(**record.pop("progress"))
    identity = {key: value for key, value in record.items() if key not in ("format", "version", "checksums")}
    return Checkpoint(path, progress, identity, tensors[MODEL], tensors.get(OPTIMIZER, {}))


def read_record(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text())
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file; is this a checkpoint?") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{file}: not a Counterpoint checkpoint")
    if record.get("version") != VERSION:
        raise ValueError(f"{file}: version {record.get('version')}; this program reads version {VERSION}")
    missing = [key for key in ("progress", "checksums", "config", "schema", "tasks") if key not in record]
    if missing:
        raise ValueError(f"{file}: key {missing[0]!r} is missing")
    return record


def check_tensors(found: dict[str, Tensor], expected: dict[str, Tensor], where: Path) -> None:
    """Raise ValueError unless names, shapes and types are those of this run's model."""
    names = sorted(found.keys() ^ expected.keys())
    if names:
        raise ValueError(f"{where}: of another model (tensor {names[0]!r} is in only one of them)")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape or found[name].dtype != tensor.dtype:
            was, now = tuple(found[name].shape), tuple(tensor.shape)
            raise ValueError(f"{where}: of another model (tensor {name!r} is {was}, this model has {now})")


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of a torch optimizer as flat tensors, "3.exp_avg" for parameter 3."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": torch.as_tensor(value) for index, own in state.items() for key, value in own.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def checksum(path: Path) -> str:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return f"crc32:{value:08x}"


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
