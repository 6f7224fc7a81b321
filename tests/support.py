"""What several test files use: small trainings in this process, and what they leave."""

import dataclasses
import json
import runpy
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data.log import Log, Part, open_log
from distributed.checkpoint.read import MODEL_DIRECTORY, read_checkpoint
from distributed.checkpoint.store import CheckpointStore
from distributed.config import StreamConfig, TrainConfig
from distributed.context import Context
from distributed.finished_run import load_run
from distributed.input.stream import TrainStream
from distributed.reporting.reporter import METRICS
from distributed.training.job import TrainJob
from distributed.training.launch import prepare, run_training
from distributed.training.learner import Learner
from distributed.training.recorder import CHECKPOINTS
from funnel.ranking.calibration import Calibration
from funnel.ranking.problem import EntireSpace, EntireSpaceSettings
from jobs import train, tune
from jobs.command import cli
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


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


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


QUICK = (
    *("--workers", "0", "--epochs", "1", "--batch-size", "400", "--stream.lanes", "4"),
    *("--model.embedding-width", "4", "--model.backbone.expert-hidden", "8", "--model.tower-hidden", "4"),
)
"""Words for jobs.train: one epoch of a tiny network in this process."""


def arguments(log: Path | str, out: Path, *words: object, **changes: Any) -> train.Arguments:
    """Of jobs.train: QUICK, then these words (an option that is given again wins), then fields by name."""
    given = train.arguments_of("--data", str(log), "--out", str(out), *QUICK, *map(str, words))
    return dataclasses.replace(given, **changes)


def error_line(
    command: Any, words: Sequence[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What the command with these words says on stderr: a user's mistake, so one line and exit code 2."""
    options = getattr(command, "options", None) or command.Arguments
    monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(command.run, options, command.__doc__ or "")
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    return printed


def as_program(
    module: str, words: Sequence[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `python -m module words`, in this process: a new one takes seconds to import."""
    monkeypatch.setattr(sys, "argv", [module, *map(str, words)])
    capsys.readouterr()
    code = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that the module is imported already
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            code = int(ended.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def keep_calibration(calibration: Calibration, run: Path) -> None:
    """As jobs.calibrate leaves it in a finished run."""
    model = load_run(run).checksum
    dataclasses.replace(calibration, about={**calibration.about, "model": model}).save(run / MODEL_DIRECTORY)


def copy(log: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(log, tmp_path / "log"))


def change_column(log: Path, part: str, name: str, change: Callable[[np.ndarray], Any] | None) -> None:
    """Rewrite a column of the part's last file; None drops it."""
    path = sorted((log / part).glob("*.parquet"))[-1]
    table = pq.read_table(path)
    index = table.schema.get_field_index(name)
    column = table.column(name)
    table = table.remove_column(index)
    if change is not None:
        table = table.add_column(index, name, pa.array(change(column.to_numpy())))
    pq.write_table(table, path)


def change_schema(log: Path, change: Callable[[dict[str, Any]], object]) -> None:
    schema = json.loads((log / "schema.json").read_text())
    change(schema)
    (log / "schema.json").write_text(json.dumps(schema))
