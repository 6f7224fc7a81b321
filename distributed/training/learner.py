"""One worker's model and optimizers, and the step that ties them to the other workers'.

Every worker holds the whole network and sums its gradients with the others', so that the weights stay the same bits on
all of them. loop.py is the loop around it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.log import Part
from data.schema import Schema
from distributed.checkpoint.read import Progress, State, load_optimizer_tensors, load_state, optimizer_tensors
from distributed.checkpoint.rows import RowTensor
from distributed.config import TrainConfig
from distributed.tables.collectives import agree, gather_numbers, sum_gradients, world_size
from distributed.tables.placement import embedding_tables, place, share_of
from distributed.training.optimizers import build_row_optimizer, rate_factor
from distributed.training.stopping import Interrupted, Stop
from funnel.batch import Batch
from funnel.ranking.click_model import ClickModel
from funnel.ranking.network import build_model
from models.objectives.base import Objective
from models.registry import build_objective


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
    propensities: str = ""
    """Run directory of a finished training whose CTR tower gives the propensities; empty: the model's own does."""
    snapshots: bool = False
    """Keep the model of every epoch that is the best so far, in RUN/snapshots/step-NNNNNNNN/model/."""


class Learner:
    """Model, objective and optimizers of one worker, and the step that ties them."""

    def __init__(self, job: TrainJob, device: torch.device, rank: int, steps: int, stop: Stop | None = None) -> None:
        self.config, self.device, self.rank, self.steps = job.config, device, rank, steps
        self.stop = stop or Stop()
        self.objective: Objective = build_objective(job.config.objective, job.click_rate)
        self.share = share_of(job.config.tables, rank)
        self.model = build_model(job.config, job.schema, self.objective.tasks, self.share).to(device)
        self.model.start_at({"ctr": job.click_rate, "cvr": job.conversion_rate})
        self.model.standardise.mean.copy_(torch.tensor(job.numeric_mean))
        self.model.standardise.std.copy_(torch.tensor(job.numeric_std))
        self.click_model = ClickModel(Path(job.propensities), device) if job.propensities else None
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
        """One update on the global batch; returns this worker's share of each loss term.

        Raises Interrupted, on all workers and before anything has changed, if one of them is to stop.
        """
        if self.config.model.backbone.dropout:
            torch.manual_seed(address(self.config.seed, step, self.rank))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            logits = self.model(batch.ids_BK, batch.numeric_BN, batch.bags)
        logits = {task: logit_B.float() for task, logit_B in logits.items()}
        self.objective.step = step
        labels = batch.labels if self.click_model is None else self.click_model.told(batch)
        totals, sizes_TW = self.share_numbers(self.objective.totals(logits, labels).detach())
        terms = self.objective(logits, labels, totals)
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
        """The totals of the global batch, and how many rows of each table every worker touched: in one message.

        With it goes whether a worker is to stop, and why: the largest code counts.
        """
        touched = [table.touched for table in self.tables]
        sizes = [0 if rows is None else len(rows.ids_U) for rows in touched]
        everyone_WN = gather_numbers(torch.cat([totals, totals.new_tensor([*sizes, self.stop.code()])]))
        told_W = everyone_WN[:, len(totals) :].long().tolist()
        *sizes_TW, codes_W = [list(told) for told in zip(*told_W, strict=True)]
        if max(codes_W):
            raise Interrupted(max(codes_W))
        return everyone_WN[:, : len(totals)].sum(0), sizes_TW

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
