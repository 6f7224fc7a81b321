"""The public figures that the generated world "conflict" follows, measured on the data they come from (data/worlds.py).

    python -m benchmarks.evaluation.conflict_facts --data ../shared/data

Clickbait: the correlation over people of how often each is chosen (click) and chooses (potential conversion) in the
Speed Dating Experiment; without noise, by halves of each one's dates: r(q, p) / sqrt(r(q, q') r(p, p')).
Value: the standard deviation of log spend among Hillstrom's buyers, and of the log of its mean over segments by past
spend, as measured and less what the segments' standard errors explain.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import tyro

from benchmarks.bench import markdown, write_result

LEAST_DATES = 8


@dataclass
class Arguments:
    data: Path = Path("../shared/data")
    """Folder with speed_dating/ and hillstrom/."""
    halves: int = 200
    """Random splits into halves that are averaged."""


def main(arguments: Arguments) -> None:
    """Measure and write the table."""
    figures = speed_dating(arguments.data / "speed_dating", arguments.halves) | hillstrom(arguments.data / "hillstrom")
    rows = [[name, f"{value:,.3f}".removesuffix(".000")] for name, value in figures.items()]
    write_result("conflict-facts", {"figures": figures}, markdown(["figure", "value"], rows))


def speed_dating(folder: Path, halves: int) -> dict[str, float]:
    """Correlations over people of the rates at which they are chosen and choose."""
    log, truth = pq.read_table(folder / "log.parquet"), pq.read_table(folder / "truth.parquet")
    joined = log.select(["exposure_id", "item_id", "click"]).join(truth, "exposure_id")
    item_R = np.unique(joined.column("item_id").to_numpy(), return_inverse=True)[1]
    outcomes_2R = [joined.column(name).to_numpy().astype(np.float64) for name in ("click", "potential_conversion")]
    people = int(item_R.max()) + 1

    def rates(chosen_R: np.ndarray) -> np.ndarray:
        """(2, people): the two rates over the chosen rows, NaN for people without one."""
        count_I = np.bincount(item_R[chosen_R], minlength=people)
        sums = [np.bincount(item_R[chosen_R], y_R[chosen_R], people) for y_R in outcomes_2R]
        return np.stack(sums) / np.where(count_I > 0, count_I, np.nan)

    often_I = np.bincount(item_R) >= LEAST_DATES
    plain = float(np.corrcoef(rates(np.ones(len(item_R), bool))[:, often_I])[0, 1])
    rng, found = np.random.default_rng(0), []
    for _ in range(halves):
        half_R = rng.random(len(item_R)) < 0.5
        four_4I = np.concatenate([rates(half_R), rates(~half_R)])
        r = np.corrcoef(four_4I[:, np.isfinite(four_4I).all(axis=0)])
        found.append([(r[0, 3] + r[2, 1]) / 2, r[0, 2], r[1, 3]])
    across, q, p = np.mean(found, axis=0)
    names = (
        f"people with at least {LEAST_DATES} dates",
        "correlation of being chosen and choosing",
        "the same less noise",
    )
    return dict(zip(names, (float(often_I.sum()), plain, float(across / np.sqrt(q * p))), strict=True))


def hillstrom(folder: Path) -> dict[str, float]:
    """Spread of what buyers spend, and of its mean over segments."""
    table = pq.read_table(folder / "log.parquet", columns=["history_segment", "spend"])
    spend_R = table.column("spend").to_numpy()
    bought_R = spend_R > 0
    spend_B = spend_R[bought_R]
    segment_B = np.unique(np.asarray(table.column("history_segment").to_pylist())[bought_R], return_inverse=True)[1]
    groups = [spend_B[segment_B == segment] for segment in range(segment_B.max() + 1)]
    spread = np.var([np.log(group.mean()) for group in groups], ddof=1)
    noise = np.mean([group.var(ddof=1) / len(group) / group.mean() ** 2 for group in groups])
    return {
        "buyers": float(len(spend_B)),
        "sd of log spend": float(np.log(spend_B).std(ddof=1)),
        "sd of log mean spend over segments": float(np.sqrt(spread)),
        "that less the means' own noise": float(np.sqrt(max(spread - noise, 0.0))),
    }


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
