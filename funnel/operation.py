"""What is operated from day to day: the one protocol between jobs.operate and a system.

A day is a pure step: from the state of yesterday and what has come of it to today's decisions. jobs.operate writes each
day whole (its snapshot, its figures, the state), so that an operation goes on after any end, to the same decisions.
funnel/registry.py lists ours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from es.objectives.base import Objective
from funnel.fitted import Map
from funnel.panels import Panel, Record, Table

Arrays = Mapping[str, np.ndarray]
Maximise = Callable[[Objective, int], np.ndarray]
"""An evolution of an objective under a seed, in this process: the theta that it ends with."""


@dataclass(frozen=True)
class Day:
    """What a day has decided."""

    figures: dict[str, Any]
    """Flat, for the day's line of metrics; "alerts" lists what a person should look at, in words."""
    snapshot: dict[str, np.ndarray] = field(default_factory=dict)
    """Arrays from which the decisions follow again."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Plain JSON beside them."""


class Operation(Protocol):
    name: ClassVar[str]
    settings_type: ClassVar[type]
    maximise: Maximise
    """The evolution engine, which whoever operates hands in."""

    @classmethod
    def open(cls, settings: Any, seed: int) -> Self:
        """Raises UserError in one line for what cannot be operated."""

    def ready(self, day: int) -> bool:
        """Whether what the day needs is there."""

    def step(self, day: int, map: Map) -> Day:
        """Decide for a day; the same bits for any map."""

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What the next day builds on: arrays and plain JSON."""

    def resume(self, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Go on from a state."""

    @classmethod
    def replay(cls, snapshot: Arrays, facts: Mapping[str, Any], where: str) -> str:
        """Decide again from a snapshot and compare. Returns what was found, in words; raises UserError for a snapshot
        that is another version's or has been changed."""

    def summarise(self, days: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """summary.json from the figures of all days, with "message"."""

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table | None: ...
    @classmethod
    def panels(cls, record: Record) -> list[Panel]: ...
