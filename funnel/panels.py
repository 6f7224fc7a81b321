"""What systems show of their runs: four kinds of panels as plain data, and words. jobs/report draws them, jobs/ prints
tables.

A problem or a tunable lists the panels of one run; no page knows a system. Panels of several runs that have the same
section, title and columns are shown as one, run beside run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from funnel.numbers import DASH, count, number

NOT_REPORTED = "not reported by the run"
SAME = "no difference to tell"
RUNS = "What ran"
"""The section that closes a page: costs, data, how to repeat it."""


@dataclass(frozen=True)
class Record:
    """What a run's directory holds, read once: all a panel is made from. Empty where a file is not there (yet)."""

    run: Mapping[str, Any]
    """run.json: kind, config, facts, command, versions."""
    events: Sequence[Mapping[str, Any]] = ()
    """metrics.jsonl, one line each; of a step that was logged twice, the later."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """summary.json: the figures at the end."""
    files: Mapping[str, Any] = field(default_factory=dict)
    """Other files by name without suffix, evaluation and policy say: of .json an object, of .jsonl and .csv a list."""
    name: str = ""
    """How people call the run: its directory's name."""
    directory: Path = Path()
    """Where the run lies. Systems read nothing from it: what they need is in `files`."""

    def number(self, key: str) -> float | None:
        """The finite number under a key of summary.json, or None."""
        return finite(self.summary.get(key))

    def reason(self, key: str) -> str:
        """Why a key of summary.json is absent, as the run itself says for the key or for what it belongs to."""
        reasons = self.summary.get("absent") or {}
        parts = key.split(".")
        lengths = range(len(parts), 0, -1)
        given = (reasons.get(".".join(parts[:length])) for length in lengths)
        return next((str(reason) for reason in given if reason), NOT_REPORTED)

    def course(self, event: str, x: str, y: str) -> tuple[list[float], list[float]]:
        """(x, y) of the events of this name that hold both as finite numbers."""
        pairs = [(finite(each.get(x)), finite(each.get(y))) for each in self.events if each.get("event") == event]
        kept = [(a, b) for a, b in pairs if a is not None and b is not None]
        return [a for a, _ in kept], [b for _, b in kept]

    def setting(self, name: str) -> str | None:
        """A setting's value wherever the nested config keeps it: `name`, `x.name`, `name.name` or `name.kind`."""

        def found(tree: Any) -> Any:
            here = tree.get(name)
            if isinstance(here, Mapping):
                here = here.get("name") or here.get("kind")
            inner = (found(value) for value in tree.values() if isinstance(value, Mapping))
            return here if here is not None else next((value for value in inner if value is not None), None)

        value = found(self.run.get("config") or {})
        return str(value) if isinstance(value, str | int | float) else None

    def cell(self, key: str, digits: int = 4, **more: Any) -> "Figure":
        """A figure of summary.json with its interval (KEY.low, KEY.high), or the reason why it is absent."""
        value, low, high = (self.number(key + end) for end in ("", ".low", ".high"))
        curves = self.files.get("evaluation") or {}
        draws = tuple((curves.get("replicates") or {}).get(key) or ())
        sample = str(curves.get("sample") or "") if draws else ""
        why = self.reason(key) if value is None else ""
        return Figure(value, digits, low, high, why=why, draws=draws, sample=sample, **more)

    def interval(self, key: str, label: str, group: str = "") -> "Interval | None":
        """The same as a line of an Intervals panel; None where it is absent."""
        return interval(self.summary, key, label, group)


