"""What jobs.experiment runs: a world in which two policies are compared. funnel/registry.py lists ours.

A simulator is opened with what is compared; it then runs one pair of worlds after the other, each a fact of the
settings and the pair's number alone, so that it does not matter who runs it. P pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from data.errors import UserError
from data.write import PartFacts
from funnel.panels import Panel, Record, Table


@dataclass(frozen=True)
class Compared:
    """One question to a world."""

    control: Mapping[str, Any]
    """Plain settings of the policy that stands; see the simulator for their keys."""
    treatment: Mapping[str, Any]
    control_name: str = "control"
    """How people call it: a preset or a file."""
    treatment_name: str = "treatment"
    design: str = ""
    """One of the simulator's designs."""
    days: int = 14
    """Of the test."""
    warmup: int = 7
    """Days before it, under the control everywhere."""
    seed: int = 0
    pairs: int = 0
    """How many are asked for, for what can be checked before the first; no pair depends on it."""

    def __post_init__(self) -> None:
        if self.days < 1:
            raise UserError(f"days is {self.days}, must be at least 1")
        if self.warmup < 0:
            raise UserError(f"warmup is {self.warmup}, must be at least 0")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}, must not be negative")


class Logging(Protocol):
    """A world that writes logs: jobs.make_data --world NAME."""

    settings_type: ClassVar[type]
    """Dataclass of the world's settings."""
    log_settings_type: ClassVar[type]
    """Dataclass of what is written: `rows`, `seed`, ..."""
    presets: ClassVar[Mapping[str, str]]
    """Policies by name, as Simulator has them. A world that has none writes under no policy."""

    # `leads_to: ClassVar[tuple[str, ...]]` may be left out: the command that such a log is for, without --data and
    # --out, as ("fit", "--system", "incentives"), or a class method that gives it from what was asked; without it
    # ("check",).

    @classmethod
    def write(
        cls,
        settings: Any,
        asked: Any,
        policy: Mapping[str, Any],
        where: str,
        out: str | Path,
        progress: Callable[[int], None],
    ) -> dict[str, PartFacts]:
        """Write the log of a world under a policy; `where` opens the message of a UserError about the policy."""


class Simulator(Protocol):
    """A world that can be run under two policies with common random numbers."""

    name: ClassVar[str]
    settings_type: ClassVar[type]
    """Dataclass of the world's settings; field docstrings are the options' help."""
    designs: ClassVar[tuple[str, ...]]
    """Designs of a test, the usual one first."""
    presets: ClassVar[Mapping[str, str]]
    """Policies by name: "module:function" that gives plain settings."""

    @classmethod
    def open(cls, settings: Any, compared: Compared) -> Self:
        """Raises UserError in one line for what cannot be run."""

    def facts(self) -> dict[str, Any]:
        """What run.json keeps: plain JSON."""

    def describe(self) -> str:
        """What is compared on what, in one phrase for people."""

    def run(self, pair: int) -> dict[str, Any]:
        """Plain JSON of one pair. Depends on nothing but the settings and the number."""

    def check(self, outcome: Mapping[str, Any]) -> None:
        """Raises KeyError, TypeError or ValueError for what `run` does not return: a file that was changed by hand."""

    def summarise(self, outcomes: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
        """(figures with .low and .high and "message", their course by day) of the pairs in order."""

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table:
        """The figures as the console shows them."""

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        """What a page shows of it; record.files["course"] is the course by day."""
