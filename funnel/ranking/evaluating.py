"""Every figure of a finished run on any log that has its features and labels (funnel/tools.py: Evaluating).

One pass of the model, whose scores are kept (scored_part.py), then passes over what it said (evaluation.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from data.errors import UserError
from data.labels import check_labels
from data.log import Log, Part
from data.repeats import repeat_warnings
from data.truth_check import check_truth
from funnel.figures.slices import ACTIVITY, Slicing, plan_slices
from funnel.figures.threshold import checked
from funnel.network import BatchNetwork
from funnel.panels import Table
from funnel.problem import Given
from funnel.ranking.calibration import Calibration
from funnel.ranking.click_model import ClickModel, click_model_of
from funnel.ranking.elapsed_report import DELAYS, elapsed_report
from funnel.ranking.elapsed_report import figures as delay_figures
from funnel.ranking.elapsed_report import table as elapsed_table
from funnel.ranking.evaluation import Scored, activity_figures, figures_of, slice_figures
from funnel.ranking.evaluation_tables import figures_table, slices_table
from funnel.ranking.problem import counted
from funnel.ranking.scored_part import score_part
from funnel.tools import Count, GivenTo, Say
from funnel.trained_log import for_scoring


@dataclass
class Slices:
    """The figures of the slices of one column, for evaluation.json."""

    column: str
    slices: list[dict[str, Any]] = field(default_factory=list)


def identity(run: Given, raw: bool) -> dict[str, Any]:
    """{"model": objective and backbone, "calibration": its maps, or None}"""
    calibration = None if raw else Calibration.load(run.directory, run.checksum)
    return {"model": run.problem.choices(), "calibration": calibration.to_dict() if calibration else None}


@dataclass(frozen=True)
class Evaluation:
    """A run, a part of a log, and what is asked of it, checked."""

    given: Given
    calibration: Calibration | None
    log: Log
    part: Part
    counts: Mapping[str, int]
    by: Sequence[str]
    slicings: list[Slicing]
    replicates: int
    seed: int
    click_model: ClickModel | None
    no_click_model: str
    """Why there is none, though the training was given one."""
    warnings: Sequence[str] = ()

    def run(self, folder: Path, device: torch.device, count: Count, say: Say) -> tuple[dict[str, Any], dict[str, Any]]:
        """(figures, curves); see funnel/tools.py."""
        part, network = self.part, self.given.network.to(device)
        assert isinstance(network, BatchNetwork)

        def on_rows(rows: int) -> None:
            say(f"scored {rows:,} of {part.rows:,} rows")

        kept = score_part(network, self.log, part, device, folder, self.slicings, on_rows, self.click_model)
        problem = self.given.problem
        threshold = checked(problem.settings.threshold)
        more = (self.replicates, self.seed, self.no_click_model, threshold)
        scored = Scored(kept, self.calibration, problem.clip, *more)
        say(f"figures of {part.rows:,} rows and their intervals")
        result, sliced = figures_of(scored), list[Slices]()
        numbers = {slicing.column: index for index, slicing in enumerate(self.slicings)}
        for name in self.by:
            say(f"the same by {name}")
            found = activity_figures(scored) if name == ACTIVITY else slice_figures(scored, numbers[name])
            sliced.append(Slices(name, found))
        method = self.calibration.about.get("method") if self.calibration else None
        delays = elapsed_report(self.log, part, problem.as_of)
        if delays:
            result.curves[DELAYS] = delays
            result.figures |= delay_figures(delays)
        figures = {**result.figures, **flat(sliced), "calibration.method": method or "none", "absent": result.absent}
        return figures, {**result.curves, "slices": [asdict(entry) for entry in sliced]}


def prepare(
    run: Given, given: GivenTo, log: Log, part: str, by: Sequence[str], raw: bool, replicates: int, seed: int
) -> Evaluation:
    """Raises UserError: no such part, wrong labels, a truth that lacks rows or contradicts the log, a column to slice
    by that is not there or cannot be."""
    log = for_scoring(log, run.problem.schema, truth=True)
    rows = log.part(part)
    labels = check_labels(log, rows)
    if log.has_truth(rows):
        check_truth(log, rows)
    if ACTIVITY in by and log.schema.user is None:
        raise UserError(f"--by {ACTIVITY}: the log's schema names no user")
    slicings = plan_slices(log, rows, [name for name in by if name != ACTIVITY])
    calibration = None if raw else Calibration.load(run.directory, run.checksum)
    warnings, model = repeat_warnings(log, {part: rows}, {part: labels.keys}), click_model_of(given)
    return Evaluation(run, calibration, log, rows, counted(labels), by, slicings, replicates, seed, *model, warnings)


def flat(sliced: Sequence[Slices]) -> dict[str, float]:
    """{"by.COLUMN.LABEL.ctr.auc": ...}"""
    return {
        f"by.{entry.column}.{one['label']}.{name}": value
        for entry in sliced
        for one in entry.slices
        for name, value in one["figures"].items()
    }


def results(summary: Mapping[str, Any], curves: Mapping[str, Any]) -> list[Table]:
    """The figures with their intervals, then each slicing."""
    late = [elapsed_table(curves[DELAYS])] if curves.get(DELAYS) else []
    return [figures_table(summary), *late, *(slices_table(one["column"], one["slices"]) for one in curves["slices"])]
