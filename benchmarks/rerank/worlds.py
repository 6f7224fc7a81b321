"""What the closed-loop benchmarks of re-ranking share: two kinds of worlds, logs of several of each, trained scorers.

    python benchmarks/rerank/worlds.py logs          # minutes
    python benchmarks/rerank/worlds.py train         # a minute a scorer

plain   the platform as it is: what was shown before acts by fatigue alone, and a user's taste is known
moods   in every visit the user is in the mood for a category that no system is told (PlatformSettings.mood 1.5)

A scorer learns from the sessions of the SEEDS' worlds, in which pages are drawn from 20 ranked items with noise on the
order; it is used in worlds of other seeds. Ids are left out: they mean nothing in another world.
"""

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from benchmarks.bench import markdown, write_result
from data.log import open_log
from data.write import PartWriter, new_log
from distributed.config import OptimizerConfig, StreamConfig, TrainConfig
from distributed.finished_run import load_run
from distributed.training.job import TrainJob
from distributed.training.launch import prepare, run_training
from distributed.training.validation import count
from funnel.platform.logs.writer import LogSettings, PlatformLogs
from funnel.platform.settings import PlatformSettings
from funnel.rerank.calibration import Settings as CalibrationSettings
from funnel.rerank.calibration import calibrate, load
from funnel.rerank.features import RerankSettings
from funnel.rerank.weights import save
from models.list_scorer import HEADS, ListScorerConfig

PLACE = Path("runs/rerank")
SEEDS = {"plain": range(101, 107), "moods": range(101, 117)}
ROWS = {"plain": 60_000, "moods": 20_000}
"""Of each seed's world. Categories mean other things in every world, so what carries over is learnt from many."""
EPOCHS = {"plain": 3, "moods": 2}
"""Context moves the third digit of the log-loss: after one epoch of the moods no gain was to be seen in the loop."""
SIZE = PlatformSettings(users=1000, items=500, uploads=40)
WORLDS = {"plain": SIZE, "moods": replace(SIZE, mood=1.5)}
LOGGING = {"reranking": {"kind": "shuffled", "candidates": 20, "temperature": 1.0}}
KINDS = {
    "full": RerankSettings(),
    "no feedback": RerankSettings(feedback=()),
    "attention alone": RerankSettings(model=ListScorerConfig(kernels=0)),
    "no context": RerankSettings(feedback=(), model=ListScorerConfig(before=0)),
}
"""Ablation: with real-time feedback features, with the watched items alone, without likeness, and point-wise."""
APART = 10**12
"""Visits and exposures of one world's log are numbered from here times its place among them."""


def logs(name: str) -> Path:
    """One log of the sessions of all worlds of the SEEDS; made once."""
    target = PLACE / name / "log"
    if target.exists():
        return target
    places = []
    for seed in SEEDS[name]:
        places.append(PLACE / name / f"seed{seed}")
        if not places[-1].exists():
            asked = LogSettings(log="sessions", rows=ROWS[name], seed=seed, warmup=3)
            PlatformLogs.write(WORLDS[name], asked, LOGGING, "logging", places[-1])
    schema = replace(open_log(places[0]).schema, truth=None)
    with new_log(target, schema) as directory:
        for part in ("train", "valid", "test"):
            with PartWriter(directory, part, schema) as writer:
                for number, place in enumerate(places):
                    for path in sorted((place / part).glob("*.parquet")):
                        writer.write(moved(pq.read_table(path), number))
    return target


def moved(table: pa.Table, number: int) -> pa.Table:
    """The rows of a world with numbers of visits and exposures that no other world of the log has."""
    for name in ("visit_id", "exposure_id"):
        column = pc.add(table.column(name).cast(pa.int64()), number * APART)
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def weights_of(world: str, kind: str) -> Path:
    return PLACE / world / kind.replace(" ", "_") / "list_scorer.npz"


def trained(world: str, kind: str) -> Path:
    """The weights of a scorer of that kind, trained by the project's own loop and calibrated; made once."""
    weights = weights_of(world, kind)
    place = weights.parent
    if weights.exists():
        return weights
    shutil.rmtree(place, ignore_errors=True)
    (place / "run").mkdir(parents=True)
    config = TrainConfig(
        epochs=EPOCHS[world],
        batch_size=64,
        seed=0,
        background_checkpoints=False,
        optimizer=OptimizerConfig(learning_rate=3e-3),
        stream=StreamConfig(lanes=4, shuffle_rows=8192),
    )
    job: TrainJob = prepare(place / "run", open_log(logs(world)), config, KINDS[kind], time.time(), "rerank")
    summary = run_training(job, workers=0)
    run = load_run(place / "run")

    def counted(problem: Any, network: Any, log: Any, part: Any, counts: Any) -> Any:
        return count(problem, network, log, part, counts, None, torch.device("cpu"))

    found = calibrate(run.given, lambda role: None, open_log(logs(world)), CalibrationSettings(), counted)
    (place / "summary.json").write_text(json.dumps({**summary, **found.figures}, default=str))
    save(weights, run.problem, run.network.scorer, load(run.directory, run.checksum))  # type: ignore[arg-type]
    return weights


def table(result: str) -> None:
    """Figures of all scorers on the test parts of their logs."""
    rows, figures = [], {}
    for world in WORLDS:
        for kind in KINDS:
            path = PLACE / world / kind.replace(" ", "_") / "summary.json"
            if not path.exists():
                continue
            summary = json.loads(path.read_text())
            figures[f"{world}, {kind}"] = summary
            shown = [f"{summary[f'{head}.{name}']:.4f}" for head in HEADS for name in ("log_loss", "auc")]
            ratio = f"{summary['reward.ratio']:.3f}, {summary['calibrated.reward.ratio']:.3f}"
            rows.append([world, kind, summary["rows"], *shown, ratio])
    header = ["world", "scorer", "test rows", *(f"{head}: {name}" for head in HEADS for name in ("log-loss", "AUC"))]
    text = markdown([*header, "predicted / observed reward, before and after calibration"], rows)
    write_result(result, figures, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("logs", "train", "table"))
    parser.add_argument("--world", choices=tuple(WORLDS))
    parser.add_argument("--kind", choices=tuple(KINDS))
    parser.add_argument("--result", default="rerank-scorers", help="name of the table's file")
    given = parser.parse_args()
    if given.what == "table":
        table(given.result)
    for world in [given.world] if given.world else list(WORLDS):
        if given.what == "logs":
            logs(world)
        elif given.what == "train":
            for kind in [given.kind] if given.kind else list(KINDS):
                trained(world, kind)


if __name__ == "__main__":
    main()
