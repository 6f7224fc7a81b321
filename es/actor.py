"""The Ray actor around an Evaluator: what es/members.py starts on the cluster's nodes."""

from typing import Any

import numpy as np
import ray

from data.errors import UserError
from es.algorithms.base import Proposal
from es.config import ESConfig
from es.contract import blame, call
from es.noise import open_noise
from es.wire import Packed, fetched, pack_reply, unpack_proposal
from es.worker import Evaluator, Reply, Task


@ray.remote
class Worker:
    """A Ray actor around an Evaluator. Ray gives it as many BLAS and torch threads as CPUs: one."""

    def start(self, objective: list[Any], config: ESConfig, dimension: int) -> tuple[str, str] | UserError:
        """Return the fingerprint of the noise (were it not the driver's, other perturbations would be scored than the
        driver adds up) and the node. Not __init__: what goes wrong here is an error to show, not a dead actor to
        replace. `objective` is the reference to it, in a list, for Ray would resolve it before this is called."""
        self.noise, self.state_of = open_noise(config, dimension), -1  # the generation whose state was loaded last
        try:
            self.evaluator = Evaluator(fetched(objective[0]), config, self.noise)
        except UserError as error:
            return error
        return self.noise.fingerprint, ray.get_runtime_context().get_node_id()

    def evaluate(
        self,
        proposal: Proposal | Packed,
        task: tuple[int, int, bool, int | None],
        rows_PD: np.ndarray | None = None,
        state: dict[str, np.ndarray] | None = None,
    ) -> Reply | Packed | UserError:
        """Score a task of a proposal. `state`: of an objective that observes, as the driver's stands.

        A fault of the objective is returned: of several errors that are raised at once Ray would log all but one.
        """
        if not isinstance(proposal, Proposal):
            proposal = unpack_proposal(proposal)
        try:
            if state is not None and proposal.generation != self.state_of:
                call(self.evaluator.objective, "load", state)
                self.state_of = proposal.generation
            return pack_reply(self.evaluator.evaluate(proposal, Task(*task), rows_PD))
        except UserError as error:
            return error
        except KeyboardInterrupt as error:  # no terminal reaches a worker: the objective's own
            return blame(self.evaluator.objective, "evaluate_batch", error)

    def close(self) -> None:
        self.noise.close()
