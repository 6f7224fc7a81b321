"""What a list is worth, and who says so: as in re-ranking on the device [Kuaishou, CIKM 2022, arXiv 2208.09577].

    LR(P) = sum_i s_i (alpha p(ev_i | c(i)) + beta p(like_i | c(i))),    s_1 = 1,  s_i = prod_{j<i} p(next_j | c(j))

c(i): what was watched in the session, with its feedback, and what stands before i on the list. ev: an effective view.
Shapes: R requests, K lists (beams) of each, L items of a list so far, M candidates.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from data.errors import UserError

METHODS = ("pointwise", "greedy", "beam", "adaptive")


class Chances(NamedTuple):
    """Probabilities of each candidate if it came next: an effective view, a like, and that the user looks on."""

    view: Any
    like: Any
    next: Any


class Scorer(Protocol):
    """Who predicts. Arrays are numpy's or torch's, as the search that asks."""

    def __call__(self, row_R: Any, prefix_RKL: Any) -> Chances:
        """(R, K, M) each, of these requests of a block, after a list of L candidates (columns) that are not watched
        yet. Every list of a request must be predicted by itself."""

    def alone(self, row_R: Any) -> Chances:
        """(R, M) each: without anything before it, as a point-wise model says."""


@dataclass(frozen=True)
class SearchSettings:
    """How the next item is found."""

    method: Literal["pointwise", "greedy", "beam", "adaptive"] = "adaptive"
    """pointwise: the order of single scores; greedy: the best next item; beam: lists of `horizon` items; adaptive: beam
    that stops where its lists have become alike."""
    k: int = 4
    """Lists that are kept at each step (the beam's width)."""
    stability: float = 0.95
    """adaptive: stop as soon as the least value kept is more than this share of the largest (t in the paper)."""
    stop: Literal["alike", "decided"] = "decided"
    """adaptive: alike: by `stability` alone, as in the paper; decided: where the next item is (search.py)."""
    lead: float = 0.95
    """decided: stop too where no list that begins with another item is worth this share of the best; 0: not for that.
    """
    horizon: int = 10
    """Steps at most: items that are planned ahead."""
    alpha: float = 1.0
    """Weight of an effective view."""
    beta: float = 4.0
    """Weight of a like."""

    def __post_init__(self) -> None:
        for name in ("k", "horizon"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 1")
        if not 0 < self.stability <= 1:
            raise UserError(f"stability is {self.stability}, must lie above 0 and be at most 1")
        if not 0 <= self.lead <= 1:
            raise UserError(f"lead is {self.lead}, must lie in 0..1")
        for name in ("alpha", "beta"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UserError(
                    f"{name} is {getattr(self, name)}, must be a finite number of at least 0: a list value has to be "
                    "above 0 for the share of two of them to say anything"
                )
        if self.alpha + self.beta == 0:
            raise UserError("alpha and beta are both 0: every list would be worth nothing")

    def check_width(self, candidates: int) -> None:
        """Raises UserError for more lists than there are candidates to begin them with."""
        if self.method in ("beam", "adaptive") and self.k > candidates:
            raise UserError(
                f"k is {self.k}, but there are {candidates} candidates: a list begins with each of them once"
            )


def list_value(chances: Chances, alpha: float, beta: float) -> np.ndarray:
    """(R,): LR of whole lists from the chances (R, L) of their items, each after those before it."""
    gain_RL = alpha * chances.view + beta * chances.like
    reached_RL = np.cumprod(chances.next, axis=1)
    reached_RL = np.concatenate([np.ones_like(reached_RL[:, :1]), reached_RL[:, :-1]], axis=1)
    value_R: np.ndarray = (reached_RL * gain_RL).sum(1)
    return value_R
