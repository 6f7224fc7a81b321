"""What every worker of a training is handed: plain values, decided and checked once by the driver."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from data.log import Log, Part, open_log
from data.schema import Schema
from distributed.config import TrainConfig
from distributed.finished_run import joined_config, load_run
from funnel.problem import Problem
from funnel.registry import find_problem


@dataclass(frozen=True)
class TrainJob:
    run: str
    """Absolute path of the run directory, which all workers can reach."""
    location: str
    """Of the log."""
    problem: str
    """A name of funnel/registry.py."""
    config: TrainConfig
    settings: Any
    """The problem's own."""
    schema: Schema
    parts: dict[str, Part]
    """train and valid, and test if the log has it."""
    sizes: dict[str, tuple[int, ...]]
    """Units of each row group of a part."""
    facts: dict[str, Any]
    """What the problem has measured of the log."""
    started: float
    """time.time() when the command began: start-up is counted from here."""
    start_from: str = ""
    """Model directory of another run that the weights are taken from; empty: they are drawn from the seed."""
    given: Mapping[str, str] = field(default_factory=dict)
    """Run directories of the finished trainings that the problem builds on, by role."""

    def open_log(self) -> Log:
        """The log, with what was measured of it."""
        return dataclasses.replace(open_log(self.location), schema=self.schema)

    def open_problem(self, device: torch.device) -> Problem:
        """The problem, with the finished runs that it builds on, their networks on the device."""
        given = {}
        for role, run in self.given.items():
            found = load_run(Path(run))
            found.network.to(device)
            given[role] = found.given
        problem: Problem = find_problem(self.problem)(self.settings, self.schema, self.facts, given)
        return problem

    def units(self, part: str) -> int:
        return sum(self.sizes[part])

    def identity(self) -> dict[str, Any]:
        """What is kept with every checkpoint, so that it can be used without the run."""
        return {
            "problem": self.problem,
            "config": joined_config(self.config, self.settings),
            "schema": self.schema.to_dict(),
            "facts": self.facts,
        }
