"""What is searched for the settings of: one protocol for trainings (training.py) and evolutions (evolution.py)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

Settings = dict[str, Any]

if TYPE_CHECKING:
    from jobs.tune.trial import Trial


class Subject(Protocol):
    """Plain values, for they travel to the trials."""

    @property
    def job(self) -> str:
        """The command whose settings are searched: "train" or "evolve"."""

    @property
    def unit(self) -> str:
        """What a trial counts: "epoch" or "generation"."""

    @property
    def workers(self) -> int:
        """Ray Train workers of each trial; 0: it has its own process."""

    @property
    def checkpoints(self) -> bool:
        """Hand Tune the checkpoints: population-based training gives them to other trials."""

    @property
    def data(self) -> dict[str, Any]:
        """What run.json keeps of the data."""

    @property
    def last(self) -> int:
        """Epoch or generation at which a trial ends."""

    @property
    def goal(self) -> str:
        """The figure to aim at where none is named."""

    def smaller_is_better(self, figure: str) -> bool:
        """Raises UserError for a figure that cannot be aimed at."""

    def reported(self) -> list[str]:
        """Names of the figures that trials report."""

    def values(self) -> Settings:
        """Every setting by dotted key, as the trials have it that change nothing."""

    def blind(self) -> Self:
        """The same without the test part: what trials are given."""

    def body(self, trial: "Trial", settings: Settings) -> None:
        """One trial, in its own process, from where it stands to its end."""

    def tested(self, run: Path, settings: Settings, moment: int) -> dict[str, Any]:
        """Figures on the test part of what a trial ended with; empty if there is none."""
