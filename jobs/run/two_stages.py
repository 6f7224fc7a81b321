"""Training in two stages: a click model first, then ESCM2 with its propensities (funnel/ranking/click_model.py)."""

import zlib
from pathlib import Path
from typing import Any

from data.schema import Schema
from distributed.checkpoint.read import MODEL_DIRECTORY, OPTIMIZER, RECORD, read_record
from distributed.config import TrainConfig
from funnel.ranking.calibration import CALIBRATION
from jobs.run.directory import RUN_FILE, read_json
from jobs.run.start_from import same_features

OPTION = "--propensities"
UNWEIGHTED = ("naive", "mtl_imp", "esmm")


def about_click_model(run: Path) -> dict[str, Any]:
    """Which model a finished run holds: its place, step and checksums. Raises ValueError if it is none."""
    run = run.expanduser().absolute()
    directory = run / MODEL_DIRECTORY
    if not (directory / RECORD).exists():
        raise ValueError(f"{OPTION} {run}: holds no trained model; name a finished run of jobs.train")
    record = read_record(directory / RECORD)
    checksums = {name: value for name, value in record["checksums"].items() if name != OPTIMIZER}
    calibration = directory / CALIBRATION
    if calibration.exists():
        checksums[CALIBRATION] = zlib.crc32(calibration.read_bytes())
    return {"run": str(run), "step": record["progress"]["step"], "checksums": checksums}


def check_propensities(run: Path, schema: Schema, config: TrainConfig, out: Path) -> dict[str, Any]:
    """Facts for run.json about the click model that weighs the clicks of a training in `out`.

    Raises ValueError: no finished training run, other features, another model than the run in `out` was begun with, or
    an objective that weighs nothing.
    """
    run = run.expanduser().absolute()
    if config.objective.name in UNWEIGHTED:
        raise ValueError(f"{OPTION} {run}: objective {config.objective.name} uses no propensities")
    facts = about_click_model(run)
    record = run / MODEL_DIRECTORY / RECORD
    same_features(f"{OPTION} {run}", Schema.from_dict(read_record(record)["schema"], f"{record}: schema"), schema)
    began_with = read_json(out / RUN_FILE).get("propensities") if (out / RUN_FILE).exists() else None
    if began_with is not None and began_with != facts:
        raise ValueError(f"{OPTION} {run}: holds another model now than when {out} was begun")
    return facts
