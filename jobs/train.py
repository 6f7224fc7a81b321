"""Train a problem on a log, data-parallel on Ray Train; the ranker, unless --problem says otherwise.

    python -m jobs.train --data runs/log --out runs/ips
    python -m jobs.train --data runs/log --out runs/dr --objective.name escm2_dr --workers 2 --epochs 5
    python -m jobs.train --data runs/log --out runs/wide --model.embedding-width 32 --model.backbone.experts 8
    python -m jobs.train --data runs/log --out runs/plain --workers 0          # this process, no Ray
    python -m jobs.train --data runs/today --out runs/next --start-from runs/ips     # from its weights
    python -m jobs.train --data runs/log --out runs/clicks --preset clicks           # two stages: propensities first
    python -m jobs.train --data runs/log --out runs/two --given propensities=runs/clicks

The same command again continues a run that was stopped, or says that it is finished. Results are in OUT/summary.json.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from data.errors import UserError
from data.filesystems import in_process
from data.log import Log, open_log
from distributed.checkpoint.read import MODEL_DIRECTORY
from distributed.config import TrainConfig
from distributed.finished_run import joined_config, load_run
from distributed.training.job import TrainJob
from distributed.training.launch import prepare, run_training
from distributed.training.stopping import Stopped
from funnel.registry import DEFAULT_PROBLEM, find_problem
from jobs import calibrate
from jobs.cluster.connect import check_cpus, connect
from jobs.command.call import Place, Result, call
from jobs.command.cli import glance, main, parse, with_settings
from jobs.command.console import Console
from jobs.command.preset import apply, find_preset
from jobs.command.signals import leave, stop_signals
from jobs.command.tables import print_table
from jobs.command.threads import use_threads
from jobs.command.trust import trust
from jobs.run.directory import (
    RUN_FILE,
    SUMMARY_FILE,
    RunState,
    inspect_run,
    read_json,
    start_run,
    usable_cpus,
    write_json,
)
from jobs.run.growth import grown_model
from jobs.run.inputs import MADE_FROM, TRAINED, check_data, check_log, data_of, model_of
from jobs.run.owner import entered
from jobs.run.process import present
from jobs.run.progress import follow_training
from jobs.run.records import reading_from
from jobs.run.start_from import (
    about_model,
    check_given,
    check_unchanged,
    given_runs,
    measured_before,
    model_to_start_from,
)
from jobs.run.tracking import check_tracking, tracked

MAY_CHANGE = frozenset({"data", "workers", "min_workers", "train.tables", "train.background_checkpoints"})
"""What a run may be continued with that it was not begun with. The log may lie elsewhere: check_data looks into it."""
FIRST = "first"
"""In a run directory: the training that tells settings which are left open."""


@dataclass
class Arguments:
    data: str
    """Log directory (path or URI) with schema.json and the parts train, valid and, if it has one, test."""
    out: Path
    """Run directory: new, or one of the same run to continue."""
    problem: str = DEFAULT_PROBLEM
    """What is trained: a name of funnel/registry.py, or your own as package.module:Class. Options follow it."""
    preset: str = ""
    """Named settings of the problem, or a JSON file such as the best.json of jobs.tune; options given here win."""
    workers: int = min(2, usable_cpus())
    """Ray Train workers, one CPU (or GPU, where there is one for each) apiece; 0 trains in this process without Ray."""
    min_workers: int | None = None
    """Begin with as few workers as this if there is no room for more, and go on with more or fewer as nodes come and
    go. Left out: always --workers."""
    start_from: Path | None = None
    """A finished training run with the same model, and features that the log has, too: begin with its weights; the
    optimizer starts afresh. New features begin as those of a new run do."""
    given: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROLE=RUN ...")] = ()
    """Finished training runs that this one builds on, such as propensities=RUN: a click model that weighs the clicks in
    place of the run's own CTR tower."""
    calibrate: str = "none"
    """Calibrate the trained model on the validation part by this --method of jobs.calibrate (platt or isotonic for the
    ranker), which does so later too, with more choices."""
    threads: int | None = None
    """Threads of this process, with --workers 0; the last bits of the weights follow them. Left out: what
    OMP_NUM_THREADS says, else as many as it may use CPUs. Workers have one each."""
    config: TrainConfig = field(default_factory=TrainConfig)
    settings: Any = None
    """The problem's own; None: its defaults."""


