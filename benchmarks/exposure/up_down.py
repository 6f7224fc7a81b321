"""More or less of a category on the paper's simulation: T-, X-, DR-learners one at a time, DML on all at once.

    python -m benchmarks.exposure.up_down            # 8,000 rows, 5 seeds, noise 0 and .3

right      share of users and categories for whom the sign of the effect says on which side of the median the optimum
           lies (.5: a coin)
error      root mean squared difference from the true effect: of the user's group, the mean outcome of shares above
           the median less that of shares below it, in a large sample of the simulation. What T, X and DR estimate; DML
           holds the other categories' sides at what they are, so its own estimand is another
chosen     of the user's six categories, how often the one whose effect is largest is one that should go up
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.exposure.pieces import Pieces
from funnel.exposure.shares import ShareRows
from funnel.exposure.simulation import best_shares, simulate, value
from funnel.exposure.up_down import UpDown, UpDownSettings, ups
from funnel.fitted import here

LEARNERS: tuple[Literal["dml", "t", "x", "dr"], ...] = ("t", "x", "dr", "dml")


@dataclass
class Options:
    seeds: int = 5
    first: int = 100
    rows: int = 8_000
    noise: tuple[float, ...] = (0.0, 0.3)
    cache: Path | None = None
    """File that keeps results: the same command again goes on."""
    seconds: float = 1e9
    """CPU-seconds after which nothing new is begun."""


def true_effects(median_K: np.ndarray, best_UK: np.ndarray) -> np.ndarray:
    """(U, K) by group, from 100,000 logged mixes, the same for all groups."""
    shares_RK = simulate(100_000, 987).shares_RK
    up_RK = ups(shares_RK, median_K) > 0
    groups, group_U = np.unique(best_UK, axis=0, return_inverse=True)
    effect_GK = np.empty(groups.shape)
    for number, best_K in enumerate(groups):
        outcome_R = value(shares_RK, np.tile(best_K, (len(shares_RK), 1)))
        effect_GK[number] = [outcome_R[up_R].mean() - outcome_R[~up_R].mean() for up_R in up_RK.T]
    return np.asarray(effect_GK[group_U.ravel()])


def figures(train: ShareRows, test: ShareRows, learner: Literal["dml", "t", "x", "dr"], seed: int) -> list[float]:
    """(right, error, chosen, CPU-seconds)."""
    arrays = {"x": train.features_RF, "treatment": train.shares_RK, "outcome.value": train.outcome_R,
              "features": np.array(train.feature_names), "categories": np.array(train.categories)}  # fmt: skip
    begun = time.process_time()
    fitted = UpDown.fit(UpDownSettings(learner=learner), arrays, seed, here)
    effect_UK = fitted.effects(test.features_RF)
    seconds = time.process_time() - begun
    median_K, best_UK = np.array(fitted.facts["median"]), best_shares(test.features_RF)
    more_UK = best_UK > median_K
    right = float(((effect_UK > 0) == more_UK).mean())
    error = float(np.sqrt(((effect_UK - true_effects(median_K, best_UK)) ** 2).mean()))
    chosen = float(more_UK[np.arange(len(test)), effect_UK.argmax(axis=1)].mean())
    return [right, error, chosen, seconds]


def main(options: Options) -> None:
    pieces, results = Pieces(options.cache, options.seconds), dict[str, list[list[float]]]()
    for noise in options.noise:
        for seed in range(options.first, options.first + options.seeds):
            rows = simulate(options.rows + 5000, seed, noise)
            train, test = rows.take(np.arange(options.rows)), rows.take(np.arange(options.rows, len(rows)))
            for learner in LEARNERS:

                def compute(
                    train: ShareRows = train, test: ShareRows = test, learner: str = learner, seed: int = seed
                ) -> list[float]:
                    return figures(train, test, learner, seed)  # type: ignore[arg-type]

                if (found := pieces.get(f"{noise:g} {seed} {learner}", compute)) is not None:
                    results.setdefault(f"{learner}, noise {noise:g}", []).append(found)
    lines = []
    for name, values in results.items():
        right, error, chosen, seconds = np.array(values).T
        ends = [f"{each.mean():.3f} ({each.min():.3f} to {each.max():.3f})" for each in (right, error, chosen)]
        lines.append([name, *ends, f"{seconds.mean():.1f}", len(values)])
    table = markdown(["learner", "right", "error", "chosen", "CPU s", "data seeds"], lines)
    own = {key: value for key, value in dataclasses.asdict(options).items() if key not in ("cache", "seconds")}
    head = f"{options.rows:,} rows, boosting as nuisance; mean (least to most). A coin: right .500, chosen .500\n\n"
    write_result("exposure-up-down", {"results": results, "options": own}, head + table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
