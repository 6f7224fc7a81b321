"""What a debiasing method trains before itself: a click model, or a first model that a hidden cause is estimated by."""

from pathlib import Path
from typing import Any

from benchmarks.evaluation.debias_methods import FOLDS
from benchmarks.settings import Settings, training
from data.log import Log
from distributed.finished_run import load_run
from distributed.training.launch import run_training
from funnel.ranking.click_model import ROLES
from funnel.ranking.presets import clicks
from funnel.ranking.problem import EntireSpaceSettings
from funnel.ranking.theta import settled
from models.objectives.base import ObjectiveConfig

CLICKS, FIRST = "clicks", "first"
"""Runs of the click model and of the one that theta is estimated by, beside the log."""


def click_models(folder: Path, log: Log, shared: Settings, wanted: object) -> dict[str, str]:
    """Runs by role, trained once for a log; `wanted`: the click model's settings, FOLDS among them."""
    assert isinstance(wanted, dict)
    more = dict(wanted)
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


def estimated_theta(run: Path, log: Log, settings: Settings, how: str) -> tuple[float, dict[str, float]]:
    """(theta, figures "cause.theta.low" ... of its estimate) by a click model with instruments on this log (trained
    once for a log), as jobs.train has it; `how`: estimated or shrunk."""
    if not run.exists():
        run.mkdir()
        run_training(training(run, log, {**settings, **clicks()}), workers=0)
    parts = {name: log.part(name) for name in ("train", "valid")}
    wanted = EntireSpaceSettings(objective=ObjectiveConfig(name="escm2_joint", theta=how))
    found, figures, _ = settled(wanted, load_run(run).given, log, parts)
    return float(found.objective.theta), numbers(figures)


def numbers(figures: dict[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in figures.items() if isinstance(value, int | float)}
