"""Settings of the ranker by dotted key, {"optimizer.learning_rate": 0.01}: as a training, as options of jobs.train."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.log import Log
from distributed.config import TrainConfig
from distributed.training.job import TrainJob
from distributed.training.launch import prepare
from funnel.ranking.problem import EntireSpaceSettings
from jobs.command.preset import apply

Settings = Mapping[str, Any]


def configured(settings: Settings) -> tuple[TrainConfig, EntireSpaceSettings]:
    """The defaults with these values. Raises ValueError for an unknown key, listing the valid ones."""
    config, own = apply(dict(settings), "settings", TrainConfig(), EntireSpaceSettings())
    return config, own


def training(run: Path, log: Log, settings: Settings, given: Mapping[str, str] | None = None) -> TrainJob:
    """The ranker's training on the log, into the directory `run`; `given`: run directories by role."""
    config, own = configured(settings)
    return prepare(run, log, config, own, time.time(), given=given)


def options(settings: Settings) -> list[str]:
    """The words that give jobs.train these values."""
    words = []
    for key, value in settings.items():
        words.append("--" + key.replace("_", "-"))
        words += [str(part) for part in value] if isinstance(value, tuple) else [str(value)]
    return words
