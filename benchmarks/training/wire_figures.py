"""What half-precision rows on the wire do to the figures of a training: `wire` bfloat16 beside float32.

    python -m benchmarks.training.wire_figures

Two plain gloo processes train the default model on a generated log with sharded tables, by both wires and several
seeds; a seed's spread is what the difference is to be held against. Figures of the test part.
"""

import dataclasses
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
from data.generate import generate_log
from data.log import open_log
from data.world import GeneratedLog
from distributed.config import TrainConfig
from distributed.context import Context
from distributed.training.job import TrainJob
from distributed.training.launch import prepare
from distributed.training.loop import train
from funnel.ranking.problem import EntireSpaceSettings

FIGURES = ("ctr.auc", "ctr.log_loss", "ctcvr.auc", "ctcvr.log_loss")
WIRES = ("float32", "bfloat16")


@dataclass
class Arguments:
    rows: int = 150_000
    """Of the log; four fifths are trained on."""
    seeds: int = 4
    epochs: int = 2


def main(arguments: Arguments) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        generate_log(GeneratedLog(world="aligned", rows=arguments.rows), log)
        jobs = []
        for seed in range(arguments.seeds):
            config = TrainConfig(seed=seed, epochs=arguments.epochs, tables="sharded", patience=0)
            for wire in WIRES:
                run = Path(folder) / f"{seed}-{wire}"
                run.mkdir()
                own = dataclasses.replace(config, wire=wire)
                jobs.append(prepare(run, open_log(log), own, EntireSpaceSettings(), started=time.time()))
        queue = mp.get_context("spawn").SimpleQueue()
        mp.spawn(worker, args=(folder, jobs, queue), nprocs=2)
        found: list[dict[str, float]] = queue.get()
    by_wire = {wire: found[index :: len(WIRES)] for index, wire in enumerate(WIRES)}
    rows = []
    for name in FIGURES:
        exact, half = ([figures[name] for figures in by_wire[wire]] for wire in WIRES)
        change = [b - a for a, b in zip(exact, half, strict=True)]
        rows.append([
            name, f"{statistics.mean(exact):.5f}", f"{statistics.stdev(exact):.5f}", f"{statistics.mean(change):+.5f}",
            f"{min(change):+.5f} to {max(change):+.5f}",
        ])  # fmt: skip
    header = ["figure", "float32", "deviation between seeds", "bfloat16 less float32", "range"]
    how = f"{arguments.rows:,} rows, {arguments.epochs} epochs, 2 workers, sharded; {arguments.seeds} seeds.\n\n"
    write_result("wire-figures", {"arguments": vars(arguments), "runs": by_wire}, how + markdown(header, rows))


def worker(rank: int, folder: str, jobs: list[TrainJob], queue: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    figures = [train(job, Context(rank, 2)) for job in jobs]
    if rank == 0:
        queue.put([{name: found[name] for name in FIGURES} for found in figures])
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
