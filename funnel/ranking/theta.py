"""theta of a hidden cause, estimated by a training that comes first: a click model with the same instruments.

It is the preset `clicks`: what of interest a model has not learnt is hidden to it, and a naive training's click tower
knows little (logits that correlate with the true ones at .65 to .75, a click model's at .84 to .9, where nothing is
hidden). So its theta is nearer to the cause's own, and its error a sixth smaller.

What is estimated of the clicks that this training has learnt from (hidden_cause.py) is held in the joint training.
Where it cannot be told from 0, or its error is large, nothing is claimed, and what is held is 0, which makes the
training naive (`estimated`), or

    theta max(0, 1 - (error/theta)^2)         (`shrunk`) [the positive part of James and Stein 1961]

which is about 0 where the estimate is no larger than its error, and the estimate where that is small: a forecast is to
be right on average, and a cause that cannot be told from 0 is not 0 for that. It is 0 for both where the instruments
fail their test or tell nothing, where the estimate's error is too large for any estimate to mean something, and where
the estimate is below 0, which is what instruments that sell look like.
"""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from data.log import Log, Part
from funnel.network import BatchNetwork
from funnel.problem import Given
from funnel.ranking.hidden_cause import COVERED, WIDEST, Z95, clicks_of, decide
from funnel.ranking.scored_part import score_part
from models.objectives.base import SHRUNK, TOLD, ObjectiveConfig

DIGITS = 3
"""Of theta, when it is held: a training that goes on after a stop is the same one, whatever last bits are."""
FIGURES = "cause."
Own = TypeVar("Own")


PRESET = "clicks"


def first(settings: Own) -> tuple[Own, str] | None:
    """(settings of the training that theta is estimated by, its preset); None where theta is not to be estimated."""
    objective: ObjectiveConfig = settings.objective  # type: ignore[attr-defined]
    if objective.theta not in TOLD:
        return None
    naive = ObjectiveConfig(name="naive", lambda_ctr=objective.lambda_ctr, clip=objective.clip)
    return dataclasses.replace(settings, objective=naive), PRESET  # type: ignore[type-var]


def settled(settings: Own, before: Given, log: Log, parts: Mapping[str, Part]) -> tuple[Own, dict[str, Any], str]:
    """(settings with a number for theta, figures "cause.theta", "cause.theta.low", ... and "absent", a sentence)."""
    assert isinstance(before.network, BatchNetwork)
    device, clicks = torch.device("cuda" if torch.cuda.is_available() else "cpu"), {}
    network = before.network.to(device)
    for name in ("train", "valid"):
        with tempfile.TemporaryDirectory() as folder:
            clicks[name] = clicks_of(score_part(network, log, parts[name], device, Path(folder), []))
    figures, reason = decide(clicks["train"], clicks["valid"])
    theta = 0.0 if reason else figures["theta"]
    if settings.objective.theta == SHRUNK and reason in ("", COVERED):  # type: ignore[attr-defined]
        error = (figures["theta.high"] - figures["theta.low"]) / (2 * Z95)
        theta = max(0.0, shrunk(figures["theta"], error)) if not reason or error <= WIDEST else 0.0
    theta = round(theta, DIGITS)
    objective = dataclasses.replace(settings.objective, theta=theta)  # type: ignore[attr-defined]
    found = {f"{FIGURES}{name}": value for name, value in figures.items()}
    absent = {"absent": {f"{FIGURES}claimed": reason}} if reason else {}
    return dataclasses.replace(settings, objective=objective), found | absent, says(figures, theta, reason)  # type: ignore[type-var]


def shrunk(theta: float, error: float) -> float:
    """Drawn towards 0 by the share of its square that its error explains."""
    return theta * max(0.0, 1 - (error / theta) ** 2) if theta else 0.0


def says(figures: Mapping[str, Any], theta: float, reason: str) -> str:
    bounds = ""
    if "theta" in figures:
        bounds = f" (estimate {figures['theta']:.2f}, 95% interval {figures['theta.low']:.2f} to "
        bounds += f"{figures['theta.high']:.2f}, {figures['clicks']:,} clicks)"
    if reason:
        what = "theta is held at 0, which is naive training" if not theta else f"theta is held at {theta:g}, shrunk"
        return f"hidden cause: nothing is claimed, as {reason}{bounds}; {what}"
    told = ""
    if "exclusion.low" in figures:
        told = f"; these clicks put that at {figures['exclusion.low']:.1f} to {figures['exclusion.high']:.1f}"
    rests = f"it rests on instruments that move conversions through clicks alone{told}"
    return f"hidden cause: theta is held at {theta:g}{bounds}; {rests}"
