"""The noise of a run: which source and which perturbation a configuration asks for, and the evaluation seeds.

Everything is addressed by (seed, generation, row): a generation has a row per pair (mirrored) or two (not mirrored).
"""

import math

import numpy as np

from es.config import ESConfig
from es.hashing import hash64
from es.noise_sources import FreshSource, Source, TableSource
from es.perturbations import FullNoise, Noise, SubsetNoise

__all__ = ["Noise", "evaluation_seeds", "open_noise", "row_floats", "table_floats"]

FRESH_LIMIT = 2**15  # normals per generation up to which drawing them costs less than 0.5 ms
SMALLEST_TABLE, LARGEST_TABLE = 2**22, 2**26
_EVALUATION = 1  # what an address is for: see es/noise_sources.py


def open_noise(config: ESConfig, dimension: int) -> Noise:
    """The noise of a run, the same on every node. `close` it: the last user of a table removes it."""
    source = open_source(config, row_floats(config, dimension))
    if config.perturb == "subset":
        return SubsetNoise(source, dimension, row_floats(config, dimension), config.seed)
    return FullNoise(source, dimension)


def open_source(config: ESConfig, floats: int) -> Source:
    rows = config.pairs * config.rows_per_pair
    if config.noise == "fresh" or (config.noise == "auto" and rows * floats <= FRESH_LIMIT):
        return FreshSource(config.seed, floats, rows)
    return TableSource(config.seed, floats, rows, table_floats(config, floats), config.rows_per_pair)


def row_floats(config: ESConfig, dimension: int) -> int:
    """Normals behind one perturbation."""
    if config.perturb == "subset":
        return max(1, math.ceil(config.subset * dimension))
    return dimension


def table_floats(config: ESConfig, floats: int) -> int:
    """Settled size of the table: as configured, or 32 generations' worth within limits, and room for a huge row."""
    if config.table_floats is not None:
        return config.table_floats
    wanted = min(max(32 * config.pairs * config.rows_per_pair * floats, SMALLEST_TABLE), LARGEST_TABLE)
    return max(wanted, 4 * floats)


def evaluation_seeds(seed: int, generation: int, pairs_P: np.ndarray, per_generation: bool) -> np.ndarray:
    """Seeds (uint64, as many as pairs) for the evaluation of pairs; equal for all where the generation shares one."""
    if per_generation:
        pairs_P = np.zeros_like(pairs_P)
    return hash64((seed, _EVALUATION, generation), pairs_P)
