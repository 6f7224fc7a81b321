"""Scoring a range of pairs: the same code in this process (0 workers) and in a Ray actor.

A worker is sent pair ids and theta, makes the perturbations itself, and answers with two returns per pair.
P candidates, D parameters, k pairs of a range.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from es.algorithms.base import Proposal
from es.config import ESConfig
from es.contract import blame, checked_returns, checked_statistics, split_observed
from es.noise import Noise, evaluation_seeds
from es.objectives.base import Objective, Observing

BATCH_BYTES = 2**22  # of candidates, at most, unless a single pair is larger: what a call reads stays in the cache
LEAST_BATCHES = 4  # of a generation, so that several workers get a part


class Task(NamedTuple):
    """Pairs [start, stop) of a generation; `centre`: and the unperturbed theta.

    `member` 0 or 1: only that candidate of the one pair, by itself, as after an exception in its batch; the other's
    return is NaN.
    """

    start: int
    stop: int
    centre: bool
    member: int | None = None


@dataclass
class Reply:
    """Returns of a task; NaN where an evaluation raised, with the first error met.

    `statistics_k2S`: what an observing objective saw (zeros where it raised; None if nothing was seen at all).
    """

    returns_k2: np.ndarray
    centre: float | None = None
    error: Exception | None = None
    statistics_k2S: np.ndarray | None = None
    seconds: float = 0.0


class Evaluator:
    """Builds theta +- sigma eps for batches of pairs and has the objective score them.

    An objective is handed read-only views of memory that nothing else reads: what it does to a candidate, to its seeds
    or to numpy's error handling reaches neither the engine's theta nor another attempt at the same candidate.
    """

    def __init__(self, objective: Objective, config: ESConfig, noise: Noise) -> None:
        self.objective, self.config, self.noise = objective, config, noise
        self.batch_pairs = batch_pairs(config, noise)
        self.observing = isinstance(objective, Observing)
        self._error: Exception | None = None
        self._seen: list[np.ndarray | None] = []  # a row for each candidate scored, if the objective observes
        self._buffer = np.empty((0, 0), np.float32)

    def evaluate(self, proposal: Proposal, task: Task, rows_PD: np.ndarray | None = None) -> Reply:
        """Score a task. Batches are cut at multiples of batch_pairs, so they do not depend on the task's borders.

        rows_PD: the task's candidates, two rows per pair, where the proposal does not say how to make them.
        """
        began = time.perf_counter()
        self._error, statistics = None, list[list[np.ndarray | None]]()
        returns_k2 = np.empty((task.stop - task.start, 2))
        ids_k = np.arange(task.start, task.stop, dtype=np.uint64)
        per_generation = self.config.evaluation_seeds == "generation"
        seeds_k = evaluation_seeds(self.config.seed, proposal.generation, ids_k, per_generation)
        for start in range(task.start, task.stop, self.batch_pairs):
            stop = min(start + self.batch_pairs, task.stop)
            part = slice(start - task.start, stop - task.start)
            rows_PD_part = None if rows_PD is None else rows_PD[2 * part.start : 2 * part.stop]
            self._seen, pairs = [], stop - start
            seeds_P = np.concatenate([seeds_k[part], seeds_k[part]])
            make = functools.partial(self._candidates, proposal, start, stop, rows_PD_part)
            if task.member is None:
                returns_k2[part] = self._score(make, seeds_P).reshape(2, -1).T
            else:
                returns_k2[0, 1 - task.member] = np.nan
                returns_k2[0, task.member] = self._alone(make(), seeds_P, task.member)
                self._seen.insert(1 - task.member, None)
            if self.observing:
                statistics += [[self._seen[i], self._seen[pairs + i]] for i in range(pairs)]
        centre = None
        if task.centre:
            seeds = evaluation_seeds(self.config.seed, proposal.generation, np.zeros(1, np.uint64), True)
            centre = float(self._score(lambda: proposal.theta_D[None, :].copy(), seeds, centre=True)[0])
        return Reply(returns_k2, centre, self._error, stack_rows(statistics), time.perf_counter() - began)

    def _candidates(self, proposal: Proposal, start: int, stop: int, rows_PD: np.ndarray | None) -> np.ndarray:
        """The candidates of pairs [start, stop): the first members of all, then the second."""
        pairs = stop - start
        if self._buffer.shape != (2 * pairs, self.noise.dimension):
            self._buffer = np.empty((2 * pairs, self.noise.dimension), np.float32)
        first, second = self._buffer[:pairs], self._buffer[pairs:]
        if rows_PD is not None:
            first[:], second[:] = rows_PD[0::2], rows_PD[1::2]
            return self._buffer
        generation, theta_D, sigma = proposal.generation, proposal.theta_D, proposal.sigma
        if proposal.mirrored:
            self.noise.perturb(generation, range(start, stop), theta_D, sigma, first, second)
        else:
            for member, out in enumerate((first, second)):
                self.noise.perturb(generation, range(2 * start + member, 2 * stop, 2), theta_D, sigma, out)
        return self._buffer

    def _score(self, make: Callable[[], np.ndarray], seeds_P: np.ndarray, centre: bool = False) -> np.ndarray:
        """Returns of the candidates that `make` writes; after an exception they are made again and tried one by one."""
        try:
            return self._call(make(), seeds_P, centre)
        except Failed:
            if len(seeds_P) == 1:
                self._seen.append(None)
                return np.full(1, np.nan)
        # One candidate's failure is not the others', and what the objective has done to its copy is not theirs either.
        theta_PD = make().copy()
        return np.array([self._alone(theta_PD, seeds_P, index, centre) for index in range(len(seeds_P))])

    def _alone(self, theta_PD: np.ndarray, seeds_P: np.ndarray, index: int, centre: bool = False) -> float:
        """The return of one of the candidates, tried by itself; NaN if it raises."""
        part = slice(index, index + 1)
        return float(self._score(lambda: theta_PD[part].copy(), seeds_P[part], centre)[0])

    def _call(self, theta_PD: np.ndarray, seeds_P: np.ndarray, centre: bool) -> np.ndarray:
        """The objective's returns, checked, (P,) float64. Raises Failed if its code raises."""
        objective, candidates = self.objective, len(seeds_P)
        method = "evaluate_observed" if self.observing and not centre else "evaluate_batch"
        try:
            with np.errstate():  # an objective that changes numpy's error handling would change the engine's
                given = getattr(objective, method)(lent(theta_PD), lent(seeds_P.copy()))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit() too
            self._error = self._error or blame(objective, method, error)
            raise Failed from None
        rows: list[np.ndarray | None] = []
        if method == "evaluate_observed":
            given, statistics = split_observed(objective, given)
            rows = list(checked_statistics(objective, statistics, candidates))
        returns_P = checked_returns(objective, method, given, candidates)
        self._seen += rows
        return returns_P


