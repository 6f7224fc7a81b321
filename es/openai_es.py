"""OpenAI-ES (Salimans et al. 2017, arXiv 1703.03864): antithetic pairs, fitness shaping, an optimizer; maximises.

    g = 1/(2 n sigma) sum_j (s_j+ - s_j-) eps_j        theta <- optimizer(theta, -g + weight_decay theta)

Pure ask and tell over a flat vector: no Ray, no files, no objective.
"""

from dataclasses import dataclass

import numpy as np

from es.config import ESConfig
from es.noise import Noise, weighted_sum
from es.optimizers import make_optimizer, norm
from es.shaping import SHAPINGS


@dataclass(frozen=True)
class Proposal:
    """What to evaluate: theta + sigma eps_j and theta - sigma eps_j for every pair j of a generation."""

    generation: int
    theta_D: np.ndarray
    sigma: float


@dataclass(frozen=True)
class Step:
    """What an update did; update_ratio is |change of theta| / |theta|."""

    grad_norm: float
    theta_norm: float
    update_ratio: float


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
        """Take the returns of every pair (column 0: plus, 1: minus; not finite: failed) and make the step."""
        assert returns_n2.shape == (self.config.pairs, 2), returns_n2.shape
        shaped_n2 = SHAPINGS[self.config.shaping](returns_n2)
        weights_n = (shaped_n2[:, 0] - shaped_n2[:, 1]) / (2 * self.config.pairs * self.config.sigma)
        gradient_D = weighted_sum(self.noise, self.generation, weights_n)
        descent_D = -gradient_D
        if self.config.weight_decay:
            descent_D += self.theta_D * np.float32(self.config.weight_decay)
        before_D, self.theta_D = self.theta_D, self.optimizer.step(self.theta_D, descent_D)
        self.generation += 1
        length = norm(before_D)
        return Step(
            grad_norm=norm(gradient_D),
            theta_norm=norm(self.theta_D),
            update_ratio=norm(self.theta_D - before_D) / length if length else 0.0,
        )

    def state(self) -> dict[str, np.ndarray]:
        """Everything the next step depends on, besides config and noise."""
        optimizer = {f"optimizer.{name}": value for name, value in self.optimizer.state().items()}
        return {"theta": self.theta_D, "generation": np.asarray([self.generation], np.int64), **optimizer}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over a state; the caller has checked that it fits (es/checkpoint.py)."""
        self.theta_D, self.generation = state["theta"], int(state["generation"][0])
        prefix = "optimizer."
        self.optimizer.load({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
