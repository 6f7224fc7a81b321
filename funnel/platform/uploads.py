"""What providers upload: the items of the first day, and new ones day by day.

A provider of weight w uploads Poisson(uploads * w * (1 - response + response * 2 x / (x + AUDIENCE))) items a day, x =
(positives on its items of the last 7 days + AUDIENCE) / (their number + 1): one whose new items nobody likes uploads
less, one whose new items are liked more, at most twice as much. An audience tells the more, the smaller it was.
"""

import numpy as np

from funnel.platform.corpus import Corpus
from funnel.platform.draws import key, uniforms
from funnel.platform.population import Items, Population

FIRST, UPLOADS = 14, 15
"""First words of the addresses of uploads."""
AUDIENCE = 5.0
LATELY_DAYS = 7.0
MOST = 200
"""Items that a provider uploads in a day, at most."""


def first_items(population: Population) -> tuple[np.ndarray, Items]:
    """(int64_P: uploads so far, the items): `items` of the whole platform, dealt out by the providers' weights, as old
    as if they had been uploaded at the rate of `uploads`. Of a part of the population, its providers' share of them."""
    settings, seed, providers = population.settings, population.seed, population.providers
    count_P = np.floor(settings.items * providers.weight_P + uniforms(key(seed, FIRST), providers.number_P)).astype(
        np.int64
    )
    if not count_P.sum():
        count_P[np.argmax(providers.weight_P)] = 1
    provider_I = np.repeat(np.arange(len(providers)), count_P)
    number_I = np.arange(len(provider_I)) - np.repeat(np.cumsum(count_P) - count_P, count_P)
    days = settings.items / max(settings.uploads, settings.items / 60)
    age_I = days * (number_I + 0.5) / count_P[provider_I]
    upload_I = -np.rint(age_I * 64) / 64
    order_I = np.argsort(upload_I, kind="stable")
    return count_P, population.uploads(provider_I[order_I], number_I[order_I], upload_I[order_I])


def new_items(population: Population, corpus: Corpus, uploaded_P: np.ndarray, day: int) -> Items:
    """The day's uploads; `uploaded_P` counts them (changed in place)."""
    settings, providers, items = population.settings, population.providers, corpus.items
    lately_I = np.flatnonzero(items.upload_I > day - 1 - LATELY_DAYS)
    provider_I = items.provider_I[lately_I]
    liked_P = np.bincount(provider_I, corpus.live[1, lately_I], len(providers))
    own_P = np.bincount(provider_I, minlength=len(providers))
    audience_P = (liked_P + AUDIENCE) / (own_P + 1)
    answer_P = 1 - settings.response + settings.response * 2 * audience_P / (audience_P + AUDIENCE)
    rate_P = settings.uploads * providers.weight_P * np.maximum(answer_P, 0)
    count_P = np.minimum(poisson(rate_P, uniforms(key(population.seed, UPLOADS, day), providers.number_P)), MOST)
    provider_I = np.repeat(np.arange(len(providers)), count_P)
    within_I = np.arange(len(provider_I)) - np.repeat(np.cumsum(count_P) - count_P, count_P)
    number_I = uploaded_P[provider_I] + within_I
    uploaded_P += count_P
    return population.uploads(provider_I, number_I, np.full(len(provider_I), float(day)))


def poisson(mean_P: np.ndarray, uniform_P: np.ndarray) -> np.ndarray:
    """int64_P: Poisson counts by the inverse of their law: more where the mean is larger, for the same uniform."""
    count_P = np.zeros(len(mean_P), np.int64)
    term_P = np.exp(-mean_P)
    below_P = term_P.copy()
    for number in range(1, MOST + 1):
        more_P = uniform_P >= below_P
        if not more_P.any():
            break
        count_P += more_P
        term_P *= mean_P / number
        below_P += term_P
    return count_P
