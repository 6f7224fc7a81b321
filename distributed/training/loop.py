"""The per-worker training loop.

Every worker holds the whole model, reads its lanes of each global batch, and sums gradients with the others, so the
weights stay the same bits on all of them. With one worker and no process group this is a plain loop.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from data.log import Log, open_log
from distributed.checkpoint.read import MODEL_DIRECTORY, Progress
from distributed.checkpoint.store import CheckpointStore, unwritable
from distributed.input.stream import TrainStream
from distributed.reporting.lost_steps import StepMark, totals
from distributed.reporting.reporter import METRICS, Reporter
from distributed.tables.collectives import agree, broadcast_object, max_over_workers
from distributed.training.learner import Learner, TrainJob
from distributed.training.stopping import NO_STORAGE, Interrupted, Stop, save_and_stop
from distributed.training.validation import evaluate
from funnel.batch import Batch

OnEpoch = Callable[[dict[str, Any]], bool]
"""Told the figures of each validation; False ends the training there."""
CHECKPOINTS, EVALUATION = "checkpoints", "evaluation.json"
SNAPSHOTS = "snapshots"


def train(
    job: TrainJob,
    rank: int,
    world_size: int,
    device: torch.device,
    on_epoch: OnEpoch | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Train from the last checkpoint (or the beginning) to the end; returns the figures of the best checkpoint.

    `on_epoch` is called on every worker once an epoch's checkpoint is written, with the figures of its validation and
    its epoch, step and whether it is the best so far; if it returns False on any of them the training ends there.
    `stop` says when to stop between two steps: stopping.Stopped is raised then, and the same call goes on from there.
    Raises ValueError if the loss stops being a number, a file of the log turns out to be broken or the disk is full; as
    all workers raise it, none waits for another.
    """
    config, run, stop = job.config, Path(job.run), stop or Stop()
    log = open_log(job.location)
    stream = TrainStream(log, job.parts["train"], config.stream, config.batch_size, config.seed, rank, world_size)
    learner = Learner(job, device, rank, stream.steps * config.epochs, stop)
    identity = identify(job, learner.objective.tasks)
    startup_s = None

    with CheckpointStore(run / CHECKPOINTS, rank, world_size, config.background_checkpoints) as store:
        if rank == 0:
            stop.clear()
        found = store.begin()
        progress = learner.restore(found) if found is not None else Progress()
        if found is None and job.start_from:
            learner.restore(Path(job.start_from), with_optimizer=False)
        mark = StepMark(run, rank == 0)
        try:
            reporter = Reporter(run, progress, stream.steps, world_size, rank, device, mark.lost(progress.step))
        except OSError as error:
            raise ValueError(unwritable(error)) from error

        def save() -> None:
            with stop.storing():
                store.save(learner.state(), progress, identity)
            reporter.checkpoint()

        try:
            while not progress.finished:
                reporter.clock.begin(anew=True)
                for batch in until_lost(stream, progress, stop):
                    reporter.clock.arrived()
                    if store.failed:
                        stop.fail(NO_STORAGE, store.failed)
                    terms = learner.step(batch.to(device), progress.step)
                    if startup_s is None:
                        startup_s = time.time() - job.started
                        with stop.storing():
                            reporter.recovered(progress.step, mark.down_s())
                    progress.step += 1
                    progress.step_in_epoch += 1
                    progress.rows = progress.epoch * job.parts["train"].rows + rows_so_far(progress, stream, job)
                    progress.train_seconds += reporter.add(terms, len(batch))
                    mark.write(progress.step)
                    if reporter.due(progress.step_in_epoch, config.log_steps):
                        with stop.storing():
                            reporter.step(progress)
                    saves = config.checkpoint_steps and progress.step % config.checkpoint_steps == 0
                    if saves and progress.step_in_epoch < stream.steps:
                        save()
                        reporter.clock.begin(anew=True)
                    else:
                        reporter.clock.begin()
                figures = end_epoch(learner, log, job, progress, reporter, rank, world_size, stop)
                if job.snapshots and progress.best_step == progress.step:
                    keep_snapshot(store, run, learner, progress, identity, stop)
                save()
                if on_epoch is not None:
                    with stop.storing():
                        store.wait()
                    agree(stop.error)
                    progress.finished |= ended_by(on_epoch, figures, progress, device)
            with stop.storing():
                store.wait()
            agree(stop.error)

            learner.restore(broadcast_object(store.at(progress.best_step)), with_optimizer=False)
            part, clip = job.parts.get("test", job.parts["valid"]), learner.objective.clip
            evaluation = evaluate(learner.model, log, part, clip, device, rank, world_size, truth=True, stop=stop)
        except Interrupted as interrupted:
            with stop.storing():
                reporter.flush(progress)
            reporter.close()
            save_and_stop(interrupted.code, stop, store, learner.state, progress, identity)
        with stop.storing():
            store.save_as(run / MODEL_DIRECTORY, learner.state(with_optimizer=False), progress, identity)
            if rank == 0:
                write_text(run / EVALUATION, json.dumps({"part": part.name, **evaluation.curves()}, indent=1))
        agree(stop.error)
    reporter.close()
    return evaluation.figures() | {
        "train.rows_per_s": progress.rows / max(progress.train_seconds, 1e-9),
        "train.steps": progress.step,
        "train.epochs": progress.epoch,
        "train.train_seconds": progress.train_seconds,
        "train.startup_s": startup_s,
        "train.workers": world_size,
        "train.best_step": progress.best_step,
        **totals(run / METRICS),
        **reporter.times(),
    }


