"""What a run or a result is made from, by checksum ("made_from" in its record), and whether that is still so.

    run.json of jobs.train, jobs.tune      {"data": data/identity.py}
    run.json of jobs.evolve                {"settings.scored": {"checksum": ".", "model": ".", "with": {}}, "code": {}}
    run.json of jobs.evaluate              {"run": {"model": ".", "with": {"calibration.json": "."}}, "data": {...}}
    a scored file's metadata, policy.json and serving.json keep the same of theirs

"model" is distributed/checkpoint/read.py: model_checksum; "with" is what lies beside the weights and changes what they
say. Records of earlier versions name nothing; what cannot be compared is taken as it is, except by jobs.evaluate.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import UserError
from data.filesystems import shown
from data.identity import file_checksum, log_identity
from data.labels import check_labels
from data.log import Log, open_log
from jobs.run.directory import SUMMARY_FILE, read_json, same_place

MADE_FROM = "made_from"
TRAINED = "train.model"
"""Of a training's summary.json: the model that it has ended with."""
SCORED = b"counterpoint.scored"
"""Metadata of a scored file."""
PARTS = ("train", "valid", "test")
CODE = "code"


def data_of(log: Log) -> dict[str, Any]:
    """The log that a training reads."""
    names = log.part_names()
    return log_identity(log, [part for part in PARTS if part in names])


def check_data(out: Path, record: dict[str, Any], log: Log) -> None:
    """Raise UserError, with the counts of both, unless the run that `record` (run.json) tells of was begun on this log,
    wherever it lies now. Of an earlier version's run the place has to be the same."""
    before = (record.get(MADE_FROM) or {}).get("data")
    if before is None:
        check_place(out, record, log.location)
        return
    now = data_of(log)
    if now != before:
        raise UserError(
            f"--out {out} was begun on another log: {difference(record, log, before, now)}; choose another directory, "
            "or the same data to continue it"
        )


def check_log(out: Path, record: dict[str, Any], location: str) -> None:
    """The same of a run that has ended. A log that has gone since cannot be asked: its place has to be the same."""
    try:
        log = open_log(location)
    except UserError:
        check_place(out, record, location)
    else:
        check_data(out, record, log)


def check_place(out: Path, record: dict[str, Any], location: str) -> None:
    kept = str((record.get("config") or {}).get("data"))
    if not same_place(kept, location):
        raise UserError(f"--out {out} holds another run: data was {shown(kept)}, now {shown(location)}")


def difference(record: dict[str, Any], log: Log, before: dict[str, Any], now: dict[str, Any]) -> str:
    """In words, for the first thing that differs."""
    there, here = before.get("parts", {}), now["parts"]
    if there.keys() != here.keys():
        return f"it had the parts {', '.join(there)}, {shown(log.location)} has {', '.join(here)}"
    for name in here:
        if here[name] == there[name]:
            continue
        had = dict((record.get("data") or {}).get("parts", {}).get(name) or {"rows": there[name].get("rows")})
        has = counted(log, name)
        if had == has:
            return f"{name} of {shown(log.location)} has other values now ({in_words(has)} then and now)"
        return f"{name} had {in_words(had)}, {shown(log.location)} has {in_words(has)}"
    return f"the schema.json of {shown(log.location)} was another one"


def counted(log: Log, name: str) -> dict[str, int]:
    """{"rows": ., "clicks": ., ...}; only the rows where labels are wrong."""
    part = log.part(name)
    try:
        facts = check_labels(log, part)
    except UserError:
        return {"rows": part.rows}
    return {"rows": facts.rows, **{f"{label}s": int(number) for label, number in facts.positives.items()}}


def in_words(counts: dict[str, Any]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items() if isinstance(number, int))


def model_of(run: Path, raw: bool = False) -> dict[str, Any]:
    """The model of a finished run; `raw`: without what lies beside its weights."""
    from distributed.checkpoint.read import MODEL_DIRECTORY, RECORD, model_checksum, read_record  # imports torch

    directory = run / MODEL_DIRECTORY
    beside = [] if raw else [path for path in sorted(directory.glob("*.json")) if path.name != RECORD]
    return {
        "model": model_checksum(read_record(directory / RECORD)),
        "with": {path.name: file_checksum(path) for path in beside},
    }


def check_model(run: Path, where: str) -> None:
    """Raise UserError, opening with `where`, if RUN/model is not what the run's training ended with."""
    summary = read_json(run / SUMMARY_FILE) if (run / SUMMARY_FILE).exists() else {}
    if TRAINED in summary and summary[TRAINED] != model_of(run, raw=True)["model"]:
        raise UserError(f"{where}: its model/ is another run's: not the model that this run has trained")


def files_of(settings: Any, prefix: str = "settings.") -> dict[str, Any]:
    """The files that are named by the fields of a dataclass of settings, and what scored ones among them were made
    from. What is not there is left out."""
    paths = {field.name: getattr(settings, field.name, None) for field in dataclasses.fields(settings)}
    return {
        f"{prefix}{name}": {"checksum": file_checksum(path), **scored_by(path)}
        for name, path in paths.items()
        if isinstance(path, Path) and path.is_file()
    }


def scored_by(path: Path) -> dict[str, Any]:
    """{"model": ., "with": {...}} of a file that jobs.score wrote; empty for any other."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        about = json.loads(metadata.get(SCORED, b"{}"))
        found = about.get(MADE_FROM, {}).get("run", {})
    except (pa.ArrowException, OSError, ValueError, AttributeError):
        return {}
    return dict(found) if isinstance(found, dict) else {}


def check_files(out: Path, record: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UserError if a file is another one than when the run was begun; files that are gone are passed over."""
    before = record.get(MADE_FROM) or {}
    for name, found in now.items():
        if name in before and name != CODE and before[name].get("checksum") != found["checksum"]:
            option = f"--{name.removeprefix('settings.').replace('_', '-')}"
            raise UserError(
                f"--out {out} was begun with another {option}: the file has changed since (checksum "
                f"{before[name].get('checksum')}, now {found['checksum']}); choose another directory"
            )


def code_of(name: str) -> dict[str, Any]:
    """The file of an objective that is the user's own, path/to/file.py:Class."""
    path, colon, _ = name.rpartition(":")
    file = Path(os.path.expanduser(path))
    return {CODE: {"checksum": file_checksum(file)}} if colon and path.endswith(".py") and file.is_file() else {}


def code_changed(record: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether the objective's file is another one now: it may have been mended, so that is said, and not refused."""
    before = (record.get(MADE_FROM) or {}).get(CODE)
    return before is not None and CODE in now and before != now[CODE]
