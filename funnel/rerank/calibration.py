"""Calibration of the list scorer's heads (funnel/tools.py: Calibrating): logit' = slope logit + intercept of each.

A list value adds up probabilities, so they must mean what they say. Platt scaling [Platt 1999] by maximum likelihood on
the part "valid"; RUN/model/calibration.json lies beside the weights and names the model it was fitted on.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.errors import UserError
from data.files import write_whole
from data.log import Log
from funnel.panels import Table
from funnel.problem import Given
from funnel.rerank.counts import TITLES, Maps, SessionCounts, centres
from funnel.tools import Calibrated, Count, GivenTo
from models.list_scorer import HEADS

CALIBRATION = "calibration.json"
FORMAT, VERSION = "counterpoint.list_calibration", 1
FIGURES = ("log_loss", "pcoc")
STEPS = 50


@dataclass(frozen=True)
class Settings:
    method: Literal["platt", "none"] = "platt"
    """platt: slope and intercept of each head; none: take a calibration away."""


def calibrate(run: Given, given: GivenTo, log: Log, settings: Settings, count: Count) -> Calibrated:
    """Fit on "valid", count on "test"; see the protocol."""
    path = run.directory / CALIBRATION
    if settings.method == "none":
        path.unlink(missing_ok=True)
        return Calibrated()

    def counted(part: str, maps: Maps | None = None) -> SessionCounts:
        own = run.problem.settings
        empty = SessionCounts(own.alpha, own.beta, maps=maps)
        found = count(run.problem, run.network, log, log.part(part), empty)
        assert isinstance(found, SessionCounts)
        return found

    valid = counted("valid")
    maps = {head: platt(valid.bins_HP2N[h].sum(0).numpy(), TITLES[head]) for h, head in enumerate(HEADS)}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": run.checksum,
        "heads": {h: list(m) for h, m in maps.items()},
    }
    write_whole(path, json.dumps(content, indent=1) + "\n")
    after = counted("test" if "test" in log.part_names() else "valid", maps)
    figures = {f"calibrated.{name}": value for name, value in after.figures().items() if name != "absent"}
    about: dict[str, Any] = {"calibration.method": settings.method}
    for head, (slope, intercept) in maps.items():
        about |= {f"calibration.{head}.slope": slope, f"calibration.{head}.intercept": intercept}
    return Calibrated({**figures, **about}, after.curves())


def platt(bins_2N: np.ndarray, what: str) -> tuple[float, float]:
    """(slope, intercept) of largest likelihood, by Newton's method on counts by bin. Raises UserError for one class."""
    negative_N, positive_N = bins_2N.astype(np.float64)
    if not negative_N.sum() or not positive_N.sum():
        raise UserError(f"{what} is the same in all rows of the part valid: it cannot be calibrated")
    x_N, total_N = centres(), negative_N + positive_N
    theta = np.array([1.0, 0.0])
    for _ in range(STEPS):
        chance_N = 1 / (1 + np.exp(-(theta[0] * x_N + theta[1])))
        gap_N, curve_N = positive_N - total_N * chance_N, total_N * chance_N * (1 - chance_N)
        gradient = np.array([(gap_N * x_N).sum(), gap_N.sum()])
        curved = np.array(
            [[(curve_N * x_N**2).sum(), (curve_N * x_N).sum()], [(curve_N * x_N).sum(), curve_N.sum()]]
        ) + 1e-9 * np.eye(2)
        step = np.linalg.solve(curved, gradient)
        theta = theta + step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-10:
            break
    if not (math.isfinite(theta[0]) and theta[0] > 0):
        raise UserError(f"{what}: the scores do not rise with the outcome on the part valid: train it before")
    return float(theta[0]), float(theta[1])


def load(directory: Path, model: str) -> Maps | None:
    """What `calibrate` left, or None. Raises UserError for a broken file or one of another model."""
    path = directory / CALIBRATION
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        maps = {head: (float(content["heads"][head][0]), float(content["heads"][head][1])) for head in HEADS}
        known = content["format"] == FORMAT and content["version"] == VERSION
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: broken ({type(error).__name__}): run jobs.calibrate again") from None
    if not known or content.get("model") != model:
        raise UserError(f"{path}: was fitted on another model than the one it lies beside: run jobs.calibrate again")
    return maps


def results(summary: Mapping[str, Any], part: str) -> Table:
    """Before and after."""
    rows = []
    for head in HEADS:
        for name in FIGURES:
            key = f"{head}.{name}"
            rows.append((f"{TITLES[head]}, {name}", summary.get(key, ""), summary.get(f"calibrated.{key}", "")))
    ratio = "reward.ratio"
    rows.append(("list reward, predicted / observed", summary.get(ratio, ""), summary.get(f"calibrated.{ratio}", "")))
    return Table(f"{part} part", ("figure", "before", "after"), tuple(rows))
