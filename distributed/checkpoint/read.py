"""Checkpoints: plain tensors (safetensors) and JSON, written whole or not at all, checked when read.

    RUN/checkpoints/step-00000120/
        model.safetensors                      dense weights, feature statistics
        optimizer.safetensors                  moments of the dense weights, counters of the row optimizers, if any yet
        tables-00000-of-00002.safetensors      rows 0, 2, 4, ... of every table and of its optimizer's state
        tables-00001-of-00002.safetensors      rows 1, 3, 5, ..., written by worker 1
        checkpoint.json                        problem, config, schema, facts, position, counters, checksums of files

How many shards there are is what the writers were; any number of workers reads them, replicated or sharded. Writing is
in store.py.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from data.errors import UserError
from distributed.checkpoint.rows import RowTensor, check_shard, fill_rows, shard_name
from funnel.settings import read as read_settings
from models.rows import EVERY_ROW

FORMAT, VERSION = "counterpoint.checkpoint", 3
MODEL, OPTIMIZER, RECORD = "model.safetensors", "optimizer.safetensors", "checkpoint.json"
MODEL_DIRECTORY = "model"
"""Of a run: its best checkpoint, without the optimizer."""
ROWS = "rows."
"""Names of row optimizers' tensors begin so: "rows.<table>.<name>"."""


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
class State:
    """Tensors that one worker holds: the dense ones, which are the same on all, and rows of tables."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, RowTensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    progress: Progress
    identity: dict[str, Any]
    """What model this is: problem, config, schema, facts."""
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    checksum: str = ""
    """Of the model: see model_checksum."""


def read_checkpoint(path: Path, with_optimizer: bool = True) -> Checkpoint:
    """Read and check a checkpoint directory; the shards of tables become whole tables in this process.

    Raises UserError naming the file: absent, not ours, of another version, truncated or changed since it was written.
    """
    record = read_record(path / RECORD)
    check_files(path, record, with_optimizer=with_optimizer)
    checkpoint = read_dense(path, record, with_optimizer)
    tables = {}
    for name, (rows, *shape) in record["tables"].items():
        if with_optimizer or not name.startswith(ROWS):
            tables[name] = RowTensor(torch.empty(rows, *shape), rows, EVERY_ROW)
    fill_rows(path, tables, record["shards"])
    for name, table in tables.items():
        (checkpoint.optimizer if name.startswith(ROWS) else checkpoint.model)[name] = table.tensor
    return checkpoint


def load_state(path: Path, state: State, rank: int, workers: int) -> tuple[Progress, dict[str, Tensor]]:
    """Fill a worker's model and rows in place, each worker reading what it holds; returns dense optimizer tensors too.

    Without tensors of row optimizers in `state.rows` the checkpoint's are left out, and the optimizer's with them. Each
    shard's checksum is checked by one worker, in turn. Raises UserError as read_checkpoint does, or if the checkpoint
    is another model's; nothing is certain of the state then.
    """
    record = read_record(path / RECORD)
    with_optimizer = any(name.startswith(ROWS) for name in state.rows)
    check_files(path, record, rank, workers, with_optimizer)
    expected = {name: [row.rows, *row.tensor.shape[1:]] for name, row in state.rows.items()}
    found = {name: shape for name, shape in record["tables"].items() if with_optimizer or not name.startswith(ROWS)}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            differs(path, name, found.get(name), expected.get(name))
    checkpoint = read_dense(path, record, with_optimizer)
    check_tensors(checkpoint.model, state.model, path)
    with torch.no_grad():
        for name, tensor in state.model.items():
            tensor.copy_(checkpoint.model[name])
    fill_rows(path, state.rows, record["shards"])
    return checkpoint.progress, checkpoint.optimizer


def read_dense(path: Path, record: dict[str, Any], with_optimizer: bool) -> Checkpoint:
    tensors = {}
    for name in dense_files(record, with_optimizer):
        try:
            tensors[name] = load_file(path / name)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path / name}: cannot be read ({str(error).splitlines()[0]})") from None
    identity = {key: value for key, value in record.items() if key not in OWN_KEYS}
    progress, optimizer = Progress(**record["progress"]), tensors.get(OPTIMIZER, {})
    return Checkpoint(path, progress, identity, tensors[MODEL], optimizer, model_checksum(record))


def dense_files(record: dict[str, Any], with_optimizer: bool) -> tuple[str, ...]:
    """Names of the files beside the shards. Before the first step there may be nothing to keep of the optimizer."""
    moments = OPTIMIZER in record["checksums"] or record["progress"]["step"] > 0
    return (MODEL, OPTIMIZER) if with_optimizer and moments else (MODEL,)


OWN_KEYS = ("format", "version", "progress", "shards", "tables", "checksums", "checksum")
MOST_SHARDS = 1_000_000


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record with a checksum of itself."""
    return {**record, "checksum": content_checksum(record)}


