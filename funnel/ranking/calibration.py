"""Calibration after training: one increasing map of each task's logit, small enough to be JSON beside the model.

    logit' = intercept + slope * f(logit)

Platt scaling [Platt 1999] is f = identity. Isotonic regression is f = the polyline through `knots` (logit before, logit
after), which goes on with slope 1 beyond its ends. The correction for negatives that were sampled at rate w [He et al.
2014, q' = q/(q + (1-q)/w)] adds log(w) to the intercept. The map is strictly increasing, so the order of scores and
their AUC stay; at probabilities 0 and 1 (logits of -inf and inf) it gives 0 and 1. calibration_fit.py fits it.

    RUN/model/calibration.json      written by jobs.calibrate (and jobs.train --calibrate)

The file names the model it was fitted on and has a checksum of itself: beside another model, or edited, it is refused.
"""

import itertools
import json
import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.errors import UserError
from data.files import write_whole
from models.hidden_cause import LIFT

CALIBRATION = "calibration.json"
FORMAT, VERSION = "counterpoint.calibration", 2
TASKS = ("ctr", "cvr")
"""Whose logits can have a map."""
AGAIN = "run jobs.calibrate again"
METHODS = ("none", "platt", "isotonic")
SPACES = ("entire", "click")


@dataclass(frozen=True)
class Calibrator:
    """The map of one task. Raises UserError unless it is increasing and finite."""

    method: str = "none"
    slope: float = 1.0
    intercept: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()
    """(logit before, logit after), both strictly increasing; empty: f is the identity."""

    def __post_init__(self) -> None:
        numbers = [self.slope, self.intercept, *(value for knot in self.knots for value in knot)]
        if not all(math.isfinite(value) for value in numbers) or self.slope <= 0:
            raise UserError("a calibration needs finite numbers and a positive slope")
        pairs = list(itertools.pairwise(self.knots))
        if any(x1 <= x0 or y1 <= y0 for (x0, y0), (x1, y1) in pairs):
            raise UserError("the knots of a calibration must increase")

    def apply(self, probability: Tensor) -> Tensor:
        """Calibrated probabilities of the same shape and type (float32 or float64); 0 stays 0 and 1 stays 1."""
        return self.apply_logit(torch.logit(probability.double())).sigmoid().to(probability.dtype)

    def apply_logit(self, logit: Tensor) -> Tensor:
        """The same on logits, in float64: torch operations only, a few per knot, none per row."""
        x = logit.double()
        return self.intercept + self.slope * (polyline(x, self.knots) if self.knots else x)

    def scaled(self, negative_rate: float) -> "Calibrator":
        """This map, then the correction for negatives that were kept with probability `negative_rate`."""
        return Calibrator(self.method, self.slope, self.intercept + math.log(negative_rate), self.knots)

    def to_dict(self) -> dict[str, Any]:
        knots = [list(knot) for knot in self.knots]
        return {"method": self.method, "slope": self.slope, "intercept": self.intercept, "knots": knots}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Calibrator":
        knots = tuple((float(x), float(y)) for x, y in value["knots"])
        return cls(str(value["method"]), float(value["slope"]), float(value["intercept"]), knots)


def polyline(x: Tensor, knots: tuple[tuple[float, float], ...]) -> Tensor:
    """The line through the knots, of slope 1 beyond them, as a sum of ramps: infinite only where x is."""
    (first, start), (last, _) = knots[0], knots[-1]
    y = start + (x - first).clamp(max=0.0) + (x - last).clamp(min=0.0)
    for (x0, y0), (x1, y1) in itertools.pairwise(knots):
        y = y + (x - x0).clamp(0.0, x1 - x0) * ((y1 - y0) / (x1 - x0))
    return y


@dataclass(frozen=True)
class Calibration:
    """The maps of a model's tasks. A task without one stays as it is."""

    tasks: dict[str, Calibrator] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    """What it was fitted on: method, space, part, rows, negative_rate; of which model (Given.checksum)."""

    @property
    def right_for_clicks(self) -> bool:
        return "cvr" in self.tasks and self.about.get("space") == "click"

    def apply(self, logits: dict[str, Tensor]) -> dict[str, Tensor]:
        """Calibrated logits by task; float64 where there is a map. Where pCVR is made right for clicks, pCTCVR is q p:
        what a hidden cause adds to that product is in p then."""
        return {
            name: self.tasks[name].apply_logit(logit) if name in self.tasks else logit
            for name, logit in logits.items()
            if not (self.right_for_clicks and name == LIFT)
        }

    def to_dict(self) -> dict[str, Any]:
        tasks = {task: calibrator.to_dict() for task, calibrator in self.tasks.items()}
        content = {"format": FORMAT, "version": VERSION, "about": self.about, "tasks": tasks}
        return {**content, "checksum": checksum(content)}

    @classmethod
    def from_dict(cls, value: object, where: str = CALIBRATION) -> "Calibration":
        """Check and read; `where` opens the message of a UserError."""
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise UserError(f"{where}: not a Counterpoint calibration")
        if value.get("version") != VERSION:
            version = value.get("version")
            raise UserError(f"{where}: version {version}; this program reads version {VERSION}: {AGAIN}")
        if value.get("checksum") != checksum(value):
            raise UserError(f"{where}: damaged or edited (its checksum is not that of its content): {AGAIN}")
        try:
            tasks = {str(task): Calibrator.from_dict(entry) for task, entry in value["tasks"].items()}
            about = dict(value.get("about") or {})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: broken ({type(error).__name__}: {error})") from None
        strange = [task for task in tasks if task not in TASKS]
        if strange or not tasks:
            what = f"of a task {strange[0]!r}" if strange else "of no task"
            raise UserError(f"{where}: holds a map {what}; a ranker has {' and '.join(TASKS)}")
        return cls(tasks, about)

    def save(self, directory: Path) -> None:
        """Write DIRECTORY/calibration.json whole or not at all."""
        write_whole(directory / CALIBRATION, json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path, model: str) -> "Calibration | None":
        """What save wrote, or None if there is none. Raises UserError naming the file if it is broken or edited, or
        was fitted on another model than this one (Given.checksum)."""
        path = directory / CALIBRATION
        if not path.exists():
            return None
        try:
            value = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: not readable as JSON ({error})") from None
        found = cls.from_dict(value, str(path))
        if found.about.get("model") != model:
            raise UserError(f"{path}: was fitted on another model than the one it lies beside: {AGAIN}")
        return found


def checksum(value: dict[str, Any]) -> str:
    """Of the content of a calibration.json, without the checksum itself."""
    content = {key: entry for key, entry in value.items() if key != "checksum"}
    return f"crc32:{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"
