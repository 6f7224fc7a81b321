"""The Ray actor around an Evaluator: what es/members.py starts on the cluster's nodes."""

import numpy as np
import ray
import ray.cloudpickle

from es.algorithms.base import Proposal
from es.config import ESConfig
from es.noise import open_noise
from es.objectives.base import Objective
from es.wire import HASH_EVERY, Follower, Packed, checksum, pack_reply, unpack_proposal
from es.worker import Evaluator, Reply, Task


@ray.remote
class Worker:
    """A Ray actor around an Evaluator. Ray gives it as many BLAS and torch threads as CPUs: one."""

    def start(self, objective: Objective, config: ESConfig, dimension: int) -> str:
        """Return the fingerprint of the noise: were it not the driver's, other perturbations would be scored than the
        driver adds up. (Not __init__: what goes wrong here is an error to show, not a dead actor to replace.)"""
        self.config, self.noise, self.state_of = config, open_noise(config, dimension), -1
        self.evaluator = Evaluator(objective, config, self.noise)
        self.follower: Follower | None = None
        return self.noise.fingerprint

    def evaluate(
        self,
        proposal: Proposal | Packed,
        task: tuple[int, int, bool],
        rows_PD: np.ndarray | None = None,
        state: dict[str, np.ndarray] | None = None,
    ) -> Reply | Packed:
        """Score a task of a proposal. `state`: what an observing objective knows by now."""
        if not isinstance(proposal, Proposal):
            proposal = unpack_proposal(proposal)
        return pack_reply(self._evaluate(proposal, task, rows_PD, state))

    def follow(
        self,
        algorithm: dict[str, np.ndarray] | None,
        missed: tuple[bytes, ...],
        generation: int,
        task: tuple[int, int, bool],
        state: dict[str, np.ndarray] | None = None,
    ) -> Reply | Packed:
        """The same for the proposal that this worker's own algorithm makes: from the state given, if one is, after the
        returns of the generations missed."""
        if algorithm is not None:
            self.follower = Follower(self.config, self.noise, algorithm)
        assert self.follower is not None
        proposal = self.follower.advance(generation, missed)
        reply = self._evaluate(proposal, task, proposal.rows(task[0], task[1]), state)
        if generation % HASH_EVERY == 0:
            reply.theta_crc32 = checksum(proposal.theta_D)
        return pack_reply(reply)

    def _evaluate(
        self,
        proposal: Proposal,
        task: tuple[int, int, bool],
        rows_PD: np.ndarray | None,
        state: dict[str, np.ndarray] | None,
    ) -> Reply:
        if state is not None and proposal.generation != self.state_of:
            self.evaluator.objective.load(state)  # type: ignore[attr-defined]
            self.state_of = proposal.generation
        reply = self.evaluator.evaluate(proposal, Task(*task), rows_PD)
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
