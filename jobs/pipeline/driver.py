"""A pipeline from its options to its report: checks first, then the stages on --data, then the days of --watch."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

import jobs.report
from jobs.cluster.connect import check_cpus
from jobs.pipeline import Arguments
from jobs.pipeline.base import EVALUATION, FUSION, PARTS, TRAIN, base
from jobs.pipeline.plan import EXECUTION, Plan, check_options, check_tunable, opened
from jobs.pipeline.process import alone, clean, quiet, stops, threads
from jobs.pipeline.record import PIPELINE_FILE, Record
from jobs.pipeline.show import REPORT, show
from jobs.pipeline.watch import Current, Watch, has_days
from jobs.run.directory import SUMMARY_FILE, RunState, inspect_run, read_json, start_run, write_json
from jobs.run.process import present
from jobs.run.two_stages import check_propensities

KIND = "pipeline"


def conduct(options: Arguments) -> dict[str, Any]:
    """Do what is not done; returns summary.json as a dict."""
    config = check_options(options)
    out = options.out.expanduser().absolute()
    given = {key: value for key, value in dataclasses.asdict(options).items() if key not in EXECUTION}
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    settings = {"pipeline": plain, "train": dataclasses.asdict(config)}
    state = inspect_run(out, KIND, settings)
    console = Console(file=sys.stdout)
    plan = Plan(options, out)
    if options.data is not None:
        log = opened(options.data, PARTS)
        if not (out / TRAIN / SUMMARY_FILE).exists():
            if options.propensities:
                check_propensities(options.propensities, log.schema, config, out / TRAIN)
            check_cpus(options.workers)
            check_tunable(plan, log, "valid", "test")
    if state is RunState.NEW:
        start_run(out, KIND, settings, {})
    with alone(out), stops(), present(out), threads(options.workers), quiet(out):
        clean(out)
        record = Record(out, console)
        summary = read_json(out / SUMMARY_FILE) if has_days(record) and (out / SUMMARY_FILE).exists() else {}

        def begin() -> Current:
            """The stages on --data, then the days; once a day is learned from, they are not looked at again."""
            found, current = base(plan, record)
            summary.update(found)
            finish(out, summary)
            return current

        if options.watch is not None:
            Watch(plan, record, begin if options.data is not None else None, lambda: finish(out, summary)).run()
        else:
            begin()
        finish(out, summary)
    show(console, record, summary, plan)
    return summary


def finish(out: Path, summary: dict[str, Any]) -> None:
    """Summary and report, if anything was done since they were written."""
    done = (out / PIPELINE_FILE).stat().st_mtime_ns if (out / PIPELINE_FILE).exists() else 0
    if not (out / REPORT).exists() or (out / REPORT).stat().st_mtime_ns < done:
        write_json(out / SUMMARY_FILE, summary)
        report(out)


def report(out: Path) -> None:
    """OUT/report.html from the runs that the stages left."""
    runs = [out / name for name in (TRAIN, EVALUATION, FUSION) if (out / name / SUMMARY_FILE).exists()]
    jobs.report.run(jobs.report.Args(runs=[*runs, out], out=out / REPORT))
