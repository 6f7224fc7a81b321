"""One worker's network and optimizers, and the step that ties them to the other workers'.

Every worker holds the whole network and sums its gradients with the others', so that the weights stay the same bits on
all of them. loop.py is the loop around it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import UserError
from distributed.checkpoint.read import Progress, State, load_optimizer_tensors, load_state, optimizer_tensors
from distributed.checkpoint.rows import RowTensor
from distributed.config import TrainConfig
from distributed.context import Context
from distributed.tables.ahead import Ahead, cores_to_spare
from distributed.tables.collectives import agree, connect, gather_numbers, sum_gradients, world_size
from distributed.tables.node_shards import NodeShard, NodeShards
from distributed.tables.node_table import NodeTable
from distributed.tables.placement import built_share, embedding_tables, place, settle, share_of
from distributed.tables.protocol import Sums
from distributed.training.optimizers import build_row_optimizer, dense_optimizer, rate_factor
from distributed.training.stopping import Interrupted
from funnel.problem import Problem


class Learner:
    """Network and optimizers of one worker for a training of `steps` steps, and the step that ties them."""

    def __init__(self, problem: Problem, config: TrainConfig, context: Context, steps: int) -> None:
        self.problem, self.config, self.context, self.steps = problem, config, context, steps
        tables, near = settle(config.tables, context.device)
        self.share = share_of(tables, context.rank)
        self.epoch_steps = max(steps // config.epochs, 1)
        self.network = problem.network(built_share(tables, context.rank), config.seed).to(context.device)
        self.draws = any(isinstance(module, nn.Dropout) and module.p for module in self.network.modules())
        """Whether a step draws random numbers."""
        settings = config.optimizer
        self.parameters = list(self.network.parameters())
        self.optimizer = dense_optimizer(self.parameters, settings.dense, settings.learning_rate, settings.weight_decay)
        self.tables = embedding_tables(self.network)
        connect()
        self.placements = place(self.network, tables, config.wire, near)
        first = self.placements[0] if self.placements else None
        self.node = first.node if isinstance(first, NodeTable | NodeShard) else None
        zeros = self.node.zeros if self.node else torch.zeros
        self.row_optimizers = [
            build_row_optimizer(settings.embedding, table.weight, settings.embedding_learning_rate, zeros)
            for table in self.tables.values()
        ]
        self.ahead: Ahead | None = None
        if world_size() > 1 and tables != "node" and config.plan_ahead and hasattr(self.network, "asked"):
            prefetch = tables == "sharded" and config.prefetch != "off" and context.device.type == "cpu"
            prefetch = prefetch and (config.prefetch == "on" or cores_to_spare())
            sent = [placement for placement in self.placements if not isinstance(placement, NodeTable)]
            self.ahead = Ahead(self.network, sent, prefetch, self.move_more_rows)
            if isinstance(self.node, NodeShards):
                self.node.join(self.ahead.group)

    def upcoming(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches of an unbroken run of steps, on the device; what can be done ahead for each has been done."""
        if self.ahead is not None:
            return self.ahead.batches(batches, self.context.device)
        return (batch.to(self.context.device) for batch in batches)

    def step(self, batch: object, step: int) -> dict[str, Tensor]:
        """One update on the global batch, of which `batch` is this worker's share; returns its share of each loss term.

        Raises Interrupted, on all workers and before anything has changed, if one of them is to stop.
        """
        problem, device = self.problem, self.context.device
        # A resumed run draws the same dropout as an unbroken one: the seed is the step's address, not a generator's
        # state.
        if self.draws:
            torch.manual_seed(address(self.config.seed, step, self.context.rank))
        batch = problem.complete(batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            outputs = self.network(batch)
        outputs = {name: output.float() for name, output in outputs.items()}
        # The loss divides by sums over the global batch. With them known before backward, the workers' gradients simply
        # add up to those of one process, however unevenly positives are dealt.
        totals, empty = self.share_totals(problem.totals(outputs, batch).detach())
        terms = problem.loss(outputs, batch, totals, step, step // self.epoch_steps)
        if empty:  # no row of the global batch weighs anything: momentum and decay alone would move the weights
            return {name: term.detach() for name, term in terms.items()}
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        if self.node:
            self.node.lay()
        sum_gradients(self.parameters, self.node.add if self.node else None)
        if self.ahead is not None:
            self.ahead.finish()
        self.set_rates(step)
        self.optimizer.step()
        self.step_tables()
        return {name: term.detach() for name, term in terms.items()}

    def step_tables(self) -> None:
        """Exchange the gradients of touched rows and update those rows: the cost is the batch's, not the table's."""
        for table, placement, row_optimizer in zip(
            self.tables.values(), self.placements, self.row_optimizers, strict=True
        ):
            assert table.touched is not None
            row_optimizer.step(table.weight, *placement.collect(table.touched))
        if self.node:
            self.node.finish()

    def move_more_rows(self, number: int, sums: Sums) -> None:
        """Update the rows of a table whose gradients the last step has kept back."""
        self.row_optimizers[number].reopen()
        self.row_optimizers[number].step(list(self.tables.values())[number].weight, *sums)

    def share_totals(self, totals: Tensor) -> tuple[Tensor, bool]:
        """The totals of the global batch, and whether all of them are 0: in one message.

        With it goes whether a worker is to stop, and why: the largest code counts.
        """
        own = torch.cat([totals, totals.new_tensor([self.context.stop.code()])])
        everyone_WN = self.node.gather(own) if self.node else gather_numbers(own)
        *columns, codes_W = [list(column) for column in zip(*everyone_WN.tolist(), strict=True)]
        if max(codes_W):
            raise Interrupted(int(max(codes_W)))
        return everyone_WN[:, :-1].sum(0), bool(columns) and not any(map(any, columns))

    def set_rates(self, step: int) -> None:
        settings = self.config.optimizer
        factor = rate_factor(settings.schedule, step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor
        for row_optimizer in self.row_optimizers:
            row_optimizer.rate = settings.embedding_learning_rate * factor

    def state(self, with_optimizer: bool = True) -> State:
        """This worker's tensors, not copies: writing into them changes what the next step begins from. All workers call
        it."""
        if self.node:
            self.node.settle()
        if self.ahead is not None:
            self.ahead.settle()
            if self.node:
                self.node.finish()
        dense = {name: tensor for name, tensor in self.network.state_dict().items() if name not in self.tables}
        state = State(dense)
        state.rows.update(
            {name: RowTensor(table.weight, table.rows, self.share) for name, table in self.tables.items()}
        )
        if with_optimizer:
            moments = optimizer_tensors(self.optimizer)
            state.optimizer.update({f"dense.{name}": tensor for name, tensor in moments.items()})
            for index, (table, row_optimizer) in enumerate(zip(self.tables.values(), self.row_optimizers, strict=True)):
                for name, tensor in row_optimizer.state().items():
                    if tensor.dim():  # else a counter, the same on all workers
                        state.rows[f"rows.{index}.{name}"] = RowTensor(tensor, table.rows, self.share)
                    else:
                        state.optimizer[f"rows.{index}.{name}"] = tensor
        return state

    def restore(self, path: Path, with_optimizer: bool = True) -> Progress:
        """Go on from a checkpoint of any number of workers and either placement. All workers call it.

        Raises UserError on all of them if one finds that it is another model's or damaged.
        """
        error: str | None = None
        progress, optimizer = Progress(), dict[str, Tensor]()
        try:
            context = self.context
            state = self.state(with_optimizer)
            if self.node:  # each worker of this machine fills its share
                state.rows.update({name: self.node.part(row) for name, row in state.rows.items()})
            progress, optimizer = load_state(path, state, context.rank, context.world_size)
        except UserError as mistake:
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
