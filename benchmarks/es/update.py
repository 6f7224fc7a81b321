"""The update sum_j w_j eps_j of evolution strategies against the bandwidth of memory, and against other ways to it.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.es.update
    OPENBLAS_NUM_THREADS=1 python -m benchmarks.es.update --repeats 7 --sizes 100000x500

Every repetition takes fresh rows of one shared table and times all methods one after the other, reading included: a
method's share of the read bandwidth is the median over repetitions of (time of reading / its time), so a neighbour's
load moves both; `CPU` takes seconds of CPU in place of the clock's, which neighbours move less. `same bits`: for 1 and
2 threads, and for columns cut elsewhere, on the same rows.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import tyro

import es.update
from benchmarks.bench import markdown, write_result
from es.config import ESConfig
from es.noise import open_noise
from es.noise_sources import TableSource
from es.perturbations import FullNoise

Seconds = dict[tuple[str, int], list[tuple[float, float]]]  # (method, threads): (by the clock, of CPU) each time

BLOCK = 16384  # columns of a block in the methods that cut columns themselves


@dataclass
class Arguments:
    sizes: list[str] = field(default_factory=lambda: ["100000x500", "100000x256", "1000000x64", "10000x1000"])
    """Parameters x rows, up to 64M."""
    repeats: int = 15
    threads: tuple[int, ...] = (1, 2)


class Bench:
    """One size: the rows of a generation as the engine lays them out, and the same floats row after row."""

    def __init__(self, dimension: int, rows: int) -> None:
        config = ESConfig(pairs=rows, noise="table", table_floats=2**26)
        noise = open_noise(config, dimension)
        assert isinstance(noise, FullNoise)
        assert isinstance(noise.source, TableSource)
        self.noise, self.table, self.dimension, self.rows = noise, noise.source.table.array, dimension, rows
        self.weights = np.random.default_rng(0).standard_normal(rows).astype(np.float32)
        self.generation, self.threads, self.columns = 0, 1, BLOCK
        self.pools = {number: ThreadPoolExecutor(number) for number in (1, 2, 4)}

    def matrix(self) -> np.ndarray:
        """(rows, D) somewhere in the table, row after row: what every other library keeps."""
        start = 7919 * 16 * self.generation % (len(self.table) - self.rows * self.dimension + 1) // 16 * 16
        return self.table[start : start + self.rows * self.dimension].reshape(self.rows, self.dimension)

    def by_columns(self, block: Callable[[slice], np.ndarray]) -> np.ndarray:
        out = np.empty(self.dimension, np.float32)

        def piece(start: int) -> None:
            columns = slice(start, min(start + self.columns, self.dimension))
            out[columns] = block(columns)

        list(self.pools[self.threads].map(piece, range(0, self.dimension, self.columns)))
        return out

    def in_runs(self, one: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """Runs of 64 rows, their sums in float64, by blocks of columns on threads."""
        eps = self.matrix()

        def block(columns: slice) -> np.ndarray:
            total = np.zeros(columns.stop - columns.start)
            for start in range(0, self.rows, 64):
                total += one(self.weights[start : start + 64], eps[start : start + 64, columns])
            return total

        return self.by_columns(block)

    # ---- methods

    def read(self) -> Any:
        """The fastest reading there is here: torch's sum, one thread to a piece."""
        runs = range(-(-self.rows // self.noise.run_rows))
        flat = [self.noise.source.run(self.generation, run) for run in runs]
        pieces = [piece for run in flat for piece in np.array_split(run, max(1, len(run) // 2**20))]
        return list(self.pools[self.threads].map(lambda piece: torch.from_numpy(piece).sum(), pieces))

    def ours(self) -> np.ndarray:
        es.update.threads = lambda: self.threads  # type: ignore[assignment]
        es.update.TILES = max(1, self.columns // 2048)
        return self.noise.weighted_sum(self.generation, self.weights)

    def rows_einsum(self) -> np.ndarray:
        return self.in_runs(lambda w, eps: np.einsum("r,rd->d", w, eps))

    def rows_torch(self) -> np.ndarray:
        return self.in_runs(lambda w, eps: torch.mv(torch.from_numpy(eps).T, torch.from_numpy(w)).numpy())

    def rows_blas(self) -> np.ndarray:
        return self.in_runs(lambda w, eps: w @ eps)

    def one_blas(self) -> np.ndarray:
        """A single matrix-vector product, with BLAS's own threads."""
        return self.by_columns_of_all() if self.columns != BLOCK else self.weights @ self.matrix()

    def by_columns_of_all(self) -> np.ndarray:
        eps = self.matrix()
        return self.by_columns(lambda columns: self.weights @ eps[:, columns])

    def axpy(self) -> np.ndarray:
        """One row after the other, multiply and add in blocks that stay in the cache."""
        eps = self.matrix()

        def block(columns: slice) -> np.ndarray:
            total, scaled = np.zeros(columns.stop - columns.start, np.float32), eps[0, columns].copy()
            for weight, row in zip(self.weights, eps, strict=True):
                np.multiply(row[columns], weight, out=scaled)
                np.add(total, scaled, out=total)
            return total

        return self.by_columns(block)

    def copies(self) -> np.ndarray:
        """As openai/evolution-strategies-starter and its descendants: copy 500 rows, one product, add."""
        eps, total = self.matrix(), np.zeros(self.dimension, np.float32)
        for start in range(0, self.rows, 500):
            batch = np.asarray([row.copy() for row in eps[start : start + 500]])
            total += np.dot(self.weights[start : start + 500], batch)
        return total


METHODS = {
    "read": "reading the same bytes",
    "ours": "tiles, einsum (the engine)",
    "rows_einsum": "rows, einsum in blocks",
    "rows_torch": "rows, torch.mv in blocks",
    "rows_blas": "rows, BLAS in blocks",
    "one_blas": "rows, one BLAS product",
    "axpy": "rows, multiply and add",
    "copies": "copies of 500 rows (the starter)",
}


def main(arguments: Arguments) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
    tables, figures = [], {}
    for size in arguments.sizes:
        dimension, rows = (int(number) for number in size.split("x"))
        bench = Bench(dimension, rows)
        seconds: Seconds = {}
        for repeat in range(arguments.repeats + 1):
            for threads in arguments.threads:
                for name in METHODS:
                    bench.generation, bench.threads = bench.generation + 1, threads
                    began, cpu = time.perf_counter(), time.process_time()
                    getattr(bench, name)()
                    if repeat:  # the first warms up
                        taken = time.perf_counter() - began, time.process_time() - cpu
                        seconds.setdefault((name, threads), []).append(taken)
        same = {name: same_bits(bench, name) for name in METHODS if name != "read"}
        bench.noise.close()
        tables.append(f"## {dimension:,} x {rows}\n\n" + table(arguments, dimension * rows * 4, seconds, same))
        figures[size] = {f"{name}.{threads}": values for (name, threads), values in seconds.items()}
    note = "ms: median (fastest). Share: of the read bandwidth with as many threads, median over repetitions.\n\n"
    write_result("es-update", {"seconds": figures}, note + "\n".join(tables))


def same_bits(bench: Bench, name: str) -> bool:
    bench.generation += 1
    results = []
    for threads, columns in ((1, BLOCK), (2, BLOCK), (2, 6000), (4, 50_000)):
        bench.threads, bench.columns = threads, columns
        results.append(getattr(bench, name)().tobytes())
    bench.columns = BLOCK
    return len(set(results)) == 1


def table(arguments: Arguments, size: int, seconds: Seconds, same: dict[str, bool]) -> str:
    rows = []
    for name, label in METHODS.items():
        row = [label]
        for threads in arguments.threads:
            times, reading = seconds[name, threads], seconds["read", threads]
            median = statistics.median(wall for wall, _ in times)
            row.append(f"{1e3 * median:.1f} ({1e3 * min(wall for wall, _ in times):.1f})")
            if name == "read":
                row += [f"{size / median / 1e9:.1f} GB/s", ""]
                continue
            for clock in (0, 1):
                ratios = [read[clock] / own[clock] for read, own in zip(reading, times, strict=True)]
                row.append(f"{statistics.median(ratios):.0%}")
        rows.append([*row, "" if name == "read" else ("yes" if same[name] else "no")])
    header = ["method"]
    for threads in arguments.threads:
        header += [f"ms, {threads} thread{'s' * (threads > 1)}", "share", "CPU"]
    return markdown([*header, "same bits"], rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
