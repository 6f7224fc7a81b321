"""How large a table trains: memory, rows/s and bytes of a table sharded over 1, 2 and 3 workers, against the formulas.

    python -m benchmarks.training.table_size                                # 5 million rows, 1, 2, 3 workers: minutes
    python -m benchmarks.training.table_size --tables replicated            # the same with every row on every worker
    python -m benchmarks.training.table_size --rows 100000000 --workers 2   # 6.8 GB over two workers

Plain gloo processes of one thread step `distributed.training.learner.Learner` on synthetic ids: `fields` id fields of
equal size, each id a power of a uniform number, so that few are frequent and most are rare. Nothing is read from files.
Memory is a process's own peak (VmHWM) over what it had before the model was built; bytes are counted where rows are
handed over. With --checkpoint all workers also write the table and read it back.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.training.table_bytes import bytes_of_rows, bytes_per_step, bytes_to_all
from data.schema import CategoricalField, Schema
from distributed.checkpoint.read import Progress
from distributed.checkpoint.store import CheckpointStore
from distributed.config import OptimizerConfig, TrainConfig
from distributed.context import CPU, Context
from distributed.tables.collectives import sent
from distributed.tables.node import NODE
from distributed.training.job import TrainJob
from distributed.training.learner import Learner
from funnel.batch import Batch
from funnel.ranking.problem import EntireSpaceSettings
from funnel.registry import DEFAULT_PROBLEM
from models.entire_space import ModelConfig
from models.objectives.base import ObjectiveConfig

LABELS = {"click": "click", "conversion": "conversion"}
CLICK_RATE, CONVERSION_RATE = 0.2, 0.3
STEEPNESS = 4.0
"""An id is rows * u^STEEPNESS: half of all draws fall into the first sixteenth of a field's rows."""


@dataclass
class Arguments:
    rows: int = 5_000_000
    """Rows of the table, over all fields."""
    width: int = 16
    tables: Literal["sharded", "replicated"] = "sharded"
    workers: tuple[int, ...] = (1, 2, 3)
    """Numbers of workers, one measurement each."""
    fields: int = 23
    batch: int = 4096
    """Rows of a global batch."""
    steps: int = 40
    """Steps after the first five, which are not measured."""
    optimizer: str = "adagrad"
    checkpoint: Literal["none", "background", "waiting"] = "none"
    """Also write a checkpoint and read it back: from a copy in the background, or without one while training waits."""


@dataclass
class Report:
    """What one worker found out."""

    memory: int
    """Peak bytes of training over what the process had before."""
    build_s: float
    step_s: list[float]
    sent: list[int]
    formula: list[int]
    distinct: float
    loss: float
    checkpoint: dict[str, float]


def main(arguments: Arguments) -> None:
    """Measure each number of workers, write the table."""
    rows: list[dict[str, Any]] = []
    figures, lines = {}, []
    for workers in arguments.workers:
        with tempfile.TemporaryDirectory() as folder:
            queue = mp.get_context("spawn").SimpleQueue()
            mp.spawn(worker, args=(workers, folder, arguments, queue), nprocs=workers)
            reports = [queue.get() for _ in range(workers)]
        rows.append(cells(arguments, workers, reports))
        figures[str(workers)] = [vars(report) for report in reports]
        print(rows[-1], flush=True)
        if arguments.checkpoint != "none":
            lines.append(checkpoint_line(workers, reports, arguments.checkpoint))
    size = f"{arguments.rows:,} rows x {arguments.width}, {arguments.tables}, {arguments.optimizer}"
    how = f"{arguments.fields} fields, global batch {arguments.batch}, MMoE of 4 experts 128-64, one thread a worker"
    how += f", {arguments.steps} steps."
    table = markdown(list(rows[0]), [list(row.values()) for row in rows])
    name = f"table-size-{arguments.rows // 1_000_000}m"
    if arguments.tables == "replicated":
        name += "-replicated"
    write_result(
        name, {"arguments": vars(arguments), "workers": figures}, "\n".join([f"{size}; {how}\n", table, *lines])
    )


