"""What more workers than this machine holds would do: a simulation of one generation from measured costs.

    python -m benchmarks.es.scale
    python -m benchmarks.es.scale --call-ms 0.8 --generation-ms 1.5

Assumptions. A driver is one thread: `call_ms` of it for a call and its answer (benchmarks/es/engine.py measures it),
half to send, half to take in, and `generation_ms` for asking, telling and recording. Network and queues cost nothing
beside it; workers are alike and none is lost. Tasks are cut by the engine's own rule (es/tasks.py), two deep in each
worker, to whoever is free. The example is the run of Salimans et al. 2017: Humanoid, 10,000 episodes a generation, of
20 to 1,000 steps (uniformly: early in learning they are short, late they are long) at 2,100 steps a second and core.

Three things that are not built stand beside it: one driver with tasks that shrink, each a share of what is left (guided
self-scheduling, Polychronopoulos and Kuck 1987); a tree of drivers, where the driver sends `groups` others an equal
range of pairs each, in one call, and they hand them out to their part of the workers as the one driver would; and a
driver that costs nothing and hands out pair by pair, the bound that uneven episodes leave.
"""

import heapq
import time
from collections import deque
from dataclasses import dataclass

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from es.tasks import calls_per_worker, split

TARGET = 0.95


@dataclass
class Arguments:
    call_ms: float = 0.4
    generation_ms: float = 1.8
    pairs: int = 5_000
    workers: tuple[int, ...] = (16, 64, 128, 256, 720, 1440)
    more_pairs: tuple[int, ...] = (5_000, 10_000, 20_000, 40_000, 80_000)
    """Pairs of a generation, with the last number of workers."""
    groups: int = 32
    """Drivers under the driver, in the tree."""
    steps: tuple[int, int] = (20, 1000)
    steps_per_s: float = 2_100.0
    generations: int = 10


def main(arguments: Arguments) -> None:
    began = time.perf_counter()
    by_workers = [measure(workers, arguments.pairs, arguments) for workers in arguments.workers]
    by_pairs = [measure(arguments.workers[-1], pairs, arguments) for pairs in arguments.more_pairs]
    header = ["workers", "pairs", "calls each", "ideal, s", "one driver, s", "efficiency", "driver busy"]
    header += ["shrinking tasks", f"tree of {arguments.groups}", "bound"]

    def table(rows: list[dict[str, float]]) -> str:
        return markdown(
            header,
            [
                [
                    f"{row['workers']:,}",
                    f"{row['pairs']:,}",
                    row["calls"],
                    f"{row['ideal_s']:.2f}",
                    f"{row['one_s']:.2f}",
                    f"{row['ideal_s'] / row['one_s']:.2f}",
                    f"{row['driver_s'] / row['one_s']:.0%}",
                    f"{row['ideal_s'] / row['guided_s']:.2f}",
                    f"{row['ideal_s'] / row['tree_s']:.2f}" if "tree_s" in row else "-",
                    f"{row['ideal_s'] / row['bound_s']:.2f}",
                ]
                for row in rows
            ],
        )

    head = (
        f"A generation simulated, mean of {arguments.generations}; a call costs a driver {arguments.call_ms} ms, a "
        f"generation {arguments.generation_ms} ms; efficiencies are ideal / simulated. See the script's docstring for "
        "the assumptions. Shrinking tasks, the tree and the bound are not built.\n\n"
    )
    text = head + table(by_workers) + "\n" + table(by_pairs) + "\n" + reached(by_workers, by_pairs)
    figures = {"by_workers": by_workers, "by_pairs": by_pairs, "seconds": time.perf_counter() - began}
    write_result("es-scale", figures, text)


