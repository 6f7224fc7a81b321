"""The per-worker training loop.

Every worker holds the whole model, reads its lanes of each global batch, and sums gradients with the others, so the
weights stay the same bits on all of them. With one worker and no process group this is a plain loop.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.encode import Encoder
from data.log import Log, Part, open_log
from data.schema import Schema
from distributed.checkpoint import Progress, State, load_optimizer_tensors, load_state, optimizer_tensors
from distributed.checkpoint_rows import RowTensor
from distributed.checkpoint_store import CheckpointStore
from distributed.collectives import (
    agree,
    broadcast_object,
    gather_numbers,
    max_over_workers,
    sum_gradients,
    world_size,
)
from distributed.config import TrainConfig
from distributed.evaluation import evaluate
from distributed.optimizers import build_row_optimizer, rate_factor
from distributed.reporter import Reporter
from distributed.stream import Batch, TrainStream
from distributed.tables import embedding_tables, place, share_of
from models.embedding import FieldOptions
from models.entire_space import EntireSpaceModel
from models.objectives.base import Objective
from models.registry import build_objective
from models.rows import EVERY_ROW, Share

OnEpoch = Callable[[dict[str, Any]], bool]
"""Told the figures of each validation; False ends the training there."""
MODEL_DIRECTORY, CHECKPOINTS, EVALUATION = "model", "checkpoints", "evaluation.json"
SNAPSHOTS = "snapshots"


@dataclass(frozen=True)
class TrainJob:
    """What every worker is told: plain values, decided and checked once by the driver."""

    run: str
    """Absolute path of the run directory, which all workers can reach."""
    location: str
    config: TrainConfig
    schema: Schema
    parts: dict[str, Part]
    """train and valid, and test if the log has it."""
    click_rate: float
    """Clicks by exposures of the training part."""
    conversion_rate: float
    """Conversions by clicks of the training part."""
    numeric_mean: tuple[float, ...]
    numeric_std: tuple[float, ...]
    started: float
    """time.time() when the command began: start-up is counted from here."""
    start_from: str = ""
    """Model directory of another run that the weights are taken from; empty: they are drawn from the seed."""
    snapshots: bool = False
    """Keep the model of every epoch that is the best so far, in RUN/snapshots/step-NNNNNNNN/model/."""


class Trainer:
    """Model, objective and optimizers of one worker, and the step that ties them."""

    def __init__(self, job: TrainJob, device: torch.device, rank: int, steps: int) -> None:
        self.config, self.device, self.rank, self.steps = job.config, device, rank, steps
        self.objective: Objective = build_objective(job.config.objective, job.click_rate)
        self.share = share_of(job.config.tables, rank)
        self.model = build_model(job.config, job.schema, self.objective.tasks, self.share).to(device)
        self.model.start_at({"ctr": job.click_rate, "cvr": job.conversion_rate})
        self.model.standardise.mean.copy_(torch.tensor(job.numeric_mean))
        self.model.standardise.std.copy_(torch.tensor(job.numeric_std))
        settings = job.config.optimizer
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.tables = embedding_tables(self.model)
        self.placements = place(self.model, job.config.tables)
        self.row_optimizers = [
            build_row_optimizer(settings.embedding, table.weight, settings.embedding_learning_rate)
            for table in self.tables
        ]

    def step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One update on the global batch; returns this worker's share of each loss term."""
        if self.config.model.backbone.dropout:
            torch.manual_seed(address(self.config.seed, step, self.rank))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            logits = self.model(batch.ids_BK, batch.numeric_BN, batch.bags)
        logits = {task: logit_B.float() for task, logit_B in logits.items()}
        self.objective.step = step
        totals, sizes_TW = self.share_numbers(self.objective.totals(logits, batch.labels).detach())
        terms = self.objective(logits, batch.labels, totals)
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        sum_gradients(self.parameters)
        self.set_rates(step)
        self.optimizer.step()
        for table, placement, row_optimizer, sizes in zip(
            self.tables, self.placements, self.row_optimizers, sizes_TW, strict=True
        ):
            assert table.touched is not None
            ids_V, gradient_VE = placement.collect(table.touched, sizes)
            alone = ids_V is table.touched.ids_U  # then what the rows hold was read for the batch
            vectors_VE = table.touched.vectors_UE.detach() if alone else None
            row_optimizer.step(table.weight, ids_V, gradient_VE, vectors_VE)
        return {name: term.detach() for name, term in terms.items()}

    def share_numbers(self, totals: Tensor) -> tuple[Tensor, list[list[int]]]:
        """The totals of the global batch, and how many rows of each table every worker touched: in one message."""
        touched = [table.touched for table in self.tables]
        sizes = totals.new_tensor([0 if rows is None else len(rows.ids_U) for rows in touched])
        everyone_WN = gather_numbers(torch.cat([totals, sizes]))
        sizes_WT = everyone_WN[:, len(totals) :].long().tolist()
        return everyone_WN[:, : len(totals)].sum(0), [list(sizes_W) for sizes_W in zip(*sizes_WT, strict=True)]

    def set_rates(self, step: int) -> None:
        settings = self.config.optimizer
        factor = rate_factor(settings.schedule, step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor
        for row_optimizer in self.row_optimizers:
            row_optimizer.rate = settings.embedding_learning_rate * factor

    def state(self, with_optimizer: bool = True) -> State:
        """This worker's tensors, not copies: writing into them changes what the next step begins from."""
        tables = {f"embedding.tables.{index}.weight": table for index, table in enumerate(self.tables)}
        state = State({name: tensor for name, tensor in self.model.state_dict().items() if name not in tables})
        state.rows.update({name: RowTensor(table.weight, table.rows, self.share) for name, table in tables.items()})
        if with_optimizer:
            dense = optimizer_tensors(self.optimizer)
            state.optimizer.update({f"dense.{name}": tensor for name, tensor in dense.items()})
            for index, (table, row_optimizer) in enumerate(zip(self.tables, self.row_optimizers, strict=True)):
                for name, tensor in row_optimizer.state().items():
                    if tensor.dim():  # else a counter, the same on all workers
                        state.rows[f"rows.{index}.{name}"] = RowTensor(tensor, table.rows, self.share)
                    else:
                        state.optimizer[f"rows.{index}.{name}"] = tensor
        return state

    def restore(self, path: Path, with_optimizer: bool = True) -> Progress:
        """Go on from a checkpoint of any number of workers and either placement. All workers call it.

        Raises ValueError on all of them if one finds that it is another model's or damaged.
        """
        error: str | None = None
        progress, optimizer = Progress(), dict[str, Tensor]()
        try:
            progress, optimizer = load_state(path, self.state(with_optimizer), self.rank, world_size())
        except ValueError as mistake:
            error = str(mistake)
        agree(error)
        if with_optimizer:
            load_optimizer_tensors(self.optimizer, under("dense.", optimizer))
            for index, row_optimizer in enumerate(self.row_optimizers):
                row_optimizer.load({**row_optimizer.state(), **under(f"rows.{index}.", optimizer)})
        return progress


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def address(*place: int) -> int:
    """A seed for one place, such as (seed, step, rank)."""
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> np.uint64(1))


