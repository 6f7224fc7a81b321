"""Arithmetic that gives the same bits on every machine, for any size of block and any number of threads.

Elementwise +, -, *, / of IEEE floats are the same everywhere; sums in another order and exp, log are not. So vectors
lie on a grid of 1/128 and are small enough for their inner products to be exact in float32, in whatever order BLAS
adds; and exp, log and quantiles are looked up in tables that are rounded once. Shapes: R rows, C columns, D dimensions.
"""

import math
from functools import cache

import numpy as np
from scipy.special import ndtri

from data.errors import UserError

STEP = 2.0**-7
"""Grid of vectors; their entries lie within +-4, D <= 32: |inner product| < 2^9, a multiple of 2^-14."""
LEVELS = 2**16
"""A probability is a whole number of these; a draw is a number below it."""
LOGIT_STEPS, LOGIT_MOST = 256, 16


def on_grid(x: np.ndarray, step: float = STEP) -> np.ndarray:
    """The nearest multiples of `step` as float32; within +-4 if it is the grid of vectors."""
    rounded = np.rint(np.asarray(x, np.float64) / step) * step
    return np.clip(rounded, -4 + STEP, 4 - STEP).astype(np.float32) if step == STEP else rounded.astype(np.float32)


def inner(vector_ID: np.ndarray, item_RC: np.ndarray, other_RD: np.ndarray) -> np.ndarray:
    """float32_RC: inner products of each row's vector with the vectors of its items. Exact for vectors on the grid."""
    gathered_RCD = vector_ID.take(item_RC, axis=0, mode="clip")
    return np.matmul(gathered_RCD, other_RD[:, :, None])[:, :, 0]


def top(score_RC: np.ndarray, k: int) -> np.ndarray:
    """int64_Rk: the columns of the k largest scores of each row, from left to right; of equal scores the leftmost.

    -inf may stand for "not there"; such columns are taken only where a row has fewer than k others.
    """
    rows, columns = score_RC.shape
    if k >= columns:
        return np.broadcast_to(np.arange(columns), (rows, columns))
    upper_Rk = np.partition(score_RC, columns - k, axis=1)[:, columns - k :]
    # NaN is sorted above all numbers.
    if np.isnan(upper_Rk).any():
        raise UserError("a stage scored an item NaN; scores are numbers, or -inf for what must not be taken")
    border_R = upper_Rk[:, 0]
    taken_RC = score_RC >= border_R[:, None]
    count_R = np.count_nonzero(taken_RC, axis=1)
    for row in np.flatnonzero(count_R > k):
        best = np.argsort(-score_RC[row], kind="stable")[:k]
        taken_RC[row] = False
        taken_RC[row, best] = True
    return np.nonzero(taken_RC)[1].reshape(rows, k)


def ranked(score_RC: np.ndarray, k: int) -> np.ndarray:
    """int64_Rk: as `top`, best first."""
    column_Rk = top(score_RC, k)
    order_Rk = np.argsort(-np.take_along_axis(score_RC, column_Rk, 1), axis=1, kind="stable")
    return np.take_along_axis(column_Rk, order_Rk, 1)


@cache
def _sigmoid_levels() -> np.ndarray:
    count = LOGIT_MOST * LOGIT_STEPS
    points = (place / LOGIT_STEPS for place in range(-count, count + 1))
    return np.array([round(LEVELS / (1 + math.exp(-x))) for x in points], np.uint32)


def chance(logit: np.ndarray) -> np.ndarray:
    """uint32: sigmoid of the logits in units of 1/LEVELS, on a grid of 1/256 of the logit, clipped at +-16."""
    place = logit * np.float32(LOGIT_STEPS)
    place += np.float32(LOGIT_MOST * LOGIT_STEPS + 0.5)
    np.maximum(place, 0, out=place)
    # Truncation of x + 1/2 is the nearest step; the last one stands for all above.
    return _sigmoid_levels().take(place.astype(np.int32), mode="clip")


def _middles() -> np.ndarray:
    return (np.arange(LEVELS) + 0.5) / LEVELS


@cache
def gumbel_table() -> np.ndarray:
    """Quantiles of Gumbel's law at the middles of LEVELS equal shares, on a grid of 1/1024."""
    return on_grid(-np.log(-np.log(_middles())), 2.0**-10)


@cache
def normal_table() -> np.ndarray:
    """Quantiles of the standard normal law at the middles of LEVELS equal shares, on a grid of 1/1024."""
    return on_grid(ndtri(_middles()), 2.0**-10)


@cache
def exp_table() -> np.ndarray:
    """exp(k / 64) for k = -1024 .. 1023, on a grid of 1/16: seconds from their logarithms."""
    return on_grid(np.exp(np.arange(-1024, 1024) / 64), 2.0**-4)


def exponential(x: np.ndarray) -> np.ndarray:
    """exp of -16 .. 15.9 in steps of 1/64 of x, on a grid of 1/16."""
    return exp_table().take(np.clip(np.rint(x * np.float32(64)), -1024, 1023).astype(np.int32) + 1024)


def log_counts(count: np.ndarray) -> np.ndarray:
    """float32: log(1 + count) on a grid of 1/1024."""
    return on_grid(np.log1p(count.astype(np.float64)), 2.0**-10)
