"""SNES (Schaul, Glasmachers, Schmidhuber 2011): separable natural evolution strategies; maximises.

z standard normal, candidates theta + sigma z with a sigma per coordinate, u their utilities (they sum to 0):

    theta <- theta + eta sigma sum_i u_i z_i               sigma <- sigma exp(eta_sigma/2 sum_i u_i (z_i^2 - 1))

eta = 1 and eta_sigma = (3 + ln d)/(5 sqrt d) unless the settings say otherwise. Mirrored: z and -z, utilities of both.
"""

import math

import numpy as np

from es.algorithms.base import Proposal, Step, describe_step
from es.config import ESConfig
from es.noise import Noise
from es.perturbations import FullNoise
from es.shaping import SHAPINGS, by_noise_row


class SNES:
    """theta and sigma (float32), and the number of generations behind them."""

    def __init__(self, config: ESConfig, theta_D: np.ndarray, noise: Noise) -> None:
        assert isinstance(noise, FullNoise)
        self.config, self.noise = config, noise
        self.theta_D = np.array(theta_D, np.float32)
        self.sigma_D = np.full_like(self.theta_D, config.sigma)
        dimension = len(self.theta_D)
        self.sigma_rate = config.sigma_learning_rate or (3 + math.log(dimension)) / (5 * math.sqrt(dimension))
        self.generation = 0

    def ask(self) -> Proposal:
        return Proposal(self.generation, self.theta_D, self.sigma_D, self.config.symmetric)

    def tell(self, returns_n2: np.ndarray) -> Step:
        assert returns_n2.shape == (self.config.pairs, 2), returns_n2.shape
        utilities_n2 = SHAPINGS[self.config.utilities](returns_n2)
        weights_N, square_weights_N = by_noise_row(utilities_n2, self.config.symmetric)
        for_theta_D, for_sigma_D = self.noise.weighted_sums(self.generation, weights_N, square_weights_N)
        gradient_D = self.sigma_D * for_theta_D
        before_D, self.theta_D = self.theta_D, self.theta_D + gradient_D * np.float32(self.config.step_size)
        self.sigma_D = self.sigma_D * np.exp(for_sigma_D * np.float32(self.sigma_rate / 2))
        self.generation += 1
        return describe_step(before_D, self.theta_D, gradient_D, float(self.sigma_D.mean()))

    def state(self) -> dict[str, np.ndarray]:
        return {
            "theta": self.theta_D,
            "generation": np.asarray([self.generation], np.int64),
            "sigma": self.sigma_D,
        }

    def load(self, state: dict[str, np.ndarray]) -> None:
        self.theta_D, self.sigma_D, self.generation = state["theta"], state["sigma"], int(state["generation"][0])
