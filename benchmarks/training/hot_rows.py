"""What it would save to keep the rows that most batches touch on every worker, and shard only the others.

    python -m benchmarks.training.hot_rows

Counts on drawn ids (table_size.py), nothing is trained. H hot rows are the H that are drawn most often. Their vectors
need not be asked for; their gradients are summed over workers as dense ones are, in a buffer of H rows, touched or not,
by way of the grid (distributed/tables/grid.py). Every other row travels as now: twice, where the batch touches it.
"""

from dataclasses import dataclass

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.training import table_size
from distributed.tables.grid import MANY, sides

WIDTH, FIELDS = table_size.Arguments.width, table_size.Arguments.fields


@dataclass
class Arguments:
    rows: tuple[int, ...] = (2_000_000, 20_000_000)
    workers: tuple[int, ...] = (2, 64)
    batch: int = 4096
    """Of a worker."""
    hot: tuple[int, ...] = (0, 1_000, 10_000, 100_000)


def main(arguments: Arguments) -> None:
    lines, found = [], []
    for rows in arguments.rows:
        for workers in arguments.workers:
            batches = [[draw(rows, arguments.batch, seed, rank) for rank in range(workers)] for seed in (1, 2)]
            first, second = (np.unique(np.concatenate(ids)) for ids in batches)
            for hot in arguments.hot:
                own = batches[1][0]
                cold = own[own % (rows // FIELDS) >= hot // FIELDS]
                late = np.isin(cold, first, assume_unique=True).mean()
                away = 1 - 1 / workers
                hops = len(sides(workers)) if workers >= MANY else 1
                sent = 8 * WIDTH * away * len(cold) + 2 * hops * 4 * WIDTH * hot * away
                found.append({"rows": rows, "workers": workers, "hot": hot, "distinct": len(own), "cold": len(cold),
                              "touched_by_all": len(second), "late": late, "sent": sent})  # fmt: skip
                lines.append([f"{rows:,}", workers, f"{hot:,}", f"{len(own):,}", f"{len(own) - len(cold):,}",
                              f"{sent / 1e6:.2f}", f"{late:.0%}"])  # fmt: skip
    header = ["table rows", "workers", "hot rows", "distinct rows of a worker's batch", "hot ones of them"]
    header += ["MB of rows sent a worker and step", "cold ones in the batch before too"]
    how = f"{FIELDS} fields, {WIDTH} wide, {arguments.batch} rows a worker.\n\n"
    write_result("hot-rows", {"arguments": vars(arguments), "runs": found}, how + markdown(header, lines))


def draw(rows: int, batch: int, seed: int, rank: int) -> np.ndarray:
    """Distinct ids of one worker's batch, sorted."""
    size = rows // FIELDS
    place = np.random.default_rng([seed, rank]).random((batch, FIELDS))
    return np.unique((place**table_size.STEEPNESS * size).astype(np.int64) + np.arange(FIELDS) * size)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