def until_lost(stream: TrainStream, progress: Progress, stop: Stop) -> Iterator[Batch]:
    """The rest of the epoch's batches. Once a file cannot be read: empty ones, until all workers know and stop."""
    with stop.reading():
        yield from stream.epoch(progress.epoch, progress.step_in_epoch)
        return
    while True:
        yield stream.empty()


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def keep_snapshot(
    store: CheckpointStore, run: Path, learner: Learner, progress: Progress, identity: dict[str, Any], stop: Stop
) -> None:
    """The model of this step for whoever follows the training; one from before a restart is the same and may be in use.

    Before the epoch's checkpoint, so that a run that goes on from there has it.
    """
    path = run / SNAPSHOTS / store.at(progress.step).name / MODEL_DIRECTORY
    if not broadcast_object(path.exists()):
        with stop.storing():
            store.save_as(path, learner.state(with_optimizer=False), progress, identity)


def identify(job: TrainJob, tasks: tuple[str, ...]) -> dict[str, Any]:
    return {
        "config": dataclasses.asdict(job.config),
        "schema": job.schema.to_dict(),
        "tasks": list(tasks),
        "click_rate": job.click_rate,
    }


def rows_so_far(progress: Progress, stream: TrainStream, job: TrainJob) -> int:
    """Rows of this epoch that are done, over all workers."""
    return min(progress.step_in_epoch * stream.batch_size, job.parts["train"].rows)


def end_epoch(
    learner: Learner,
    log: Log,
    job: TrainJob,
    progress: Progress,
    reporter: Reporter,
    rank: int,
    world_size: int,
    stop: Stop,
) -> dict[str, Any]:
    """Validate, note the best epoch, decide whether to go on. All workers come to the same decision and figures."""
    config, valid = job.config, job.parts["valid"]
    clip, device = learner.objective.clip, learner.device
    figures = evaluate(learner.model, log, valid, clip, device, rank, world_size, stop=stop).figures()
    progress.epoch += 1
    progress.step_in_epoch = 0
    score = figures[config.stop_metric] * (-1 if config.stop_metric.endswith("log_loss") else 1)
    if progress.best_score is None or score > progress.best_score:
        progress.best_score, progress.best_step, progress.stale = score, progress.step, 0
    else:
        progress.stale += 1
    stopped = config.patience > 0 and progress.stale >= config.patience
    progress.finished = stopped or progress.epoch >= config.epochs
    with stop.storing():
        reporter.valid(progress, figures)
    return figures


def ended_by(on_epoch: OnEpoch, figures: dict[str, Any], progress: Progress, device: torch.device) -> bool:
    """Whether the hook ends the training: on one worker is on all of them."""
    place = {"epoch": progress.epoch, "step": progress.step, "best": progress.best_step == progress.step}
    wanted = on_epoch({**figures, **place})
    return bool(max_over_workers(torch.tensor(float(not wanted), device=device)))
