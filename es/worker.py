"""Scoring a range of pairs: the same code in this process (0 workers) and in a Ray actor.

A worker is sent pair ids and theta, makes the perturbations itself, and answers with two returns per pair.
P candidates, D parameters, k pairs of a range.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import ray
import ray.cloudpickle

from es.config import ESConfig
from es.noise import Noise, evaluation_seeds, open_noise
from es.objectives.base import Objective
from es.openai_es import Proposal

DEFAULT_BATCH_PAIRS = 16
BATCH_BYTES = 2**26  # of candidates, at most, unless a single pair is larger


class Task(NamedTuple):
    """Pairs [start, stop) of a generation; `centre`: and the unperturbed theta."""

    start: int
    stop: int
    centre: bool


@dataclass
class Reply:
    """Returns of a task; NaN where an evaluation raised, with the first error met."""

    returns_k2: np.ndarray
    centre: float | None = None
    error: Exception | None = None


class Evaluator:
    """Builds theta +- sigma eps for batches of pairs and has the objective score them."""

    def __init__(self, objective: Objective, config: ESConfig, noise: Noise) -> None:
        self.objective, self.config, self.noise = objective, config, noise
        self.batch_pairs = batch_pairs(config, noise)
        self._error: Exception | None = None
        self._buffer = np.empty((0, 0), np.float32)

    def evaluate(self, proposal: Proposal, task: Task) -> Reply:
        """Score a task. Batches are cut at multiples of batch_pairs, so they do not depend on the task's borders."""
        self._error = None
        returns_k2 = np.empty((task.stop - task.start, 2))
        ids_k = np.arange(task.start, task.stop, dtype=np.uint64)
        per_generation = self.config.evaluation_seeds == "generation"
        seeds_k = evaluation_seeds(self.config.seed, proposal.generation, ids_k, per_generation)
        for start in range(task.start, task.stop, self.batch_pairs):
            stop = min(start + self.batch_pairs, task.stop)
            part = slice(start - task.start, stop - task.start)
            returns_k2[part] = self._evaluate_pairs(proposal, start, stop, seeds_k[part])
        centre = None
        if task.centre:
            seeds = evaluation_seeds(self.config.seed, proposal.generation, np.zeros(1, np.uint64), True)
            centre = float(self._score(proposal.theta_D[None, :], seeds)[0])
        return Reply(returns_k2, centre, self._error)

    def _evaluate_pairs(self, proposal: Proposal, start: int, stop: int, seeds_k: np.ndarray) -> np.ndarray:
        run, first = divmod(start, self.noise.run_pairs)
        pairs = stop - start
        eps_kD = self.noise.run(proposal.generation, run, first + pairs)[first:]
        if self._buffer.shape != (2 * pairs, self.noise.dimension):
            self._buffer = np.empty((2 * pairs, self.noise.dimension), np.float32)
        plus, minus = self._buffer[:pairs], self._buffer[pairs:]
        np.multiply(eps_kD, np.float32(proposal.sigma), out=minus)
        np.add(proposal.theta_D, minus, out=plus)
        np.subtract(proposal.theta_D, minus, out=minus)
        returns_P = self._score(self._buffer, np.concatenate([seeds_k, seeds_k]))
        return returns_P.reshape(2, pairs).T

    def _score(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        try:
            returns_P = np.asarray(self.objective.evaluate_batch(theta_PD, seeds_P))
        except Exception as error:
            self._error = self._error or error
            if len(theta_PD) == 1:
                return np.full(1, np.nan)
            # One candidate's failure is not the others': evaluate them one by one.
            singles = [self._score(theta_PD[i : i + 1], seeds_P[i : i + 1]) for i in range(len(theta_PD))]
            return np.concatenate(singles)
        if returns_P.shape != (len(theta_PD),):
            raise TypeError(
                f"{type(self.objective).__name__}.evaluate_batch returned shape {returns_P.shape}: "
                f"it must be ({len(theta_PD)},), one return per candidate"
            )
        return returns_P.astype(np.float64)


def batch_pairs(config: ESConfig, noise: Noise) -> int:
    """Pairs per call of the objective: a power of two, so that batches never cross a run of the noise."""
    wanted = config.batch_pairs
    if wanted is None:
        wanted = DEFAULT_BATCH_PAIRS
        while wanted > 1 and 8 * wanted * noise.dimension > BATCH_BYTES:
            wanted //= 2
    return min(wanted, noise.run_pairs)


@ray.remote
class Worker:
    """A Ray actor around an Evaluator. Ray gives it as many BLAS and torch threads as CPUs: one."""

    def start(self, objective: Objective, config: ESConfig, dimension: int) -> str:
        """Return the fingerprint of the noise: were it not the driver's, other perturbations would be scored than the
        driver adds up. (Not __init__: what goes wrong here is an error to show, not a dead actor to replace.)"""
        self.noise = open_noise(config, dimension)
        self.evaluator = Evaluator(objective, config, self.noise)
        return self.noise.fingerprint

    def evaluate(self, generation: int, theta_D: np.ndarray, sigma: float, task: tuple[int, int, bool]) -> Reply:
        reply = self.evaluator.evaluate(Proposal(generation, theta_D, sigma), Task(*task))
        if reply.error is not None:
            reply.error = _portable(reply.error)
        return reply

    def close(self) -> None:
        self.noise.close()


def _portable(error: Exception) -> Exception:
    """The error if it survives the journey to the driver, else one that says the same."""
    try:
        ray.cloudpickle.loads(ray.cloudpickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
