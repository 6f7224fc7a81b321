"""A generated exposure log whose truth is known: every propensity, and every conversion had it been clicked.

For user u, item i, shown at position k (0 .. 29), hour h, in channel c, with discount d:

    interest      m = [0.7 <z_u, z_i>/2 + 0.5 appeal_i + 0.4 activity_u]          standardised over exposures
    presentation  w = [-log2(1 + k) + 0.5 cos(2 pi (h - 21)/24) + e_c + 4 d]      standardised over exposures
    fit           f = [quality_i - 0.5 (log price_i - budget_u)^2]                standardised over exposures
    click score   s = sqrt(0.85) m + sqrt(0.15) w

    propensity                q = sigmoid(b_click + selection s + hidden v),      click ~ Bernoulli(q)
    conversion if clicked     p = sigmoid(b_conversion + confounding g(m) + 0.8 f + hidden v),
                              potential_conversion ~ Bernoulli(p), drawn apart from the click
    seen                      conversion = click * potential_conversion

    g(m) = [-log(1 + exp(-3 (m - 0.5)))]                                          standardised over exposures

g saturates: above m = 0.5, where the clicks are, more interest hardly matters; below, where most exposures are, the
conversion falls with it. So what is learnt from clicks carries over badly to what was not clicked. v ~ N(0, 1) is drawn
for each exposure and shown nowhere. With hidden = 0 (the default) q and p are functions of the observed features
(user_id and item_id settle z, appeal, activity, quality, budget and price), so weighting clicks by 1/q is unbiased.
b_click solves E[q] = click_rate and b_conversion solves E[q p]/E[q] = conversion_rate on a fixed sample of exposures.

Tastes z lie in 4 dimensions around 12 segments' and 40 categories' centres; one user or item in twenty is filed under a
random segment or category. Users and items follow a Zipf-Mandelbrot law. A request is one user's list of 30 items.
With history > 0 a row also lists what its user clicked before (data/history.py). Every draw is addressed by the seed
and a place under it (data/generate.py), so its order does not matter.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from data.bags import Bags
from data.history import draw_history
from data.population import CHANNELS, Population, draw_population
from data.write import ROWS_PER_FILE, ROWS_PER_GROUP

CANDIDATES = 30
SAMPLE_ROWS = 2**18
POPULATION, SAMPLE, SHARDS, HISTORY = 0, 1, 2, 3  # the first word of every address under the seed
CHANNEL_EFFECT = np.array([0.6, -0.4, 0.8, -1.0])


@dataclass(frozen=True)
class GeneratedLog:
    """What to generate; the knobs are those of the equations above."""

    rows: int = 1_000_000
    """Exposures in all; train, valid and test take 80, 10 and 10 per cent."""
    seed: int = 0
    """The same settings and seed give the same log."""
    users: int = 5_000
    """How many users there are to draw from."""
    items: int = 2_000
    """How many items there are to draw from."""
    click_rate: float = 0.04
    """E[click] over exposures."""
    conversion_rate: float = 0.05
    """E[conversion] over clicks."""
    selection: float = 1.3
    """Standard deviation of the click logit: the larger, the less clicked and unclicked exposures overlap."""
    confounding: float = 1.2
    """Weight of interest, which makes clicks, in the conversion logit; 0 = conversions do not depend on it."""
    hidden: float = 0.0
    """Weight of an unobserved cause of both clicks and conversions."""
    history: int = 0
    """At most so many items that the user clicked before, as a multi-valued field that shares the item's rows; 0 = no
    such column."""
    rows_per_file: int = ROWS_PER_FILE
    """Rows of a parquet file."""
    rows_per_group: int = ROWS_PER_GROUP
    """Rows of a row group, the unit that training workers share out."""


@dataclass(frozen=True)
class Exposures:
    """Who was shown what, and where; all arrays have shape R."""

    user_R: np.ndarray
    item_R: np.ndarray
    position_R: np.ndarray
    hour_R: np.ndarray
    channel_R: np.ndarray
    discount_R: np.ndarray
    hidden_R: np.ndarray


@dataclass(frozen=True)
class Probabilities:
    propensity_R: np.ndarray
    conversion_R: np.ndarray


class World:
    """The population of a config and the constants (means, standard deviations, intercepts) of its equations."""

    def __init__(self, config: GeneratedLog) -> None:
        check(config)
        self.config = config
        self.population: Population = draw_population(address(config.seed, POPULATION), config.users, config.items)
        sample = self.draw_sample(address(config.seed, SAMPLE))
        interest_R = self.population.interest(sample.user_R, sample.item_R)
        self._interest = moments(interest_R)
        self._presentation = moments(presentation(sample))
        self._fit = moments(self.population.fit(sample.user_R, sample.item_R))
        self._saturated = moments(saturating(standard(interest_R, self._interest)))
        click_R, conversion_R = self.scores(sample)
        self.click_intercept = solve(lambda b: sigmoid(b + click_R).mean(), config.click_rate)
        propensity_R = sigmoid(self.click_intercept + click_R)
        clicked_R = propensity_R / propensity_R.sum()
        self.history = self.draw_history()
        self.conversion_intercept = solve(lambda b: clicked_R @ sigmoid(b + conversion_R), config.conversion_rate)

    def draw_history(self) -> Bags | None:
        config, people = self.config, self.population
        if not config.history:
            return None

        def click_logit(user_R: np.ndarray, item_R: np.ndarray) -> np.ndarray:
            return config.selection * standard(people.interest(user_R, item_R), self._interest)

        rng = address(config.seed, HISTORY)
        return draw_history(rng, config.users, config.history, people.item_cdf_I, click_logit)

    def draw_exposures(self, rng: np.random.Generator, requests: int) -> Exposures:
        """Whole requests, one after the other: one user, one hour and one channel each."""
        people, shape = self.population, (requests, CANDIDATES)
        user = pick(people.user_cdf_U, rng.random(requests))
        # One draw from each of 30 equal slices of the law: each item keeps its share, and few lists show one twice.
        item = pick(
            people.item_cdf_I,
            (rng.permuted(np.tile(np.arange(CANDIDATES), (requests, 1)), axis=1) + rng.random(shape)) / CANDIDATES,
        )
        return Exposures(
            user_R=np.repeat(user, CANDIDATES),
            item_R=item.ravel(),
            position_R=np.tile(np.arange(CANDIDATES), requests),
            hour_R=np.repeat((rng.normal(15, 5, requests) % 24).astype(np.int64), CANDIDATES),
            channel_R=np.repeat(rng.choice(len(CHANNELS), requests, p=(0.4, 0.4, 0.1, 0.1)), CANDIDATES),
            discount_R=np.maximum(rng.integers(-5, 6, shape), 0).ravel() / 20,
            hidden_R=rng.normal(size=shape).ravel(),
        )

    def draw_sample(self, rng: np.random.Generator) -> Exposures:
        """Exposures of the same law, but with a user of its own for each, spread evenly: they estimate means better."""
        sample = self.draw_exposures(rng, SAMPLE_ROWS // CANDIDATES)
        rows = len(sample.user_R)
        user_R = pick(self.population.user_cdf_U, (rng.permutation(rows) + rng.random(rows)) / rows)
        return replace(sample, user_R=user_R)

    def scores(self, shown: Exposures) -> tuple[np.ndarray, np.ndarray]:
        """Click and conversion logits without their intercepts."""
        config, people = self.config, self.population
        m_R = standard(people.interest(shown.user_R, shown.item_R), self._interest)
        w_R = standard(presentation(shown), self._presentation)
        f_R = standard(people.fit(shown.user_R, shown.item_R), self._fit)
        g_R = standard(saturating(m_R), self._saturated)
        unseen_R = config.hidden * shown.hidden_R
        click_R = config.selection * (np.sqrt(0.85) * m_R + np.sqrt(0.15) * w_R) + unseen_R
        return click_R, config.confounding * g_R + 0.8 * f_R + unseen_R

    def probabilities(self, shown: Exposures) -> Probabilities:
        click_R, conversion_R = self.scores(shown)
        return Probabilities(sigmoid(self.click_intercept + click_R), sigmoid(self.conversion_intercept + conversion_R))


def check(config: GeneratedLog) -> None:
    """Raise ValueError naming the knob whose value makes no log."""
    for name in ("users", "items", "rows_per_group"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}, must be at least 1")
    if config.rows < 10 * CANDIDATES:
        raise ValueError(f"rows is {config.rows}, must be at least {10 * CANDIDATES} (ten requests)")
    if config.seed < 0:
        raise ValueError(f"seed is {config.seed}, must not be negative")
    if config.history < 0:
        raise ValueError(f"history is {config.history}, must be at least 0")
    for name in ("click_rate", "conversion_rate"):
        if not 0 < getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}, must lie between 0 and 1")
    for name in ("selection", "hidden"):
        if not 0 <= getattr(config, name) <= 10:
            raise ValueError(f"{name} is {getattr(config, name)}, must lie in 0..10")
    if not -10 <= config.confounding <= 10:
        raise ValueError(f"confounding is {config.confounding}, must lie in -10..10")


def address(seed: int, *where: int) -> np.random.Generator:
    """A generator of its own for every (seed, where)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=where)))


def presentation(shown: Exposures) -> np.ndarray:
    daytime_R = np.cos(2 * np.pi * (shown.hour_R - 21) / 24)
    return -np.log2(1 + shown.position_R) + 0.5 * daytime_R + CHANNEL_EFFECT[shown.channel_R] + 4 * shown.discount_R


def saturating(m_R: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0, -3 * (m_R - 0.5))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def moments(x: np.ndarray) -> tuple[float, float]:
    return float(x.mean()), max(float(x.std()), 1e-12)


def standard(x: np.ndarray, mean_and_std: tuple[float, float]) -> np.ndarray:
    return (x - mean_and_std[0]) / mean_and_std[1]


def pick(cdf: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Indices drawn by the inverse of a cumulative law whose last entry is 1 but for rounding."""
    return np.minimum(np.searchsorted(cdf, uniform, side="right"), len(cdf) - 1)


def solve(rate: Callable[[float], float], target: float) -> float:
    """The x where an increasing rate(x) meets the target, by bisection."""
    low, high = -100.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rate(middle) < target else (low, middle)
    return (low + high) / 2
