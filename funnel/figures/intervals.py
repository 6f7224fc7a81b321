"""Intervals of means, of ratios of sums and of differences of two, that hold for rare events and heavy tails.

An estimate is a sum over U independent units (rounds, users); e_u is unit u's part of its error, and the parts add up
to 0 at the estimate: e_u = (n_u - v d_u) / sum d for a ratio v = sum n / sum d, and for a difference of two ratios of
the same units the difference of their parts. A percentile or normal interval takes the units that were seen for all
there are: without a rewarded unit it is [0, 0]. Here the parts above 0, P = sum e+, and those below 0, N = sum e-, are
two weighted sums of Poisson counts, and each has Fay and Feuer's gamma limits (Statistics in Medicine 16, 1997), with
Q2 = sum of squares, G_a(m, s) the a-quantile of the gamma distribution of mean m and variance s:

    l(P) = G_a(P, Q2),    u(P) = G_1-a(P + M, Q2 + M^2),    a = 1.25% for a 95% interval (SPARE)

M is the largest part that one more unit may have, seen or not. The limits of the difference P - N are joined as in
MOVER (Zou and Donner, Statistics in Medicine 27, 2008):

    high - v = sqrt((u(P) - P)^2 + (N - l(N))^2),    v - low = sqrt((u(N) - N)^2 + (P - l(P))^2)

For 0 of m equal rounds that is [0, 4.4/m], Clopper and Pearson's limit; for many units it is the normal interval. Where
values have a heavy tail the largest one seen is too small an M: it is divided by 1 - xi, xi the tail's index by Hill's
estimate. benchmarks/evaluation/null_worlds.py counts how often the intervals cover.
"""

import math

import numpy as np
from scipy.special import gammaincinv

LEVEL = 0.95
SPARE = 0.5  # share of the misses that LEVEL allows: the limits are approximate, the other half is for what they miss
HEAVIEST = 0.9  # tail index at most: the largest part seen counts ten times then


def interval(
    value: float, part_U: np.ndarray, up: float = 0.0, down: float = 0.0, tail: float = 0.0, level: float = LEVEL
) -> tuple[float, float]:
    """Both ends of the interval around `value`, whose error has these parts.

    `up`, `down`: the largest part above and below 0 that a unit not seen may have, both at least 0; what was seen
    counts anyway. `tail`: the tail index of what the parts are made of (`tail_index`).
    """
    stretch = 1 / (1 - min(tail, HEAVIEST))
    above_U, below_U = np.maximum(part_U, 0), np.maximum(-part_U, 0)
    most_above = stretch * max(up, float(above_U.max(initial=0)))
    most_below = stretch * max(down, float(below_U.max(initial=0)))
    above_low, above, above_high = _limits(above_U, most_above, level)
    below_low, below, below_high = _limits(below_U, most_below, level)
    low = value - math.hypot(below_high - below, above - above_low)
    return low, value + math.hypot(above_high - above, below - below_low)


def _limits(part_U: np.ndarray, most: float, level: float) -> tuple[float, float, float]:
    """Fay and Feuer's limits of a weighted sum of Poisson counts, and the sum between them."""
    total, squares = float(np.add.reduce(part_U)), float(np.add.reduce(part_U * part_U))
    tail = SPARE * (1 - level) / 2
    return _gamma(total, squares, tail), total, _gamma(total + most, squares + most * most, 1 - tail)


def _gamma(mean: float, variance: float, share: float) -> float:
    """Quantile of the gamma distribution with that mean and variance; 0 where both are."""
    if mean <= 0 or variance <= 0:
        return 0.0
    return variance / mean * float(gammaincinv(mean * mean / variance, share))


def ratio_parts(numerator_U: np.ndarray, denominator_U: np.ndarray) -> tuple[float, np.ndarray]:
    """The ratio of the sums and each unit's part of its error. The denominators' sum must be above 0."""
    total = float(np.add.reduce(denominator_U))
    value = float(np.add.reduce(numerator_U)) / total
    return value, (numerator_U - value * denominator_U) / total


def tail_index(values_U: np.ndarray) -> float:
    """Hill's estimate (Annals of Statistics 3, 1975) from the largest sqrt(n) of the n absolute values above 0.

    0 for values that are all alike, 1/alpha for Pareto's law; from 1/2 the variance is infinite.
    """
    sizes = np.sort(np.abs(values_U[values_U != 0]))[::-1]
    if len(sizes) < 3:
        return 0.0
    top = min(max(math.ceil(math.sqrt(len(sizes))), 2), len(sizes) - 1)
    return float(np.mean(np.log(sizes[:top] / sizes[top])))


def effective_size(weight_U: np.ndarray) -> float:
    """Kish's (sum w)^2 / sum w^2: how many equally weighted units carry the same information."""
    square = float(np.add.reduce(weight_U * weight_U))
    return float(np.add.reduce(weight_U)) ** 2 / square if square > 0 else 0.0
