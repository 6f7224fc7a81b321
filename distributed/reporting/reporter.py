"""What a training says as it goes: mean loss terms over all workers, rows/s, where a step's time goes, validation
figures; into metrics.jsonl, TensorBoard events and Ray's metrics. It also ends a training whose loss is NaN.
"""

import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.errors import UserError
from distributed.checkpoint.read import Progress
from distributed.context import Context
from distributed.reporting.metrics_file import RunLog
from distributed.reporting.ray_metrics import Telemetry
from distributed.reporting.step_clock import PARTS, StepClock
from distributed.reporting.tensorboard import Events, is_number
from distributed.tables.collectives import sum_over_workers

METRICS = "metrics.jsonl"
REMEDY = "lower optimizer.learning_rate, or bound what the loss is weighed with"


class Diverged(UserError):
    """The loss is no number any more. All workers find out at the same step."""


class Reporter:
    """Sums loss terms and times between log lines and lets rank 0 write them. `clock` times every step."""

    def __init__(
        self,
        run: Path,
        progress: Progress,
        steps: int,
        context: Context,
        lost_steps: int = 0,
    ) -> None:
        self.steps, self.world_size, self.device = steps, context.world_size, context.device
        self.clock = StepClock()
        self.telemetry = Telemetry(run, rank=str(context.rank))
        self.log = RunLog(run / METRICS, progress.step) if context.leads else None
        self.events = Events(run) if context.leads else None
        if self.log:
            facts = {"workers": context.world_size, "epoch": progress.epoch, "steps_per_epoch": steps}
            self.log.write("start", progress.step, **facts, lost_steps=lost_steps, time=time.time())
        self.sums: dict[str, Tensor] = {}
        self.count, self.seconds, self.rows = 0, 0.0, 0
        self.totals: Counter[str] = Counter()
        """Steps of this start, and their seconds by part as a mean over workers."""

    def recovered(self, step: int, down_s: float | None) -> None:
        """The first step after a restart is made."""
        if self.log and down_s is not None:
            self.log.write("recovered", step, down_s=down_s)

    def add(self, terms: dict[str, Tensor], rows: int) -> float:
        """A step is done; returns its seconds."""
        seconds = self.clock.stepped()
        for name, term in terms.items():
            self.sums[name] = self.sums[name] + term if name in self.sums else term
        self.count += 1
        self.seconds += seconds
        self.rows += rows
        return seconds

    def due(self, step_in_epoch: int, every: int) -> bool:
        """At every so many steps and at the end of an epoch, but not twice in a few steps there."""
        left = self.steps - step_in_epoch
        return left == 0 or (step_in_epoch % every == 0 and left > every // 2)

    def step(self, progress: Progress) -> None:
        """Write the means since the last line. All workers call it: terms, rows and times are summed over them."""
        names = sorted(self.sums)
        parts = self.clock.take()
        self.send_own(parts)
        shares = [self.sums[name].double() for name in names]
        own = torch.tensor([float(self.rows), *parts.values()], dtype=torch.float64, device=self.device)
        values = sum_over_workers(torch.cat([torch.stack(shares), own])).tolist()
        terms = {name: value / self.count for name, value in zip(names, values, strict=False)}
        rows, *seconds = values[len(names) :]
        means = {part: value / self.world_size for part, value in zip(parts, seconds, strict=True)}
        self.totals.update(means)
        self.totals["steps"] += self.count
        if not math.isfinite(terms["loss"]):
            self.close()
            raise Diverged(f"the loss is {terms['loss']} at step {progress.step}: training diverged; {REMEDY}")
        if self.log:
            self.write(progress, terms, rows / max(self.seconds, 1e-9), {p: s / self.count for p, s in means.items()})
        self.sums, self.count, self.seconds, self.rows = {}, 0, 0.0, 0

    def flush(self, progress: Progress) -> None:
        """Write what there is, before a stop. All workers call it."""
        if self.count:
            self.step(progress)

    def send_own(self, parts: dict[str, float]) -> None:
        """Each worker's own rows and times, for Ray's metrics."""
        self.telemetry.count("counterpoint_train_rows", self.rows)
        for part, seconds in parts.items():
            self.telemetry.gauge("counterpoint_train_step_seconds", seconds / max(self.count, 1), part=part)

    def write(self, progress: Progress, terms: dict[str, float], rate: float, parts: dict[str, float]) -> None:
        assert self.log is not None
        assert self.events is not None
        named = {f"loss.{name}" if name != "loss" else name: value for name, value in terms.items()}
        epoch = progress.epoch + progress.step_in_epoch / self.steps
        times = {f"step_s.{part}": seconds for part, seconds in parts.items()}
        seconds = progress.train_seconds
        self.log.write("step", progress.step, epoch=epoch, **named, rows_per_s=rate, seconds=seconds, **times)
        self.events.add(progress.step, {**named, "rows_per_s": rate, **times})
        self.telemetry.gauge("counterpoint_train_step", progress.step)
        self.telemetry.gauge("counterpoint_train_epoch", epoch)
        self.telemetry.gauge("counterpoint_train_rows_per_second", rate)
        for term, value in named.items():
            self.telemetry.gauge("counterpoint_train_loss", value, term=term)

    def valid(self, progress: Progress, figures: dict[str, Any]) -> None:
        if self.log and self.events:
            plain = {key: value for key, value in figures.items() if key != "absent"}
            best = progress.best_step == progress.step
            self.log.write("valid", progress.step, epoch=progress.epoch, best=best, **plain)
            self.events.add(progress.step, plain, under="valid")
            for figure, value in plain.items():
                if is_number(value):
                    self.telemetry.gauge("counterpoint_train_valid", value, figure=figure)

    def checkpoint(self) -> None:
        """One has been begun."""
        if self.log:
            self.telemetry.count("counterpoint_train_checkpoints", 1)

    def times(self) -> dict[str, float]:
        """Seconds of a step by part over this start of the run, a mean over workers; nothing if it made no step."""
        steps = self.totals["steps"]
        return {f"train.step_s.{part}": self.totals[part] / steps for part in PARTS} if steps else {}

    def close(self) -> None:
        if self.log and self.events:
            self.log.close()
            self.events.close()
