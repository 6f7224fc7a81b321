"""Other ways to a list, to compare with: leaving by place alone, and lists that are drawn instead of searched for.

LeavingByPlace  the value of a list as an expectation over where the user leaves, by a Weibull law of the place
                    LV(P) = sum_n P(leaves after n) * value of the first n,  P(stays beyond n) = exp(-(n / scale)^shape)
                [CAVE, arXiv 2508.02242]. With values that add up this is LR with P(next) by place, whatever is watched:
                the list value of the paper with a parametric exit model in place of the network's.
drawn           no search: lists are drawn item by item in proportion to single scores (Plackett-Luce), all are valued,
                and the best one's first item is shown: a generator and an evaluator.

Shapes: list_value.py; W lists drawn.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from data.errors import UserError
from funnel.rerank.list_value import Chances, Scorer, SearchSettings, list_value
from funnel.rerank.search import NOTHING, Found, checked


@dataclass(frozen=True)
class Weibull:
    """How many items users look at before they leave."""

    scale: float
    shape: float

    def stays(self, places: np.ndarray) -> np.ndarray:
        """P(looks at item n + 1 | looked at item n), of n = 1, 2, ..."""
        n = np.asarray(places, np.float64)
        return np.asarray(np.exp(-(((n / self.scale) ** self.shape) - ((n - 1) / self.scale) ** self.shape)))


def fit_weibull(length_V: np.ndarray, left_V: np.ndarray) -> Weibull:
    """The law of largest likelihood of visits of so many items; left: the user left after the last one (else the visit
    only was not seen further). Raises UserError where nobody left."""
    length_V, left_V = np.asarray(length_V, np.float64), np.asarray(left_V, bool)
    if not left_V.any():
        raise UserError("no visit ends with a user who left: when users leave cannot be learnt")

    def cost(log_2: np.ndarray) -> float:
        scale, shape = np.exp(log_2)
        stayed, passed = ((length_V - 1) / scale) ** shape, (length_V / scale) ** shape
        gone_V = -np.expm1(-(passed - stayed))
        value = np.where(left_V, -stayed + np.log(np.maximum(gone_V, 1e-300)), -stayed)
        return -float(value.sum())

    found = minimize(cost, np.log([length_V.mean(), 1.0]), method="Nelder-Mead")
    scale, shape = np.exp(found.x)
    return Weibull(float(scale), float(shape))


@dataclass(frozen=True)
class LeavingByPlace:
    """A scorer whose chance of looking on is that of the place: watched_R items stand before the list."""

    scorer: Scorer
    law: Weibull
    watched_R: np.ndarray

    def __call__(self, row_R: Any, prefix_RKL: Any) -> Chances:
        chances = self.scorer(row_R, prefix_RKL)
        stays_R = self.law.stays(self.watched_R[row_R] + prefix_RKL.shape[2] + 1).astype(np.float32)
        return chances._replace(next=np.broadcast_to(stays_R[:, None, None], chances.next.shape))

    def alone(self, row_R: Any) -> Chances:
        return self.scorer.alone(row_R)


def drawn(scorer: Scorer, left_RM: np.ndarray, settings: SearchSettings, places: int, lists: int, seed: int) -> Found:
    """The first item of the best of so many lists. An evaluation is one item of one list."""
    rows, candidates = left_RM.shape
    length = min(settings.horizon, places)
    rng = np.random.default_rng(seed)
    row_R = np.arange(rows)
    alone = checked(scorer.alone(row_R))
    score_RM = np.log(np.maximum(settings.alpha * alone.view + settings.beta * alone.like, 1e-12))
    gumbel_RWM = rng.gumbel(size=(rows, lists, candidates))
    gumbel_RWM[:, 0] = 0.0  # one of them is the point-wise list itself
    key_RWM = np.where(left_RM[:, None], score_RM[:, None] + gumbel_RWM, -np.inf)
    order_RWL = np.argsort(-key_RWM, axis=2, kind="stable")[:, :, :length]
    parts = []
    for place in range(length):
        chances = checked(scorer(row_R, order_RWL[:, :, :place]))
        item_RW1 = order_RWL[:, :, place : place + 1]
        parts.append([np.take_along_axis(value, item_RW1, 2)[:, :, 0].reshape(-1) for value in chances])
    of_lists = Chances(*(np.stack([one[n] for one in parts], 1) for n in range(3)))
    value_RW = list_value(of_lists, settings.alpha, settings.beta).reshape(rows, lists)
    best_R = value_RW.argmax(1)
    list_RL = order_RWL[row_R, best_R]
    there_R = left_RM.any(1)
    cost_R = left_RM.sum(1) + lists * np.minimum(left_RM.sum(1), length)
    return Found(
        np.where(there_R, list_RL[:, 0], NOTHING), value_RW[row_R, best_R], np.full(rows, length), cost_R, list_RL
    )
