"""What a training step costs one worker of many: its own work is done, the other workers' messages are made up.

    python -m benchmarks.training.one_of_many          # scale.py reads the result

Worker 0 of W steps `distributed.training.learner.Learner` in this process, one thread, with tables sharded over W. The
other W - 1 workers' batches are drawn as its own is, and their ids are what it is asked for; the calls of
torch.distributed are replaced by ones that hand over just these, and vectors and gradients of the right shape
(made_up.py). So all of a worker's own work is done as on W machines, but no byte goes over a wire: what that costs a
core is measured beside it, by gloo processes that exchange pieces of several sizes over the loopback (`transport`).
Of workers that share a machine, `near` each, it is also what one does for its counterparts on other machines; nobody is
waited for, and what a barrier costs is measured beside it too.

All times are of the CPU (of this thread, of a gloo process), so that a worker that waits costs nothing here.
"""

import dataclasses
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.training import table_size
from benchmarks.training.made_up import NearOthers, Others
from distributed.context import CPU, Context
from distributed.tables.node import Neighbours
from distributed.tables.sharded import Sharded
from distributed.training.learner import Learner
from funnel.batch import Batch

PIECES = (0, 2_000, 20_000, 80_000, 640_000)
"""Bytes to each other process, of the messages that `transport` measures."""


@dataclass
class Arguments:
    rows: tuple[int, ...] = (2_000_000, 20_000_000)
    """Of the whole table, 16 wide, over 23 fields."""
    workers: tuple[int, ...] = (1, 2, 8, 64)
    batch: tuple[int, ...] = (512, 4096)
    """Rows of a worker's share of the global batch."""
    steps: int = 10
    """Steps that are measured, after three that are not."""
    processes: tuple[int, ...] = (2, 4, 8)
    """Of a measurement of messages."""
    near: int = 8
    """Workers that share a machine, where there are more than these."""


def main(arguments: Arguments) -> None:
    torch.set_num_threads(1)
    found = []
    for rows in arguments.rows:
        for workers in arguments.workers:
            for batch in arguments.batch:
                for near in (1, arguments.near)[: 2 if workers > arguments.near else 1]:
                    found.append({"rows": rows, "workers": workers, "near": near, "batch": batch,
                                  **measure(rows, workers, near, batch, arguments.steps)})  # fmt: skip
                    print(found[-1], flush=True)
    messages = [line for processes in arguments.processes for line in transport(processes)]
    call, message, byte = fit(messages)
    meeting = barrier(arguments.near)
    header = ["table rows", "workers", "a machine", "rows a worker"]
    header += [*(key.replace("_", " ") for key in (*SECONDS, *COUNTS)), "late"]
    lines = [
        [f"{run['rows']:,}", run["workers"], run["near"], f"{run['batch']:,}",
         *(f"{run[key] * 1e3:.1f}" for key in SECONDS),
         *(f"{run[key]:,.0f}" for key in COUNTS), f"{run['late']:.0%}"]
        for run in found
    ]  # fmt: skip
    about = f"""CPU ms of one worker. An all-to-all costs {call * 1e6:.0f} us, {message * 1e6:.0f} us more for each
other worker and {byte * 1e9:.2f} ns a byte sent and taken in, fitted to {len(messages)} measurements but those of
no byte: these cost {empty(messages, call) / message:.0%} of a message.
A barrier of {arguments.near} workers of a machine costs {meeting * 1e6:.0f} us.

"""
    fitted = {"call_s": call, "message_s": message, "byte_s": byte, "barrier_s": meeting}
    figures = {"arguments": vars(arguments), "runs": found, "messages": messages, **fitted}
    write_result("one-of-many", figures, about + markdown(header, lines))


SECONDS = ("step", "plan", "divide", "move", "step_after_move")
COUNTS = ("distinct", "asked", "summed")


