"""The fresh-content funnel as the policy of the page's fresh slot [Wang et al., KDD 2023, arXiv 2306.01720].

    nominators (top 50) -> graduation filter -> pre-scorer (top 10) -> the main ranker (top 1) -> slot

Fresh are items at most `max_age` days old and long-tail ones with fewer than `few` positives. In `multi` the
two-tower proposes those below n_low positive interactions and the real-time nominator those from n_low up to
graduation; a request asks one of them: the real-time one with probability q if its user is a core user, and else with
probability 1 - p. The world takes the winner of the main ranker and puts it on the page.

The paper divides queries either by chance (here q 0) or by context (here p 1: of core users' requests a share q asks
the real-time nominator, all others ask the two-tower). That both may stand together is a choice, for tuning.

Shapes: R requests, P items of the pool, N nominated, k kept.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import UserError
from funnel.fresh.nominators import ContentTower, Nominator, RealTime
from funnel.fresh.prescorer import MANY, UNIFORM, Prior, draws, dynamic_prior, likelihood_prior
from funnel.platform.draws import bits, key, sixteen, uniforms
from funnel.platform.numbers import LEVELS, ranked
from funnel.platform.settings import PlatformSettings
from funnel.platform.slot import MOST_NOMINEES, PLACE, Slot, SlotSettings
from funnel.platform.view import NOBODY, Requests, View

MODES = ("multi", "two_tower", "two_tower_with_ids", "real_time")
PRIORS = ("likelihood", "dynamic", "uniform")
SALT = key(0x6672657368)
"""Of this policy's draws, beside those of the world at the same requests."""