def build_model(
    config: TrainConfig, schema: Schema, tasks: tuple[str, ...], share: Share = EVERY_ROW
) -> EntireSpaceModel:
    field_rows = Encoder(schema).field_rows
    options = field_options(schema)
    return EntireSpaceModel(config.model, field_rows, len(schema.numeric), tasks, config.seed, share, options)


def field_options(schema: Schema) -> tuple[FieldOptions, ...]:
    """The schema's categorical fields as the model numbers them."""
    index = {field.name: k for k, field in enumerate(schema.categorical)}
    return tuple(
        FieldOptions(
            width=field.width,
            owner=index[field.share] if field.share else None,
            pooling=field.many.pooling if field.many else None,
            query=index[field.many.query] if field.many and field.many.query else None,
        )
        for field in schema.categorical
    )


def train(
    job: TrainJob, rank: int, world_size: int, device: torch.device, on_epoch: OnEpoch | None = None
) -> dict[str, Any]:
    """Train from the last checkpoint (or the beginning) to the end; returns the figures of the best checkpoint.

    `on_epoch` is called on every worker once an epoch's checkpoint is written, with the figures of its validation and
    its epoch, step and whether it is the best so far; if it returns False on any of them the training ends there.
    Raises ValueError if the loss stops being a number, or a file of the log turns out to be broken.
    """
    config, run = job.config, Path(job.run)
    log = open_log(job.location)
    stream = TrainStream(log, job.parts["train"], config.stream, config.batch_size, config.seed, rank, world_size)
    trainer = Trainer(job, device, rank, steps=stream.steps * config.epochs)
    identity = identify(job, trainer.objective.tasks)
    startup_s = None

    with CheckpointStore(run / CHECKPOINTS, rank, world_size, config.background_checkpoints) as store:
        found = store.begin()
        progress = trainer.restore(found) if found is not None else Progress()
        if found is None and job.start_from:
            trainer.restore(Path(job.start_from), with_optimizer=False)
        reporter = Reporter(run, progress, stream.steps, world_size, rank, device)
        while not progress.finished:
            reporter.clock.begin(anew=True)
            for batch in stream.epoch(progress.epoch, progress.step_in_epoch):
                reporter.clock.arrived()
                if startup_s is None:
                    startup_s = time.time() - job.started
                terms = trainer.step(batch.to(device), progress.step)
                progress.step += 1
                progress.step_in_epoch += 1
                progress.rows = progress.epoch * job.parts["train"].rows + rows_so_far(progress, stream, job)
                progress.train_seconds += reporter.add(terms, len(batch))
                if reporter.due(progress.step_in_epoch, config.log_steps):
                    reporter.step(progress)
                saves = config.checkpoint_steps and progress.step % config.checkpoint_steps == 0
                if saves and progress.step_in_epoch < stream.steps:
                    store.save(trainer.state(), progress, identity)
                    reporter.checkpoint()
                    reporter.clock.begin(anew=True)
                else:
                    reporter.clock.begin()
            figures = end_epoch(trainer, log, job, progress, reporter, rank, world_size)
            if job.snapshots and progress.best_step == progress.step:
                keep_snapshot(store, run, trainer, progress, identity)
            store.save(trainer.state(), progress, identity)
            reporter.checkpoint()
            if on_epoch is not None:
                store.wait()
                progress.finished |= ended_by(on_epoch, figures, progress, device)
        store.wait()

        trainer.restore(broadcast_object(store.at(progress.best_step)), with_optimizer=False)
        part = job.parts.get("test", job.parts["valid"])
        evaluation = evaluate(trainer.model, log, part, trainer.objective.clip, device, rank, world_size, truth=True)
        store.save_as(run / MODEL_DIRECTORY, trainer.state(with_optimizer=False), progress, identity)
    if rank == 0:
        text = json.dumps({"part": part.name, **evaluation.curves()}, indent=1)
        temporary = run / f".{EVALUATION}.tmp"
        temporary.write_text(text + "\n")
        os.replace(temporary, run / EVALUATION)
        reporter.close()
    return evaluation.figures() | {
        "train.rows_per_s": progress.rows / max(progress.train_seconds, 1e-9),
        "train.steps": progress.step,
        "train.epochs": progress.epoch,
        "train.train_seconds": progress.train_seconds,
        "train.startup_s": startup_s,
        "train.workers": world_size,
        "train.best_step": progress.best_step,
        **reporter.times(),
    }


