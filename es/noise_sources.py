"""Where normals come from: addressed by (seed, generation, run), the same bytes in any process that asks.

A generation has N rows of m floats, cut into runs of R rows, a power of two; a run is R m consecutive floats. Two
sources:

    FreshSource   draws a run from the stream (seed, generation, run): for a few thousand normals a generation. A run
                  has at least 64 rows and about 8192 normals, drawn in the time that opening a stream takes
    TableSource   slices a table of normals that all processes of a node share (es/shared_table.py). While N m is at
                  most half the table, all runs of a generation follow each other and no row overlaps another, from an
                  offset drawn for the generation; beyond, each run has an offset of its own (Salimans et al. 2017).
                  A run has 64 rows, fewer where m is huge
"""

from typing import Protocol

import numpy as np

from data.errors import UserError
from es.hashing import hash64
from es.shared_table import SharedTable

RUN_ROWS = 64
FRESH_RUN = 2**13  # normals
ALIGN = 16  # floats: runs start on a cache line
_OFFSET, _FRESH = 2, 3  # what an address is for: keeps the streams apart


class Source(Protocol):
    run_rows: int
    fingerprint: str

    def run(self, generation: int, run: int) -> np.ndarray:
        """The normals of a run: (rows m,) float32, not to be written to; the last run may have fewer rows."""

    def close(self) -> None: ...


class FreshSource:
    """Each run drawn from its own stream; the runs of the generation at hand are kept."""

    def __init__(self, seed: int, row_floats: int, generation_rows: int) -> None:
        self.seed, self.row_floats, self.generation_rows, self.run_rows = seed, row_floats, generation_rows, RUN_ROWS
        while 2 * self.run_rows * row_floats <= FRESH_RUN:
            self.run_rows *= 2
        self._generation, self._runs = -1, dict[int, np.ndarray]()
        # What the generator of this machine draws: other bytes elsewhere (another numpy) would be caught by it.
        self.fingerprint = f"fresh-{self._draw(0, 0, 4).tobytes().hex()[:32]}"

    def _draw(self, generation: int, run: int, floats: int) -> np.ndarray:
        sequence = np.random.SeedSequence(self.seed, spawn_key=(_FRESH, generation, run))
        generator = np.random.Generator(np.random.SFC64(sequence))
        return generator.standard_normal(floats, dtype=np.float32)

    def run(self, generation: int, run: int) -> np.ndarray:
        if generation != self._generation:
            self._generation, self._runs = generation, {}
        if run not in self._runs:
            rows = min(self.run_rows, self.generation_rows - run * self.run_rows)
            drawn = self._draw(generation, run, rows * self.row_floats)
            drawn.flags.writeable = False
            self._runs[run] = drawn
        return self._runs[run]

    def close(self) -> None:
        self._runs = {}


class TableSource:
    """Slices of the node's table. `least_run`: rows that must lie in one run (the two of a pair)."""

    def __init__(self, seed: int, row_floats: int, generation_rows: int, size: int, least_run: int = 1) -> None:
        if 2 * least_run * row_floats > size:
            raise UserError(
                f"table_floats is {size}: it must be at least {2 * least_run * row_floats}, "
                f"{2 * least_run} times what a perturbation takes"
            )
        self.seed, self.row_floats, self.generation_rows = seed, row_floats, generation_rows
        self.run_rows = RUN_ROWS
        while self.run_rows > least_run and 2 * self.run_rows * row_floats > size:
            self.run_rows //= 2
        self.disjoint = 2 * generation_rows * row_floats <= size
        self.table = SharedTable(seed, size)
        self.fingerprint = self.table.fingerprint

    def offset(self, generation: int, run: int) -> int:
        """Where a run starts in the table."""
        size, start = self.table.size, run * self.run_rows * self.row_floats
        index = np.asarray([0 if self.disjoint else 1 + run])
        address = int(hash64((self.seed, _OFFSET, generation), index)[0])
        if self.disjoint:
            return address % (size - self.generation_rows * self.row_floats + 1) // ALIGN * ALIGN + start
        return address % (size - self.run_rows * self.row_floats + 1) // ALIGN * ALIGN

    def run(self, generation: int, run: int) -> np.ndarray:
        rows = min(self.run_rows, self.generation_rows - run * self.run_rows)
        start = self.offset(generation, run)
        return self.table.array[start : start + rows * self.row_floats]

    def close(self) -> None:
        self.table.close()
