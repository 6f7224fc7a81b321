"""Reading run directories: everything the report shows is in a `Run`, and nothing else is read."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.run.directory import METRICS_FILE, RUN_FILE, SUMMARY_FILE, flatten, read_json

KINDS = {  # and who writes them
    "train": "jobs.train",
    "evaluate": "jobs.evaluate",
    "evolve": "jobs.evolve",
    "evolve_objective": "jobs.evolve",
    "tune": "jobs.tune",
    "pipeline": "jobs.pipeline",
}
EVALUATION_FILE, POLICY_FILE = "evaluation.json", "policy.json"
NOT_REPORTED = "not reported by the run"


@dataclass(frozen=True)
class Run:
    """One finished run. `name` is the directory's name, lengthened by its parents where two runs share it."""

    path: Path
    name: str
    kind: str
    record: dict[str, Any]
    summary: dict[str, Any]
    events: dict[str, list[dict[str, Any]]]
    evaluation: dict[str, Any]
    policy: dict[str, Any]
    notes: tuple[str, ...] = ()

    def number(self, key: str) -> float | None:
        """The finite number under a key of summary.json, or None."""
        return finite(self.summary.get(key))

    def why_absent(self, key: str) -> str:
        """The run's own reason for leaving a key of summary.json out (given for the key or for what it belongs to)."""
        reasons = self.summary.get("absent") or {}
        parts = key.split(".")
        for length in range(len(parts), 0, -1):
            reason = reasons.get(".".join(parts[:length]))
            if reason:
                return str(reason)
        return NOT_REPORTED

    def setting(self, name: str) -> str | None:
        """A setting's value wherever the nested config keeps it: `name`, `x.name`, `name.name` or `name.kind`."""
        flat = flatten(self.record.get("config") or {})
        for wanted in (name, f"{name}.name", f"{name}.kind"):
            for key, value in flat.items():
                if (key == wanted or key.endswith("." + wanted)) and isinstance(value, str | int | float):
                    return str(value)
        return None

    def series(self, event: str, x: str, y: str) -> tuple[list[float], list[float]]:
        """(x, y) of an event's records that hold both as finite numbers."""
        pairs = [(finite(record.get(x)), finite(record.get(y))) for record in self.events.get(event, [])]
        kept = [(a, b) for a, b in pairs if a is not None and b is not None]
        return [a for a, _ in kept], [b for _, b in kept]


def finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def load_runs(paths: Sequence[Path]) -> list[Run]:
    """Read the runs in the order given; ValueError names the run that is absent, unfinished, unknown or given twice."""
    if not paths:
        raise ValueError("no run given: name at least one directory written by jobs.train or jobs.evolve")
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise ValueError(f"{path} is given twice")
        seen.add(path.resolve())
    runs = [load_run(path) for path in paths]
    names = distinct_names([run.path for run in runs])
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def load_run(path: Path) -> Run:
    path = path.resolve()
    if not path.is_dir():
        raise ValueError(f"{path}: no such run directory")
    if not (path / RUN_FILE).exists():
        raise ValueError(f"{path}: not a run directory (it holds no {RUN_FILE}); name what --out of jobs.train was")
    record = read_json(path / RUN_FILE)
    kind = record.get("kind")
    if kind not in KINDS:
        raise ValueError(
            f"{path}: a {kind!r} run; a report takes runs of jobs.train, jobs.evaluate and jobs.evolve, "
            "searches of jobs.tune and pipelines"
        )
    if not (path / SUMMARY_FILE).exists():
        raise ValueError(
            f"{path}: the run is not finished (it holds no {SUMMARY_FILE}); "
            f"repeat its {KINDS[kind]} command to finish it"
        )
    events, notes = read_metrics(path / METRICS_FILE) if kind not in ("evaluate", "tune", "pipeline") else ({}, ())
    return Run(
        path=path,
        name=path.name,
        kind=kind,
        record=record,
        summary=read_json(path / SUMMARY_FILE),
        events=events,
        evaluation=read_if_there(path / EVALUATION_FILE),
        policy=read_if_there(path / POLICY_FILE),
        notes=notes,
    )


def read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def read_metrics(path: Path) -> tuple[dict[str, list[dict[str, Any]]], tuple[str, ...]]:
    """({event: records in the order of their step}, notes).

    A run that was stopped and continued logs some steps twice: the later record is the one that counts. A half-written
    last line (a crash while logging) is left out and noted; a broken line before it is a ValueError.
    """
    if not path.exists():
        return {}, (f"{path.name} is absent, so there are no curves.",)
    lines = path.read_text(errors="replace").rstrip("\n").split("\n")
    by_event: dict[str, dict[float, dict[str, Any]]] = {}
    notes: list[str] = []
    restarts, last = 0, dict[str, float]()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: not readable as JSON ({error})") from None
            notes.append(f"The last line of {path.name} is half-written and was left out.")
            continue
        event = str(record.get("event"))
        at = finite(record.get("generation" if event == "generation" else "step"))
        at = float(number) if at is None else at
        restarts += event in last and at <= last[event] and event in ("step", "generation")
        last[event] = at
        by_event.setdefault(event, {})[at] = record
    if restarts:
        times = "once" if restarts == 1 else f"{restarts} times"
        notes.append(f"The run was continued from a checkpoint {times}; steps logged twice are shown as logged last.")
    return {event: [records[at] for at in sorted(records)] for event, records in by_event.items()}, tuple(notes)


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The shortest tails of the paths that tell all of them apart: a/naive, b/naive -> "a/naive", "b/naive"."""
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("paths are distinct")


def comparable(runs: Sequence[Run], key: str) -> bool:
    """Whether the runs that report on a task and space were judged on as many rows with as many positives."""
    samples = {(run.number(f"{key}.count"), run.number(f"{key}.positives")) for run in runs}
    return len(samples - {(None, None)}) < 2
