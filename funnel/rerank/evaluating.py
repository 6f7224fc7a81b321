"""Every figure of a list scorer on any log of sessions that has its features, with intervals and by slice
(funnel/tools.py: Evaluating).

Users are resampled with all their sessions, or sessions where the log names no users. Of each head log-loss, AUC and
PCOC, and log-loss and PCOC by place; the list reward predicted and observed; and what each search makes of logged items
by the network's own word (judged_lists.py), as a share of the full beam's list value.

Cells: by head and group of places the sums of losses, predictions, positives and rows; by head and label COARSE counts
by score; sums of list values. Shapes: B rows, H heads, P groups of places, K bins of a score, E entries.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from data.encode import one_chunk
from data.errors import UserError
from data.log import Log
from funnel.figures.unit_bootstrap import Entries
from funnel.lists.units import request_begins, request_sizes
from funnel.panels import Table
from funnel.problem import Given, Outputs
from funnel.rerank.calibration import load
from funnel.rerank.check_sessions import check_sessions
from funnel.rerank.counts import PLACE_NAMES, PLACES, SessionCounts
from funnel.rerank.judged_lists import KINDS, LISTED, MOST, SUMS, searched
from funnel.rerank.list_value import SearchSettings
from funnel.rerank.panels import evaluation_results
from funnel.rerank.problem import Rerank
from funnel.rerank.units import SessionBatch
from funnel.tools import GivenTo
from funnel.trained_log import for_scoring
from funnel.unit_evaluation import UnitEvaluation, plan
from models.list_scorer import HEADS, ListScorer

SESSIONS = "sessions"
OF_ROWS = ("loss", "prediction", "positive", "row")
COARSE = 128
"""Groups of scores behind the AUC's replicates, of equal count in the part's first row group."""
FIRST_BIN = len(HEADS) * len(PLACES) * len(OF_ROWS)
FIRST_LIST = FIRST_BIN + len(HEADS) * 2 * COARSE
FULL = "beam"


def identity(run: Given, raw: bool) -> dict[str, Any]:
    """{"model": what it sees of a session and what a like is worth, "calibration": its maps, or None}"""
    settings, maps = run.problem.settings, None if raw else load(run.directory, run.checksum)
    model = {"feedback": list(settings.feedback), "before": settings.model.before, "beta / alpha": ratio(settings)}
    return {"model": model, "calibration": {head: list(pair) for head, pair in maps.items()} if maps else None}


def ratio(settings: Any) -> float | None:
    return settings.beta / settings.alpha if settings.alpha else None


@dataclass
class JudgedCounts(SessionCounts):
    """Those of a validation, and what searches made of sessions."""

    lists_V: Tensor = field(default_factory=lambda: torch.zeros(1 + len(SUMS), dtype=torch.float64))
    """How many sessions were searched; sums of their SUMS."""

    def sums(self) -> list[Tensor]:
        return [*super().sums(), self.lists_V]

    def figures(self) -> dict[str, Any]:
        found = super().figures()
        values = {name: float(value[0]) for name, value in of_lists(self.lists_V.numpy()[:, None]).items()}
        absent = {name: WHY_LISTS for name, value in values.items() if not np.isfinite(value)}
        found |= {name: value for name, value in values.items() if name not in absent}
        return found | {"lists": int(self.lists_V[0]), "absent": {**found["absent"], **absent}}


WHY_LISTS = f"no session of {LISTED} items or more"
LISTS = (*(f"list.{kind}" for kind in KINDS if kind != FULL), "list.evaluations")
"""Shares of the full beam's list value; of its evaluations, those of the adaptive beam."""


def of_lists(sums_VB: np.ndarray) -> dict[str, np.ndarray]:
    """Figures from the number of lists and the sums of SUMS."""
    at = {name: sums_VB[1 + index] for index, name in enumerate(SUMS)}
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {f"list.{kind}": at[kind] / at[FULL] for kind in KINDS if kind != FULL}
        found["list.evaluations"] = at["adaptive.evaluations"] / at[f"{FULL}.evaluations"]
    return found


