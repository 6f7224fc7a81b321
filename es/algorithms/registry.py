"""Algorithms by name. A new one is a file in this folder and a line here (and its name in es/config.py).

Each is built from the settings, the initial theta and the noise: `make_algorithm(config, theta_D, noise)`.
"""

from collections.abc import Callable

import numpy as np

from es.algorithms.ars import ARS
from es.algorithms.base import Algorithm
from es.algorithms.openai_es import OpenAIES
from es.algorithms.pgpe import PGPE
from es.algorithms.snes import SNES
from es.algorithms.xnes import XNES
from es.config import ESConfig
from es.noise import Noise


def make_cma(config: ESConfig, theta_D: np.ndarray, noise: Noise) -> Algorithm:
    from es.algorithms.cma_es import CMAES  # here, for its library takes longer to import than all the others

    return CMAES(config, theta_D, noise)


ALGORITHMS: dict[str, Callable[[ESConfig, np.ndarray, Noise], Algorithm]] = {
    "openai_es": OpenAIES,
    "pgpe": PGPE,
    "snes": SNES,
    "xnes": XNES,
    "cma": make_cma,
    "ars": ARS,
}


def make_algorithm(config: ESConfig, theta_D: np.ndarray, noise: Noise) -> Algorithm:
    return ALGORITHMS[config.algorithm](config, theta_D, noise)
