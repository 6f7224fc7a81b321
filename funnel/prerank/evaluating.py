"""Every figure of a pre-ranker on any stage log that has its features, with intervals and by slice (funnel/tools.py:
Evaluating).

Users are resampled with all their requests, or requests where the log names no users. A slice of a column in which a
request has one value holds requests; of one in which items differ, hit rates are of the targets of the slice, and there
is no PAUC of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from data.errors import UserError
from data.kinds import one_chunk
from data.labels import check_labels
from data.log import Log
from data.repeats import repeat_warnings
from data.truth_check import check_truth
from funnel.figures.unit_bootstrap import Entries, ratios
from funnel.lists.units import request_begins, request_sizes
from funnel.panels import Table
from funnel.prerank.checks import check_outputs, check_stages, stage_columns
from funnel.prerank.counts import AUCS, RATES, WHY, PreRankCounts
from funnel.prerank.panels import evaluation_results
from funnel.prerank.problem import PreRank
from funnel.prerank.samples import ELSEWHERE, OPTIONAL, packed, repeats_of
from funnel.prerank.units import PreRankBatch
from funnel.problem import Given, Outputs
from funnel.tools import GivenTo
from funnel.trained_log import for_scoring
from funnel.unit_evaluation import UnitEvaluation, plan

REQUESTS = "requests"


def identity(run: Given, raw: bool) -> dict[str, Any]:
    """{"model": its loss, its labels, and the k it is for}"""
    settings = run.problem.settings
    return {"model": {"loss": settings.loss, "labels": settings.labels, "k": settings.k}}


class PreRankFigures:
    """funnel/unit_evaluation.py: UnitFigures; every figure is a mean over requests."""

    def __init__(self, counts: PreRankCounts, request: str) -> None:
        self.counts, self.request = counts, request
        rates = [f"{name}.{k}" for name in RATES for k in counts.ks]
        self.of: list[str] = [*rates, *AUCS]
        """What cells 2n and 2n + 1 are the sum and the number of."""
        self.cells = 2 * len(self.of)
        self.names = [*self.of, *RATES]

    def begins(self, table: pa.Table) -> np.ndarray:
        return request_begins(one_chunk(table, self.request))

    def entries(
        self, outputs: Outputs, batch: PreRankBatch, table: pa.Table, slicings: Sequence[np.ndarray]
    ) -> list[Entries]:
        found = self.counts.judge(outputs, batch, table)
        self.counts.count(found)
        begin_L, list_B = batch.begin_L1[:-1].numpy(), batch.list_B.numpy()
        result = []
        for code_R in slicings:
            slices = int(code_R.max(initial=0)) + 1
            parts: list[Entries] = []
            for name, targets in found.rates.items():
                group_P, rate_PK = targets.rates(code_R)
                first = self.of.index(f"{name}.{self.counts.ks[0]}")
                cell_K = 2 * (first + np.arange(rate_PK.shape[1]))
                parts += entries_of(group_P // slices, group_P % slices, cell_K, rate_PK)
            # The order of a page is a request's: it goes to the slice that all its rows are of.
            whole_L = np.bincount(list_B, code_R != code_R[begin_L][list_B], minlength=found.lists) == 0
            for name, auc_L in found.aucs.items():
                index_A = np.flatnonzero(np.isfinite(auc_L) & whole_L[: len(auc_L)])
                cell = np.array([2 * self.of.index(name)])
                parts += entries_of(index_A, code_R[begin_L][index_A], cell, auc_L[index_A][:, None])
            result.append(Entries.join(parts))
        return result

    def figures(self, sums_CB: np.ndarray) -> dict[str, np.ndarray]:
        found = ratios(self.of, sums_CB)
        own = {name: found[f"{name}.{self.counts.settings.k}"] for name in RATES}
        return own | found

    def why(self, name: str) -> str:
        if name in AUCS:
            return f"{WHY[name]}, or rows of a request are of several slices"
        return WHY[name.partition(".")[0]]


def entries_of(unit_P: np.ndarray, slice_P: np.ndarray, cell_K: np.ndarray, value_PK: np.ndarray) -> list[Entries]:
    """The values in cells `cell_K`, and how many they are in the cells behind."""
    places, ks = value_PK.shape
    unit_E, slice_E, cell_E = np.repeat(unit_P, ks), np.repeat(slice_P, ks), np.tile(cell_K, places)
    return [
        Entries(unit_E, slice_E, cell_E, value_PK.ravel()),
        Entries(unit_E, slice_E, cell_E + 1, np.ones(len(unit_E))),
    ]


def prepare(
    run: Given, given: GivenTo, log: Log, part: str, by: Sequence[str], raw: bool, replicates: int, seed: int
) -> UnitEvaluation:
    """Raises UserError: --raw, no requests in the log, no such part, what check_stages finds in it, wrong labels, k
    above the candidates, a column to slice by that is not there or cannot be."""
    trained = run.problem
    assert isinstance(trained, PreRank)
    if raw:
        raise UserError("--raw: a pre-ranker is not calibrated; leave it out")
    where = f"{log.location}"
    if log.schema.request is None:
        raise UserError(f"{where}/schema.json: names no 'request'; a pre-ranker is judged on whole requests")
    log = for_scoring(log, trained.schema, truth=True)
    rows, settings = log.part(part), trained.settings
    columns = stage_columns(log, rows)
    labels = check_labels(log, rows)
    if log.has_truth(rows):
        check_truth(log, rows)
    request_sizes(log, rows, str(log.schema.request))
    found = check_stages(settings, log, rows, held_out=True)
    check_outputs(settings, where, {part: found.plain()})
    # Of a pair of user and item the latest purchase counts; what the training knew of other parts is known here too.
    before = repeats_of(trained.facts)
    pairs = {name: np.union1d(before[name], found.repeats.get(name, before[name])) for name in ELSEWHERE}
    facts = {
        **trained.facts,
        "columns": [name for name in columns if name in OPTIONAL],
        "repeats": {name: packed(pair) for name, pair in pairs.items() if len(pair)},
    }
    problem = PreRank(settings, log.schema, facts, {})
    figures = PreRankFigures(problem.counts(log, rows, truth=True), problem.request)
    slicings = plan(log, rows, by, figures.begins, [problem.request], REQUESTS)
    warnings = list(repeat_warnings(log, {part: rows}, {part: labels.keys}))
    if found.not_drawn:
        warnings.append(
            f"part {part} holds a draw of the candidates: hit rates among these are an easier question than among all"
        )
    return UnitEvaluation(
        run, problem, log, rows, figures, REQUESTS, found.plain(), by, slicings, replicates, seed, warnings
    )


def results(summary: Mapping[str, Any], curves: Mapping[str, Any]) -> list[Table]:
    """The figures with their intervals, then each slicing."""
    return evaluation_results(summary, curves)