class RerankFigures:
    """funnel/unit_evaluation.py: UnitFigures."""

    def __init__(self, problem: Rerank, scorer: ListScorer, counts: JudgedCounts) -> None:
        self.problem, self.scorer, self.counts = problem, scorer, counts
        self.search = SearchSettings(alpha=counts.alpha, beta=counts.beta)
        self.cells = FIRST_LIST + len(counts.lists_V)
        self.edges: dict[str, np.ndarray] = {}
        heads = [f"{head}.{name}" for head in HEADS for name in ("log_loss", "auc", "pcoc")]
        self.names = ["log_loss", *heads, "reward.observed", "reward.predicted", "reward.ratio", *LISTS]

    def begins(self, table: pa.Table) -> np.ndarray:
        return request_begins(one_chunk(table, self.problem.session))

    def entries(
        self, outputs: Outputs, batch: SessionBatch, table: pa.Table, slicings: Sequence[np.ndarray]
    ) -> list[Entries]:
        self.counts.add(outputs, batch, table)
        unit_B = batch.lists.list_B.numpy()
        group_B = np.searchsorted(PLACES, batch.place_B.numpy(), side="right") - 1
        cells, values = [], []
        for h, head in enumerate(HEADS):
            logit_B = outputs[head].detach().cpu().double().numpy()
            if self.counts.maps is not None:
                logit_B = self.counts.maps[head][0] * logit_B + self.counts.maps[head][1]
            label_B = batch.label_B3[:, h].double().numpy()
            first_B = (h * len(PLACES) + group_B) * len(OF_ROWS)
            loss_B = np.logaddexp(0, logit_B) - label_B * logit_B
            for n, value_B in enumerate((loss_B, 1 / (1 + np.exp(-logit_B)), label_B, np.ones(len(unit_B)))):
                cells.append(first_B + n)
                values.append(value_B)
            if head not in self.edges:
                self.edges[head] = np.quantile(logit_B, np.arange(1, COARSE) / COARSE)
            bin_B = np.searchsorted(self.edges[head], logit_B, side="right")
            cells.append(FIRST_BIN + (2 * h + (label_B > 0.5)).astype(np.int64) * COARSE + bin_B)
            values.append(np.ones(len(unit_B)))
        cell_E, value_E = np.concatenate(cells), np.concatenate(values)
        session_S, sums_SV = self.searched(batch)
        result = []
        for code_R in slicings:
            own = Entries(np.tile(unit_B, len(cells)), np.tile(code_R, len(cells)), cell_E, value_E)
            result.append(Entries.join([own, self.of_lists(batch, code_R, session_S, sums_SV)]))
        return result

    def searched(self, batch: SessionBatch) -> tuple[np.ndarray, np.ndarray]:
        """(sessions of the batch that were searched, their (S, 1 + SUMS)); counts them."""
        room = MOST - int(self.counts.lists_V[0])
        session_S = np.flatnonzero(np.diff(batch.lists.begin_L1.numpy()) >= LISTED)[: max(room, 0)]
        if not len(session_S):
            return session_S, np.zeros((0, 1 + len(SUMS)))
        found = searched(self.scorer, self.counts.maps, batch, session_S, self.search)
        sums_SV = np.stack([np.ones(len(session_S)), *(found[name].astype(np.float64) for name in SUMS)], 1)
        self.counts.lists_V += torch.from_numpy(sums_SV.sum(0))
        return session_S, sums_SV

    def of_lists(self, batch: SessionBatch, code_R: np.ndarray, session_S: np.ndarray, sums_SV: np.ndarray) -> Entries:
        """A list belongs to the slice of its items, if it is one."""
        begin_L1 = batch.lists.begin_L1.numpy()
        code_SM = code_R[begin_L1[session_S + 1][:, None] - 1 - np.arange(LISTED)]
        whole_S = (code_SM == code_SM[:, :1]).all(1)
        session_S, sums_SV, code_S = session_S[whole_S], sums_SV[whole_S], code_SM[whole_S, 0]
        count = sums_SV.shape[1]
        cell_E = np.tile(FIRST_LIST + np.arange(count), len(session_S))
        return Entries(np.repeat(session_S, count), np.repeat(code_S, count), cell_E, sums_SV.ravel())

    def figures(self, sums_CB: np.ndarray) -> dict[str, np.ndarray]:
        shape = (len(HEADS), len(PLACES), len(OF_ROWS), sums_CB.shape[1])
        sums_HP4B = sums_CB[:FIRST_BIN].reshape(shape)
        bins_H2KB = sums_CB[FIRST_BIN:FIRST_LIST].reshape(len(HEADS), 2, COARSE, -1)
        found: dict[str, np.ndarray] = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            for h, head in enumerate(HEADS):
                parts = [("", sums_HP4B[h].sum(0)), *((f".{n}", sums_HP4B[h, p]) for p, n in enumerate(PLACE_NAMES))]
                for suffix, (loss_B, prediction_B, positive_B, row_B) in parts:
                    found[f"{head}.log_loss{suffix}"] = loss_B / row_B
                    found[f"{head}.pcoc{suffix}"] = prediction_B / positive_B
                negative_KB, positive_KB = bins_H2KB[h]
                below_KB = np.cumsum(negative_KB, 0) - 0.5 * negative_KB
                pairs_B = positive_KB.sum(0) * negative_KB.sum(0)
                found[f"{head}.auc"] = (positive_KB * below_KB).sum(0) / pairs_B
            found["log_loss"] = np.mean([found[f"{head}.log_loss"] for head in HEADS], 0)
            rows_B = sums_HP4B[0, :, 3].sum(0)
            for name, n in (("predicted", 1), ("observed", 2)):
                view_B, like_B = sums_HP4B[0, :, n].sum(0), sums_HP4B[1, :, n].sum(0)
                found[f"reward.{name}"] = (self.counts.alpha * view_B + self.counts.beta * like_B) / rows_B
            found["reward.ratio"] = found["reward.predicted"] / found["reward.observed"]
        return found | of_lists(sums_CB[FIRST_LIST:])

    def why(self, name: str) -> str:
        if name in LISTS:
            return f"{WHY_LISTS} that are all of the slice"
        return "no rows at these places" if ".log_loss" in name else "no row, or all of them alike"


