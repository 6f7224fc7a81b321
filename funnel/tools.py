"""What commands can do with a finished run: the interfaces of the modules that a problem names in `tools`.

    tools = {"score": "funnel.ranking.scoring"}              # in the class of the problem; funnel/registry.py: tool

A problem offers what makes sense for it. A tool reads the log, computes, and returns plain figures and tables; the
command of its name reads the run, hands in what needs the training's code, writes files and prints.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from data.log import Log, Part
from funnel.panels import Table
from funnel.problem import Counts, Given, Problem

Count = Callable[[Problem, nn.Module, Log, Part, Counts], Counts]
"""Adds a part to counts in one pass of a network, and returns them."""
GivenTo = Callable[[str], Given | None]
"""The finished run that a training was given in a role; None: it was given none."""
Say = Callable[[str], None]
"""Where a long computation stands, in a few words."""


@dataclass(frozen=True)
class Scores:
    """A part with what the model says of it."""

    part: Part
    tables: Iterator[pa.Table]
    """One a row group, all of one schema."""
    about: Mapping[str, Any]
    """Kept in the file's metadata; "calibration" is the name of the calibration's method, or "none"."""
    warnings: list[str] = field(default_factory=list)
    """Lines on what looks wrong; complete once all tables are read."""


class Scoring(Protocol):
    """jobs.score"""

    def score_part(
        self, run: Given, log: Log, part: str, device: torch.device, raw: bool, keep: Sequence[str] = ()
    ) -> Scores:
        """`raw`: without the run's calibration; `keep`: columns or features to write beside the scores. Raises
        UserError for a log that lacks the model's features, or one of these."""


@dataclass(frozen=True)
class Calibrated:
    figures: Mapping[str, Any] = field(default_factory=dict)
    """For summary.json: the figures after it, "calibrated.NAME", and how it was made, "calibration.NAME"; none where a
    calibration has been taken away."""
    curves: Mapping[str, Any] = field(default_factory=dict)
    """For evaluation.json, under "calibrated"."""


class Calibrating(Protocol):
    """jobs.calibrate"""

    Settings: type
    """A dataclass of its options; `method` is one of them, and jobs.train --calibrate sets it."""

    def calibrate(self, run: Given, given: GivenTo, log: Log, settings: Any, count: Count) -> Calibrated:
        """Fit on the part "valid", count on "test" (or "valid" where there is none), and leave the calibration beside
        the model, in run.directory, where the other tools apply it. The network stays as it is."""

    def results(self, summary: Mapping[str, Any], part: str) -> Table:
        """Before and after, from summary.json."""


class Evaluation(Protocol):
    """One evaluation, checked and ready to run."""

    counts: Mapping[str, int]
    """Of the part, for run.json."""
    warnings: Sequence[str]
    """Lines on what looks wrong in the part."""

    def run(self, folder: Path, device: torch.device, count: Count, say: Say) -> tuple[dict[str, Any], dict[str, Any]]:
        """(figures for summary.json, with {"absent": {name: reason}}; curves for evaluation.json, with "slices": one
        {"column", "slices"} for each slicing). `folder`: an empty one for what does not fit in memory."""


class Evaluating(Protocol):
    """jobs.evaluate. Where units are requests or sessions, funnel/unit_evaluation.py is most of it."""

    def identity(self, run: Given, raw: bool) -> dict[str, Any]:
        """What of the run decides the figures, for run.json: two evaluations are the same if this is."""

    def prepare(
        self, run: Given, given: GivenTo, log: Log, part: str, by: Sequence[str], raw: bool, replicates: int, seed: int
    ) -> Evaluation:
        """`by`: columns to slice by; `replicates`, `seed`: of the bootstrap. Raises UserError for what cannot be."""

    def results(self, summary: Mapping[str, Any], curves: Mapping[str, Any]) -> list[Table]:
        """The figures as the console shows them, then one table for each slicing."""


class Served(Protocol):
    """What a tuned policy adds to an exported graph: one more output, from the scores of a single unit."""

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores it takes, in order."""

    def module(self) -> nn.Module:
        """(B, M) float32 scores -> (B,) float32."""

    def expected(self, scored: pa.Table) -> np.ndarray:
        """The same of scored rows, computed as in the tuning."""

    def describe(self) -> dict[str, Any]:
        """For serving.json: "is", a formula, and the numbers in it."""


class Serving(Protocol):
    """A module in funnel/registry.py: SERVED."""

    def serve(self, policy: Mapping[str, Any], where: Path) -> Served:
        """Raises UserError, naming the file `where`, for a policy that no graph can hold."""


class Exporting(Protocol):
    """jobs.export"""

    NAMES: Mapping[str, str]
    """File by format, such as {"onnx": "ranker.onnx"}."""

    def export(
        self,
        run: Given,
        log: Log,
        part: str,
        rows: int,
        policy: Served | None,
        formats: Sequence[str],
        tolerance: float,
        directory: Path,
    ) -> dict[str, Any]:
        """Write the formats to the directory and check each on the part's first rows against the model.

        Returns what serving.json says of them; "check" has {"largest_difference": {format: {output: difference}}}.
        Raises UserError if a file differs from the model by more than the tolerance.
        """


class Teaching(Protocol):
    """A ranker that teaches earlier stages: asked for by problems, not by a command."""

    def teacher(self, run: Given) -> Callable[[Any], Mapping[str, Tensor]]:
        """A function of batches (funnel/batch.py): the run's calibrated probabilities of "click" and of "purchase"
        (click and conversion both), float32 [B]. Raises UserError for a run that has none."""
