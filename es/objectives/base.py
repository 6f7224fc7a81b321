"""What the engine asks of an objective, and how a plain function becomes one.

An objective is built in the driver, put into Ray's object store once and shared from there: its numpy arrays are
mapped, read-only, by all workers of a node.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np


class Objective(Protocol):
    """Something to maximise over flat vectors. D parameters, P candidates.

    An attribute `batch_pairs` may say how many pairs it wants in a call of evaluate_batch: 1 where candidates are
    scored one by one anyway, so that each pair may be another worker's.
    """

    def initial(self) -> np.ndarray:
        """theta before tuning, (D,)."""

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        """Returns of P candidates, (P,), larger is better.

        theta_PD is float32, read-only and only lent: copy what is kept or changed. seeds_P (uint64) is all the
        randomness allowed: equal theta and seed must give an equal return, whoever evaluates it and how often. Returns
        are real numbers; a candidate that cannot be evaluated gets NaN; after an exception the candidates are tried one
        by one.
        """

    def describe(self) -> dict[str, Any]:
        """Plain JSON facts that tell this objective from another: a checkpoint of another one is refused."""


@runtime_checkable
class Observing(Protocol):
    """What an objective offers besides, if it learns from what its evaluations see (observation normalisation).

    The engine, where `isinstance(objective, Observing)`:
      1. sends `state()` of the driver's objective with every task of a generation; a worker hands it to its own
         objective's `load` before the first candidate (once per generation and worker is enough);
      2. has pairs scored by `evaluate_observed`, and brings the statistics back beside the returns, one row per
         candidate (zeros where the evaluation raised; a re-issued task brings the same rows: the first answer counts);
      3. after the last pair, in the driver, calls `observe` with the rows of all pairs in pair order (plus before
         minus within a pair), before the checkpoint is written, and merges what it returns into the line of metrics;
      4. keeps `state()` in the checkpoint (under "objective.") and hands it to `load` on resume.
    So what a generation has seen applies from the next one on, and no bit depends on who evaluated what. The centre is
    evaluated by `evaluate_batch`, with the same state, and observes nothing. S statistics of a candidate.
    """

    def evaluate_observed(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (P,) to train on (`evaluate_batch`'s, or cut shorter) and what was seen, (P, S) float64, S fixed."""

    def observe(self, statistics_n2S: np.ndarray) -> dict[str, float]:
        """Take in the statistics of a generation, (n, 2, S); return finite figures for its line of metrics."""

    def state(self) -> dict[str, np.ndarray]:
        """Everything that `observe` changes, as arrays whose names, shapes and types never change."""

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over a state (copy what will be written to: the arrays may be read-only)."""


class FunctionObjective:
    """A function of one theta and one seed as an objective: `FunctionObjective(lambda theta, seed: 0.0, zeros)`."""

    batch_pairs = 1

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
