"""The options of jobs.pipeline: its own, those of the training, and with --es and --tuning those of the evolution."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from data.errors import UserError
from distributed.config import TrainConfig
from es.config import ESConfig
from funnel.registry import DEFAULT_PROBLEM, DEFAULT_TUNABLE, find_problem
from funnel.tunable import ScoreTunable
from jobs.command.cli import glance, parse, with_settings
from jobs.command.preset import apply, find_preset
from jobs.evolve.find import find_objective
from jobs.evolve.options import default_config
from jobs.run.directory import usable_cpus


def default_es() -> ESConfig:
    """The engine's settings where nothing else is said."""
    return dataclasses.replace(default_config(), workers=0)


@dataclass
class Arguments:
    groups: ClassVar[Mapping[str, str]] = {
        "out": "what is done",
        "resamples": "judging and serving",
        "watch": "day by day",
    }
    out: Path
    """Run directory: new, or one of the same pipeline to continue."""
    data: str | None = None
    """Log directory (path or URI) with the parts train, valid and test; with --watch it may be left out."""
    problem: str = DEFAULT_PROBLEM
    """What is trained, as in jobs.train; its options are without a prefix."""
    objective: str = DEFAULT_TUNABLE
    """What is tuned on the scores, as in jobs.evolve; its options are those with --tuning, the engine's with --es."""
    preset: str = ""
    """Named settings of the training, or a JSON file, as in jobs.train."""
    workers: int = min(2, usable_cpus())
    """Ray Train workers; 0 trains in this process without Ray."""
    given: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROLE=RUN ...")] = ()
    """Finished training runs that the training builds on, as in jobs.train."""
    calibrate: Literal["none", "platt", "isotonic"] = "none"
    """Calibrate the trained model on the validation part."""
    resamples: int = 1000
    """For a tunable of yours whose `judge` resamples; ours have intervals without (docs/math.md)."""
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
    day_generations: int = 20
    """Generations on a day's scores, from the theta of the day before."""
    valid_share: float = 0.1
    """Share of a day's users whose rows are not trained on: epochs are chosen and the policy is tuned by them."""
    days: int | None = None
    """End once so many days are done, those of earlier starts counted."""
    until_idle: float | None = None
    """End once no new day has come for so many seconds."""
    poll: float = 10.0
    """Seconds between two looks for a new day."""
    keep: int = 2
    """Days whose models and files are kept; of older ones the figures stay."""
    config: TrainConfig = field(default_factory=TrainConfig)
    settings: Any = field(default_factory=lambda: None)
    """Of the problem; None: its defaults."""
    es: ESConfig = field(default_factory=default_es)
    tuning: Any = field(default_factory=lambda: None)
    """Of what is tuned; None: its defaults. The pipeline sets where its scores lie."""


def options(words: Sequence[str]) -> type:
    """Arguments with the settings of the problem and the objective that the words name."""
    first = glance(words, problem=DEFAULT_PROBLEM, objective=DEFAULT_TUNABLE, preset="")
    kind, tunable = find_problem(first["problem"]), score_tunable(first["objective"])
    preset = find_preset(first["preset"], kind.presets, "train")
    config, settings = apply(*preset, TrainConfig(), kind.settings_type())
    return with_settings(Arguments, config=config, settings=settings, es=default_es(), tuning=tunable.settings_type())


def arguments_of(*words: object) -> Arguments:
    """What the command line would give, of the class above, which other processes know too. Raises UserError for an
    unknown option."""
    return Arguments(**vars(parse(options, [str(word) for word in words])))


def score_tunable(name: str) -> type[ScoreTunable]:
    """Raises UserError for an objective that does not tune scores."""
    found: Any = find_objective(name)
    if not hasattr(found, "on_scores"):
        raise UserError(f"--objective {name}: tunes no scores of logged exposures, which is what a pipeline makes")
    kind: type[ScoreTunable] = found
    return kind
