"""Optimizers on a flat vector, descending; SGD with momentum and Adam step as torch.optim does (a test compares them).

State is plain arrays and an integer, so that a checkpoint holds all of it. Only element-wise operations are used:
they give the same bits for any number of threads.
"""

from typing import Any, Protocol

import numpy as np

from es.config import ESConfig


class Optimizer(Protocol):
    def step(self, theta_D: np.ndarray, gradient_D: np.ndarray) -> np.ndarray:
        """The next theta, one step down the gradient; same dtype as theta."""

    def state(self) -> dict[str, np.ndarray]:
        """Everything the next step depends on."""

    def load(self, state: dict[str, np.ndarray]) -> None: ...


class SGD:
    """v <- momentum v + g (v = g at the first step); theta <- theta - lr v."""

    def __init__(self, theta_D: np.ndarray, learning_rate: float, momentum: float) -> None:
        self.learning_rate, self.momentum = learning_rate, momentum
        self.velocity_D = np.zeros_like(theta_D)

    def step(self, theta_D: np.ndarray, gradient_D: np.ndarray) -> np.ndarray:
        self.velocity_D = self.velocity_D * self.momentum + gradient_D
        return theta_D - self.velocity_D * self.learning_rate

    def state(self) -> dict[str, np.ndarray]:
        return {"velocity": self.velocity_D}

    def load(self, state: dict[str, np.ndarray]) -> None:
        self.velocity_D = state["velocity"]


class Adam:
    """Kingma and Ba 2015, with bias correction: theta <- theta - lr m^/(sqrt(v^) + epsilon)."""

    def __init__(self, theta_D: np.ndarray, learning_rate: float, betas: tuple[float, float], epsilon: float) -> None:
        self.learning_rate, self.betas, self.epsilon = learning_rate, betas, epsilon
        self.steps = 0
        self.mean_D, self.square_D = np.zeros_like(theta_D), np.zeros_like(theta_D)

    def step(self, theta_D: np.ndarray, gradient_D: np.ndarray) -> np.ndarray:
        beta1, beta2 = self.betas
        self.steps += 1
        self.mean_D = self.mean_D * beta1 + gradient_D * (1 - beta1)
        self.square_D = self.square_D * beta2 + (gradient_D * (1 - beta2)) * gradient_D
        correction1, correction2 = 1 - beta1**self.steps, 1 - beta2**self.steps
        denominator_D = np.sqrt(self.square_D) / correction2**0.5 + self.epsilon
        return theta_D - self.mean_D / denominator_D * (self.learning_rate / correction1)

    def state(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean_D, "square": self.square_D, "steps": np.asarray([self.steps], np.int64)}

    def load(self, state: dict[str, np.ndarray]) -> None:
        self.mean_D, self.square_D, self.steps = state["mean"], state["square"], int(state["steps"][0])


class ClipUp:
    """Toklu et al. 2020: steps of length lr along the normalised gradient, with momentum, speed at most 2 lr."""

    def __init__(self, theta_D: np.ndarray, learning_rate: float, momentum: float) -> None:
        self.learning_rate, self.momentum, self.max_speed = learning_rate, momentum, 2 * learning_rate
        self.velocity_D = np.zeros_like(theta_D)

    def step(self, theta_D: np.ndarray, gradient_D: np.ndarray) -> np.ndarray:
        length = norm(gradient_D)
        if length > 0:
            self.velocity_D = self.velocity_D * self.momentum + gradient_D * (self.learning_rate / length)
        else:
            self.velocity_D = self.velocity_D * self.momentum
        speed = norm(self.velocity_D)
        if speed > self.max_speed:
            self.velocity_D = self.velocity_D * (self.max_speed / speed)
        return theta_D - self.velocity_D

    def state(self) -> dict[str, np.ndarray]:
        return {"velocity": self.velocity_D}

    def load(self, state: dict[str, np.ndarray]) -> None:
        self.velocity_D = state["velocity"]


def norm(vector_D: np.ndarray) -> float:
    """Euclidean length, summed pairwise by numpy and not by BLAS, whose bits follow its number of threads."""
    wide_D = vector_D.astype(np.float64)
    return float(np.sqrt(np.add.reduce(wide_D * wide_D)))


def make_optimizer(config: ESConfig, theta_D: np.ndarray) -> Optimizer:
    arguments: dict[str, Any] = {"learning_rate": config.step_size}
    if config.optimizer == "adam":
        return Adam(theta_D, betas=config.betas, epsilon=config.epsilon, **arguments)
    if config.optimizer == "sgd":
        return SGD(theta_D, momentum=config.momentum, **arguments)
    return ClipUp(theta_D, momentum=config.momentum, **arguments)
