"""Augmented random search (Mania, Guy, Recht 2018, arXiv 1803.07055): the best directions, scaled by their spread.

    theta <- theta + learning_rate/(b s) sum_{j in top b} (r_j+ - r_j-) eps_j

The b pairs with the largest max(r+, r-) are used (ties: the lower pair), s is the standard deviation of their 2b
returns. Perturbations are theta +- sigma eps. This is V1; V2 normalises observations, which is the objective's part
(es/objectives/control.py).
"""

import numpy as np

from es.algorithms.base import Proposal, Step, describe_step
from es.config import ESConfig
from es.noise import Noise
from es.shaping import SHAPINGS


class ARS:
    """theta (float32) and the number of generations behind it."""

    def __init__(self, config: ESConfig, theta_D: np.ndarray, noise: Noise) -> None:
        self.config, self.noise = config, noise
        self.theta_D: np.ndarray = np.array(theta_D, np.float32)
        self.top = config.top_pairs or max(1, config.pairs // 2)
        self.generation = 0

    def ask(self) -> Proposal:
        return Proposal(self.generation, self.theta_D, self.config.sigma)

    def tell(self, returns_n2: np.ndarray) -> Step:
        assert returns_n2.shape == (self.config.pairs, 2), returns_n2.shape
        r_n2 = SHAPINGS[self.config.utilities](returns_n2)
        best_b = np.argsort(-r_n2.max(axis=1), kind="stable")[: self.top]
        spread = r_n2[best_b].std()
        weights_n = np.zeros(len(r_n2))
        if spread > 0:
            weights_n[best_b] = (r_n2[best_b, 0] - r_n2[best_b, 1]) / (self.top * spread)
        gradient_D: np.ndarray = self.noise.weighted_sum(self.generation, weights_n)
        before_D, self.theta_D = self.theta_D, self.theta_D + gradient_D * np.float32(self.config.step_size)
        self.generation += 1
        return describe_step(before_D, self.theta_D, gradient_D, self.config.sigma)

    def state(self) -> dict[str, np.ndarray]:
        return {"theta": self.theta_D, "generation": np.asarray([self.generation], np.int64)}

    def load(self, state: dict[str, np.ndarray]) -> None:
        self.theta_D, self.generation = state["theta"], int(state["generation"][0])
