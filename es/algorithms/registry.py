"""Algorithms by name. A new one is a file beside this one and a line here.

Each is built from the settings, the initial theta and the noise: `make_algorithm(config, theta_D, noise)`.
"""

from collections.abc import Callable

import numpy as np

from es.algorithms.base import Algorithm
from es.algorithms.openai_es import OpenAIES
from es.config import ESConfig
from es.noise import Noise

ALGORITHMS: dict[str, Callable[[ESConfig, np.ndarray, Noise], Algorithm]] = {
    "openai_es": OpenAIES,
}


def make_algorithm(config: ESConfig, theta_D: np.ndarray, noise: Noise) -> Algorithm:
    return ALGORITHMS[config.algorithm](config, theta_D, noise)