class Failed(Exception):
    """The objective's code has raised; what it raised is kept elsewhere."""


def lent(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written to."""
    view = array.view()
    view.flags.writeable = False
    return view


def stack_rows(rows_k2: list[list[np.ndarray | None]]) -> np.ndarray | None:
    """(k, 2, S) float64, zeros for a row that is None; None if there is not one row."""
    blank = next((np.zeros_like(row) for pair in rows_k2 for row in pair if row is not None), None)
    if blank is None:
        return None
    return np.array([[blank if row is None else row for row in pair] for pair in rows_k2])


def join_statistics(answered: list[tuple[Task, Reply]], pairs: int) -> np.ndarray | None:
    """Rows of all pairs in their order; zeros for a task in which every evaluation raised."""
    known = [reply.statistics_k2S for _, reply in answered if reply.statistics_k2S is not None]
    if not known:
        return None
    rows_n2S = np.zeros((pairs, 2, known[0].shape[2]))
    for task, reply in answered:
        if reply.statistics_k2S is not None:
            members = slice(None) if task.member is None else task.member
            rows_n2S[task.start : task.stop, members] = reply.statistics_k2S[:, members]
    return rows_n2S


def batch_pairs(config: ESConfig, noise: Noise) -> int:
    """Pairs per call of the objective: a power of two, so that batches never cross a run of the noise."""
    wanted = config.batch_pairs
    if wanted is None:
        wanted = 1
        while (
            wanted < 64 and 2 * wanted * LEAST_BATCHES <= config.pairs and 16 * wanted * noise.dimension <= BATCH_BYTES
        ):
            wanted *= 2
    return min(wanted, noise.run_rows // config.rows_per_pair)
