"""What the records of a run must look like for anybody to read on: jobs/run/directory.py checks what it reads by this.

Only what commands rely on is checked; keys that are not named here may be anything. An odd record is a UserError of
one line that names the file and the key.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from data.errors import UserError

Number = int | float
ODD = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)
"""What comes of reading a record that is not what it seems."""
NUMBERS = re.compile(
    r"(^(?!importance\.)(.*\.)?(auc|gauc|ks|log_loss|pcoc|ece|count|rows|users|clicks|conversions|low|high|evaluations)"
    r"|^train\.(?!model$).+|^es\.(?!workers|return_is$).+)$"
)
"""Keys of a summary that hold numbers, or null, whatever kind of run it is of."""
NEEDED: Mapping[str, tuple[str, ...]] = {
    "train": ("part",),
    "evaluate": ("part",),
    "evolve": ("es.generations", "es.evaluations", "es.evaluations_per_s", "es.final_return"),
    "tune": ("tune.message",),
    "experiment": ("pairs", "control", "treatment"),
    "fit": ("part",),
}
"""Keys that the summary of a kind of run cannot be without."""


class Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class Data(Shape):
    location: str | None = None
    scored: str | None = None
    name: str | None = None
    parts: dict[str, dict[str, Any]] | None = None
    features: dict[str, Any] | None = None


class RunRecord(Shape):
    """run.json"""

    kind: str
    config: dict[str, Any] = {}
    data: Data | None = None
    problem: str | None = None
    started: str | None = None
    command: str | None = None
    git: str | None = None
    versions: dict[str, Any] | None = None
    hardware: dict[str, Any] | None = None
    made_from: dict[str, dict[str, Any]] | None = None
    started_from: dict[str, Any] | None = None


class Ended(Shape):
    kind: str
    message: str = ""
    at: Number | None = None


class ProcessRecord(Shape):
    """process.json"""

    host: str | None = None
    pid: int | None = None
    born: int | None = None
    since: str | None = None
    job: str | None = None
    unit: str | None = None
    now: str | None = None
    done: Number | None = None
    total: Number | None = None
    rate: Number | None = None
    figures: dict[str, Any] | None = None
    ended: Ended | None = None


class Summary(Shape):
    """summary.json"""

    part: str = ""
    message: str = ""
    absent: dict[str, str] = {}


class Evaluation(Shape):
    """evaluation.json"""

    part: str = ""
    calibration: dict[str, list[dict[str, Number | None]]] | None = None
    raw: dict[str, list[dict[str, Number | None]]] | None = None
    calibrated: dict[str, Any] | None = None
    propensity: dict[str, Any] | None = None
    slices: list[dict[str, Any]] | None = None


SHAPES: Mapping[str, type[Shape]] = {
    "run.json": RunRecord,
    "process.json": ProcessRecord,
    "summary.json": Summary,
    "evaluation.json": Evaluation,
}


def check_record(path: Path, value: dict[str, Any], kind_of: Callable[[Path], str]) -> None:
    """Raise UserError if the record that stands in this file is odd. `kind_of`: the kind of the run in a directory."""
    shape = SHAPES.get(path.name)
    if shape is None:
        return
    try:
        shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: its {key!r} is not what stands there ({first['msg'].lower()})") from None
    if shape is Summary:
        check_figures(path, value, kind_of(path.parent))


def check_figures(path: Path, value: dict[str, Any], kind: str) -> None:
    missing = [key for key in NEEDED.get(kind, ()) if key not in value]
    if missing:
        raise UserError(f"{path}: key {missing[0]!r} is missing; every finished {kind} run has it")
    for key, found in value.items():
        number = found is None or (isinstance(found, int | float) and not isinstance(found, bool))
        if not number and is_number(key):
            raise UserError(f"{path}: its {key!r} is {found!r}, which is no number")


@lru_cache(1 << 16)
def is_number(key: str) -> bool:
    return bool(NUMBERS.search(key)) and not key.startswith("importance.")  # which holds a share by setting


@contextmanager
def reading_from(*paths: Path) -> Iterator[None]:
    """What cannot be made of these records in the body becomes one line that names them; COUNTERPOINT_LOG=INFO shows
    where it came from."""
    try:
        yield
    except UserError:
        raise
    except ODD as error:
        logging.getLogger(__name__).info("an odd record", exc_info=error)
        names = " or ".join(map(str, paths))
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{names}: not what the run's command writes there ({what})") from error
