"""What a person sees of a search while it goes on: a live table on a terminal, elsewhere a line a finished trial."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from rich.live import Live
from rich.table import Table

from data.errors import Stopped
from distributed.training.ray_group import free_orphans
from jobs.command.console import Console
from jobs.run.process import Process
from jobs.tune.aim import FAILED, INFEASIBLE, Aim
from jobs.tune.files import name_of
from jobs.tune.results import Row, read_row, settings_text
from jobs.tune.trial import INDEX, index_of

ORPHANS_EVERY_S = 5.0
SHOWN = 12
"""Trials in the live table: those that run, then the best."""


class Board(tune.Callback):
    """Tune's callbacks; reads the rest from the trials' directories. `signalled`: signals as they come in."""

    def __init__(
        self,
        console: Console,
        trials: Path,
        aim: Aim,
        samples: int,
        signalled: Sequence[int] = (),
        process: Process | None = None,
    ) -> None:
        """`process`: gets how many trials have ended."""
        self.console, self.trials, self.aim, self.samples = console, trials, aim, samples
        self.process = process
        self.signalled = signalled
        self.rows: dict[int, Row] = {}
        self.began = self.looked = time.monotonic()
        self.live: Live | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune keeps a copy of its callbacks, which nobody reads

    def __enter__(self) -> "Board":
        if self.console.is_terminal:
            self.live = Live(self.table(), console=self.console, refresh_per_second=2, transient=True)
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.signalled:
            raise Stopped
        if time.monotonic() - self.looked > ORPHANS_EVERY_S and ray.is_initialized():
            self.looked = time.monotonic()
            free_orphans()  # a trial that waits for their CPUs would wait to the end of the search

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.refresh(trial, "running")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.refresh(trial, "running")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.ended(self.refresh(trial, "finished"))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.ended(self.refresh(trial, "failed"))

    def refresh(self, trial: Any, state: str) -> Row:
        index = index_of(trial.config, trial.trial_id)
        settings = {key: value for key, value in trial.config.items() if key != INDEX}
        row = read_row(self.trials / name_of(index), index, settings, self.aim, state)
        self.rows[index] = row
        if self.process is not None:
            ended = sum(one.state != "running" for one in self.rows.values())
            self.process.update("trials", ended, self.samples, now=f"{len(self.rows)} begun")
        if self.live:
            self.live.update(self.table())
        return row

    def ended(self, row: Row) -> None:
        if not self.live:
            self.console.print(f"{self.clock()}  {line(row, self.aim)}", soft_wrap=True, highlight=False)

    def count(self) -> str:
        done = sum(row.state != "running" for row in self.rows.values())
        return f"{done}/{self.samples}"

    def clock(self) -> str:
        return f"[{time.monotonic() - self.began:5.0f} s] {self.count()}"

    def table(self) -> Table:
        title = f"{self.clock()} trials ended; {self.aim}"
        table = Table("trial", "state", "at", *self.aim.shown, "settings", title=title, title_style="")
        running = [row for row in self.rows.values() if row.state == "running"]
        ended = sorted((row for row in self.rows.values() if row.state != "running"), key=rank, reverse=True)
        for row in (running + ended)[:SHOWN]:
            figures = [cell(row, metric) for metric in self.aim.shown]
            table.add_row(name_of(row.index), row.word, str(row.moment or "-"), *figures, settings_text(row))
        return table


def rank(row: Row) -> tuple[float, ...]:
    return tuple(row.scores.values())


def cell(row: Row, metric: str) -> str:
    value = row.figures.get(metric)
    return "-" if value is None else f"{value:.5f}"


def line(row: Row, aim: Aim) -> str:
    """trial 0003 finished at 2: ctcvr.log_loss 0.12345  objective.name=escm2_dr ..."""
    if row.state == "failed":
        return f"trial {name_of(row.index)} failed: {row.error}  {settings_text(row)}"
    figures = ", ".join(f"{metric} {cell(row, metric)}" for metric in aim.metrics)
    worst = min(row.scores.values())
    limits = f" (misses {', '.join(map(str, aim.limits))})" if FAILED < worst <= INFEASIBLE else ""
    return f"trial {name_of(row.index)} {row.state} at {row.moment}: {figures}{limits}  {settings_text(row)}"
