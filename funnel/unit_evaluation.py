"""An evaluation of any problem whose units are requests or sessions (funnel/tools.py: Evaluation).

One pass over the part, the same that a validation makes. A problem says what a unit adds to each of its cells
(`UnitFigures`); figures, slices and the replicates of the bootstrap follow from sums of these
(funnel/figures/unit_bootstrap.py). unit_panels.py shows what comes out.
Shapes: R rows, U units of a row group, S slices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from data.errors import UserError
from data.hashing import splitmix64
from data.log import Log, Part
from data.reading import ordered_tables
from funnel.figures.slices import ACTIVITY, Slicing, activity_edges, activity_labels, plan_slices
from funnel.figures.unit_bootstrap import Entries, UnitSums, weights, with_intervals
from funnel.problem import Counts, Given, Outputs
from funnel.tools import Count, Say
from funnel.trained_log import user_keys


class UnitFigures(Protocol):
    """What the figures of a problem are made of."""

    cells: int
    """How many sums a slice has."""

    @property
    def counts(self) -> Counts:
        """Those of a validation: their figures are the ones that are told, and the training's."""

    @property
    def names(self) -> Sequence[str]:
        """Figures whose replicates are kept, so that a page can pair two runs."""

    def begins(self, table: pa.Table) -> np.ndarray:
        """begin_U1 of the units of a table."""

    def entries(self, outputs: Outputs, batch: Any, table: pa.Table, slicings: Sequence[np.ndarray]) -> list[Entries]:
        """Count a row group in `counts`, and say what its units add to the cells: once for each slicing, an array with
        the slice of every row. Where a unit's rows are of several slices, each gets its own share of what the figure
        can share out."""

    def figures(self, sums_CB: np.ndarray) -> dict[str, np.ndarray]:
        """{name: value_B} from (cells, replicates) sums; NaN where there is none."""

    def why(self, name: str) -> str:
        """Why a figure is absent where it is NaN."""


@dataclass(frozen=True)
class Activity:
    """Slices by how many units a user has in the part; fifths of the rows."""

    labels: tuple[str, ...]
    edges: np.ndarray
    user_V: np.ndarray
    """Hashes, rising; and how many units each has."""
    units_V: np.ndarray

    @classmethod
    def of(cls, user_A: np.ndarray, what: str) -> "Activity":
        """Of the users of all units."""
        user_V, units_V = np.unique(user_A, return_counts=True)
        edges = activity_edges(np.bincount(units_V, units_V))
        return cls(activity_labels(edges, what), edges, user_V, units_V)

    def codes(self, user_U: np.ndarray) -> np.ndarray:
        """int_U."""
        found: np.ndarray = np.searchsorted(self.edges, self.units_V[np.searchsorted(self.user_V, user_U)])
        return found


@dataclass
class UnitCounts:
    """funnel/problem.py: Counts of a part that one process reads in order, with every slice and replicate."""

    of: UnitFigures
    user: str | None
    slicings: Sequence[Slicing | Activity]
    replicates: int
    seed: int
    on_units: Callable[[int], None] = lambda units: None
    units: int = 0
    cells: list[UnitSums] = field(init=False)
    """Of the whole part, then of each slicing."""
    sizes: list[np.ndarray] = field(init=False)
    """(2, S) units and rows of each slice, alike; a unit with rows in several is in each."""
    known: list[np.ndarray] = field(default_factory=list)
    """Hashes of the users of each row group."""

    def __post_init__(self) -> None:
        slices = [1, *(len(slicing.labels) for slicing in self.slicings)]
        self.cells = [UnitSums(size, self.of.cells, self.replicates) for size in slices]
        self.sizes = [np.zeros((2, size), np.int64) for size in slices]

    @property
    def columns(self) -> Sequence[str]:
        by = (slicing.column for slicing in self.slicings if isinstance(slicing, Slicing))
        return list(dict.fromkeys([*self.of.counts.columns, *([self.user] if self.user else []), *by]))

    def add(self, outputs: Outputs, batch: Any, table: pa.Table) -> None:
        if not table.num_rows:
            return
        begin_U1 = self.of.begins(table)
        unit_R = np.repeat(np.arange(len(begin_U1) - 1), np.diff(begin_U1))
        user_U = users_of(table, begin_U1, self.user, self.units)
        codes = [np.zeros(table.num_rows, np.int64)]
        for slicing in self.slicings:
            code_R = slicing.codes(table) if isinstance(slicing, Slicing) else slicing.codes(user_U)[unit_R]
            codes.append(code_R.astype(np.int64))
        weight_UB = weights(user_U, self.seed, self.replicates)
        found = self.of.entries(outputs, batch, table, codes)
        for cells, size_2S, code_R, entries in zip(self.cells, self.sizes, codes, found, strict=True):
            cells.add(entries, weight_UB)
            slices = size_2S.shape[1]
            size_2S[0] += np.bincount(np.unique(unit_R * slices + code_R) % slices, minlength=slices)
            size_2S[1] += np.bincount(code_R, minlength=slices)
        self.units += len(user_U)
        self.known.append(np.unique(user_U))
        self.on_units(self.units)

    def sums(self) -> list[Tensor]:
        return self.of.counts.sums()

    def peaks(self) -> list[Tensor]:
        return self.of.counts.peaks()

    def figures(self) -> dict[str, Any]:
        """Those of the counts, with the intervals of those that have one."""
        return self.judged({})

    def judged(self, keep: dict[str, np.ndarray]) -> dict[str, Any]:
        """The same; `keep` is given the replicates."""
        figures = self.of.counts.figures()
        return figures | with_intervals(figures, self.of.figures(self.cells[0].of(0)), keep)

    def curves(self) -> dict[str, Any]:
        return self.of.counts.curves()

    def slices(self, index: int) -> list[dict[str, Any]]:
        """The slices of the index-th slicing that have rows: label, units, rows, figures with intervals, absent."""
        found = []
        for number, label in enumerate(self.slicings[index].labels):
            units, rows = self.sizes[1 + index][:, number].tolist()
            if not rows:
                continue
            by_name = self.of.figures(self.cells[1 + index].of(number))
            values = {name: float(value_B[0]) for name, value_B in by_name.items() if np.isfinite(value_B[0])}
            absent = {name: self.of.why(name) for name in by_name if name not in values}
            figures = values | with_intervals(values, by_name)
            found.append({"label": label, "units": units, "rows": rows, "figures": figures, "absent": absent})
        return found


