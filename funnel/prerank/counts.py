"""Figures of a pre-ranker over whole requests: is the right set handed on, and how are those of a page ordered?

    hit rate@k  = |first k candidates and targets| / |targets|, the mean over the requests that have targets
    asph@k      targets: what the user bought in other scenarios, bound to the request (also what is no candidate)
    isph@k      targets: candidates that were bought in this scenario. The online pre-ranker has 1 at k = what it hands
                on: nothing else could be bought
    recall@k    end to end: of asph's targets those that are among the first k and then among the `shown` best of these
                by the ranker's score; absent where the log has no such score
    pauc        AUC of purchases among what was shown, the mean over the requests with both labels
    pauc.true   the same over all pairs (i, j) of what was shown, weighted by p_i (1 - p_j), p: the true chance of a
                purchase; where the truth is known

[ASMOL, arXiv 2305.13647.] Ties count against a target. Means of requests are kept as whole numbers of 2^-36, so that
their sums are exact in whatever order workers add them up.
Shapes: B rows, L requests, C candidates of the longest request, T targets, K values of k.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from data.kinds import number
from data.truth import Truth
from funnel.figures.grouped_auc import auc_by_user
from funnel.prerank.settings import PreRankSettings
from funnel.prerank.units import PreRankBatch
from funnel.problem import Outputs

GRID = (5, 10, 20, 30, 40, 60, 80, 100, 150, 200, 300, 500)
"""k of the curves, beside the pre-ranker's own."""
ONE = float(1 << 36)
RATES = ("asph", "isph", "recall")
AUCS = ("pauc", "pauc.true")
AIMS = dict.fromkeys((*RATES, "pauc"), False)
"""Figures by which an epoch may be chosen, and whether smaller is better."""
WHY = {
    "asph": "no request has a purchase elsewhere",
    "isph": "no candidate was bought",
    "recall": "no request has a purchase elsewhere, or the log has no score of the ranker",
    "pauc": "no request has shown items of both labels",
    "pauc.true": "the log has no truth, or no request has two shown items",
}


def grid(k: int) -> tuple[int, ...]:
    return tuple(sorted({*GRID, k}))


def whole(value_L: np.ndarray) -> int:
    """The sum of numbers of 0..1, in units of 2^-36."""
    return int(np.rint(value_L * ONE).astype(np.int64).sum())


