"""What a second worker brings on this machine, by where table rows lie: rows/s beside the plain loop, and memory.

    python -m benchmarks.training.two_workers                           # 23 fields, 2 million table rows
    python -m benchmarks.training.two_workers --case default            # the generated log and jobs.train's network

Every repeat has all of it, one after the other, so that a busy machine disturbs all alike: the plain loop (a process of
jobs.train without Ray), two plain loops at once (each on all rows: what the machine gives to two processes that share
nothing, so the ceiling), one worker on Ray Train, and two of them with each placement: strong scaling, the same global
batch for both, and weak scaling, that many rows for each (sharded once more as on two machines, by messages). All have
one thread. Trainings of two workers share one group of them, so that its start is paid once; their order turns with the
repeats. rows/s is the median over windows of WINDOW steps, reading included, as RUN/metrics.jsonl has it (the first
window, in which processes warm up, left out); beside it where a step's time goes. Ratios are to the plain loop of the
same repeat.

Memory: proportional set size (pages that workers share count once) of plain gloo processes, all together, after some
steps, over what the same processes have with a table of 100 thousand rows.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.settings import Settings, training
from benchmarks.training import table_size
from benchmarks.training.peers import write_log
from benchmarks.training.table_bytes import bytes_of_rows
from benchmarks.training.throughput import result, start
from data.generate import generate_log
from data.log import open_log
from data.world import GeneratedLog
from distributed.context import CPU, Context
from distributed.reporting.step_clock import PARTS
from distributed.tables.node import NODE
from distributed.training.learner import Learner
from distributed.training.loop import train
from distributed.training.stopping import Stop

BATCH = 4096
FEW_ROWS = 100_000
PLACEMENTS = ("replicated", "node", "sharded")
APART = "sharded, as on two machines"
WINDOW = 3
Rates = dict[str, float]
"""Of one training: rows_per_s, and ms of a step in "input", "compute" and "communication"."""
PLAIN, PAIR, ONE = "plain loop", "two plain loops at once, together", "Ray Train, 1 worker"
TWO = {
    f"Ray Train, 2 workers, {tables}, {scaling}": (tables, batch)
    for scaling, batch in (("strong", BATCH), ("weak", 2 * BATCH))
    for tables in (*PLACEMENTS, APART)
}


@dataclass
class Arguments:
    case: Literal["wide", "default"] = "wide"
    """wide: the log and network of benchmarks/training/peers.py; default: the generated log."""
    rows: int = 300_000
    """Rows of the log."""
    repeats: int = 3
    memory_rows: int = 5_000_000
    """Rows of the table whose memory is measured; 0: none."""
    group: int = 0
    """Used by this script when it calls itself: a group of so many workers, for the trainings that stdin lists."""


def main(arguments: Arguments) -> None:
    if arguments.group:
        print(json.dumps(in_one_group(arguments.group, json.load(sys.stdin))))
        return
    runs: dict[str, list[Rates]] = {}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        if arguments.case == "wide":
            write_log(log, arguments.rows, 87_000)
        else:
            generate_log(GeneratedLog(world="aligned", rows=arguments.rows), log)
        for repeat in range(arguments.repeats):
            place = Path(folder) / str(repeat)
            found = {
                PLAIN: plain(log, [place / "plain"]),
                PAIR: plain(log, [place / "pair-0", place / "pair-1"]),
                **on_ray(1, log, place, {ONE: ("replicated", BATCH)}),
                **on_ray(2, log, place, turned(TWO, repeat)),
            }
            for name, rates in found.items():
                runs.setdefault(name, []).append(rates)
            base = found[PLAIN]["rows_per_s"]
            print(repeat, {name: round(rates["rows_per_s"] / base, 2) for name, rates in found.items()}, flush=True)
            write(arguments, runs, {})  # what is there stays if the rest is interrupted
    memory = {}
    for workers, tables in ((1, "replicated"), *((2, tables) for tables in PLACEMENTS)):
        if arguments.memory_rows:
            few, many = (measure_memory(workers, tables, size) for size in (FEW_ROWS, arguments.memory_rows))
            memory[f"{workers} {tables}"] = many - few
    write(arguments, runs, memory)


def write(arguments: Arguments, runs: dict[str, list[Rates]], memory: dict[str, int]) -> None:
    figures = {"arguments": vars(arguments), "runs": runs, "memory": memory}
    name = "two-workers" if arguments.case == "wide" else "two-workers-default"
    write_result(name, figures, describe(arguments, runs, memory))


def turned(cases: dict[str, Any], by: int) -> dict[str, Any]:
    names = list(cases)
    by = by % len(names)
    return {name: cases[name] for name in names[by:] + names[:by]}


def plain(log: Path, outs: list[Path]) -> Rates:
    """As many plain loops at once; rows/s of all together."""
    processes = [start(log, out, 0, 1, {"batch_size": BATCH, "log_steps": WINDOW}) for out in outs]
    for out, process in zip(outs, processes, strict=True):
        result(out, process)
    rates = [rates_of(out) for out in outs]
    return {**rates[0], "rows_per_s": sum(own["rows_per_s"] for own in rates)}


def rates_of(out: Path) -> Rates:
    """Medians over the windows of a finished training but the first."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    windows = [line for line in lines if line["event"] == "step"][1:]

    def middle(key: str) -> float:
        return statistics.median(window[key] for window in windows)

    parts = {part: 1e3 * middle(f"step_s.{part}") for part in PARTS}
    return {"rows_per_s": middle("rows_per_s"), **parts}


