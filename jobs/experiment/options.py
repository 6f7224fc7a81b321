"""The options of jobs.experiment: its own, and those of the world that is named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from data.errors import UserError
from funnel.registry import DEFAULT_SIMULATOR, find_simulator
from jobs.command.cli import glance, parse, with_settings

MOST_PAIRS = 10_000


@dataclass
class Arguments:
    groups: ClassVar[Mapping[str, str]] = {"out": "the experiment"}
    out: Path | None = None
    """Run directory: new, or one of the same experiment to continue."""
    world: str = DEFAULT_SIMULATOR
    """The simulator: a name of funnel/registry.py, or your own as package.module:Class. Its settings follow."""
    control: str = "plain"
    """The policy that stands: a named one, or a JSON file of stages' settings."""
    treatment: str = ""
    """The policy that is tried."""
    design: str = ""
    """How the arms are split; left out: the world's usual design (platform: user_corpus; or user)."""
    days: int = 14
    """Days of the test."""
    warmup: int = 7
    """Days before it, under the control everywhere."""
    pairs: int = 16
    """Pairs of worlds; pair p is the same for any number of them."""
    seed: int = 0
    """Decides all worlds."""
    workers: int = 0
    """Ray tasks at a time, a CPU each; 0: in this process."""
    settings: Any = field(default_factory=lambda: None)
    """The world's own; None: its defaults."""

    def __post_init__(self) -> None:
        if not 1 <= self.pairs <= MOST_PAIRS:
            raise UserError(f"--pairs is {self.pairs}: it must be between 1 and {MOST_PAIRS}")


def options(words: Sequence[str]) -> type:
    """Arguments with the settings of the world that the words name."""
    kind = find_simulator(glance(words, world=DEFAULT_SIMULATOR)["world"])
    return with_settings(Arguments, settings=kind.settings_type())


def arguments_of(*words: object) -> Arguments:
    """What the command line would give; raises UserError for an unknown option."""
    parsed: Arguments = parse(options, [str(word) for word in words])
    return parsed
