"""Perturbations of matrices by low-rank products that are written out as dense candidates, against normals in full.

    python -m benchmarks.es_low_rank

Time of a generation on the sphere in this process and with two Ray actors, in turns, and the size of the noise table;
then evaluations to a target, the same settings for both, on the sphere, Rosenbrock's function and a control task, whose
network gives the matrices. Sarkar et al. 2025 (arXiv 2511.16652) gain by never writing a perturbed matrix: an objective
of theirs multiplies by the two thin factors. Here every objective is given rows of numbers, so only the normals are
fewer.
"""

import contextlib
import multiprocessing
import os
import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import tyro

from benchmarks.bench import markdown, write_result
from es import engine
from es.config import ESConfig
from es.noise import row_floats, table_floats
from es.objectives.base import Objective
from es.objectives.control import Control
from es.objectives.toy import Rosenbrock, Sphere

FORMS: dict[str, dict[str, Any]] = {
    "full": {},
    "rank 1": {"perturb": "low_rank"},
    "rank 4": {"perturb": "low_rank", "rank": 4},
}
SIZES = ((1_000, 256, 100), (10_000, 256, 60), (100_000, 256, 16), (1_000_000, 64, 8))  # the last: generations
WARM_UP = 2


@dataclass(frozen=True)
class Race:
    """An objective, the return at which it is done, and what both forms are set to."""

    objective: Objective
    target: float
    settings: dict[str, Any]
    relative: bool = False
    """The target is a share of the first return; theta starts at normals, not where all its coordinates are equal (as a
    matrix that start is itself of rank 1)."""


def races() -> dict[str, Race]:
    pendulum = Control(env="Pendulum-v1", hidden=(32, 32), centre_episodes=10)
    acrobot = Control(env="Acrobot-v1", hidden=(32, 32), centre_episodes=10)
    # A layer is its weights and then its biases: these count as a matrix of one column, those of the last are in full.
    pendulum_layers = {"matrices": ("32x3", "32x1", "32x32", "32x1", "1x32")}
    acrobot_layers = {"matrices": ("32x6", "32x1", "32x32", "32x1", "3x32")}
    control = {"pairs": 16, "sigma": 0.1, "learning_rate": 0.05, "weight_decay": 0.005}
    sphere = {"sigma": 0.05, "learning_rate": 0.05, "generations": 400}
    valley = {"pairs": 32, "sigma": 0.02, "learning_rate": 0.02, "generations": 3000}
    return {
        "sphere, 100 parameters, to 10%": Race(Sphere(100), 0.1, {"pairs": 32, **sphere}, relative=True),
        "sphere, 2,500, to 10%": Race(Sphere(2_500), 0.1, {"pairs": 128, **sphere}, relative=True),
        "Rosenbrock, 100, to -90": Race(Rosenbrock(100), -90.0, valley),
        "Pendulum, 32-32, to -500": Race(pendulum, -500.0, {**control, **pendulum_layers, "generations": 300}),
        "Acrobot, 32-32, to -82": Race(acrobot, -82.0, {**control, **acrobot_layers, "generations": 60}),
    }


@dataclass
class Arguments:
    rounds: int = 5
    """Runs of each size and form, taking turns."""
    seeds: int = 5


class Reached(Exception):
    """The target is reached."""


def main(arguments: Arguments) -> None:
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_worker_niceness="0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    load = os.getloadavg()[0]
    rows = [times(*size, arguments.rounds) for size in SIZES]
    ray.shutdown()
    cases = [(name, form, seed) for name in races() for seed in range(arguments.seeds) for form in FORMS]
    needed: dict[str, dict[str, list[int | None]]] = {}
    with multiprocessing.Pool(2) as processes:
        for (name, form, _), found in zip(cases, processes.starmap(evaluations, cases, chunksize=1), strict=True):
            needed.setdefault(name, {}).setdefault(form, []).append(found)
    figures = {"load_average_at_start": load, "rows": rows, "evaluations": needed}
    text = describe_times(rows) + describe_races(needed)
    write_result("es-low-rank", figures, f"{text}\nLoad average {load:.1f} at the start.\n")