def prepare(
    run: Given, given: GivenTo, log: Log, part: str, by: Sequence[str], raw: bool, replicates: int, seed: int
) -> UnitEvaluation:
    """Raises UserError: no sessions in the log, no such part, sessions out of order, wrong outcomes, a torn session, a
    column to slice by that is not there or cannot be."""
    trained = run.problem
    assert isinstance(trained, Rerank)
    if log.schema.request is None:
        raise UserError(f"{log.location}/schema.json: names no 'request': the column of the session of each row")
    log = for_scoring(log, trained.schema)
    rows, session = log.part(part), str(log.schema.request)
    order = trained.settings.order or log.schema.exposure
    if order is None:
        raise UserError(f"{log.location}/schema.json: names no 'exposure': the column that rises within a session")
    checked = check_sessions(trained.settings, log, rows, session, order)
    request_sizes(log, rows, session)
    problem = Rerank(trained.settings, log.schema, {**trained.facts, "session": session, "order": order})
    maps = None if raw else load(run.directory, run.checksum)
    counts = JudgedCounts(trained.settings.alpha, trained.settings.beta, maps=maps)
    scorer = copy.deepcopy(run.network.scorer)
    assert isinstance(scorer, ListScorer)
    figures = RerankFigures(problem, scorer.cpu().eval(), counts)
    slicings = plan(log, rows, by, figures.begins, [session], SESSIONS)
    about = {name: value for name, value in checked.items() if name != "lengths"}
    return UnitEvaluation(run, problem, log, rows, figures, SESSIONS, about, by, slicings, replicates, seed)


def results(summary: Mapping[str, Any], curves: Mapping[str, Any]) -> list[Table]:
    """The figures with their intervals, then each slicing."""
    return evaluation_results(summary, curves)
