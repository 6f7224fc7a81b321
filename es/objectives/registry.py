"""Objectives that need no data, by name: beside the systems' tunables, what `jobs.evolve --objective NAME` offers.

Each is a dataclass of settings (field docstrings are the help of the options) that is an objective itself, as those of
es/objectives/toy.py, or whose `build()` returns one. Your own needs no entry here: name it "package.module:Class".
"""

from typing import Any

from es.objectives import toy
from es.objectives.base import Objective
from es.objectives.control import Control

OBJECTIVES: dict[str, type] = {
    "sphere": toy.Sphere,
    "rosenbrock": toy.Rosenbrock,
    "rastrigin": toy.Rastrigin,
    "sleep": toy.Sleep,
    "nothing": toy.Nothing,
    "control": Control,
}


def made(settings: Any) -> Objective:
    """The objective of a dataclass of settings."""
    objective: Objective = settings.build() if hasattr(settings, "build") else settings
    return objective
