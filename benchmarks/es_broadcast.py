"""What workers are sent: theta, or the returns from which each makes the step itself (Algorithm 2 of Salimans 2017).

    python -m benchmarks.es_broadcast

Vectorised sphere and a control task, OpenAI-ES with Adam and centred ranks, two Ray actors on one node. The forms take
turns, so that all see the same neighbours; `inline` is theta inside each call up to 96 KB, where the engine's own limit
is 64 KB and larger ones go through Ray's object store. A follower must make the whole update, so its price is measured
alone as well, on one thread as in an actor; against it stands what a network would take to carry theta, by a formula
(`network_ms`).
"""

import os
import statistics
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import ray
import tyro

import es.ray_pool
import es.update
from benchmarks.bench import markdown, write_result
from es import engine
from es.algorithms.registry import make_algorithm
from es.config import ESConfig
from es.noise import open_noise
from es.objectives.base import Objective
from es.objectives.control import Control
from es.objectives.toy import Sphere

CASES = ((1_000, 256), (20_000, 256), (50_000, 256), (100_000, 256), (1_000_000, 64))  # parameters x candidates
GENERATIONS = {1_000: 150, 20_000: 100, 50_000: 60, 100_000: 40, 1_000_000: 20}
CONTROL = (128, 128)  # widths of the network that plays a control task: 17,153 parameters
WARM_UP = 3
BANDS = ((1, "1 Gbit/s"), (10, "10 Gbit/s"), (25, "25 Gbit/s"))
NODES = 8

Form = Literal["theta", "returns", "inline"]
FORMS: tuple[Form, ...] = ("theta", "returns", "inline")
MOST_INLINE = 96_000  # bytes: arguments above 100 KB Ray puts into its object store itself, once for each call


@dataclass
class Arguments:
    rounds: int = 5
    """Runs of each form and size, taking turns."""


def main(arguments: Arguments) -> None:
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_worker_niceness="0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    load = os.getloadavg()[0]
    rows = [measure(Sphere(dimension), population, GENERATIONS[dimension], arguments.rounds)
            for dimension, population in CASES]  # fmt: skip
    rows.append(measure(Control(env="Pendulum-v1", hidden=CONTROL), 64, 12, arguments.rounds))
    write_result("es-broadcast", {"load_average_at_start": load, "rows": rows}, describe(rows, load))


def measure(objective: Objective, population: int, generations: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a generation and payload of each form; milliseconds of the update that a follower makes besides."""
    dimension = len(objective.initial())
    milliseconds: dict[str, list[float]] = {form: [] for form in FORMS}
    sent: dict[str, int] = {}
    for _ in range(rounds):
        for form in FORMS:
            es.ray_pool.INLINE_BYTES = MOST_INLINE if form == "inline" else 2**16
            config = ESConfig(pairs=population // 2, generations=generations, workers=2, centre_every=0,
                              broadcast="returns" if form == "returns" else "theta")  # fmt: skip
            history = engine.run(objective, config).history[WARM_UP:]
            milliseconds[form].append(statistics.median(metrics["seconds"] * 1e3 for metrics in history))
            sent[form] = int(statistics.median(metrics["bytes_out"] for metrics in history))
    row = {
        "objective": type(objective).__name__,
        "dimension": dimension,
        "population": population,
        "milliseconds": milliseconds,
        "bytes_out": sent,
        "update_ms": update_ms(dimension, population),
    }
    print(row, flush=True)
    return row


def update_ms(dimension: int, population: int) -> float:
    """The best time of a step from returns on one thread: what a follower does before it can evaluate anything."""
    config = ESConfig(pairs=population // 2)
    noise = open_noise(config, dimension)
    algorithm = make_algorithm(config, np.ones(dimension, np.float32), noise)
    returns_n2 = np.random.default_rng(0).standard_normal((config.pairs, 2))
    several, times = es.update.threads, []
    es.update.threads = lambda: 1  # type: ignore[assignment]
    for _ in range(12):
        began = time.perf_counter()
        algorithm.ask()
        algorithm.tell(returns_n2)
        times.append((time.perf_counter() - began) * 1e3)
    es.update.threads = several
    noise.close()
    return min(times)


def network_ms(dimension: int, gigabits: float, nodes: int) -> float:
    """To send theta from the driver's node to each other node, one after the other over its one link: Ray fetches an
    object once a node. (Nodes that have it may pass it on, so this is the most it takes.)"""
    return 4 * dimension * 8 * (nodes - 1) / (gigabits * 1e9) * 1e3


def describe(rows: list[dict[str, Any]], load: float) -> str:
    def size(row: dict[str, Any]) -> str:
        return f"{row['objective']}, {row['dimension']:,} x {row['population']:,}"

    def ratio(row: dict[str, Any], form: Form) -> str:
        pairs = zip(row["milliseconds"]["theta"], row["milliseconds"][form], strict=True)
        ratios = [there / here for here, there in pairs]
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"

    table = [
        [
            size(row),
            *(f"{statistics.median(row['milliseconds'][form]):.3g}" for form in FORMS),
            *(ratio(row, form) for form in FORMS[1:]),
            *(f"{row['bytes_out'][form]:,}" for form in FORMS[:2]),
        ]
        for row in rows
    ]
    header = ["parameters x candidates", *(f"{form}, ms" for form in FORMS), "returns / theta", "inline / theta",
              "theta, bytes", "returns, bytes"]  # fmt: skip
    text = (
        "A generation with two actors on one node: the median of the runs' medians; ratios are the median over rounds "
    )
    text += "(lowest to highest), bytes the payload out of a generation:\n\n" + markdown(header, table)
    header = ["parameters x candidates", "update in each worker, ms", *(f"theta at {name}, ms" for _, name in BANDS)]
    table = [
        [
            size(row),
            f"{row['update_ms']:.3g}",
            *(f"{network_ms(row['dimension'], gigabits, NODES):.3g}" for gigabits, _ in BANDS),
        ]
        for row in rows
    ]
    text += (
        "\nWhat a follower's own update costs a generation (measured, one thread), and what sending theta from one "
        f"node to {NODES - 1} others would (formula: 4 D x 8 bits x {NODES - 1} / bandwidth):\n\n"
        + markdown(header, table)
    )
    return text + f"\nLoad average {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end.\n"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
