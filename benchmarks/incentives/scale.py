"""Fitting effects on many rows: seconds and memory of DML over vectors, in one process and with folds on Ray.

    OMP_NUM_THREADS=1 python -m benchmarks.incentives.scale --rows 100000 1000000 --workers 2

20 features, 27 strategies with three numbers each, known propensities; `data` is the size of the arrays, `extra` what
the peak resident size of the process (children not counted) rose by while it was fitted.
"""

import resource
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from funnel.effects.dml import DMLSettings, fit_dml
from funnel.effects.learners import LearnerSettings, fit_learner
from funnel.effects.nuisances import NuisanceSettings
from funnel.effects.rows import TreatedRows
from funnel.fitted import here
from funnel.incentives.strategies import grid_arms, six_arms

FEATURES = 20


@dataclass
class Arguments:
    rows: tuple[int, ...] = (100_000, 1_000_000)
    workers: int = 2
    """Ray tasks at a time; 0: no run on Ray."""
    learners: tuple[str, ...] = ("dml",)
    name: str = "incentives-scale"


def made(rows: int, arms_A3: np.ndarray) -> TreatedRows:
    draws = np.random.default_rng(0)
    x_RF = draws.standard_normal((rows, FEATURES), np.float32)
    arm_R = draws.integers(0, len(arms_A3), rows)
    dose_R = np.sqrt(arms_A3[arm_R, 0] * arms_A3[arm_R, 2])
    y_R = x_RF[:, 0] + 0.3 * dose_R * (1 + 0.5 * x_RF[:, 1]) + draws.standard_normal(rows)
    even_RA = np.broadcast_to(np.full(len(arms_A3), 1 / len(arms_A3)), (rows, len(arms_A3)))
    return TreatedRows(x_RF, y_R, arm_R, arms_A3, propensity_RA=even_RA)


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def measured(rows: int, learner: str, workers: int) -> dict[str, Any]:
    data = made(rows, grid_arms() if learner == "dml" else six_arms())
    pieces: Any = here
    if workers:
        from jobs.cluster.connect import connect
        from jobs.cluster.ray_map import RayMap

        connect(workers)
        pieces = RayMap(workers)
    before, peak, done = resident_mib(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], resident_mib())

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.perf_counter()
    if learner == "dml":
        fit_dml(data, DMLSettings(), NuisanceSettings(), 0, pieces)
    else:
        fit_learner(data, LearnerSettings(learner), NuisanceSettings(), 0, pieces)  # type: ignore[arg-type]
    seconds = time.perf_counter() - began
    done.set()
    thread.join()
    return {
        "rows": rows,
        "learner": learner,
        "workers": workers,
        "seconds": seconds,
        "data_mib": (data.x_RF.nbytes + data.outcome_R.nbytes + data.arm_R.nbytes) / 2**20,
        "extra_mib": peak[0] - before,
    }


def main(arguments: Arguments) -> None:
    found = [
        measured(rows, learner, workers)
        for rows in arguments.rows
        for learner in arguments.learners
        for workers in dict.fromkeys((0, arguments.workers))
    ]
    rows = [[one["learner"], f"{one['rows']:,}", one["workers"] or "none (one process)", f"{one['seconds']:.1f}",
             f"{one['data_mib']:,.0f}", f"{one['extra_mib']:,.0f}"] for one in found]  # fmt: skip
    write_result(arguments.name, {"cases": found},
                 markdown(["learner", "rows", "Ray workers", "s", "data MiB", "extra MiB"], rows))  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Arguments))
