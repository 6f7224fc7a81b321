"""What a policy brings, as the difference that it makes to one world: days of a simulated platform, lived twice.

An episode is a world of a seed: some days under the control policy (the platform learns who is who), then some days in
which it lives twice, once on under control and once under the policy in question, with common random numbers. The
difference has a hundredth of the variance that two worlds' have. Every figure is of the days after the first `settle`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import t as student

from data.errors import UserError
from funnel.platform.designs import metrics
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.platform.world import World, new_world

KEPT_WORLDS = 64
"""Worlds whose first days are kept in memory; of 1,000 users each has about 2 MB."""
Figures = Mapping[str, float]


@dataclass(frozen=True)
class EpisodeSettings:
    """How long a world lives, and in which of its days a policy counts."""

    first: int = 6
    """Days under the control policy before the policy begins."""
    days: int = 10
    """Days that the policy runs."""
    settle: int = 3
    """Of those, the first ones, which are not counted."""

    def __post_init__(self) -> None:
        if self.first < 1 or self.days < 1:
            raise UserError(f"first is {self.first} and days {self.days}: both must be at least 1")
        if not 0 <= self.settle < self.days:
            raise UserError(f"settle is {self.settle}, must lie in 0..{self.days - 1}: days is {self.days}")


@dataclass
class Episodes:
    """Worlds by number, each begun once. Equal bits whoever runs them and in whatever order."""

    world: PlatformSettings
    settings: EpisodeSettings
    control: Mapping[str, Any] = field(default_factory=dict)
    """The control policy; {}: the plain platform without a fresh slot."""
    begun: dict[int, World] = field(default_factory=dict)
    known: dict[int, Figures] = field(default_factory=dict)

    def policies(self, tree: Mapping[str, Any], number: int) -> Policies:
        return Policies.of(tree, self.world, number)

    def begin(self, number: int) -> World:
        """The world at the end of its first days."""
        if number not in self.begun:
            world = new_world(self.world, number, [self.policies(self.control, number)])
            world.run(self.settings.first)
            if len(self.begun) >= KEPT_WORLDS:
                del self.begun[next(iter(self.begun))]
            self.begun[number] = world
        return self.begun[number]

    def lived(self, policies: Policies, number: int) -> World:
        """The world after the policies' days, of which its ledger tells."""
        world = self.begin(number).copy([policies])
        world.run(self.settings.days)
        return world

    def run(self, tree: Mapping[str, Any], number: int) -> Figures:
        """Figures of a world under these policies."""
        world = self.lived(self.policies(tree, number), number)
        return measured(world, self.settings.settle)

    def base(self, number: int) -> Figures:
        """Figures of the world under control."""
        if number not in self.known:
            self.known[number] = self.run(self.control, number)
        return self.known[number]

    def changes(self, tree: Mapping[str, Any], number: int) -> Figures:
        """By how many percent each figure is above the control's."""
        return changes(self.run(tree, number), self.base(number))


def measured(world: World, first: int, arm: int = 0, last: int | None = None) -> dict[str, float]:
    """Metrics of the ledger's days from `first` on (up to `last`, if given): funnel/platform/figures.py."""
    assert len(world.ledger.table()) > first
    return metrics(world.ledger.table()[first:last, :, arm])


def changes(figures: Figures, base: Figures) -> dict[str, float]:
    """100 (figure - base) / base; a base of 0, which only a very small world has, counts as 1."""
    return {name: 100 * (figures[name] - value) / (value or 1.0) for name, value in base.items()}


@dataclass(frozen=True)
class Interval:
    """A mean over worlds with its 95% interval by Student's t."""

    mean: float
    low: float
    high: float
    worlds: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval is off zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """Of the mean of independent values; infinite for a single one."""
    value_W = np.asarray(list(values), np.float64)
    mean, count = float(value_W.mean()), len(value_W)
    if count < 2:
        return Interval(mean, -np.inf, np.inf, count)
    half = float(student.ppf((1 + level) / 2, count - 1) * value_W.std(ddof=1) / np.sqrt(count))
    return Interval(mean, mean - half, mean + half, count)
