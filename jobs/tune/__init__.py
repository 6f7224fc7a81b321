"""Search for settings of jobs.train or jobs.evolve with Ray Tune: many trials side by side, the best as a preset file.

    python -m jobs.tune --data runs/log --out runs/search --samples 20
    python -m jobs.tune --data runs/log --out runs/cvr --metric cvr.click.auc --subject-to "ctr.auc>=0.62"
    python -m jobs.tune --data runs/log --out runs/front --pareto ctr.auc cvr.click.auc --scheduler none
    python -m jobs.tune --data runs/log --out runs/pbt --scheduler pbt --space rates --samples 4 --set epochs=8
    python -m jobs.tune --data runs/log --out runs/wide --trial-workers 4 --concurrent 2 --samples 10
    python -m jobs.tune --what evolve --scored runs/scored.parquet --out runs/es --samples 20
    python -m jobs.tune --resume runs/search              # as the same command again would

The search sees validation figures only; the best trial is judged once on the test part, at the end. Its settings are
in OUT/best.json for `jobs.train --config` or `jobs.evolve --config`, figures in OUT/summary.json, all trials in
OUT/trials.csv, each trial's run directory in OUT/trials. The same command goes on from where a search was stopped.
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from jobs.cluster.connect import connect, names_cluster
from jobs.command.presets import Space, find_space
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
from jobs.tune.aim import Aim, read_aim

LEAST_POPULATION = 4
MAY_CHANGE = frozenset({"concurrent"})


@dataclass
class Arguments:
    out: Path | None = None
    """Run directory of the search: new, or one of the same search to continue."""
    what: Literal["train", "evolve"] = "train"
    """Which job's settings to search."""
    data: str = ""
    """For train: log directory (path or URI), which all nodes can reach."""
    scored: Path | None = None
    """For evolve: the Parquet file that jobs.score wrote."""
    samples: int = 20
    """Trials; the first one is the default configuration. With pbt: the size of the population."""
    space: str = "standard"
    """Where to look: standard, loss, rates for train; standard, forms for evolve (jobs/command/presets.py)."""
    scheduler: Literal["asha", "pbt", "none"] = "asha"
    """asha stops the trials that fall behind; pbt lets them take over weights and settings of better ones (train, a
    space's rates and weights only); none lets each end."""
    search: Literal["optuna", "random"] = "optuna"
    """How settings are chosen: by Optuna's TPE from the trials so far, or independently. pbt draws them."""
    metric: str = ""
    """Validation figure to bring up (log_loss: down; pcoc: to 1). train: SPACE.FIGURE with SPACE of ctr, cvr.click,
    ctcvr and FIGURE of auc, log_loss, pcoc (ctcvr.log_loss where left out); evolve: value (the default), ndcg, click,
    conversion among the first k."""
    subject_to: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIGURE>=X ...")] = ()
    """Limits on other figures, such as ctr.auc>=0.62: what keeps them beats what does not."""
    pareto: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIGURE FIGURE")] = ()
    """Two figures at once instead of --metric: the trials that none beats in both. Needs --scheduler none."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE ...")] = ()
    """Settings that all trials share, as --set of jobs.train, or options of jobs.evolve (generations=100 fusion=sum);
    a key of the space is then not searched."""
    trial_workers: int = 0
    """For train: Ray Train workers of each trial, 2 or more, one CPU (or GPU, where there is one for each) apiece; 0
    trains in the trial's own process."""
    concurrent: int = 0
    """Trials at a time, each of one CPU or of --trial-workers; 0: as many as this machine has room for."""
    seed: int = 0
    """Decides the suggestions, and in every trial what --seed does there."""
    resume: Path | None = None
    """Continue the search in this directory with the settings it was started with; nothing else need be given."""


def run(arguments: Arguments) -> dict[str, Any]:
    """Search to the end and return summary.json as a dict."""
    if arguments.resume is not None:
        arguments = resumed(arguments)
    console = Console()
    arguments = dataclasses.replace(arguments, concurrent=arguments.concurrent or room(arguments))
    aim = check(arguments)
    assert arguments.out is not None
    out = arguments.out.expanduser().absolute()
    arguments = dataclasses.replace(arguments, data=absolute(arguments.data))
    if arguments.scored is not None:
        arguments = dataclasses.replace(arguments, scored=arguments.scored.expanduser().absolute())
    settings = {
        key: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
        for key, value in dataclasses.asdict(arguments).items()
        if key not in ("out", "resume")
    }
    if not arguments.trial_workers:
        del settings["trial_workers"]  # searches that were begun before there were any go on
    state = inspect_run(out, "tune", settings, may_change=MAY_CHANGE)
    if state is RunState.DONE:
        console.print(f"{out} is finished already: {read_json(out / SUMMARY_FILE)['tune.message']}", soft_wrap=True)
        return read_json(out / SUMMARY_FILE)
    space = find_space(arguments.what, arguments.space)

    from jobs.tune.driver import conduct, prepare  # Tune and Optuna take seconds to import: mistakes are told before

    study = prepare(arguments, aim, space, out)
    if state is RunState.NEW:
        start_run(out, "tune", settings, {"data": study.data, "space": describe(study.space)})
    verb = "Continuing" if state is RunState.RESUME else "Searching"
    how = "random" if arguments.scheduler == "pbt" else arguments.search
    size = f" of {arguments.trial_workers} workers" if arguments.trial_workers else ""
    console.print(
        f"{verb} settings of jobs.{arguments.what}: {arguments.samples} trials{size}, {arguments.concurrent} at a time "
        f"({how}, scheduler {arguments.scheduler}); {aim}",
        soft_wrap=True,
        highlight=False,
    )
    connect(arguments.concurrent * cpus(arguments), asked_cpus(arguments))
    began = time.time()
    summary = conduct(study, arguments, console)
    summary["tune.seconds"] = time.time() - began
    write_json(out / SUMMARY_FILE, summary)
    console.print(summary["tune.message"], soft_wrap=True, highlight=False)
    console.print(f"run: {out}", soft_wrap=True)
    return summary


