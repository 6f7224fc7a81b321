"""A trial whose training has several Ray Train workers.

Tune must not stop such a training: it would kill the trial's actor, and with it Ray Train's controller, whose placement
group then stays and holds its CPUs. So the workers' loop stops by itself. After a validation worker 0 writes a report,
waits until the trial's actor has reported to Tune, and then finds the scheduler's decision in the trial's STOP file.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed.training.job import TrainJob
from distributed.training.launch import run_training
from distributed.training.recorder import CHECKPOINTS
from jobs.cluster.connect import connect
from jobs.run.directory import read_json, write_json
from jobs.tune.files import REPORTS_FILE, STOP_FILE, TOLD_FILE, whole_lines, write_report
from jobs.tune.subject import Settings

BEST_FILE, TRAINED_FILE = "figures.json", "trained.json"
"""What travels with a training's checkpoints: the figures of its best epoch; its last epoch and its settings."""
VERDICT_S = 60.0
"""A worker waits so long for the scheduler, and then goes on: the others wait for it, and give up at some time."""
LOOK_EVERY_S = 0.05


def judge(run: Path, settings: Settings, figures: dict[str, Any]) -> dict[str, Any]:
    """Keep a validation's figures in the trial's files; returns the report, which is of the epoch to be kept."""
    path = run / CHECKPOINTS / BEST_FILE
    if figures["best"] or not path.exists():
        write_json(path, {key: value for key, value in figures.items() if isinstance(value, int | float)})
    write_json(run / CHECKPOINTS / TRAINED_FILE, {"epoch": figures["epoch"], "settings": settings})
    return write_report(run, figures["epoch"], read_json(path))


@dataclass(frozen=True)
class Judge:
    """What every worker calls after a validation (train_loop.OnEpoch). Worker 0 speaks for all."""

    run: str
    settings: Settings

    def __call__(self, figures: dict[str, Any]) -> bool:
        from ray.train import get_context

        if get_context().get_world_rank() != 0:
            return True
        run = Path(self.run)
        judge(run, self.settings, figures)
        reports, deadline = len(reports_of(run)), time.monotonic() + VERDICT_S
        while told(run) < reports and time.monotonic() < deadline:
            time.sleep(LOOK_EVERY_S)
        return not (run / STOP_FILE).exists()


def reports_of(run: Path) -> list[str]:
    return whole_lines(run / REPORTS_FILE)


def told(run: Path) -> int:
    return int(read_json(run / TOLD_FILE)["reports"])


def tell_of(run: Path, reports: int) -> None:
    write_json(run / TOLD_FILE, {"reports": reports})


def train_with_workers(
    job: TrainJob, workers: int, settings: Settings, tell: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """run_training with `workers`, from the trial's actor, which is to `tell` Tune each report as it comes.

    What was reported before the trial was started again is not repeated.
    """
    run = Path(job.run)
    connect(workers)  # Ray is there: how soon a fault is noticed, where the actor's environment does not say it
    tell_of(run, len(reports_of(run)))

    def follow() -> None:
        reports = reports_of(run)
        for number, report in list(enumerate(reports, start=1))[told(run) :]:
            tell(json.loads(report))
            tell_of(run, number)

    return run_training(job, workers, Judge(job.run, settings), meanwhile=follow)
