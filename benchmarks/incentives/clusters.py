"""Which clusters lose least: k-means on features, on a network's representation, deep clusters, and on the effects.

    OMP_NUM_THREADS=1 python -m benchmarks.incentives.clusters --seeds 5

DragonNet is trained on 40,000 even rows by jobs.train's loop; its effects and representation of 20,000 other users are
spent by cluster under a budget of 1. Figures are shares of the oracle's gain (benchmarks/incentives/effects.py).
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.incentives.effects import MINUTE, Case, day_of, spread, training_rows
from data.log import open_log
from data.schema import Schema
from data.treatment import TreatmentColumns
from distributed.config import TrainConfig
from distributed.finished_run import load_run
from distributed.training.launch import prepare, run_training
from funnel.incentives.clusters import Clusters
from funnel.incentives.deep_clusters import deep_clusters
from funnel.incentives.plan import per_group, per_user
from funnel.incentives.problem import DragonNetSettings
from funnel.incentives.world import FEATURES
from funnel.settings import changed

COUNTS = (10, 50, 200, 1000)
KINDS = ("features", "representation", "deep", "effects")


@dataclass
class Arguments:
    seeds: int = 5
    epochs: int = 6
    cache: Path = Path("/tmp/incentives-clusters.jsonl")


def network(seed: int, epochs: int) -> Any:
    """(effects, representation) as functions of features."""
    rows = training_rows(Case("dragonnet", 40_000), seed)
    place = Path(tempfile.mkdtemp())
    schema = Schema("rewards", (), FEATURES, {}, treatment=TreatmentColumns("arm"), outcome={"value": "value"})
    ends = {"train": slice(0, 32_000), "valid": slice(32_000, 36_000), "test": slice(36_000, 40_000)}
    for part, piece in ends.items():
        (place / "log" / part).mkdir(parents=True)
        columns = {**dict(zip(FEATURES, rows.x_RF[piece].T, strict=True)), "arm": rows.arm_R[piece],
                   "value": rows.outcome_R[piece]}  # fmt: skip
        pq.write_table(pa.table(columns), place / "log" / part / "a.parquet", row_group_size=4000)
    schema.save(place / "log" / "schema.json")
    config = changed(TrainConfig(), {"batch_size": 500, "epochs": epochs, "stream.lanes": 2, "seed": seed,
                                     "optimizer.learning_rate": 2e-3})  # fmt: skip
    settings = changed(DragonNetSettings(), {"model.hidden": [64, 64], "model.head": [32], "beta": 0.0, "alpha": 0.1})
    (place / "run").mkdir()
    run_training(prepare(place / "run", open_log(place / "log"), config, settings, 0.0, "dragonnet"), workers=0)
    finished = load_run(place / "run")
    shutil.rmtree(place)
    problem: Any = finished.problem
    return (
        (lambda x: problem.effects(finished.network, x)),
        (lambda x: problem.representation(finished.network, x)),
        rows,
    )


def measured(seed: int, epochs: int) -> dict[str, Any]:
    effects, representation, rows = network(seed, epochs)
    world, user_N = day_of(56_000, 10_000 + seed, rows.arms_AT)
    user_N = user_N[:20_000]
    x_NF, truth = world.features(user_N), world.truth(user_N, rows.arms_AT)
    value_NA, cost_NA = truth.value(MINUTE), truth.cost_NA
    true_NA, effect_NA, z_NZ = value_NA - value_NA[:, :1], effects(x_NF), representation(x_NF)
    own_N = np.arange(len(user_N))

    def gained(arm_N: np.ndarray) -> float:
        return float(true_NA[own_N, arm_N].mean())

    best = gained(per_user(value_NA, cost_NA, 1.0).arm_R)
    found: dict[str, Any] = {"seed": seed, "user": gained(per_user(effect_NA, cost_NA, 1.0).arm_R) / best}
    for count in COUNTS:
        groups = {
            "features": Clusters.fit(x_NF, count, seed).of(x_NF),
            "representation": Clusters.fit(z_NZ, count, seed, False).of(z_NZ),
            "deep": deep_clusters(z_NZ, count, seed).of(z_NZ),
            "effects": Clusters.fit(effect_NA[:, 1:], count, seed, False).of(effect_NA[:, 1:]),
        }
        for kind, group_N in groups.items():
            found[f"{kind}.{count}"] = gained(per_group(effect_NA, cost_NA, group_N, 1.0).arm_R) / best
            found[f"true.{kind}.{count}"] = gained(per_group(value_NA, cost_NA, group_N, 1.0).arm_R) / best
    return found


def main(arguments: Arguments) -> None:
    known: dict[int, dict[str, Any]] = {}
    if arguments.cache.exists():
        known = {one["seed"]: one for one in map(json.loads, arguments.cache.read_text().splitlines())}
    for seed in range(arguments.seeds):
        if seed not in known:
            known[seed] = measured(seed, arguments.epochs)
            with arguments.cache.open("a") as file:
                file.write(json.dumps(known[seed]) + "\n")
    found = [known[seed] for seed in range(arguments.seeds)]
    rows = [[kind, *(f"{spread([one[f'{kind}.{count}'] for one in found])} "
                     f"({np.mean([one[f'true.{kind}.{count}'] for one in found]):.3f})" for count in COUNTS)]
            for kind in KINDS]  # fmt: skip
    rows.append(["each user", spread([one["user"] for one in found]), *[""] * (len(COUNTS) - 1)])
    write_result("incentives-clusters", {"seeds": found},
                 markdown(["clusters of", *(f"{count} (with true effects)" for count in COUNTS)], rows))  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Arguments))
