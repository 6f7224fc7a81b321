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
    """(slope, intercept) of largest likelihood, by Newton's method on counts by bin. Where the scores do not rise with
    the outcome (a head that has learnt nothing) the slope is 1 and the intercept alone is fitted: the mean is right.

    Raises UserError where all outcomes are the same.
    """
    if not bins_2N.sum(1).all():
        raise UserError(f"{what} is the same in all rows of the part valid: it cannot be calibrated")
    x_N2 = np.stack([centres(), np.ones(len(centres()))], 1)
    theta = newton(bins_2N, x_N2, np.array([1.0, 0.0]), 2)
    if not (math.isfinite(theta[0]) and theta[0] > 0):
        theta = newton(bins_2N, x_N2, np.array([1.0, 0.0]), 1)
    return float(theta[0]), float(theta[1])


def newton(bins_2N: np.ndarray, x_N2: np.ndarray, theta: np.ndarray, free: int) -> np.ndarray:
    """The last `free` numbers of theta of largest likelihood; the others stay."""
    positive_N, total_N = bins_2N[1].astype(np.float64), bins_2N.sum(0).astype(np.float64)
    x_ND = x_N2[:, 2 - free :]
    for _ in range(STEPS):
        chance_N = 1 / (1 + np.exp(-(x_N2 @ theta)))
        curve_N = total_N * chance_N * (1 - chance_N)
        curved_DD = x_ND.T @ (curve_N[:, None] * x_ND) + 1e-9 * np.eye(free)
        step_D = np.linalg.solve(curved_DD, x_ND.T @ (positive_N - total_N * chance_N))
        largest = max(float(np.abs(step_D).max()), 1e-12)
        theta = theta + np.concatenate([np.zeros(2 - free), step_D * min(1.0, 2.0 / largest)])
        if largest < 1e-10:
            break
    return theta


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
