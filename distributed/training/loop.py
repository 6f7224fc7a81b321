"""The per-worker training loop, for any problem (funnel/problem.py).

Every worker holds the whole network, reads its lanes of each global batch, and sums gradients with the others, so the
weights stay the same bits on all of them. With one worker and no process group this is a plain loop.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from data.errors import UserError
from distributed.checkpoint.store import CheckpointStore
from distributed.context import Context
from distributed.input.stream import TrainStream
from distributed.tables.collectives import max_over_workers
from distributed.training.job import TrainJob
from distributed.training.learner import Learner
from distributed.training.memory import keep_freed_memory
from distributed.training.recorder import CHECKPOINTS, Recorder
from distributed.training.stopping import Interrupted
from distributed.training.validation import count

OnEpoch = Callable[[dict[str, Any]], bool]
"""Given the figures of each validation; False ends the training there."""


def train(job: TrainJob, context: Context | None = None, on_epoch: OnEpoch | None = None) -> dict[str, Any]:
    """Train from the last checkpoint (or the beginning) to the end; returns the figures of the best checkpoint.

    `on_epoch` is called on every worker once an epoch's checkpoint is written, with the figures of its validation and
    its epoch, step and whether it is the best so far; if it returns False on any of them the training ends there.
    `context.stop` says when to stop between two steps: stopping.Stopped is raised then, and the same call goes on from
    there. Raises UserError if the loss stops being a number, a file of the log turns out to be broken or the disk is
    full; as all workers raise it, none waits for another.
    """
    keep_freed_memory()
    context = context or Context()
    config, device, log = job.config, context.device, job.open_log()
    problem = job.open_problem(device)
    stream = TrainStream(problem, log, job.parts["train"], job.sizes["train"], config, context)
    learner = Learner(problem, config, context, stream.steps * config.epochs)
    network = learner.network
    goal = config.stop_metric or problem.goal
    sign = -1 if problem.smaller_is_better(goal) else 1

    with CheckpointStore(
        Path(job.run) / CHECKPOINTS, context.rank, context.world_size, config.background_checkpoints
    ) as store:
        recorder = Recorder(job, learner, stream, store, context)
        progress = recorder.progress
        try:
            # A run that was killed after its last epoch finds itself finished here, and only evaluates.
            while not progress.finished:
                for batch in learner.upcoming(recorder.batches()):
                    terms = learner.step(batch, progress.step)
                    recorder.stepped(terms, len(batch))
                # The epoch is chosen by the validation part alone; test is looked at once, below.
                valid = job.parts["valid"]
                figures = count(problem, network, log, valid, problem.counts(log, valid), context).figures()
                recorder.validated(figures, sign * chosen(figures, goal))
                if on_epoch is not None:
                    # The hook may end the process: what it is given must be on the disk first.
                    recorder.saved()
                    place = {"epoch": progress.epoch, "step": progress.step}
                    best = progress.best_step == progress.step
                    progress.finished |= any_worker(not on_epoch({**figures, **place, "best": best}), device)
            recorder.saved()
            recorder.restore_best()
            part = job.parts.get("test", job.parts["valid"])
            counts = count(problem, network, log, part, problem.counts(log, part, truth=True), context)
        except Interrupted as interrupted:
            # All workers have agreed on it before this step changed anything, so what is saved is one state.
            recorder.interrupted(interrupted)
        return recorder.ended(part.name, counts.figures(), counts.curves())


def chosen(figures: dict[str, Any], goal: str) -> float:
    """The figure that chooses the epoch. Raises UserError, with the reason, where the validation part has none."""
    if goal not in figures:
        reason = figures.get("absent", {}).get(goal, "it was not counted")
        raise UserError(f"stop_metric {goal}: part valid has no such figure ({reason}); stop by another one")
    return float(figures[goal])


def any_worker(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on any worker; the same on all of them."""
    return bool(max_over_workers(torch.tensor(float(flag), device=device)))
