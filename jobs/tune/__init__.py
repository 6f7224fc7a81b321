"""Search for settings of jobs.train or jobs.evolve with Ray Tune: many trials side by side, the best as a preset file.

    python -m jobs.tune --data runs/log --out runs/search --samples 20
    python -m jobs.tune --data runs/log --out runs/cvr --metric cvr.click.auc --subject-to "ctr.auc>=0.62"
    python -m jobs.tune --data runs/log --out runs/front --pareto ctr.auc cvr.click.auc --scheduler none
    python -m jobs.tune --data runs/log --out runs/pbt --scheduler pbt --space rates --samples 4 --epochs 8
    python -m jobs.tune --data runs/log --out runs/wide --trial-workers 4 --concurrent 2 --samples 10
    python -m jobs.tune --problem listwise --data runs/log --out runs/lists
    python -m jobs.tune --objective rastrigin --out runs/es --samples 20 --generations 200
    python -m jobs.tune --resume runs/search              # as the same command again would

The search sees validation figures only; the best trial is judged once on the test part, at the end. Its settings are
in OUT/best.json for `--preset` of jobs.train or jobs.evolve, figures in OUT/summary.json, all trials in
OUT/trials.csv, a page of it all in OUT/report.html, each trial's run directory in OUT/trials. The same command goes on
from where a search was stopped.
"""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import jobs.report
from data.errors import UserError
from data.log import open_log
from jobs.cluster.answers import check_answers
from jobs.cluster.connect import check_sockets, connect, names_cluster
from jobs.command.call import Place, Result, call
from jobs.command.console import Console
from jobs.command.paths import absolute as absolute_paths
from jobs.command.trust import trust
from jobs.run.directory import RUN_FILE, SUMMARY_FILE, RunState, read_json, start_run, usable_cpus, write_json
from jobs.run.inputs import MADE_FROM, check_data, check_files, check_log, data_of, files_of
from jobs.run.owner import entered
from jobs.tune.options import Arguments as Arguments
from jobs.tune.options import arguments_of, find_space, first_config, recorded
from jobs.tune.options import options as options

REPORT = "report.html"
LEAST_POPULATION = 4
MAY_CHANGE = frozenset({"concurrent", "data"})


def run(arguments: Arguments) -> dict[str, Any]:
    """Search to the end and return summary.json as a dict."""
    if arguments.resume is not None and arguments.out is None:
        arguments = arguments_of("--resume", arguments.resume)
    console = Console()
    trust(arguments)
    arguments = completed(arguments)
    check(arguments)
    assert arguments.out is not None
    out = arguments.out
    with entered(out, "tune", recorded(arguments), MAY_CHANGE) as state:
        if state is not RunState.NEW:
            check_inputs(arguments, out, state)
        if state is RunState.DONE:
            if not (out / REPORT).exists():
                jobs.report.write_page([out], out / REPORT)
            console.print(f"{out} is finished already: {read_json(out / SUMMARY_FILE)['tune.message']}", soft_wrap=True)
            return read_json(out / SUMMARY_FILE)
        return searched(arguments, out, state, console)


