"""What --objective names: a system's tunable, an objective of es/objectives, or the user's own class of either kind."""

import copy
import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from data.errors import UserError
from es.contract import BY_VALUE, ObjectiveError, facts_of, initial_theta
from es.objectives.base import Objective
from es.objectives.registry import OBJECTIVES, made
from funnel.panels import Panel, Record, Table
from funnel.registry import TUNABLES, find
from funnel.spaces import Presets, Spaces
from funnel.tunable import HeldOut, Tunable
from jobs.command.own_code import own_code


class Plain:
    """An objective without data as a tunable (funnel/tunable.py): nothing is held out, so there is nothing to judge."""

    presets: ClassVar[Presets] = {}
    spaces: ClassVar[Spaces] = {}
    goal = "return.centre"
    objective: Objective

    def __init__(self, name: str, settings_type: type) -> None:
        self.name, self.settings_type = name, settings_type

    def open(self, settings: Any, seed: int, searching: bool = False) -> Self:
        opened = copy.copy(self)
        with own_code(f"--objective {self.name}"):
            opened.objective = made(settings)
        try:  # before anything is written
            initial_theta(opened.objective)
            facts_of(opened.objective)
        except ObjectiveError as error:
            raise UserError(f"--objective {self.name}: {error}") from error
        return opened

    def facts(self) -> dict[str, Any]:
        return {}

    def describe(self) -> str:
        return f"{self.name}, {len(self.objective.initial()):,} parameters"

    def policy(self, theta_D: np.ndarray) -> dict[str, Any]:
        return {}

    def measure(self, theta_D: np.ndarray) -> dict[str, float]:
        return {}

    def smaller_is_better(self, figure: str) -> bool:
        if figure != self.goal:
            raise UserError(f"no figure {figure!r} of {self.name}: want {self.goal}")
        return False

    def judge(self, theta_D: np.ndarray, resamples: int, seed: int, part: HeldOut = "test") -> dict[str, Any]:
        return {}

    def results(self, summary: Any) -> Table | None:
        return None

    def panels(self, record: Record) -> list[Panel]:
        return []


def find_objective(name: str) -> type[Tunable]:
    """The tunable of that name. Raises UserError, listing the names there are, for what is none."""
    path, colon, attribute = name.rpartition(":")
    if colon and path.endswith(".py"):
        found = getattr(load_file(Path(path)), attribute, None)
        if found is None:
            raise UserError(f"--objective {name}: {path} has no {attribute!r}")
    else:
        with own_code(f"--objective {name}"):
            found = OBJECTIVES[name] if name in OBJECTIVES else find(name, {**TUNABLES, **plain_names()}, "objective")
    if hasattr(found, "open") and hasattr(found, "settings_type"):
        tunable: type[Tunable] = found
        return tunable
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise UserError(f"--objective {name}: {attribute} must be a tunable or a dataclass of settings")
    plain: Any = Plain(name, found)
    return plain


def plain_names() -> dict[str, str]:
    """For the message that lists what there is."""
    return dict.fromkeys(OBJECTIVES, "")


def place(name: str) -> str:
    """The name as a run keeps it: a file by its absolute path, since the run may go on from another directory."""
    path, colon, attribute = name.rpartition(":")
    return f"{Path(path).expanduser().absolute()}:{attribute}" if colon and path.endswith(".py") else name


def load_file(path: Path) -> Any:
    """Import a file as a module that travels to workers whole, as they cannot import it; once for each state of it."""
    path = path.expanduser().absolute()
    if not path.is_file():
        raise UserError(f"--objective {path}: no such file")
    name, stamp = f"objective_{path.stem}", (str(path), path.stat().st_mtime_ns)
    known = sys.modules.get(name)
    if known is not None and getattr(known, "stamp", None) == stamp:
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with own_code(f"--objective {path}"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    module.stamp = stamp
    setattr(module, BY_VALUE, True)
    if "ray" in sys.modules:  # else when the objective is sent (es/wire.py): importing Ray takes a second or more
        sys.modules["ray"].cloudpickle.register_pickle_by_value(module)
    return module