def keep_snapshot(
    store: CheckpointStore, run: Path, trainer: Trainer, progress: Progress, identity: dict[str, Any]
) -> None:
    """The model of this step for whoever follows the training; one from before a restart is the same and may be in use.

    Before the epoch's checkpoint, so that a run that goes on from there has it.
    """
    path = run / SNAPSHOTS / store.at(progress.step).name / MODEL_DIRECTORY
    if not broadcast_object(path.exists()):
        store.save_as(path, trainer.state(with_optimizer=False), progress, identity)


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
    trainer: Trainer, log: Log, job: TrainJob, progress: Progress, reporter: "Reporter", rank: int, world_size: int
) -> dict[str, Any]:
    """Validate, note the best epoch, decide whether to go on. All workers come to the same decision and figures."""
    config = job.config
    clip = trainer.objective.clip
    figures = evaluate(trainer.model, log, job.parts["valid"], clip, trainer.device, rank, world_size).figures()
    progress.epoch += 1
    progress.step_in_epoch = 0
    score = figures[config.stop_metric] * (-1 if config.stop_metric.endswith("log_loss") else 1)
    if progress.best_score is None or score > progress.best_score:
        progress.best_score, progress.best_step, progress.stale = score, progress.step, 0
    else:
        progress.stale += 1
    stopped = config.patience > 0 and progress.stale >= config.patience
    progress.finished = stopped or progress.epoch >= config.epochs
    reporter.valid(progress, figures)
    return figures


def ended_by(on_epoch: OnEpoch, figures: dict[str, Any], progress: Progress, device: torch.device) -> bool:
    """Whether the hook ends the training: on one worker is on all of them."""
    place = {"epoch": progress.epoch, "step": progress.step, "best": progress.best_step == progress.step}
    wanted = on_epoch({**figures, **place})
    return bool(max_over_workers(torch.tensor(float(not wanted), device=device)))
