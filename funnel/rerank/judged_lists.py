"""Lists that searches find among the items of logged sessions, valued by the network itself.

A log holds what was watched, not what else could have been shown. So the last LISTED items of a session stand for its
candidates, with what was watched before them as the context: each search puts them into an order as it is used (one
item committed, searched again), and the network says what the whole list is worth. The full beam's value is what the
others are measured by; "shown" is the order in which they were watched. What a search loses here it loses by the
network's own word: this judges searches, not the network.

Shapes: S sessions, M = LISTED candidates, N watched before, B rows of the batch, O width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from funnel.rerank.counts import Maps
from funnel.rerank.list_value import METHODS, Chances, Scorer, SearchSettings, list_value
from funnel.rerank.scorer import NetworkScorer, NumpyScorer, Watched
from funnel.rerank.search import search
from funnel.rerank.units import SessionBatch
from models.list_scorer import HEADS, ListScorer

LISTED = 10
"""Items of a session that are put into order; shorter sessions are left out."""
MOST = 400
"""Sessions of a part that are searched, its first ones."""
KINDS = (*METHODS, "shown")
SUMS = (*KINDS, *(f"{method}.evaluations" for method in METHODS))


@dataclass(frozen=True)
class Behind:
    """list_value.py: Scorer, behind items that are on the list already."""

    scorer: Scorer
    placed_SP: np.ndarray

    def __call__(self, row_R: Any, prefix_RKL: Any) -> Chances:
        rows, lists, _ = prefix_RKL.shape
        placed_RKP = np.broadcast_to(self.placed_SP[row_R][:, None], (rows, lists, self.placed_SP.shape[1]))
        return self.scorer(row_R, np.concatenate([placed_RKP, prefix_RKL], 2))

    def alone(self, row_R: Any) -> Chances:
        return self.scorer.alone(row_R)


def ordered(scorer: Scorer, sessions: int, settings: SearchSettings) -> tuple[np.ndarray, np.ndarray]:
    """((S, M) the candidates in the order in which a search shows them, (S,) evaluations)."""
    row_S = np.arange(sessions)
    left_SM, placed_SP = np.ones((sessions, LISTED), bool), np.zeros((sessions, 0), np.int64)
    cost_S = np.zeros(sessions, np.int64)
    for place in range(LISTED):
        found = search(Behind(scorer, placed_SP), left_SM, settings, LISTED - place)
        left_SM[row_S, found.first_R] = False
        placed_SP = np.concatenate([placed_SP, found.first_R[:, None]], 1)
        cost_S += found.evaluations_R
    return placed_SP, cost_S


def worth(scorer: Scorer, list_SM: np.ndarray, settings: SearchSettings) -> np.ndarray:
    """(S,): the value of whole lists."""
    row_S, found = np.arange(len(list_SM)), []
    for place in range(list_SM.shape[1]):
        chances = scorer(row_S, list_SM[:, None, :place])
        found.append([value[row_S, 0, list_SM[:, place]] for value in chances])
    return list_value(
        Chances(*(np.stack([one[n] for one in found], 1) for n in range(3))), settings.alpha, settings.beta
    )


def searched(
    scorer: ListScorer, maps: Maps | None, batch: SessionBatch, session_S: np.ndarray, settings: SearchSettings
) -> Mapping[str, np.ndarray]:
    """{name of SUMS: value_S} of these sessions of a batch, LISTED items or longer; a network without context orders
    alike by all searches."""
    with torch.inference_mode():
        query_BO, item_BO = scorer.vectors(batch.lists.rows.ids_BK, batch.lists.rows.numeric_BN)
    end_S = batch.lists.begin_L1[1:][torch.from_numpy(session_S)]
    begin_S = batch.lists.begin_L1[:-1][torch.from_numpy(session_S)]
    row_SM = end_S[:, None] - LISTED + torch.arange(LISTED)
    before = max(scorer.config.before, 1)
    row_SN = row_SM[:, :1] - 1 - torch.arange(before)
    there_SN = (row_SN >= begin_S[:, None]) & (scorer.config.before > 0)
    row_SN = row_SN.clamp(min=0)
    watched = Watched(item_BO[row_SN], there_SN, batch.feedback_BF[row_SN])
    own = NetworkScorer(
        scorer, maps or dict.fromkeys(HEADS, (1.0, 0.0)), query_BO[row_SM[:, 0]], item_BO[row_SM], watched
    )
    network = NumpyScorer(own)
    found: dict[str, np.ndarray] = {}
    for method in METHODS:
        list_SM, found[f"{method}.evaluations"] = ordered(network, len(session_S), replace(settings, method=method))  # type: ignore[arg-type]
        found[method] = worth(network, list_SM, settings)
    found["shown"] = worth(network, np.tile(np.arange(LISTED), (len(session_S), 1)), settings)
    return found
