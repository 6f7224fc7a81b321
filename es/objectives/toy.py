"""Objectives whose optimum is known to be 0 (at the origin; Rosenbrock: at ones), and two to time the engine."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Toy:
    """A function of theta alone, maximised; starts at `start` in each of `dimension` coordinates."""

    dimension: int = 8
    """Parameters."""
    start: float = 1.0
    """Of every parameter, at the beginning."""

    def initial(self) -> np.ndarray:
        return np.full(self.dimension, self.start, np.float32)

    def describe(self) -> dict[str, Any]:
        return {"objective": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class Sphere(Toy):
    """-sum x^2"""

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        return -np.add.reduce(theta_PD * theta_PD, axis=1)


@dataclass(frozen=True)
class Rosenbrock(Toy):
    """-sum 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2"""

    start: float = 0.0

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        here, there = theta_PD[:, :-1].astype(np.float64), theta_PD[:, 1:].astype(np.float64)
        return -np.add.reduce(100 * (there - here**2) ** 2 + (1 - here) ** 2, axis=1)


@dataclass(frozen=True)
class Rastrigin(Toy):
    """-sum x^2 + 10 (1 - cos 2 pi x)"""

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        wide = theta_PD.astype(np.float64)
        return -np.add.reduce(wide * wide + 10 * (1 - np.cos(2 * np.pi * wide)), axis=1)


@dataclass(frozen=True)
class Sleep(Toy):
    """The sphere, after sleeping `seconds` for each candidate."""

    batch_pairs = 1
    seconds: float = 0.001

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds * len(theta_PD))
        return -np.add.reduce(theta_PD * theta_PD, axis=1)


@dataclass(frozen=True)
class Nothing(Toy):
    """Returns 0 for everything: what is left is the engine's own time."""

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        return np.zeros(len(theta_PD))
