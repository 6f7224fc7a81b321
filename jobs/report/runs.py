"""Reading run directories: everything that a page shows is in a `Record`, and nothing else is read."""

import csv
import importlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.errors import UserError
from funnel.panels import Cell, Panel, Record, Sentence, Table, finite
from funnel.progress import evolution, evolution_cost, evolution_headline, training, training_cost
from funnel.registry import DEFAULT_PROBLEM, DEFAULT_TUNABLE, find_problem, find_tunable
from jobs.command.trust import OPTION, check_names
from jobs.run.directory import METRICS_FILE, RUN_FILE, SUMMARY_FILE, read_json
from jobs.run.records import ODD, reading_from

KINDS = {  # and who writes them
    "train": "jobs.train",
    "evaluate": "jobs.evaluate",
    "evolve": "jobs.evolve",
    "evolve_objective": "jobs.evolve",
    "tune": "jobs.tune",
    "pipeline": "jobs.pipeline",
    "check": "jobs.check",
    "experiment": "jobs.experiment",
    "fit": "jobs.fit",
    "operate": "jobs.operate",
}
PLACES = {
    "tune": "jobs.tune.panels",
    "pipeline": "jobs.pipeline.panels",
    "check": "jobs.check",
    "experiment": "jobs.experiment.panels",
    "fit": "jobs.fit",
    "operate": "jobs.operate",
}
"""Kinds that are commands of their own rather than a system, and who shows them."""
NO_METRICS = ("evaluate", *PLACES)
EVALUATIONS = "evaluations"
"""Where jobs.evaluate puts what it finds of a run, in the run's directory."""
READ_ELSEWHERE = (RUN_FILE, SUMMARY_FILE, METRICS_FILE)


@dataclass(frozen=True)
class Run:
    """A finished run, and what is to be said of its files."""

    record: Record
    notes: tuple[str, ...] = ()


def panels_of(record: Record) -> list[Panel]:
    """What the run's system shows of it. Raises UserError, naming the file, for a record that is not what it seems."""
    try:
        return shown_of(record)
    except UserError:
        raise
    except ODD:
        with reading_from(*odd_files(record)):
            return shown_of(record)


def odd_files(record: Record) -> list[Path]:
    """The files without which the run could be shown."""
    lesser = {"evaluation.json": replace(record, files={}), METRICS_FILE: replace(record, events=[])}
    for name, less in lesser.items():
        with suppress(*ODD):
            shown_of(less)
            return [record.directory / name]
    return [record.directory / name for name in (SUMMARY_FILE, RUN_FILE)]


def shown_of(record: Record) -> list[Panel]:
    """What the run's system shows of it. What no system knows: its curves and its figures."""
    kind = str(record.run.get("kind"))
    if kind in PLACES:
        found: list[Panel] = importlib.import_module(PLACES[kind]).panels(record)
        return found
    evolved = kind in ("evolve", "evolve_objective")
    try:
        check_names(system_of(record), str(record.directory))
        show = (tunable(tunable_of(record)) if evolved else find_problem(problem_of(record))).panels
    except (ValueError, AttributeError):  # a plain objective, or somebody's code that is not here or not trusted
        show = plain_evolution if evolved else plain_training
    shown: list[Panel] = show(record)
    return shown


def tunable(name: str) -> Any:
    """The class of that name, of a registry, a package or a file. Raises ValueError for an objective that is none."""
    if not name.rpartition(":")[0].endswith(".py"):
        return find_tunable(name)
    from jobs.evolve.find import Plain, find_objective  # here, for it imports the engine

    found = find_objective(name)
    if isinstance(found, Plain):
        raise ValueError("an objective without data")
    return found


def problem_of(record: Record) -> str:
    return str(record.run.get("problem") or DEFAULT_PROBLEM)


def tunable_of(record: Record) -> str:
    """Earlier versions wrote the kind "evolve" for the default, and any other objective's name into the config."""
    config: Mapping[str, Any] = record.run.get("config") or {}
    default = DEFAULT_TUNABLE if record.run.get("kind") == "evolve" else ""
    return str(record.run.get("objective") or config.get("objective") or default)


def plain_training(record: Record) -> list[Panel]:
    text = f"{record.name} was trained for {record.number('train.steps') or 0:,.0f} steps."
    return [Sentence(text, headline=True), figures(record), *training(record), training_cost(record, {})]


