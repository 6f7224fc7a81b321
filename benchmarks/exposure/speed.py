"""Time and memory of the forest and of an evaluation of evolution from 1e4 to 1e6 users; two workers against one.

    python -m benchmarks.exposure.speed                                          # some minutes of a quiet machine
    python -m benchmarks.exposure.speed --cache kept.jsonl --only "size 10000"   # one point; the next command goes on

Each point is a process of its own, whose peak memory is taken. CPU-seconds are of one thread. A tree is grown on half
of the users; the figure at 40,000 rows in a tree is the one that other implementations are quoted by.
"""

import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.exposure.pieces import Pieces
from es.config import ESConfig
from es.engine import run
from funnel.exposure.forest import ForestSettings, MDP2Forest
from funnel.exposure.objective import ShareObjective
from funnel.exposure.outcome import OutcomeModel, OutcomeSettings
from funnel.exposure.overlap import Overlap, OverlapSettings
from funnel.exposure.policy import SharePolicy
from funnel.exposure.simulation import simulate

SIZES = (10_000, 80_000, 1_000_000)
WORKERS = (0, 1, 2)
WHERE = {0: "this process", 1: "1 Ray worker", 2: "2 Ray workers"}


@dataclass
class Options:
    cache: Path | None = None
    """File that keeps what was measured: the same command again goes on."""
    only: str = ""
    """Measure those points alone whose name begins so: "size", "forest", "evolution", then the users and, of the last
    two, the workers."""
    point: str = ""
    """Measure this point in this process and print it as JSON."""


def peak() -> float:
    """MB of memory, at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one_size(size: int) -> dict[str, float]:
    rows = simulate(size, 1)
    found, trees = {"rows": float(size), "data_mb": peak()}, 2 if size > 100_000 else 5
    for leaves in ("points", "additive"):
        begun = time.process_time()
        grown = MDP2Forest(ForestSettings(trees=trees, leaves=leaves)).fit(rows, 0)
        found[f"{leaves}.tree_s"] = (time.process_time() - begun) / trees
        begun = time.process_time()
        grown.shares(rows.features_RF[:100_000])
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


def forest(size: int, workers: int) -> dict[str, float]:
    """Seconds of a forest of 8 trees, the best of five (of a million users, of two), on a warm cluster."""
    from funnel.fitted import here

    rows, settings = simulate(size, 1), ForestSettings(trees=8)
    if workers:
        from jobs.cluster.connect import connect
        from jobs.cluster.ray_map import RayMap

        connect(workers)
        spread = RayMap(workers)
        MDP2Forest(dataclasses.replace(settings, trees=workers)).fit(rows, 0, spread)  # workers start and import
    seconds = []
    for _ in range(5 if size < 500_000 else 2):
        begun = time.time()
        fitted = MDP2Forest(settings).fit(rows, 0, spread if workers else here)
        seconds.append(time.time() - begun)
    return {"seconds": min(seconds), "check": float(fitted.shares(rows.features_RF[:1000])[:, 0].sum())}


def evolution(size: int, workers: int) -> dict[str, float]:
    """Seconds of a generation of 64 pairs, 5,000 users an evaluation by an outcome model, the best quarter of 8;
    what is made before the first one; peak memory; and theta's size."""
    rows, begun = simulate(size, 1), time.time()
    model = OutcomeModel.fit(rows, OutcomeSettings(steps=200), 0)
    policy = SharePolicy.of(6, rows.categories, rows.shares_RK.mean(axis=0), 24)
    objective = ShareObjective("model", policy, rows, model, Overlap.fit(rows, OverlapSettings(), 0), 5000, 50.0, 0)
    before = time.time() - begun
    if workers:
        from jobs.cluster.connect import connect

        connect(workers)
    found = run(objective, ESConfig(algorithm="pgpe", learning_rate=0.03, pairs=64, generations=9, workers=workers))
    seconds = sorted(each["seconds"] for each in found.history[1:])[:2]
    return {"seconds": float(np.mean(seconds)), "before": before, "peak_mb": peak(),
            "check": float(np.abs(found.theta).sum())}  # fmt: skip


def points() -> Iterator[tuple[str, Callable[[], dict[str, float]]]]:
    """Every point by its name."""
    for size in SIZES:
        yield f"size {size}", partial(one_size, size)
    for size in SIZES[1:]:
        for workers in WORKERS:
            yield f"forest {size} {workers}", partial(forest, size, workers)
    for size in SIZES:
        for workers in WORKERS:
            yield f"evolution {size} {workers}", partial(evolution, size, workers)


def measured(name: str) -> dict[str, float]:
    """What a process of its own prints."""
    command = [sys.executable, "-m", "benchmarks.exposure.speed", "--point", name]
    root = Path(__file__).resolve().parent.parent.parent
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout
    found: dict[str, float] = json.loads(printed.strip().splitlines()[-1])
    return found


def main(options: Options) -> None:
    if options.point:
        print(json.dumps(dict(points())[options.point]()))
        return
    pieces, found = Pieces(options.cache, 1e9), dict[str, dict[str, float]]()
    for name, _ in points():
        if name.startswith(options.only) or name in pieces.known:
            found[name] = pieces.get(name, partial(measured, name))
    sizes = [each for name, each in found.items() if name.startswith("size")]
    header = ["users", "CPU s a tree: points", "additive", "users/s: points", "additive"]
    header += ["model: 50 users, ms", "1,000 users, ms", "all users, s", "doubly robust, 50 users, ms", "peak MB"]
    lines = [
        [f"{one['rows']:,.0f}", f"{one['points.tree_s']:.3f}", f"{one['additive.tree_s']:.3f}",
         f"{one['points.users_per_s']:,.0f}", f"{one['additive.users_per_s']:,.0f}",
         f"{1000 * one['model.evaluation_50_s']:.2f}", f"{1000 * one['model.evaluation_1000_s']:.1f}",
         f"{one['model.evaluation_all_s']:.2f}", f"{1000 * one['doubly_robust.evaluation_50_s']:.1f}",
         f"{one['peak_mb']:.0f}"]
        for one in sizes
    ]  # fmt: skip
    told = (
        "A tree is grown on half of the users (6 features, 6 categories, depth 4). Evaluations are a candidate's.\n\n"
    )
    table = told + markdown(header, lines)
    table += "\nA forest of 8 trees with additive leaves, seconds of a warm cluster (best of 5 or 2)" + by_place(
        found, "forest"
    )
    table += "\nA generation of evolution, 64 pairs, 5,000 users an evaluation by an outcome model, seconds"
    table += by_place(found, "evolution")
    write_result("exposure-speed", {"points": found}, table)


def by_place(found: dict[str, dict[str, float]], kind: str) -> str:
    """Seconds by users and workers, and whether these all came to the same."""
    lines, alike = [], True
    for size in SIZES:
        own = [found.get(f"{kind} {size} {workers}") for workers in WORKERS]
        there = [each for each in own if each]
        if not there:
            continue
        alike &= len({each["check"] for each in there}) == 1
        cells = [f"{each['seconds']:.2f}" if each else "" for each in own]
        gain = f"{own[1]['seconds'] / own[2]['seconds']:.2f}x" if own[1] and own[2] else ""
        memory = f"{there[0]['peak_mb']:.0f}" if "peak_mb" in there[0] else ""
        lines.append([f"{size:,}", *cells, gain, memory])
    header = ["users", *(WHERE[workers] for workers in WORKERS), "two against one", "peak MB, this process"]
    return f"; results are {'the same' if alike else 'NOT THE SAME'}:\n\n" + markdown(header, lines)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
