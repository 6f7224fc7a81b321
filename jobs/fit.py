"""Fit what is not trained by gradient steps: effects of incentives, forests of exposure shares.

    python -m jobs.fit --system incentives --data runs/rewards --out runs/effects
    python -m jobs.fit --system incentives --data runs/rewards --out runs/x --learner x --workers 2     # folds on Ray
    python -m jobs.fit --system incentives --help      # what a system can be fitted with

Fitted on the train part of the log and judged on its test part. Pieces (folds, arms, trees) run in this process or,
with --workers, as Ray tasks; the result is the same to the bit. OUT gets model/ (arrays.safetensors, model.json),
summary.json, evaluation.json and report.html.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors.numpy import load_file, save

import jobs.report
from data.errors import UserError
from data.files import make_directory, write_whole
from data.filesystems import shown
from data.log import open_log
from data.schema import Schema
from funnel.fitted import Arrays, Map, here
from funnel.panels import Panel, Record
from funnel.registry import DEFAULT_FITTED, OPERATIONS, TUNABLES, find_fitted
from funnel.settings import plain, read
from jobs.cluster.connect import check_cpus, connect, names_cluster
from jobs.command.call import Place, Result, call
from jobs.command.cli import glance, main, parse, with_settings
from jobs.command.console import Console
from jobs.command.paths import absolute
from jobs.command.tables import print_table
from jobs.command.trust import check_names, trust
from jobs.run.directory import SUMMARY_FILE, RunState, inside, inspect_run, read_json, start_run, write_json
from jobs.run.owner import owned
from jobs.run.process import present

KIND, MODEL, ARRAYS, FACTS, REPORT = "fit", "model", "arrays.safetensors", "model.json", "report.html"
MAY_CHANGE = frozenset({"workers"})


@dataclass
class Arguments:
    groups: ClassVar[dict[str, str]] = {"out": "the fit"}
    out: Path | None = None
    """Run directory: new, or one of the same fit that did not end."""
    data: str = ""
    """The log: a directory or URI."""
    system: str = DEFAULT_FITTED
    """What is fitted: a name of funnel/registry.py, or your own as package.module:Class. Its settings follow."""
    part: str = "test"
    """The part that judges."""
    resamples: int = 200
    """Replicates behind the intervals of curves."""
    seed: int = 0
    """Decides folds, draws and replicates."""
    workers: int = 0
    """Ray tasks at a time, a CPU each; 0: in this process."""
    settings: Any = field(default_factory=lambda: None)
    """The system's own; None: its defaults."""

    def __post_init__(self) -> None:
        if self.resamples < 0:
            raise UserError(f"--resamples is {self.resamples}: it must be at least 0")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed is {self.seed}: it must be from 0 to below 2**31")


def options(words: Sequence[str]) -> type:
    """Arguments with the settings of the system that the words name."""
    kind = find_fitted(glance(words, system=DEFAULT_FITTED)["system"])
    return with_settings(Arguments, settings=kind.settings_type())


def arguments_of(*words: object) -> Arguments:
    """What the command line would give; raises UserError for an unknown option."""
    parsed: Arguments = parse(options, [str(word) for word in words])
    return parsed


def run(arguments: Arguments) -> dict[str, Any]:
    """Fit, judge, write; returns summary.json. Raises UserError in one line for what cannot be fitted."""
    console = Console()
    if arguments.out is None:
        raise UserError("--out DIR is needed: the run directory")
    if not arguments.data:
        raise UserError("--data LOG is needed: the log that is fitted on")
    trust(arguments)
    kind = find_fitted(arguments.system)
    check_cpus(arguments.workers)
    settings = absolute(kind.settings_type() if arguments.settings is None else arguments.settings)
    record = {
        **{name: getattr(arguments, name) for name in ("system", "data", "part", "resamples", "seed", "workers")},
        "settings": plain(settings),
    }
    out = arguments.out
    inspect_run(out, KIND, record, MAY_CHANGE)
    log = open_log(arguments.data)
    arrays = {part: kind.read(settings, log, part) for part in dict.fromkeys(("train", arguments.part))}
    if check := getattr(kind, "check", None):
        check(settings, arrays["train"], arrays[arguments.part], shown(arguments.data))
    for line in unread(log.schema, arrays["train"]):
        console.print(line, style="yellow", soft_wrap=True, markup=False, highlight=False)
    with owned(out):
        if inspect_run(out, KIND, record, MAY_CHANGE) is RunState.DONE:
            console.print(f"{out} is finished already:", soft_wrap=True)
            return show(console, kind, read_json(out / SUMMARY_FILE), out)
        start_run(out, KIND, record, {"data": {"location": arguments.data}})
        with present(out):
            began = time.time()
            fitted = kind.fit(settings, arrays["train"], arguments.seed, map_of(arguments.workers))
            seconds = time.time() - began
            summary, curves = fitted.judge(arrays[arguments.part], arguments.resamples, arguments.seed)
            write_model(out / MODEL, fitted, arguments.system, settings)
            write_json(out / "evaluation.json", curves)
            write_json(out / SUMMARY_FILE, summary | {"fit.seconds": seconds, "part": arguments.part})
            jobs.report.write_page([out], out / REPORT)
    console.print(fitted.describe(), soft_wrap=True, highlight=False)
    return show(console, kind, read_json(out / SUMMARY_FILE), out)


