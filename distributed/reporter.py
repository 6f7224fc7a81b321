"""metrics.jsonl as training goes: mean loss terms over all workers, rows/s, validation figures; and the end of hope."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distributed.checkpoint import Progress
from distributed.collectives import sum_over_workers
from distributed.run_log import RunLog

METRICS = "metrics.jsonl"


class Diverged(ValueError):
    """The loss is no number any more. All workers find out at the same step."""


class Reporter:
    """Sums loss terms between log lines and lets rank 0 write them."""

    def __init__(
        self, run: Path, progress: Progress, steps: int, world_size: int, writes: bool, device: torch.device
    ) -> None:
        self.steps, self.device = steps, device
        self.log = RunLog(run / METRICS, progress.step) if writes else None
        if self.log:
            self.log.write("start", progress.step, workers=world_size, epoch=progress.epoch, steps_per_epoch=steps)
        self.sums: dict[str, Tensor] = {}
        self.count, self.seconds, self.rows = 0, 0.0, 0

    def add(self, terms: dict[str, Tensor], rows: int, seconds: float) -> None:
        for name, term in terms.items():
            self.sums[name] = self.sums[name] + term if name in self.sums else term
        self.count += 1
        self.seconds += seconds
        self.rows += rows

    def due(self, step_in_epoch: int, every: int) -> bool:
        """At every so many steps and at the end of an epoch, but not twice in a few steps there."""
        left = self.steps - step_in_epoch
        return left == 0 or (step_in_epoch % every == 0 and left > every // 2)

    def step(self, progress: Progress) -> None:
        """Write the mean terms since the last line. All workers call it: terms and rows are summed over them."""
        names = sorted(self.sums)
        shares = [self.sums[name].double() for name in names]
        values = sum_over_workers(torch.stack([*shares, torch.tensor(float(self.rows), device=self.device).double()]))
        *means, rows = values.tolist()
        terms = {name: value / self.count for name, value in zip(names, means, strict=True)}
        if not math.isfinite(terms["loss"]):
            raise Diverged(
                f"the loss is {terms['loss']} at step {progress.step}: training diverged; "
                "lower optimizer.learning_rate or raise objective.clip"
            )
        if self.log:
            named = {f"loss.{name}" if name != "loss" else name: value for name, value in terms.items()}
            epoch = progress.epoch + progress.step_in_epoch / self.steps
            rate = rows / max(self.seconds, 1e-9)
            seconds = progress.train_seconds
            self.log.write("step", progress.step, epoch=epoch, **named, rows_per_s=rate, seconds=seconds)
        self.sums, self.count, self.seconds, self.rows = {}, 0, 0.0, 0

    def valid(self, progress: Progress, figures: dict[str, Any]) -> None:
        if self.log:
            plain = {key: value for key, value in figures.items() if key != "absent"}
            best = progress.best_step == progress.step
            self.log.write("valid", progress.step, epoch=progress.epoch, best=best, **plain)

    def close(self) -> None:
        if self.log:
            self.log.close()
