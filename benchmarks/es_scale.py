"""What more workers than this machine holds would do: a simulation of one generation from measured costs.

    python -m benchmarks.es_scale --call-ms 0.8 --generation-ms 1.5

Assumptions. The driver is one thread: `call_ms` of it for a call and its answer (benchmarks/es_engine.py measures it),
half to send, half to take in, and `generation_ms` for asking, telling and recording. Network and queues cost nothing
beside it; workers are alike and none is lost. Tasks are cut by the engine's own rule (es/tasks.py), two deep in each
worker, to whoever is free. The example is the run of Salimans et al. 2017: Humanoid, 10,000 episodes a generation, of
20 to 1,000 steps (uniformly: early in learning they are short, late they are long) at 2,100 steps a second and core.
"""

import heapq
import time
from collections import deque
from dataclasses import dataclass

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from es.tasks import calls_per_worker, split


@dataclass
class Arguments:
    call_ms: float = 0.8
    generation_ms: float = 1.5
    pairs: int = 5_000
    workers: tuple[int, ...] = (16, 64, 256, 720, 1440)
    steps: tuple[int, int] = (20, 1000)
    steps_per_s: float = 2_100.0
    generations: int = 20


def main(arguments: Arguments) -> None:
    generator, began = np.random.default_rng(0), time.perf_counter()
    low, high = arguments.steps
    figures: list[dict[str, float]] = []
    for workers in arguments.workers:
        spans, work, calls = [], [], 0
        for _ in range(arguments.generations):
            episodes_n2 = generator.uniform(low, high, (arguments.pairs, 2)) / arguments.steps_per_s
            pair_s = episodes_n2.sum(axis=1)
            calls = calls_per_worker(float(pair_s.sum()), workers)
            tasks = split(arguments.pairs, False, 1, workers * calls)
            task_s = [float(pair_s[task.start : task.stop].sum()) for task in tasks]
            spans.append(simulate(task_s, workers, 1 if calls == 1 else 2, arguments))
            work.append(float(pair_s.sum()))
        ideal_s, actual_s = float(np.mean(work)) / workers, float(np.mean(spans))
        driver_s = (arguments.call_ms * workers * calls + arguments.generation_ms) / 1e3
        figures.append(
            {"workers": workers, "calls": calls, "ideal_s": ideal_s, "actual_s": actual_s, "driver_s": driver_s}
        )
    header = ["workers", "calls each", "ideal, s", "simulated, s", "efficiency", "driver busy"]
    rows = [
        [
            row["workers"],
            row["calls"],
            f"{row['ideal_s']:.2f}",
            f"{row['actual_s']:.2f}",
            f"{row['ideal_s'] / row['actual_s']:.2f}",
            f"{row['driver_s'] / row['actual_s']:.0%}",
        ]
        for row in figures
    ]
    head = f"A generation of {arguments.pairs:,} pairs, simulated; see the script's docstring for the assumptions.\n\n"
    write_result("es-scale", {"rows": figures, "seconds": time.perf_counter() - began}, head + markdown(header, rows))


def simulate(task_s: list[float], workers: int, depth: int, arguments: Arguments) -> float:
    """Seconds of a generation: the driver sends, workers work through their queues, the driver takes in, sends on."""
    half_s = arguments.call_ms / 2e3
    now, waiting = arguments.generation_ms / 1e3, deque(task_s)
    free_at, arrivals = [0.0] * workers, list[tuple[float, int]]()

    def send(worker: int) -> None:
        nonlocal now
        now += half_s
        free_at[worker] = max(free_at[worker], now) + waiting.popleft()
        heapq.heappush(arrivals, (free_at[worker], worker))

    for _ in range(depth):
        for worker in range(workers):
            if waiting:
                send(worker)
    while arrivals:
        ended, worker = heapq.heappop(arrivals)
        now = max(now, ended) + half_s
        if waiting:
            send(worker)
    return now


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
