"""The Ray actor around an Evaluator: what es/members.py starts on the cluster's nodes."""

import numpy as np
import ray
import ray.cloudpickle

from es.algorithms.base import Proposal
from es.config import ESConfig
from es.noise import open_noise
from es.objectives.base import Objective
from es.wire import Packed, pack_reply, unpack_proposal
from es.worker import Evaluator, Reply, Task


@ray.remote
class Worker:
    """A Ray actor around an Evaluator. Ray gives it as many BLAS and torch threads as CPUs: one."""

    def start(self, objective: Objective, config: ESConfig, dimension: int) -> str:
        """Return the fingerprint of the noise: were it not the driver's, other perturbations would be scored than the
        driver adds up. (Not __init__: what goes wrong here is an error to show, not a dead actor to replace.)"""
        self.noise, self.state_of = open_noise(config, dimension), -1  # the generation whose state was loaded last
        self.evaluator = Evaluator(objective, config, self.noise)
        return self.noise.fingerprint

    def evaluate(
        self,
        proposal: Proposal | Packed,
        task: tuple[int, int, bool],
        rows_PD: np.ndarray | None = None,
        state: dict[str, np.ndarray] | None = None,
    ) -> Reply | Packed:
        """Score a task of a proposal. `state`: of an objective that observes, as the driver's stands."""
        if not isinstance(proposal, Proposal):
            proposal = unpack_proposal(proposal)
        if state is not None and proposal.generation != self.state_of:
            self.evaluator.objective.load(state)  # type: ignore[attr-defined]
            self.state_of = proposal.generation
        reply = self.evaluator.evaluate(proposal, Task(*task), rows_PD)
        if reply.error is not None:
            reply.error = _portable(reply.error)
        return pack_reply(reply)

    def close(self) -> None:
        self.noise.close()


def _portable(error: Exception) -> Exception:
    """The error if Ray can carry it to the driver, else one of a plain kind with the same text."""
    try:
        ray.cloudpickle.loads(ray.cloudpickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
