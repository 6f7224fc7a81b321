"""What exchanging tables' rows costs two workers, and what doing it ahead gives back.

    python -m benchmarks.training.tables_ahead
    python -m benchmarks.training.tables_ahead --rows-a-worker 4096     # weak scaling: the global batch grows

Two plain gloo processes of one thread step `distributed.training.learner.Learner` on synthetic ids that were drawn
before (table_size.py has the model and the log), all but the last way as on two machines. In each repeat come: one
worker alone on the global batch, two at once that share nothing (the ceiling), and two that train together in each
way; figures are ratios of rows/s to the worker alone in the same repeat, their median over repeats beside it. CPU is
what the process used, all its threads together.
"""

import dataclasses
import itertools
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.training import table_size
from distributed.context import CPU, Context
from distributed.tables.collectives import sent, spent
from distributed.tables.node import NODE
from distributed.training.learner import Learner

ALONE, BOTH = "one worker", "two that share nothing"
SHARED = "sharded, plans ahead, in shared memory"
WAYS: dict[str, dict[str, Any]] = {
    "replicated, nothing ahead": {"tables": "replicated", "plan_ahead": False},
    "replicated, plans ahead": {"tables": "replicated"},
    "sharded, nothing ahead": {"tables": "sharded", "plan_ahead": False},
    "sharded, plans ahead": {"tables": "sharded", "prefetch": "off"},
    "sharded, rows ahead": {"tables": "sharded", "prefetch": "on"},
    "sharded, plans ahead, bfloat16": {"tables": "sharded", "prefetch": "off", "wire": "bfloat16"},
    SHARED: {"tables": "sharded", "prefetch": "off"},
}


@dataclass
class Arguments:
    rows: int = 2_000_000
    """Rows of the table, 16 wide, over 23 fields."""
    batch: int = 4096
    """Rows of the global batch."""
    rows_a_worker: int = 0
    """If given: rows of each worker's batch, however many workers there are."""
    steps: int = 20
    """Steps that are measured, after five that are not."""
    repeats: int = 3


def main(arguments: Arguments) -> None:
    with tempfile.TemporaryDirectory() as folder:
        queue = mp.get_context("spawn").SimpleQueue()
        mp.spawn(worker, args=(folder, arguments, queue), nprocs=2)
        runs: list[dict[str, dict[str, float]]] = queue.get()
    rows = []
    for name in runs[0]:
        own = [run[name] for run in runs]
        ratios = [run[name]["rows_per_s"] / run[ALONE]["rows_per_s"] for run in runs]
        middle = {key: statistics.median(found[key] for found in own) for key in own[0]}
        rows.append([
            name, f"{middle['ms']:.1f}", f"{middle['rows_per_s']:,.0f}", f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}", f"{middle['waiting_ms']:.1f}", f"{middle['cpu_ms']:.1f}",
            f"{middle['sent'] / 1e6:.2f}",
        ])  # fmt: skip
    header = [
        "training",
        "ms a step",
        "rows/s",
        "to one worker",
        "range",
        "ms in messages",
        "CPU ms a worker",
        "MB sent",
    ]
    size = f"{arguments.rows_a_worker} rows a worker" if arguments.rows_a_worker else f"global batch {arguments.batch}"
    how = f"{arguments.rows:,} table rows, {size}, one thread a worker; {arguments.repeats} repeats.\n\n"
    name = "tables-ahead-weak" if arguments.rows_a_worker else "tables-ahead"
    write_result(name, {"arguments": vars(arguments), "runs": runs}, how + markdown(header, rows))


def worker(rank: int, folder: str, arguments: Arguments, queue: Any) -> None:
    torch.set_num_threads(1)
    runs = []
    for repeat in range(arguments.repeats):
        meet = itertools.count()

        def wait(repeat: int = repeat, meet: Any = meet) -> None:
            """Both are here."""
            number = next(meet)
            (Path(folder) / f"{repeat}-{number}-{rank}").touch()
            while not (Path(folder) / f"{repeat}-{number}-{1 - rank}").exists():
                time.sleep(0.02)

        found = {}
        wait()
        if rank == 0:
            found[ALONE] = measure({}, 0, 1, arguments)
        wait()
        found[BOTH] = measure({}, 0, 1, arguments)
        found[BOTH]["rows_per_s"] *= 2
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{repeat}", rank=rank, world_size=2)
        for name, way in WAYS.items():
            os.environ[NODE] = "" if name == SHARED else str(rank)
            found[name] = measure(way, rank, 2, arguments)
        dist.barrier()
        dist.destroy_process_group()
        runs.append(found)
    if rank == 0:
        queue.put(runs)


def measure(way: dict[str, Any], rank: int, workers: int, arguments: Arguments) -> dict[str, float]:
    """Of the steps after the first five, means a step."""
    batch = arguments.rows_a_worker * workers or arguments.batch
    case = table_size.Arguments(rows=arguments.rows, batch=batch, steps=arguments.steps)
    job = table_size.make_job("", case)
    config = dataclasses.replace(job.config, **{"tables": "replicated", **way})
    learner = Learner(job.open_problem(CPU), config, Context(rank, workers), steps=arguments.steps + 5)
    drawn = list(table_size.batches(rank, workers, case))
    began = cpu = waited = 0.0
    for step, shares in enumerate(learner.upcoming(iter(drawn))):
        if step == 5:
            sent.clear()
            began, cpu, waited = time.perf_counter(), time.process_time(), spent["seconds"]
        learner.step(shares, step)
    seconds = (time.perf_counter() - began) / arguments.steps
    return {
        "ms": seconds * 1e3,
        "rows_per_s": batch / seconds,
        "waiting_ms": (spent["seconds"] - waited) / arguments.steps * 1e3,
        "cpu_ms": (time.process_time() - cpu) / arguments.steps * 1e3,
        "sent": sum(sent.values()) / arguments.steps,
    }


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
