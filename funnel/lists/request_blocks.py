"""Lists of candidates of unequal length, laid out so that many scorings of them are judged at once.

Requests of about equal length form a block: arrays of (slot, request), padded. Only requests with a reward are kept:
the others add 0 to value@k and are left out of NDCG, whatever the order of their candidates.

A metric needs the ranks of the rewarded candidates only, and there are few of them (clicks). A rewarded candidate's
rank is the number of candidates of its request that score higher, or equal and come earlier: ties are broken by the
order in the file. Where rewards are many and lists long, a stable sort is cheaper and gives the same ranks.

L slots, G requests of a block, N rewarded candidates, P scorings, M features.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

Score = Callable[[np.ndarray], np.ndarray]  # features (M, L, 1, G) -> scores (L, P, G)

CHUNK_FLOATS = 2**18  # scores at a time: what stays in the cache
SORT_ABOVE = 16  # rewarded candidates per request from which sorting is cheaper than counting


@dataclass(frozen=True)
class Block:
    """G requests of at most L candidates, those with most rewarded candidates first."""

    features_ML1G: np.ndarray  # float32
    padding_LG: np.ndarray | None  # True where there is no candidate; None where there is one everywhere
    requests_G: np.ndarray  # their numbers
    rewards_LG: np.ndarray  # float32
    rounds: tuple[tuple[np.ndarray, np.ndarray], ...]
    """Round t: slot and reward of the t-th rewarded candidate of the first requests, as many as have one."""
    sorts: bool


@dataclass(frozen=True)
class Requests:
    """All requests of a log (or of a half of it). `requests` counts those without any reward too."""

    blocks: tuple[Block, ...]
    requests: int
    longest: int
    ideal_R: np.ndarray  # the largest DCG@k each request allows, float64; 0 where it has no reward
    k: int

    @classmethod
    def build(cls, request_C: np.ndarray, features_MC: np.ndarray, rewards_C: np.ndarray, k: int) -> "Requests":
        """`request_C` numbers the requests 0..R-1, in any order; candidates keep theirs within a request."""
        order = np.argsort(request_C, kind="stable")
        request_C, rewards_C = request_C[order], rewards_C[order].astype(np.float32)
        lengths_R = np.bincount(request_C)
        starts_R = np.concatenate([[0], np.cumsum(lengths_R)[:-1]])
        slot_C = np.arange(len(request_C)) - starts_R[request_C]
        rewarded_R = np.bincount(request_C, weights=rewards_C > 0).astype(np.int64)
        features_MC = features_MC[:, order].astype(np.float32)
        blocks = []
        padded_R = padded_length(lengths_R)
        for length in np.unique(padded_R[rewarded_R > 0]):
            members = np.flatnonzero((padded_R == length) & (rewarded_R > 0))
            members = members[np.argsort(-rewarded_R[members], kind="stable")]
            blocks.append(_block(members, length, starts_R, lengths_R, features_MC, rewards_C, rewarded_R))
        ideal_R = ideal_dcg(request_C, rewards_C, slot_C, starts_R, len(lengths_R), k)
        return cls(tuple(blocks), len(lengths_R), int(lengths_R.max(initial=0)), ideal_R, k)

    def per_request(self, score: Callable[[slice], Score], scorings: int, metric: str) -> np.ndarray:
        """value@k or NDCG@k of every request under every scoring, (P, R) float64; 0 for requests without reward.

        `score(part)` gives the scoring function of a part of the population.
        """
        result_PR = np.zeros((scorings, self.requests))
        for block, part, per_PG in self._judge(score, scorings, metric):
            result_PR[part, block.requests_G] = per_PG
        return result_PR

    def mean(self, score: Callable[[slice], Score], scorings: int, metric: str) -> np.ndarray:
        """The metric of every scoring, (P,) float64: value@k over all requests, NDCG@k over those with a reward.

        Summed block by block in a fixed order, each row by itself: the bits do not depend on P.
        """
        total_P = np.zeros(scorings)
        for _, part, per_PG in self._judge(score, scorings, metric):
            total_P[part] += [np.add.reduce(row) for row in per_PG]
        return total_P / (self.requests if metric == "value" else max(self.rewarded, 1))

    @property
    def rewarded(self) -> int:
        """Requests with a reward."""
        return int(np.count_nonzero(self.ideal_R))

    def _judge(
        self, score: Callable[[slice], Score], scorings: int, metric: str
    ) -> Iterator[tuple[Block, slice, np.ndarray]]:
        discounts = 1 / np.log2(np.arange(2, self.k + 2))
        gains = np.zeros(self.longest + 2)
        gains[: self.k] = (np.ones(self.k) if metric == "value" else discounts)[: len(gains)]
        for block in self.blocks:
            cells = block.rewards_LG.size
            step = max(1, CHUNK_FLOATS // cells)
            for start in range(0, scorings, step):
                part = slice(start, min(start + step, scorings))
                scores_LPG = score(part)(block.features_ML1G)
                if block.padding_LG is not None:
                    np.copyto(scores_LPG, np.float32(-np.inf), where=block.padding_LG[:, None, :])
                per_PG = (_by_sorting if block.sorts else _by_counting)(block, scores_LPG, gains)
                yield block, part, per_PG if metric == "value" else per_PG / self.ideal_R[block.requests_G]


def _block(
    members: np.ndarray,
    length: int,
    starts_R: np.ndarray,
    lengths_R: np.ndarray,
    features_MC: np.ndarray,
    rewards_C: np.ndarray,
    rewarded_R: np.ndarray,
) -> Block:
    slots_L1 = np.arange(length)[:, None]
    padding_LG = slots_L1 >= lengths_R[members]
    cells_LG = np.where(padding_LG, starts_R[members], starts_R[members] + slots_L1)
    rewards_LG = np.where(padding_LG, np.float32(0), rewards_C[cells_LG])
    # Slots of the rewarded candidates first, in order, request by request.
    slots_LG = np.argsort(rewards_LG <= 0, axis=0, kind="stable")
    rounds = []
    for t in range(int(rewarded_R[members[0]])):
        count = int(np.count_nonzero(rewarded_R[members] > t))
        slots = slots_LG[t, :count]
        rounds.append((slots, rewards_LG[slots, np.arange(count)]))
    return Block(
        features_ML1G=np.ascontiguousarray(features_MC[:, cells_LG][:, :, None, :]),
        padding_LG=padding_LG if padding_LG.any() else None,
        requests_G=members,
        rewards_LG=rewards_LG,
        rounds=tuple(rounds),
        sorts=float(rewarded_R[members].mean()) > SORT_ABOVE,
    )


def _by_counting(block: Block, scores_LPG: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Rank every rewarded candidate against the candidates of its request; sum reward x gain[rank] per request."""
    total_PG = np.zeros(scores_LPG.shape[1:])
    for slots_g, rewards_g in block.rounds:
        count = len(slots_g)
        own_Pg = scores_LPG[slots_g, :, np.arange(count)].T.copy()
        rank_Pg = np.zeros(own_Pg.shape, np.uint8 if len(scores_LPG) < 256 else np.int32)
        for slot, scores_PG in enumerate(scores_LPG):
            others_Pg = scores_PG[:, :count]
            ahead_Pg = others_Pg > own_Pg
            ahead_Pg |= (others_Pg == own_Pg) & (slot < slots_g)
            rank_Pg += ahead_Pg
        total_PG[:, :count] += gains[rank_Pg] * rewards_g
    return total_PG