# ---- time


def times(dimension: int, population: int, generations: int, rounds: int) -> dict[str, Any]:
    """Median milliseconds a generation of each run, by workers and form, and MiB of the table."""
    milliseconds: dict[str, dict[str, list[float]]] = {}
    table_mib = {}
    for workers in (0, 2):
        found: dict[str, list[float]] = {form: [] for form in FORMS}
        for _ in range(rounds):
            for form, settings in FORMS.items():
                config = ESConfig(
                    pairs=population // 2, generations=generations, workers=workers, centre_every=0, **settings
                )
                history = engine.run(Sphere(dimension), config).history[WARM_UP:]
                found[form].append(statistics.median(metrics["seconds"] * 1e3 for metrics in history))
                table_mib[form] = 4 * table_floats(config, row_floats(config, dimension)) / 2**20
        milliseconds[str(workers)] = found
    row = {"dimension": dimension, "population": population, "milliseconds": milliseconds, "table_mib": table_mib}
    print(row, flush=True)
    return row


def describe_times(rows: list[dict[str, Any]]) -> str:
    header = ["parameters x candidates", "workers", *FORMS, "rank 1 / full", "table, MiB: full, rank 1"]
    table = []
    for row in rows:
        for workers, found in row["milliseconds"].items():
            ratios = [low / full for full, low in zip(found["full"], found["rank 1"], strict=True)]
            table.append([
                f"{row['dimension']:,} x {row['population']:,}", workers,
                *(f"{statistics.median(found[form]):.3g}" for form in FORMS),
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                f"{row['table_mib']['full']:.0f}, {row['table_mib']['rank 1']:.0f}",
            ])  # fmt: skip
    return (
        "Milliseconds a generation of the sphere, median of the runs' medians (the ratio: median over rounds, lowest "
        "to highest):\n\n" + markdown(header, table)
    )


# ---- evaluations to a target


def evaluations(name: str, form: str, seed: int) -> int | None:
    """Training evaluations until the unperturbed theta reaches the target; None if it does not."""
    race = races()[name]
    config = ESConfig(seed=seed, **settings_of(race, form))
    start_D, target = race.objective.initial(), race.target
    if race.relative:
        start_D = np.random.default_rng(seed).standard_normal(len(start_D)).astype(np.float32)
        target *= float(race.objective.evaluate_batch(start_D[None], np.zeros(1, np.uint64))[0])
    done: list[int] = []

    def on_generation(metrics: dict[str, Any]) -> None:
        if metrics["return.centre"] is not None and metrics["return.centre"] >= target:
            done.append(metrics["generation"] * 2 * config.pairs)
            raise Reached

    with contextlib.suppress(Reached):
        engine.run(race.objective, config, on_generation=on_generation, start_D=start_D)
    print(name, form, seed, done, flush=True)
    return done[0] if done else None


def settings_of(race: Race, form: str) -> dict[str, Any]:
    settings = {**race.settings, **FORMS[form]}
    if form == "full":
        settings.pop("matrices", None)
    return settings


def describe_races(needed: dict[str, dict[str, list[int | None]]]) -> str:
    def cell(values: list[int | None]) -> str:
        filled = [np.inf if value is None else value for value in values]
        number = sum(value is not None for value in values)
        return f"{statistics.median(filled):,.0f} ({min(filled):,.0f} to {max(filled):,.0f}; {number}/{len(values)})"

    table = [[name, *(cell(values) for values in forms.values())] for name, forms in needed.items()]
    return (
        "\nEvaluations until the unperturbed theta is at its target, median over seeds (lowest to highest; seeds that "
        "reach it):\n\n" + markdown(["task", *FORMS], table)
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
