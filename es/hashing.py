"""Random bits as a function of an address, vectorised: the same whoever asks for them, in whatever order."""

import numpy as np

_ALL = 2**64 - 1


def hash64(words: tuple[int, ...], index: np.ndarray) -> np.ndarray:
    """64 bits for each index (uint64, same shape) under an address of words, each below 2**64."""
    mixed = 0
    for word in words:
        mixed = mix64_word(mixed ^ word)
    return mix64(np.uint64(mixed) ^ index.astype(np.uint64))


def mix64_word(x: int) -> int:
    """`mix64` of one number: Python's integers are ten times as fast as arrays of one element."""
    x = x + 0x9E3779B97F4A7C15 & _ALL
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _ALL
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _ALL
    return x ^ x >> 31


def mix64(x: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele, Lea and Flood 2014): one step and its finaliser; a bijection of uint64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
