"""OpenAI-ES (Salimans et al. 2017, arXiv 1703.03864): antithetic pairs, fitness shaping, an optimizer; maximises.

g = 1/(2 n sigma) sum_j (s_j+ - s_j-) eps_j        theta <- optimizer(theta, -g + weight_decay theta)
"""

import numpy as np

from es.algorithms.base import Proposal, Step, describe_step, with_prefix, without_prefix
from es.config import ESConfig
from es.noise import Noise
from es.optimizers import make_optimizer
from es.shaping import SHAPINGS


class OpenAIES:
    """theta (float32), its optimizer, and the number of generations behind it."""

    def __init__(self, config: ESConfig, theta_D: np.ndarray, noise: Noise) -> None:
        self.config, self.noise = config, noise
        self.theta_D = np.array(theta_D, np.float32)
        self.optimizer = make_optimizer(config, self.theta_D)
        self.generation = 0

    def ask(self) -> Proposal:
        return Proposal(self.generation, self.theta_D, self.config.sigma)

    def tell(self, returns_n2: np.ndarray) -> Step:
        assert returns_n2.shape == (self.config.pairs, 2), returns_n2.shape
        shaped_n2 = SHAPINGS[self.config.utilities](returns_n2)
        weights_n = (shaped_n2[:, 0] - shaped_n2[:, 1]) / (2 * self.config.pairs * self.config.sigma)
        gradient_D = self.noise.weighted_sum(self.generation, weights_n)
        descent_D = -gradient_D
        if self.config.weight_decay:
            descent_D += self.theta_D * np.float32(self.config.weight_decay)
        before_D, self.theta_D = self.theta_D, self.optimizer.step(self.theta_D, descent_D)
        self.generation += 1
        return describe_step(before_D, self.theta_D, gradient_D, self.config.sigma)

    def state(self) -> dict[str, np.ndarray]:
        optimizer = with_prefix("optimizer.", self.optimizer.state())
        return {"theta": self.theta_D, "generation": np.asarray([self.generation], np.int64), **optimizer}

    def load(self, state: dict[str, np.ndarray]) -> None:
        self.theta_D, self.generation = state["theta"], int(state["generation"][0])
        self.optimizer.load(without_prefix("optimizer.", state))
