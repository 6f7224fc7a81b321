"""What a row of noise does to theta: every coordinate moves, or some of them.

    full       eps = z                                                          d normals a row
    subset     eps = z sqrt(1/f) on a window of f d coordinates, 0 elsewhere    f d normals a row
Both have E[eps] = 0 and E[eps eps'] = I, so every algorithm's formula stays as it is, and |sigma eps| keeps its length.
The window starts at a coordinate drawn for the row and wraps around the end.

The normals of a full run lie in tiles of 2048 columns: tile k holds columns [2048 k, 2048 (k + 1)) of all R rows, row
after row; the columns left over follow. So the update, which adds up all rows, reads memory from front to back.

D parameters, P rows asked for, R rows of a run, K tiles of C columns, N rows of a generation.
"""

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from es.hashing import hash64
from es.noise_sources import Source
from es.update import combine

TILE = 2048
_WINDOW = 4  # what an address is for: see es/noise_sources.py


class Noise(Protocol):
    """Perturbations addressed by (seed, generation, row): no process needs to be sent one."""

    dimension: int
    run_rows: int
    fingerprint: str

    def write(self, generation: int, rows: range, sigma: np.ndarray | float, out_PD: np.ndarray) -> None:
        """Write sigma eps for rows of a generation, all of one run; sigma: a number, or (D,) float32."""

    def perturb(
        self,
        generation: int,
        rows: range,
        theta_D: np.ndarray,
        sigma: np.ndarray | float,
        plus_PD: np.ndarray,
        minus_PD: np.ndarray | None = None,
    ) -> None:
        """Write theta + sigma eps and, where there is room for it, theta - sigma eps."""
        self.write(generation, rows, sigma, plus_PD)
        if minus_PD is not None:
            np.subtract(theta_D, plus_PD, out=minus_PD)
        np.add(theta_D, plus_PD, out=plus_PD)

    def weighted_sum(self, generation: int, weights_N: np.ndarray) -> np.ndarray:
        """sum_i w_i eps_i over all rows of a generation, (D,) float32, the same bits for any number of threads."""

    def close(self) -> None: ...


class FullNoise(Noise):
    """Every coordinate of every row."""

    def __init__(self, source: Source, dimension: int) -> None:
        self.source, self.dimension, self.run_rows = source, dimension, source.run_rows
        self.fingerprint = f"{source.fingerprint}-full"

    def tiles(self, generation: int, run: int) -> tuple[np.ndarray, np.ndarray]:
        """A run as (K, R, C) and, for the columns left over, (R, D - K C)."""
        flat = self.source.run(generation, run)
        rows, number = len(flat) // self.dimension, self.dimension // TILE
        split = number * rows * TILE
        return flat[:split].reshape(number, rows, TILE), flat[split:].reshape(rows, -1)

    def write(self, generation: int, rows: range, sigma: np.ndarray | float, out_PD: np.ndarray) -> None:
        run, first = divmod(rows.start, self.run_rows)
        part = slice(first, first + rows.stop - rows.start, rows.step)
        if self.dimension < TILE:
            eps_RD = self.source.run(generation, run).reshape(-1, self.dimension)
            np.multiply(eps_RD[part], sigma, out=out_PD)
            return
        tiles_KRC, tail_RE = self.tiles(generation, run)
        split = len(tiles_KRC) * TILE
        if split:
            multiply(tiles_KRC[:, part].transpose(1, 0, 2), sigma, slice(0, split), out_PD)
        if split < self.dimension:
            multiply(tail_RE[part], sigma, slice(split, self.dimension), out_PD)

    def weighted_sum(self, generation: int, weights_N: np.ndarray) -> np.ndarray:
        return combine(self._runs(generation, len(weights_N)), self.dimension, [weights_N])[0]

    def weighted_sums(
        self, generation: int, weights_N: np.ndarray, square_weights_N: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """sum_i w_i eps_i and sum_i v_i (eps_i^2 - 1), each (D,) float32, in one pass over the rows."""
        sums = combine(self._runs(generation, len(weights_N)), self.dimension, [weights_N, square_weights_N])
        return sums[0], sums[1]

    def _runs(self, generation: int, rows: int) -> list[tuple[np.ndarray, np.ndarray]]:
        return [self.tiles(generation, run) for run in range(-(-rows // self.run_rows))]

    def close(self) -> None:
        self.source.close()


def multiply(eps: np.ndarray, sigma: np.ndarray | float, columns: slice, out_PD: np.ndarray) -> None:
    """sigma eps for some columns: eps (P, columns), or (P, K, C) in tiles."""
    if isinstance(sigma, np.ndarray):
        sigma = sigma[columns].reshape(eps.shape[1:])
    out = out_PD[:, columns].reshape(eps.shape)  # splitting an axis is a view
    if eps.ndim == 2:
        np.multiply(eps, sigma, out=out)
        return
    before = np.setbufsize(TILE)  # rows shorter than its buffer numpy would copy there first, at half the speed
    try:
        np.multiply(eps, sigma, out=out)
    finally:
        np.setbufsize(before)


class SubsetNoise(Noise):
    """A window of the coordinates of every row; `source` gives as many floats a row as the window is long."""

    def __init__(self, source: Source, dimension: int, width: int, seed: int) -> None:
        self.source, self.dimension, self.width, self.seed = source, dimension, width, seed
        self.run_rows = source.run_rows
        self.scale = np.float32(math.sqrt(dimension / width))
        self.fingerprint = f"{source.fingerprint}-subset-{width}"

    def _windows(self, generation: int, rows: range) -> Iterator[list[tuple[slice, np.ndarray]]]:
        """For each row, which coordinates its normals go to: one piece, or two where the window wraps around."""
        run, first = divmod(rows.start, self.run_rows)
        z_RW = self.source.run(generation, run).reshape(-1, self.width)
        starts = hash64((self.seed, _WINDOW, generation), np.arange(rows.start, rows.stop)) % np.uint64(self.dimension)
        for index in range(0, rows.stop - rows.start, rows.step):
            start, z_W = int(starts[index]), z_RW[first + index]
            before = min(self.width, self.dimension - start)
            pieces = [(slice(start, start + before), z_W[:before])]
            if before < self.width:
                pieces.append((slice(0, self.width - before), z_W[before:]))
            yield pieces

    def write(self, generation: int, rows: range, sigma: np.ndarray | float, out_PD: np.ndarray) -> None:
        sigma_D = np.broadcast_to(np.asarray(sigma, np.float32) * self.scale, self.dimension)
        out_PD[:] = 0
        for out_D, pieces in zip(out_PD, self._windows(generation, rows), strict=True):
            for where, z in pieces:
                np.multiply(z, sigma_D[where], out=out_D[where])

    def weighted_sum(self, generation: int, weights_N: np.ndarray) -> np.ndarray:
        total_D = np.zeros(self.dimension)
        scaled_N = np.asarray(weights_N, np.float32) * self.scale
        for start in range(0, len(scaled_N), self.run_rows):
            rows, partial_D = (
                range(start, min(start + self.run_rows, len(scaled_N))),
                np.zeros_like(total_D, np.float32),
            )
            for weight, pieces in zip(scaled_N[start : rows.stop], self._windows(generation, rows), strict=True):
                for where, z in pieces:
                    partial_D[where] += weight * z
            total_D += partial_D
        return total_D.astype(np.float32)

    def close(self) -> None:
        self.source.close()
