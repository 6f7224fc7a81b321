"""One trial of a search: our own loop in the process of a Tune actor, in a run directory of its own; or in several
processes (jobs/tune/workers.py).

Beside what jobs.train or jobs.evolve leave there lie the files of jobs/tune/files.py. A trial that is started again
goes on from its own checkpoint; one that has ended repeats its reports and returns.
"""

import dataclasses
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from distributed.training.job import TrainJob
from distributed.training.launch import run_training
from distributed.training.recorder import CHECKPOINTS
from jobs.command.preset_file import assignments
from jobs.command.presets import Settings, What
from jobs.command.settings import override
from jobs.evolve.evolution import Arguments as EvolveArguments
from jobs.run.directory import RUN_FILE, SUMMARY_FILE, read_json, start_run, write_json
from jobs.tune.aim import Aim
from jobs.tune.files import SETTINGS_FILE, STOP_FILE, TIME, TRIAL_FILE, name_of, read_reports, write_report
from jobs.tune.workers import BEST_FILE, TRAINED_FILE, judge, train_with_workers

INDEX = "trial"
"""The key of Tune's config that numbers Optuna's trials; the others are settings."""


@dataclass(frozen=True)
class Plan:
    """What all trials of a search share: plain values."""

    what: What
    trials: str
    """Directory of the trials' run directories, which all nodes can reach."""
    aim: Aim
    job: TrainJob | None = None
    """The training that trials vary, of the parts train and valid."""
    evolve: EvolveArguments | None = None
    """The tuning that trials vary."""
    workers: int = 0
    """Ray Train workers of each trial; 0 trains in its own process."""
    checkpoints: bool = False
    """Hand Tune the checkpoints: population-based training gives them to other trials."""


class Trial:
    """The files of one trial, and the telling of Tune."""

    def __init__(self, plan: Plan, index: int) -> None:
        self.plan, self.run = plan, Path(plan.trials) / name_of(index)
        self.time = TIME[plan.what]

    def report(self, moment: int, figures: dict[str, Any], checkpoint: Path | None = None) -> bool:
        """Tell Tune the figures that the trial would end with now; False if it is to end."""
        self.tell(write_report(self.run, moment, figures), checkpoint)
        return not self.stopped

    def tell(self, record: dict[str, Any], checkpoint: Path | None = None) -> None:
        handed = tune.Checkpoint.from_directory(str(checkpoint)) if checkpoint else None
        scores = self.plan.aim.scores(record["figures"])
        tune.report({**scores, self.time: record["at"]}, checkpoint=handed)

    @property
    def stopped(self) -> bool:
        return (self.run / STOP_FILE).exists()

    def end(self, state: str, **facts: Any) -> None:
        write_json(self.run / TRIAL_FILE, {"state": state, **facts})


def index_of(config: dict[str, Any], trial_id: str) -> int:
    """Which trial this is. Those that Tune draws itself are numbered by their id, 1a2b3_00007: their config may become
    another trial's."""
    return int(config[INDEX]) if INDEX in config else int(trial_id.rsplit("_", 1)[-1])


def trainable(plan: Plan) -> Callable[[dict[str, Any]], None]:
    """A function for tune.Tuner."""

    def trial(config: dict[str, Any]) -> None:
        settings = {key: value for key, value in config.items() if key != INDEX}
        one = Trial(plan, index_of(config, str(tune.get_context().get_trial_id())))
        one.run.mkdir(parents=True, exist_ok=True)
        if (one.run / TRIAL_FILE).exists():
            repeat(one)
            return
        write_json(one.run / SETTINGS_FILE, settings)
        began = time.time()
        try:
            body = train_one if plan.what == "train" else evolve_one
            body(one, settings)
        except Exception as error:  # contained: one trial's end is not the search's
            (one.run / "error.txt").write_text(traceback.format_exc())
            one.end("failed", error=" ".join(str(error).split()) or type(error).__name__, seconds=time.time() - began)
            one.tell({"at": 0, "figures": None})
            return
        one.end("stopped" if one.stopped else "finished", seconds=time.time() - began)

    return trial


def repeat(trial: Trial) -> None:
    """Tell Tune what an ended trial said."""
    for record in read_reports(trial.run):
        trial.tell(record)
    if read_json(trial.run / TRIAL_FILE)["state"] == "failed":
        trial.tell({"at": 0, "figures": None})


def train_one(trial: Trial, settings: Settings) -> None:
    """The training loop, judged at each validation by the epoch that would be kept."""
    plan, run = trial.plan, trial.run
    assert plan.job is not None
    began = time.time()
    config = override(plan.job.config, assignments(settings))
    job = dataclasses.replace(plan.job, run=str(run), config=config, started=began)
    checkpoints = run / CHECKPOINTS
    handed = tune.get_checkpoint()
    if handed is not None:
        with handed.as_directory() as directory:
            shutil.rmtree(checkpoints, ignore_errors=True)
            shutil.copytree(directory, checkpoints)
    if handed is not None or not (run / RUN_FILE).exists():
        kept = {"train": dataclasses.asdict(config), "data": job.location, "workers": plan.workers}
        start_run(run, "train", kept, {"data": {"location": job.location, "name": job.schema.name}})
    for record in read_reports(run) if handed is None else []:
        trial.tell(record)

    went_on = []

    def on_epoch(figures: dict[str, Any]) -> bool:
        went_on.append(figures["epoch"])
        record = judge(run, settings, figures)
        trial.tell(record, checkpoints if plan.checkpoints else None)
        return not trial.stopped

    if plan.workers:
        figures = train_with_workers(job, plan.workers, settings, trial.tell)
    else:
        figures = run_training(job, workers=0, on_epoch=on_epoch)
    if handed is not None and not went_on:
        take_over(trial, checkpoints)
    write_json(run / SUMMARY_FILE, {**figures, "train.seconds": time.time() - began, "part": "valid"})


def take_over(trial: Trial, checkpoints: Path) -> None:
    """The training handed to a trial was at its end already, and nothing was left for the trial's settings to do: its
    figures are that training's, and so are its settings."""
    trained = read_json(checkpoints / TRAINED_FILE)
    write_json(trial.run / SETTINGS_FILE, trained["settings"])
    trial.report(trained["epoch"], read_json(checkpoints / BEST_FILE))


def evolve_one(trial: Trial, settings: Settings) -> None:
    """The engine on some of the tuning users, judged on the others."""
    from jobs.tune.fusion import FusionTrial

    assert trial.plan.evolve is not None
    fusion = FusionTrial(trial.plan.evolve, settings, trial.run)
    for record in read_reports(trial.run):
        trial.tell(record)
    for generation, figures in fusion.climb():
        if not trial.report(generation, figures):
            break
    fusion.finish()
