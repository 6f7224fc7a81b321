"""Time and memory of the forest and of an evaluation of evolution from 1e4 to 1e6 users; two workers against one.

    python -m benchmarks.exposure.speed                  # some minutes of a quiet machine

Each size is a process of its own, whose peak memory is taken. CPU-seconds are of one thread. A tree is grown on half of
the users; the figure at 40,000 rows in a tree is the one that other implementations are quoted by.
"""

import dataclasses
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from es.config import ESConfig
from es.engine import run
from funnel.exposure.forest import ForestSettings, MDP2Forest
from funnel.exposure.objective import ShareObjective
from funnel.exposure.outcome import OutcomeModel, OutcomeSettings
from funnel.exposure.overlap import Overlap, OverlapSettings
from funnel.exposure.policy import SharePolicy
from funnel.exposure.simulation import simulate

SIZES = (10_000, 80_000, 1_000_000)


@dataclass
class Options:
    size: int = 0
    """Measure this one alone and print it as JSON."""
    workers: int = -1
    """Grow a forest of 8 trees on 80,000 users with so many Ray workers, and print its seconds; 0: none."""
    evolve: int = -1
    """Evolve on an outcome model with 5,000 users an evaluation and so many Ray workers; 0: none."""


def peak() -> float:
    """MB of memory, at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one_size(size: int) -> dict[str, float]:
    rows = simulate(size, 1)
    found, trees = {"rows": float(size), "data_mb": peak()}, 2 if size > 100_000 else 5
    for leaves in ("points", "additive"):
        begun = time.process_time()
        forest = MDP2Forest(ForestSettings(trees=trees, leaves=leaves)).fit(rows, 0)
        found[f"{leaves}.tree_s"] = (time.process_time() - begun) / trees
        begun = time.process_time()
        forest.shares(rows.features_RF[:100_000])
        found[f"{leaves}.users_per_s"] = min(size, 100_000) / (time.process_time() - begun)
        found[f"{leaves}.peak_mb"] = peak()
    begun = time.process_time()
    model = OutcomeModel.fit(rows, OutcomeSettings(steps=500), 0)
    found["outcome_model_500_steps_s"] = time.process_time() - begun
    policy = SharePolicy.of(6, rows.categories, rows.shares_RK.mean(axis=0), 24)
    overlap = Overlap.fit(rows, OverlapSettings(), 0)
    for estimate in ("model", "doubly_robust"):
        for users, times in ((50, 64), (1000, 32), (size, 1)):
            objective = ShareObjective(estimate, policy, rows, model, overlap, users, 50.0, 0)
            theta_PD = np.tile(objective.initial(), (times, 1))
            theta_PD += 0.1 * np.random.default_rng(1).standard_normal(theta_PD.shape).astype(np.float32)
            seeds_P = np.arange(times, dtype=np.uint64)
            objective.evaluate_batch(theta_PD, seeds_P)
            begun = time.process_time()
            objective.evaluate_batch(theta_PD, seeds_P)
            seconds = (time.process_time() - begun) / times
            found[f"{estimate}.evaluation_{'all' if users == size else users}_s"] = seconds
    return found | {"peak_mb": peak()}


def with_workers(workers: int) -> dict[str, float]:
    from funnel.fitted import here

    rows, settings = simulate(80_000, 1), ForestSettings(trees=8)
    if workers:
        from jobs.cluster.connect import connect
        from jobs.cluster.ray_map import RayMap

        connect(workers)
        spread = RayMap(workers)
        MDP2Forest(dataclasses.replace(settings, trees=workers)).fit(rows, 0, spread)  # workers start and import
    begun = time.time()
    forest = MDP2Forest(settings).fit(rows, 0, spread if workers else here)
    seconds = time.time() - begun
    return {"seconds": seconds, "check": float(forest.shares(rows.features_RF[:1000])[:, 0].sum())}


def evolved(workers: int) -> dict[str, float]:
    """Seconds of a generation of 64 pairs, the better half of 8, and theta's first number."""
    rows = simulate(80_000, 1)
    model = OutcomeModel.fit(rows, OutcomeSettings(steps=200), 0)
    policy = SharePolicy.of(6, rows.categories, rows.shares_RK.mean(axis=0), 24)
    objective = ShareObjective("model", policy, rows, model, Overlap.fit(rows, OverlapSettings(), 0), 5000, 50.0, 0)
    if workers:
        from jobs.cluster.connect import connect

        connect(workers)
    found = run(objective, ESConfig(algorithm="pgpe", learning_rate=0.03, pairs=64, generations=9, workers=workers))
    seconds = sorted(each["seconds"] for each in found.history[1:])[:4]
    return {"seconds": float(np.mean(seconds)), "check": float(np.abs(found.theta).sum())}


