"""Beginning where another run ended: a training with its weights, an evolution with its theta.

What does not fit is a UserError of one line, before anything starts. A run that has a checkpoint of its own goes on
from that and does not look at the other one again.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.columns import TWO_IDS
from data.errors import UserError
from data.schema import Schema
from distributed.checkpoint.read import MODEL_DIRECTORY, OPTIMIZER, RECORD, facts_of, model_checksum, read_record
from distributed.checkpoint.store import CheckpointStore
from distributed.training.job import TrainJob
from distributed.training.recorder import CHECKPOINTS
from es.checkpoint import read_checkpoint
from es.engine import OBJECTIVE_PREFIX
from es.objectives.base import Objective, Observing
from es.record import CHECKPOINT_FILE
from funnel.registry import DEFAULT_PROBLEM, find_problem
from funnel.settings import flat, plain
from jobs.command.trust import check_names
from jobs.run.directory import RUN_FILE, read_json

OPTION = "--start-from"
FOLDS = "fold-"
"""What the directories of an ensemble's runs are called, before their number."""
EVOLUTIONS = ("evolve", "evolve_objective")
"""What run.json calls a run of jobs.evolve; the latter of earlier versions."""


def measured_before(out: Path, start_from: Path | None) -> dict[str, tuple[tuple[float, ...], ...]]:
    """Statistics of transforms that are not to be measured again: those of the run in `out` that goes on, else those of
    the run whose weights it begins with, which were learnt on them."""
    latest = CheckpointStore(out / CHECKPOINTS).latest()
    directory = latest or (start_from / MODEL_DIRECTORY if start_from else None)
    if directory is None or not (directory / RECORD).exists():
        return {}
    return dict(Schema.from_dict(read_record(directory / RECORD)["schema"], f"{directory}: schema").statistics)


def features_of(run: Path) -> tuple[str, ...]:
    """What the model of a finished run reads."""
    directory = run / MODEL_DIRECTORY
    return Schema.from_dict(read_record(directory / RECORD)["schema"], f"{directory}: schema").features


def model_to_start_from(run: Path, job: TrainJob) -> tuple[str, dict[str, Any], list[str]]:
    """(model directory, facts for run.json, features that the model does not have yet) of the run whose weights a
    training begins with.

    ("", {}, []) where the training has a checkpoint already. Raises UserError: no finished training run, it has
    features that the log has not or that mean something else there, or its network or its tasks are others.
    """
    if CheckpointStore(Path(job.run) / CHECKPOINTS).latest() is not None:
        return "", {}, []
    directory = run / MODEL_DIRECTORY
    record = finished_record(run, f"{OPTION} {run}")
    if record.get("problem", DEFAULT_PROBLEM) != job.problem:
        raise UserError(f"{OPTION} {run}: trained as {record.get('problem', DEFAULT_PROBLEM)}, this is {job.problem}")
    known = Schema.from_dict(record["schema"], f"{directory}: schema")
    new = new_features(f"{OPTION} {run}", known, job.schema)
    lost = set(known.instrument) ^ (set(job.schema.instrument) & set(known.features))
    if lost or bool(known.instrument) != bool(job.schema.instrument):
        word = "" if known.instrument else " no"
        raise UserError(f"{OPTION} {run}: its model has{word} instruments ({', '.join(known.instrument)}); --data has "
                        f"{', '.join(job.schema.instrument) or 'none'}")  # fmt: skip
    before = flat({"model": record["config"].get("model", {})})
    now = flat({"model": plain(job.settings).get("model", {})})
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise UserError(f"{OPTION} {run}: {key} is {before.get(key)!r} there, {now.get(key)!r} here")
    there, here = facts_of(record).get("tasks"), job.facts.get("tasks")
    if there != here:
        tasks = [", ".join(names or ()) for names in (there, here)]
        raise UserError(f"{OPTION} {run}: its model has the tasks {tasks[0]}, this one {tasks[1]}")
    facts = {"run": str(run), "step": record["progress"]["step"], "checksum": model_checksum(record)}
    check_unchanged(Path(job.run), "started_from", facts)
    return str(directory), {"started_from": facts, **({"new_features": new} if new else {})}, new


