"""The network as a scorer of lists (list_value.py: Scorer) for a block of requests whose candidates are known.

Vectors of candidates and requests are made once; a call then costs attention and experts for each list and candidate.
Shapes: R requests, M candidates, K lists, L planned, N watched, O width, F feedback values.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from funnel.rerank.counts import Maps
from funnel.rerank.list_value import Chances
from models.list_scorer import HEADS, Before, ListScorer


@dataclass(frozen=True)
class Watched:
    """What was watched in the session so far, the latest first."""

    item_RNO: Tensor
    there_RN: Tensor
    feedback_RNF: Tensor

    @classmethod
    def none(cls, rows: int, scorer: ListScorer) -> "Watched":
        width = scorer.config.output
        return cls(
            torch.zeros(rows, 0, width),
            torch.zeros(rows, 0, dtype=torch.bool),
            torch.zeros(rows, 0, scorer.feedback),
        )

    def take(self, row_R: Tensor) -> "Watched":
        return Watched(self.item_RNO[row_R], self.there_RN[row_R], self.feedback_RNF[row_R])

    def behind(self, later: "Watched", most: int) -> "Watched":
        """These after what was watched later, cut to `most`."""
        return Watched(
            *(
                torch.cat([getattr(later, name), getattr(self, name)], 1)[:, :most]
                for name in ("item_RNO", "there_RN", "feedback_RNF")
            )
        )


@dataclass(frozen=True)
class NetworkScorer:
    """In torch; NumpyScorer hands the same to a search in numpy."""

    scorer: ListScorer
    maps: Maps
    query_RO: Tensor
    item_RMO: Tensor
    watched: Watched

    @torch.inference_mode()
    def __call__(self, row_R: Any, prefix_RKL: Any) -> Chances:
        rows, lists, length = prefix_RKL.shape
        item_RMO, watched = self.item_RMO[row_R], self.watched.take(row_R)
        candidates, width = item_RMO.shape[1:]
        # Planned items, the latest first: there, but not watched.
        flipped_RKL = prefix_RKL.flip(2)
        planned_RKLO = item_RMO.gather(1, flipped_RKL.reshape(rows, lists * length, 1).expand(-1, -1, width))
        planned = Watched(
            planned_RKLO.view(rows * lists, length, width),
            torch.ones(rows * lists, length, dtype=torch.bool),
            torch.zeros(rows * lists, length, self.scorer.feedback),
        )
        seen = watched.take(torch.arange(rows).repeat_interleave(lists))
        most = self.scorer.config.before
        both, known = seen.behind(planned, most), torch.zeros_like(planned.there_RN)
        known_CN = torch.cat([known, seen.there_RN], 1)[:, :most]
        before = Before(both.item_RNO, both.there_RN, known_CN, both.feedback_RNF)
        target_CMO = item_RMO.unsqueeze(1).expand(-1, lists, -1, -1).reshape(rows * lists, candidates, width)
        query_CO = self.query_RO[row_R].repeat_interleave(lists, 0)
        logit_CMT = self.scorer.logits(query_CO, target_CMO, before)
        return self.chances(logit_CMT.view(rows, lists, candidates, len(HEADS)))

    @torch.inference_mode()
    def alone(self, row_R: Any) -> Chances:
        none = Watched.none(len(row_R), self.scorer)
        before = Before(none.item_RNO, none.there_RN, none.there_RN, none.feedback_RNF)
        return self.chances(self.scorer.logits(self.query_RO[row_R], self.item_RMO[row_R], before))

    def chances(self, logit_T: Tensor) -> Chances:
        """Calibrated probabilities by head, of logits (..., T)."""
        slope_T = torch.tensor([self.maps[head][0] for head in HEADS])
        offset_T = torch.tensor([self.maps[head][1] for head in HEADS])
        return Chances(*(logit_T * slope_T + offset_T).sigmoid().unbind(-1))


@dataclass(frozen=True)
class NumpyScorer:
    """The same, of and in arrays."""

    network: NetworkScorer

    def __call__(self, row_R: np.ndarray, prefix_RKL: np.ndarray) -> Chances:
        found = self.network(torch.from_numpy(row_R), torch.from_numpy(prefix_RKL))
        return Chances(*(value.numpy() for value in found))

    def alone(self, row_R: np.ndarray) -> Chances:
        return Chances(*(value.numpy() for value in self.network.alone(torch.from_numpy(row_R))))
