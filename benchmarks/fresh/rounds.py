"""Rounds of training by the project's own loop: each round's log is written, trained on from the last round's weights,
and its model read back, as `jobs.train --start-from` does."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from data.log import open_log
from distributed.checkpoint.read import MODEL_DIRECTORY
from distributed.config import OptimizerConfig, StreamConfig, TrainConfig
from distributed.finished_run import load_run
from distributed.training.job import TrainJob
from distributed.training.launch import prepare, run_training
from funnel.fresh.features import NominatorSettings, SequenceSettings
from models.two_tower import TowerConfig

MODEL = TowerConfig(width=16, hidden=(32,), output=16)
FIRST_EPOCHS, EPOCHS = 3, 1


@dataclass
class Rounds:
    """funnel/fresh/trained.py: Train. Keeps one round's directory at a time under `place`."""

    place: Path
    seed: int
    number: int = 0
    seconds: float = 0.0
    recall: float = 0.0
    """recall@50 of the last round, on its valid part."""

    def __call__(self, problem: str, write: Callable[[Path], int], ids: bool) -> tuple[Any, nn.Module]:
        begun = time.perf_counter()
        here, last = (self.place / str(number) for number in (self.number, self.number - 1))
        (here / "run").mkdir(parents=True)
        write(here / "log")
        job = self.job(problem, here, ids)
        if self.number:
            job = TrainJob(**{**vars(job), "start_from": str(last / "run" / MODEL_DIRECTORY)})
        summary = run_training(job, workers=0)
        found = load_run(here / "run")
        if self.number:
            shutil.rmtree(last)
        self.number += 1
        self.recall, self.seconds = float(summary["recall.50"]), self.seconds + time.perf_counter() - begun
        return found.problem, found.network

    def job(self, problem: str, here: Path, ids: bool) -> TrainJob:
        kind = SequenceSettings if problem == "fresh_sequence" else NominatorSettings
        config = TrainConfig(
            epochs=EPOCHS if self.number else FIRST_EPOCHS,
            batch_size=256,
            seed=self.seed,
            background_checkpoints=False,
            # A later round goes on gently: it has a few hundred rows, not a week's.
            optimizer=OptimizerConfig(learning_rate=3e-3 if self.number else 1e-2, schedule="constant"),
            stream=StreamConfig(lanes=2, shuffle_rows=8192),
        )
        settings = kind(model=MODEL, ids=ids)
        return prepare(here / "run", open_log(here / "log"), config, settings, time.time(), problem)
