"""xNES (Glasmachers, Schaul, Sun, Wierstra, Schmidhuber 2010): natural evolution strategies with a full covariance.

z standard normal, candidates theta + A z, u their utilities (they sum to 0), maximised:

    theta <- theta + eta A sum_i u_i z_i               A <- A exp(eta_sigma/2 sum_i u_i (z_i z_i' - I))

eta = 1 and eta_sigma = 3/5 (3 + ln d)/(d sqrt d) unless the settings say otherwise; with one rate for shape and size
this is the paper's update of sigma and B = A/sigma. Mirrored: z and -z, utilities of both. Candidates are explicit.

For up to a few hundred parameters: d^2 numbers, and some ten products of d x d matrices a generation. Products are
summed in one order by einsum (BLAS would make the bits follow its threads), so a resumed run goes on to the bit.

D parameters, N rows of noise.
"""

import math

import numpy as np

from data.errors import UserError
from es.algorithms.base import Proposal, Step, describe_step
from es.config import ESConfig
from es.noise import Noise
from es.optimizers import norm
from es.shaping import SHAPINGS, by_noise_row

LARGEST = 300  # parameters; beyond, a generation takes most of a second
PRECISION = 1e-17  # of the series of exp: the first term left out is smaller


class XNES:
    """theta (float32), A (D, D) float64, and the number of generations behind them."""

    def __init__(self, config: ESConfig, theta_D: np.ndarray, noise: Noise) -> None:
        dimension = len(theta_D)
        if dimension > LARGEST:
            raise UserError(
                f"xnes keeps a {dimension:,} x {dimension:,} matrix: it is for at most {LARGEST} parameters "
                "(snes adapts a sigma per coordinate)"
            )
        self.config, self.noise = config, noise
        self.theta_D = np.array(theta_D, np.float32)
        self.root_DD = config.sigma * np.eye(dimension)
        self.rate = config.sigma_learning_rate or 0.6 * (3 + math.log(dimension)) / (dimension * math.sqrt(dimension))
        self.generation = 0

    def _rows(self) -> np.ndarray:
        """The generation's noise, (N, D) float64: a row per pair where mirrored, else a row per candidate."""
        rows = self.config.pairs * self.config.rows_per_pair
        z_ND = np.empty((rows, len(self.theta_D)), np.float32)
        for start in range(0, rows, self.noise.run_rows):
            stop = min(start + self.noise.run_rows, rows)
            self.noise.write(self.generation, range(start, stop), 1.0, z_ND[start:stop])
        return z_ND.astype(np.float64)

    def ask(self) -> Proposal:
        step_ND = product(self._rows(), self.root_DD.T)
        if self.config.symmetric:
            step_ND = np.stack([step_ND, -step_ND], axis=1).reshape(-1, step_ND.shape[1])
        candidates_PD = (self.theta_D + step_ND).astype(np.float32)
        return Proposal(self.generation, self.theta_D, self._sigma(), False, candidates_PD)

    def tell(self, returns_n2: np.ndarray) -> Step:
        assert returns_n2.shape == (self.config.pairs, 2), returns_n2.shape
        utilities_n2 = SHAPINGS[self.config.utilities](returns_n2)
        weights_N, square_weights_N = by_noise_row(utilities_n2, self.config.symmetric)
        z_ND = self._rows()
        natural_D = np.add.reduce(weights_N[:, None] * z_ND, axis=0)
        curve_DD = product((square_weights_N[:, None] * z_ND).T, z_ND)
        curve_DD -= np.add.reduce(square_weights_N) * np.eye(len(natural_D))
        gradient_D = np.add.reduce(self.root_DD * natural_D, axis=1)
        before_D = self.theta_D
        self.theta_D = (before_D + self.config.step_size * gradient_D).astype(np.float32)
        self.root_DD = product(self.root_DD, exponential(self.rate / 2 * curve_DD))
        self.generation += 1
        return describe_step(before_D, self.theta_D, gradient_D.astype(np.float32), self._sigma())

    def _sigma(self) -> float:
        """The root of the mean variance of a coordinate."""
        return norm(self.root_DD.ravel()) / math.sqrt(len(self.root_DD))

    def state(self) -> dict[str, np.ndarray]:
        return {
            "theta": self.theta_D,
            "generation": np.asarray([self.generation], np.int64),
            "root": self.root_DD,
        }

    def load(self, state: dict[str, np.ndarray]) -> None:
        self.theta_D, self.root_DD, self.generation = state["theta"], state["root"], int(state["generation"][0])


def product(a_MK: np.ndarray, b_KN: np.ndarray) -> np.ndarray:
    """The matrix product, summed in the order of K whatever the machine's threads."""
    total_MN = np.zeros((a_MK.shape[0], b_KN.shape[1]))
    return np.einsum("mk,kn->mn", a_MK, np.ascontiguousarray(b_KN), out=total_MN)


def exponential(m_DD: np.ndarray) -> np.ndarray:
    """exp of a square matrix: the series of m / 2^s, |m / 2^s| at most 1/2, squared s times; small m need few terms."""
    size = float(np.abs(m_DD).sum(axis=1).max())
    assert math.isfinite(size)
    halvings = max(0, math.ceil(math.log2(2 * size))) if size > 0 else 0
    scaled_DD, one_DD, size = m_DD / 2.0**halvings, np.eye(len(m_DD)), size / 2.0**halvings
    terms = next(n for n in range(1, 16) if size ** (n + 1) / math.factorial(n + 1) < PRECISION)
    sum_DD = one_DD
    for term in range(terms, 0, -1):
        sum_DD = one_DD + product(scaled_DD, sum_DD) / term
    for _ in range(halvings):
        sum_DD = product(sum_DD, sum_DD)
    return sum_DD
