"""The pre-scorer: which of the nominated items are worth a look by the ranker, as a Bernoulli bandit on good clicks.

    r_i ~ Beta(a0 + x_i, b0 + n_i - x_i)      x good clicks in n impressions; the largest draws are kept

Thompson sampling as in Wang et al., Fresh Content Needs More Attention, KDD 2023, s.3.2. a0, b0 by maximum likelihood
of the beta-binomial over items with many impressions (`likelihood_prior`), or so that a new item beats the present
winner with a stated probability (`dynamic_prior`) [Zhao et al., Dynamic Prior Thompson Sampling, arXiv 2602.00943].

Shapes: I items, R requests, N nominated items of a request.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.special import betainc, betaln, digamma, ndtri, roots_legendre

from funnel.platform.draws import sixteen
from funnel.platform.numbers import normal_table

MANY = 100
"""Impressions from which an item's rate says something of the prior."""
LEAST, MOST = 1e-3, 1e6
NODES = 256


@dataclass(frozen=True)
class Prior:
    """Beta(a, b)."""

    a: float
    b: float

    @property
    def mean(self) -> float:
        return self.a / (self.a + self.b)

    @property
    def strength(self) -> float:
        """Impressions that it is worth."""
        return self.a + self.b

    def scaled(self, factor: float) -> "Prior":
        """The same mean, `factor` times the strength."""
        return Prior(self.a * factor, self.b * factor)


UNIFORM = Prior(1.0, 1.0)


def likelihood_prior(good_I: np.ndarray, shown_I: np.ndarray, many: int = MANY, least_items: int = 5) -> Prior | None:
    """(a0, b0) that maximise the beta-binomial likelihood of the items with at least `many` impressions.

    None where fewer than `least_items` items have so many: two numbers cannot be read off them. Newton steps of a
    quasi-Newton method in (log a, log b), from the moments; the likelihood grows without end where rates differ no more
    than by chance, so both are held below 1e6.
    """
    enough_I = shown_I >= many
    if enough_I.sum() < least_items:
        return None
    x_I, n_I = good_I[enough_I].astype(np.float64), shown_I[enough_I].astype(np.float64)

    def negative(log_ab: np.ndarray) -> tuple[float, np.ndarray]:
        a, b = np.exp(log_ab)
        value = betaln(a + x_I, b + n_I - x_I).sum() - len(x_I) * betaln(a, b)
        both = digamma(a + b) - digamma(a + b + n_I)
        slope = np.array(
            [
                a * (digamma(a + x_I) - digamma(a) + both).sum(),
                b * (digamma(b + n_I - x_I) - digamma(b) + both).sum(),
            ]
        )
        return -value / len(x_I), -slope / len(x_I)

    bounds = [(np.log(LEAST), np.log(MOST))] * 2
    start = moments(x_I, n_I)
    begin = np.clip(np.log([start.a, start.b]), *bounds[0])
    found = minimize(negative, begin, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12})
    a, b = np.exp(found.x)
    return Prior(float(a), float(b))


def moments(x_I: np.ndarray, n_I: np.ndarray) -> Prior:
    """Mean and variance of the rates, less the variance that counting alone gives."""
    rate_I = x_I / n_I
    mean = min(max(float(x_I.sum() / n_I.sum()), 1e-4), 1 - 1e-4)
    chance = float((mean * (1 - mean) / n_I).mean())
    spread = max(float(rate_I.var()) - chance, 1e-3 * mean * (1 - mean))
    strength = max(mean * (1 - mean) / spread - 1, 0.1)
    return Prior(mean * strength, (1 - mean) * strength)


def chance_of_beating(new: Prior, winner: Prior) -> float:
    """P(X > Y) of independent X ~ new and Y ~ winner: the integral over u of P(X > F_Y^-1(u)), by Gauss's rule in the
    winner's range."""
    mean, width = winner.mean, np.sqrt(winner.mean * (1 - winner.mean) / (winner.strength + 1))
    low, high = max(0.0, mean - 12 * width), min(1.0, mean + 12 * width)
    node, weight = gauss()
    y = low + (high - low) * (node + 1) / 2
    log_density = (winner.a - 1) * np.log(y) + (winner.b - 1) * np.log1p(-y) - betaln(winner.a, winner.b)
    density = weight * np.exp(log_density)
    return float((density * (1 - betainc(new.a, new.b, y))).sum() / density.sum())


@cache
def gauss() -> tuple[np.ndarray, np.ndarray]:
    """Nodes in -1 .. 1 and weights of Gauss's rule."""
    node, weight = roots_legendre(NODES)
    return node, weight


def closed_mean(strength: float, winner: Prior, chance: float) -> float:
    """The prior's mean by which a new item beats the winner with that chance if both were normal:
    the root of (m - mu)^2 = z^2 (m (1 - m) / (strength + 1) + var) on the side that z has."""
    z = float(ndtri(chance))
    mu, scale = winner.mean, z * z / (strength + 1)
    var = mu * (1 - mu) / (winner.strength + 1)
    # (1 + scale) m^2 - (2 mu + scale) m + mu^2 - z^2 var = 0
    a, b, c = 1 + scale, -(2 * mu + scale), mu * mu - z * z * var
    root = np.sqrt(max(b * b - 4 * a * c, 0.0))
    mean = (-b + np.sign(z) * root) / (2 * a)
    return float(min(max(mean, 1e-4), 1 - 1e-4))


def dynamic_prior(strength: float, winner: Prior, chance: float) -> Prior:
    """The prior worth `strength` impressions whose item, never shown, beats the winner with this chance.

    The closed form is exact for normals only; its root is made exact for Betas by bisection.
    """

    def excess(mean: float) -> float:
        return chance_of_beating(Prior(mean * strength, (1 - mean) * strength), winner) - chance

    low, high = 1e-4, 1 - 1e-4
    if excess(low) >= 0:
        mean = low
    elif excess(high) <= 0:
        mean = high
    else:
        mean = float(brentq(excess, low, high, xtol=1e-6))
    return Prior(mean * strength, (1 - mean) * strength)


def draws(
    word_RN: np.ndarray, good_RN: np.ndarray, shown_RN: np.ndarray, prior: Prior, temperature: float = 1.0
) -> np.ndarray:
    """float64_RN: a draw of each item's posterior, from the 64 bits that are addressed by request and item.

    Beta(a, b) = A / (A + B) of Gamma draws, those by Wilson and Hilferty's cube of a normal [PNAS 1931], which is plain
    arithmetic and so the same bits everywhere; quantiles are within .02 where a, b >= 1. temperature: how far a draw
    lies from the posterior mean, as a multiple of what Thompson sampling draws.
    """
    a_RN, b_RN = prior.a + good_RN, prior.b + (shown_RN - good_RN)
    normal = normal_table().take(sixteen(word_RN)[..., :2])
    first_RN, second_RN = gamma(a_RN, normal[..., 0]), gamma(b_RN, normal[..., 1])
    draw_RN = first_RN / (first_RN + second_RN)
    if temperature == 1:
        return draw_RN
    mean_RN = a_RN / (a_RN + b_RN)
    return mean_RN + temperature * (draw_RN - mean_RN)


def gamma(shape: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Gamma draws of these shapes from normal ones: a (1 - 1/(9 a) + z / (3 sqrt a))^3."""
    root = 1 - 1 / (9 * shape) + normal / (3 * np.sqrt(shape))
    root = np.maximum(root, 1e-3)
    return np.asarray(shape * (root * root * root))
