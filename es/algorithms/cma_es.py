"""CMA-ES (Hansen and Ostermeier 2001), by Hansen's `cma` library behind the engine's ask and tell; maximises.

For up to a few hundred parameters: its covariance takes d^2 numbers and d^3 work. Candidates are explicit rows (2n of
them; small populations do). The normals behind them are the run's own, addressed like any other's, and all else follows
from the returns: so the state is the returns, and a resumed run tells them again. The library calls LAPACK, whose last
bits follow the machine's BLAS: the number of workers changes nothing, another BLAS may.
"""

import warnings

import numpy as np

from es.algorithms.base import Proposal, Step, describe_step
from es.config import ESConfig
from es.noise import Noise
from es.optimizers import norm
from es.shaping import SHAPINGS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns where matplotlib is absent
    import cma


class CMAES:
    """A cma.CMAEvolutionStrategy and all returns it has been given, (generations, n, 2)."""

    def __init__(self, config: ESConfig, theta_D: np.ndarray, noise: Noise) -> None:
        self.config, self.noise = config, noise
        self.initial_D = np.array(theta_D, np.float32)
        self._restart()

    def _restart(self) -> None:
        self.theta_D, self.generation, self._drawn = self.initial_D, 0, 0
        self.returns_gn2 = np.empty((0, self.config.pairs, 2))
        self._proposed: list[np.ndarray] = []
        options = {
            "popsize": 2 * self.config.pairs,
            "randn": self._normals,
            "seed": float("nan"),  # leave numpy's global generator alone
            "verbose": -9,
        }
        self.strategy = cma.CMAEvolutionStrategy(self.initial_D.astype(np.float64), self.config.sigma, options)

    def _normals(self, number: int, dimension: int) -> np.ndarray:
        """The generation's next rows of noise, (number, D)."""
        eps_ND = np.empty((number, dimension), np.float32)
        stop = self._drawn + number
        assert stop <= 2 * self.config.pairs, "cma asks for more normals than a generation has"
        first, run_rows = self._drawn, self.noise.run_rows
        while self._drawn < stop:
            end = min(stop, (self._drawn // run_rows + 1) * run_rows)
            rows = slice(self._drawn - first, end - first)
            self.noise.write(self.generation, range(self._drawn, end), 1.0, eps_ND[rows])
            self._drawn = end
        return eps_ND.astype(np.float64)

    def ask(self) -> Proposal:
        if not self._proposed:
            self._drawn = 0
            self._proposed = self.strategy.ask()
        candidates_PD = np.array(self._proposed, np.float32)
        return Proposal(self.generation, self.theta_D, self.strategy.sigma, False, candidates_PD)

    def tell(self, returns_n2: np.ndarray) -> Step:
        """Failed evaluations count as the worst that did not."""
        assert returns_n2.shape == (self.config.pairs, 2), returns_n2.shape
        self.ask()
        before_D = self.theta_D
        self.strategy.tell(self._proposed, (-SHAPINGS[self.config.utilities](returns_n2)).ravel())
        self.returns_gn2, self._proposed = np.concatenate([self.returns_gn2, returns_n2[None]]), []
        self.theta_D = np.asarray(self.strategy.mean, np.float32)
        self.generation += 1
        sigma = norm(np.asarray(self.strategy.stds)) / np.sqrt(len(before_D))
        return describe_step(before_D, self.theta_D, self.theta_D - before_D, float(sigma))

    def state(self) -> dict[str, np.ndarray]:
        generation = np.asarray([self.generation], np.int64)
        return {"theta": self.theta_D, "generation": generation, "initial": self.initial_D, "told": self.returns_gn2}

    def load(self, state: dict[str, np.ndarray]) -> None:
        self.initial_D = state["initial"]
        self._restart()
        for returns_n2 in state["told"]:
            self.tell(returns_n2)