def plain_evolution(record: Record) -> list[Panel]:
    """Of an objective that is no tunable: it has a return and nothing held out."""
    name = (tunable_of(record) or record.name).rsplit("/", 1)[-1]
    what = f"{name} {task}" if (task := record.setting("env")) else name
    section = "Maximising an objective"
    return [evolution_headline(record, what), *evolution(record, section), evolution_cost(record, what)]


def figures(record: Record) -> Table:
    """Every number of the summary but what a run costs."""
    known = [key for key in record.summary if record.number(key) is not None and not key.startswith(("train.", "es."))]
    rows: list[tuple[Cell, ...]] = [(key, record.number(key)) for key in known]
    return Table("", ("Figure", "Value"), tuple(rows), section="Figures")


def load_runs(paths: Sequence[Path]) -> list[Run]:
    """Read the runs in the order given; UserError names the run that is absent, unfinished, unknown or given twice."""
    if not paths:
        raise UserError("no run given: name at least one directory written by jobs.train or jobs.evolve")
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise UserError(f"{path} is given twice")
        seen.add(path.resolve())
    runs = [load_run(path) for path in paths]
    names = distinct_names([run.record.directory for run in runs])
    return [replace(run, record=replace(run.record, name=name)) for run, name in zip(runs, names, strict=True)]


def load_run(path: Path) -> Run:
    path = path.resolve()
    if not path.is_dir():
        raise UserError(f"{path}: no such run directory")
    if not (path / RUN_FILE).exists():
        raise UserError(f"{path}: not a run directory (it holds no {RUN_FILE}); name what --out of jobs.train was")
    run = read_json(path / RUN_FILE)
    kind = run.get("kind")
    if kind not in KINDS:
        raise UserError(
            f"{path / RUN_FILE}: a {kind!r} run; a report takes runs of jobs.train, jobs.evaluate and jobs.evolve, "
            "searches of jobs.tune, pipelines, experiments, fits and operations"
        )
    if not (path / SUMMARY_FILE).exists():
        raise UserError(
            f"{path}: the run is not finished (it holds no {SUMMARY_FILE}); "
            f"repeat its {KINDS[kind]} command to finish it"
        )
    events, notes = read_metrics(path / METRICS_FILE) if kind not in NO_METRICS else ([], ())
    record = Record(run, events, read_json(path / SUMMARY_FILE), read_files(path), path.name, path)
    return Run(record, (*notes, *untrusted(record)))


def system_of(record: Record) -> dict[str, str]:
    """What names the run's system."""
    evolved = record.run.get("kind") in ("evolve", "evolve_objective")
    return {"objective": tunable_of(record)} if evolved else {"problem": problem_of(record)}


def untrusted(record: Record) -> tuple[str, ...]:
    """A note, if the run is of a system whose code is not run for this page."""
    try:
        check_names(system_of(record), "")
    except UserError:
        (name,) = system_of(record).values()
        return (f"Without the panels of {name}: it is code that only {OPTION} {name} runs.",)
    return ()


def read_files(path: Path) -> dict[str, Any]:
    """{name: content} of the other files beside run.json: an object of a .json, a list of a .jsonl or .csv."""
    found: dict[str, Any] = {}
    for file in sorted(path.iterdir()):
        if file.name in READ_ELSEWHERE or file.name.startswith("."):
            continue
        if file.suffix == ".json":
            found[file.stem] = read_json(file)
            continue
        with reading_from(file):
            if file.suffix == ".csv":
                found[file.stem] = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
            elif file.suffix == ".jsonl":
                lines = file.read_text(encoding="utf-8").splitlines(True)
                found[file.stem] = [json.loads(line) for line in lines if line.endswith("\n")]
    return found


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """(records in the order of their step, notes).

    A run that was stopped and continued logs some steps twice: the later record is the one that counts. A half-written
    last line (a crash while logging) is left out and noted; a broken line before it is a UserError.
    """
    if not path.exists():
        return [], (f"{path.name} is absent, so there are no curves.",)
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
                raise UserError(f"{path}, line {number}: not readable as JSON ({error})") from None
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
    return [records[at] for records in by_event.values() for at in sorted(records)], tuple(notes)


def name_of(path: Path, length: int) -> str:
    """The last so many names of a path; an evaluation inside its run has the run's name too."""
    inside = len(path.parts) > 3 and path.parent.name == EVALUATIONS
    return f"{path.parts[-3]} on {path.name}" if inside and length == 1 else "/".join(path.parts[-length:])


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The shortest tails of the paths that tell all of them apart: a/naive, b/naive -> "a/naive", "b/naive"."""
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = [name_of(path, length) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("paths are distinct")
