"""The fresh slot: none, and one that shows any fresh item at random (what funnel/fresh/ has to beat).

A slot is asked in three steps (stages.py): which requests want one, where on the page it stands, and what it nominates.
"""

from dataclasses import dataclass

import numpy as np

from data.errors import UserError
from funnel.platform.draws import key, keys, uniforms
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policy
from funnel.platform.view import NOBODY, Requests, View

WANTED, PLACE, NOMINATED = 21, 22, 23
"""First words of the addresses of a slot's draws."""
MOST_NOMINEES = 10_000
"""Of a request: each has a score, a few hundred requests at a time."""


@dataclass(frozen=True)
class NoSlotSettings:
    pass


class NoSlot(Policy):
    settings_type = NoSlotSettings
    slots = 0

    def wanted(self, requests: Requests, view: View) -> np.ndarray:
        return np.zeros(len(requests), bool)

    def place(self, requests: Requests, view: View) -> np.ndarray:
        return np.zeros(len(requests), np.int64)

    def nominate(self, requests: Requests, view: View) -> np.ndarray:
        return np.full((len(requests), 1), NOBODY)


@dataclass(frozen=True)
class SlotSettings:
    """When and where a page has a fresh slot; systems that fill it in other ways share these."""

    rate: float = 0.2
    """Share of requests that have a fresh slot."""
    place: int = -1
    """Its place on the page, 0 the first; -1: any, drawn for each request (a floating slot)."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise UserError(f"rate is {self.rate}, must lie in 0..1")


class Slot(Policy):
    """Which requests have the slot, and where: what all slots share."""

    slots = 1

    def __init__(self, settings: SlotSettings, world: PlatformSettings, seed: int) -> None:
        super().__init__(settings, world, seed)
        if not -1 <= settings.place < world.slots:
            raise UserError(f"place is {settings.place}, must lie in -1..{world.slots - 1}: a page has {world.slots}")

    def wanted(self, requests: Requests, view: View) -> np.ndarray:
        rate: float = self.settings.rate
        return uniforms(key(0, WANTED), requests.key_R) < rate

    def place(self, requests: Requests, view: View) -> np.ndarray:
        dedicated: int = self.settings.place
        if dedicated >= 0:
            return np.full(len(requests), dedicated)
        return (uniforms(key(0, PLACE), requests.key_R) * self.world.slots).astype(np.int64)


@dataclass(frozen=True)
class RandomSlotSettings(SlotSettings):
    nominees: int = 10
    """Fresh items drawn for a request; the main ranker takes the best of them."""
    graduation: int = 50
    """An item leaves once it has had so many positive interactions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.nominees <= MOST_NOMINEES:
            raise UserError(f"nominees is {self.nominees}, must lie in 1..{MOST_NOMINEES}")
        if self.graduation < 1:
            raise UserError(f"graduation is {self.graduation}, must be at least 1")


class RandomSlot(Slot):
    """Any fresh item that has not graduated."""

    settings_type = RandomSlotSettings

    def nominate(self, requests: Requests, view: View) -> np.ndarray:
        settings: RandomSlotSettings = self.settings
        young_I = view.items.upload_I > view.now - self.world.fresh_days
        pool = np.flatnonzero(young_I & (view.live.positives_I[: len(view)] < settings.graduation))
        shape = (len(requests), settings.nominees)
        if not len(pool):
            return np.full(shape, NOBODY)
        # With replacement: a repeated nominee does no harm, the ranker takes one.
        number = np.arange(settings.nominees) + 1
        base_R = keys(key(0, NOMINATED), requests.key_R)
        share_RN = uniforms(key(1, NOMINATED), base_R[:, None] + number.astype(np.uint64))
        return pool[(share_RN * len(pool)).astype(np.int64)]