def options(words: Sequence[str]) -> type:
    """Arguments with the settings of the problem that the words name, and the preset's values as defaults."""
    first = glance(words, problem=DEFAULT_PROBLEM, preset="")
    kind = find_problem(first["problem"])
    config, settings = apply(*find_preset(first["preset"], kind.presets, "train"), TrainConfig(), kind.settings_type())
    return with_settings(Arguments, config=config, settings=settings)


def arguments_of(*words: str) -> Arguments:
    """What the command line would give; raises UserError for an unknown option."""
    parsed: Arguments = parse(options, words)
    return parsed


def run(arguments: Arguments, cpus: int = 0) -> dict[str, Any]:
    """Train to the end and return summary.json as a dict.

    `cpus`: of a local cluster, if it is to have more than the workers.
    """
    started = time.time()
    check_tracking()
    trust(arguments)
    kind = find_problem(arguments.problem)
    out, config = arguments.out, arguments.config
    problem_settings = kind.settings_type() if arguments.settings is None else arguments.settings
    config = dataclasses.replace(config, stop_metric=config.stop_metric or kind.goal)
    given = given_runs(arguments.given, kind.roles)
    settings = recorded(arguments, config, problem_settings, given)
    with entered(out, "train", settings, MAY_CHANGE) as state:
        if state is RunState.DONE:
            check_finished(arguments, given)
            summary = read_json(out / SUMMARY_FILE)
            Console().print(f"{out} is finished already:", soft_wrap=True)
            with reading_from(out / SUMMARY_FILE):
                print_table(Console(), kind.results(summary))
        else:
            arguments = dataclasses.replace(arguments, config=config, settings=problem_settings)
            summary = trained(arguments, given, settings, state, started, cpus)
        return calibrated(arguments, out, summary)


def train(data: Place, out: Place, **options_: Any) -> Result:
    """Train as `python -m jobs.train` does; returns the run with its figures (docs/notebook.md).

    data: the log; out: the run directory. Every option of the command is a keyword: workers=0, epochs=3,
    model__backbone__name="mmoe", given={"propensities": RUN}.
    """
    return call("train", run, options, {"data": data, "out": out, **options_}, lambda given, found: (given.out, found))


def check(arguments: Arguments, data: bool = True) -> None:
    """Raise UserError for what `run` would refuse before it starts anything. Writes nothing. `data`: look into the log,
    too, which takes a pass over its labels."""
    kind = find_problem(arguments.problem)
    own = kind.settings_type() if arguments.settings is None else arguments.settings
    config = dataclasses.replace(arguments.config, stop_metric=arguments.config.stop_metric or kind.goal)
    given = given_runs(arguments.given, kind.roles)
    settings = recorded(arguments, config, own, given)
    if inspect_run(arguments.out, "train", settings, MAY_CHANGE) is RunState.DONE:
        check_finished(arguments, given)
        return
    check_workers(arguments)
    if not data:
        return
    roles = {role: str(path) for role, path in given.items()}
    known = measured_before(arguments.out, arguments.start_from)
    log = open_log(arguments.data)
    job = prepare(arguments.out, log, config, own, time.time(), arguments.problem, roles, known)
    if arguments.start_from:
        model_to_start_from(arguments.start_from, job)
    check_given(given, job)