@dataclass(frozen=True)
class Figure:
    """A measured value as a cell: rounded, with its interval or half of it, or why it is absent."""

    value: float | None
    digits: int = 4
    low: float | None = None
    high: float | None = None
    half: float | None = None
    """Half the width of the interval, shown as ± in place of low and high."""
    signed: bool = False
    aside: str = ""
    """Shown small behind the value."""
    why: str = ""
    badness: float | None = None
    """Where several runs stand beside each other, the one of the lowest badness is marked as the best, if the intervals
    tell it from the others. None: nothing is marked, as where no interval is known."""
    draws: tuple[float | None, ...] = ()
    """Its bootstrap replicates, to be paired with those of another run on the same sample."""
    sample: str = ""
    """Which rows and weights the replicates are of."""

    def __str__(self) -> str:
        return f"{self.text} {self.small}".rstrip()

    @property
    def text(self) -> str:
        if self.value is None:
            return DASH
        return number(self.value, self.digits, self.signed) if self.digits else count(self.value)

    @property
    def small(self) -> str:
        return " ".join(self.parts)

    @property
    def parts(self) -> tuple[str, ...]:
        """What stands small behind the value: what is said of it, and its interval."""
        parts = [self.aside]
        if self.half is not None:
            parts.append(f"±{number(self.half, self.digits)}")
        elif self.low is not None and self.high is not None:
            parts.append(" to ".join(number(end, self.digits, self.signed) for end in (self.low, self.high)))
        return tuple(part for part in parts if part)


Cell = str | int | float | Figure | None


@dataclass(frozen=True)
class Table:
    """The first cell of a row names it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    section: str = ""
    alike: tuple[str, ...] = ()
    """Columns in which runs must agree for the best of them to be marked: rows and positives, say."""


@dataclass(frozen=True)
class Series:
    """One line of a curve; low and high give it a band."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    mark: float | None = None
    """x of a point that is ringed: the step whose weights were kept."""
    look: str = "line"
    """line, points (nothing between them), grey (what others are compared with) or faint (one of many behind)."""
    tint: int | None = None
    """Its colour: the place of a run among those of the page; None: by its place in the curve."""


@dataclass(frozen=True)
class Curve:
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    note: str = ""
    bars: bool = False
    """Draw bars (a histogram: x are the edges, one more than y) in place of lines."""
    log_x: bool = False
    log_y: bool = False
    smooth: bool = False
    """A noisy course: values faint, their running mean strong."""
    reference: float | None = None
    """A height to compare with, drawn as a dashed line."""
    bound: tuple[float, str] | None = None
    """(x, what it is): a dashed upright line."""
    names: Sequence[str] = ()
    """What stands under x = 0, 1, ...: days."""
    section: str = ""


@dataclass(frozen=True)
class Interval:
    """A figure with its interval; low and high None: no interval is known."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    group: str = ""
    """Intervals of one label stand in one line, a colour a group: before and after, run and run."""


@dataclass(frozen=True)
class Intervals:
    title: str
    x_label: str
    rows: tuple[Interval, ...]
    reference: float | None = None
    """A value to compare with, drawn as a line: 1 for PCOC, 0 for a gain. Intervals that hold it have open dots."""
    note: str = ""
    section: str = ""
    small: bool = False
    """One of many: four in a line of the page."""


@dataclass(frozen=True)
class Calibration:
    """Mean prediction against mean label of groups of equal count, a curve a name (the empty one: the run's only):
    {"": [{"mean_prediction": ., "mean_label": ., "count": .}, ...]}."""

    title: str
    groups: Mapping[str, Sequence[Mapping[str, float]]]
    note: str = ""
    section: str = ""


@dataclass(frozen=True)
class Sentence:
    """What a run comes to, or why something is not there. A headline stands on top of the page."""

    text: str
    section: str = ""
    headline: bool = False


@dataclass(frozen=True)
class Glossary:
    """(word, what it means) for readers who meet it for the first time."""

    terms: tuple[tuple[str, str], ...]
    section: str = RUNS


Panel = Table | Curve | Intervals | Calibration | Sentence | Glossary


def finite(value: object) -> float | None:
    """The value if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def told(difference: Figure) -> Figure:
    """A paired difference; where its interval holds 0, with the words that say so."""
    if difference.low is None or difference.high is None or not difference.low <= 0 <= difference.high:
        return difference
    return replace(difference, aside=f"{difference.aside} {SAME}:".lstrip())


def interval(figures: Mapping[str, Any], key: str, label: str, group: str = "") -> Interval | None:
    """figures[KEY] with its .low and .high; None where it is absent."""
    value, low, high = (finite(figures.get(key + end)) for end in ("", ".low", ".high"))
    return None if value is None else Interval(label, value, low, high, group)