def reached(by_workers: list[dict[str, float]], by_pairs: list[dict[str, float]]) -> str:
    """Where the efficiency is at least TARGET, in sentences."""
    lines = []
    kinds = (("one_s", "one driver"), ("guided_s", "shrinking tasks"), ("tree_s", "a tree of drivers"))
    for key, name in kinds:
        enough = [row["workers"] for row in by_workers if key in row and row["ideal_s"] / row[key] >= TARGET]
        pairs = [row["pairs"] for row in by_pairs if key in row and row["ideal_s"] / row[key] >= TARGET]
        most = f"up to {max(enough):,.0f} of the workers tried" if enough else "with none of the workers tried"
        least = f"from {min(pairs):,.0f} pairs a generation" if pairs else "with none of the pairs tried"
        where = f"with {by_pairs[0]['pairs']:,.0f} pairs {most}; with {by_pairs[0]['workers']:,.0f} workers {least}"
        lines.append(f"{TARGET:.0%} with {name}: {where}.")
    return "\n".join(lines) + "\n"


def measure(workers: int, pairs: int, arguments: Arguments) -> dict[str, float]:
    """Mean seconds of a generation: ideal, with one driver, in a tree, and with a driver that costs nothing."""
    generator, (low, high) = np.random.default_rng(0), arguments.steps
    work, spans, calls = [], list[list[float]](), 0
    for _ in range(arguments.generations):
        pair_s = generator.uniform(low, high, (pairs, 2)).sum(axis=1) / arguments.steps_per_s
        calls = calls_per_worker(float(pair_s.sum()), workers)
        call_s, start_s = arguments.call_ms / 1e3, arguments.generation_ms / 1e3
        row = [hand_out(pair_s, workers, call_s, start_s), hand_out(pair_s, workers, 0.0, 0.0, singly=True)]
        row.append(simulate(shrinking(pair_s, workers), workers, 2, call_s, start_s))
        if workers >= 2 * arguments.groups:
            row.append(tree(pair_s, workers, arguments))
        spans.append(row)
        work.append(float(pair_s.sum()))
    means = np.mean(spans, axis=0)
    found = {"workers": workers, "pairs": pairs, "calls": calls, "ideal_s": float(np.mean(work)) / workers}
    found |= {"one_s": float(means[0]), "bound_s": float(means[1]), "guided_s": float(means[2])}
    found["driver_s"] = (arguments.call_ms * min(workers * calls, pairs) + arguments.generation_ms) / 1e3
    return found | ({"tree_s": float(means[3])} if len(means) == 4 else {})


def shrinking(pair_s: np.ndarray, workers: int) -> list[float]:
    """Seconds of tasks that each take 1/(2 workers) of the pairs that are left, one at least."""
    tasks, start = [], 0
    while start < len(pair_s):
        size = max(1, (len(pair_s) - start) // (2 * workers))
        tasks.append(float(pair_s[start : start + size].sum()))
        start += size
    return tasks


def tree(pair_s: np.ndarray, workers: int, arguments: Arguments) -> float:
    """The driver sends to one group after the other, and takes in their answers as they come."""
    half_s = arguments.call_ms / 2e3
    now, ends = arguments.generation_ms / 1e3, []
    for group, part in enumerate(np.array_split(pair_s, arguments.groups)):
        now += half_s
        size = workers // arguments.groups + (group < workers % arguments.groups)
        ends.append(now + hand_out(part, size, arguments.call_ms / 1e3, 0.0))
    for end in sorted(ends):
        now = max(now, end) + half_s
    return now


def hand_out(pair_s: np.ndarray, workers: int, call_s: float, start_s: float, singly: bool = False) -> float:
    """Cut by the engine's rule (or pair by pair) and simulate."""
    calls = calls_per_worker(float(pair_s.sum()), workers)
    tasks = split(len(pair_s), False, 1, len(pair_s) if singly else workers * calls)
    sums_s = np.add.reduceat(pair_s, [task.start for task in tasks])
    return simulate(sums_s.tolist(), workers, 1 if calls == 1 and not singly else 2, call_s, start_s)


def simulate(task_s: list[float], workers: int, depth: int, call_s: float, start_s: float) -> float:
    """Seconds of a generation: the driver sends, workers work through their queues, the driver takes in, sends on."""
    half_s = call_s / 2
    now, waiting = start_s, deque(task_s)
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