def _by_sorting(block: Block, scores_LPG: np.ndarray, gains: np.ndarray) -> np.ndarray:
    order_LPG = np.argsort(-scores_LPG, axis=0, kind="stable")[: np.count_nonzero(gains)]
    rewards_LPG = np.take_along_axis(block.rewards_LG[:, None, :], order_LPG, axis=0)
    total_PG = np.zeros(scores_LPG.shape[1:])
    for rank, rewards_PG in enumerate(rewards_LPG):
        total_PG += gains[rank] * rewards_PG
    return total_PG


def padded_length(lengths: np.ndarray) -> np.ndarray:
    """Round up to one of few lengths (1..16, then steps of an eighth): few blocks, at most an eighth of padding."""
    step = 2 ** np.maximum(np.floor(np.log2(np.maximum(lengths, 1))).astype(np.int64) - 3, 0)
    return np.asarray(-(-lengths // step) * step)


def ideal_dcg(
    request_C: np.ndarray, rewards_C: np.ndarray, slot_C: np.ndarray, starts_R: np.ndarray, requests: int, k: int
) -> np.ndarray:
    """DCG@k of each request with its rewards in descending order, (R,) float64."""
    best = np.lexsort((-rewards_C, request_C))
    rank_C = np.arange(len(request_C)) - starts_R[request_C]
    gains_C = np.where(rank_C < k, rewards_C[best].astype(np.float64) / np.log2(rank_C + 2.0), 0.0)
    return np.bincount(request_C, weights=gains_C, minlength=requests)


def ranks_within(request_C: np.ndarray, scores_C: np.ndarray) -> np.ndarray:
    """Rank of each candidate within its request, 1 for the highest score, ties averaged, float64."""
    order = np.lexsort((-scores_C, request_C))
    request, scores = request_C[order], scores_C[order]
    new_request = np.concatenate([[True], request[1:] != request[:-1]])
    new_value = new_request | np.concatenate([[True], scores[1:] != scores[:-1]])
    positions = np.arange(len(order))
    first_of_tie = np.maximum.accumulate(np.where(new_value, positions, 0))
    first_of_request = np.maximum.accumulate(np.where(new_request, positions, 0))
    tie = np.cumsum(new_value) - 1
    tied = np.bincount(tie)[tie]
    ranks = np.empty(len(order))
    ranks[order] = first_of_tie - first_of_request + 1 + (tied - 1) / 2
    return ranks