def unread(schema: Schema, arrays: Arrays) -> Iterator[str]:
    """A line if the system has read the numeric features alone and the log has others."""
    features = arrays.get("x")
    names = [one.name for one in schema.categorical if one.name not in (schema.user, schema.request)]
    if names and features is not None and features.ndim == 2 and features.shape[1] == len(schema.numeric):
        told = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
        yield f"left out: {told}: what is fitted here reads the numeric features alone, not categorical ones"


def map_of(workers: int) -> Map:
    """Ray's map on a cluster with so many CPUs, or Python's."""
    if not workers:
        return here
    connect(1 if names_cluster() else workers)
    from jobs.cluster.ray_map import RayMap

    return RayMap(workers)


def write_model(directory: Path, fitted: Any, system: str, settings: Any) -> None:
    """The arrays first, the facts last: a directory with facts is whole."""
    arrays, facts = fitted.state()
    make_directory(directory)
    write_whole(directory / ARRAYS, save({key: np.asarray(value, order="C") for key, value in arrays.items()}))
    write_json(directory / FACTS, {"system": system, "settings": plain(settings), "facts": facts})


def read_model(run: Path) -> Any:
    """What `jobs.fit` has fitted. Raises UserError for a directory that holds no such model."""
    record = read_json(inside(run, MODEL) / FACTS)
    name = str(record.get("system", ""))
    check_names({"name": name}, str(run))
    kind, path = find_fitted(name), run / MODEL / ARRAYS
    settings = read(kind.settings_type, record["settings"], str(run / MODEL / FACTS))
    try:
        arrays = load_file(path)
    except Exception as error:  # safetensors has errors of its own
        raise UserError(f"{path}: not readable ({str(error).splitlines()[0]})") from None
    try:
        return kind.restore(settings, arrays, record["facts"])
    except KeyError as error:
        raise UserError(f"{path}: has no {error}: it was written by another version or for another system") from None


def show(console: Console, kind: Any, summary: dict[str, Any], out: Path) -> dict[str, Any]:
    if (table := kind.results(summary)) is not None:
        print_table(console, table)
    console.print(str(summary.get("message", "")), soft_wrap=True, highlight=False, markup=False)
    console.print(f"report: {out / REPORT}", soft_wrap=True, highlight=False)
    return summary


def panels(record: Record) -> list[Panel]:
    """What a page shows of a fit: what its system makes of it."""
    name = str((record.run.get("config") or {}).get("system") or DEFAULT_FITTED)
    check_names({"name": name}, str(record.directory))
    shown: list[Panel] = find_fitted(name).panels(record)
    return shown


def fit(data: Place, out: Place, **options_: Any) -> Result:
    """Fit as `python -m jobs.fit` does; returns the run with its figures (docs/notebook.md).

    data: a log; out: the run directory. system="incentives", learner="x" and so on.
    """
    return call("fit", run, options, {"data": data, "out": out, **options_}, lambda _, summary: (out, summary))


def following(given: Arguments) -> tuple[object, ...]:
    """What goes on from such a fit: the operation of its name, a tuning on the same log; else its page."""
    assert given.out is not None
    if given.system in OPERATIONS:
        return ("operate", "--system", given.system, "--out", given.out.with_name(f"{given.out.name}_daily"))
    if given.system in TUNABLES:
        tuned = given.out.with_name(f"{given.out.name}_tuned")
        return ("evolve", "--objective", given.system, "--data", given.data, "--out", tuned)
    return ("report", given.out, "--out", given.out / REPORT)


if __name__ == "__main__":
    main(run, options, __doc__ or "", resumes=True, then=following)
