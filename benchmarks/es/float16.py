"""What a noise table of 16 bits a number would save and cost: memory, update, perturbation, and the result of a run.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.es.float16

Two formats beside the table's float32: float16, and int16 in steps of 1/4096 (to +-8). Both have to become float32
before they can be added up, a few tiles at a time, so that what is converted stays in the cache; layout and order are
those of es/update.py, on one thread. Times are of CPU and by the clock, best of several, formats by turns. The result
of a run: OpenAI-ES on a sphere of 1,000 parameters with noise rounded to each format, everything else equal, 10 seeds.

R rows of a run, K tiles of C columns, P rows perturbed.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from es.algorithms.registry import make_algorithm
from es.config import ESConfig
from es.noise import open_noise
from es.noise_sources import Source, TableSource
from es.objectives.toy import Sphere
from es.perturbations import FullNoise

STEP = 4096.0
FORMATS: dict[str, tuple[type, float]] = {"float32": (np.float32, 1.0), "float16": (np.float16, 1.0),
                                          "int16": (np.int16, STEP)}  # fmt: skip
TILES = 2  # converted at a time: 512 KiB


@dataclass
class Arguments:
    dimension: int = 100_000
    rows: int = 512
    repeats: int = 9
    seeds: int = 10
    generations: int = 150


def encode(normals: np.ndarray, name: str) -> np.ndarray:
    kind, step = FORMATS[name]
    return np.rint(normals * np.float32(step)).astype(kind) if kind is np.int16 else normals.astype(kind)


def update(runs: list[np.ndarray], weights_N: np.ndarray, step: float) -> np.ndarray:
    """sum_i w_i eps_i over runs of tiles (K, R, C): rows in float32, runs in float64, rounded once; (K, C)."""
    tiles, rows, columns = runs[0].shape
    weights_N = (weights_N / step).astype(np.float32)
    total_KC, partial_KC = np.zeros((tiles, columns)), np.empty((TILES, columns), np.float32)
    buffer = np.empty((TILES, rows, columns), np.float32)
    for start in range(0, tiles, TILES):
        part = slice(start, min(start + TILES, tiles))
        number = part.stop - start
        for index, run_KRC in enumerate(runs):
            block = run_KRC[part]
            if block.dtype != np.float32:
                np.copyto(buffer[:number], block)
                block = buffer[:number]
            weights_R = weights_N[index * rows : (index + 1) * rows]
            np.einsum("r,krc->kc", weights_R, block, out=partial_KC[:number])
            total_KC[part] += partial_KC[:number]
    return total_KC.astype(np.float32)


def perturb(run_KRC: np.ndarray, sigma: float, step: float, out_PKC: np.ndarray) -> None:
    """sigma eps of the rows of a run, a row at a time."""
    scale = np.float32(sigma / step)
    for row, out_KC in enumerate(out_PKC):
        if run_KRC.dtype == np.float32:
            np.multiply(run_KRC[:, row], scale, out=out_KC)
        else:
            np.copyto(out_KC, run_KRC[:, row])
            np.multiply(out_KC, scale, out=out_KC)


def timings(arguments: Arguments) -> dict[str, dict[str, float]]:
    """Milliseconds of the update over all rows and of perturbing a run of 64, by format."""
    noise = open_noise(ESConfig(pairs=arguments.rows, noise="table", table_floats=2**26), arguments.dimension)
    assert isinstance(noise, FullNoise)
    number = arguments.rows // noise.run_rows
    whole = {name: [encode(noise.tiles(0, run)[0], name) for run in range(number)] for name in FORMATS}
    weights_N = np.random.default_rng(0).standard_normal(arguments.rows).astype(np.float32)
    first = whole["float32"][0]
    out_PKC = np.empty((first.shape[1], first.shape[0], first.shape[2]), np.float32)
    exact = update(whole["float32"], weights_N, 1.0)
    found: dict[str, dict[str, float]] = {name: {} for name in FORMATS}
    for _ in range(arguments.repeats):
        for name, (_, step) in FORMATS.items():
            timed(found[name], "update", partial(update, whole[name], weights_N, step))
            timed(found[name], "perturb", partial(perturb, whole[name][0], 0.1, step, out_PKC))
    for name, (_, step) in FORMATS.items():
        result = update(whole[name], weights_N, step)
        found[name]["update_error"] = float(np.linalg.norm(result - exact) / np.linalg.norm(exact))
        found[name]["table_mib"] = 2**26 * np.dtype(FORMATS[name][0]).itemsize / 2**20
    noise.close()
    return found


def timed(found: dict[str, float], name: str, call: Callable[[], Any]) -> None:
    cpu, clock = time.process_time(), time.perf_counter()
    call()
    for kind, seconds in (("cpu", time.process_time() - cpu), ("clock", time.perf_counter() - clock)):
        key = f"{name}_{kind}_ms"
        found[key] = min(found.get(key, np.inf), 1e3 * seconds)


class Rounded:
    """A source whose normals went through a format."""

    def __init__(self, source: Source, name: str) -> None:
        self.source, self.name = source, name
        self.run_rows, self.fingerprint = source.run_rows, f"{source.fingerprint}-{name}"

    def run(self, generation: int, run: int) -> np.ndarray:
        normals = encode(self.source.run(generation, run), self.name).astype(np.float32)
        return normals / np.float32(FORMATS[self.name][1])

    def close(self) -> None:
        self.source.close()


def final_return(name: str, seed: int, generations: int) -> float:
    """Of OpenAI-ES on the sphere, written out: the engine's algorithm, with the noise of a format."""
    sphere = Sphere(1_000)
    config = ESConfig(seed=seed, pairs=64, noise="table", table_floats=2**22)
    noise = open_noise(config, sphere.dimension)
    assert isinstance(noise, FullNoise)
    assert isinstance(noise.source, TableSource)
    noise.source = Rounded(noise.source, name)
    algorithm = make_algorithm(config, sphere.initial(), noise)
    plus_PD, minus_PD = np.empty((2, config.pairs, sphere.dimension), np.float32)
    for generation in range(generations):
        noise.perturb(generation, range(config.pairs), algorithm.theta_D, config.sigma, plus_PD, minus_PD)
        none = np.zeros(config.pairs, np.uint64)
        returns = [sphere.evaluate_batch(theta_PD, none) for theta_PD in (plus_PD, minus_PD)]
        algorithm.tell(np.stack(returns, axis=1))
    noise.close()
    return float(sphere.evaluate_batch(algorithm.theta_D[None], np.zeros(1))[0])