def cells(arguments: Arguments, workers: int, reports: list[Report]) -> dict[str, Any]:
    """One line of the table."""
    held = -(-arguments.rows // workers) if arguments.tables == "sharded" else arguments.rows
    table = bytes_of_rows(held, arguments.width, arguments.optimizer)
    memory = max(report.memory for report in reports)
    seconds = statistics.median(reports[0].step_s)
    counted = statistics.mean(statistics.mean(report.sent) for report in reports)
    exact = statistics.mean(statistics.mean(report.formula) for report in reports)
    distinct = statistics.mean(report.distinct for report in reports)
    at_home = distinct / workers
    even = bytes_per_step(round(distinct), round(at_home), round(distinct - at_home), arguments.width, workers)
    if arguments.tables == "replicated":
        even = bytes_to_all(round(distinct), arguments.width, workers)
    return {
        "workers": workers,
        "table and optimizer of a worker, by formula": gigabytes(table),
        "peak memory of a worker": gigabytes(memory),
        "beside the table": f"{(memory - table) / 1e6:,.0f} MB",
        "made in s": f"{max(report.build_s for report in reports):.1f}",
        "rows/s": f"{arguments.batch / seconds:,.0f}",
        "ms a step (median)": f"{seconds * 1e3:.1f}",
        "distinct rows of a worker's batch": f"{distinct:,.0f}",
        "bytes sent a step and worker": f"{counted:,.0f}",
        "by formula, from the ids": f"{exact:,.0f}",
        "by formula, ids dealt evenly": f"{even:,.0f}",
    }


def checkpoint_line(workers: int, reports: list[Report], how: str) -> str:
    def most(name: str) -> float:
        return max(report.checkpoint[name] for report in reports)

    return (
        f"Checkpoint of {workers} workers ({how}), {gigabytes(most('bytes'))} on disk: training stands still for "
        f"{most('stall_s'):.1f} s, the files are there after {most('write_s'):.1f} s and are read back in "
        f"{most('read_s'):.1f} s to the same bits. Peak memory of a worker by then: {gigabytes(most('memory'))}.\n"
    )


def worker(rank: int, workers: int, folder: str, arguments: Arguments, queue: Any) -> None:
    os.environ[NODE] = str(rank)  # each as on a machine of its own
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=workers)
    before = peak()
    job = make_job(folder, arguments)
    clock = time.perf_counter()
    learner = Learner(job.open_problem(CPU), job.config, Context(rank, workers), steps=arguments.steps + 5)
    report = Report(0, time.perf_counter() - clock, [], [], [], 0.0, 0.0, {})
    for step, batch in enumerate(batches(rank, workers, arguments)):
        dist.barrier()
        sent.clear()
        clock = time.perf_counter()
        terms = learner.step(batch, step)
        seconds = time.perf_counter() - clock
        if step >= 5:
            report.step_s.append(seconds)
            report.sent.append(sum(sent.values()))
            report.formula.append(formula(arguments, batch, rank, workers))
            report.distinct += len(torch.unique(batch.ids_BK)) / arguments.steps
    report.loss = float(terms["loss"])
    assert report.loss == report.loss
    report.memory = peak() - before
    if arguments.checkpoint != "none":
        store = CheckpointStore(Path(folder) / "checkpoints", rank, workers, arguments.checkpoint == "background")
        report.checkpoint = measure_checkpoint(learner, job, store)
        report.checkpoint["memory"] = peak() - before
    queue.put(report)
    dist.barrier()
    dist.destroy_process_group()


def formula(arguments: Arguments, batch: Batch, rank: int, workers: int) -> int:
    """What the formulas say of this step's ids: how many rows each worker has of each owner is gathered from all."""
    if workers == 1:
        return 0
    everyone: list[Any] = [None] * workers
    dist.all_gather_object(everyone, torch.bincount(torch.unique(batch.ids_BK) % workers, minlength=workers).tolist())
    if arguments.tables == "replicated":
        return bytes_to_all(max(map(sum, everyone)), arguments.width, workers)
    asked = sum(counts[rank] for other, counts in enumerate(everyone) if other != rank)
    return bytes_per_step(sum(everyone[rank]), everyone[rank][rank], asked, arguments.width, workers)


def batches(rank: int, workers: int, arguments: Arguments) -> Iterator[Batch]:
    """This worker's share of global batches, drawn anew each step."""
    size = arguments.rows // arguments.fields
    offset_K = torch.arange(arguments.fields) * size
    generator = torch.Generator().manual_seed(1)
    for _ in range(arguments.steps + 5):
        place_BK = torch.rand(arguments.batch, arguments.fields, generator=generator, dtype=torch.float64)
        ids_BK = (place_BK**STEEPNESS * size).long() + offset_K
        click_B = (torch.rand(arguments.batch, generator=generator) < CLICK_RATE).float()
        conversion_B = click_B * (torch.rand(arguments.batch, generator=generator) < CONVERSION_RATE).float()
        own = slice(arguments.batch * rank // workers, arguments.batch * (rank + 1) // workers)
        labels = {"click": click_B[own], "conversion": conversion_B[own]}
        yield Batch(ids_BK[own].contiguous(), torch.empty(len(click_B[own]), 0), labels)


def make_job(folder: str, arguments: Arguments) -> TrainJob:
    """A job of ids alone; a range field has two rows beside its values."""
    size = arguments.rows // arguments.fields
    fields = tuple(CategoricalField(f"id{k}", "range", size=size - 2) for k in range(arguments.fields))
    schema = Schema(name="synthetic", categorical=fields, numeric=(), labels=LABELS)
    config = TrainConfig(
        batch_size=arguments.batch,
        tables=arguments.tables,
        optimizer=OptimizerConfig(embedding=arguments.optimizer, schedule="constant"),
    )
    settings = EntireSpaceSettings(ModelConfig(embedding_width=arguments.width), ObjectiveConfig(name="esmm"))
    rates = {"click_rate": CLICK_RATE, "conversion_rate": CONVERSION_RATE}
    facts = {"tasks": ["ctr", "cvr"], **rates, "numeric_mean": [], "numeric_std": []}
    return TrainJob(folder, folder, DEFAULT_PROBLEM, config, settings, schema, {}, {}, facts, time.time())


def measure_checkpoint(learner: Learner, job: TrainJob, store: CheckpointStore) -> dict[str, float]:
    """Write, read back; check that the rows are those that were written."""
    (table,) = learner.tables.values()
    weight = table.weight
    sample = weight[::9973].clone()
    store.begin()
    clock = time.perf_counter()
    path = store.save(learner.state(), Progress(step=1, best_step=1), job.identity())
    stall = time.perf_counter() - clock
    store.wait()
    dist.barrier()
    write = time.perf_counter() - clock
    size = sum(file.stat().st_size for file in path.iterdir())
    weight.zero_()
    clock = time.perf_counter()
    learner.restore(path)
    dist.barrier()
    read = time.perf_counter() - clock
    assert torch.equal(weight[::9973], sample)
    dist.barrier()
    if store.rank == 0:
        shutil.rmtree(store.directory)
    return {"stall_s": stall, "write_s": write, "read_s": read, "bytes": size}


def peak() -> int:
    """Largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
