"""Fitness shaping: 2n returns to 2n utilities (Salimans et al. 2017, s.2.1; ranks after Wierstra et al. 2014).

A failed evaluation (NaN or infinite return) has a defined place: it is worst, tied with every other failure.
"""

from collections.abc import Callable

import numpy as np


def centred_ranks(returns_n2: np.ndarray) -> np.ndarray:
    """Ranks over all returns, ties averaged, scaled to [-0.5, 0.5]: (rank - 1)/(2n - 1) - 0.5, float64, same shape."""
    flat = np.where(np.isfinite(returns_n2), returns_n2, -np.inf).ravel()
    order = np.argsort(flat)
    ascending = flat[order]
    by_place = np.arange(flat.size, dtype=np.float64)
    if (ascending[1:] == ascending[:-1]).any():
        below = np.searchsorted(ascending, ascending, side="left")
        up_to = np.searchsorted(ascending, ascending, side="right")
        by_place = (below + up_to - 1) / 2  # averaged over ties, from 0
    ranks = np.empty(flat.size)
    ranks[order] = by_place
    return np.asarray(ranks / max(flat.size - 1, 1) - 0.5).reshape(returns_n2.shape)


def nes(returns_n2: np.ndarray) -> np.ndarray:
    """Utilities of natural evolution strategies (Wierstra et al. 2014): u_i = max(0, ln(m/2 + 1) - ln i), i = 1 the
    best of m = 2n, divided by their sum, less 1/m. The better half counts, the best most; ties share their mean."""
    flat = np.where(np.isfinite(returns_n2), returns_n2, -np.inf).ravel()
    by_rank = np.maximum(0.0, np.log(flat.size / 2 + 1) - np.log(np.arange(flat.size, 0, -1)))
    sums = np.concatenate([[0.0], np.cumsum(by_rank / by_rank.sum() - 1 / flat.size)])
    ascending = np.sort(flat)
    below, up_to = np.searchsorted(ascending, flat, side="left"), np.searchsorted(ascending, flat, side="right")
    return np.asarray((sums[up_to] - sums[below]) / (up_to - below)).reshape(returns_n2.shape)


def raw(returns_n2: np.ndarray) -> np.ndarray:
    """The returns themselves; a failure counts as the lowest finite return (0 if there is none)."""
    finite = np.isfinite(returns_n2)
    worst = returns_n2[finite].min() if finite.any() else 0.0
    return np.where(finite, returns_n2, worst).astype(np.float64)


def standardised(returns_n2: np.ndarray) -> np.ndarray:
    """(return - mean)/standard deviation over all returns; all 0 where the returns are all equal."""
    filled = raw(returns_n2)
    deviation = filled.std()
    return (filled - filled.mean()) / deviation if deviation > 0 else np.zeros_like(filled)


def by_noise_row(utilities_n2: np.ndarray, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
    """Weights of z and of z^2 (or z z') of each row of noise: u+ - u- and u+ + u- of a mirrored pair, else u twice."""
    if symmetric:
        return utilities_n2[:, 0] - utilities_n2[:, 1], utilities_n2.sum(axis=1)
    return utilities_n2.ravel(), utilities_n2.ravel()


SHAPINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "centred_ranks": centred_ranks,
    "nes": nes,
    "raw": raw,
    "standardised": standardised,
}
