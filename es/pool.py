"""Getting a generation scored: in this process, by Ray actors (es/ray_pool.py), or by whichever is faster."""

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from data.cpus import usable_cpus
from data.errors import Stopped
from es.algorithms.base import Proposal
from es.config import ESConfig
from es.noise import Noise
from es.objectives.base import Objective
from es.tasks import Choice, Evaluation, Pace, choose, split
from es.worker import Evaluator, Task, join_statistics

PATIENCE_S = 0.2  # of evaluation in this process between two looks at whether the run is to stop
LONG_S = 1.0  # a generation expected to take longer here is not measured whole
MEASURED = 2  # generations timed here before the choice: the first is cold


class Pool(Protocol):
    choice: Choice | None

    def evaluate(
        self, proposal: Proposal, pairs: int, centre: bool, state: dict[str, np.ndarray] | None = None
    ) -> Evaluation:
        """Score pairs [0, pairs) and, if asked, the centre. `state`: of an objective that observes.

        Raises Stopped if the run is to stop before all is scored.
        """

    def close(self) -> None: ...


class LocalPool:
    """0 workers: no Ray. `state` is ignored: the driver's objective is the one that evaluates."""

    choice: Choice | None = None

    def __init__(self, objective: Objective, config: ESConfig, noise: Noise, stopping: Callable[[], bool]) -> None:
        self.evaluator, self.stopping, self.pace = Evaluator(objective, config, noise), stopping, Pace()

    def evaluate(
        self, proposal: Proposal, pairs: int, centre: bool, state: dict[str, np.ndarray] | None = None
    ) -> Evaluation:
        parts = int(np.ceil(self.pace.pair_s * pairs / PATIENCE_S)) if self.pace.pair_s is not None else pairs
        tasks = split(pairs, centre, self.evaluator.batch_pairs, parts)
        result, answered = Evaluation(np.empty((pairs, 2)), None), []
        for task in tasks:
            if self.stopping():
                raise Stopped
            rows_PD = proposal.rows(task.start, task.stop)
            reply = self.evaluator.evaluate(proposal, task, rows_PD)
            answered.append((task, reply))
            result.returns_n2[task.start : task.stop] = reply.returns_k2
            result.centre = reply.centre if task.centre else result.centre
            result.error = result.error or reply.error
        result.statistics_n2S = join_statistics(answered, pairs)
        if pairs:
            self.pace.add(pairs, sum(reply.seconds for _, reply in answered))
        return result

    def close(self) -> None:
        pass


class AutoPool:
    """`workers="auto"`: the first generations are scored here, and Ray comes in where it is worth it.

    Where a generation is scored does not change what comes out.
    """

    def __init__(
        self,
        objective: Objective,
        config: ESConfig,
        noise: Noise,
        stopping: Callable[[], bool],
    ) -> None:
        self.objective, self.config, self.noise, self.stopping = objective, config, noise, stopping
        self.local = LocalPool(objective, config, noise, stopping)
        self.pool: Pool = self.local
        self.choice: Choice | None = None
        self.seconds: list[float] = []

    def evaluate(
        self, proposal: Proposal, pairs: int, centre: bool, state: dict[str, np.ndarray] | None = None
    ) -> Evaluation:
        if self.choice is not None or not pairs:
            return self.pool.evaluate(proposal, pairs, centre, state)
        left = self.config.generations - proposal.generation
        expected_s = self._first_batch(proposal, pairs) if not self.seconds else 0.0
        if expected_s > LONG_S:
            self._choose(expected_s, left)
        elif len(self.seconds) == MEASURED:
            self._choose(min(self.seconds), left)
        began = time.perf_counter()
        evaluation = self.pool.evaluate(proposal, pairs, centre, state)
        self.seconds.append(time.perf_counter() - began)
        return evaluation

    def _first_batch(self, proposal: Proposal, pairs: int) -> float:
        """Seconds that a generation would take here, by its first batch."""
        task = Task(0, min(self.local.evaluator.batch_pairs, pairs), False)
        began = time.perf_counter()
        self.local.evaluator.evaluate(proposal, task, proposal.rows(task.start, task.stop))
        return (time.perf_counter() - began) * pairs / task.stop

    def _choose(self, generation_s: float, generations: int) -> None:
        import ray

        from es.ray_pool import RayPool
        from es.wire import unpicklable

        self.choice = choose(generation_s, generations, self._workers(), ray.is_initialized())
        if self.choice.workers and (why := unpicklable(self.objective)):
            self.choice = Choice(0, generation_s, f"the objective cannot be sent to workers ({why})")
        if self.choice.workers:
            self.pool = RayPool(self.objective, self.config, self.noise, self.choice.workers, self.stopping)

    def _workers(self) -> int:
        """One for each CPU: of the cluster this process is connected to, else those it may run on."""
        import ray

        cpus = ray.cluster_resources().get("CPU", 1.0) if ray.is_initialized() else usable_cpus()
        return int(max(1, cpus // self.config.cpus_per_worker))

    def close(self) -> None:
        self.pool.close()


def open_pool(objective: Objective, config: ESConfig, noise: Noise, stopping: Callable[[], bool]) -> Pool:
    """The pool that config.workers asks for. Ray is imported where it is used: that takes a second or more."""
    if config.workers == "auto":
        return AutoPool(objective, config, noise, stopping)
    if config.workers:
        from es.ray_pool import RayPool

        return RayPool(objective, config, noise, config.workers, stopping)
    return LocalPool(objective, config, noise, stopping)
