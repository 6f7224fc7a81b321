"""What evolution tunes: the one protocol between jobs.evolve (and tune, pipeline, report) and a system.

A tunable reads its data, splits them into what is tuned on and what is held out, gives es/ an objective on the former,
and says on the latter whether a policy is better. funnel/registry.py lists ours; docs/objectives.md writes one. Where
the return that is maximised is no estimate of what the policy is worth, a tunable says in `bound` (str) what it is
instead: the return is not shown as a result then. Shapes: D numbers of theta.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np

from data.log import Log
from es.objectives.base import Objective
from funnel.panels import Panel, Record, Table
from funnel.spaces import Presets, Spaces

HeldOut = Literal["test", "valid"]


class Tunable(Protocol):
    """A policy with numbers that no gradient reaches."""

    name: ClassVar[str]
    settings_type: ClassVar[type]
    """Dataclass of its settings, the data's place among them (a Path); field docstrings are the options' help."""
    presets: ClassVar[Presets]
    """Named settings, {name: function that gives them by dotted key}; the engine's keys may be among them."""
    spaces: ClassVar[Spaces]
    """Where jobs.tune looks besides the engine's settings, {name: function that gives domains by dotted key}."""
    goal: ClassVar[str]
    """Figure of `measure` that a search brings up, unless another one is named."""
    objective: Objective
    """On what is tuned on (es/objectives/base.py)."""

    @classmethod
    def open(cls, settings: Any, seed: int, searching: bool = False) -> Self:
        """Read, check, split into tuned on and held out by the seed.

        `searching`: for a search among settings, of what is tuned on otherwise half is set apart as "valid", by which
        trials are compared; "test" is the same as without. Raises UserError in one line for what cannot be tuned.
        """

    def facts(self) -> dict[str, Any]:
        """What run.json keeps of the data; plain JSON."""

    def describe(self) -> str:
        """What is tuned on what, in one phrase for people."""

    def policy(self, theta_D: np.ndarray) -> dict[str, Any]:
        """policy.json: everything needed to act as theta does, without this program. Empty: none is written."""

    def measure(self, theta_D: np.ndarray) -> dict[str, float]:
        """Figures of one theta on "valid", without intervals: a search asks for them again and again."""

    @classmethod
    def smaller_is_better(cls, figure: str) -> bool:
        """Raises UserError, listing the figures of `measure`, for a name that is none of them."""

    def judge(self, theta_D: np.ndarray, resamples: int, seed: int, part: HeldOut = "test") -> dict[str, Any]:
        """Figures on what was held out, with intervals, and "message": what they say in one sentence."""

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table | None:
        """The figures of summary.json as the console shows them at the end."""

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        """What a page shows of a finished or running evolution."""


class ScoreTunable(Tunable, Protocol):
    """What jobs.pipeline takes: a tunable of the scores that jobs.score gives logged exposures."""

    @classmethod
    def on_scores(cls, settings: Any, scored: Path, judge: Path | None = None) -> Any:
        """The settings with these scored files as their data: tuned on `scored`, judged on `judge` (or held-out users
        of `scored`)."""

    @classmethod
    def check_log(cls, settings: Any, log: Log, part: str, judge: str | None, seed: int) -> None:
        """Before there are any scores: raises UserError for a part that could not be tuned on (or judged on)."""

    @classmethod
    def judge_policy(cls, policy: Path, scored: Path, resamples: int, seed: int) -> dict[str, float]:
        """Figures of a policy.json on scores it was not tuned on, with intervals; empty if they say nothing."""

    @classmethod
    def kept(cls, settings: Any) -> Sequence[str]:
        """Columns that the scored files must hold beside the scores (jobs.score --keep)."""

    @classmethod
    def not_served(cls, settings: Any) -> str:
        """Why jobs.export cannot put a policy of these settings into its files; empty: it can."""
