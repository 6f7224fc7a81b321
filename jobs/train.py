"""Train an entire-space model on an exposure log, data-parallel on Ray Train.

    python -m jobs.train --data runs/log --out runs/ips
    python -m jobs.train --data runs/log --out runs/dr --objective escm2_dr --workers 2 --epochs 5
    python -m jobs.train --data runs/log --out runs/wide --set model.embedding_width=32 model.backbone.experts=8
    python -m jobs.train --data runs/log --out runs/plain --workers 0          # this process, no Ray
    python -m jobs.train --data runs/today --out runs/next --start-from runs/ips     # from its weights
    python -m jobs.train --data runs/log --out runs/clicks --preset clicks           # two stages: propensities first
    python -m jobs.train --data runs/log --out runs/two --propensities runs/clicks

The same command again continues a run that was stopped, or says that it is finished. Results are in OUT/summary.json.
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from data.filesystems import in_process
from data.log import open_log
from distributed.config import TrainConfig
from distributed.training.launch import prepare, run_training
from distributed.training.loop import OnEpoch, TrainJob
from distributed.training.stopping import Stopped
from jobs import calibrate
from jobs.cluster.connect import check_cpus, connect
from jobs.command.cli import main
from jobs.command.preset_file import asked_for, fill_train
from jobs.command.settings import override
from jobs.command.signals import leave, stop_signals
from jobs.run.directory import SUMMARY_FILE, RunState, inspect_run, read_json, start_run, usable_cpus, write_json
from jobs.run.process import present
from jobs.run.progress import follow_training
from jobs.run.start_from import model_to_start_from
from jobs.run.tracking import check_tracking, tracked
from jobs.run.two_stages import check_propensities

MAY_CHANGE = frozenset({"workers", "min_workers", "train.tables", "train.background_checkpoints"})
"""What a run may be continued with that it was not begun with."""


@dataclass
class Arguments:
    data: str
    """Log directory (path or URI) with schema.json and the parts train, valid and, if it has one, test."""
    out: Path
    """Run directory: new, or one of the same run to continue."""
    objective: str = "escm2_ips"
    """What is minimised: naive, mtl_imp, esmm, escm2_ips, escm2_snips, escm2_dr, escm2_mrdr (formulas:
    docs/math.md), or your own as my/module.py:Class (docs/objectives.md)."""
    backbone: Literal["shared_bottom", "omoe", "mmoe", "cgc", "ple"] = "mmoe"
    """The network between the embedding and the towers."""
    workers: int = min(2, usable_cpus())
    """Ray Train workers, one CPU (or GPU, where there is one for each) apiece; 0 trains in this process without Ray."""
    min_workers: int | None = None
    """Begin with as few workers as this if there is no room for more, and go on with more or fewer as nodes come and
    go. Left out: always --workers."""
    epochs: int = 2
    """Passes over the training part, at most."""
    tables: Literal["replicated", "sharded"] = "replicated"
    """Embedding rows: all on every worker, or each on one of them, for tables larger than a worker's memory."""
    seed: int = 0
    """Decides initialisation, shuffles and dropout."""
    start_from: Path | None = None
    """A finished training run with the same features and model: begin with its weights; the optimizer starts afresh."""
    propensities: Path | None = None
    """A finished training run with the same features, whose CTR tower weighs the clicks in place of this run's own; its
    model may be trained for clicks alone (--preset clicks)."""
    snapshots: bool = False
    """Keep the model of every epoch that is the best so far; jobs.score --run OUT/snapshots/step-N scores with one."""
    calibrate: Literal["none", "platt", "isotonic"] = "none"
    """Calibrate the trained model on the validation part; jobs.calibrate does so later, with more choices."""
    config: Path | None = None
    """A preset file (JSON), such as the best.json of jobs.tune. Options that are not at their defaults win over it."""
    preset: str = ""
    """A named configuration of jobs/command/presets.py: default, doubly_robust, paper, clicks, small, wide."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE ...")] = ()
    """Any other setting, such as optimizer.learning_rate=0.002; an unknown key prints the valid ones."""


def run(arguments: Arguments, on_epoch: OnEpoch | None = None, cpus: int = 0) -> dict[str, Any]:
    """Train to the end and return summary.json as a dict.

    `on_epoch`: as for distributed.training.loop.train; `cpus`: of a local cluster, if it
    is to have more than the workers.
    """
    started = time.time()
    check_tracking()
    arguments = fill_train(arguments, *asked_for("train", arguments.config, arguments.preset))
    out = arguments.out.expanduser().absolute()
    config = configure(arguments)
    settings = {"train": dataclasses.asdict(config), "data": arguments.data, "workers": arguments.workers}
    if arguments.min_workers is not None:
        settings["min_workers"] = arguments.min_workers
    if arguments.start_from:
        settings["start_from"] = str(arguments.start_from.expanduser().absolute())
    if arguments.propensities:
        settings["propensities"] = str(arguments.propensities.expanduser().absolute())
    state = inspect_run(out, "train", settings, may_change=MAY_CHANGE)
    console = Console()
    if state is RunState.DONE:
        summary = read_json(out / SUMMARY_FILE)
        console.print(f"{out} is finished already:")
        show(console, summary)
        return summary
    if arguments.workers and in_process(arguments.data):
        raise ValueError(f"--data {arguments.data} lies in this process's memory, where no worker sees it: --workers 0")
    at_least = check_min_workers(arguments)
    check_cpus(at_least)
    if arguments.workers > config.stream.lanes:
        raise ValueError(f"--workers {arguments.workers} needs --set stream.lanes={arguments.workers} or more")
    log = open_log(arguments.data)
    job, facts = prepare(out, log, config, started)
    job = dataclasses.replace(job, snapshots=arguments.snapshots)
    begins: dict[str, Any] = {}
    if arguments.start_from:
        directory, begins = model_to_start_from(arguments.start_from, log.schema, config, out)
        job = dataclasses.replace(job, start_from=directory)
    if arguments.propensities:
        begins |= {"propensities": check_propensities(arguments.propensities, log.schema, config, out)}
        job = dataclasses.replace(job, propensities=str(settings["propensities"]))
    data = {
        "location": job.location,
        "name": log.schema.name,
        "parts": {name: dataclasses.asdict(fact) for name, fact in facts.items()},
        "features": {"categorical": len(log.schema.categorical), "numeric": len(log.schema.numeric)},
    }
    if state is RunState.NEW:
        start_run(out, "train", settings, {"data": data, **begins})
    announce(console, arguments, job, state)
    if arguments.workers:
        connect(max(cpus, at_least))
    with present(out), tracked(out):
        with follow_training(console, out, config.epochs):
            figures = trained(job, arguments, on_epoch)
        summary = {
            **figures,
            "train.workers": arguments.workers,
            "train.seconds": time.time() - started,
            "part": "test" if "test" in job.parts else "valid",
        }
        write_json(out / SUMMARY_FILE, summary)
    show(console, summary)
    console.print(f"run: {out}")
    return calibrated(arguments, out, summary)


def trained(job: TrainJob, arguments: Arguments, on_epoch: OnEpoch | None) -> dict[str, Any]:
    """The figures. SIGTERM or Ctrl-C: save, say so in one line and exit with code 143 or 130."""
    with stop_signals() as received:
        try:
            return run_training(
                job, arguments.workers, on_epoch, arguments.min_workers, lambda: received[0] if received else 0
            )
        except Stopped as stopped:
            leave(stopped, received[0])


def check_min_workers(arguments: Arguments) -> int:
    """How many workers there must be room for at the start; ValueError if --min-workers is none of 1 .. --workers."""
    least = arguments.min_workers
    if least is None:
        return arguments.workers
    if not 1 <= least <= arguments.workers:
        raise ValueError(f"--min-workers {least} must be between 1 and --workers {arguments.workers}")
    return least


def calibrated(arguments: Arguments, out: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The summary with the calibrated figures, if --calibrate asks for a calibration that the run does not have."""
    if arguments.calibrate in ("none", summary.get("calibration.method")):
        return summary
    return calibrate.run(calibrate.Arguments(run=out, method=arguments.calibrate))


