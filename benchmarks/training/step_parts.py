"""A step of two workers on one machine taken apart, by where table rows lie: what its milliseconds go into.

    python -m benchmarks.training.step_parts

Two plain gloo processes of one thread step `distributed.training.learner.Learner` on synthetic ids that were drawn
before (table_size.py has the model), without Ray and without reading; every placement has its learner in them, and all
take turns, BLOCK steps each. Beside them one worker alone, on the global batch and on half of it. Parts are timed on
the clock where the step calls them, waiting for the other worker included; figures are medians of a worker's steps,
then means of the two workers.
"""

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.training import table_size
from distributed.context import CPU, Context
from distributed.tables.node import NODE
from distributed.training import learner as learner_module
from distributed.training.learner import Learner
from funnel.batch import Batch

BLOCK, UNCOUNTED = 8, 2
WAYS: dict[str, dict[str, Any]] = {
    "replicated": {"tables": "replicated"},
    "node": {"tables": "node"},
    "sharded, as on two machines": {"tables": "sharded", "prefetch": "off"},
    "sharded, on one machine": {"tables": "sharded", "prefetch": "off"},
}
APART = "sharded, as on two machines"
PARTS = ("reading rows", "totals", "gathering, adding gradients", "dense gradients", "dense weights", "writing rows")
REST = "forward, backward"
Spent = dict[str, float]


@dataclass
class Arguments:
    rows: int = 2_000_000
    """Rows of the table, 16 wide, over 23 fields."""
    batch: int = 4096
    """Rows of the global batch."""
    blocks: int = 5


def main(arguments: Arguments) -> None:
    torch.set_num_threads(1)
    found = {f"one worker, {size:,} rows": alone(arguments, size) for size in (arguments.batch, arguments.batch // 2)}
    with tempfile.TemporaryDirectory() as folder:
        queue = mp.get_context("spawn").SimpleQueue()
        mp.spawn(worker, args=(folder, arguments, queue), nprocs=2)
        both = [queue.get() for _ in range(2)]
    found |= {name: {part: statistics.mean(own[name][part] for own in both) for part in both[0][name]} for name in WAYS}
    header = ["", "step", REST, *PARTS]
    lines = [[name, *(f"{1e3 * parts[part]:.1f}" for part in header[1:])] for name, parts in found.items()]
    about = (
        f"{arguments.rows:,} table rows, 23 fields, width 16, MMoE of 4 experts 128-64; two workers of one thread, "
        f"{arguments.batch // 2:,} rows each; medians of {arguments.blocks * (BLOCK - UNCOUNTED)} steps, ms.\n\n"
    )
    write_result("step-parts", {"arguments": vars(arguments), "seconds": found}, about + markdown(header, lines))


def worker(rank: int, folder: str, arguments: Arguments, queue: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    steppers = {}
    for name, way in WAYS.items():
        os.environ[NODE] = str(rank) if name == APART else ""
        steppers[name] = Stepper(arguments, way, rank, 2, arguments.batch)
    for _ in range(arguments.blocks):
        for stepper in steppers.values():
            dist.barrier()
            stepper.block()
    queue.put({name: stepper.middle() for name, stepper in steppers.items()})
    dist.barrier()
    dist.destroy_process_group()


def alone(arguments: Arguments, batch: int) -> Spent:
    stepper = Stepper(arguments, {}, 0, 1, batch)
    for _ in range(arguments.blocks):
        stepper.block()
    return stepper.middle()


class Stepper:
    """One learner, and what of its steps has been measured. Every block begins the same batches anew."""

    def __init__(self, arguments: Arguments, way: dict[str, Any], rank: int, workers: int, batch: int) -> None:
        case = table_size.Arguments(rows=arguments.rows, batch=batch, steps=BLOCK - 5)
        job = table_size.make_job("", case)
        config = dataclasses.replace(job.config, **{"tables": "replicated", **way})
        self.learner = Learner(job.open_problem(CPU), config, Context(rank, workers), steps=10_000)
        self.drawn: list[Batch] = list(table_size.batches(rank, workers, case))
        self.found: list[Spent] = []

    def block(self) -> None:
        steps = self.learner.upcoming(iter(self.drawn))
        for number, batch in enumerate(steps):
            with timed(self.learner) as spent:
                began = time.perf_counter()
                self.learner.step(batch, number)
                spent["step"] = time.perf_counter() - began
            spent[REST] = spent["step"] - sum(spent[part] for part in PARTS)
            if number >= UNCOUNTED:
                self.found.append(spent)

    def middle(self) -> Spent:
        return {part: statistics.median(spent[part] for spent in self.found) for part in self.found[0]}


@contextmanager
def timed(learner: Learner) -> Iterator[Spent]:
    """Within it what a step calls adds its seconds to its part."""
    spent = dict.fromkeys(PARTS, 0.0)

    def clocked(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return work(*arguments, **named)
            finally:
                spent[part] += time.perf_counter() - began

        return call

    calls: list[tuple[Any, str, str]] = [
        (learner, "share_totals", "totals"),
        (learner_module, "sum_gradients", "dense gradients"),
        (learner.optimizer, "step", "dense weights"),
        *((table, "fetch", "reading rows") for table in learner.tables.values()),
        *((placement, "collect", "gathering, adding gradients") for placement in learner.placements),
        *((optimizer, "step", "writing rows") for optimizer in learner.row_optimizers),
    ]
    if learner.node:
        calls += [(learner.node, "lay", "gathering, adding gradients"), (learner.node, "finish", "writing rows")]
    patches = [mock.patch.object(owner, name, clocked(part, getattr(owner, name))) for owner, name, part in calls]
    for patch in patches:
        patch.start()
    try:
        yield spent
    finally:
        for patch in patches:
            patch.stop()


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
