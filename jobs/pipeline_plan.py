"""Everything a pipeline can be told, and what is refused before anything starts."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import tyro

from data.log import Log, open_log
from distributed.config import TrainConfig
from es.objectives.fusion import Fusion
from es.objectives.score_fusion import ScoreFusion
from jobs import evolution, export, train
from jobs.cluster import connect, names_cluster
from jobs.evolve_fusion import halves
from jobs.preset_file import asked_for, fill_train
from jobs.run_directory import usable_cpus
from jobs.scored_file import read_scored

ROUND_RESAMPLES = 200
"""Behind the interval that a round reports; the evolution that counts has --resamples."""
EXECUTION = ("out", "evolve_workers", "days", "until_idle", "poll", "keep")
"""Options that do not decide the result: they may change from one start to the next."""


@dataclass
class Arguments:
    out: Path
    """Run directory: new, or one of the same pipeline to continue."""
    data: str | None = None
    """Log directory (path or URI) with the parts train, valid and test; with --watch it may be left out."""
    objective: str = "escm2_ips"
    """Of the training, as in jobs.train."""
    backbone: Literal["shared_bottom", "omoe", "mmoe", "cgc", "ple"] = "mmoe"
    """The network between the embedding and the towers."""
    workers: int = min(2, usable_cpus())
    """Ray Train workers; 0 trains in this process without Ray, and rounds come between its epochs."""
    epochs: int = 2
    """Passes over the training part, at most."""
    tables: Literal["replicated", "sharded"] = "replicated"
    """Embedding rows: on every worker, or each on one of them."""
    seed: int = 0
    """Decides the training, the evolution and the bootstraps."""
    calibrate: Literal["none", "platt", "isotonic"] = "none"
    """Calibrate the trained model on the validation part."""
    config: Path | None = None
    """A preset file of the training, as in jobs.train."""
    preset: str = ""
    """A named configuration of the training, as in jobs.train."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE ...")] = ()
    """Any other setting of the training, as in jobs.train."""
    fusion: Literal["product", "sum", "rank"] = "product"
    """How scores are fused, as in jobs.evolve."""
    metric: Literal["value", "ndcg"] = "value"
    """What the fusion is tuned for."""
    k: int = 10
    """Places of a list that count."""
    conversion_weight: float = 10.0
    """Reward of a candidate = click + this * conversion (* value, where the log has one)."""
    round_generations: int = 20
    """Generations of a round: on the scores of each epoch's model that is the best so far."""
    generations: int = 60
    """Generations on the scores of the final model, from the theta of the last round."""
    pairs: int = 64
    """Pairs of candidates per generation."""
    sigma: float = 0.1
    """Size of the perturbations."""
    engine: tuple[str, ...] = ()
    """Any other setting of es/config.py, key=value."""
    evolve_workers: int = 0
    """Ray actors of the evolution beside the training's workers; 0, or CPUs for fewer: in this process. Never changes
    the result."""
    resamples: int = 1000
    """Bootstrap resamples behind the intervals of the fusion."""
    replicates: int = 400
    """Bootstrap replicates behind the intervals of the evaluation."""
    by: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN ...")] = ()
    """Columns that the evaluation slices by, as in jobs.evaluate."""
    formats: tuple[Literal["pt2", "onnx"], ...] = ("pt2", "onnx")
    """Files to export; none: no export."""
    export_rows: int = 10_000
    """Rows that exported files are checked on."""
    watch: Path | None = None
    """Directory of day partitions to go on with (docs/pipeline.md): judge, train, tune and export by day."""
    day_epochs: int = 1
    """Passes over a day's rows, at most."""
    valid_share: float = 0.1
    """Share of a day's users whose rows are not trained on: epochs are chosen and the fusion is tuned by them."""
    days: int | None = None
    """End once so many days are done, those of earlier starts counted."""
    until_idle: float | None = None
    """End once no new day has come for so many seconds."""
    poll: float = 10.0
    """Seconds between two looks for a new day."""
    keep: int = 2
    """Days whose models and files are kept; of older ones the figures stay."""


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
        same = ("objective", "backbone", "workers", "epochs", "tables", "seed", "calibrate", "config", "preset", "set")
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
