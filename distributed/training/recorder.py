"""What surrounds the steps of a training: where it stands, what is written of it, and going on after any end.

loop.py calls it after each step, each validation and at the end; nothing here decides a weight.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files import write_whole
from distributed.checkpoint.read import MODEL_DIRECTORY, Progress
from distributed.checkpoint.store import CheckpointStore, unwritable
from distributed.context import Context
from distributed.input.stream import TrainStream
from distributed.reporting.lost_steps import StepMark, totals
from distributed.reporting.reporter import METRICS, Reporter
from distributed.tables.collectives import agree, broadcast_object
from distributed.training.job import TrainJob
from distributed.training.learner import Learner
from distributed.training.stopping import NO_STORAGE, Interrupted, save_and_stop

CHECKPOINTS, EVALUATION = "checkpoints", "evaluation.json"


class Recorder:
    """Progress, checkpoints, metrics and the marks of one start of a run. All workers make the same calls."""

    def __init__(
        self, job: TrainJob, learner: Learner, stream: TrainStream, store: CheckpointStore, context: Context
    ) -> None:
        """Goes on from the last checkpoint, or begins. Raises UserError if the run directory cannot be written."""
        self.job, self.learner, self.stream, self.store, self.context = job, learner, stream, store, context
        self.run, self.stop, self.identity = Path(job.run), context.stop, job.identity()
        if context.leads:
            self.stop.clear()
        found = store.begin()
        self.progress = learner.restore(found) if found is not None else Progress()
        if found is None and job.start_from:
            learner.restore(Path(job.start_from), with_optimizer=False)
        self.startup_s: float | None = None
        self.mark = StepMark(self.run, context.leads)
        lost = self.mark.lost(self.progress.step)
        try:
            self.reporter = Reporter(self.run, self.progress, stream.steps, context, lost)
        except OSError as error:
            raise UserError(unwritable(error)) from error

    def batches(self) -> Iterator[Any]:
        """The rest of the epoch's batches. Once a file cannot be read: empty ones, until all workers know and stop."""
        clock, progress = self.reporter.clock, self.progress
        clock.begin(afresh=True)
        for batch in self._until_lost(progress.epoch, progress.step_in_epoch):
            clock.arrived()
            if self.store.failed:
                self.stop.fail(NO_STORAGE, self.store.failed)
            yield batch

    def _until_lost(self, epoch: int, start: int) -> Iterator[Any]:
        with self.stop.reading():
            yield from self.stream.epoch(epoch, start)
            return
        while True:
            yield self.stream.empty()

    def stepped(self, terms: dict[str, Any], units: int) -> None:
        """An update has been made on a batch of which this worker had so many units."""
        progress, reporter, config = self.progress, self.reporter, self.job.config
        if self.startup_s is None:
            self.startup_s = time.time() - self.job.started
            with self.stop.storing():
                reporter.recovered(progress.step, self.mark.down_s())
        progress.step += 1
        progress.step_in_epoch += 1
        in_epoch = min(progress.step_in_epoch * self.stream.batch_size, self.job.units("train"))
        progress.rows = progress.epoch * self.job.units("train") + in_epoch
        progress.train_seconds += reporter.add(terms, units)
        self.mark.write(progress.step)
        if reporter.due(progress.step_in_epoch, config.log_steps):
            with self.stop.storing():
                reporter.step(progress)
        saves = config.checkpoint_steps and progress.step % config.checkpoint_steps == 0
        if saves and progress.step_in_epoch < self.stream.steps:  # the epoch's end saves by itself
            self.save()
            reporter.clock.begin(afresh=True)
        else:
            reporter.clock.begin()

    def validated(self, figures: dict[str, Any], score: float) -> None:
        """An epoch is over: note whether it is the best so far and whether the training goes on, and save.

        `score`: of the figure that chooses the epoch, larger is better. All workers come to the same decision.
        """
        progress, config = self.progress, self.job.config
        progress.epoch += 1
        progress.step_in_epoch = 0
        if progress.best_score is None or score > progress.best_score:
            progress.best_score, progress.best_step, progress.stale = score, progress.step, 0
        else:
            progress.stale += 1
        stopped = config.patience > 0 and progress.stale >= config.patience
        progress.finished = stopped or progress.epoch >= config.epochs
        with self.stop.storing():
            self.reporter.valid(progress, figures)
        self.save()

    def save(self) -> None:
        """Begin to write a checkpoint; what cannot be written is found out at the next step, by all workers."""
        with self.stop.storing():
            self.store.save(self.learner.state(), self.progress, self.identity)
        self.reporter.checkpoint()

    def saved(self) -> None:
        """Wait for the checkpoint that is being written. Raises UserError on all workers if one cannot write."""
        with self.stop.storing():
            self.store.wait()
        agree(self.stop.error)

    def restore_best(self) -> None:
        best = broadcast_object(self.store.at(self.progress.best_step))
        self.learner.restore(best, with_optimizer=False)

    def interrupted(self, interrupted: Interrupted) -> None:
        """Save where the run stands. Raises stopping.Stopped, or UserError if a worker has failed."""
        with self.stop.storing():
            self.reporter.flush(self.progress)
        self.reporter.close()
        save_and_stop(interrupted.code, self.stop, self.store, self.learner.state, self.progress, self.identity)

    def ended(self, part: str, figures: dict[str, Any], curves: dict[str, Any]) -> dict[str, Any]:
        """Write the best model and its curves; returns the figures with those of the training beside them."""
        progress = self.progress
        with self.stop.storing():
            state = self.learner.state(with_optimizer=False)
            self.store.save_as(self.run / MODEL_DIRECTORY, state, progress, self.identity)
            if self.context.leads:
                write_whole(self.run / EVALUATION, json.dumps({"part": part, **curves}, indent=1) + "\n")
        agree(self.stop.error)
        self.reporter.close()
        return figures | {
            "train.rows_per_s": progress.rows / max(progress.train_seconds, 1e-9),
            "train.steps": progress.step,
            "train.epochs": progress.epoch,
            "train.train_seconds": progress.train_seconds,
            "train.startup_s": self.startup_s,
            "train.workers": self.context.world_size,
            "train.best_step": progress.best_step,
            **totals(self.run / METRICS),
            **self.reporter.times(),
        }
