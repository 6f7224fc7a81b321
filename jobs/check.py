"""Check a log: all that a run would refuse or warn about, without a run; with a page.

    python -m jobs.check --data runs/log
    python -m jobs.check --data s3://bucket/log --problem listwise --out runs/check
    python -m jobs.check --data runs/shares --problem vcnet --dose game       # with the problem's own settings

Every file is read once: types over all files, labels, repeated keys, truth, requests that are torn, columns that look
like outcomes, are squeezed by a few large numbers, never change, or have moved since the training part ends. Exit code
0 if a run would start, else 2 with the line that it would give. OUT/report.html shows what each column is like.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import jobs.report
from data.drift import Drift, drift_warnings, drifts
from data.errors import UserError
from data.filesystems import shown
from data.kinds import cast_table
from data.labels import checked_labels
from data.loaders.table_profile import Column, profile
from data.loaders.table_shape import shape_of
from data.log import Log, Part, open_log
from data.reading import ordered_tables
from data.schema import Schema
from data.write import check_new
from distributed.config import TrainConfig
from distributed.training.launch import prepare
from funnel.lists.units import request_sizes
from funnel.numbers import count, number
from funnel.panels import Cell, Panel, Record, Sentence, Table
from funnel.registry import DEFAULT_PROBLEM, find_problem
from funnel.settings import flat, plain
from jobs.command.call import Place, Result, call, words_of
from jobs.command.cli import glance, main, parse, with_settings
from jobs.command.console import Console
from jobs.command.preset import apply, find_preset
from jobs.command.tables import print_table
from jobs.command.trust import trust
from jobs.run.directory import SUMMARY_FILE, start_run, write_json

LATER = ("valid", "test")
SECTION, LOOK, HELP = "The log", "To look at", "Transforms that may help"


@dataclass
class Arguments:
    data: str
    """The log: a directory, or any URI."""
    out: Path | None = None
    """Directory to write the page and its figures to; without it they are shown here only."""
    problem: str = DEFAULT_PROBLEM
    """What the log is to train (jobs.train --problem). Its settings follow."""
    preset: str = ""
    """Named settings of the problem, as jobs.train takes them: clicks, for a log that has no conversions."""
    settings: Any = None
    """The problem's own; None: its defaults."""


def options(words: Sequence[str]) -> type:
    """Arguments with the settings of the problem and the preset that the words name."""
    first = glance(words, problem=DEFAULT_PROBLEM, preset="")
    return with_settings(Arguments, settings=usual(first["problem"], first["preset"])[1])


def usual(problem: str, preset: str) -> tuple[TrainConfig, Any]:
    """How it is trained, and the problem's settings, where no other option is given."""
    kind = find_problem(problem)
    config, settings = apply(*find_preset(preset, kind.presets, "train"), TrainConfig(), kind.settings_type())
    return config, settings


def arguments_of(*words: object) -> Arguments:
    """What the command line would give; raises UserError for an unknown option."""
    parsed: Arguments = parse(options, [str(word) for word in words])
    return parsed


