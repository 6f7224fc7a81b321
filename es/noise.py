"""Perturbations addressed by (seed, generation, pair): any process makes the same eps_j without being sent it.

Pairs of a generation are cut into runs of R = 64 (fewer where d is huge): pair j is row j % R of run j // R. A run is R
consecutive rows of d normals, so evaluation and update both read memory in order. Two sources:

    FreshNoise   draws a run anew from (seed, generation, run): for a few thousand normals a generation
    TableNoise   slices a table of normals that all processes of a node share (es/shared_table.py). While n d is at
                 most half the table, all runs of a generation follow each other and no row overlaps another, from an
                 offset drawn for the generation; beyond, each run has an offset of its own (Salimans et al. 2017).

D parameters, n pairs, R rows of a run.
"""

from typing import Protocol

import numpy as np

from es.config import ESConfig
from es.hashing import hash64
from es.shared_table import SharedTable

RUN_PAIRS = 64
FRESH_LIMIT = 2**15  # normals per generation up to which drawing them costs less than 0.5 ms
SMALLEST_TABLE, LARGEST_TABLE = 2**22, 2**26
COLUMNS = 16384  # of a block of the update: accumulators stay in the cache
ALIGN = 16  # floats: rows start on a cache line

_EVALUATION, _OFFSET, _FRESH = 1, 2, 3  # what an address is for: keeps the streams apart


class Noise(Protocol):
    dimension: int
    run_pairs: int
    fingerprint: str

    def run(self, generation: int, run: int, pairs: int) -> np.ndarray:
        """The perturbations of the first `pairs` pairs of a run, (pairs, D) float32, not to be written to."""

    def close(self) -> None: ...


class FreshNoise:
    """Each run drawn from its own stream; the runs of the generation at hand are kept."""

    def __init__(self, seed: int, dimension: int, pairs: int) -> None:
        self.seed, self.dimension, self.pairs, self.run_pairs = seed, dimension, pairs, RUN_PAIRS
        self._generation, self._runs = -1, dict[int, np.ndarray]()
        # What the generator of this machine draws: other bytes elsewhere (another numpy) would be caught by it.
        self.fingerprint = f"fresh-{self._draw(0, 0, 4).tobytes().hex()[:32]}"

    def _draw(self, generation: int, run: int, pairs: int) -> np.ndarray:
        sequence = np.random.SeedSequence(self.seed, spawn_key=(_FRESH, generation, run))
        generator = np.random.Generator(np.random.SFC64(sequence))
        return generator.standard_normal((pairs, self.dimension), dtype=np.float32)

    def run(self, generation: int, run: int, pairs: int) -> np.ndarray:
        if generation != self._generation:
            self._generation, self._runs = generation, {}
        if run not in self._runs:
            drawn = self._draw(generation, run, min(RUN_PAIRS, self.pairs - run * RUN_PAIRS))
            drawn.flags.writeable = False
            self._runs[run] = drawn
        return self._runs[run][:pairs]

    def close(self) -> None:
        self._runs = {}


class TableNoise:
    """Slices of the node's table."""

    def __init__(self, seed: int, dimension: int, pairs: int, size: int) -> None:
        if 2 * dimension > size:
            raise ValueError(
                f"table_floats is {size}: it must be at least twice the number of parameters, {2 * dimension}"
            )
        self.seed, self.dimension = seed, dimension
        self.run_pairs = RUN_PAIRS
        while self.run_pairs > 1 and 2 * self.run_pairs * dimension > size:
            self.run_pairs //= 2
        self.disjoint = 2 * pairs * dimension <= size
        self.generation_floats = pairs * dimension
        self.table = SharedTable(seed, size)
        self.fingerprint = self.table.fingerprint

    def offset(self, generation: int, run: int) -> int:
        """Where a run starts in the table."""
        size, start = self.table.size, run * self.run_pairs * self.dimension
        index = np.asarray([0 if self.disjoint else 1 + run])
        address = int(hash64((self.seed, _OFFSET, generation), index)[0])
        if self.disjoint:
            return address % (size - self.generation_floats + 1) // ALIGN * ALIGN + start
        return address % (size - self.run_pairs * self.dimension + 1) // ALIGN * ALIGN

    def run(self, generation: int, run: int, pairs: int) -> np.ndarray:
        start = self.offset(generation, run)
        return self.table.array[start : start + pairs * self.dimension].reshape(pairs, self.dimension)

    def close(self) -> None:
        self.table.close()


def open_noise(config: ESConfig, dimension: int) -> Noise:
    """The noise of a run, the same on every node. `close` it: the last user of a table removes it."""
    needed = config.pairs * dimension
    if config.noise == "fresh" or (config.noise == "auto" and needed <= FRESH_LIMIT):
        return FreshNoise(config.seed, dimension, config.pairs)
    return TableNoise(config.seed, dimension, config.pairs, table_floats(config, dimension))


def table_floats(config: ESConfig, dimension: int) -> int:
    """Settled size of the table: as configured, or 32 generations' worth within limits, and room for a huge theta."""
    if config.table_floats is not None:
        return config.table_floats
    wanted = min(max(32 * config.pairs * dimension, SMALLEST_TABLE), LARGEST_TABLE)
    return max(wanted, 4 * dimension)


def weighted_sum(noise: Noise, generation: int, weights_n: np.ndarray) -> np.ndarray:
    """sum_j w_j eps_j, (D,) float32, in one pass over the perturbations.

    The order of the additions is fixed: within a run one pair after the other in float32, the runs' sums in float64,
    rounded once. Nothing of it depends on threads, on who evaluated what, or on the order of arrival. (BLAS would: the
    bits of its matrix-vector product follow the number of threads. einsum adds row after row.)
    """
    weights_n = np.ascontiguousarray(weights_n, np.float32)
    dimension, size = noise.dimension, noise.run_pairs
    runs = [
        (weights_n[start : start + size], noise.run(generation, start // size, min(size, len(weights_n) - start)))
        for start in range(0, len(weights_n), size)
    ]
    total_D = np.empty(dimension, np.float32)
    for start in range(0, dimension, COLUMNS):
        columns = slice(start, min(start + COLUMNS, dimension))
        total = np.zeros(columns.stop - start, np.float64)
        partial = np.empty(columns.stop - start, np.float32)
        for weights_R, eps_RD in runs:
            np.einsum("r,rd->d", weights_R, eps_RD[:, columns], out=partial)
            total += partial
        total_D[columns] = total
    return total_D


def evaluation_seeds(seed: int, generation: int, pairs_P: np.ndarray, per_generation: bool) -> np.ndarray:
    """Seeds (uint64, as many as pairs) for the evaluation of pairs; equal for all where the generation shares one."""
    if per_generation:
        pairs_P = np.zeros_like(pairs_P)
    return hash64((seed, _EVALUATION, generation), pairs_P)