@dataclass(frozen=True)
class FreshSettings(SlotSettings):
    """Counts are the world's own. A small world has fewer impressions an item than a platform: the paper's n_low of 200
    and K of 1000 a day stand for 4 and 20 at a fiftieth."""

    nominators: str = "multi"
    """multi, or one alone: two_tower, two_tower_with_ids (sees ids and popularity), real_time."""
    p: float = 0.8
    """Query division: how often a request asks the two-tower, else the real-time nominator."""
    q: float = 0.0
    """Contextual: share of core users' requests that ask the real-time nominator whatever p says."""
    n_low: float = 4.0
    """Positive interactions up to which an item is the two-tower's; from there on the real-time nominator's."""
    n_grad: float = 160.0
    """Positive interactions with which an item leaves, at once."""
    max_age: float = 7.0
    """Days from its upload that an item is fresh."""
    few: float = 2.0
    """An older item with fewer positive interactions is long-tail, and in the slot's pool too."""
    nominees: int = 50
    """Items that a nominator proposes."""
    kept: int = 10
    """Of those, what the pre-scorer leaves for the main ranker."""
    temperature: float = 1.0
    """How widely the pre-scorer samples: 1 is Thompson sampling, 0 takes the largest posterior means."""
    prior: str = "likelihood"
    """Of good clicks: likelihood (beta-binomial, over items with 100 impressions), dynamic (so that a new item beats
    the present winner with probability win_chance) or uniform."""
    prior_strength: float = 1.0
    """The prior's weight, as a multiple of the fitted one's."""
    win_chance: float = 0.1
    """With prior dynamic: the probability that a new item beats the present winner."""
    idf_power: float = 1.0
    """Categories count by IDF to this power in the nominators; 0: all alike."""
    first: int = 0
    """First place of a floating slot (place -1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("p", "q"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}, must lie in 0..1")
        if self.idf_power > 100:
            raise UserError(f"idf_power is {self.idf_power}, must be at most 100")
        if not 0 < self.win_chance < 1:
            raise UserError(f"win_chance is {self.win_chance}, must lie between 0 and 1")
        for name in ("n_low", "few", "temperature", "idf_power"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UserError(f"{name} is {getattr(self, name)}, must be a finite number of at least 0")
        for name in ("n_grad", "max_age", "prior_strength"):
            if not 0 < getattr(self, name) < np.inf:
                raise UserError(f"{name} is {getattr(self, name)}, must be a finite number above 0")
        if self.n_low > self.n_grad:
            raise UserError(
                f"n_low {self.n_low:g} is above n_grad {self.n_grad:g}: items would graduate before they reach it"
            )
        for name in ("nominees", "kept"):
            if not 1 <= getattr(self, name) <= MOST_NOMINEES:
                raise UserError(f"{name} is {getattr(self, name)}, must lie in 1..{MOST_NOMINEES}")
        if self.kept > self.nominees:
            raise UserError(f"kept {self.kept} is more than nominees {self.nominees}: the pre-scorer only takes away")
        if self.first < 0:
            raise UserError(f"first is {self.first}, must be at least 0")
        for name, known in (("nominators", MODES), ("prior", PRIORS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} is {getattr(self, name)!r}, must be {', '.join(known)}")


class FreshFunnel(Slot):
    """A kind of "slot" (funnel/platform/stages.py: FreshSlot)."""

    settings_type = FreshSettings
    settings: FreshSettings

    def __init__(self, settings: FreshSettings, world: PlatformSettings, seed: int) -> None:
        super().__init__(settings, world, seed)
        if settings.first >= world.slots:
            raise UserError(f"first is {settings.first}, but a page has {world.slots} slots: 0 to {world.slots - 1}")
        ids = settings.nominators == "two_tower_with_ids"
        self.two_tower: Nominator = ContentTower(world, settings.idf_power, ids)
        self.real_time: Nominator = RealTime(world, settings.idf_power)
        self.prior = UNIFORM

    def used(self) -> list[Nominator]:
        """The nominators that are ever asked."""
        mode = self.settings.nominators
        return [
            *([self.two_tower] if mode != "real_time" else []),
            *([self.real_time] if mode in ("multi", "real_time") else []),
        ]

    def refresh(self, view: View) -> None:
        for nominator in self.used():
            nominator.refresh(view)
        good_I, shown_I = view.daily.positives_I, view.daily.impressions_I
        fitted = likelihood_prior(good_I, shown_I, MANY) if self.settings.prior != "uniform" else None
        self.fitted = (fitted or UNIFORM).scaled(self.settings.prior_strength)
        self.prior = self.fitted

    def tick(self, view: View) -> None:
        for nominator in self.used():
            nominator.tick(view)
        self.pool_P = self.pool(view)
        if self.settings.prior == "dynamic" and len(self.pool_P):
            self.prior = dynamic_prior(self.fitted.strength, self.winner(view), self.settings.win_chance)

    def pool(self, view: View) -> np.ndarray:
        """Fresh and long-tail items as of now, graduated ones among them: those are left out request by request."""
        settings = self.settings
        fresh_I = view.now - view.items.upload_I <= settings.max_age
        return np.flatnonzero(fresh_I | (view.live.positives_I < settings.few))

    def winner(self, view: View) -> Prior:
        """Posterior of the item of the pool that promises most: what a new item has to beat."""
        good_P, shown_P = view.live.positives_I[self.pool_P], view.live.impressions_I[self.pool_P]
        prior = self.fitted
        best = int(np.argmax((prior.a + good_P) / (prior.strength + shown_P)))
        return Prior(prior.a + float(good_P[best]), prior.b + float(shown_P[best] - good_P[best]))

    def place(self, requests: Requests, view: View) -> np.ndarray:
        first, slots = self.settings.first, self.world.slots
        if self.settings.place >= 0:
            return super().place(requests, view)
        return first + (uniforms(key(0, PLACE), requests.key_R) * (slots - first)).astype(np.int64)

    def asks_real_time(self, requests: Requests, view: View) -> np.ndarray:
        """bool_R: which requests ask the real-time nominator."""
        settings, drawn = self.settings, sixteen(bits(requests.key_R, np.full((1, 1), SALT)))[:, 0]
        if settings.nominators != "multi":
            return np.full(len(requests), settings.nominators == "real_time")
        contextual_R = view.users.core_U[requests.user_R] & (drawn[:, 1] < settings.q * LEVELS)
        return contextual_R | (drawn[:, 0] >= settings.p * LEVELS)

    def nominate(self, requests: Requests, view: View) -> np.ndarray:
        settings = self.settings
        found_Rk: np.ndarray = np.full((len(requests), settings.kept), NOBODY, np.int64)
        good_P = view.live.positives_I[self.pool_P]
        asks_R, split = self.asks_real_time(requests, view), settings.nominators == "multi"
        for real_time, nominator in ((False, self.two_tower), (True, self.real_time)):
            row_R = np.flatnonzero(asks_R == real_time)
            low, high = 0.0, settings.n_grad
            if split:
                low, high = (settings.n_low, high) if real_time else (low, settings.n_low)
            pool_P = self.pool_P[(good_P >= low) & (good_P < high)]
            if len(row_R) and len(pool_P):
                found_Rk[row_R] = self.chosen(nominator, rows_of(requests, row_R), pool_P, view)
        return found_Rk

    def chosen(self, nominator: Nominator, requests: Requests, pool_P: np.ndarray, view: View) -> np.ndarray:
        """Items (R, k) that nominator and pre-scorer leave, NOBODY where the pool has fewer."""
        settings, place_RN = self.settings, np.arange(len(pool_P))[None]
        if len(pool_P) > settings.nominees:
            place_RN = nominator.best(requests, pool_P, view, settings.nominees)
        item_RN = np.broadcast_to(pool_P[place_RN], (len(requests), place_RN.shape[1]))
        word_RN = bits(requests.key_R ^ SALT, view.items.key_I[item_RN])
        good_RN, shown_RN = view.live.positives_I[item_RN], view.live.impressions_I[item_RN]
        draw_RN = draws(word_RN, good_RN, shown_RN, self.prior, settings.temperature)
        kept_Rk = np.take_along_axis(item_RN, ranked(draw_RN, settings.kept), 1)
        missing = settings.kept - kept_Rk.shape[1]
        return np.pad(kept_Rk, ((0, 0), (0, missing)), constant_values=NOBODY) if missing > 0 else kept_Rk


def rows_of(requests: Requests, row_R: np.ndarray) -> Requests:
    """Some of a block's requests."""
    named: dict[str, Any] = {
        one.name: getattr(requests, one.name)[row_R] for one in dataclasses.fields(requests) if "_" in one.name
    }
    return dataclasses.replace(requests, **named)