def content_checksum(record: dict[str, Any]) -> str:
    content = {key: value for key, value in record.items() if key != "checksum"}
    return f"crc32:{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


def model_checksum(record: dict[str, Any]) -> str:
    """Which model a checkpoint holds: 16 hex digits that change with any weight, and with its problem, settings, schema
    or facts, but not with how long it was trained for. Results keep it to say which model they were made from."""
    weights = {name: value for name, value in record["checksums"].items() if name != OPTIMIZER}
    content = {key: value for key, value in record.items() if key not in OWN_KEYS} | {"checksums": weights}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def read_record(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; is this a checkpoint?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError(f"{file}: not a Counterpoint checkpoint")
    if record.get("version") != VERSION:
        raise UserError(f"{file}: version {record.get('version')}; this program reads version {VERSION}")
    missing = [key for key in (*OWN_KEYS, "config", "schema") if key not in record]
    if missing:
        raise UserError(f"{file}: key {missing[0]!r} is missing")
    if record["checksum"] != content_checksum(record):
        raise UserError(f"{file}: damaged (its checksum is not that of its content)")
    check_record(file, record)
    return record


def check_record(file: Path, record: dict[str, Any]) -> None:
    """Raise UserError for content that no writer of ours makes: what follows relies on it."""

    def count(value: Any, least: int = 0) -> bool:
        return type(value) is int and least <= value < 1 << 48

    expected = {
        "shards": count(record["shards"], 1) and record["shards"] <= MOST_SHARDS,
        "tables": isinstance(record["tables"], dict)
        and all(isinstance(shape, list) and shape and all(map(count, shape)) for shape in record["tables"].values()),
        "checksums": isinstance(record["checksums"], dict),
        "progress": is_progress(record["progress"]),
        "config": isinstance(record["config"], dict),
        "schema": isinstance(record["schema"], dict),
        "facts": isinstance(facts_of(record), dict),
    }
    for key, good in expected.items():
        if not good:
            raise UserError(f"{file}: its {key!r} is not what a checkpoint has there")


def is_progress(value: Any) -> bool:
    try:
        progress = read_settings(Progress, value)
    except ValueError:
        return False
    return all(number >= 0 for number in vars(progress).values() if type(number) is int)


def facts_of(record: dict[str, Any]) -> Any:
    """What the problem measured before the training. Older records keep it among their other keys."""
    own = (*OWN_KEYS, "problem", "config", "schema")
    return record.get("facts", {key: value for key, value in record.items() if key not in own})


def check_files(
    path: Path, record: dict[str, Any], rank: int = 0, workers: int = 1, with_optimizer: bool = True
) -> None:
    """Compare checksums: of the dense files, and of every workers-th shard from this worker's on."""
    shards = [shard_name(number, record["shards"]) for number in range(rank, record["shards"], workers)]
    for name in (*dense_files(record, with_optimizer), *shards):
        try:
            found = checksum(path / name)
        except OSError as error:
            raise UserError(f"{path / name}: cannot be read ({error.strerror})") from None
        if found != record["checksums"].get(name):
            raise UserError(f"{path / name}: damaged (its checksum is not the one in {RECORD})")
    check_shards(path, record["tables"], record["shards"], with_optimizer)


def check_shards(path: Path, tables: dict[str, list[int]], shards: int, with_optimizer: bool) -> None:
    """Compare the headers of all shards with the tables that the record names, before room is made for them."""
    wanted = {name: shape for name, shape in tables.items() if with_optimizer or not name.startswith(ROWS)}
    for number in range(shards):
        check_shard(path, wanted, number, shards)


def check_tensors(found: dict[str, Tensor], expected: dict[str, Tensor], where: Path) -> None:
    """Raise UserError unless names, shapes and types are those of this run's model.

    Floats of another width are converted when they are copied: feature statistics of older checkpoints have 32 bits.
    """
    for name in sorted(found.keys() | expected.keys()):
        was, now = found.get(name), expected.get(name)
        if was is None or now is None or was.shape != now.shape or not same_type(was, now):
            differs(where, name, None if was is None else [*was.shape], None if now is None else [*now.shape])


def same_type(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype or (one.dtype.is_floating_point and other.dtype.is_floating_point)


def differs(where: Path, name: str, was: list[int] | None, now: list[int] | None) -> None:
    if was is None or now is None:
        raise UserError(f"{where}: of another model (tensor {name!r} is in only one of them)")
    raise UserError(f"{where}: of another model (tensor {name!r} is {tuple(was)}, this model has {tuple(now)})")


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