@dataclass(frozen=True)
class Targets:
    """What should be among the first k: the row and the request of each target, and whether it is (T, K)."""

    row_T: np.ndarray
    list_T: np.ndarray
    found_TK: np.ndarray

    def rates(self, code_R: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(group_P, rate_PK): the hit rates of each request that has targets; with the slice of every row, of each
        request and slice that have. A group is (request, slice), as request * slices + slice."""
        slices = 1 if code_R is None else int(code_R.max(initial=0)) + 1
        group_T = self.list_T if code_R is None else self.list_T * slices + code_R[self.row_T]
        group_P, place_T = np.unique(group_T, return_inverse=True)
        targets_P = np.bincount(place_T, minlength=len(group_P))
        hits = [np.bincount(place_T, found_T, minlength=len(group_P)) for found_T in self.found_TK.T]
        return group_P, np.stack(hits, 1) / targets_P[:, None]


@dataclass
class Judged:
    """What is found of the requests of a row group."""

    lists: int
    candidates: int
    """Of the request that has most of them."""
    rates: dict[str, Targets] = field(default_factory=dict)
    aucs: dict[str, np.ndarray] = field(default_factory=dict)
    """float64_L; NaN where a request has none."""


@dataclass
class PreRankCounts:
    """Sums over the requests of a part (funnel/problem.py: Counts)."""

    settings: PreRankSettings
    purchase: str
    truth: Truth | None = None
    key: str | None = None
    """Column by which the truth is looked up."""
    scored: bool = False
    """Whether the log has the ranker's score of every candidate."""
    rates_3K: Tensor = field(init=False)
    aucs_2: Tensor = field(default_factory=lambda: torch.zeros(len(AUCS), dtype=torch.int64))
    requests_6: Tensor = field(default_factory=lambda: torch.zeros(6, dtype=torch.int64))
    """All, and those that asph, isph, recall, pauc and pauc.true are means over."""
    most_1: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))
    """Candidates of the longest request."""

    def __post_init__(self) -> None:
        self.ks = grid(self.settings.k)
        self.rates_3K = torch.zeros(len(RATES), len(self.ks), dtype=torch.int64)

    @property
    def columns(self) -> tuple[str, ...]:
        key = (self.key,) if self.truth is not None and self.key else ()
        return (*key, *((self.settings.rank_score,) if self.scored else ()))

    def add(self, outputs: Outputs, batch: PreRankBatch, table: pa.Table) -> None:
        if len(batch):
            self.count(self.judge(outputs, batch, table))

    def judge(self, outputs: Outputs, batch: PreRankBatch, table: pa.Table) -> "Judged":
        """What is found of the requests of a row group; they are some."""
        mark = {name: label_B.numpy() > 0.5 for name, label_B in batch.rows.labels.items()}
        score_B, list_B = outputs["score"].double().numpy(), batch.list_B.numpy()
        lists = len(batch)
        begin_L = batch.begin_L1[:-1].numpy()
        place_B = np.arange(len(list_B)) - begin_L[list_B]
        score_LC = np.full((lists, int(place_B.max()) + 1), -np.inf)
        there_B = mark["candidate"]
        score_LC[list_B[there_B], place_B[there_B]] = score_B[there_B]
        rank_LC = ranks(score_LC)
        found = Judged(lists, int(np.bincount(list_B, there_B).max()))
        row_T = np.flatnonzero(mark["elsewhere_purchase"])
        found_TK = rank_LC[list_B[row_T], place_B[row_T]][:, None] < np.array(self.ks)
        found.rates["asph"] = Targets(row_T, list_B[row_T], found_TK)
        in_T = np.flatnonzero(mark[self.purchase] & there_B)
        in_TK = rank_LC[list_B[in_T], place_B[in_T]][:, None] < np.array(self.ks)
        found.rates["isph"] = Targets(in_T, list_B[in_T], in_TK)
        if self.scored:
            later_LC = np.full(score_LC.shape, -np.inf)
            later_LC[list_B[there_B], place_B[there_B]] = number(table, self.settings.rank_score)[there_B]
            found_TK = found_TK & self.shown(rank_LC, later_LC, list_B[row_T], place_B[row_T])
            found.rates["recall"] = Targets(row_T, list_B[row_T], found_TK)
        exposed_B = mark["exposed"]
        shown_list, shown_score, bought = list_B[exposed_B], score_B[exposed_B], mark[self.purchase][exposed_B]
        found.aucs["pauc"], _ = auc_by_user(shown_list, shown_score, bought.astype(np.float64))
        if self.truth is not None:
            chance_B = self.chances(table)[exposed_B]
            found.aucs["pauc.true"] = weighted_auc(shown_list, shown_score, chance_B, lists)
        return found

    def count(self, found: "Judged") -> None:
        self.requests_6[0] += found.lists
        self.most_1[0] = max(int(self.most_1), found.candidates)
        for name, targets in found.rates.items():
            list_P, rate_PK = targets.rates()
            self.requests_6[1 + RATES.index(name)] += len(list_P)
            for column in range(len(self.ks)):
                self.rates_3K[RATES.index(name), column] += whole(rate_PK[:, column])
        for name, auc_L in found.aucs.items():
            auc_L = auc_L[np.isfinite(auc_L)]
            self.aucs_2[AUCS.index(name)] += whole(auc_L)
            self.requests_6[4 + AUCS.index(name)] += len(auc_L)

    def shown(self, rank_LC: np.ndarray, later_LC: np.ndarray, list_T: np.ndarray, place_T: np.ndarray) -> np.ndarray:
        """bool_TK: whether the later stage would put each target among its first ones, handed the first k."""
        better_TC = later_LC[list_T] > later_LC[list_T, place_T][:, None]
        ahead = [np.count_nonzero(better_TC & (rank_LC[list_T] < k), axis=1) for k in self.ks]
        return np.stack(ahead, 1).reshape(len(list_T), len(self.ks)) < self.settings.shown

    def chances(self, table: pa.Table) -> np.ndarray:
        """float64_B: the true chance of a purchase of each row, if it is shown."""
        assert self.truth is not None
        assert self.truth.propensity_R is not None
        assert self.truth.probability_R is not None
        row_B = self.truth.lookup(table.column(self.key).to_numpy())
        return self.truth.propensity_R[row_B].astype(np.float64) * self.truth.probability_R[row_B]

    def sums(self) -> list[Tensor]:
        return [self.rates_3K, self.aucs_2, self.requests_6]

    def peaks(self) -> list[Tensor]:
        return [self.most_1]

    def figures(self) -> dict[str, Any]:
        """requests, candidates (the most), asph, isph and recall at the pre-ranker's k and as asph.30 ..., pauc."""
        counted = self.requests_6.tolist()
        figures: dict[str, Any] = {"requests": counted[0], "candidates": int(self.most_1)}
        absent: dict[str, str] = {}
        for row, name in enumerate(RATES):
            if not counted[1 + row]:
                absent[name] = WHY[name]
                continue
            figures[f"requests.{name}"] = counted[1 + row]
            for column, k in enumerate(self.ks):
                rate = int(self.rates_3K[row, column]) / ONE / counted[1 + row]
                if k < int(self.most_1) or k == self.settings.k:
                    figures[f"{name}.{k}"] = rate
                if k == self.settings.k:
                    figures[name] = rate
        for row, name in enumerate(AUCS):
            if counted[4 + row]:
                figures[f"requests.{name}"] = counted[4 + row]
                figures[name] = int(self.aucs_2[row]) / ONE / counted[4 + row]
            else:
                absent[name] = WHY[name]
        return figures | {"absent": absent}

    def curves(self) -> dict[str, Any]:
        """Hit rates by k: {"hit_rates": {"k": [...], "asph": [...], ...}}."""
        counted = self.requests_6.tolist()
        kept = [column for column, k in enumerate(self.ks) if k <= int(self.most_1)]
        rates = {
            name: [int(self.rates_3K[row, column]) / ONE / counted[1 + row] for column in kept]
            for row, name in enumerate(RATES)
            if counted[1 + row]
        }
        return {"hit_rates": {"k": [self.ks[column] for column in kept], **rates, "own": self.settings.k}}


