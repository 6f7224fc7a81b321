"""What pairs of worlds with common random numbers are worth, and what the two designs of a test see.

    python -m benchmarks.platform.pairs

The treatment is a fresh slot filled at random, the control has none. Beside the effects with their 95% intervals: the
standard deviation of a pair's relative effect, and of the same difference between worlds of different seeds; the square
of their ratio is how many times more worlds a test without pairs would need.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from funnel.platform.designs import DESIGNS, run_pair, values
from funnel.platform.experiment import effects
from funnel.platform.figures import METRICS
from funnel.platform.presets import random_slot
from funnel.platform.settings import PlatformSettings
from funnel.simulator import Compared


@dataclass
class Arguments:
    pairs: int = 16
    """Of each design."""
    days: int = 14
    """Of the test."""


def main(arguments: Arguments) -> None:
    """Run both designs and write the table."""
    settings, found, spread = PlatformSettings(), {}, {}
    for design in DESIGNS:
        compared = Compared({}, random_slot(), "plain", "random_slot", design, arguments.days)
        tables = [run_pair(settings, compared, pair) for pair in range(arguments.pairs)]
        found[design] = effects(tables, slice(None))
        spread[design] = spreads([values(one, slice(None)) for one in tables])
    rows: list[list[Any]] = []
    for metric in METRICS:
        row: list[Any] = [metric]
        for design in DESIGNS:
            ends = [found[design].get(f"{metric}.effect{end}") for end in ("", ".low", ".high")]
            row.append("" if None in ends else "{:+.2f}% ({:+.2f} to {:+.2f})".format(*(100 * x for x in ends)))
        paired, apart = spread["user_corpus"][metric]
        row += [f"{100 * paired:.2f}%", f"{100 * apart:.2f}%", f"{(apart / paired) ** 2:,.0f}" if paired else ""]
        rows.append(row)
    head = ["metric", "user-corpus co-diverted", "user-diverted", "SD of a pair", "SD unpaired", "times more worlds"]
    write_result("platform-pairs", {"effects": found, "spread": spread}, markdown(head, rows))


def spreads(by_pair: list[dict[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """{metric: (standard deviation of the relative effect in pairs, the same between worlds of different seeds)}."""
    found = {}
    for metric in METRICS:
        base_P, effect_P = np.array([one[metric] for one in by_pair]).T
        mean = base_P.mean() or 1.0
        apart_P = base_P + effect_P - np.roll(base_P, 1)
        found[metric] = (float(effect_P.std(ddof=1) / mean), float(apart_P.std(ddof=1) / mean))
    return found


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
