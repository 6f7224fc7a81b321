"""A generated exposure log whose truth is known: every propensity, and every conversion had it been clicked.

For user u, item i, shown at position k (0 .. 29), hour h, in channel c, with discount d:

    interest      m = [0.7 <z_u, z_i>/2 + 0.5 appeal_i + 0.4 activity_u]          standardised over exposures
    attraction    a = [0.7 <z_u, z_i>/2 + 0.5 appeal_i + 0.4 activity_u + clickbait packaging_i]      standardised
    presentation  w = [-log2(1 + k) + 0.5 cos(2 pi (h - 21)/24) + e_c + 4 d]      standardised over exposures
    fit           f = [quality_i - 0.5 (log price_i - budget_u)^2]                standardised over exposures
    click score   s = sqrt(1 - presentation) a + sqrt(presentation) w

    propensity                q = sigmoid(b_click + selection s + hidden v),      click ~ Bernoulli(q)
    conversion if clicked     p = sigmoid(b_conversion + confounding g(m) + 0.8 f + hidden v + presentation_sells w
                                          - disappointment packaging_i - price_sensitivity log price_i),
                              potential_conversion ~ Bernoulli(p), drawn apart from the click
    seen                      conversion = click * potential_conversion
    value of a conversion     price_i (1 - d) order_size_u, in prices of the median item; world "conflict" only

    g(m) = [-log(1 + exp(-3 (m - 0.5)))]                                          standardised over exposures

g saturates: above m = 0.5, where the clicks are, more interest hardly matters; below, where most exposures are, the
conversion falls with it. So what is learnt from clicks carries over badly to what was not clicked. v ~ N(0, 1) is drawn
for each exposure and shown nowhere. With hidden = 0 (the default) q and p are functions of the observed features
(user_id and item_id settle z, appeal, activity, packaging, quality, budget and price), so weighting clicks by 1/q is
unbiased.

Packaging (title, picture), a habit of shops, draws clicks and disappoints; a dear item sells less often and for more; a
segment's orders are large or small. So no single score orders a list well by click + w conversion value: the world
"conflict". In the world "aligned" clickbait, disappointment and price_sensitivity are 0 and there is no value: what is
clicked is also what is bought. The world "instrument" is "aligned" with hidden = 1, half of the click score's variance
from presentation, and channel, hour and position declared as instruments: they move clicks, and conversions only with a
presentation_sells other than 0.
With delay > 0 a log tells the moment of each exposure, uniform over the days of its part, and that of its conversion,
which comes Exp(1/days) later with days = delay sqrt(price_i), prices in those of the median item.
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
from data.population import CHANNELS, Conflict, Population, draw_conflict, draw_population
from data.worlds import CANDIDATES, check, completed
from data.worlds import GeneratedLog as GeneratedLog

SAMPLE_ROWS = 2**18
POPULATION, SAMPLE, SHARDS, HISTORY, CONFLICT, TIMES = (
    0,
    1,
    2,
    3,
    4,
    5,
)
"""The first word of every address under the seed."""
CHANNEL_EFFECT = np.array([0.6, -0.4, 0.8, -1.0])


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
        self.knobs = completed(config)
        self.population: Population = draw_population(address(config.seed, POPULATION), config.users, config.items)
        self.conflict: Conflict = draw_conflict(
            address(config.seed, CONFLICT), self.population, self.knobs["segment_value"]
        )
        sample = self.draw_sample(address(config.seed, SAMPLE))
        interest_R = self.population.interest(sample.user_R, sample.item_R)
        self._interest = moments(interest_R)
        self._attraction = moments(self.attraction(sample.user_R, sample.item_R))
        self._presentation = moments(presentation(sample))
        self._fit = moments(self.population.fit(sample.user_R, sample.item_R))
        self._saturated = moments(saturating(standard(interest_R, self._interest)))
        click_R, conversion_R = self.scores(sample)
        self.click_intercept = solve(lambda b: sigmoid(b + click_R).mean(), self.knobs["click_rate"])
        propensity_R = sigmoid(self.click_intercept + click_R)
        clicked_R = propensity_R / propensity_R.sum()
        self.history = self.draw_history()
        target = self.knobs["conversion_rate"]
        self.conversion_intercept = solve(lambda b: clicked_R @ sigmoid(b + conversion_R), target)

    def draw_history(self) -> Bags | None:
        config, people = self.config, self.population
        if not config.history:
            return None

        def click_logit(user_R: np.ndarray, item_R: np.ndarray) -> np.ndarray:
            return config.selection * standard(self.attraction(user_R, item_R), self._attraction)

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

    def attraction(self, user_R: np.ndarray, item_R: np.ndarray) -> np.ndarray:
        """What draws a click before presentation (not yet standardised): interest, and how the item is packaged."""
        packaging_R = self.knobs["clickbait"] * self.conflict.packaging_I[item_R]
        return self.population.interest(user_R, item_R) + packaging_R

    def scores(self, shown: Exposures) -> tuple[np.ndarray, np.ndarray]:
        """Click and conversion logits without their intercepts."""
        config, people, knobs = self.config, self.population, self.knobs
        a_R = standard(self.attraction(shown.user_R, shown.item_R), self._attraction)
        m_R = standard(people.interest(shown.user_R, shown.item_R), self._interest)
        w_R = standard(presentation(shown), self._presentation)
        f_R = standard(people.fit(shown.user_R, shown.item_R), self._fit)
        g_R = standard(saturating(m_R), self._saturated)
        unseen_R, share = knobs["hidden"] * shown.hidden_R, knobs["presentation"]
        click_R = config.selection * (np.sqrt(1 - share) * a_R + np.sqrt(share) * w_R) + unseen_R
        conversion_R = config.confounding * g_R + 0.8 * f_R + unseen_R
        if config.presentation_sells:
            conversion_R += config.presentation_sells * w_R
        conversion_R -= knobs["disappointment"] * self.conflict.packaging_I[shown.item_R]
        conversion_R -= knobs["price_sensitivity"] * people.log_price_I[shown.item_R]
        return click_R, conversion_R

    def probabilities(self, shown: Exposures) -> Probabilities:
        click_R, conversion_R = self.scores(shown)
        return Probabilities(sigmoid(self.click_intercept + click_R), sigmoid(self.conversion_intercept + conversion_R))

    def delays(self, shown: Exposures, rng: np.random.Generator) -> np.ndarray:
        """Days from each click to its conversion, if there is one."""
        mean_R = self.config.delay * np.exp(0.5 * self.population.log_price_I[shown.item_R])
        return mean_R * rng.exponential(size=len(mean_R))

    def value(self, shown: Exposures) -> np.ndarray:
        """What a conversion of each exposure is worth: the price paid, by the segment's order size."""
        price_R = np.exp(self.population.log_price_I[shown.item_R]) * (1 - shown.discount_R)
        return price_R * self.conflict.order_size_U[shown.user_R]


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
