"""Trials that evolve: the engine in the trial's process, for any tunable.

A trial tunes on half of what jobs.evolve would tune on and is judged on the other half ("valid"): whoever tunes with
the best settings afterwards has all of it, and the same test part.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from es.config import ESConfig
from es.engine import run as run_engine
from es.milestones import milestones
from funnel.settings import flat, plain
from funnel.tunable import Tunable
from jobs.evolve.conduct import KIND, finish
from jobs.evolve.find import find_objective
from jobs.evolve.options import fill
from jobs.run.directory import RUN_FILE, start_run
from jobs.tune.files import read_reports
from jobs.tune.subject import Settings
from jobs.tune.trial import Trial

REPORTS = 10
"""How often a trial is judged on its way."""
CENTRE = "return.centre"
RESAMPLES = 1000


@dataclass(frozen=True)
class Evolution:
    """jobs/tune/subject.py: Subject."""

    objective: str
    config: ESConfig
    settings: Any
    names: tuple[str, ...] = ()
    """Of the figures that the tunable measures."""
    workers: int = 0
    checkpoints: bool = False
    job: str = "evolve"
    unit: str = "generation"
    data: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, objective: str, config: ESConfig, settings: Any) -> Self:
        """Raises UserError for what cannot be tuned."""
        config.check()
        tunable = find_objective(objective).open(settings, config.seed, searching=True)
        names = tuple(tunable.measure(tunable.objective.initial()))
        return cls(
            objective, dataclasses.replace(config, workers=0), settings, names, data=tunable.facts().get("data", {})
        )

    @property
    def last(self) -> int:
        return self.config.generations

    @property
    def kind(self) -> type[Tunable]:
        return find_objective(self.objective)

    @property
    def goal(self) -> str:
        return self.kind.goal

    def smaller_is_better(self, figure: str) -> bool:
        return False if figure == CENTRE else self.kind.smaller_is_better(figure)

    def reported(self) -> list[str]:
        return [*self.names, CENTRE]

    def values(self) -> Settings:
        return {
            **flat(plain(self.settings)),
            **flat(plain(self.config)),
            "learning_rate": self.config.step_size,
        }

    def blind(self) -> Self:
        return self

    def opened(self, settings: Settings) -> tuple[Tunable, ESConfig]:
        """A trial's tunable and the engine's settings."""
        config, own = fill(self.kind.settings_type, settings, "trial", (self.config, self.settings))
        return self.kind.open(own, config.seed, searching=True), config

    def body(self, trial: Trial, settings: Settings) -> None:
        """The engine, judged at every tenth of the run."""
        tunable, config = self.opened(settings)
        run = trial.run
        if not (run / RUN_FILE).exists():
            es = {key: value for key, value in dataclasses.asdict(config).items() if key != "workers"}
            own = fill(self.kind.settings_type, settings, "trial", (self.config, self.settings))[1]
            kept = {"objective": self.objective, "settings": plain(own), "resamples": RESAMPLES, "workers": 0, "es": es}
            start_run(run, KIND, kept, tunable.facts())
        for record in read_reports(run):
            trial.tell(record)
        for result in milestones(tunable.objective, config, run, max(1, config.generations // REPORTS)):
            figures = {CENTRE: result.final_return, **tunable.measure(result.theta)}
            if not trial.report(result.generations, figures):
                break
        judged = tunable.judge(result.theta, RESAMPLES, config.seed, "valid")
        finish(tunable, result, config, run, RESAMPLES, {**judged, "part": "valid"})

    def tested(self, run: Path, settings: Settings, moment: int) -> dict[str, Any]:
        tunable, config = self.opened(settings)
        ended = run_engine(tunable.objective, dataclasses.replace(config, generations=moment), run)
        return tunable.judge(ended.theta, RESAMPLES, config.seed)
