"""Figures that follow from sums over units (requests, sessions), with 95% intervals by the Poisson bootstrap.

A unit belongs to a user (or to itself, where a log names none), and every user counts Poisson(1) times in a replicate.
What a unit adds to each of C cells is known at once, so all replicates are one sparse product a block of units, and a
figure is any function of the cells: a ratio of two of them, or an AUC from counts by score.

How often a user counts follows from (seed, user, replicate) alone: blocks may come in any order and a user's units may
lie in many, a part is read once, and two models that are judged on the same users can be paired replicate by replicate.
Shapes: U units of a block, E entries, C cells, B replicates; column 0 of 1 + B counts everybody once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from data.hashing import splitmix64
from funnel.figures.bootstrap import interval

MOST = 12
"""Nobody counts more often: Poisson(1) has 6e-11 of its mass above."""
CHANCE_K = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(MOST)])


@dataclass(frozen=True)
class Entries:
    """What units add to cells: `value_E` of unit `unit_E` to cell `cell_E` of slice `slice_E`."""

    unit_E: np.ndarray
    slice_E: np.ndarray
    cell_E: np.ndarray
    value_E: np.ndarray

    @classmethod
    def join(cls, parts: Sequence["Entries"]) -> "Entries":
        """All of them; `parts` holds at least one."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


def weights(user_U: np.ndarray, seed: int, replicates: int) -> np.ndarray:
    """float64_U,1+B: how often each user (a hash, uint64) counts in each replicate; 1 in column 0."""
    own_U, back_U = np.unique(user_U, return_inverse=True)
    salt_B = splitmix64(splitmix64(np.array([seed], np.uint64)) + np.arange(replicates, dtype=np.uint64))
    share_UB = (splitmix64(own_U[:, None] ^ salt_B) >> np.uint64(11)) * 2.0**-53
    weight_UB = np.searchsorted(CHANCE_K, share_UB, side="right").astype(np.float64)
    return np.concatenate([np.ones((len(own_U), 1)), weight_UB], axis=1)[back_U]


class UnitSums:
    """Sums of the cells of every slice, in every replicate."""

    def __init__(self, slices: int, cells: int, replicates: int) -> None:
        self.slices, self.cells = slices, cells
        self.sums_CB = np.zeros((slices * cells, 1 + replicates))

    def add(self, entries: Entries, weight_UB: np.ndarray) -> None:
        """Of a block of units, with the weights of their users."""
        cell_E = entries.slice_E.astype(np.int64) * self.cells + entries.cell_E
        shape = (len(self.sums_CB), len(weight_UB))
        sums_CU = scipy.sparse.csr_array((entries.value_E.astype(np.float64), (cell_E, entries.unit_E)), shape=shape)
        used = np.flatnonzero(np.diff(sums_CU.indptr))
        self.sums_CB[used] += sums_CU[used] @ weight_UB

    def of(self, number: int) -> np.ndarray:
        """(C, 1 + B): a slice's cells."""
        return self.sums_CB[number * self.cells : (number + 1) * self.cells]


def ratios(names: Sequence[str], sums_CB: np.ndarray) -> dict[str, np.ndarray]:
    """{name: value_B}: cells 2n and 2n + 1 are numerator and denominator of figure n; NaN where the latter is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        value_NB = sums_CB[0 : 2 * len(names) : 2] / sums_CB[1 : 2 * len(names) : 2]
    return dict(zip(names, value_NB, strict=True))


def with_intervals(
    values: Mapping[str, float], found: Mapping[str, np.ndarray], keep: dict[str, np.ndarray] | None = None
) -> dict[str, float]:
    """{"NAME.low", "NAME.high"} of those figures of `values` that are among `found`, which holds each in column 0 and
    its replicates behind. A value that was counted finer than `found` moves the interval. `keep` is given the
    replicates, moved alike."""
    result = {}
    for name, value_B in found.items():
        if name not in values:
            continue
        bounds = interval(values[name], float(value_B[0]), value_B[1:])
        if bounds is not None:
            result[f"{name}.low"], result[f"{name}.high"] = bounds
            if keep is not None:
                keep[name] = value_B[1:] + (values[name] - float(value_B[0]))
    return result