def check(arguments: Arguments) -> Aim:
    """ValueError, naming the option, for what cannot be."""
    if arguments.out is None:
        raise ValueError("--out DIR is needed: the run directory of the search")
    if arguments.what == "train" and not arguments.data:
        raise ValueError("--data LOG is needed: the log to train on")
    if arguments.what == "evolve" and arguments.scored is None:
        raise ValueError("--scored FILE is needed with --what evolve: the Parquet file that jobs.score wrote")
    if arguments.what == "evolve" and arguments.scheduler == "pbt":
        raise ValueError("--scheduler pbt is for --what train: the state of an evolution belongs to its settings")
    if arguments.samples < 1 or arguments.concurrent < 1:
        name = "samples" if arguments.samples < 1 else "concurrent"
        raise ValueError(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    check_workers(arguments)
    if arguments.scheduler == "pbt" and arguments.samples < LEAST_POPULATION:
        raise ValueError(
            f"--samples {arguments.samples}: a population (--scheduler pbt) needs {LEAST_POPULATION} or more"
        )
    aim = read_aim(arguments.what, arguments.metric, arguments.subject_to, arguments.pareto)
    if len(aim.metrics) > 1 and arguments.scheduler != "none":
        raise ValueError(f"--scheduler {arguments.scheduler} goes by one figure: --pareto needs --scheduler none")
    return aim


def cpus(arguments: Arguments) -> int:
    """Of one trial."""
    return arguments.trial_workers or 1


def room(arguments: Arguments) -> int:
    """How many trials this machine can run at a time, or one that is told what it lacks."""
    return max(usable_cpus() // max(cpus(arguments), 1), 1)


def asked_cpus(arguments: Arguments) -> str:
    """The options that decide how many CPUs are needed, with their values."""
    workers = f" with --trial-workers {arguments.trial_workers}" if arguments.trial_workers else ""
    return f"--concurrent {arguments.concurrent}{workers}"


def check_workers(arguments: Arguments) -> None:
    """ValueError where trials cannot have their workers, or not so many at a time."""
    workers = arguments.trial_workers
    if workers < 0 or workers == 1:
        raise ValueError(f"--trial-workers must be 0 (the trial's own process) or at least 2, got {workers}")
    if workers and arguments.what == "evolve":
        raise ValueError("--trial-workers is for --what train: an evolution runs in the trial's own process")
    if workers and arguments.scheduler == "pbt":
        raise ValueError(
            "--trial-workers needs --scheduler asha or none: pbt interrupts trials, and would leave workers behind"
        )
    if names_cluster():
        return  # it is asked once it is there
    if workers > usable_cpus():
        raise ValueError(f"--trial-workers {workers}: this machine has {usable_cpus()} CPUs; ask for at most that many")
    if arguments.concurrent > room(arguments):
        fits = f"; --concurrent {room(arguments)} fits" if workers else ""
        raise ValueError(f"{asked_cpus(arguments)}: this machine has {usable_cpus()} CPUs{fits}")


def resumed(given: Arguments) -> Arguments:
    """The options a search was started with; only --concurrent may be given anew."""
    assert given.resume is not None
    out = given.resume.expanduser().absolute()
    record = read_json(out / RUN_FILE)
    kept = record.get("config")
    if record.get("kind") != "tune" or not isinstance(kept, dict):
        raise ValueError(f"--resume {out}: its {RUN_FILE} is not of jobs.tune")
    if given.concurrent != Arguments.concurrent:
        kept["concurrent"] = given.concurrent
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()}
    values["scored"] = Path(values["scored"]) if values.get("scored") else None
    try:
        return Arguments(**values, out=out)
    except TypeError as error:
        raise ValueError(f"--resume {out}: its {RUN_FILE} has options this version does not know ({error})") from None


def absolute(location: str) -> str:
    """A search may go on from another directory, and trials run elsewhere."""
    return location if not location or "://" in location else str(Path(location).expanduser().absolute())


def describe(space: Space) -> dict[str, str]:
    """The space in words, for run.json."""
    return {key: domain.domain_str for key, domain in space.items()}
