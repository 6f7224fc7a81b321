"""What is counted in a world, by day and arm, and what follows from it.

    DUIC@K             distinct items with K or more impressions in the day
    discoverable@X,Y   items uploaded since the world began that had X or more positive interactions in the last Y days;
                       those of the fresh slot do not count (they are the bootstrapping)
    fresh              of items uploaded less than `fresh_days` ago
    effective_views    items watched for 30% of their length or more; visit_length: items seen in a visit
    small              of items of small providers (population.py)
All sums are of whole numbers and of multiples of 1/16: exact in any order. Shapes: A arms, I items, T days.
"""

from typing import Any

import numpy as np

from funnel.platform.corpus import Corpus
from funnel.platform.settings import PlatformSettings
from funnel.platform.view import Feedback

SUMS = ("requests", "visits", "exposures", "clicks", "positives", "dwell", "likes", "purchases", "core_exposures",
        "core_positives", "core_dwell", "fresh_exposures", "fresh_positives", "fresh_dwell", "small_exposures",
        "small_positives", "small_dwell", "slot_exposures", "slot_positives", "effective_views")  # fmt: skip
DUIC = (5, 20, 50)
EFFECTIVE = 0.3
"""Share of an item's length from which on a view is effective."""
DISCOVERABLE = ((5, 7), (10, 7), (20, 7))
CORPUS = tuple(f"duic_{k}" for k in DUIC) + tuple(f"discoverable_{x}_{y}d" for x, y in DISCOVERABLE)
UPLOADS = "uploads"
DAILY = (*SUMS, *CORPUS, UPLOADS)


class Ledger:
    """Counts of a world from the day `counting` begins."""

    def __init__(self, settings: PlatformSettings, arms: int) -> None:
        self.settings, self.arms = settings, arms
        self.days: list[np.ndarray] = []
        """(len(DAILY), A) float64 of every finished day."""
        self.outside: list[np.ndarray] = []
        """int32 (A, I of that day) of the last days: positives outside the slot."""
        self.impressions_AI = np.zeros((arms, 0), np.int64)
        """Since the world began."""
        self.begin(0)

    def begin(self, items: int) -> None:
        self.sum = np.zeros((len(SUMS), self.arms))
        self.today_AI = np.zeros((self.arms, items), np.int64)
        self.outside_AI = np.zeros((self.arms, items), np.int64)
        grown = items - self.impressions_AI.shape[1]
        if grown > 0:
            self.impressions_AI = np.pad(self.impressions_AI, ((0, 0), (0, grown)))

    def take(self, arm: int, feedback: Feedback, corpus: Corpus) -> None:
        requests, items = feedback.requests, corpus.items
        seen, click, good, slot = feedback.seen_RS, feedback.click_RS, feedback.good_RS, feedback.slot_RS
        item_RS = feedback.item_RS
        dwell = feedback.dwell_RS
        core = np.broadcast_to(corpus.population.users.core_U[requests.user_R][:, None], seen.shape)
        fresh = items.upload_I.take(item_RS, mode="clip") > requests.now - self.settings.fresh_days
        provider_RS = items.provider_I.take(item_RS, mode="clip")
        small = corpus.population.providers.small_P.take(provider_RS)
        sums = [len(requests), len(requests) if requests.page == 0 else 0, seen.sum(), click.sum(), good.sum()]
        sums += [dwell.sum(dtype=np.float64), feedback.like_RS.sum(), feedback.purchase_RS.sum()]
        for group in (core, fresh, small):
            sums += [(seen & group).sum(), (good & group).sum(), (dwell * group).sum(dtype=np.float64)]
        sums += [slot.sum(), (slot & good).sum(), effective(feedback, items.length_I.take(item_RS, mode="clip")).sum()]
        self.sum[:, arm] += sums
        count = self.today_AI.shape[1]
        self.today_AI[arm] += np.bincount(item_RS[seen], minlength=count)
        self.outside_AI[arm] += np.bincount(item_RS[good & ~slot], minlength=count)

    def end(self, uploads: int, first: int) -> None:
        """Close the day; items from number `first` on were uploaded since the world began."""
        self.outside = [*self.outside, self.outside_AI][-max(days for _, days in DISCOVERABLE) :]
        self.impressions_AI += self.today_AI
        corpus = [(self.today_AI >= k).sum(1) for k in DUIC]
        for least, days in DISCOVERABLE:
            total_AI = np.zeros_like(self.today_AI)
            for day_AI in self.outside[-days:]:
                total_AI[:, : day_AI.shape[1]] += day_AI
            corpus.append((total_AI[:, first:] >= least).sum(1))
        self.days.append(np.vstack([self.sum, *corpus, np.full(self.arms, float(uploads))]))

    def table(self) -> np.ndarray:
        """float64 (T, len(DAILY), A)."""
        return np.array(self.days).reshape(-1, len(DAILY), self.arms)


def effective(feedback: Feedback, length_RS: np.ndarray) -> np.ndarray:
    """bool_RS: watched for 30% of its length or more, an effective view."""
    return feedback.seen_RS & (feedback.dwell_RS >= np.float32(EFFECTIVE) * length_RS)


METRICS: dict[str, tuple[str, str]] = {
    "dwell": ("dwell", ""),
    "good_ctr": ("positives", "exposures"),
    "good_ctr.core": ("core_positives", "core_exposures"),
    "good_ctr.casual": ("casual_positives", "casual_exposures"),
    "positives": ("positives", ""),
    "likes": ("likes", ""),
    "effective_views": ("effective_views", ""),
    "purchases": ("purchases", ""),
    "requests": ("requests", ""),
    "visit_length": ("exposures", "visits"),
    "fresh.dwell": ("fresh_dwell", ""),
    "fresh.positives": ("fresh_positives", ""),
    "fresh.exposures": ("fresh_exposures", ""),
    "small.dwell": ("small_dwell", ""),
    "small.positives": ("small_positives", ""),
    **{f"duic_at_{k}": (f"duic_{k}", "") for k in DUIC},
    **{f"discoverable_at_{x}_{y}d": (f"discoverable_{x}_{y}d", "") for x, y in DISCOVERABLE},
    "uploads": ("uploads", ""),
}
"""(numerator, denominator) of daily sums; none: the sum itself."""


def amount(name: str, value_F: Any) -> Any:
    """A daily quantity by name; casual users are all but core users."""
    if name.startswith("casual_"):
        rest = name.removeprefix("casual_")
        return value_F[DAILY.index(rest)] - value_F[DAILY.index(f"core_{rest}")]
    return value_F[DAILY.index(name)]
