"""Small stage logs for the tests of pre-ranking: a tiny cascade, and requests written by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from support import settings_of

from data.log import open_log
from data.schema import Schema, TruthColumns
from data.write import PartWriter, new_log
from distributed.training.job import TrainJob
from distributed.training.launch import prepare
from funnel.prerank.logs import CascadeLogs, CascadeLogSettings
from funnel.prerank.problem import PreRank
from funnel.prerank.settings import PreRankSettings
from funnel.prerank.world import CascadeSettings
from jobs import train

TINY = CascadeSettings(users=200, items=150, queries=6, dimensions=4, candidates=40, kept=16, page=5, looked_at=20)
ASKED: dict[str, Any] = {"requests": 160, "valid": 40, "test": 40, "negatives": 12, "rows_per_group": 400,
                         "rows_per_file": 2000, "elsewhere": 1.0, "seed": 4}  # fmt: skip
QUICK = ("--workers", "0", "--epochs", "2", "--batch-size", "16", "--stream.lanes", "6", "--k", "16", "--shown", "5",
         "--stream.shuffle-rows", "40", "--ranked", "5", "--cut", "8", "--model.hidden", "8", "--model.output", "4",
         "--optimizer.learning-rate", "0.02")  # fmt: skip
"""Words for jobs.train."""


def cascade(place: Path, world: CascadeSettings = TINY, **more: Any) -> Path:
    """A tiny cascade's log."""
    CascadeLogs.write(world, CascadeLogSettings(**{**ASKED, **more}), {}, "plain", place)
    return place


FLAGS = ("realshow", "rerank_pos", "rank_pos", "rank_neg", "prerank_neg", "click", "purchase", "elsewhere_click",
         "elsewhere_purchase")  # fmt: skip
STAGE = {
    "shown": {"realshow": 1, "rerank_pos": 1, "rank_pos": 1},
    "ranked": {"rank_neg": 1},
    "cut": {"prerank_neg": 1},
    "outside": {},
}


def row(request: int, item: int, stage: str, x: float = 0.0, **more: Any) -> dict[str, Any]:
    """A row of a log written by hand; x: what the item tower sees."""
    flags = {**dict.fromkeys(FLAGS, 0), **STAGE[stage]}
    first = {"exposure_id": 1000 * request + item, "request_id": request, "user_id": request % 3, "item_id": item,
             "request_timestamp": request, "user_x": 1.0, "item_x": x}  # fmt: skip
    return {**first, **flags, **more}


def by_hand(place: Path, rows: list[dict[str, Any]], rows_per_group: int = 1000) -> Path:
    """A log whose three parts are these rows."""
    truth = TruthColumns("exposure_id", "potential", "propensity", "chance")
    schema = Schema("by hand", (), ("user_x", "item_x"), {"click": "click", "conversion": "purchase"}, "exposure_id",
                    "user_id", "request_id", truth=truth)  # fmt: skip
    table = pa.Table.from_pylist(rows)
    chances = pa.table({
        "exposure_id": table.column("exposure_id"), "potential": table.column("purchase").cast(pa.int8()),
        "propensity": pa.array(np.full(len(rows), 0.5, np.float32)),
        "chance": pa.array(np.linspace(0.1, 0.9, len(rows)).astype(np.float32)),
    })  # fmt: skip
    with new_log(place, schema) as directory:
        for part in ("train", "valid", "test"):
            with PartWriter(directory, part, schema, 10_000, rows_per_group) as writer:
                writer.write(table, chances)
    return place


SMALL = {
    "batch_size": 16,
    "epochs": 2,
    "log_steps": 5,
    "stream.lanes": 6,
    "stream.shuffle_rows": 40,
    "k": 16,
    "shown": 5,
    "ranked": 5,
    "cut": 8,
    "model.hidden": (8,),
    "model.output": 4,
    "optimizer.learning_rate": 0.02,
}


def job_of(run: Path, log_dir: Path, given: dict[str, str] | None = None, **more: Any) -> TrainJob:
    run.mkdir(parents=True, exist_ok=True)
    settings = settings_of({**SMALL, **{key.replace("__", "."): value for key, value in more.items()}}, PreRankSettings)
    return prepare(run, open_log(log_dir), *settings, started=0.0, problem="prerank", given=given)


def problem_of(log_dir: Path, **settings: Any) -> PreRank:
    log = open_log(log_dir)
    own = PreRankSettings(**{"k": 3, "shown": 2, "ranked": 1, "cut": 1, **settings})
    facts = PreRank.prepare(own, log, {name: log.part(name) for name in ("train", "valid", "test")})
    return PreRank(own, log.schema, facts, {})


def teacher_run(place: Path) -> Path:
    """A ranker trained on what was shown in the same world."""
    log = cascade(place / "shown", log="exposures")
    words = ["--workers", "0", "--epochs", "1", "--batch-size", "200", "--model.backbone.expert-hidden", "8",
             "--objective.name", "esmm", "--calibrate", "platt"]  # fmt: skip
    train.run(train.arguments_of("--data", str(log), "--out", str(place / "run"), *words))
    return place / "run"
