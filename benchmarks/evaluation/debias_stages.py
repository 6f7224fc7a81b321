"""What a debiasing method trains before itself: a click model, or a first model that a hidden cause is estimated by."""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.evaluation.debias_methods import FOLDS, METHODS
from benchmarks.settings import Settings, training
from data.log import Log
from distributed.context import CPU
from distributed.finished_run import load_run
from distributed.training.launch import run_training
from funnel.network import BatchNetwork
from funnel.ranking.click_model import ROLES
from funnel.ranking.hidden_cause import clicks_of, judge
from funnel.ranking.presets import clicks
from funnel.ranking.scored_part import score_part

CLICKS, FIRST = "clicks", "first"
"""Runs of the click model and of the one that theta is estimated by, beside the log."""


def click_models(folder: Path, log: Log, shared: Settings, wanted: object) -> dict[str, str]:
    """Runs by role, trained once for a log; `wanted`: the click model's settings, FOLDS among them, or True."""
    more = dict(wanted) if isinstance(wanted, dict) else {}
    place = folder / "-".join([CLICKS, *map(str, more.values())])
    folds = int(more.pop(FOLDS, 0))
    if not folds:
        return {ROLES[0]: str(click_model(place, log, {**shared, **more}))}
    place.mkdir(exist_ok=True)
    left_out = [f"{fold}/{folds}" for fold in range(1, folds + 1)]
    runs = [click_model(place / one[0], log, {**shared, **more, "leave_out": one}) for one in left_out]
    return dict(zip(ROLES, map(str, runs), strict=False))


def click_model(run: Path, log: Log, settings: Settings) -> Path:
    """The run of the click model on this log, by the preset `clicks`; `settings` win over it, but for the figure that
    chooses the epoch."""
    if not run.exists():
        run.mkdir()
        by_clicks = clicks()
        chosen = {"stop_metric": by_clicks["stop_metric"]}
        run_training(training(run, log, {**by_clicks, **settings, **chosen}), workers=0)
    return run


def estimated_theta(run: Path, log: Log, settings: Settings) -> float:
    """theta by naive training with instruments on this log (trained once for a log)."""
    if not run.exists():
        run.mkdir()
        run_training(training(run, log, {**METHODS["naive"], **settings}), workers=0)
    network, told = load_run(run).network, dict[str, dict[str, Any]]()
    assert isinstance(network, BatchNetwork)
    for part in ("valid", "train"):
        with tempfile.TemporaryDirectory() as place:
            told[part] = judge(clicks_of(score_part(network, log, log.part(part), CPU, Path(place), [])))[0]
    held_out, seen = told["valid"], told["train"]
    valid = held_out.get("exclusion.low", -1) <= 0 <= held_out.get("exclusion.high", 1)
    found = "exclusion" in seen and not seen["theta.low"] <= 0 <= seen["theta.high"]
    return float(seen["theta"]) if valid and found else 0.0
