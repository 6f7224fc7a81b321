"""A pipeline from its options to its report: checks first, then the stages on --data, then the days of --watch."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jobs.report
from data.errors import UserError
from funnel.settings import plain as settings_plain
from jobs.cluster.connect import check_cpus
from jobs.command.console import Console
from jobs.command.trust import trust
from jobs.pipeline import Arguments
from jobs.pipeline.base import EVALUATION, PARTS, TRAIN, TUNED, base
from jobs.pipeline.plan import EXECUTION, MAY_CHANGE, SETTINGS, Plan, check_log, check_options, opened
from jobs.pipeline.process import clean, quiet, stops
from jobs.pipeline.record import PIPELINE_FILE, Record
from jobs.pipeline.show import REPORT, show
from jobs.pipeline.watch import Current, Watch, has_days
from jobs.run.directory import SUMMARY_FILE, RunState, inspect_run, read_json, start_run, write_json
from jobs.run.owner import owned
from jobs.run.process import present

KIND = "pipeline"


def conduct(options: Arguments) -> dict[str, Any]:
    """Do what is not done; returns summary.json as a dict."""
    trust(options)
    check_options(options)
    out = options.out
    settings = recorded(options)
    inspect_run(out, KIND, settings, MAY_CHANGE)  # what is somebody else's is not even locked
    with owned(out):
        return staged(options, settings, inspect_run(out, KIND, settings, MAY_CHANGE))


def staged(options: Arguments, settings: dict[str, Any], state: RunState) -> dict[str, Any]:
    """Check, then stage after stage; `settings`: run.json's config."""
    out, console = options.out, Console(file=sys.stdout)
    plan = Plan(options, out)
    if options.data is not None:
        log = opened(options.data, PARTS)
        if not (out / TRAIN / SUMMARY_FILE).exists():
            check_cpus(options.workers)
            check_log(plan, log)
    if state is RunState.NEW:
        start_run(out, KIND, settings, {})
    with stops(), present(out) as process, quiet(out):
        clean(out)
        record = Record(out, console, process)
        summary = read_json(out / SUMMARY_FILE) if has_days(record) and (out / SUMMARY_FILE).exists() else {}

        def begin() -> Current:
            """The stages on --data, then the days; once a day is learned from, they are not looked at again."""
            found, current = base(plan, record)
            summary.update(found)
            finish(out, summary)
            return current

        if options.watch is not None:
            watch = Watch(plan, record, begin if options.data is not None else None, lambda: finish(out, summary))
            watch.run()
        else:
            begin()
        finish(out, summary)
    show(console, record, summary, plan)
    if options.watch is not None and (mistake := watch.mistake()):
        raise UserError(mistake)
    return summary


def recorded(options: Arguments) -> dict[str, Any]:
    """run.json's config: what decides the result, and what a pipeline that goes on is compared by."""
    plan = Plan(options, options.out)
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(Arguments)}
    own = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()
           if key not in (*EXECUTION, *SETTINGS)}  # fmt: skip
    problem = plan.problem.settings_type() if options.settings is None else options.settings
    return {
        "pipeline": own,
        "train": {**settings_plain(options.config), **settings_plain(problem)},
        "es": settings_plain(plan.es),
        "tuning": settings_plain(plan.tuning),
    }


def finish(out: Path, summary: dict[str, Any]) -> None:
    """Summary and report, if anything was done since they were written."""
    done = (out / PIPELINE_FILE).stat().st_mtime_ns if (out / PIPELINE_FILE).exists() else 0
    if not (out / REPORT).exists() or (out / REPORT).stat().st_mtime_ns < done:
        write_json(out / SUMMARY_FILE, summary)
        report(out)


def report(out: Path) -> None:
    """OUT/report.html from the runs that the stages left."""
    runs = [out / name for name in (TRAIN, EVALUATION, TUNED) if (out / name / SUMMARY_FILE).exists()]
    jobs.report.run(jobs.report.Args(runs=[*runs, out], out=out / REPORT))
