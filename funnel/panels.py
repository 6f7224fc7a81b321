"""What systems show of their runs: four kinds of panels as plain data. jobs/report draws them, jobs/ prints tables.

A problem or a tunable lists the panels of a run; no page knows a system.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Cell = str | int | float | None


@dataclass(frozen=True)
class Record:
    """What a run's directory holds, read once: all a panel is made from. Empty where a file is not there (yet)."""

    run: Mapping[str, Any]
    """run.json: kind, config, facts, command, versions."""
    events: Sequence[Mapping[str, Any]] = ()
    """metrics.jsonl, one line each."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """summary.json: the figures at the end."""
    files: Mapping[str, Any] = field(default_factory=dict)
    """Other JSON files by name without suffix: evaluation, policy, model/calibration, ..."""
    name: str = ""
    """How people call the run: its directory's name."""


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Series:
    """One line of a curve; low and high give it a band."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Curve:
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    note: str = ""
    bars: bool = False
    """Draw bars (a histogram: x are the left edges) in place of lines."""
    log_x: bool = False


@dataclass(frozen=True)
class Interval:
    """A figure with its interval; low and high None: no interval is known."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    group: str = ""


@dataclass(frozen=True)
class Intervals:
    title: str
    x_label: str
    rows: tuple[Interval, ...]
    reference: float | None = None
    """A value to compare with, drawn as a line: 1 for PCOC, 0 for a gain."""
    note: str = ""


@dataclass(frozen=True)
class Calibration:
    """Mean prediction against mean label of groups of equal count: {"CTR": [{"mean_prediction": ., "mean_label": .,
    "count": .}, ...]}."""

    title: str
    groups: Mapping[str, Sequence[Mapping[str, float]]]
    note: str = ""


Panel = Table | Curve | Intervals | Calibration