def on_ray(workers: int, log: Path, place: Path, cases: dict[str, tuple[str, int]]) -> dict[str, Rates]:
    """Trainings, by name, one after the other on one group of Ray Train workers."""
    asked = [
        [str(log), str(place / f"{workers}-{tables.replace(' ', '-')}-{batch}"), tables, batch]
        for tables, batch in cases.values()
    ]
    command = [sys.executable, "-m", "benchmarks.training.two_workers", "--group", str(workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        command, env=environment, input=json.dumps(asked), check=True, text=True, stdout=subprocess.PIPE
    )
    return dict(zip(cases, json.loads(answer.stdout.splitlines()[-1]), strict=True))


def in_one_group(workers: int, asked: list[list[Any]]) -> list[Rates]:
    from ray.train import LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from distributed.training.ray_group import NoticedTorchConfig
    from jobs.cluster.connect import connect

    jobs = []
    for log, out, tables, batch in asked:
        Path(out).mkdir(parents=True)
        settings: Settings = {"batch_size": batch, "epochs": 1, "tables": tables.partition(",")[0], "log_steps": WINDOW}
        jobs.append(training(Path(out), open_log(log), settings))
    connect(workers)
    with tempfile.TemporaryDirectory() as folder:
        trainer = TorchTrainer(
            train_all,
            train_loop_config={"jobs": jobs, "apart": [tables == APART for _, _, tables, _ in asked]},
            scaling_config=ScalingConfig(num_workers=workers),
            torch_config=NoticedTorchConfig(),
            run_config=RunConfig(storage_path=folder, logging_config=LoggingConfig(log_level="ERROR")),
        )
        trainer.fit()
    return [rates_of(Path(job.run)) for job in jobs]


def train_all(config: dict[str, Any]) -> None:
    """What a worker does: the same loop as that of launch.train_worker, once for each job."""
    import ray.train

    mine = ray.train.get_context()
    for job, apart in zip(config["jobs"], config["apart"], strict=True):
        os.environ[NODE] = str(mine.get_world_rank()) if apart else ""
        context = Context(mine.get_world_rank(), mine.get_world_size(), CPU, Stop(Path(job.run)))
        train(job, context)


def measure_memory(workers: int, tables: str, rows: int) -> int:
    """Bytes of all workers together."""
    with tempfile.TemporaryDirectory() as folder:
        queue = mp.get_context("spawn").SimpleQueue()
        mp.spawn(holder, args=(workers, tables, rows, folder, queue), nprocs=workers)
        return sum(queue.get() for _ in range(workers))


def holder(rank: int, workers: int, tables: str, rows: int, folder: str, queue: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=workers)
    given = table_size.Arguments(rows=rows, steps=5)
    job = table_size.make_job(folder, given)
    job = dataclasses.replace(job, config=dataclasses.replace(job.config, tables=tables))
    before = proportional()
    learner = Learner(job.open_problem(CPU), job.config, Context(rank, workers), steps=10)
    for step, batch in enumerate(table_size.batches(rank, workers, given)):
        learner.step(batch, step)
    learner.state()
    dist.barrier()
    queue.put(proportional() - before)
    dist.barrier()


def proportional() -> int:
    """This process's memory, each page divided by the number of processes that map it."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def describe(arguments: Arguments, runs: dict[str, list[Rates]], memory: dict[str, int]) -> str:
    rows = []
    for name, own in runs.items():
        rates = [run["rows_per_s"] for run in own]
        ratios = [rate / base["rows_per_s"] for rate, base in zip(rates, runs[PLAIN], strict=True)]
        rows.append([
            name, f"{statistics.median(rates):,.0f}", f"{min(rates):,.0f} to {max(rates):,.0f}",
            f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}",
            *(f"{statistics.median(run[part] for run in own):.1f}" for part in PARTS),
        ])  # fmt: skip
    what = "23 id fields, 2 million table rows" if arguments.case == "wide" else "the generated log, 11 id fields"
    text = (
        f"{what}, width 16, MMoE of 4 experts 128-64, ESCM2-IPS, {arguments.rows:,} rows of log, 1 epoch, one thread "
        f"each; global batch {BATCH:,} (strong) and {2 * BATCH:,} (weak); {len(runs[PLAIN])} repeats. The "
        "last columns are ms of a step.\n\n"
    )
    text += markdown(["training", "rows/s (median)", "range", "to the plain loop (median)", "range", *PARTS], rows)
    if memory:
        table = bytes_of_rows(arguments.memory_rows - FEW_ROWS, 16, "adagrad")
        lines = [[name, f"{size / 2**20:,.0f}", f"{size / table:.2f}"] for name, size in memory.items()]
        text += f"\nWhat {arguments.memory_rows:,} rows take more than {FEW_ROWS:,}, optimizer included, is "
        text += f"{table / 2**20:,.0f} MiB by formula.\n\n"
        text += markdown(["workers, placement", "MiB more, all workers together", "so many tables"], lines)
    return text


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
