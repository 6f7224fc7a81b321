"""A fitted outcome model q(x, t): a network over a user's features and the shares of all categories.

Two hidden layers of SiLU, AdamW with a rate that falls as a cosine, the weights of the step that predicts a seventh of
the rows best. On one thread, so that its bits do not depend on how many a machine has. Shapes: R rows, F features, K
categories, P pieces.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from data.errors import UserError
from funnel.exposure.shares import ShareRows

CHECKS = 25
HELD_OUT = 7
PIECE = 4096


@dataclass(frozen=True)
class OutcomeSettings:
    hidden: int = 96
    """Units of either layer."""
    steps: int = 2000
    """Steps of AdamW, at most; the best of 25 checks on rows set apart is kept."""
    batch: int = 512
    """Rows of a step."""
    learning_rate: float = 4e-3
    """At the first step; it falls to 0 as a cosine."""

    def __post_init__(self) -> None:
        for name in ("hidden", "steps", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 1")
        if not 0 < self.learning_rate < 1:
            raise UserError(f"learning_rate is {self.learning_rate}, must lie between 0 and 1")


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread within."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass
class OutcomeModel:
    """Weights as arrays: it travels to workers and is compared by its bytes."""

    weights: list[np.ndarray]
    centre_F: np.ndarray
    scale_F: np.ndarray
    centre_K: np.ndarray
    scale_K: np.ndarray
    level: float
    spread: float
    r2: float
    """On the rows set apart: of the outcome's variance, the share that is predicted; 0 where it would be less, and the
    model then gives the mean."""

    @classmethod
    def fit(cls, rows: ShareRows, settings: OutcomeSettings, seed: int) -> "OutcomeModel":
        if len(rows) < 2 * HELD_OUT:
            raise UserError(f"{rows.where}: {len(rows)} rows; an outcome model needs at least {2 * HELD_OUT}")
        with one_thread(), np.errstate(invalid="ignore"):
            centre_F, scale_F = np.nanmean(rows.features_RF, axis=0), np.nanstd(rows.features_RF, axis=0)
        plain = cls([], np.nan_to_num(centre_F), np.where(scale_F > 0, scale_F, 1.0), rows.shares_RK.mean(axis=0),
                    np.maximum(rows.shares_RK.std(axis=0), 1e-9), float(rows.outcome_R.mean()),
                    float(rows.outcome_R.std()) or 1.0, 0.0)  # fmt: skip
        input_RI = torch.cat([plain.users(rows.features_RF), plain.doses(rows.shares_RK)], 1)
        target_R = torch.from_numpy((rows.outcome_R - plain.level) / plain.spread).float()
        return plain.trained(input_RI, target_R, settings, seed)

    def trained(self, input_RI: Tensor, target_R: Tensor, settings: OutcomeSettings, seed: int) -> "OutcomeModel":
        generator = torch.Generator().manual_seed(seed)
        order_R = torch.randperm(len(target_R), generator=generator)
        valid, fit = order_R[: len(order_R) // HELD_OUT], order_R[len(order_R) // HELD_OUT :]
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            width = settings.hidden
            network = nn.Sequential(nn.Linear(input_RI.shape[1], width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                                    nn.Linear(width, 1))  # fmt: skip
            optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=1e-3)
            best, kept = math.inf, [each.detach().clone() for each in network.parameters()]
            every = max(1, settings.steps // CHECKS)
            for step in range(settings.steps):
                rate = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
                optimizer.param_groups[0]["lr"] = rate
                rows = fit[torch.randint(len(fit), (min(settings.batch, len(fit)),), generator=generator)]
                loss = functional.mse_loss(network(input_RI[rows]).squeeze(1), target_R[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if (step + 1) % every == 0:
                    with torch.no_grad():
                        error = float(functional.mse_loss(network(input_RI[valid]).squeeze(1), target_R[valid]))
                    if error < best:
                        best, kept = error, [each.detach().clone() for each in network.parameters()]
        variance = float(target_R[valid].var(unbiased=False)) or 1.0
        self.weights, self.r2 = [each.numpy() for each in kept], 1 - best / variance
        if self.r2 <= 0:  # worse than the mean: the mean it is, which favours no shares
            self.weights[-2], self.weights[-1], self.r2 = 0 * self.weights[-2], 0 * self.weights[-1], 0.0
        return self

    def users(self, features_RF: np.ndarray) -> Tensor:
        """Standardised features, missing ones at the mean."""
        return torch.from_numpy(np.nan_to_num((features_RF - self.centre_F) / self.scale_F).clip(-10, 10)).float()

    def doses(self, shares_RK: np.ndarray) -> Tensor:
        return torch.from_numpy((shares_RK - self.centre_K) / self.scale_K).float()

    def tensors(self) -> list[Tensor]:
        return [torch.tensor(each) for each in self.weights]

    def forward(self, user_RF: Tensor, dose_RK: Tensor, weights: list[Tensor]) -> Tensor:
        """(R,) outcomes of standardised inputs; gradients pass."""
        hidden = functional.silu(functional.linear(torch.cat([user_RF, dose_RK], 1), weights[0], weights[1]))
        hidden = functional.silu(functional.linear(hidden, weights[2], weights[3]))
        return functional.linear(hidden, weights[4], weights[5]).squeeze(1) * self.spread + self.level

    def predict(self, features_RF: np.ndarray, shares_RK: np.ndarray) -> np.ndarray:
        """(R,) float64."""
        found, weights = [], self.tensors()
        with one_thread(), torch.inference_mode():
            for begin in range(0, max(len(features_RF), 1), PIECE):
                piece = slice(begin, begin + PIECE)
                found.append(self.forward(self.users(features_RF[piece]), self.doses(shares_RK[piece]), weights))
            return torch.cat(found).double().numpy()