def users_of(table: pa.Table, begin_U1: np.ndarray, user: str | None, before: int) -> np.ndarray:
    """uint64_U: a hash of each unit's user; of its place in the part, where the log names no users."""
    if user is None:
        return splitmix64(np.arange(before, before + len(begin_U1) - 1).astype(np.uint64))
    return user_keys(table.select([user]).take(pa.array(begin_U1[:-1])), user)


def plan(
    log: Log, part: Part, by: Sequence[str], begins: Callable[[pa.Table], np.ndarray], columns: Sequence[str], what: str
) -> list[Slicing | Activity]:
    """The slicings that --by names. `columns`: what `begins` reads; `what`: units are called. Raises UserError: no such
    column or none that slices are made of, one twice, @activity of a log without users."""
    planned = iter(plan_slices(log, part, [name for name in by if name != ACTIVITY]))
    return [activity(log, part, begins, columns, what) if name == ACTIVITY else next(planned) for name in by]


def activity(
    log: Log, part: Part, begins: Callable[[pa.Table], np.ndarray], columns: Sequence[str], what: str
) -> Activity:
    user = log.schema.user
    if user is None:
        raise UserError(f"--by {ACTIVITY}: the log's schema names no user")
    tables = ordered_tables(log, part, list(dict.fromkeys([user, *columns])))
    return Activity.of(np.concatenate([users_of(table, begins(table), user, 0) for table in tables]), what)


@dataclass(frozen=True)
class UnitEvaluation:
    """A run, a part of a log, and what is asked of it, checked (funnel/tools.py: Evaluation)."""

    given: Given
    problem: Any
    """The run's Problem, as it reads this log."""
    log: Log
    part: Part
    of: UnitFigures
    what: str
    """Units are called: requests."""
    counts: Mapping[str, int]
    by: Sequence[str]
    slicings: Sequence[Slicing | Activity]
    replicates: int
    seed: int
    warnings: Sequence[str] = ()

    def run(self, folder: Path, device: torch.device, count: Count, say: Say) -> tuple[dict[str, Any], dict[str, Any]]:
        """(figures, curves); see funnel/tools.py."""
        user, units = self.log.schema.user, self.counts.get(self.what)

        def on_units(done: int) -> None:
            say(f"judged {done:,}{f' of {units:,}' if units else ''} {self.what}")

        found = UnitCounts(self.of, user, self.slicings, self.replicates, self.seed, on_units)
        count(self.problem, self.given.network.to(device), self.log, self.part, found)
        keep: dict[str, np.ndarray] = {}
        figures = found.judged(keep)
        sliced = [{"column": name, "slices": found.slices(index)} for index, name in enumerate(self.by)]
        figures |= {"bootstrap.units": "users" if user else self.what, "bootstrap.replicates": self.replicates}
        if user:
            figures["users"] = len(np.unique(np.concatenate(found.known)))
        curves = {**found.curves(), "slices": sliced}
        curves["replicates"] = {name: listed(keep[name]) for name in self.of.names if name in keep}
        return figures | flat(sliced), curves


def listed(replicates_B: np.ndarray) -> list[float | None]:
    """For JSON: seven digits of each, None where it could not be computed."""
    return [float(f"{value:.7g}") if np.isfinite(value) else None for value in replicates_B]


def flat(sliced: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """{"by.COLUMN.LABEL.NAME": ...}"""
    return {
        f"by.{entry['column']}.{one['label']}.{name}": value
        for entry in sliced
        for one in entry["slices"]
        for name, value in one["figures"].items()
    }
