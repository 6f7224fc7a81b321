"""Whether the plan of the next batch is made while a worker of many waits for the wire, on one core.

    python -m benchmarks.training.beside_the_wire

Worker 0 of W steps as in one_of_many.py, the others' messages made up, in a process that is held to one core; every
message also sleeps for as long as its bytes would be on the wire. Steps are timed on the clock, with the wire and
without it, the plan made in the step or by the thread beside it (distributed/tables/ahead.py), which has the same
priority or gives way. What the wire adds to a step is what is not hidden. Medians; all ways take turns.
"""

import dataclasses
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from unittest import mock

import torch
import tyro
from torch import Tensor

from benchmarks.bench import markdown, write_result
from benchmarks.training import table_size
from benchmarks.training.made_up import Others
from distributed.context import CPU, Context
from distributed.tables import ahead
from distributed.training.learner import Learner

WAYS = {"in the step": None, "beside it, same priority": 0, "beside it, giving way": ahead.NICER}


@dataclass
class Arguments:
    rows: int = 20_000_000
    workers: int = 64
    batch: int = 4096
    """Rows of a worker's share of the global batch."""
    gigabit: float = 10.0
    latency_us: float = 50.0
    steps: int = 12
    """Steps that are measured in a turn, after three that are not."""
    repeats: int = 2


class Wired(Others):
    """The other workers, at the end of a wire."""

    def __init__(self, arguments: Arguments, with_wire: bool) -> None:
        super().__init__(arguments.rows, arguments.workers, arguments.batch)
        self.byte_s = 8e-9 / arguments.gigabit if with_wire else 0.0
        self.latency_s = arguments.latency_us * 1e-6 if with_wire else 0.0

    def all_to_all_single(
        self, found: Tensor, values: Tensor, back: Sequence[int] = (), out: Sequence[int] = (), group: Any = None
    ) -> None:
        super().all_to_all_single(found, values, back, out, group)
        if self.latency_s:
            time.sleep(self.latency_s + max(values.nbytes, found.nbytes) * (1 - 1 / self.workers) * self.byte_s)


def main(arguments: Arguments) -> None:
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found: dict[str, dict[bool, list[float]]] = {way: {False: [], True: []} for way in WAYS}
    for _ in range(arguments.repeats):
        for way in WAYS:
            for wire in (False, True):
                found[way][wire] += step_seconds(arguments, way, wire)
    lines = []
    for way, own in found.items():
        without, with_wire = (1e3 * statistics.median(own[wire]) for wire in (False, True))
        lines.append([way, f"{without:.1f}", f"{with_wire:.1f}", f"{with_wire - without:.1f}"])
    about = (
        f"{arguments.rows:,} table rows, one worker of {arguments.workers}, {arguments.batch:,} rows each, "
        f"{arguments.gigabit:g} Gbit/s, {arguments.latency_us:g} us a message; one core.\n\n"
    )
    seconds = {way: {"wire": own[True], "no wire": own[False]} for way, own in found.items()}
    header = ["the next batch's plan", "ms a step without the wire", "with it", "more"]
    write_result("beside-the-wire", {"arguments": vars(arguments), "seconds": seconds}, about + markdown(header, lines))


def step_seconds(arguments: Arguments, way: str, wire: bool) -> list[float]:
    """On the clock, from one step's end to the next one's."""
    case = table_size.Arguments(rows=arguments.rows, batch=arguments.batch, steps=arguments.steps - 2)
    job = table_size.make_job("", case)
    config = dataclasses.replace(
        job.config,
        tables="sharded",
        prefetch="off",
        plan_ahead=WAYS[way] is not None,
        batch_size=arguments.batch * arguments.workers,
    )
    others, ends = Wired(arguments, wire), []
    others.draw()
    with others.emulated(), mock.patch.object(ahead, "NICER", WAYS[way] or 0):
        learner = Learner(job.open_problem(CPU), config, Context(0, arguments.workers), steps=1000)
        batches = iter(list(table_size.batches(0, 1, case)))
        for step, batch in enumerate(learner.upcoming(batches)):
            learner.step(batch, step)
            ends.append(time.perf_counter())
    return [after - before for before, after in pairwise(ends[2:])]


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
