"""What evolution tunes: the one protocol between jobs.evolve (and tune, pipeline, report) and a system.

A tunable reads its data, splits them into what is tuned on and what is held out, gives es/ an objective on the former,
and says on the latter whether a policy is better. funnel/registry.py lists ours; docs/objectives.md writes one.
Shapes: D numbers of theta.
"""

from typing import Any, ClassVar, Protocol, Self

import numpy as np

from es.objectives.base import Objective
from funnel.panels import Panel, Record
from funnel.spaces import Presets, Spaces


class Tunable(Protocol):
    """A policy with numbers that no gradient reaches."""

    name: ClassVar[str]
    settings_type: ClassVar[type]
    """Dataclass of its settings, the data's place among them; field docstrings are the options' help."""
    presets: ClassVar[Presets]
    """Named settings, {name: function that gives them by dotted key}."""
    spaces: ClassVar[Spaces]
    """Where jobs.tune looks, {name: function that gives domains by dotted key}."""
    objective: Objective
    """On what is tuned on (es/objectives/base.py)."""

    @classmethod
    def open(cls, settings: Any, seed: int) -> Self:
        """Read, check, split into tuned on and held out by the seed. Raises ValueError in one line for what cannot be
        tuned."""

    def facts(self) -> dict[str, Any]:
        """What run.json keeps of the data; plain JSON."""

    def describe(self) -> str:
        """What is tuned on what, in one phrase for people."""

    def policy(self, theta_D: np.ndarray) -> dict[str, Any]:
        """policy.json: everything needed to act as theta does, without this program."""

    def judge(self, theta_D: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
        """Figures on what was held out, with intervals, and "message": what they say in one sentence."""

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        """What a page shows of a finished or running evolution; its first table is shown on the console too."""
