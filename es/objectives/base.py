"""What the engine asks of an objective, and how a plain function becomes one.

An objective is built in the driver, put into Ray's object store once and shared from there: its numpy arrays are
mapped, read-only, by all workers of a node.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np


class Objective(Protocol):
    """Something to maximise over flat vectors. D parameters, P candidates."""

    def initial(self) -> np.ndarray:
        """theta before tuning, (D,)."""

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        """Returns of P candidates, (P,), larger is better.

        theta_PD is float32 and only lent: copy what is kept. seeds_P (uint64) is all the randomness allowed: equal
        theta and seed must give an equal return, whoever evaluates it and how often. A candidate that cannot be
        evaluated gets NaN; after an exception the candidates are tried one by one.
        """

    def describe(self) -> dict[str, Any]:
        """Plain JSON facts that tell this objective from another: a checkpoint of another one is refused."""


class FunctionObjective:
    """A function of one theta and one seed as an objective: `FunctionObjective(lambda theta, seed: 0.0, zeros)`."""

    def __init__(
        self, function: Callable[[np.ndarray, int], float], initial: np.ndarray, name: str = "function"
    ) -> None:
        self.function, self.name = function, name
        self._initial = np.asarray(initial, np.float32)

    def initial(self) -> np.ndarray:
        return self._initial

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        return np.asarray(
            [self.function(theta, int(seed)) for theta, seed in zip(theta_PD, seeds_P, strict=True)], np.float64
        )

    def describe(self) -> dict[str, Any]:
        return {"objective": self.name, "dimension": len(self._initial)}
