"""Least squares from sums over blocks of rows: memory does not grow with the rows, parts of rows add up.

For a design d_r and a residual y_r the sums G = sum d d', c = sum d y, yy = sum y^2 and n are enough for the
coefficients at any penalty, on any subset of the columns, and for the loss of other coefficients on these rows. A
second pass gives the middle of the heteroskedasticity-robust covariance [White 1980, HC1; by cluster: Liang and Zeger
1986]:

    V = H^-1 (sum_g s_g s_g') H^-1 n / (n - Q),   s_g = sum over rows of g of d_r (y_r - d_r theta),   H = G + penalty

Shapes: R rows, Q columns of the design, B rows of a block.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

BLOCK_NUMBERS = 1 << 22
"""Numbers in the design of a block: 32 MiB."""
RIDGE = 1e-9
"""Share of the mean diagonal that is added anyway, so that what is not identified stays 0."""


@dataclass
class Sums:
    gram_QQ: np.ndarray
    cross_Q: np.ndarray
    square: float
    rows: int

    @classmethod
    def none(cls, columns: int) -> "Sums":
        return cls(np.zeros((columns, columns)), np.zeros(columns), 0.0, 0)

    @classmethod
    def over(cls, parts: Sequence["Sums"]) -> "Sums":
        """Of all parts together, in their order."""
        total = cls.none(len(parts[0].cross_Q))
        for part in parts:
            total.add(part)
        return total

    def add(self, more: "Sums", sign: int = 1) -> None:
        self.gram_QQ = self.gram_QQ + sign * more.gram_QQ
        self.cross_Q = self.cross_Q + sign * more.cross_Q
        self.square += sign * more.square
        self.rows += sign * more.rows

    def count(self, design_BQ: np.ndarray, value_B: np.ndarray) -> None:
        self.gram_QQ += design_BQ.T @ design_BQ
        self.cross_Q += design_BQ.T @ value_B
        self.square += float(value_B @ value_B)
        self.rows += len(value_B)

    def some(self, columns_N: np.ndarray) -> "Sums":
        """Of these columns of the design alone."""
        return Sums(self.gram_QQ[np.ix_(columns_N, columns_N)], self.cross_Q[columns_N], self.square, self.rows)

    def penalised(self, penalty: float) -> np.ndarray:
        """H: `penalty` counts as so many rows of the average size of each column."""
        diagonal_Q = np.diag(self.gram_QQ)
        mean = float(diagonal_Q.mean()) if len(diagonal_Q) else 0.0
        return self.gram_QQ + np.diag(penalty * diagonal_Q / max(self.rows, 1) + RIDGE * max(mean, 1e-300))

    def solve(self, penalty: float = 0.0) -> np.ndarray:
        """Coefficients (Q,)."""
        return np.asarray(np.linalg.solve(self.penalised(penalty), self.cross_Q))

    def loss(self, theta_Q: np.ndarray) -> float:
        """Mean squared residual of these coefficients on these rows."""
        total = self.square - 2 * float(self.cross_Q @ theta_Q) + float(theta_Q @ self.gram_QQ @ theta_Q)
        return total / max(self.rows, 1)


def blocks(rows: int, columns: int) -> list[slice]:
    """Slices of rows whose design of so many columns takes little memory."""
    size = max(BLOCK_NUMBERS // max(columns, 1), 256)
    return [slice(begin, min(begin + size, rows)) for begin in range(0, rows, size)]


def sums(rows: int, columns: int, block: Callable[[slice], tuple[np.ndarray, np.ndarray]]) -> Sums:
    """Sums over all rows; `block` gives (design_BQ, value_B) of a slice."""
    total = Sums.none(columns)
    for piece in blocks(rows, columns):
        total.count(*block(piece))
    return total


def scores(
    theta_Q: np.ndarray,
    rows: int,
    block: Callable[[slice], tuple[np.ndarray, np.ndarray]],
    cluster_R: np.ndarray,
) -> np.ndarray:
    """sum_g s_g s_g', (Q, Q). Rows of a cluster must lie together (`cluster_R` sorted); empty: each row is its own."""
    middle_QQ = np.zeros((len(theta_Q), len(theta_Q)))
    open_Q, last = np.zeros(len(theta_Q)), None
    for piece in blocks(rows, len(theta_Q)):
        design_BQ, value_B = block(piece)
        score_BQ = design_BQ * (value_B - design_BQ @ theta_Q)[:, None]
        if len(cluster_R):
            own_B = cluster_R[piece]
            starts_G = np.flatnonzero(np.concatenate([[True], own_B[1:] != own_B[:-1]]))
            score_BQ = np.add.reduceat(score_BQ, starts_G, 0)
            if last is not None and own_B[0] == last:
                score_BQ[0] += open_Q
            elif last is not None:
                middle_QQ += np.outer(open_Q, open_Q)
            # The last cluster may go on in the next block.
            open_Q, last, score_BQ = score_BQ[-1], own_B[-1], score_BQ[:-1]
        middle_QQ += score_BQ.T @ score_BQ
    return middle_QQ + np.outer(open_Q, open_Q)


def covariance(total: Sums, middle_QQ: np.ndarray, penalty: float = 0.0) -> np.ndarray:
    """V, (Q, Q)."""
    bread_QQ = np.linalg.inv(total.penalised(penalty))
    columns = len(total.cross_Q)
    return np.asarray(bread_QQ @ middle_QQ @ bread_QQ) * total.rows / max(total.rows - columns, 1)