def run(arguments: Arguments) -> dict[str, Any]:
    """Check, print, write; returns the summary. Raises UserError for what a training would refuse."""
    console, started = Console(), time.time()
    if arguments.out is not None:
        check_new(arguments.out)
    log = open_log(arguments.data)
    trust(arguments)
    config, settings = usual(arguments.problem, arguments.preset)
    settings = arguments.settings or settings
    with console.status("reading the log"):
        job = prepare(Path(), log, config, settings, started, arguments.problem)
        log = dataclasses.replace(log, schema=job.schema)
        parts = {name: log.part(name) for name in job.parts}
        warnings = [*job.facts.get("warnings", ()), *torn(log, parts)]
        moved: dict[str, list[Drift]] = {}
        for name in LATER:
            if name in parts:
                moved[name] = drifts(log, parts["train"], parts[name])
                warnings += drift_warnings(moved[name], name)
        types = {name: parts["train"].types[name] for name in log.schema.all_columns}
        columns = profile(labelled(log, parts["train"]), types)
        warnings += unused(columns, log.schema)
    proposals = list(proposed(columns, log.schema))
    summary = {
        "parts": job.facts["parts"],
        "labels": list(log.schema.labels),
        "warnings": warnings,
        "proposals": proposals,
        "columns": {name: facts(name, column, moved) for name, column in columns.items()},
        "check.seconds": time.time() - started,
        "absent": {},
    }
    record = Record({"kind": "check", "data": {"location": arguments.data, "name": log.schema.name}}, (), summary)
    for panel in panels(record):
        if isinstance(panel, Table) and panel.rows and panel.title not in (LOOK, HELP):
            print_table(console, panel)
    for line in warnings:
        console.print(f"warning: {line}", style="yellow", soft_wrap=True, markup=False, highlight=False)
    for line in proposals:
        console.print(f"perhaps: {line}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"{shown(arguments.data)}: {verdict(warnings)}", soft_wrap=True, markup=False, highlight=False)
    if arguments.out is not None:
        asked = {"data": arguments.data, "problem": arguments.problem, "settings": plain(settings)}
        start_run(arguments.out, "check", asked, dict(record.run))
        write_json(arguments.out / SUMMARY_FILE, summary)
        jobs.report.run(jobs.report.Args(runs=[arguments.out], out=arguments.out / "report.html"))
    return summary


def verdict(warnings: list[str]) -> str:
    number = {0: "nothing", 1: "one thing"}.get(len(warnings), f"{len(warnings)} things")
    return f"can be trained; {number} to look at"


def counts(value: float | list[float] | None, rows: float | None = None) -> str:
    """A count of a part, or one for each arm and the like; with its share of these rows."""
    if isinstance(value, list):
        return " ".join(map(count, value))
    return count(value) if not rows or value is None else f"{count(value)} ({value / rows:.2%})"


def labelled(log: Log, part: Part) -> Iterator[tuple[pa.Table, dict[str, np.ndarray]]]:
    """Row groups of a part with their labels."""
    for table in ordered_tables(log, part, log.schema.all_columns):
        table = cast_table(table, part.types, part.name)
        yield table, checked_labels(log.schema, table, part.name)


def torn(log: Log, parts: dict[str, Part]) -> Iterator[str]:
    """A line for a part whose requests do not stand together, which a list-wise problem would refuse."""
    for part in parts.values() if log.schema.request else ():
        try:
            request_sizes(log, part, str(log.schema.request))
        except UserError as error:
            yield f"{error} (a problem over lists would refuse it)"


def unused(columns: dict[str, Column], schema: Schema) -> Iterator[str]:
    """A line for a feature that tells nothing: never there, or always the same."""
    for name in schema.features:
        column = columns[name]
        if column.known == 0:
            yield f"column {name!r} is never there in train"
        elif column.constant:
            yield f"column {name!r} is the same in all rows of train"


def proposed(columns: dict[str, Column], schema: Schema) -> Iterator[str]:
    """A line for a numeric feature as it is that a transform would serve: a long tail, outliers, a placeholder."""
    for name in schema.numeric:
        shape = shape_of(name, columns[name].numbers)
        if shape.chain and name not in schema.transforms:
            steps = json.dumps([step.to_json() for step in shape.chain])
            yield f'column {name!r}: {shape.why}; in schema.json: {{"name": "{name}", "transform": {steps}}}'


def facts(name: str, column: Column, moved: dict[str, list[Drift]]) -> dict[str, Any]:
    """What the page shows of a column."""
    found: dict[str, Any] = {"type": str(column.type), "missing": column.missing / max(column.rows, 1)}
    found["values"] = column.distinct.count()
    if column.least <= column.greatest:
        found |= {"least": column.least, "greatest": column.greatest}
    if column.longest:
        found["longest"] = column.longest
    for part, entries in moved.items():
        one = next((entry for entry in entries if entry.column == name), None)
        if one is not None:
            found |= {f"{part}.psi": one.psi, f"{part}.unseen": one.unseen}
    return found


def panels(record: Record) -> list[Panel]:
    """What a page shows of a checked log: what to look at, its parts, its columns."""
    warnings, parts = list(record.summary.get("warnings") or ()), dict(record.summary.get("parts") or {})
    found: list[Panel] = [Sentence(f"The log {verdict(warnings)}.", headline=True)]
    if warnings:
        found.append(Table(LOOK, ("Nr", "What"), tuple(enumerate(warnings, 1)), section=SECTION))
    proposals = list(record.summary.get("proposals") or ())
    if proposals:
        note = "Numbers that a model may learn from more easily once they are transformed (docs/data.md)."
        found.append(Table(HELP, ("Nr", "What"), tuple(enumerate(proposals, 1)), note, SECTION))
    names = list(dict.fromkeys(name for entry in parts.values() for name in entry))
    of_rows = {f"{label}s" for label in record.summary.get("labels") or ()}
    rows = tuple((part, *(counts(entry.get(name), entry.get("rows") if name in of_rows else None) for name in names))
                 for part, entry in parts.items())  # fmt: skip
    found.append(Table("Parts", ("Part", *names), rows, section=SECTION))
    columns = dict(record.summary.get("columns") or {})
    later = [part for part in LATER if any(f"{part}.psi" in entry for entry in columns.values())]
    heads = ("Column", "Type", "Missing", "Values", "Least", "Greatest", *(f"PSI {part}" for part in later),
             *(f"New in {part}" for part in later))  # fmt: skip
    lines: list[tuple[Cell, ...]] = [
        (name, entry["type"], f"{entry['missing']:.1%}", count(entry["values"]), figure(entry.get("least")),
         figure(entry.get("greatest", entry.get("longest"))), *(number(entry.get(f"{part}.psi"), 3) for part in later),
         *(share(entry.get(f"{part}.unseen")) for part in later))
        for name, entry in columns.items()
    ]  # fmt: skip
    note = "Of train. Greatest: of a list its length. PSI: how far a part is from train; above 0.25 much has changed, "
    note += "in small parts a little further up. "
    note += "New: rows (or list entries) whose id train does not have."
    return [*found, Table("Columns", heads, tuple(lines), note, SECTION)]


def figure(value: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:,.6g}"


def share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def check(data: Place, **options_: Any) -> Result:
    """Check a log as `python -m jobs.check` does; returns what there is to look at (docs/notebook.md).

    data: the log. out=DIR writes the page, problem="listwise" checks for another problem.
    """
    return call(
        "check", run, options, {"data": data, **options_}, lambda given, found: (given.out or given.data, found)
    )


def following(given: Arguments) -> list[object]:
    """The training, with the settings that the log was checked for."""
    words: list[object] = ["train", "--data", given.data, "--out", "runs/first"]
    if given.problem != DEFAULT_PROBLEM:
        words += ["--problem", given.problem]
    if given.preset:
        words += ["--preset", given.preset]
    expected = flat(plain(usual(given.problem, given.preset)[1]))
    own = flat(plain(given.settings)) if given.settings else expected
    return [*words, *words_of({key: value for key, value in own.items() if value != expected.get(key)})]


if __name__ == "__main__":
    main(run, options, __doc__ or "", then=following)
