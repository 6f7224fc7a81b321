"""Trials that train: a training loop in the trial's process, or with Ray Train workers of its own."""

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from data.errors import UserError
from data.filesystems import in_process
from data.log import Part, open_log
from distributed.config import TrainConfig
from distributed.context import CPU
from distributed.finished_run import joined_config, load_run
from distributed.training.job import TrainJob
from distributed.training.launch import prepare, run_training
from distributed.training.recorder import CHECKPOINTS
from distributed.training.validation import count
from funnel.problem import Problem
from funnel.registry import find_problem
from funnel.settings import flat, plain
from jobs.command.preset import apply
from jobs.run.directory import RUN_FILE, SUMMARY_FILE, read_json, start_run, write_json
from jobs.tune.files import SETTINGS_FILE, read_reports
from jobs.tune.subject import Settings
from jobs.tune.trial import Trial
from jobs.tune.workers import BEST_FILE, TRAINED_FILE, judge, train_with_workers


@dataclass(frozen=True)
class Training:
    """jobs/tune/subject.py: Subject."""

    training: TrainJob
    workers: int = 0
    checkpoints: bool = False
    job: str = "train"
    unit: str = "epoch"
    data: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(
        cls, out: Path, data: str, problem: str, config: TrainConfig, settings: Any, workers: int, checkpoints: bool
    ) -> Self:
        """Raises UserError for a log that cannot be trained on."""
        if in_process(data):
            raise UserError(f"--data {data} lies in this process's memory, where no trial sees it")
        if workers > config.stream.lanes:
            raise UserError(f"--trial-workers {workers} needs --stream.lanes {workers} or more")
        training = prepare(out, open_log(data), config, settings, time.time(), problem)
        facts = {"location": training.location, "name": training.schema.name, "parts": training.facts["parts"]}
        return cls(training, workers, checkpoints, data=facts)

    @property
    def last(self) -> int:
        return self.training.config.epochs

    @property
    def problem(self) -> Problem:
        return self.training.open_problem(CPU)

    @property
    def goal(self) -> str:
        return self.problem.goal

    def smaller_is_better(self, figure: str) -> bool:
        return self.problem.smaller_is_better(figure)

    def reported(self) -> list[str]:
        """Those of an untrained network on one row group of the validation part."""
        problem, log = self.problem, self.training.open_log()
        file = self.training.parts["valid"].files[0]
        part = Part("valid", (dataclasses.replace(file, row_groups=file.row_groups[:1]),))
        network = problem.network(seed=0)  # type: ignore[call-arg]
        figures = count(problem, network, log, part, problem.counts(log, part)).figures()
        return [*(key for key, value in figures.items() if isinstance(value, int | float)), *figures.get("absent", {})]

    def values(self) -> Settings:
        return {**flat(plain(self.training.config)), **flat(plain(self.training.settings))}

    def blind(self) -> Self:
        own = {name: part for name, part in self.training.parts.items() if name != "test"}
        return dataclasses.replace(self, training=dataclasses.replace(self.training, parts=own))

    def body(self, trial: Trial, settings: Settings) -> None:
        """The training loop, reported at each validation by the epoch that would be kept."""
        run, began = trial.run, time.time()
        config, own = apply(settings, "trial", self.training.config, self.training.settings)
        training = with_settings(self.training, config, own)
        training = dataclasses.replace(training, run=str(run), started=began)
        checkpoints = run / CHECKPOINTS
        handed = trial.handed(checkpoints)
        if handed or not (run / RUN_FILE).exists():
            kept = {"train": joined_config(config, own), "data": training.location, "workers": self.workers}
            about = {"location": training.location, "name": training.schema.name}
            start_run(run, "train", kept, {"problem": training.problem, "data": about})
        for record in [] if handed else read_reports(run):
            trial.tell(record)

        went_on = []

        def on_epoch(figures: dict[str, Any]) -> bool:
            went_on.append(figures["epoch"])
            trial.tell(judge(run, settings, figures), checkpoints if self.checkpoints else None)
            return not trial.stopped

        if self.workers:
            figures = train_with_workers(training, self.workers, settings, trial.tell)
        else:
            figures = run_training(training, workers=0, on_epoch=on_epoch)
        if handed and not went_on:
            take_over(trial, checkpoints)
        write_json(run / SUMMARY_FILE, {**figures, "train.seconds": time.time() - began, "part": "valid"})

    def tested(self, run: Path, settings: Settings, moment: int) -> dict[str, Any]:
        if "test" not in self.training.parts:
            return {}
        trained, log = load_run(run), self.training.open_log()
        part = self.training.parts["test"]
        return count(trained.problem, trained.network, log, part, trained.problem.counts(log, part, True)).figures()


def take_over(trial: Trial, checkpoints: Path) -> None:
    """The training handed to a trial was at its end already, and nothing was left for the trial's settings to do: its
    figures are that training's, and so are its settings."""
    trained = read_json(checkpoints / TRAINED_FILE)
    write_json(trial.run / SETTINGS_FILE, trained["settings"])
    trial.report(trained["epoch"], read_json(checkpoints / BEST_FILE))


def with_settings(training: TrainJob, config: TrainConfig, own: Any) -> TrainJob:
    """A training with a trial's settings. Where facts follow from settings too (which towers an objective has), the
    problem says what they are with these: `facts_with`, a class method that it may have."""
    kind: Any = find_problem(training.problem)
    facts = kind.facts_with(training.facts, own) if hasattr(kind, "facts_with") else training.facts
    return dataclasses.replace(training, config=config, settings=own, facts=facts)
