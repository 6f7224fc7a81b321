"""A run done again from (seed, returns) alone: nothing is evaluated, and theta must come out the same to the bit.

What a directory needs for it: start.f32, returns.f64 and the checkpoint, whose header holds the settings and whose
tensors are what the replay is compared with.
"""

import dataclasses
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UserError
from es.algorithms.base import Algorithm
from es.algorithms.registry import make_algorithm
from es.checkpoint import read_checkpoint
from es.config import ESConfig
from es.noise import open_noise
from es.record import CHECKPOINT_FILE, METRICS_FILE, RETURNS_FILE, START_FILE


@dataclass(frozen=True)
class Replay:
    """theta as replayed, and the first thing that differs from the run's own (None: every bit is equal)."""

    theta: np.ndarray
    generations: int
    difference: str | None


def replay(config: ESConfig, start_D: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """theta after the generations whose returns (generations, n, 2) are given."""
    noise = open_noise(config, len(start_D))
    try:
        algorithm = make_algorithm(config, start_D, noise)
        for returns_n2 in returns:
            algorithm.ask()
            algorithm.tell(returns_n2)
    finally:
        noise.close()
    return algorithm.theta_D


def replay_run(run: Path) -> Replay:
    """Replay a run up to its checkpoint. UserError, one line, if the directory lacks what a replay needs, or if this
    machine makes other noise than the run had."""
    for name in (CHECKPOINT_FILE, START_FILE, RETURNS_FILE):
        if not (run / name).exists():
            raise UserError(f"{run}: has no {name}, without which a run cannot be replayed")
    header, tensors = read_checkpoint(run / CHECKPOINT_FILE)
    config = read_settings(run, header)
    generations = int(tensors["generation"][0])
    start_D = np.fromfile(run / START_FILE, "<f4").astype(np.float32)
    if start_D.nbytes != (run / START_FILE).stat().st_size or len(start_D) != tensors["theta"].size:
        raise UserError(f"{run / START_FILE}: holds {len(start_D)} numbers, not {tensors['theta'].size}")
    returns = np.fromfile(run / RETURNS_FILE, "<f8", count=generations * config.pairs * 2)
    if returns.size < generations * config.pairs * 2:
        raise UserError(f"{run / RETURNS_FILE}: holds fewer than {generations} generations' returns")
    noise = open_noise(config, len(start_D))
    try:
        recorded = header["identity"]["noise"]
        if noise.fingerprint != recorded:
            raise UserError(f"{run}: its noise was {recorded}, this machine makes {noise.fingerprint}")
        algorithm = make_algorithm(config, start_D, noise)
        difference = follow(algorithm, returns.reshape(generations, config.pairs, 2), checksums(run))
    finally:
        noise.close()
    return Replay(algorithm.theta_D, generations, difference or compare(algorithm.state(), tensors))


def read_settings(run: Path, header: dict[str, Any]) -> ESConfig:
    """The settings of a run, as its checkpoint has them; UserError, one line, for one that is not known here."""
    settings = dict(header["identity"]["settings"])
    known = {field.name for field in dataclasses.fields(ESConfig)}
    if strangers := sorted(settings.keys() - known):
        raise UserError(f"{run / CHECKPOINT_FILE}: has a setting {strangers[0]!r} that this version does not know")
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()
    }
    if values["perturb"] not in ("full", "subset"):
        raise UserError(f"{run / CHECKPOINT_FILE}: perturb is {values['perturb']!r}, which this version does not have")
    return ESConfig(**values)


def checksums(run: Path) -> dict[int, int]:
    """CRC-32 of theta after each generation, as metrics.jsonl has it."""
    path = run / METRICS_FILE
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    found = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if "theta_crc32" in record:
                found[int(record["generation"])] = int(record["theta_crc32"])
        except (ValueError, KeyError, TypeError, RecursionError):
            if line.endswith(b"\n"):  # else the half line of a crash
                raise UserError(f"{path}: line {number} is damaged") from None
    return found


def follow(algorithm: Algorithm, returns: np.ndarray, expected: dict[int, int]) -> str | None:
    """Tell every generation's returns; name the first after which theta is not what it was."""
    difference = None
    for generation, returns_n2 in enumerate(returns):
        algorithm.ask()
        algorithm.tell(returns_n2)
        found = zlib.crc32(np.ascontiguousarray(algorithm.theta_D).data)
        if difference is None and found != expected.get(generation, found):
            difference = f"theta differs from generation {generation} on"
    return difference


def compare(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> str | None:
    """The first entry in which a state is not the checkpoint's, theta before all others; None if all are equal."""
    for name in sorted(found, key=lambda name: (name != "theta", name)):
        here, there = np.atleast_1d(found[name]), np.atleast_1d(expected.get(name, np.zeros(0)))
        if here.dtype != there.dtype or here.shape != there.shape:
            return f"{name} is {here.dtype}{list(here.shape)}, the checkpoint has {there.dtype}{list(there.shape)}"
        if here.tobytes() != there.tobytes():
            rows = (here.view(np.uint8).reshape(here.size, -1) != there.view(np.uint8).reshape(here.size, -1)).any(
                axis=1
            )
            index = int(np.flatnonzero(rows)[0])
            return f"{name}[{index}] is {here.ravel()[index]!r}, the checkpoint has {there.ravel()[index]!r}"
    return None
