"""PGPE (Sehnke et al. 2010): parameter-exploring policy gradients, a mean and a sigma per coordinate; maximises.

z standard normal, theta+- = theta +- sigma z, returns r+-, baseline b. Averaged over the n pairs:

    d_theta = sigma z (r+ - r-)/2                     d_sigma = sigma (z^2 - 1) ((r+ + r-)/2 - b)
    not mirrored, over 2n candidates:
    d_theta = sigma z (r - b)                         d_sigma = sigma (z^2 - 1) (r - b)
    normalise_returns, m the best return so far, puts in place of the differences of returns
    (r+ - r-)/(2m - r+ - r-)                          ((r+ + r-)/2 - b)/(m - b) and (r - b)/(m - b)

    theta <- optimizer(theta, -d_theta + weight_decay theta)        sigma <- sigma + sigma_learning_rate d_sigma

b is a moving average of the generations' mean returns, first that of the first. With optimizer sgd and no momentum
these are the paper's updates; sigma moves by at most the share sigma_max_change. Under ranks, r is the rank.
"""

import numpy as np

from es.algorithms.base import Proposal, Step, describe_step, with_prefix, without_prefix
from es.config import ESConfig
from es.noise import Noise
from es.optimizers import make_optimizer
from es.perturbations import FullNoise
from es.shaping import SHAPINGS

SIGMA_LEARNING_RATE = 0.1


class PGPE:
    """theta and sigma (float32), the optimizer of theta, baseline and best return so far (NaN: none yet)."""

    def __init__(self, config: ESConfig, theta_D: np.ndarray, noise: Noise) -> None:
        assert isinstance(noise, FullNoise)
        self.config, self.noise = config, noise
        self.theta_D = np.array(theta_D, np.float32)
        self.sigma_D = np.full_like(self.theta_D, config.sigma)
        self.sigma_rate = config.sigma_learning_rate or SIGMA_LEARNING_RATE
        self.optimizer = make_optimizer(config, self.theta_D)
        self.baseline = self.best = float("nan")
        self.generation = 0

    def ask(self) -> Proposal:
        return Proposal(self.generation, self.theta_D, self.sigma_D, self.config.symmetric)

    def tell(self, returns_n2: np.ndarray) -> Step:
        assert returns_n2.shape == (self.config.pairs, 2), returns_n2.shape
        shaped_n2 = SHAPINGS[self.config.utilities](returns_n2)
        if np.isnan(self.baseline):
            self.baseline = float(shaped_n2.mean())
        self.best = float(np.fmax(self.best, shaped_n2.max()))
        theta_weights_N, sigma_weights_N = self._weights(shaped_n2)
        decay = self.config.baseline_decay
        self.baseline = decay * self.baseline + (1 - decay) * float(shaped_n2.mean())

        for_theta_D, for_sigma_D = self.noise.weighted_sums(self.generation, theta_weights_N, sigma_weights_N)
        gradient_D = self.sigma_D * for_theta_D
        descent_D = -gradient_D
        if self.config.weight_decay:
            descent_D += self.theta_D * np.float32(self.config.weight_decay)
        before_D, self.theta_D = self.theta_D, self.optimizer.step(self.theta_D, descent_D)
        limit = np.float32(self.config.sigma_max_change)
        self.sigma_D = self.sigma_D * (1 + np.clip(np.float32(self.sigma_rate) * for_sigma_D, -limit, limit))
        self.generation += 1
        return describe_step(before_D, self.theta_D, gradient_D, float(self.sigma_D.mean()))

    def _weights(self, r_n2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What each row of noise weighs in the steps of theta and of sigma, already averaged."""
        above = self.best - self.baseline if self.config.normalise_returns else 1.0
        if not self.config.symmetric:
            weights_N = ratio(r_n2.ravel() - self.baseline, above) / r_n2.size
            return weights_N, weights_N
        difference_n, mean_n = r_n2[:, 0] - r_n2[:, 1], r_n2.mean(axis=1)
        below = 2 * self.best - r_n2.sum(axis=1) if self.config.normalise_returns else 2.0
        return ratio(difference_n, below) / len(r_n2), ratio(mean_n - self.baseline, above) / len(r_n2)

    def state(self) -> dict[str, np.ndarray]:
        return {
            "theta": self.theta_D,
            "generation": np.asarray([self.generation], np.int64),
            "sigma": self.sigma_D,
            "baseline": np.asarray([self.baseline, self.best]),
            **with_prefix("optimizer.", self.optimizer.state()),
        }

    def load(self, state: dict[str, np.ndarray]) -> None:
        self.theta_D, self.sigma_D, self.generation = state["theta"], state["sigma"], int(state["generation"][0])
        self.baseline, self.best = state["baseline"].tolist()
        self.optimizer.load(without_prefix("optimizer.", state))


def ratio(difference: np.ndarray, distance: np.ndarray | float) -> np.ndarray:
    """difference / distance; 0 where the distance is 0 (both returns are the best so far)."""
    return np.divide(difference, distance, out=np.zeros_like(difference), where=np.asarray(distance) > 0)