def ranks(score_LC: np.ndarray) -> np.ndarray:
    """int64_LC: how many other candidates of the row have at least this score; C where there is no candidate."""
    columns = score_LC.shape[1]
    order_LC = np.argsort(-score_LC, axis=1, kind="stable")
    sorted_LC = np.take_along_axis(score_LC, order_LC, 1)
    # The last place of each run of equal scores, from the right.
    last_LC = np.ones(score_LC.shape, bool)
    last_LC[:, :-1] = sorted_LC[:, 1:] != sorted_LC[:, :-1]
    place_LC = np.where(last_LC, np.arange(columns), columns)
    place_LC = np.minimum.accumulate(place_LC[:, ::-1], axis=1)[:, ::-1]
    rank_LC = np.empty_like(place_LC)
    np.put_along_axis(rank_LC, order_LC, place_LC, 1)
    rank_LC[np.isneginf(score_LC)] = 1 << 40
    return rank_LC


def weighted_auc(list_B: np.ndarray, score_B: np.ndarray, chance_B: np.ndarray, lists: int) -> np.ndarray:
    """float64_L: the AUC of every request over all ordered pairs, weighted by p_i (1 - p_j); NaN where it has none."""
    length_L = np.bincount(list_B, minlength=lists)
    place_B = np.arange(len(list_B)) - (np.cumsum(length_L) - length_L)[list_B]
    width = int(length_L.max(initial=0))
    score_LW, up_LW, down_LW = (np.zeros((lists, width)) for _ in range(3))
    score_LW[list_B, place_B], up_LW[list_B, place_B], down_LW[list_B, place_B] = score_B, chance_B, 1 - chance_B
    weight_LWW = up_LW[:, :, None] * down_LW[:, None, :] * (1 - np.eye(width))
    ahead_LWW = score_LW[:, :, None] - score_LW[:, None, :]
    won_LWW = (ahead_LWW > 0) + 0.5 * (ahead_LWW == 0)
    total_L = weight_LWW.sum((1, 2))
    many_L = (length_L > 1) & (total_L > 0)
    return np.where(many_L, (weight_LWW * won_LWW).sum((1, 2)) / np.where(many_L, total_L, 1), np.nan)
