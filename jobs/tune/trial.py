"""One trial of a search: our own loop in the process of a Tune actor, in a run directory of its own.

Beside what jobs.train or jobs.evolve leave there lie the files of jobs/tune/files.py. A trial that is started again
goes on from its own checkpoint; one that has ended repeats its reports and returns.
"""

import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from data.files import keep_private, make_directory, write_whole
from jobs.run.directory import read_json, write_json
from jobs.tune.aim import Aim
from jobs.tune.files import SETTINGS_FILE, STOP_FILE, TRIAL_FILE, name_of, read_reports, write_report
from jobs.tune.subject import Subject

INDEX = "trial"
"""The key of Tune's config that numbers Optuna's trials; the others are settings."""


@dataclass(frozen=True)
class Plan:
    """What all trials of a search share: plain values."""

    trials: str
    """Directory of the trials' run directories, which all nodes can reach."""
    aim: Aim
    subject: Subject
    """What trials vary, without the test part."""


class Trial:
    """The files of one trial, and its reports to Tune."""

    def __init__(self, plan: Plan, index: int) -> None:
        self.plan, self.run = plan, Path(plan.trials) / name_of(index)

    def report(self, moment: int, figures: dict[str, Any]) -> bool:
        """Tell Tune the figures that the trial would end with now; False if it is to end."""
        self.tell(write_report(self.run, moment, figures))
        return not self.stopped

    def tell(self, record: dict[str, Any], checkpoint: Path | None = None) -> None:
        handed = tune.Checkpoint.from_directory(str(checkpoint)) if checkpoint else None
        scores = self.plan.aim.scores(record["figures"])
        tune.report({**scores, self.plan.subject.unit: record["at"]}, checkpoint=handed)

    def handed(self, checkpoints: Path) -> bool:
        """Take over the checkpoints that Tune hands to this trial, if it does: population-based training."""
        given = tune.get_checkpoint()
        if given is None:
            return False
        with given.as_directory() as directory:
            shutil.rmtree(checkpoints, ignore_errors=True)
            shutil.copytree(directory, checkpoints)
        return True

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
        keep_private()
        make_directory(one.run)
        if (one.run / TRIAL_FILE).exists():
            repeat(one)
            return
        write_json(one.run / SETTINGS_FILE, settings)
        began = time.time()
        try:
            plan.subject.body(one, settings)
        except Exception as error:  # contained: one trial's end is not the search's
            write_whole(one.run / "error.txt", traceback.format_exc())
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
