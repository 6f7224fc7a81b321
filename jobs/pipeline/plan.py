"""What all stages are told, and what is refused before anything starts."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from data.log import Log, open_log
from distributed.config import TrainConfig
from funnel.fusion.forms import Fusion
from funnel.fusion.objective import ScoreFusion
from funnel.fusion.scored_log import read_scored
from jobs import export, train
from jobs.cluster.connect import connect, names_cluster
from jobs.command.preset_file import asked_for, fill_train
from jobs.evolve import evolution
from jobs.evolve.evolve_fusion import halves
from jobs.pipeline import Arguments
from jobs.run.directory import usable_cpus

ROUND_RESAMPLES = 200
"""Behind the interval that a round reports; the evolution that counts has --resamples."""
EXECUTION = ("out", "evolve_workers", "days", "until_idle", "poll", "keep")
"""Options that do not decide the result: they may change from one start to the next."""


@dataclass(frozen=True)
class Plan:
    """What all stages are told."""

    options: Arguments
    out: Path

    def evolve_workers(self, busy: int) -> int:
        """Actors of an evolution while `busy` CPUs are taken by a training: those asked for, where there is room for
        all of them, else 0: in this process. Joins the cluster that the environment names."""
        asked = self.options.evolve_workers
        if not asked:
            return 0
        if names_cluster():
            connect(1)
        cpus = ray.cluster_resources().get("CPU", 0) if ray.is_initialized() else usable_cpus()
        return asked if busy + asked <= cpus else 0

    @property
    def local_cpus(self) -> int:
        """CPUs of a local cluster: the training's workers', and the evolution's where the machine has them."""
        workers = self.options.workers
        both = workers + self.options.evolve_workers
        return both if both <= usable_cpus() else workers

    def train_arguments(self, data: str, out: Path, **changes: Any) -> train.Arguments:
        same = [
            "objective",
            "backbone",
            "workers",
            "epochs",
            "tables",
            "seed",
            "propensities",
            "calibrate",
            "config",
            "preset",
            "set",
        ]
        values: dict[str, Any] = {name: getattr(self.options, name) for name in same}
        return train.Arguments(data=data, out=out, **{**values, **changes})

    def evolve_arguments(self, scored: Path, out: Path, **changes: Any) -> evolution.Arguments:
        same = ("fusion", "metric", "k", "conversion_weight", "pairs", "sigma", "engine", "seed", "resamples")
        values: dict[str, Any] = {name: getattr(self.options, name) for name in same}
        return evolution.Arguments(scored=scored, out=out, **{**values, **changes})


def check_options(options: Arguments) -> TrainConfig:
    """The settings of the training. ValueError, naming the option, for what cannot be; no data are read."""
    if options.data is None and options.watch is None:
        raise ValueError("--data LOG is needed, or --watch DIR of day partitions, or both")
    for name in ("round_generations", "generations", "keep", "day_epochs"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    if options.evolve_workers < 0:
        raise ValueError(f"--evolve-workers must be at least 0, got {options.evolve_workers}")
    if not 0 < options.valid_share < 1:
        raise ValueError(f"--valid-share must be between 0 and 1, got {options.valid_share}")
    if not options.poll > 0:
        raise ValueError(f"--poll must be positive, got {options.poll}")
    alone = [name for name in ("days", "until_idle") if getattr(options, name) is not None]
    if alone and options.watch is None:
        raise ValueError(f"--{alone[0].replace('_', '-')} goes with --watch DIR")
    if options.replicates < 40:
        raise ValueError(f"--replicates must be at least 40, got {options.replicates}")
    asked = asked_for("train", options.config, options.preset)
    config = train.configure(fill_train(Plan(options, options.out).train_arguments("", options.out), *asked))
    evolution.configure(Plan(options, options.out).evolve_arguments(options.out, options.out, workers=0))
    export.check(
        export.Arguments(options.out, options.out, rows=options.export_rows, formats=options.formats or ("pt2",)),
        options.out / ".served",
    )
    return config


def opened(location: str, parts: tuple[str, ...], option: str = "--data") -> Log:
    """A log that has these parts. Raises ValueError naming the one that is not there."""
    log = open_log(location)
    absent = [name for name in parts if name not in log.part_names()]
    if absent:
        raise ValueError(f"{option} {location}: has no part {absent[0]!r}; a pipeline takes {', '.join(parts)}")
    return log


def check_tunable(plan: Plan, log: Log, part: str, judge: str | None) -> None:
    """ValueError, before anything starts, for a part whose fusion could not be tuned (or judged on `judge`).

    Clicks stand in for the scores: what can go wrong is about users, requests and rewards.
    """
    schema = log.schema
    keys = {name: source for name, source in (("user", schema.user), ("request", schema.request)) if source}
    if not keys:
        raise ValueError(
            f"{log.location}: its schema names neither user nor request, so there are no lists to fuse for"
        )
    sources = {**keys, "click": schema.click, "conversion": schema.conversion}
    if schema.value:
        sources["value"] = schema.value
    columns = list(dict.fromkeys(sources.values()))

    def stand_in(folder: str, name: str) -> Path:
        table = pa.concat_tables(list(log.read(log.part(name), columns)))
        named = {key: table.column(source) for key, source in sources.items()}
        for label in ("click", "conversion"):
            named[label] = named[label].cast(pa.int8())
        named |= {score: named["click"].cast(pa.float32()) for score in ("pctr", "pcvr", "pctcvr")}
        pq.write_table(pa.table(named), Path(folder) / f"{name}.parquet")
        return Path(folder) / f"{name}.parquet"

    with tempfile.TemporaryDirectory(prefix="counterpoint-") as folder:
        scored = stand_in(folder, part)
        arguments = plan.evolve_arguments(scored, plan.out, judge=stand_in(folder, judge) if judge else None)
        try:
            tune, test, _ = halves(arguments, read_scored(scored, arguments.conversion_weight), scored)
            ScoreFusion(tune, Fusion.fit(arguments.fusion, tune), arguments.metric, arguments.k)
        except ValueError as error:
            where = str(error).replace(f"{folder}/", "")
            raise ValueError(f"{log.location}, part {part}: its fusion cannot be tuned: {where}") from None
    if not test.reward_C.any():
        raise ValueError(f"{log.location}, part {judge or part}: no click of a user that the fusion is judged on")
