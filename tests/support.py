"""What several test files use: small trainings in this process, and what they leave."""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data.log import Log, Part, open_log
from distributed.checkpoint.read import read_checkpoint
from distributed.checkpoint.store import CheckpointStore
from distributed.config import StreamConfig, TrainConfig
from distributed.context import Context
from distributed.input.stream import TrainStream
from distributed.reporting.reporter import METRICS
from distributed.training.job import TrainJob
from distributed.training.launch import prepare, run_training
from distributed.training.learner import Learner
from distributed.training.recorder import CHECKPOINTS
from funnel.ranking.problem import EntireSpace, EntireSpaceSettings
from jobs import tune
from jobs.command.preset import apply

CPU = torch.device("cpu")
SMALL = {
    "batch_size": 200,
    "epochs": 2,
    "log_steps": 5,
    "stream.lanes": 4,
    "stream.shuffle_rows": 600,
    "model.embedding_width": 4,
    "model.backbone.experts": 2,
    "model.backbone.expert_hidden": (16, 8),
    "model.tower_hidden": (8,),
    "optimizer.learning_rate": 0.01,
    "optimizer.embedding": "adam",
    "optimizer.embedding_learning_rate": 0.01,
}


class Killed(Exception):
    """Stands for a process that dies between two steps."""


class Settings(NamedTuple):
    """What decides a training's result."""

    config: TrainConfig
    settings: Any


def settings_of(values: dict[str, Any], kind: type = EntireSpaceSettings) -> Settings:
    """The defaults with these values by dotted key."""
    return Settings(*apply(values, "a test's settings", TrainConfig(), kind()))


def config(**more: Any) -> Settings:
    """A small, quick training; values by key, with "__" for a dot."""
    return settings_of({**SMALL, **{key.replace("__", "."): value for key, value in more.items()}})


def job_of(run: Path, log_dir: Path, given: Settings) -> TrainJob:
    return prepare(run, open_log(log_dir), *given, started=time.time())


def train_here(run: Path, log_dir: Path, given: Settings) -> dict[str, Any]:
    run.mkdir(parents=True, exist_ok=True)
    return run_training(job_of(run, log_dir, given), workers=0)


def learner_of(job: TrainJob, context: Context, steps: int) -> Learner:
    return Learner(job.open_problem(CPU), job.config, context, steps)


def stream_of(job: TrainJob, log: Log, rank: int = 0, workers: int = 1) -> TrainStream:
    """The stream that a worker of this job reads."""
    problem = job.open_problem(CPU)
    return TrainStream(problem, log, job.parts["train"], job.sizes["train"], job.config, Context(rank, workers))


def row_stream(log: Log, part: Part, stream: StreamConfig, batch: int, rank: int = 0, workers: int = 1) -> TrainStream:
    """A stream of rows, seed 5, without a training."""
    problem = EntireSpace(EntireSpaceSettings(), log.schema, {"click_rate": 0.1})
    settings = TrainConfig(batch_size=batch, seed=5, stream=stream)
    return TrainStream(problem, log, part, problem.sizes(log, part), settings, Context(rank, workers))


def final_tensors(run: Path) -> dict[str, torch.Tensor]:
    path = CheckpointStore(run / CHECKPOINTS).latest()
    assert path is not None
    checkpoint = read_checkpoint(path)
    return checkpoint.model | checkpoint.optimizer


def same_bits(run: Path, other: Path) -> None:
    """Two runs have ended in the same weights and moments."""
    one, two = final_tensors(run), final_tensors(other)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run / METRICS).read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


TINY_SEARCH = {
    "batch_size": 256,
    "stream.shuffle_rows": 512,
    "model.tower_hidden": [4],
    "model.backbone.experts": 1,
    "model.backbone.expert_hidden": [8],
    "model.embedding_width": 2,
}
RATES = {"optimizer.learning_rate": 0.1, "optimizer.embedding_learning_rate": 0.1}


def tiny_search(log: Path, out: Path, values: dict[str, Any] | None = None, **given: Any) -> tune.Arguments:
    """Arguments of a small search; `values`: settings of all trials beside TINY_SEARCH."""
    own = {"space": "rates", "samples": 3, "concurrent": 2, **given}
    config, settings = settings_of({**TINY_SEARCH, "epochs": 2, **(values or {})})
    return tune.Arguments(out=out, data=str(log), config=config, settings=settings, **own)