def measured(*words: object) -> dict[str, float]:
    """What a process of its own prints."""
    command = [sys.executable, "-m", "benchmarks.exposure.speed", *map(str, words)]
    root = Path(__file__).resolve().parent.parent.parent
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout
    found: dict[str, float] = json.loads(printed.strip().splitlines()[-1])
    return found


def main(options: Options) -> None:
    if options.size or options.workers >= 0 or options.evolve >= 0:
        by_workers = with_workers(options.workers) if options.workers >= 0 else None
        print(json.dumps(one_size(options.size) if options.size else by_workers or evolved(options.evolve)))
        return
    sizes = [measured("--size", size) for size in SIZES]
    spread = {str(workers): [measured("--workers", workers) for _ in range(2)] for workers in (0, 1, 2)}
    header = [
        "users",
        "CPU s a tree, points",
        "additive",
        "users/s, points",
        "additive",
        "evaluation by a model, 50 users, ms",
        "1,000 users, ms",
    ]
    header += ["of all users, s", "doubly robust, 50 users, ms", "data MB", "peak MB"]
    lines = [
        [f"{one['rows']:,.0f}", f"{one['points.tree_s']:.3f}", f"{one['additive.tree_s']:.3f}",
         f"{one['points.users_per_s']:,.0f}", f"{one['additive.users_per_s']:,.0f}",
         f"{1000 * one['model.evaluation_50_s']:.2f}", f"{1000 * one['model.evaluation_1000_s']:.1f}",
         f"{one['model.evaluation_all_s']:.2f}", f"{1000 * one['doubly_robust.evaluation_50_s']:.1f}",
         f"{one['data_mb']:.0f}", f"{one['peak_mb']:.0f}"]
        for one in sizes
    ]  # fmt: skip
    table = "A tree is grown on half of the users (6 features, 6 categories, depth 4).\n\n" + markdown(header, lines)
    generations = {str(workers): [measured("--evolve", workers)] for workers in (0, 1, 2)}
    table += "\nA forest of 8 trees with additive leaves on 80,000 users, seconds of a warm cluster (better of 2)"
    table += by_place(spread)
    table += "\nA generation of evolution, 64 pairs, 5,000 users an evaluation by an outcome model" + by_place(
        generations
    )
    write_result("exposure-speed", {"sizes": sizes, "workers": spread, "evolution": generations}, table)


def by_place(runs_of: dict[str, list[dict[str, float]]]) -> str:
    """Seconds by number of workers, and whether they all came to the same."""
    best = {workers: min(each["seconds"] for each in runs) for workers, runs in runs_of.items()}
    alike = len({each["check"] for runs in runs_of.values() for each in runs}) == 1
    names = {"0": "this process", "1": "1 Ray worker", "2": "2 Ray workers"}
    rows = [[names[key], f"{value:.2f}", f"{best['0'] / value:.2f}x"] for key, value in best.items()]
    head = f"; results are {'the same' if alike else 'NOT THE SAME'}:\n\n"
    return head + markdown(["where", "s", "against this process"], rows)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
