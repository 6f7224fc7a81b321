"""A policy on the simplex: shares softmax(log start + g_theta(x)), g linear or a small network of tanh units.

theta = 0 of the last layer is the start, the log's mean shares, for everybody. Shapes: C candidates, P parameters (of
one theta), U users, F features, H hidden units, K categories.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.errors import UserError
from funnel.exposure.outcome import one_thread

SMALLEST = 1e-3
"""What a start is raised to: a category nobody saw could never be raised from 0."""


@dataclass(frozen=True)
class SharePolicy:
    features: int
    categories: tuple[str, ...]
    start_K: tuple[float, ...]
    hidden: int
    """Units; 0: linear."""

    def __post_init__(self) -> None:
        if self.hidden < 0:
            raise UserError(f"hidden is {self.hidden}, must be at least 0")

    @classmethod
    def of(cls, features: int, categories: tuple[str, ...], mean_K: np.ndarray, hidden: int) -> "SharePolicy":
        start_K = np.maximum(mean_K, SMALLEST)
        return cls(features, categories, tuple((start_K / start_K.sum()).tolist()), hidden)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(inputs + 1, outputs) of each layer; the last row of a layer is its bias."""
        categories = len(self.categories)
        if not self.hidden:
            return ((self.features + 1, categories),)
        return ((self.features + 1, self.hidden), (self.hidden + 1, categories))

    @property
    def dimension(self) -> int:
        return sum(rows * columns for rows, columns in self.sizes)

    def layers(self, theta_P: np.ndarray) -> list[np.ndarray]:
        found, begin = [], 0
        for rows, columns in self.sizes:
            found.append(theta_P[begin : begin + rows * columns].reshape(rows, columns))
            begin += rows * columns
        return found

    def initial(self, seed: int = 0) -> np.ndarray:
        """theta of the start: hidden units see random directions, the last layer is 0."""
        theta_P = np.zeros(self.dimension, np.float32)
        if self.hidden:
            first = self.layers(theta_P)[0]
            first[:-1] = np.random.default_rng([seed, 318]).standard_normal((self.features, self.hidden))
            first[:-1] /= np.sqrt(self.features)
        return theta_P

    def shares(self, theta_P: np.ndarray, standard_UF: np.ndarray) -> np.ndarray:
        """(U, K) of standardised features, float64."""
        theta_1P = torch.from_numpy(theta_P.astype(np.float64))[None]
        with one_thread(), torch.inference_mode():
            return self.of_candidates(theta_1P, torch.from_numpy(standard_UF.astype(np.float64))[None])[0].numpy()

    def of_candidates(self, theta_CP: Tensor, standard_CUF: Tensor) -> Tensor:
        """(C, U, K): what each candidate gives its own users, all candidates in one product a layer."""
        value_CIU, begin = standard_CUF.transpose(1, 2), 0  # users last: softmax and tanh over long rows are far faster
        for number, (rows, columns) in enumerate(self.sizes):
            layer_CIO = theta_CP[:, begin : begin + rows * columns].view(-1, rows, columns)
            begin += rows * columns
            weight_COI, bias_CO1 = layer_CIO[:, :-1].transpose(1, 2), layer_CIO[:, -1, :, None]
            value_CIU = torch.baddbmm(bias_CO1, weight_COI, value_CIU)
            if number < len(self.sizes) - 1:
                value_CIU = (2 * value_CIU).sigmoid() * 2 - 1  # tanh
        start_K1 = torch.tensor(self.start_K, dtype=value_CIU.dtype).log()[:, None]
        return (value_CIU + start_K1).softmax(1).transpose(1, 2)
