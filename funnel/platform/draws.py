"""Randomness by address: bits that follow from (seed, day, who, what) alone, with no state and no order.

Two worlds of one seed so draw the same bits for the same user, request and item, whatever else their policies do
(common random numbers), and no block size or worker changes one. Keys are uint64, mixed by splitmix64
(data/hashing.py).
"""

import numpy as np

from data.hashing import splitmix64

MASK = (1 << 64) - 1
ODD = np.uint64(0x9E3779B97F4A7C15)


def key(seed: int, *where: int) -> np.uint64:
    """The key of an address: every word changes it."""
    mixed = np.array([seed & MASK], np.uint64)
    for word in where:
        mixed = splitmix64(splitmix64(mixed) ^ np.array([word & MASK], np.uint64))
    return splitmix64(mixed)[0]


def keys(base: np.uint64, who: np.ndarray) -> np.ndarray:
    """uint64: a key for each integer under a key."""
    return splitmix64(splitmix64(np.asarray(who).astype(np.uint64) * ODD) ^ base)


def bits(key_R: np.ndarray, what_RC: np.ndarray) -> np.ndarray:
    """uint64_RC: bits for each row's keys of things (items' keys, numbers)."""
    return splitmix64(what_RC + key_R[:, None])


def sixteen(word: np.ndarray) -> np.ndarray:
    """uint16 (..., 4): four draws from each word, least significant first."""
    return np.ascontiguousarray(word, "<u8").view("<u2").reshape(*word.shape, 4)


def words(base: np.uint64, rows: np.ndarray, count: int) -> np.ndarray:
    """uint16 (len(rows), count): draws 0 .. 65535 for each integer under a key."""
    columns = -(-count // 4)
    drawn = bits(keys(base, rows), np.arange(1, columns + 1, dtype=np.uint64)[None] * ODD)
    return sixteen(drawn).reshape(len(rows), columns * 4)[:, :count]


def uniforms(base: np.uint64, rows: np.ndarray) -> np.ndarray:
    """float64: a number of [0, 1) for each integer under a key, a multiple of 2^-53."""
    return (keys(base, rows) >> np.uint64(11)).astype(np.float64) * 2.0**-53