def check_finished(arguments: Arguments, given: dict[str, Path]) -> None:
    """Raise UserError if a finished run was made from other data, or other runs, than the command names now."""
    check_log(arguments.out, read_json(arguments.out / RUN_FILE), arguments.data)
    for role, run in given.items():
        if (run / MODEL_DIRECTORY).is_dir():
            check_unchanged(arguments.out, role, about_model(run, f"--given {role}={run}"))


def trained(
    arguments: Arguments,
    given: dict[str, Path],
    settings: dict[str, Any],
    state: RunState,
    started: float,
    cpus: int,
) -> dict[str, Any]:
    """Check, train, write summary.json; `settings`: run.json's config, `started`: when the command was given."""
    out, config, console, kind = arguments.out, arguments.config, Console(), find_problem(arguments.problem)
    if arguments.calibrate != "none":
        calibrate.settings_of(kind, method=arguments.calibrate)
    at_least = check_workers(arguments)
    use_threads(arguments.threads, alone=not arguments.workers)
    log = open_log(arguments.data)
    if state is RunState.RESUME:
        check_data(out, read_json(out / RUN_FILE), log)
    roles = {role: str(path) for role, path in given.items()}
    known = measured_before(out, arguments.start_from)
    job = prepare(out, log, config, arguments.settings, started, arguments.problem, roles, known)
    begins: dict[str, Any] = {}
    new: list[str] = []
    if arguments.start_from:
        directory, begins, new = model_to_start_from(arguments.start_from, job)
        job = dataclasses.replace(job, start_from=directory)
    begins |= check_given(given, job)
    data = {
        "location": job.location,
        "name": log.schema.name,
        "parts": job.facts["parts"],
        "features": {"categorical": len(log.schema.categorical), "numeric": len(log.schema.numeric)},
    }
    if state is RunState.NEW:
        made_from = {"data": data_of(log)}
        start_run(out, "train", settings, {"problem": arguments.problem, "data": data, MADE_FROM: made_from, **begins})
    announce(console, arguments, job, state)
    job, told = settled(arguments, job, log, cpus)
    if new:
        assert arguments.start_from is not None
        job = dataclasses.replace(job, start_from=str(grown_model(job, arguments.start_from)))
        console.print(f"new features beside those of {arguments.start_from}: {', '.join(new)}", soft_wrap=True)
    if arguments.workers:
        connect(max(cpus, at_least), trains=True)
    with present(out) as process, tracked(out):
        with follow_training(console, out, config.epochs, kind.watched, process, arguments.workers):
            figures = figures_of(job, arguments)
        summary = {
            **figures,
            "train.workers": arguments.workers,
            "train.seconds": time.time() - started,
            "part": "test" if "test" in job.parts else "valid",
            TRAINED: model_of(out)["model"],
        }
        summary |= {**told, "absent": {**summary.get("absent", {}), **told.get("absent", {})}} if told else {}
        write_json(out / SUMMARY_FILE, summary)
    if summary["train.epochs"] < config.epochs:
        console.print(early(summary, config), soft_wrap=True, highlight=False)
    print_table(console, kind.results(summary))
    console.print(f"{summary['train.rows_per_s']:,.0f} {kind.units}/s, {summary['train.steps']} steps")
    console.print(f"run: {out}")
    return summary


def settled(arguments: Arguments, job: TrainJob, log: Log, cpus: int) -> tuple[TrainJob, dict[str, Any]]:
    """(the job with settings that a training of its own has to tell, in OUT/first; figures of what it told)

    As it is where the problem leaves nothing open.
    """
    kind = find_problem(arguments.problem)
    wanted = kind.first(job.settings) if hasattr(kind, "first") else None
    if wanted is None:
        return job, {}
    before, preset = wanted
    config, before = apply(kind.presets[preset](), f"--preset {preset}", arguments.config, before)
    own = {"out": arguments.out / FIRST, "config": config, "settings": before, "given": (), "calibrate": "none"}
    run(dataclasses.replace(arguments, **own), cpus)
    found = load_run(arguments.out / FIRST).given
    settings, figures, words = kind.settled(job.settings, found, dataclasses.replace(log, schema=job.schema), job.parts)
    Console().print(words, soft_wrap=True, highlight=False)
    return dataclasses.replace(job, settings=settings), figures