def measure(rows: int, workers: int, near: int, batch: int, steps: int) -> dict[str, float]:
    """Medians of CPU seconds and means of counts, a step.

    step: with the plan there (alone: with the finding of distinct rows); plan: making it; divide: what two plans share;
    move: early vectors, late gradients; step_after_move: what then is left of the step. distinct rows of the batch,
    rows asked for by all, different ones among them; late: share of distinct rows that the batch before has too.
    """
    case = table_size.Arguments(rows=rows, batch=batch, steps=steps + 4)
    job = table_size.make_job("", case)
    config = dataclasses.replace(job.config, tables="sharded", plan_ahead=False, batch_size=batch * workers)
    found: dict[str, list[float]] = {key: [0.0] for key in (*SECONDS, *COUNTS, "late")}
    others = NearOthers(rows, workers, batch, near) if near > 1 else Others(rows, workers, batch)

    def timed(key: str, work: Callable[[], Any]) -> Any:
        began = time.thread_time()
        result = work()
        found[key].append(time.thread_time() - began)
        return result

    with others.emulated():
        learner = Learner(job.open_problem(CPU), config, Context(0, workers), steps=steps + 4)
        (own,), network = learner.placements, learner.network
        for move in (False, True):
            coming: deque[tuple[Batch, Any]] = deque()
            for step, shares in enumerate(table_size.batches(0, 1, case)):
                plan = None
                if isinstance(own, Sharded):
                    (asked,) = network.asked(shares)  # type: ignore[operator]
                    others.draw()
                    others.lay(own)
                    plan = timed("plan", partial(own.plan, asked))
                    if move and coming:
                        others.mark(own, coming[-1][1], plan)
                        timed("divide", partial(own.divide, coming[-1][1], plan))
                coming.append((shares, plan))
                if len(coming) < 2:
                    continue
                now, made = coming.popleft()
                if isinstance(own, Sharded):
                    own.use(made)
                    if move:
                        timed("move", partial(move_rows, learner, own, plan))
                timed("step_after_move" if move else "step", partial(learner.step, now, step))
                if isinstance(own, Sharded):
                    found["distinct"].append(len(made.own.ids_U))
                    found["asked"].append(len(made.whole.rows_A))
                    found["summed"].append(len(made.whole.asked.ids_U))
                    found["late"] += [sum(made.late.out) / len(made.own.ids_U)] if made.late is not None else []
                else:
                    assert learner.tables
                    found["distinct"].append(sum(len(t.touched.ids_U) for t in learner.tables.values() if t.touched))
    return {key: statistics.median(values[3:]) if len(values) > 3 else 0.0 for key, values in found.items()}


def move_rows(learner: Learner, own: Sharded, plan: Any) -> None:
    """What lies beside a step (distributed/tables/ahead.py)."""
    sums = own.deferred()
    if sums is not None:
        learner.move_more_rows(0, sums)
    own.prefetch(plan)


def transport(processes: int) -> list[dict[str, float]]:
    """CPU seconds that one process of a gloo group spends on an all-to-all, by the bytes to each other one."""
    with tempfile.TemporaryDirectory() as folder:
        queue = mp.get_context("spawn").SimpleQueue()
        mp.spawn(send, args=(processes, folder, queue), nprocs=processes)
        return [{"processes": processes, "bytes": size, "seconds": seconds} for size, seconds in queue.get()]


def send(rank: int, processes: int, folder: str, queue: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    found = []
    for size in PIECES:
        values = torch.zeros(processes * size, dtype=torch.uint8)
        splits = [size] * processes
        taken = torch.empty_like(values)
        for repeat in range(25):
            if repeat == 5:
                dist.barrier()
                began = time.process_time()
            dist.all_to_all_single(taken, values, splits, splits)
        found.append((size, (time.process_time() - began) / 20))
    if rank == 0:
        queue.put(found)
    dist.barrier()
    dist.destroy_process_group()


def barrier(workers: int) -> float:
    """CPU seconds that one of so many processes spends on a barrier of their machine."""
    with tempfile.TemporaryDirectory() as folder:
        queue = mp.get_context("spawn").SimpleQueue()
        mp.spawn(meet, args=(workers, folder, queue), nprocs=workers)
        return float(queue.get())


def meet(rank: int, workers: int, folder: str, queue: Any, repeats: int = 500) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=workers)
    near = Neighbours()
    began = 0.0
    for repeat in range(repeats + 20):
        if repeat == 20:
            began = time.process_time()
        near.arrive()
        near.wait()
    if rank == 0:
        queue.put((time.process_time() - began) / repeats)
    dist.barrier()
    dist.destroy_process_group()


def empty(messages: Sequence[dict[str, float]], call: float) -> float:
    """Seconds of a message without a byte, among the most processes."""
    line = max((line for line in messages if line["bytes"] == 0), key=lambda line: line["processes"])
    return (line["seconds"] - call) / (line["processes"] - 1)


def fit(messages: Sequence[dict[str, float]]) -> tuple[float, float, float]:
    """Seconds an all-to-all, seconds more for each other process, and for each byte to one; relative errors weighing
    alike."""
    messages = [line for line in messages if line["bytes"]]
    others = np.array([line["processes"] - 1 for line in messages])
    sizes, seconds = (np.array([line[key] for line in messages]) for key in ("bytes", "seconds"))
    columns = np.stack([np.ones(len(seconds)), others, others * sizes], 1)
    found, *_ = np.linalg.lstsq(columns / seconds[:, None], np.ones(len(seconds)), rcond=None)
    call, message, byte = (float(value) for value in found)
    return call, message, byte


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
