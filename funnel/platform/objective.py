"""A policy's numbers as an objective of evolution strategies: each evaluation runs a world.

    python -m jobs.evolve --objective funnel.platform.objective:WorldFusion --out runs/fusion --generations 10

The smallest example, the five weights of the plain fusion; systems tune their own policies (funnel/tunable.py). Both
candidates of an antithetic pair have the same seed and so the same world: what differs is what the weights do.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from data.errors import UserError
from data.nearest import correction
from funnel.platform.designs import metrics
from funnel.platform.figures import METRICS
from funnel.platform.population import draw_population
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.platform.world import World
from funnel.settings import nested

NUMBERS = ("fusion.good", "fusion.purchase", "fusion.popularity", "fusion.freshness", "fusion.noise")
START = np.array([1.0, 0.0, 0.5, 0.2, 0.5], np.float32)


@dataclass
class WorldFusion:
    """A metric of a world under fusion weights, divided by 1000 (dwell: kiloseconds)."""

    batch_pairs: ClassVar[int] = 1
    users: int = 500
    """Users of a world; items, providers and uploads are in the proportion of the platform's defaults."""
    days: int = 4
    """Days of a world; the first half is not counted."""
    metric: str = "dwell"
    """Figure that is maximised (docs/platform.md)."""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise UserError(f"no metric {self.metric!r}; {correction(self.metric, METRICS, 'there are')}")
        if self.users < 10 or self.days < 2:
            raise UserError("a world needs at least 10 users and 2 days")

    def initial(self) -> np.ndarray:
        return START

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        return np.array([self.value(theta, int(seed)) for theta, seed in zip(theta_PD, seeds_P, strict=True)])

    def value(self, theta_D: np.ndarray, seed: int) -> float:
        share = self.users / PlatformSettings.users
        settings = PlatformSettings(
            users=self.users,
            items=max(round(PlatformSettings.items * share), 100),
            providers=max(round(PlatformSettings.providers * share), 10),
            uploads=PlatformSettings.uploads * share,
        )
        tree = nested({name: float(value) for name, value in zip(NUMBERS, theta_D, strict=True)})
        world = World(draw_population(settings, seed), [Policies.of(tree, settings, seed)])
        world.run(self.days)
        return metrics(world.ledger.table()[self.days // 2 :, :, 0])[self.metric] / 1000

    def describe(self) -> dict[str, Any]:
        return {"objective": "world_fusion", "users": self.users, "days": self.days, "metric": self.metric}