def configure(arguments: Arguments) -> TrainConfig:
    assignments = list(arguments.set)
    named = {
        "objective.name": arguments.objective,
        "model.backbone.name": arguments.backbone,
        "epochs": arguments.epochs,
        "seed": arguments.seed,
        "tables": arguments.tables,
    }
    taken = [key for key in named if any(entry.split("=")[0].strip() == key for entry in assignments)]
    if taken:
        raise ValueError(f"--set {taken[0]}: this setting has an option of its own")
    return override(TrainConfig(), [f"{key}={value}" for key, value in named.items()] + assignments)


def announce(console: Console, arguments: Arguments, job: TrainJob, state: RunState) -> None:
    where = f"{arguments.workers} Ray Train workers" if arguments.workers else "this process"
    verb = "Continuing" if state is RunState.RESUME else "Training"
    rows = job.parts["train"].rows
    console.print(
        f"{verb} {arguments.objective} on {arguments.backbone}: {rows:,} rows of {job.schema.name!r} "
        f"(click rate {job.click_rate:.2%}) in {where}"
    )


def show(console: Console, summary: dict[str, Any]) -> None:
    table = Table("task", "space", "rows", "AUC", "log-loss", "PCOC", title=f"{summary['part']} part", title_style="")
    names = {"ctr": ("CTR", "exposures"), "cvr.click": ("CVR", "clicks"), "ctcvr": ("CTCVR", "exposures")}
    names["cvr.entire"] = ("CVR", "exposures (truth)")
    for space, (task, where) in names.items():
        if f"{space}.count" not in summary:
            continue

        def cell(name: str, form: str, space: str = space) -> str:
            value = summary.get(f"{space}.{name}")
            return "-" if value is None else format(value, form)

        table.add_row(
            task, where, cell("count", ",d"), cell("auc", ".4f"), cell("log_loss", ".5f"), cell("pcoc", ".3f")
        )
    console.print(table)
    console.print(f"{summary['train.rows_per_s']:,.0f} rows/s, {summary['train.steps']} steps")


if __name__ == "__main__":
    main(run, Arguments, __doc__ or "", resumes=True)
