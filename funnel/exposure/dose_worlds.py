"""Worlds of one continuous dose whose average response is known: VCNet's simulation and its IHDP setting [Nie, Ye,
Nicolae and Liu, ICLR 2021, s.5; their published generators].

Simulation, x uniform on [0, 1]^6:
    t = sigmoid( (10 sin max(x1,x2,x3) + max(x3,x4,x5)^3)/(1 + (x1+x5)^2) + sin(x3/2)(1 + exp(x4 - x3/2)) + x3^2
                 + 2 sin x4 + 2 x5 - 6.5 + N(0, .5) )
    y = cos(2 pi (t - 1/2)) (t^2 + 4 max(x1,x6)^3 sin(x4)/(1 + 2 x3^2)) + N(0, .5)
IHDP, 25 covariates of 747 children, each (x - min)/max; a = columns 4, 7..15 and b = columns 16..25 (from 1):
    t = sigmoid( 2 (x1/(1+x2) + max(x3,x5,x6)/(.2 + min(x3,x5,x6)) + tanh(5 (sum_b x/10 - mean_a)) - 2 + N(0, .5)) )
    y = sin(3 pi t)/(1.2 - t) (1.5 tanh(5 (sum_a x/10 - mean_a)) + .5 exp(.2 (x1 - x6))/(.1 + min(x2,x3,x5))) + N(0, .5)
mean_a is the mean of columns a in both lines and the scale divides by the maximum, as in the generators.
Shapes: R rows, F covariates, D doses.
"""

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import UserError

Response = Callable[[np.ndarray, np.ndarray], np.ndarray]
TRAINED_CHILDREN = 471
"""Of the 747, as in the published splits."""


@dataclass(frozen=True)
class DoseRows:
    """Rows with one dose in (0, 1)."""

    features_RF: np.ndarray
    dose_R: np.ndarray
    outcome_R: np.ndarray
    average_R: np.ndarray
    """The true mean outcome if everybody of `averaged` had this row's dose."""

    def __len__(self) -> int:
        return len(self.dose_R)

    def take(self, index: np.ndarray | slice) -> "DoseRows":
        return DoseRows(self.features_RF[index], self.dose_R[index], self.outcome_R[index], self.average_R[index])


def sigmoid(z: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-z)))


def simulated_dose(x_RF: np.ndarray) -> np.ndarray:
    """The mean of the dose's logit."""
    x1, x2, x3, x4, x5, _ = x_RF.T
    first = 10 * np.sin(np.maximum.reduce([x1, x2, x3])) + np.maximum.reduce([x3, x4, x5]) ** 3
    more = np.sin(0.5 * x3) * (1 + np.exp(x4 - 0.5 * x3)) + x3**2 + 2 * np.sin(x4) + 2 * x5 - 6.5
    return np.asarray(first / (1 + (x1 + x5) ** 2) + more)


def simulated_outcome(dose_R: np.ndarray, x_RF: np.ndarray) -> np.ndarray:
    """The mean outcome of these doses."""
    x1, _, x3, x4, _, x6 = x_RF.T
    size = dose_R**2 + 4 * np.maximum(x1, x6) ** 3 / (1 + 2 * x3**2) * np.sin(x4)
    return np.asarray(np.cos(2 * math.pi * (dose_R - 0.5)) * size)


def averages(dose_D: np.ndarray, x_RF: np.ndarray, outcome: Response) -> np.ndarray:
    """(D,): the mean outcome over the rows if all had each dose."""
    return np.array([outcome(np.full(len(x_RF), dose), x_RF).mean() for dose in dose_D])


def simulation(rows: int, seed: int, part: int = 0, noise: float = 0.5) -> DoseRows:
    """Rows of one part; the average is over these rows."""
    random = np.random.default_rng([seed, part, 2021])
    x_RF = random.random((rows, 6))
    dose_R = sigmoid(simulated_dose(x_RF) + 0.5 * random.standard_normal(rows))
    outcome_R = simulated_outcome(dose_R, x_RF) + noise * random.standard_normal(rows)
    if rows <= 2000:
        return DoseRows(x_RF, dose_R, outcome_R, averages(dose_R, x_RF, simulated_outcome))
    grid = np.linspace(0, 1, 1001)  # of many rows, between points .001 apart
    return DoseRows(x_RF, dose_R, outcome_R, np.interp(dose_R, grid, averages(grid, x_RF, simulated_outcome)))


def children(path: Path) -> np.ndarray:
    """(747, 25) scaled covariates of ihdp.csv. Raises UserError for what is no such file."""
    try:
        rows = list(csv.reader(path.read_text().replace("\r", "\n").splitlines()))
        x_RF = np.array([[float(value) for value in row[2:27]] for row in rows[1:] if row], np.float64)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: not the covariates of IHDP ({error})") from None
    if x_RF.ndim != 2 or x_RF.shape[1] != 25:
        raise UserError(f"{path}: not the covariates of IHDP: want 27 columns and a head, found {len(rows[0])}")
    return (x_RF - x_RF.min(axis=0)) / x_RF.max(axis=0)


GROUP_A, GROUP_B = [3, *range(6, 15)], list(range(15, 25))


def ihdp_outcome(x_all: np.ndarray) -> tuple[np.ndarray, Response]:
    """(mean of the dose's logit, the mean outcome as a function)."""
    mean_a = x_all[:, GROUP_A].mean()

    def tanh_of(x_RF: np.ndarray, group: list[int]) -> np.ndarray:
        return np.asarray(np.tanh(5 * (x_RF[:, group].sum(axis=1) / 10 - mean_a)))

    def outcome(dose_R: np.ndarray, x_RF: np.ndarray) -> np.ndarray:
        least = np.minimum.reduce([x_RF[:, 1], x_RF[:, 2], x_RF[:, 4]])
        size = 1.5 * tanh_of(x_RF, GROUP_A) + 0.5 * np.exp(0.2 * (x_RF[:, 0] - x_RF[:, 5])) / (0.1 + least)
        return np.asarray(np.sin(3 * math.pi * dose_R) / (1.2 - dose_R) * size)

    three = x_all[:, [2, 4, 5]]
    logit_R = x_all[:, 0] / (1 + x_all[:, 1]) + three.max(axis=1) / (0.2 + three.min(axis=1))
    return 2 * (logit_R + tanh_of(x_all, GROUP_B) - 2), outcome


def ihdp(path: Path, seed: int, split: int = 0) -> tuple[DoseRows, DoseRows]:
    """(train, test) of one draw of doses and outcomes and one split; the average is over all children."""
    x_RF = children(path)
    logit_R, outcome = ihdp_outcome(x_RF)
    random = np.random.default_rng([seed, 747])
    dose_R = sigmoid(logit_R + 2 * 0.5 * random.standard_normal(len(x_RF)))
    outcome_R = outcome(dose_R, x_RF) + 0.5 * random.standard_normal(len(x_RF))
    rows = DoseRows(x_RF, dose_R, outcome_R, averages(dose_R, x_RF, outcome))
    order = np.random.default_rng([seed, split, 748]).permutation(len(rows))
    return rows.take(order[:TRAINED_CHILDREN]), rows.take(order[TRAINED_CHILDREN:])
