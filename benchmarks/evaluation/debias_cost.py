"""What feature crossing, balance terms, click models and ensembles cost, in rows of training a second.

    python -m benchmarks.evaluation.debias_cost --rows 150000 --repeats 3

One epoch each of the ranker on a generated log, in one process of one thread, one after the other and all of them again
(medians); then jobs.ensemble, whose folds are Ray tasks, beside its folds in this process one after the other.
"""

import dataclasses
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.settings import training
from data.generate import generate_log
from data.log import open_log
from data.world import GeneratedLog
from distributed.training.launch import run_training
from funnel.ranking.click_model import ROLES
from jobs import ensemble
from jobs.cluster.connect import connect

PLAIN = {"objective.name": "escm2_ips"}
TRAININGS: dict[str, dict[str, Any]] = {
    "crossing none": {},
    "crossing fm": {"model.crossing": "fm"},
    "crossing dcn_v2, rank 16": {"model.crossing": "dcn_v2", "model.cross_rank": 16},
    "crossing dcn_v2": {"model.crossing": "dcn_v2"},
    "balance tailored": {"objective.balance.weight": 1.0},
    "balance slices": {"objective.balance.weight": 1.0, "objective.balance.kind": "slices"},
    "escm2_joint, theta 1": {"objective.name": "escm2_joint", "objective.theta": 1.0},
}
GIVEN = {"propensities of 1 model": 1, "propensities of 3 models": 3}
FOLDS = 3


@dataclass
class Arguments:
    rows: int = 150_000
    repeats: int = 3
    workers: int = 2
    """Tasks of the ensemble at a time."""
    name: str = "debias-cost"


def rate(log_at: Path, run: Path, settings: dict[str, Any], given: dict[str, str]) -> float:
    """Rows of training a second: the steps' own time, without start and validation."""
    run.mkdir()
    own = {"epochs": 1, **PLAIN, **settings}
    return float(run_training(training(run, open_log(log_at), own, given), workers=0)["train.rows_per_s"])


def ensembles(log_at: Path, folder: Path, workers: int) -> dict[str, float]:
    """Rows of training a second over all folds, starts and validations counted."""
    found = {}
    rows = open_log(log_at).part("train").rows * FOLDS
    for tasks in (0, workers):
        out = folder / f"ensemble-{tasks}"
        words = ["--data", str(log_at), "--out", str(out), "--folds", str(FOLDS), "--workers", str(tasks)]
        arguments = ensemble.arguments_of(*words, "--preset", "clicks", "--epochs", "1", "--model.crossing", "fm")
        if tasks:
            connect(tasks)  # the cluster's own start is not the ensemble's
        began = time.perf_counter()
        ensemble.run(arguments)
        found[f"ensemble of {FOLDS}, {f'{tasks} tasks' if tasks else 'one after the other'}"] = rows / (
            time.perf_counter() - began
        )
    return found


def main(arguments: Arguments) -> None:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    rates: dict[str, list[float]] = {name: [] for name in (*TRAININGS, *GIVEN)}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        plain = GeneratedLog(world="aligned", users=2000, items=1000, click_rate=0.1, conversion_rate=0.2)
        generate_log(dataclasses.replace(plain, rows=arguments.rows), folder / "log")
        together = ensembles(folder / "log", folder, arguments.workers)
        members = [str(folder / "ensemble-0" / f"fold-{fold}") for fold in range(1, FOLDS + 1)]
        for repeat in range(arguments.repeats):
            for number, (name, settings) in enumerate(TRAININGS.items()):
                rates[name].append(rate(folder / "log", folder / f"run-{repeat}-{number}", settings, {}))
            for name, models in GIVEN.items():
                given = dict(zip(ROLES, members[:models], strict=False))
                rates[name].append(rate(folder / "log", folder / f"given-{repeat}-{models}", {}, given))
    write_result(arguments.name, {"rates": rates, "ensembles": together}, describe(rates, together, arguments))


def describe(rates: dict[str, list[float]], together: dict[str, float], arguments: Arguments) -> str:
    bare = statistics.median(rates["crossing none"])
    rows = [
        [name, f"{statistics.median(found):,.0f}", f"{statistics.median(found) / bare:.2f}",
         f"{min(found):,.0f} to {max(found):,.0f}"]
        for name, found in rates.items()
    ]  # fmt: skip
    words = f"Training steps alone, {arguments.rows:,} exposures, one thread; medians of {arguments.repeats}."
    table = markdown(["training", "rows/s", "of none", "range"], rows)
    alone = next(iter(together.values()))
    whole = [[name, f"{value:,.0f}", f"{value / alone:.2f}"] for name, value in together.items()]
    more = markdown(["whole ensembles, starts and validations counted", "rows/s", "times"], whole)
    return f"{words}\n\n{table}\n{more}"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