def given_runs(words: Sequence[str], roles: Mapping[str, str]) -> dict[str, Path]:
    """{role: run directory} of ROLE=RUN words. A role that is given again is ROLE-2, ROLE-3, ..., where the problem has
    such. Raises UserError for a role that the problem does not have, or not so often."""
    runs: dict[str, Path] = {}
    for word in words:
        role, equals, run = word.partition("=")
        first = [name for name in roles if name.rpartition("-")[0] not in roles]
        if not equals or not run or role not in roles:
            raise UserError(f"--given {word}: want ROLE=RUN with ROLE of {', '.join(first) or 'none for this problem'}")
        members = ensemble(Path(run).expanduser().absolute())
        places = [role, *(name for name in roles if name.rpartition("-")[0] == role)]
        free = [name for name in places if name not in runs]
        if len(free) < len(members):
            raise UserError(f"--given {word}: {role} takes {len(places)} run{'s' * (len(places) > 1)} at most")
        runs.update(zip(free, members, strict=False))
    return runs


def ensemble(run: Path) -> list[Path]:
    """The run itself, or those of the folds in it (jobs.ensemble), in order."""
    found = [path for path in run.glob(f"{FOLDS}*") if path.name.removeprefix(FOLDS).isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(FOLDS))) or [run]


def check_given(given: Mapping[str, Path], job: TrainJob) -> dict[str, Any]:
    """Facts for run.json about the finished runs that a training builds on.

    Raises UserError: no finished training run, other features, or another model than the training was begun with.
    """
    found = {}
    check = getattr(find_problem(job.problem), "check_given", None)
    for role, run in given.items():
        where = f"--given {role}={run}"
        record = finished_record(run, where)
        known = Schema.from_dict(record["schema"], f"{run}: schema")
        same_features(where, known, job.schema)
        if check is not None:
            check(role, find_problem(record.get("problem", DEFAULT_PROBLEM)), run, known, job.schema)
        found[role] = about_model(run, where)
        check_unchanged(Path(job.run), role, found[role])
    return found


def check_unchanged(out: Path, key: str, now: dict[str, Any]) -> None:
    """Raise UserError if the run in `out`, should there be one, was begun with another state of what `now` tells of.

    `key`: where its run.json keeps it. Where the other run lay does not matter.
    """
    kept = read_json(out / RUN_FILE).get(key) if (out / RUN_FILE).exists() else None
    if changed_since(kept, now):
        option = OPTION if key == "started_from" else f"--given {key}"
        what = "theta" if "generation" in now else "model"
        raise UserError(f"{option} {now['run']}: holds another {what} now than when {out} was begun")


def about_model(run: Path, where: str) -> dict[str, Any]:
    """Which model a finished run holds: its place, step and checksums. Raises UserError if it holds none."""
    record = finished_record(run, where)
    checksums = {name: value for name, value in record["checksums"].items() if name != OPTIMIZER}
    for path in sorted((run / MODEL_DIRECTORY).glob("*.json")):  # a calibration changes what the model says
        if path.name != RECORD:
            checksums[path.name] = zlib.crc32(path.read_bytes())
    return {"run": str(run), "step": record["progress"]["step"], "checksums": checksums}


def finished_record(run: Path, where: str) -> dict[str, Any]:
    """The record of a finished run's model. Raises UserError if there is none."""
    path = run / MODEL_DIRECTORY / RECORD
    if not path.exists():
        raise UserError(f"{where}: holds no trained model; name a finished run of jobs.train")
    record = read_record(path)
    check_names({key: record.get(key) for key in ("problem", "config")}, str(path))
    return record