def main(arguments: Arguments) -> None:
    began = time.perf_counter()
    found = timings(arguments)
    returns = {
        name: [final_return(name, seed, arguments.generations) for seed in range(arguments.seeds)] for name in FORMATS
    }
    rows = [
        [
            name,
            f"{found[name]['table_mib']:.0f}",
            f"{found[name]['update_cpu_ms']:.1f} / {found[name]['update_clock_ms']:.1f}",
            f"{found[name]['perturb_cpu_ms']:.1f} / {found[name]['perturb_clock_ms']:.1f}",
            f"{found[name]['update_error']:.1e}",
            f"{statistics.median(values):.4f} ({min(values):.4f} to {max(values):.4f})",
        ]
        for name, values in returns.items()
    ]
    header = ["format", "table of 64M, MiB", "update, ms of CPU / by the clock", "perturbing 64 rows, ms"]
    text = (
        f"{arguments.dimension:,} parameters x {arguments.rows} rows, one thread, best of {arguments.repeats}; the "
        f"return of the sphere of 1,000 parameters after {arguments.generations} generations of 64 pairs, from -1000: "
        f"median of {arguments.seeds} seeds (lowest to highest).\n\n"
    )
    text += markdown([*header, "error of the update, relative", "final return"], rows)
    write_result("es-float16", {"formats": found, "returns": returns, "seconds": time.perf_counter() - began}, text)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
