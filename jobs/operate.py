"""Operate a system from day to day: decide, watch, keep what was decided, replace what stands only through a gate.

    python -m jobs.operate --system incentives --days 30 --out runs/daily
    python -m jobs.operate --system incentives --data runs/days --days 14 --out runs/logged  # day partitions of a log
    python -m jobs.operate --system incentives --replay runs/daily/days/00012                   # decide a day again

Each day is a folder, days/00012: snapshot.safetensors and snapshot.json (what the decisions follow from), day.json (its
figures) and the state for the next one, written whole. The same command goes on with the first day that is not there,
and with more --days further. OUT gets days.jsonl, summary.json and report.html with the curves.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors.numpy import load_file, save

import jobs.report
from data.errors import Stopped, UserError
from data.files import make_directory, whole_directory, write_whole
from es import engine
from es.config import ESConfig
from es.objectives.base import Objective
from funnel.operation import Day
from funnel.panels import Panel, Record
from funnel.registry import DEFAULT_OPERATION, find_operation
from funnel.settings import plain
from jobs.cluster.connect import check_cpus
from jobs.command.call import Place, Result, call
from jobs.command.cli import glance, main, parse, with_settings
from jobs.command.console import Console
from jobs.command.paths import absolute
from jobs.command.signals import leave, stop_signals
from jobs.command.tables import print_table
from jobs.command.trust import check_names, trust
from jobs.fit import map_of
from jobs.run.directory import RUN_FILE, SUMMARY_FILE, RunState, inspect_run, read_json, start_run, write_json
from jobs.run.owner import owned
from jobs.run.process import present

KIND, DAYS, LINES, REPORT = "operate", "days", "days.jsonl", "report.html"
SNAPSHOT, STATE, DAY = "snapshot", "state", "day.json"
MAY_CHANGE = frozenset({"workers", "days"})


@dataclass
class Arguments:
    groups: ClassVar[dict[str, str]] = {"out": "the operation"}
    out: Path | None = None
    """Run directory: new, or one of the same operation to go on with."""
    system: str = DEFAULT_OPERATION
    """What is operated: a name of funnel/registry.py, or your own as package.module:Class. Its settings follow."""
    days: int = 30
    """Days in all."""
    until_idle: float = 0.0
    """Of a log: seconds to wait for a day that is not there yet; 0: end, and the same command goes on later."""
    poll: float = 10.0
    """Seconds between two looks for it."""
    seed: int = 0
    """Decides all draws."""
    workers: int = 0
    """Ray tasks at a time for what can be split, a CPU each; 0: in this process."""
    replay: Path | None = None
    """A day's folder: decide again from its snapshot and compare, instead of operating."""
    settings: Any = field(default_factory=lambda: None)
    """The system's own; None: its defaults."""

    def __post_init__(self) -> None:
        if self.days < 1:
            raise UserError(f"--days is {self.days}: it must be at least 1")
        for name in ("until_idle", "poll"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}: it must be at least 0")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed is {self.seed}: it must be from 0 to below 2**31")


def options(words: Sequence[str]) -> type:
    """Arguments with the settings of the system that the words name."""
    kind = find_operation(glance(words, system=DEFAULT_OPERATION)["system"])
    return with_settings(Arguments, settings=kind.settings_type())


def arguments_of(*words: object) -> Arguments:
    """What the command line would give; raises UserError for an unknown option."""
    parsed: Arguments = parse(options, [str(word) for word in words])
    return parsed


def run(arguments: Arguments) -> dict[str, Any]:
    """Operate the days that are missing; returns summary.json. Raises UserError in one line, before anything is
    written, for what cannot be operated."""
    console = Console()
    trust(arguments)
    kind = find_operation(arguments.system)
    if arguments.replay is not None:
        return replayed(kind, arguments.replay, console)
    if arguments.out is None:
        raise UserError("--out DIR is needed: the run directory")
    check_cpus(arguments.workers)
    settings = absolute(kind.settings_type() if arguments.settings is None else arguments.settings)
    operation = kind.open(settings, arguments.seed)
    operation.maximise = maximised
    out = arguments.out
    record = {
        **{name: getattr(arguments, name) for name in ("system", "seed", "days", "workers")},
        "settings": plain(settings),
    }
    inspect_run(out, KIND, record, MAY_CHANGE)
    last = max((int(path.parent.name) for path in (out / DAYS).glob(f"[0-9]*/{DAY}")), default=-1)
    if last >= arguments.days:
        raise UserError(f"--days is {arguments.days}, but {out} has {last + 1} days already: give at least as many")
    with owned(out):
        done = resumed(operation, out)  # before anything is touched
        if inspect_run(out, KIND, record, MAY_CHANGE) is RunState.NEW:
            start_run(out, KIND, record, {})
        else:
            write_json(out / RUN_FILE, {**read_json(out / RUN_FILE), "config": record})
            (out / SUMMARY_FILE).unlink(missing_ok=True)
        days = all_days(operation, arguments, out, done, console)
        summary: dict[str, Any] = operation.summarise(days)
        write_json(out / SUMMARY_FILE, summary)
        jobs.report.write_page([out], out / REPORT)
    if (table := kind.results(summary)) is not None:
        print_table(console, table)
    console.print(str(summary.get("message", "")), soft_wrap=True, highlight=False, markup=False)
    console.print(f"report: {out / REPORT}", soft_wrap=True, highlight=False)
    return summary


