"""How large a platform is and how its people behave. The equations: population.py and behaviour.py.

Where a default follows a public figure, benchmarks/platform/calibration.py holds the world's own figure beside it.
"""

from dataclasses import dataclass

from data.errors import UserError

SLOTS = 10
MOST = 100_000_000
"""Of anything that is counted: so many users alone have 15 GB."""


@dataclass(frozen=True)
class PlatformSettings:
    """Sizes, and what decides how users, providers and their items are."""

    users: int = 2_000
    """How many users there are."""
    items: int = 900
    """Items that are there on the first day."""
    providers: int = 150
    """Who uploads items; small ones have few."""
    uploads: float = 80.0
    """New items a day, before providers answer to the exposure they get."""
    dimensions: int = 8
    """Of tastes and of item vectors."""
    categories: int = 46
    """Kinds of items, their shares a Zipf law; as many as KuaiRand-Pure has tags."""
    core: float = 0.3
    """Share of core users."""
    core_activity: float = 4.0
    """How many times as often as a casual user a core user comes."""
    visits: float = 1.0
    """Visits that a user wants to make on an average day; at most one comes true in each part of it."""
    visits_spread: float = 0.8
    """Standard deviation of the log of how often users of one group come."""
    core_taste: float = 0.8
    """How much of a core user's taste is the user's own; the rest is what most people like."""
    casual_taste: float = 0.4
    """The same for a casual user."""
    content: float = 0.75
    """How much of an item's vector its observed content shows; the rest is learnt from exposure."""
    quality: float = 0.4
    """Standard deviation of item quality, in the logit of a click."""
    affinity: float = 2.5
    """Weight of taste times item vector in the logit of a click."""
    intent: float = 0.6
    """Weight of how well an item fits what the user has come for, in the logit of a click."""
    mood: float = 0.0
    """Weight of how well an item fits what the user is in the mood for in a visit, a category that no system is told,
    in the logit of a click; what a user does in a visit then says what else the user wants in it. 0: no moods."""
    fatigue: float = 0.6
    """By how much the logit of a click falls where all of the last items seen were of the same category."""
    response: float = 0.5
    """How strongly a provider's uploads follow the positive interactions of the last week; 0: not at all."""
    ticks: int = 4
    """Parts of a day; what real-time policies know is of the last one."""
    pages: int = 8
    """Pages of a visit, at most."""
    slots: int = SLOTS
    """Items of a page."""
    kept: int = 60
    """What pre-ranking leaves for ranking."""
    fresh_days: float = 7.0
    """An item is fresh until so many days after its upload."""

    def __post_init__(self) -> None:
        whole = ("users", "items", "providers", "dimensions", "categories", "ticks", "pages", "slots", "kept")
        for name in whole:
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 1")
            if getattr(self, name) > MOST:
                raise UserError(f"{name} is {getattr(self, name)}, must be at most {MOST}")
        for name in ("core", "core_taste", "casual_taste", "content"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}, must lie in 0..1")
        for name in (
            "uploads",
            "visits_spread",
            "quality",
            "affinity",
            "intent",
            "mood",
            "fatigue",
            "response",
        ):
            if not 0 <= getattr(self, name) < 1e6:
                raise UserError(f"{name} is {getattr(self, name)}, must be a finite number of at least 0")
        for name in ("visits", "core_activity", "fresh_days"):
            if not 0 < getattr(self, name) < 1e6:
                raise UserError(f"{name} is {getattr(self, name)}, must be a finite number above 0")
        if self.dimensions > 32:
            raise UserError(f"dimensions is {self.dimensions}, must be at most 32")
        if self.slots > self.kept:
            raise UserError(f"slots is {self.slots}, but pre-ranking keeps {self.kept}: a page cannot be filled")
