"""Re-ranking: which item comes next, item by item, while a user looks down the page. The plain one keeps the order."""

from dataclasses import dataclass

import numpy as np

from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policy, Step
from funnel.platform.view import Requests, View


@dataclass(frozen=True)
class AsRankedSettings:
    pass


class AsRanked(Policy):
    settings_type = AsRankedSettings

    def __init__(self, settings: AsRankedSettings, world: PlatformSettings, seed: int) -> None:
        super().__init__(settings, world, seed)
        self.candidates = world.slots

    def choose(self, requests: Requests, step: Step, view: View) -> np.ndarray:
        return np.full(len(requests), step.place)