def same_features(where: str, known: Schema, schema: Schema) -> None:
    """UserError, opening with `where`, if a model trained on the one cannot read the other."""
    new = new_features(where, known, schema)
    if new:
        raise UserError(f"{where}: has no feature {new[0]!r}, which --data has")
    for name, numbers in known.statistics.items():
        if schema.statistics.get(name, numbers) != numbers:
            raise UserError(f"{where}: was trained on another log: what the transform of {name!r} has measured differs")


def new_features(where: str, known: Schema, schema: Schema) -> list[str]:
    """Features that a model trained on `known` does not have. UserError, opening with `where`, if it has one that the
    schema has not, or that means something else there."""
    fields = {field.name: field for field in schema.categorical}
    for name in known.features:
        if name not in schema.features:
            raise UserError(
                f"{where}: its model has the feature {name!r}, which --data has not: a log may gain features, not lose "
                "them"
            )
    for entry in known.categorical:
        if fields.get(entry.name) != entry:
            raise UserError(f"{where}: the categorical feature {entry.name!r} is not the same there and in --data")
    for name in known.features:
        here, there = (
            (one.sources.get(name), one.transforms.get(name), name in one.numeric) for one in (schema, known)
        )
        if here != there:
            raise UserError(f"{where}: {name!r} has another 'from' or 'transform' there than in --data")
    for name, kind in known.kinds.items():
        if schema.kinds.get(name, kind) != kind:
            other = schema.kinds[name]
            raise UserError(f"{where}: column {name!r} holds {kind} there and {other} in --data; {TWO_IDS}")
    new = [name for name in schema.features if name not in known.features]
    for key in ("categorical", "numeric") if not new else ():
        theirs, ours = ([getattr(one, "name", one) for one in getattr(each, key)] for each in (known, schema))
        if theirs != ours:
            raise UserError(
                f"{where}: has the {key} features {', '.join(theirs)}, --data {', '.join(ours)}: in one order"
            )
    return new


def changed_since(kept: dict[str, Any] | None, now: dict[str, Any]) -> bool:
    """Whether a run that was kept so holds something else now; where it lies does not matter."""
    return kept is not None and {**kept, "run": ""} != {**now, "run": ""}


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


def theta_to_start_from(run: Path, objective: Objective, out: Path) -> Start | None:
    """The theta of another run, for an evolution in `out`; None where `out` has a checkpoint already.

    Raises UserError: no run of jobs.evolve, of another objective (the data may be others) or of another dimension.
    """
    if (out / CHECKPOINT_FILE).exists():
        return None
    if read_json(run / RUN_FILE).get("kind") not in EVOLUTIONS:
        raise UserError(f"{OPTION} {run}: is no run of jobs.evolve")
    if not (run / CHECKPOINT_FILE).exists():
        raise UserError(f"{OPTION} {run}: has no {CHECKPOINT_FILE} yet")
    header, tensors = read_checkpoint(run / CHECKPOINT_FILE)
    there = dict((header.get("identity") or {}).get("objective") or {})
    here = dict(objective.describe())
    for key in sorted((there.keys() | here.keys()) - {"data"}):
        if there.get(key) != as_json(here.get(key)):
            raise UserError(f"{OPTION} {run}: its objective has {key} {there.get(key)!r}, this one {here.get(key)!r}")
    theta_D, needed = np.asarray(tensors["theta"], np.float32), len(objective.initial())
    if theta_D.shape != (needed,):
        raise UserError(f"{OPTION} {run}: its theta has {theta_D.size} numbers, this objective {needed}")
    length = len(OBJECTIVE_PREFIX)
    learned = {name[length:]: value for name, value in tensors.items() if name.startswith(OBJECTIVE_PREFIX)}
    crc32 = zlib.crc32(np.ascontiguousarray(theta_D).data)
    facts = {"run": str(run), "generation": int(tensors["generation"][0]), "theta_crc32": crc32}
    check_unchanged(out, "started_from", facts)
    return Start(theta_D, learned, facts)


def as_json(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))
