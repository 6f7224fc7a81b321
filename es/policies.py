"""What the numbers of a flat vector mean: named knobs, each with a map from all of R to the values it may take.

The engine sees theta and perturbs it; the policy decodes it. theta = 0 is always the initial values, and a step of 1 in
theta is one `scale` in the knob's own terms (an e-fold for a positive knob). The maps are smooth, so constraints bend
no gradient and no candidate has to be thrown away. P candidates, K values of a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from data.errors import UserError


class Map(Protocol):
    @property
    def names(self) -> tuple[str, ...]: ...

    def decode(self, theta_PK: np.ndarray) -> np.ndarray:
        """The values, (P, K) float64, of theta (P, K)."""


@dataclass(frozen=True)
class Free:
    """Any number: initial + scale theta."""

    names: tuple[str, ...]
    initial: float | tuple[float, ...] = 0.0
    scale: float = 1.0

    def decode(self, theta_PK: np.ndarray) -> np.ndarray:
        return np.asarray(self.initial) + self.scale * theta_PK


@dataclass(frozen=True)
class Positive:
    """A positive number on a logarithmic scale: initial exp(scale theta)."""

    names: tuple[str, ...]
    initial: float | tuple[float, ...] = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not (np.asarray(self.initial) > 0).all():
            raise UserError(f"{', '.join(self.names)}: a positive knob starts above 0, not at {self.initial}")

    def decode(self, theta_PK: np.ndarray) -> np.ndarray:
        return np.asarray(self.initial) * np.exp(self.scale * theta_PK)


@dataclass(frozen=True)
class Box:
    """A number between low and high: a logistic curve through `initial`."""

    names: tuple[str, ...]
    low: float
    high: float
    initial: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.initial < self.high:
            raise UserError(f"{', '.join(self.names)}: {self.initial} is not between {self.low} and {self.high}")

    def decode(self, theta_PK: np.ndarray) -> np.ndarray:
        share = (self.initial - self.low) / (self.high - self.low)
        logit = np.log(share) - np.log1p(-share)
        # 1/(1 + exp(-x)), without overflow far out
        return self.low + (self.high - self.low) * np.exp(-np.logaddexp(0.0, -(logit + self.scale * theta_PK)))


@dataclass(frozen=True)
class Simplex:
    """Shares above 0 that sum to 1: softmax(log initial + scale theta)."""

    names: tuple[str, ...]
    initial: tuple[float, ...]
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not (np.asarray(self.initial) > 0).all() or abs(sum(self.initial) - 1) > 1e-9:
            raise UserError(f"{', '.join(self.names)}: shares must be above 0 and sum to 1, not {self.initial}")

    def decode(self, theta_PK: np.ndarray) -> np.ndarray:
        logits = np.log(np.asarray(self.initial)) + self.scale * theta_PK
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Policy:
    """Maps side by side: the flat vector is their parts in order."""

    maps: Sequence[Map]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for part in self.maps for name in part.names)

    @property
    def dimension(self) -> int:
        return len(self.names)

    def initial(self) -> np.ndarray:
        """theta of the initial values: 0."""
        return np.zeros(self.dimension, np.float32)

    def decode(self, theta_PD: np.ndarray) -> np.ndarray:
        """The values of P candidates, (P, D) float64, in the order of `names`."""
        parts, start = [], 0
        for part in self.maps:
            parts.append(part.decode(theta_PD[:, start : start + len(part.names)].astype(np.float64)))
            start += len(part.names)
        return np.concatenate(parts, axis=1)

    def values(self, theta_D: np.ndarray) -> dict[str, float]:
        """One theta by name."""
        return dict(zip(self.names, self.decode(theta_D[None, :])[0].tolist(), strict=True))
