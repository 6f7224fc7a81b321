"""A node goes, another comes: does a training with --min-workers use every row of every epoch exactly once?

    python -m benchmarks.faults.elastic

Two workers on two nodes of one CPU; the node of one is killed, one worker goes on; a node joins, two go on. Each worker
writes down the rows of every step it makes (their ids are the log's row weights, which the loss then leaves alone). Of
every step the last making counts; its rows must be those of one undisturbed process, whose weights must be the same to
tolerance.
"""

import dataclasses
import json
import os
import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro
from torch import Tensor

from benchmarks.bench import markdown, write_result
from benchmarks.faults.machines import TRAIN_WORKER, TUNED, Machines, events, last_step, processes
from benchmarks.settings import training
from data.generate import generate_log
from data.log import open_log
from data.world import GeneratedLog
from distributed.checkpoint.read import read_checkpoint
from distributed.checkpoint.store import CheckpointStore
from distributed.context import CPU, Context
from distributed.input.stream import TrainStream
from distributed.training.launch import run_training
from distributed.training.recorder import CHECKPOINTS
from jobs.cluster.connect import RECOVERY
from models.objectives.base import Labels
from models.objectives.naive import Naive

FOLDER, WEIGHT = "COUNTERPOINT_ROWS", "row"
SETTINGS = {
    "objective.name": "benchmarks/faults/elastic.py:Recording",
    "batch_size": 100,
    "epochs": 4,
    "checkpoint_steps": 10,
    "log_steps": 2,
    "patience": 0,
    "stream.lanes": 4,
    "model.embedding_width": 4,
    "model.tower_hidden": (8,),
}


class Recording(Naive):
    """The naive loss over unweighted rows; writes down which rows a step had, and waits while it is told to."""

    def totals(self, logits: dict[str, Tensor], labels: Labels) -> Tensor:
        return super().totals(logits, dataclasses.replace(labels, weight_B=None))

    def __call__(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> dict[str, Tensor]:
        folder = Path(os.environ[FOLDER])
        assert labels.weight_B is not None
        record = {"time": time.time(), "step": self.step, "rows": labels.weight_B.long().tolist()}
        with (folder / f"{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        if (folder / "slowly").exists():
            time.sleep(0.2)
        return super().__call__(logits, dataclasses.replace(labels, weight_B=None), totals)


def numbered_log(folder: Path) -> Path:
    """A generated log whose rows are numbered, from 1 on, in the column that its schema calls the weight."""
    log, first = folder / "log", 1
    shape = {"rows_per_file": 2000, "rows_per_group": 400, "users": 200, "items": 100}
    generate_log(GeneratedLog(world="aligned", rows=6000, seed=3, click_rate=0.2, conversion_rate=0.3, **shape), log)
    for path in sorted(log.glob("*/*.parquet")):
        table = pq.read_table(path)
        numbers = pa.array(range(first, first + table.num_rows), pa.float32())
        first += table.num_rows
        pq.write_table(table.append_column(WEIGHT, numbers), path, row_group_size=400)
    schema = json.loads((log / "schema.json").read_text())
    (log / "schema.json").write_text(json.dumps(schema | {"weight": WEIGHT}))
    return log


class ComeAndGo:
    """Kill a worker's node some steps into the first start; let one join in the second; hurry in the third."""

    def __init__(self, run: Path, machines: Machines, rows: Path) -> None:
        self.run, self.machines, self.rows = run, machines, rows
        self.done = 0
        (rows / "slowly").touch()

    def __call__(self) -> int:
        starts = [event for event in events(self.run) if event["event"] == "start"]
        if len(starts) > self.done and last_step(self.run) >= starts[-1]["step"] + 5:
            self.done += 1
            if self.done == 1:
                nodes = [node for node in self.machines.nodes if processes(TRAIN_WORKER, self.machines.raylet(node))]
                self.machines.kill(nodes[0])
            elif self.done == 2:
                self.machines.add()
            else:
                (self.rows / "slowly").unlink()
        return 0


def rows_by_step(rows: Path, starts: list[float]) -> dict[int, list[int]]:
    """Of each step the rows of its last making, by all workers."""
    made: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for path in rows.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            attempt = sum(start <= record["time"] for start in starts)
            made[record["step"]][attempt] += record["rows"]
    return {step: sorted(attempts[max(attempts)]) for step, attempts in made.items()}


def tensors(run: Path) -> dict[str, torch.Tensor]:
    latest = CheckpointStore(run / CHECKPOINTS).latest()
    assert latest is not None
    checkpoint = read_checkpoint(latest)
    return checkpoint.model | checkpoint.optimizer


def measure(folder: Path) -> dict[str, Any]:
    rows, run, alone = folder / "rows", folder / "elastic", folder / "alone"
    for path in (rows, folder / "rows-alone", run, alone):
        path.mkdir(parents=True)
    log = open_log(numbered_log(folder))
    os.environ[FOLDER] = str(folder / "rows-alone")
    run_training(training(alone, log, SETTINGS), workers=0)
    os.environ[FOLDER] = str(rows)  # the nodes hand it down
    machines = Machines(2, TUNED)
    job = training(run, log, SETTINGS)
    figures = run_training(job, workers=2, min_workers=1, signalled=ComeAndGo(run, machines, rows))
    machines.close()

    starts = [event for event in events(run) if event["event"] == "start"]
    made = rows_by_step(rows, [start["time"] for start in starts])
    stream = TrainStream(job.open_problem(CPU), log, job.parts["train"], job.sizes["train"], job.config, Context())
    expected = {}
    for epoch in range(job.config.epochs):
        for step, batch in enumerate(stream.epoch(epoch)):
            assert batch.weight_B is not None
            expected[epoch * stream.steps + step] = sorted(batch.weight_B.long().tolist())
    every = sorted(number for step in range(stream.steps) for number in made[step])
    one, two = tensors(alone), tensors(run)
    furthest = max(float(((one[name] - two[name]).abs() / (2e-5 + 2e-3 * one[name].abs())).max()) for name in one)
    return {
        "workers": [start["workers"] for start in starts],
        "lost_steps": [start["lost_steps"] for start in starts],
        "down_s": [round(event["down_s"], 1) for event in events(run) if event["event"] == "recovered"],
        "steps": figures["train.steps"],
        "rows_of_an_epoch": len(every),
        "each_once": every == list(range(every[0], every[0] + job.parts["train"].rows)),
        "same_rows_in_every_step": made == expected,
        "furthest_weight": furthest,  # 1: at the tolerance of 0.2% + 2e-5
    }


@dataclasses.dataclass
class Arguments:
    folder: Path = Path("/tmp/counterpoint-elastic")
    """Emptied first."""
    record: bool = True
    """Write a dated file into benchmarks/results; a line of JSON is printed in any case."""


def main(arguments: Arguments) -> None:
    """Measure, write the table."""
    os.environ |= {**RECOVERY, "RAY_AUTH_MODE": "disabled", "RAY_TRAIN_METRICS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    os.environ |= {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
    shutil.rmtree(arguments.folder, ignore_errors=True)
    figures = measure(arguments.folder)
    if arguments.record:
        rows = [[name.replace("_", " "), json.dumps(value)] for name, value in figures.items()]
        write_result("elastic", {**figures, "load": os.getloadavg()[0]}, markdown(["", "2 workers, 1, 2 again"], rows))
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
