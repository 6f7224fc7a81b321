"""What all stages are given, and what is refused before anything starts."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.log import Log, open_log
from data.schema import Schema
from es.config import EXECUTION_SETTINGS, ESConfig
from funnel.registry import find_problem
from funnel.tunable import ScoreTunable
from jobs import evolve, export, train
from jobs.pipeline.options import Arguments, score_tunable
from jobs.run.start_from import finished_record, given_runs, same_features

DAY_RESAMPLES = 200
"""Behind the intervals of a day's figures; the evolution that counts has --resamples."""
EXECUTION = ("out", "days", "until_idle", "poll", "keep")
"""Options that do not decide the result: they may change from one start to the next."""
MAY_CHANGE = frozenset(f"es.{name}" for name in EXECUTION_SETTINGS - {"generations"})
SETTINGS = ("config", "settings", "es", "tuning")


@dataclass(frozen=True)
class Plan:
    """What all stages are given."""

    options: Arguments
    out: Path

    @property
    def problem(self) -> Any:
        return find_problem(self.options.problem)

    @property
    def tunable(self) -> type[ScoreTunable]:
        return score_tunable(self.options.objective)

    @property
    def tuning(self) -> Any:
        """The settings of what is tuned."""
        return self.tunable.settings_type() if self.options.tuning is None else self.options.tuning

    @property
    def seed(self) -> int:
        """Decides the training, the evolution and the bootstraps."""
        return self.options.config.seed

    @property
    def es(self) -> ESConfig:
        return dataclasses.replace(self.options.es, seed=self.seed)

    @property
    def local_cpus(self) -> int:
        """CPUs of a local cluster: enough for the training, and for the evolution after it."""
        actors = self.options.es.workers
        return max(self.options.workers, actors if isinstance(actors, int) else 0)

    @property
    def keep(self) -> tuple[str, ...]:
        """Columns that scored files hold for the tuning, beside the scores."""
        kept = getattr(self.tunable, "kept", None)  # which a tunable of the user's own may lack
        return tuple(kept(self.tuning)) if kept else ()

    def train_arguments(self, data: str, out: Path, epochs: int | None = None, **changes: Any) -> train.Arguments:
        options = self.options
        config = dataclasses.replace(options.config, epochs=epochs or options.config.epochs)
        same = {name: getattr(options, name) for name in ("problem", "workers", "given", "calibrate", "settings")}
        return train.Arguments(data=data, out=out, config=config, **same, **changes)

    def evolve_arguments(
        self,
        scored: Path,
        out: Path,
        judge: Path | None = None,
        generations: int | None = None,
        resamples: int | None = None,
        start_from: Path | None = None,
    ) -> evolve.Arguments:
        return evolve.Arguments(
            out=out,
            objective=self.options.objective,
            start_from=start_from,
            resamples=resamples or self.options.resamples,
            config=dataclasses.replace(self.es, generations=generations or self.es.generations),
            settings=self.tunable.on_scores(self.tuning, scored, judge),
        )


def check_options(options: Arguments) -> None:
    """UserError, naming the option, for what cannot be; no data are read."""
    if options.data is None and options.watch is None:
        raise UserError("--data LOG is needed, or --watch DIR of day partitions, or both")
    for name in ("keep", "day_epochs", "day_generations"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    if not 0 < options.valid_share < 1:
        raise UserError(f"--valid-share must be between 0 and 1, got {options.valid_share}")
    if not options.poll > 0:
        raise UserError(f"--poll must be positive, got {options.poll}")
    alone = [name for name in ("days", "until_idle") if getattr(options, name) is not None]
    if alone and options.watch is None:
        raise UserError(f"--{alone[0].replace('_', '-')} goes with --watch DIR")
    if options.replicates < 40:
        raise UserError(f"--replicates must be at least 40, got {options.replicates}")
    plan = Plan(options, options.out)
    if options.es.seed not in (0, plan.seed):
        raise UserError(f"--es.seed {options.es.seed}: --seed decides the evolution, too")
    plan.evolve_arguments(options.out, options.out).config.check()
    export.check(
        export.Arguments(options.out, options.out, rows=options.export_rows, formats=options.formats or ("pt2",)),
        options.out / ".served",
    )


def check_log(plan: Plan, log: Log) -> None:
    """UserError for a log, or for given runs, that the stages would refuse later."""
    for role, run in given_runs(plan.options.given, plan.problem.roles).items():
        where = f"--given {role}={run}"
        record = finished_record(run, where)
        same_features(where, Schema.from_dict(record["schema"], f"{run}: schema"), log.schema)
    plan.tunable.check_log(plan.tuning, log, "valid", "test", plan.seed)


def opened(location: str, parts: tuple[str, ...], option: str = "--data") -> Log:
    """A log that has these parts. Raises UserError naming the one that is not there."""
    log = open_log(location)
    absent = [name for name in parts if name not in log.part_names()]
    if absent:
        raise UserError(f"{option} {location}: has no part {absent[0]!r}; a pipeline takes {', '.join(parts)}")
    return log
