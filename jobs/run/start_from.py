"""Beginning where another run ended: a training with its weights, an evolution with its theta.

What does not fit is a ValueError of one line, before anything starts. A run that has a checkpoint of its own goes on
from that and does not look at the other one again.
"""

import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.schema import Schema
from distributed.checkpoint.read import MODEL, RECORD, read_record
from distributed.checkpoint.store import CheckpointStore
from distributed.config import TrainConfig
from distributed.training.loop import CHECKPOINTS, MODEL_DIRECTORY
from es.checkpoint import read_checkpoint
from es.engine import OBJECTIVE_PREFIX
from es.objectives.base import Objective, Observing
from es.record import CHECKPOINT_FILE
from jobs.run.directory import RUN_FILE, flatten, read_json
from models.registry import find_objective

OPTION = "--start-from"


def model_to_start_from(run: Path, schema: Schema, config: TrainConfig, out: Path) -> tuple[str, dict[str, Any]]:
    """(model directory, facts for run.json) of the run whose weights a training in `out` begins with.

    ("", {}) where `out` has a checkpoint already. Raises ValueError: no finished training run, or its features, its
    layers or its tasks are others.
    """
    if CheckpointStore(out / CHECKPOINTS).latest() is not None:
        return "", {}
    run = run.expanduser().absolute()
    directory = run / MODEL_DIRECTORY
    if not (directory / RECORD).exists():
        raise ValueError(f"{OPTION} {run}: holds no trained model; name a finished run of jobs.train")
    record = read_record(directory / RECORD)
    same_features(f"{OPTION} {run}", Schema.from_dict(record["schema"], f"{directory}: schema"), schema)
    before, now = flatten(record["config"]["model"], "model."), flatten(asdict(config.model), "model.")
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in now.items()}
    for key in sorted(before.keys() | plain.keys()):
        if before.get(key) != plain.get(key):
            raise ValueError(f"{OPTION} {run}: {key} is {before.get(key)!r} there, {plain.get(key)!r} here")
    tasks = find_objective(config.objective.name).tasks
    if list(tasks) != list(record["tasks"]):
        there = ", ".join(record["tasks"])
        raise ValueError(f"{OPTION} {run}: its model has the tasks {there}, {config.objective.name} {', '.join(tasks)}")
    facts = {"run": str(run), "step": record["progress"]["step"], "checksum": record["checksums"][MODEL]}
    return str(directory), {"started_from": facts}


def same_features(where: str, known: Schema, schema: Schema) -> None:
    """ValueError, opening with `where`, if a model trained on the one cannot read the other."""
    if known.categorical != schema.categorical:
        theirs, ours = ([entry.name for entry in each.categorical] for each in (known, schema))
        differing = [name for name in theirs + ours if (name in theirs) != (name in ours)] or [
            a.name for a, b in zip(known.categorical, schema.categorical, strict=True) if a != b
        ]
        raise ValueError(f"{where}: the categorical feature {differing[0]!r} is not the same there and in --data")
    if known.numeric != schema.numeric:
        raise ValueError(
            f"{where}: has the numeric features {', '.join(known.numeric)}, --data {', '.join(schema.numeric)}"
        )


@dataclass(frozen=True)
class Start:
    """Where an evolution begins, if not where its objective says; `facts` are for run.json."""

    theta_D: np.ndarray
    learned: dict[str, np.ndarray] = field(default_factory=dict)
    """Of an objective that learns from what it sees: its state."""
    facts: dict[str, Any] = field(default_factory=dict)

    def load(self, objective: Objective) -> None:
        if self.learned and isinstance(objective, Observing):
            objective.load(self.learned)


def begins_with(start: Start | None) -> dict[str, Any]:
    """run.json's part about it."""
    return {"started_from": start.facts} if start else {}


def theta_to_start_from(run: Path, objective: Objective, kind: str, out: Path) -> Start | None:
    """The theta of another run, for an evolution in `out`; None where `out` has a checkpoint already.

    Raises ValueError: no run of this kind, of another objective (the data may be others) or of another dimension.
    """
    if (out / CHECKPOINT_FILE).exists():
        return None
    run = run.expanduser().absolute()
    if read_json(run / RUN_FILE).get("kind") != kind:
        raise ValueError(f"{OPTION} {run}: is no run of jobs.evolve with this objective")
    if not (run / CHECKPOINT_FILE).exists():
        raise ValueError(f"{OPTION} {run}: has no {CHECKPOINT_FILE} yet")
    header, tensors = read_checkpoint(run / CHECKPOINT_FILE)
    there = dict((header.get("identity") or {}).get("objective") or {})
    here = dict(objective.describe())
    for key in sorted((there.keys() | here.keys()) - {"data"}):
        if there.get(key) != plain(here.get(key)):
            raise ValueError(f"{OPTION} {run}: its objective has {key} {there.get(key)!r}, this one {here.get(key)!r}")
    theta_D, needed = np.asarray(tensors["theta"], np.float32), len(objective.initial())
    if theta_D.shape != (needed,):
        raise ValueError(f"{OPTION} {run}: its theta has {theta_D.size} numbers, this objective {needed}")
    length = len(OBJECTIVE_PREFIX)
    learned = {name[length:]: value for name, value in tensors.items() if name.startswith(OBJECTIVE_PREFIX)}
    crc32 = zlib.crc32(np.ascontiguousarray(theta_D).data)
    return Start(theta_D, learned, {"run": str(run), "generation": int(tensors["generation"][0]), "theta_crc32": crc32})


def plain(value: Any) -> Any:
    """As JSON gives it back."""
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return {key: plain(one) for key, one in value.items()} if isinstance(value, dict) else value
