"""The users and items of a generated log: what they are, what is seen of them, and what each makes of the other.

Drawn once from a seed; the equations stand in data/world.py. Shapes: U users, I items, R exposures, D taste
dimensions. Everything here that drives a click or a conversion is a function of the user and the item.
"""

from dataclasses import dataclass

import numpy as np

SEGMENTS, CATEGORIES, CITIES, TASTES = 12, 40, 200, 4
AGES = ("<18", "18-24", "25-29", "30-34", "35-44", "45-54", "55+")
CHANNELS = ("search", "feed", "cart", "mail")
PRICE_UNIT = 20.0  # money that the median item costs
SPREAD = 0.25  # of a user's or item's taste around its group's
MISLABELLED = 0.05  # share of users and items filed under a random segment or category


@dataclass(frozen=True)
class Population:
    """Per user: share of requests, taste z, activity a, budget b and their observed views; per item likewise."""

    user_cdf_U: np.ndarray
    user_taste_UD: np.ndarray
    activity_U: np.ndarray
    budget_U: np.ndarray
    segment_U: np.ndarray
    age_U: np.ndarray
    city_U: np.ndarray
    user_activity_U: np.ndarray
    item_cdf_I: np.ndarray
    item_taste_ID: np.ndarray
    appeal_I: np.ndarray
    quality_I: np.ndarray
    log_price_I: np.ndarray
    category_I: np.ndarray
    brand_I: np.ndarray
    shop_I: np.ndarray
    popularity_I: np.ndarray

    def interest(self, user_R: np.ndarray, item_R: np.ndarray) -> np.ndarray:
        """What draws this user to this item (not yet standardised): taste, the item's appeal, the user's activity."""
        taste_R = np.einsum("rd,rd->r", self.user_taste_UD[user_R], self.item_taste_ID[item_R]) / np.sqrt(TASTES)
        return 0.7 * taste_R + 0.5 * self.appeal_I[item_R] + 0.4 * self.activity_U[user_R]

    def fit(self, user_R: np.ndarray, item_R: np.ndarray) -> np.ndarray:
        """What makes a purchase beside interest (not yet standardised): quality, and a price near the budget."""
        return self.quality_I[item_R] - 0.5 * (self.log_price_I[item_R] - self.budget_U[user_R]) ** 2


@dataclass(frozen=True)
class Conflict:
    """What sets clicks against purchases and their value: packaging_I (standardised), order_size_U (mean log 0)."""

    packaging_I: np.ndarray
    order_size_U: np.ndarray


def draw_conflict(rng: np.random.Generator, people: Population, segment_value: float) -> Conflict:
    """Draw how each item is packaged (mostly its shop's habit) and how much each segment orders.

    `segment_value` is the standard deviation over segments of the log order size. Drawn apart from the population, so
    that a world without conflict has the same users and items.
    """
    shops, items = int(people.shop_I.max()) + 1, len(people.shop_I)
    packaging_I = 0.9 * rng.normal(size=shops)[people.shop_I] + 0.45 * rng.normal(size=items)
    log_size_S = standardised(rng.normal(size=SEGMENTS))
    return Conflict(standardised(packaging_I), np.exp(segment_value * log_size_S)[people.segment_U])


def draw_population(rng: np.random.Generator, users: int, items: int) -> Population:
    """Draw all users and items. Memory: about 100 bytes each."""
    segment_taste = rng.normal(size=(SEGMENTS, TASTES))
    category_taste = rng.normal(size=(CATEGORIES, TASTES))
    group_U, group_I = rng.integers(SEGMENTS, size=users), rng.integers(CATEGORIES, size=items)
    budget_U = rng.normal(size=users)
    share_U = long_tail(rng, users, exponent=0.8, flat=20)
    activity_U = rng.normal(size=users)

    brands, shops = max(items // 50, 1), max(items // 20, 1)
    brand_I, shop_I = rng.integers(brands, size=items), rng.integers(shops, size=items)
    share_I = long_tail(rng, items, exponent=1.0, flat=10)
    popularity_I = standardised(np.log(share_I))
    appeal_I = 0.5 * popularity_I + 0.7 * rng.normal(size=brands)[brand_I] + 0.25 * rng.normal(size=items)
    quality_I = 0.8 * rng.normal(size=shops)[shop_I] + 0.4 * rng.normal(size=items)
    log_price_I = 0.6 * rng.normal(size=CATEGORIES)[group_I] + 0.8 * rng.normal(size=items)
    return Population(
        user_cdf_U=np.cumsum(share_U),
        user_taste_UD=(segment_taste[group_U] + SPREAD * rng.normal(size=(users, TASTES))).astype(np.float32),
        activity_U=activity_U,
        budget_U=budget_U,
        segment_U=mislabelled(rng, group_U, SEGMENTS),
        age_U=banded(0.8 * budget_U + 0.4 * rng.normal(size=users), len(AGES)),
        city_U=banded(0.5 * budget_U + rng.normal(size=users), CITIES),
        user_activity_U=np.exp(0.5 * activity_U + 0.1 * rng.normal(size=users)),
        item_cdf_I=np.cumsum(share_I),
        item_taste_ID=(category_taste[group_I] + SPREAD * rng.normal(size=(items, TASTES))).astype(np.float32),
        appeal_I=appeal_I,
        quality_I=quality_I,
        log_price_I=log_price_I,
        category_I=mislabelled(rng, group_I, CATEGORIES),
        brand_I=brand_I,
        shop_I=shop_I,
        popularity_I=popularity_I,
    )


def long_tail(rng: np.random.Generator, count: int, exponent: float, flat: float) -> np.ndarray:
    """Shares of a Zipf-Mandelbrot law, (rank + flat)^-exponent, dealt to ids in random order; they sum to 1."""
    share = (np.arange(1, count + 1) + flat) ** -exponent
    return rng.permutation(share / share.sum())


def mislabelled(rng: np.random.Generator, group: np.ndarray, groups: int) -> np.ndarray:
    return np.where(rng.random(len(group)) < MISLABELLED, rng.integers(groups, size=len(group)), group)


def banded(score: np.ndarray, bands: int) -> np.ndarray:
    """Cut scores into equally filled bands 0 .. bands-1."""
    return np.argsort(np.argsort(score)) * bands // len(score)


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / max(float(x.std()), 1e-12)
