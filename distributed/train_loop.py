"""The per-worker training loop.

Every worker holds the whole model, reads its lanes of each global batch, and sums gradients with the others, so the
weights stay the same bits on all of them. With one worker and no process group this is a plain loop.
"""

import dataclasses
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.encode import Encoder
from data.log import Log, Part, open_log
from data.schema import Schema
from distributed.checkpoint import (
    Checkpoint,
    CheckpointStore,
    Progress,
    check_tensors,
    load_optimizer_tensors,
    optimizer_tensors,
    read_checkpoint,
    write_checkpoint,
)
from distributed.collectives import broadcast_object, sum_gradients, sum_over_workers, sum_rows
from distributed.config import TrainConfig
from distributed.evaluation import evaluate
from distributed.optimizers import build_row_optimizer, rate_factor
from distributed.run_log import RunLog
from distributed.stream import Batch, TrainStream
from models.embedding import EmbeddingTable, FieldOptions
from models.entire_space import EntireSpaceModel
from models.objectives.base import Objective
from models.registry import build_objective

MODEL_DIRECTORY, CHECKPOINTS, METRICS, EVALUATION = "model", "checkpoints", "metrics.jsonl", "evaluation.json"


class Diverged(ValueError):
    """The loss is no number any more. All workers find out at the same step."""


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


class Trainer:
    """Model, objective and optimizers of one worker, and the step that ties them."""

    def __init__(self, job: TrainJob, device: torch.device, rank: int, steps: int) -> None:
        self.config, self.device, self.rank, self.steps = job.config, device, rank, steps
        self.objective: Objective = build_objective(job.config.objective, job.click_rate)
        self.model = build_model(job.config, job.schema, self.objective.tasks).to(device)
        self.model.start_at({"ctr": job.click_rate, "cvr": job.conversion_rate})
        self.model.standardise.mean.copy_(torch.tensor(job.numeric_mean))
        self.model.standardise.std.copy_(torch.tensor(job.numeric_std))
        settings = job.config.optimizer
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.tables = embedding_tables(self.model)
        self.row_optimizers = [
            build_row_optimizer(settings.embedding, table.weight, settings.embedding_learning_rate)
            for table in self.tables
        ]

    def step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One update on the global batch; returns this worker's share of each loss term."""
        if self.config.model.backbone.dropout:
            torch.manual_seed(address(self.config.seed, step, self.rank))
        logits = self.model(batch.ids_BK, batch.numeric_BN, batch.bags)
        self.objective.step = step
        totals = sum_over_workers(self.objective.totals(logits, batch.labels).detach())
        terms = self.objective(logits, batch.labels, totals)
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        sum_gradients(self.parameters)
        self.set_rates(step)
        self.optimizer.step()
        for table, row_optimizer in zip(self.tables, self.row_optimizers, strict=True):
            assert table.touched is not None
            ids_V, gradient_VE = sum_rows(table.touched.ids_U, table.touched.gradient())
            row_optimizer.step(table.weight, ids_V, gradient_VE)
        return {name: term.detach() for name, term in terms.items()}

    def set_rates(self, step: int) -> None:
        settings = self.config.optimizer
        factor = rate_factor(settings.schedule, step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor
        for row_optimizer in self.row_optimizers:
            row_optimizer.rate = settings.embedding_learning_rate * factor

    def tensors(self) -> dict[str, Tensor]:
        dense = {f"dense.{name}": tensor for name, tensor in optimizer_tensors(self.optimizer).items()}
        rows = {
            f"rows.{index}.{name}": tensor
            for index, row_optimizer in enumerate(self.row_optimizers)
            for name, tensor in row_optimizer.state().items()
        }
        return dense | rows

    def restore(self, checkpoint: Checkpoint) -> None:
        check_tensors(checkpoint.model, self.model.state_dict(), checkpoint.path)
        self.model.load_state_dict(checkpoint.model)
        load_optimizer_tensors(self.optimizer, under("dense.", checkpoint.optimizer))
        for index, row_optimizer in enumerate(self.row_optimizers):
            row_optimizer.load(under(f"rows.{index}.", checkpoint.optimizer))


def embedding_tables(model: EntireSpaceModel) -> list[EmbeddingTable]:
    tables = list(model.embedding.tables)
    assert all(isinstance(table, EmbeddingTable) for table in tables)
    return tables  # type: ignore[return-value]


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def address(*place: int) -> int:
    """A seed for one place, such as (seed, step, rank)."""
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> np.uint64(1))


def build_model(config: TrainConfig, schema: Schema, tasks: tuple[str, ...]) -> EntireSpaceModel:
    field_rows = Encoder(schema).field_rows
    options = field_options(schema)
    return EntireSpaceModel(config.model, field_rows, len(schema.numeric), tasks, config.seed, options=options)


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


def train(job: TrainJob, rank: int, world_size: int, device: torch.device) -> dict[str, Any]:
    """Train from the last checkpoint (or the beginning) to the end; returns the figures of the best checkpoint.

    Raises ValueError if the loss stops being a number, or a file of the log turns out to be broken.
    """
    config, run = job.config, Path(job.run)
    log = open_log(job.location)
    stream = TrainStream(log, job.parts["train"], config.stream, config.batch_size, config.seed, rank, world_size)
    trainer = Trainer(job, device, rank, steps=stream.steps * config.epochs)
    store = CheckpointStore(run / CHECKPOINTS)
    identity = identify(job, trainer.objective.tasks)
    progress = Progress()
    if rank == 0:
        store.clean()
    found = broadcast_object(store.latest())
    if found is not None:
        checkpoint = read_checkpoint(found)
        trainer.restore(checkpoint)
        progress = checkpoint.progress
    reporter = Reporter(run, progress, stream.steps, world_size, rank == 0, device)
    startup_s = None

    while not progress.finished:
        clock = time.perf_counter()
        for batch in stream.epoch(progress.epoch, progress.step_in_epoch):
            if startup_s is None:
                startup_s = time.time() - job.started
            terms = trainer.step(batch.to(device), progress.step)
            progress.step += 1
            progress.step_in_epoch += 1
            progress.rows = progress.epoch * job.parts["train"].rows + rows_so_far(progress, stream, job)
            now = time.perf_counter()
            progress.train_seconds += now - clock
            reporter.add(terms, len(batch), now - clock)
            clock = now
            if reporter.due(progress.step_in_epoch, config.log_steps):
                reporter.step(progress)
            if config.checkpoint_steps and progress.step % config.checkpoint_steps == 0 and rank == 0:
                if progress.step_in_epoch < stream.steps:
                    store.save(trainer.model.state_dict(), trainer.tensors(), progress, identity)
                clock = time.perf_counter()
        end_epoch(trainer, log, job, progress, reporter, rank, world_size)
        if rank == 0:
            store.save(trainer.model.state_dict(), trainer.tensors(), progress, identity)

    best = broadcast_object(store.at(progress.best_step))
    trainer.model.load_state_dict(read_checkpoint(best, with_optimizer=False).model)
    part = job.parts.get("test", job.parts["valid"])
    evaluation = evaluate(trainer.model, log, part, trainer.objective.clip, device, rank, world_size, truth=True)
    if rank == 0:
        write_checkpoint(run / MODEL_DIRECTORY, trainer.model.state_dict(), {}, progress, identity)
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
    }


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
) -> None:
    """Validate, note the best epoch, decide whether to go on. All workers come to the same decision."""
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