def maximised(objective: Objective, seed: int) -> np.ndarray:
    """The evolution engine, for what an operation tunes within a day: in this process, so that any workers give the
    same theta."""
    config = ESConfig(seed=seed % 2**31, algorithm="xnes", generations=25, pairs=8, sigma=0.3, centre_every=0,
                      workers=0, noise="fresh")  # fmt: skip
    return np.asarray(engine.run(objective, config).theta)


def resumed(operation: Any, out: Path) -> int:
    """How many days are done; the operation goes on from the last of them. Raises UserError, naming the day's folder,
    for a state that it cannot go on from."""
    done = 0
    while (out / DAYS / f"{done:05d}" / DAY).exists():
        done += 1
    if done:
        last = out / DAYS / f"{done - 1:05d}"
        arrays, facts = read_arrays(last, STATE)
        try:
            operation.resume(arrays, facts)
        except UserError as error:
            raise UserError(f"{last}: {error}") from None
    return done


def all_days(operation: Any, arguments: Arguments, out: Path, done: int, console: Console) -> list[dict[str, Any]]:
    """The figures of all days in order, of which those that are not `done` yet are operated now."""
    folder = out / DAYS
    make_directory(folder)
    pieces = map_of(arguments.workers)
    with present(out) as process, stop_signals() as received:
        for day in range(done, arguments.days):
            there = awaited(operation, day, arguments, received)
            if received:
                leave(Stopped(f"stopped with {arguments.days - day} days to go"), received[0])
            if not there:
                console.print(f"day {day} is not there yet: the same command goes on with it", soft_wrap=True)
                break
            found = operation.step(day, pieces)
            keep(folder / f"{day:05d}", day, found, operation)
            if day:
                shutil.rmtree(folder / f"{day - 1:05d}" / STATE, ignore_errors=True)
            process.update("days", day + 1, arguments.days)
            for alert in found.figures.get("alerts") or ():
                console.print(f"day {day}: {alert}", soft_wrap=True, highlight=False, markup=False)
    days = [read_json(path) for path in sorted(folder.glob(f"[0-9]*/{DAY}"))]
    write_whole(out / LINES, "".join(json.dumps(each) + "\n" for each in days))
    return days


def awaited(operation: Any, day: int, arguments: Arguments, received: list[int]) -> bool:
    """Whether what the day needs is there, after a wait of so long at most."""
    end = time.monotonic() + arguments.until_idle
    while not operation.ready(day):
        left = end - time.monotonic()
        if left <= 0 or received:
            return False
        time.sleep(min(max(arguments.poll, 0.05), left))
    return True


def keep(place: Path, day: int, found: Day, operation: Any) -> None:
    """A day's folder, whole or not at all."""
    shutil.rmtree(place, ignore_errors=True)
    with whole_directory(place) as directory:
        if found.snapshot:
            write_arrays(directory, SNAPSHOT, found.snapshot, found.facts)
        arrays, facts = operation.state()
        write_arrays(directory, STATE, arrays, facts)
        write_json(directory / DAY, {"day": day, **found.figures})


def write_arrays(directory: Path, name: str, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    own = directory / name
    make_directory(own)
    content = {key: np.asarray(value, order="C") for key, value in arrays.items()}
    write_whole(own / "arrays.safetensors", save(content), durable=False)
    write_json(own / "facts.json", facts)


def read_arrays(directory: Path, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Raises UserError, naming the file, for what cannot be read."""
    path = directory / name / "arrays.safetensors"
    try:
        arrays = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # safetensors has errors of its own
        raise UserError(f"{path}: not readable ({str(error).splitlines()[0]})") from None
    return arrays, read_json(directory / name / "facts.json")


def replayed(kind: Any, place: Path, console: Console) -> dict[str, Any]:
    if not place.is_dir():
        raise UserError(f"--replay {place}: no such directory; name a day's, RUN/days/00012")
    if not (place / SNAPSHOT).is_dir() and (place / DAY).exists():
        raise UserError(f"--replay {place}: on that day nothing was decided")
    arrays, facts = read_arrays(place, SNAPSHOT)
    message: str = kind.replay(arrays, facts, str(place))
    console.print(message, soft_wrap=True, highlight=False, markup=False)
    return {"message": message}


def panels(record: Record) -> list[Panel]:
    """What a page shows of an operation: what its system makes of it."""
    name = str((record.run.get("config") or {}).get("system") or DEFAULT_OPERATION)
    check_names({"name": name}, str(record.directory))
    shown: list[Panel] = find_operation(name).panels(record)
    return shown


def operate(out: Place, **options_: Any) -> Result:
    """Operate as `python -m jobs.operate` does; returns the run with its figures (docs/notebook.md).

    out: the run directory. days=30, system="incentives", budget=1.0 and so on.
    """
    return call("operate", run, options, {"out": out, **options_}, lambda _, summary: (out, summary))


def following(given: Arguments) -> tuple[object, ...]:
    """The last decisions once more, from what was kept of their day; of a replay nothing."""
    if given.replay is not None or given.out is None:
        return ()
    decided = sorted(path.parent for path in (given.out / DAYS).glob(f"[0-9]*/{SNAPSHOT}"))
    return ("operate", "--system", given.system, "--replay", decided[-1]) if decided else ("status", given.out)


if __name__ == "__main__":
    main(run, options, __doc__ or "", resumes=True, then=following)
