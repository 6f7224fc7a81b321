"""What every algorithm offers the engine: `ask` proposes candidates, `tell` takes their returns; it keeps all state.

A generation is n pairs of candidates; the two of a pair are evaluated under one seed. D parameters.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from es.optimizers import norm


@dataclass(frozen=True)
class Proposal:
    """What to evaluate in a generation.

    With eps_i the rows of the generation's noise, elementwise in sigma (one number, or one per coordinate):
        mirrored        pair j is theta + sigma eps_j and theta - sigma eps_j
        not mirrored    pair j is theta + sigma eps_2j and theta + sigma eps_2j+1
        candidates_PD   (2n, D): pair j is its rows 2j and 2j + 1, whatever theta and sigma are
    theta is the centre, whose return is the curve.
    """

    generation: int
    theta_D: np.ndarray
    sigma: float | np.ndarray = 0.0
    mirrored: bool = True
    candidates_PD: np.ndarray | None = None

    def shared(self) -> "Proposal":
        """The part that every task needs."""
        return replace(self, candidates_PD=None)

    def rows(self, start: int, stop: int) -> np.ndarray | None:
        """The explicit candidates of pairs [start, stop); None where workers make them from theta and the noise."""
        return None if self.candidates_PD is None else self.candidates_PD[2 * start : 2 * stop]

    @property
    def nbytes(self) -> int:
        """Payload of the shared part; a single sigma counts with the task's other numbers."""
        return self.theta_D.nbytes + (self.sigma.nbytes if isinstance(self.sigma, np.ndarray) else 0)


@dataclass(frozen=True)
class Step:
    """What an update did; update_ratio is |change of theta| / |theta|, sigma the mean over coordinates."""

    grad_norm: float
    theta_norm: float
    update_ratio: float
    sigma: float


class Algorithm(Protocol):
    """Pure ask and tell over a flat vector: no Ray, no files, no objective. `theta_D` is the centre, float32."""

    theta_D: np.ndarray
    generation: int

    def ask(self) -> Proposal:
        """The generation to evaluate next; asking twice gives the same."""

    def tell(self, returns_n2: np.ndarray) -> Step:
        """Take the returns of every pair (not finite: failed) and make the step."""

    def state(self) -> dict[str, np.ndarray]:
        """Everything the next step depends on apart from config and noise; names and types never change, nor do shapes
        (except that an array which starts with 0 rows may grow). Holds `theta` and `generation`."""

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over a state; the caller has checked that it fits (es/checkpoint.py)."""


def describe_step(before_D: np.ndarray, after_D: np.ndarray, gradient_D: np.ndarray, sigma: float) -> Step:
    length = norm(before_D)
    ratio = norm(after_D - before_D) / length if length else 0.0
    return Step(grad_norm=norm(gradient_D), theta_norm=norm(after_D), update_ratio=ratio, sigma=sigma)


def with_prefix(prefix: str, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {prefix + name: value for name, value in state.items()}


def without_prefix(prefix: str, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
