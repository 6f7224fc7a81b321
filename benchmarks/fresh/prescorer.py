"""Priors of the pre-scorer by regret and coverage: new items every day, feedback in batches, no platform around.

    python benchmarks/fresh/prescorer.py

A world of its own with known rates: 20 items are uploaded a day and leave after 7; an item's rate of good clicks is
drawn from Beta(2, 18). A request nominates 30 of those that are there, the pre-scorer shows the one with the largest
draw, and what it comes to is known at the end of a quarter of a day. Regret: the best nominee's rate less the shown
one's, per request. Coverage: share of items that had 50 impressions within their first two days.
Shapes: R requests, N nominees.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.bench import markdown, write_result
from funnel.fresh.prescorer import MANY, UNIFORM, Prior, draws, dynamic_prior, likelihood_prior
from funnel.platform.episodes import interval

DAYS, BATCHES, REQUESTS, NOMINEES = 24, 4, 400, 30
UPLOADS, STAY, EARLY, ENOUGH = 20, 7, 2, 50
RATE = (2.0, 18.0)
SEEDS = 8
FIRST = 7
"""Days before anything is counted."""


@dataclass
class Bandit:
    """Items of all days; the counters move at the end of a batch."""

    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.items = UPLOADS * (DAYS + STAY)
        self.rate_I = self.rng.beta(*RATE, self.items)
        self.upload_I: np.ndarray = np.arange(self.items) // UPLOADS - STAY
        self.good_I: np.ndarray = np.zeros(self.items, np.int64)
        self.shown_I: np.ndarray = np.zeros(self.items, np.int64)
        self.early_I: np.ndarray = np.zeros(self.items, np.int64)

    def there(self, day: int) -> np.ndarray:
        return np.flatnonzero((self.upload_I <= day) & (self.upload_I > day - STAY))


Choose = Callable[[Bandit, np.ndarray], Prior]


def fitted(bandit: Bandit) -> Prior:
    return likelihood_prior(bandit.good_I, bandit.shown_I, MANY) or UNIFORM


def dynamic(chance: float, strength: float = 0.0) -> Choose:
    """strength 0: the fitted prior's; the winner is the item there whose posterior mean is largest."""

    def prior(bandit: Bandit, item_P: np.ndarray) -> Prior:
        base = fitted(bandit)
        good_P, shown_P = bandit.good_I[item_P], bandit.shown_I[item_P]
        best = int(np.argmax((base.a + good_P) / (base.strength + shown_P)))
        winner = Prior(base.a + float(good_P[best]), base.b + float(shown_P[best] - good_P[best]))
        return dynamic_prior(strength or base.strength, winner, chance)

    return prior


PRIORS: dict[str, Choose] = {
    "uniform": lambda bandit, item_P: UNIFORM,
    "likelihood": lambda bandit, item_P: fitted(bandit),
    "dynamic .003": dynamic(0.003),
    "dynamic .01": dynamic(0.01),
    "dynamic .03": dynamic(0.03),
    "dynamic .1": dynamic(0.1),
    "dynamic .1, strength 2": dynamic(0.1, 2.0),
    "dynamic .3, strength 2": dynamic(0.3, 2.0),
}


def lived(choose: Choose, seed: int) -> tuple[float, float]:
    """(regret a request, coverage) of a world of this seed."""
    bandit, rng, regret = Bandit(np.random.default_rng([seed, 0])), np.random.default_rng([seed, 1]), 0.0
    for day in range(DAYS):
        item_P = bandit.there(day)
        for _ in range(BATCHES):
            prior = choose(bandit, item_P)
            item_RN = item_P[rng.random((REQUESTS, len(item_P))).argsort(1)[:, :NOMINEES]]
            word_RN = rng.integers(0, 2**64, item_RN.shape, np.uint64)
            draw_RN = draws(word_RN, bandit.good_I[item_RN], bandit.shown_I[item_RN], prior)
            shown_R = item_RN[np.arange(REQUESTS), draw_RN.argmax(1)]
            good_R = rng.random(REQUESTS) < bandit.rate_I[shown_R]
            if day >= FIRST:
                regret += float((bandit.rate_I[item_RN].max(1) - bandit.rate_I[shown_R]).sum())
            bandit.shown_I += np.bincount(shown_R, minlength=bandit.items)
            bandit.good_I += np.bincount(shown_R[good_R], minlength=bandit.items)
            young_R = day - bandit.upload_I[shown_R] < EARLY
            bandit.early_I += np.bincount(shown_R[young_R], minlength=bandit.items)
    counted_I = (bandit.upload_I >= FIRST) & (bandit.upload_I <= DAYS - EARLY)
    return regret / ((DAYS - FIRST) * BATCHES * REQUESTS), float((bandit.early_I[counted_I] >= ENOUGH).mean())


def main() -> None:
    found = {name: [lived(choose, seed) for seed in range(SEEDS)] for name, choose in PRIORS.items()}
    rows = []
    for name, values in found.items():
        regret, coverage = (interval(100 * value[k] for value in values) for k in (0, 1))
        paired = interval(100 * (one[0] - other[0]) for one, other in zip(values, found["likelihood"], strict=True))
        rows.append([name, regret, coverage, "" if name == "likelihood" else paired])
    text = (
        f"{SEEDS} worlds, 95% intervals; regret in good clicks per 100 requests, coverage in percent of new items.\n\n"
    )
    text += markdown(["prior", "regret", "coverage", "regret less likelihood's"], rows)
    write_result("fresh-prescorer", {"worlds": found}, text)


if __name__ == "__main__":
    main()
