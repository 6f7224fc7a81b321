"""The update sum_i w_i eps_i: one pass over the perturbations, from front to back, in a fixed order.

Within a run one row after the other in float32, the runs' sums in float64, rounded once. A thread takes whole columns,
so the bits do not depend on the number of threads, nor on who evaluated what or which answer came first. (BLAS is not
used because the bits of its matrix-vector product change with its threads; einsum adds row after row.)

R rows of a run, K tiles of C columns, E columns left over (es/perturbations.py).
"""

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from data.cpus import usable_cpus

TILES = 8  # of a piece of work: its sums stay in the cache
MOST_THREADS = 8  # beyond, memory bandwidth is used up
WORTH_THREADS = 2**21  # floats read, below which waking a thread costs more than it saves


def combine(runs: list[tuple[np.ndarray, np.ndarray]], dimension: int, weights: list[np.ndarray]) -> list[np.ndarray]:
    """Weighted sums over rows given as runs of (tiles_KRC, tail_RE); (D,) float32 each.

    The first set of weights is for eps, a second for eps^2 - 1.
    """
    weights = [np.ascontiguousarray(weights_N, np.float32) for weights_N in weights]
    totals = [np.empty(dimension, np.float32) for _ in weights]
    number, columns = runs[0][0].shape[0], runs[0][0].shape[2]
    borders = np.cumsum([0, *(tail_RE.shape[0] for _, tail_RE in runs)])
    workers = threads() if len(weights[0]) * dimension >= WORTH_THREADS else 1
    pieces = max(1, -(-number // (TILES * workers)) * workers)  # as many for each thread
    step = max(1, -(-number // pieces))

    def piece(start: int) -> None:
        stop = min(start + step, number)
        blocks = [tiles_KRC[start:stop] for tiles_KRC, _ in runs]
        for total_D, total in zip(totals, _sums("r,krc->kc", blocks, borders, weights), strict=True):
            total_D[start * columns : stop * columns] = total.reshape(-1)

    spread(piece, range(0, number, step), workers)
    if number * columns < dimension:
        tails = [tail_RE for _, tail_RE in runs]
        for total_D, total in zip(totals, _sums("r,re->e", tails, borders, weights), strict=True):
            total_D[number * columns :] = total
    return totals


def _sums(formula: str, blocks: list[np.ndarray], borders: np.ndarray, weights: list[np.ndarray]) -> list[np.ndarray]:
    first = blocks[0]
    shape = first.shape[:1] + first.shape[2:] if first.ndim == 3 else first.shape[1:]
    totals, partial = [np.zeros(shape) for _ in weights], np.empty(shape, np.float32)
    for index, block in enumerate(blocks):
        rows = slice(borders[index], borders[index + 1])
        operand = block
        for power, (weights_N, total) in enumerate(zip(weights, totals, strict=True)):
            if power:
                operand = np.multiply(block, block)
                operand -= 1
            np.einsum(formula, weights_N[rows], operand, out=partial)
            total += partial
    return totals


def spread(piece: Callable[[int], None], starts: Iterable[int], number: int) -> None:
    """Do all pieces, on as many threads."""
    if number == 1:
        for start in starts:
            piece(start)
    else:
        list(_executor(number, os.getpid()).map(piece, starts))


_asked: list[int] = []


def use_threads(number: int) -> None:
    """From now on at most so many, in this process."""
    _asked[:] = [number]
    threads.cache_clear()


@functools.cache
def threads() -> int:
    """Threads of an update: the CPUs of this process, or what OMP_NUM_THREADS says (Ray sets it in its workers), or
    what was asked for."""
    usable = usable_cpus()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    number = _asked[0] if _asked else int(asked) if asked.isdigit() else usable
    return max(1, min(usable, MOST_THREADS, number))


@functools.cache
def _executor(number: int, process: int) -> Any:
    """One per process: a fork does not inherit its parent's threads."""
    return ThreadPoolExecutor(number, thread_name_prefix="es-update")