def tune(out: Place | None = None, **options_: Any) -> Result:
    """Search settings as `python -m jobs.tune` does; returns the search with its figures (docs/notebook.md).

    out: the directory of the search, or resume=DIR alone. data=LOG, samples=20, metric="ctr.auc" and so on; the best
    settings are the preset OUT/best.json.
    """

    def result(given: Arguments, summary: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        place = given.out or given.resume
        assert place is not None
        return place, summary

    return call("tune", run, options, {"out": out, **options_}, result)


def searched(arguments: Arguments, out: Path, state: RunState, console: Console) -> dict[str, Any]:
    """Check, search, write summary.json."""
    space = find_space(arguments.kind, not arguments.trains, arguments.space)

    from jobs.tune.driver import conduct, prepare  # Tune and Optuna take seconds to import: mistakes are said before

    study = prepare(arguments, space, out)
    if state is RunState.NEW:
        made_from = {"data": data_of(open_log(arguments.data))} if arguments.trains else files_of(arguments.settings)
        facts = {"data": study.subject.data, "space": study.described, MADE_FROM: made_from}
        start_run(out, "tune", recorded(arguments), facts)
    verb = "Continuing" if state is RunState.RESUME else "Searching"
    how = "random" if arguments.scheduler == "pbt" else arguments.search
    size = f" of {arguments.trial_workers} workers" if arguments.trial_workers else ""
    console.print(
        f"{verb} settings of jobs.{study.subject.job}: {arguments.samples} trials{size}, {arguments.concurrent} at a "
        f"time ({how}, scheduler {arguments.scheduler}); {study.plan.aim}",
        soft_wrap=True,
        highlight=False,
    )
    connect(arguments.concurrent * cpus(arguments), asked_cpus(arguments))
    began = time.time()
    summary = conduct(study, arguments, console)
    summary["tune.seconds"] = time.time() - began
    write_json(out / SUMMARY_FILE, summary)
    jobs.report.write_page([out], out / REPORT)
    console.print(summary["tune.message"], soft_wrap=True, highlight=False)
    console.print(f"run: {out}, report: {out / REPORT}", soft_wrap=True)
    return summary


def check_inputs(arguments: Arguments, out: Path, state: RunState) -> None:
    """Raise UserError if the search was begun on other data than these. Of one that has ended they may be gone."""
    record = read_json(out / RUN_FILE)
    if not arguments.trains:
        check_files(out, record, files_of(arguments.settings))
        return
    if state is RunState.RESUME:
        check_data(out, record, open_log(arguments.data))
    else:
        check_log(out, record, arguments.data)


def completed(arguments: Arguments) -> Arguments:
    """With what was left out: the settings' defaults, room for trials, paths made absolute."""
    config, own = arguments.config, arguments.settings
    own = arguments.kind.settings_type() if own is None else absolute_paths(own)
    return dataclasses.replace(
        arguments,
        concurrent=arguments.concurrent or room(arguments),
        data=absolute(arguments.data),
        config=first_config(arguments.objective) if config is None else config,
        settings=own,
    )


def check(arguments: Arguments) -> None:
    """UserError, naming the option, for what cannot be."""
    if arguments.out is None:
        raise UserError("--out DIR is needed: the run directory of the search")
    if arguments.trains and not arguments.data:
        raise UserError("--data LOG is needed: the log to train on")
    if not arguments.trains and arguments.scheduler == "pbt":
        raise UserError("--scheduler pbt is for --problem: the state of an evolution belongs to its settings")
    if arguments.samples < 1 or arguments.concurrent < 1:
        name = "samples" if arguments.samples < 1 else "concurrent"
        raise UserError(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    check_workers(arguments)
    if not names_cluster():
        check_sockets()
    if arguments.scheduler == "pbt" and arguments.samples < LEAST_POPULATION:
        raise UserError(
            f"--samples {arguments.samples}: a population (--scheduler pbt) needs {LEAST_POPULATION} or more"
        )
    if arguments.pareto and arguments.scheduler != "none":
        raise UserError(f"--scheduler {arguments.scheduler} goes by one figure: --pareto needs --scheduler none")


def cpus(arguments: Arguments) -> int:
    """Of one trial."""
    return arguments.trial_workers or 1


def room(arguments: Arguments) -> int:
    """How many trials this machine can run at a time; at least one, which `check_workers` then refuses."""
    return max(usable_cpus() // max(cpus(arguments), 1), 1)


def asked_cpus(arguments: Arguments) -> str:
    """The options that decide how many CPUs are needed, with their values."""
    workers = f" with --trial-workers {arguments.trial_workers}" if arguments.trial_workers else ""
    return f"--concurrent {arguments.concurrent}{workers}"


def check_workers(arguments: Arguments) -> None:
    """UserError where trials cannot have their workers, or not so many at a time."""
    workers = arguments.trial_workers
    if workers < 0 or workers == 1:
        raise UserError(f"--trial-workers must be 0 (the trial's own process) or at least 2, got {workers}")
    if workers and not arguments.trains:
        raise UserError("--trial-workers is for --problem: an evolution runs in the trial's own process")
    if workers and arguments.scheduler == "pbt":
        raise UserError(
            "--trial-workers needs --scheduler asha or none: pbt interrupts trials, and would leave workers behind"
        )
    if names_cluster():
        check_answers(os.environ["RAY_ADDRESS"])
        return  # how many CPUs it has is asked once it is joined
    if workers > usable_cpus():
        raise UserError(f"--trial-workers {workers}: this machine has {usable_cpus()} CPUs; ask for at most that many")
    if arguments.concurrent > room(arguments):
        fits = f"; --concurrent {room(arguments)} fits" if workers else ""
        raise UserError(f"{asked_cpus(arguments)}: this machine has {usable_cpus()} CPUs{fits}")


def absolute(location: str) -> str:
    """A search may go on from another directory, and trials run elsewhere."""
    return location if not location or "://" in location else str(Path(location).expanduser().absolute())
