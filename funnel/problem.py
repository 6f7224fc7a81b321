"""What is trained: the one protocol between the training loop and a system. Pure: no ranks, no process groups, no run
directories.

distributed/training/loop.py runs any class that has these members; funnel/registry.py lists ours. The loop's body is

    outputs = network(batch)
    totals = summed over workers(problem.totals(outputs, batch))
    terms = problem.loss(outputs, batch, totals, step, epoch)

so gradients of workers add up to the gradient of one process that sees the whole batch.
Shapes: B rows of a batch, T totals.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import pyarrow as pa
import torch
from torch import Tensor, nn

from data.log import Log, Part
from data.schema import Schema
from funnel.panels import Panel, Record, Table
from funnel.spaces import Presets, Spaces
from models.rows import Share

Outputs = Mapping[str, Tensor]
"""What a network says of a batch, by name; all of one length."""


class Batch(Protocol):
    """Tensors of some units."""

    def __len__(self) -> int:
        """How many units."""

    def to(self, device: torch.device) -> Self: ...


class Units(Protocol):
    """What is shuffled, dealt out to workers and batched: rows of a log, or whole requests."""

    def __len__(self) -> int: ...
    def take(self, index: Any) -> Self:
        """The units of an index array, or of a slice of step 1."""

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The units of all parts, one after the other."""

    def batch(self) -> Any:
        """Tensors of these units, a Batch."""


class Counts(Protocol):
    """Sums over a part from which all its figures follow. Workers' sums are added up by the caller."""

    @property
    def columns(self) -> Sequence[str]:
        """Columns of the log that `add` looks up beside those of the problem, such as the key of the truth."""

    def add(self, outputs: Outputs, batch: Any, table: pa.Table) -> None:
        """Count the units of one row group, on the CPU: outputs of the network and, by role, of given ones; the batch
        of all units, and the table they were."""

    def sums(self) -> list[Tensor]:
        """int64 or float64 counters themselves: the caller adds them up over workers, in place."""

    def peaks(self) -> list[Tensor]:
        """Counters of which the largest over workers counts; in place too."""

    def figures(self) -> dict[str, Any]:
        """Flat figures by name, and under "absent" {name: reason} for those that cannot be computed."""

    def curves(self) -> dict[str, Any]:
        """What plots need beyond the figures; plain JSON."""


@dataclass(frozen=True)
class Given:
    """A finished run that a problem builds on: a click model's propensities, a teacher's scores."""

    problem: Any
    network: nn.Module
    directory: Path
    """Of the model's files, where a calibration may lie beside the weights."""
    checksum: str = ""
    """Which model it is: results that are made from it keep this."""


class Problem(Protocol):
    """What is trained on a log. A system's own file, funnel/NAME/problem.py, has the class."""

    name: ClassVar[str]
    settings_type: ClassVar[type]
    """Dataclass of the settings that are the problem's own (model, loss); their docstrings are the options' help."""
    presets: ClassVar[Presets]
    """Named settings, {name: function that gives them by dotted key}."""
    spaces: ClassVar[Spaces]
    """Where jobs.tune looks, {name: function that gives domains by dotted key}."""
    roles: ClassVar[Mapping[str, str]]
    """Finished runs it can build on, {role: help}: --given ROLE=RUN of jobs.train."""
    columns: Sequence[str]
    """Columns of the log that are read in training."""
    goal: str
    """Figure that picks the best epoch, unless stop_metric names another."""
    watched: ClassVar[Mapping[str, str]]
    """Figures that people follow after each validation, and what they are called."""
    units: ClassVar[str]
    """What is shuffled and dealt out: "rows" or "requests"."""
    tools: ClassVar[Mapping[str, str]]
    """What jobs.score, calibrate, evaluate and export can do with a finished run, {name of the command: module with the
    functions of funnel/tools.py}; a command whose name is not among them refuses the run."""

    @classmethod
    def prepare(cls, settings: Any, log: Log, parts: Mapping[str, Part], roles: Collection[str] = ()) -> dict[str, Any]:
        """In the driver, before any cluster: check labels and settings, measure what the network needs. `roles`: of the
        finished runs that are given.

        Returns plain facts (JSON), kept with every checkpoint; facts["parts"] has counts by part. Raises UserError in
        one line for what cannot be trained.
        """

    def __init__(self, settings: Any, schema: Schema, facts: Mapping[str, Any], given: Mapping[str, Given]) -> None: ...

    # A problem may leave a setting to what another training tells; then it also has, as class methods,
    #   first(settings) -> (settings of that training, name of the preset that is laid over them and the training's
    #       own), or None where nothing is left open
    #   settled(settings, before: Given, log, parts) -> (settings, figures for summary.json, a sentence for people)

    def describe(self) -> str:
        """What is trained on what, in one phrase for people."""

    def empty(self) -> Units:
        """No units, with the columns of this problem."""

    def sizes(self, log: Log, part: Part) -> tuple[int, ...]:
        """Units of each row group. In the driver. Raises UserError for a row group that tears a unit."""

    def encode(self, table: pa.Table) -> Units: ...

    def network(self, share: Share, seed: int) -> nn.Module:
        """With the weights that the seed draws. Its embedding tables are found by type and placed by the loop."""

    def complete(self, batch: Any) -> Any:
        """The batch with what the given networks say of it under `given`, on the batch's device: called once a step,
        and when a part is counted."""

    def totals(self, outputs: Outputs, batch: Any) -> Tensor:
        """(T,) float64 sums over these units; the loop adds them up over workers before `loss` divides by them."""

    def loss(self, outputs: Outputs, batch: Any, totals: Tensor, step: int, epoch: int = 0) -> dict[str, Tensor]:
        """ "loss" to differentiate and terms to log: these units' share of the global batch's loss. `step` and `epoch`,
        which it lies in, count from 0: what changes with time is addressed by them, so that a resume goes on as it was.
        """

    def counts(self, log: Log, part: Part, truth: bool = False) -> Counts:
        """`truth`: look up what only a simulation or an experiment knows, where the log has it."""

    def smaller_is_better(self, figure: str) -> bool:
        """Raises UserError, listing what may be aimed at, for a figure that no epoch can be chosen by."""

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table:
        """The figures of summary.json as the console shows them."""

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        """What a page shows of a finished or running training; its first table is shown on the console too."""


MakeProblem = Callable[[Any, Schema, Mapping[str, Any], Mapping[str, Given]], Problem]
