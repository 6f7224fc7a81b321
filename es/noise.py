"""Perturbations addressed by (seed, generation, row): any process makes the same eps_i without being sent it.

A generation has a row per pair (mirrored) or two (not mirrored), cut into runs of R = 64 (fewer where d is huge): row i
is row i % R of run i // R. A run is R consecutive rows of d normals, so evaluation and update both read memory in
order. Two sources:

    FreshNoise   draws a run anew from (seed, generation, run): for a few thousand normals a generation
    TableNoise   slices a table of normals that all processes of a node share (es/shared_table.py). While n d is at
                 most half the table, all runs of a generation follow each other and no row overlaps another, from an
                 offset drawn for the generation; beyond, each run has an offset of its own (Salimans et al. 2017).

D parameters, N rows of a generation, R rows of a run.
"""

from typing import Protocol

import numpy as np

from es.config import ESConfig
from es.hashing import hash64
from es.shared_table import SharedTable

RUN_ROWS = 64
FRESH_LIMIT = 2**15  # normals per generation up to which drawing them costs less than 0.5 ms
SMALLEST_TABLE, LARGEST_TABLE = 2**22, 2**26
COLUMNS = 16384  # of a block of the update: accumulators stay in the cache
ALIGN = 16  # floats: rows start on a cache line

_EVALUATION, _OFFSET, _FRESH = 1, 2, 3  # what an address is for: keeps the streams apart


class Noise(Protocol):
    dimension: int
    run_rows: int
    fingerprint: str

    def rows(self, generation: int, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of a generation, all of one run, (stop - start, D) float32, not to be written to."""

    def close(self) -> None: ...


class FreshNoise:
    """Each run drawn from its own stream; the runs of the generation at hand are kept."""

    def __init__(self, seed: int, dimension: int, generation_rows: int) -> None:
        self.seed, self.dimension, self.generation_rows, self.run_rows = seed, dimension, generation_rows, RUN_ROWS
        self._generation, self._runs = -1, dict[int, np.ndarray]()
        # What the generator of this machine draws: other bytes elsewhere (another numpy) would be caught by it.
        self.fingerprint = f"fresh-{self._draw(0, 0, 4).tobytes().hex()[:32]}"

    def _draw(self, generation: int, run: int, rows: int) -> np.ndarray:
        sequence = np.random.SeedSequence(self.seed, spawn_key=(_FRESH, generation, run))
        generator = np.random.Generator(np.random.SFC64(sequence))
        return generator.standard_normal((rows, self.dimension), dtype=np.float32)

    def rows(self, generation: int, start: int, stop: int) -> np.ndarray:
        run, first = divmod(start, RUN_ROWS)
        if generation != self._generation:
            self._generation, self._runs = generation, {}
        if run not in self._runs:
            drawn = self._draw(generation, run, min(RUN_ROWS, self.generation_rows - run * RUN_ROWS))
            drawn.flags.writeable = False
            self._runs[run] = drawn
        return self._runs[run][first : first + stop - start]

    def close(self) -> None:
        self._runs = {}


class TableNoise:
    """Slices of the node's table."""

    def __init__(self, seed: int, dimension: int, generation_rows: int, size: int, rows_per_pair: int = 1) -> None:
        if 2 * rows_per_pair * dimension > size:
            raise ValueError(
                f"table_floats is {size}: it must be at least {('twice', '4 times')[rows_per_pair - 1]} "
                f"the number of parameters, {2 * rows_per_pair * dimension}"
            )
        self.seed, self.dimension = seed, dimension
        self.run_rows = RUN_ROWS
        while self.run_rows > rows_per_pair and 2 * self.run_rows * dimension > size:
            self.run_rows //= 2
        self.disjoint = 2 * generation_rows * dimension <= size
        self.generation_floats = generation_rows * dimension
        self.table = SharedTable(seed, size)
        self.fingerprint = self.table.fingerprint

    def offset(self, generation: int, run: int) -> int:
        """Where a run starts in the table."""
        size, start = self.table.size, run * self.run_rows * self.dimension
        index = np.asarray([0 if self.disjoint else 1 + run])
        address = int(hash64((self.seed, _OFFSET, generation), index)[0])
        if self.disjoint:
            return address % (size - self.generation_floats + 1) // ALIGN * ALIGN + start
        return address % (size - self.run_rows * self.dimension + 1) // ALIGN * ALIGN

    def rows(self, generation: int, start: int, stop: int) -> np.ndarray:
        run, first = divmod(start, self.run_rows)
        begin = self.offset(generation, run) + first * self.dimension
        return self.table.array[begin : begin + (stop - start) * self.dimension].reshape(-1, self.dimension)

    def close(self) -> None:
        self.table.close()


def open_noise(config: ESConfig, dimension: int) -> Noise:
    """The noise of a run, the same on every node. `close` it: the last user of a table removes it."""
    rows = config.pairs * config.rows_per_pair
    if config.noise == "fresh" or (config.noise == "auto" and rows * dimension <= FRESH_LIMIT):
        return FreshNoise(config.seed, dimension, rows)
    return TableNoise(config.seed, dimension, rows, table_floats(config, dimension), config.rows_per_pair)


def table_floats(config: ESConfig, dimension: int) -> int:
    """Settled size of the table: as configured, or 32 generations' worth within limits, and room for a huge theta."""
    if config.table_floats is not None:
        return config.table_floats
    wanted = min(max(32 * config.pairs * config.rows_per_pair * dimension, SMALLEST_TABLE), LARGEST_TABLE)
    return max(wanted, 4 * dimension)


def weighted_sum(noise: Noise, generation: int, weights_n: np.ndarray) -> np.ndarray:
    """sum_j w_j eps_j, (D,) float32, in one pass over the perturbations.

    The order of the additions is fixed: within a run one pair after the other in float32, the runs' sums in float64,
    rounded once. Nothing of it depends on threads, on who evaluated what, or on the order of arrival. (BLAS would: the
    bits of its matrix-vector product follow the number of threads. einsum adds row after row.)
    """
    weights_n = np.ascontiguousarray(weights_n, np.float32)
    dimension, size = noise.dimension, noise.run_rows
    runs = [
        (weights_n[start : start + size], noise.rows(generation, start, min(start + size, len(weights_n))))
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