def recorded(arguments: Arguments, config: TrainConfig, settings: Any, given: dict[str, Path]) -> dict[str, Any]:
    """run.json's config: what decides the result, and what a run that goes on is compared by."""
    record = {"train": joined_config(config, settings), "data": arguments.data, "workers": arguments.workers}
    if arguments.problem != DEFAULT_PROBLEM:
        record["problem"] = arguments.problem
    if arguments.min_workers is not None:
        record["min_workers"] = arguments.min_workers
    if arguments.start_from:
        record["start_from"] = str(arguments.start_from)
    return record | {role: str(run) for role, run in given.items()}


def figures_of(job: TrainJob, arguments: Arguments) -> dict[str, Any]:
    """Train; the figures. SIGTERM or Ctrl-C: save, say so in one line and exit with code 143 or 130."""
    with stop_signals() as received:
        try:
            return run_training(
                job, arguments.workers, None, arguments.min_workers, lambda: received[0] if received else 0
            )
        except Stopped as stopped:
            leave(stopped, received[0])


def early(summary: dict[str, Any], config: TrainConfig) -> str:
    """Said of a training that ended before its last epoch."""
    epochs, steps = summary["train.epochs"], summary["train.steps"]
    best = round(summary["train.best_step"] * epochs / steps)
    return (
        f"stopped early, after epoch {epochs} of {config.epochs}: no better {config.stop_metric} in the last "
        f"{config.patience} validations (--patience); the weights of epoch {best} are kept"
    )


def check_workers(arguments: Arguments) -> int:
    """How many workers there must be room for at the start. Raises UserError for what cannot be."""
    workers, least = arguments.workers, arguments.min_workers
    if workers and in_process(arguments.data):
        raise UserError(f"--data {arguments.data} lies in this process's memory, where no worker sees it: --workers 0")
    if least is not None and not 1 <= least <= workers:
        raise UserError(f"--min-workers {least} must be between 1 and --workers {workers}")
    at_least = workers if least is None else least
    check_cpus(at_least)
    if workers > arguments.config.stream.lanes:
        raise UserError(f"--workers {workers} needs --stream.lanes {workers} or more")
    return at_least


def calibrated(arguments: Arguments, out: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The summary with the calibrated figures, if --calibrate asks for a calibration that the run does not have."""
    if arguments.calibrate in ("none", summary.get("calibration.method")):
        return summary
    settings = calibrate.settings_of(find_problem(arguments.problem), method=arguments.calibrate)
    return calibrate.run(calibrate.Arguments(run=out, settings=settings))


def announce(console: Console, arguments: Arguments, job: TrainJob, state: RunState) -> None:
    where = f"{arguments.workers} Ray Train workers" if arguments.workers else "this process"
    verb = "Continuing" if state is RunState.RESUME else "Training"
    kind = find_problem(job.problem)
    what = kind(job.settings, job.schema, job.facts, {}).describe()
    console.print(f"{verb} {what}: {job.units('train'):,} {kind.units} of {job.schema.name!r} in {where}")
    for line in job.facts.get("warnings", ()):
        console.print(f"warning: {line}", style="yellow", soft_wrap=True, markup=False, highlight=False)


def following(arguments: Arguments) -> tuple[object, ...]:
    """Its figures with intervals, where the problem has such; else its page."""
    out = arguments.out
    if "evaluate" in find_problem(arguments.problem).tools:
        return ("evaluate", "--run", out, "--data", arguments.data)
    return ("report", out, "--out", out / "report.html")


if __name__ == "__main__":
    main(run, options, __doc__ or "", resumes=True, then=following)
