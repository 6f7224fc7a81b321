"""What training would do on more workers than this machine holds: measured costs, formulas, stated assumptions.

    python -m benchmarks.training.cost_growth && python -m benchmarks.training.scale
    python -m benchmarks.training.scale --gigabit 25 --table-rows 1000000000

Reads the newest cost-growth result. A worker is one core. Its step on b rows takes

    t(b) + w D(b) + bytes / bandwidth + messages x latency + jitter t(b)

t and the distinct rows D are interpolated between the measured batches; w is what handing rows over and taking them in
costs the core, from the two measured workers (their loopback transport included, so it is counted twice, on the safe
side); with replicated tables every worker takes in everybody's rows, w W D / 2. Bytes are those of
distributed/tables/placement.py, which the runs of table_size.py met to the byte, and
2 (1 - 1/W) x 4 P for P dense weights.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

from benchmarks.bench import RESULTS, markdown, write_result
from benchmarks.training import table_size
from benchmarks.training.cost_growth import BASE
from benchmarks.training.table_bytes import bytes_of_rows, bytes_per_step, bytes_to_all
from distributed.context import CPU
from models.rows import EVERY_ROW

MESSAGES = {"replicated": 3, "sharded": 6}  # collectives a step with one table: loop.py, tables/placement.py


@dataclass
class Arguments:
    workers: tuple[int, ...] = (1, 2, 8, 64, 256)
    batch: tuple[int, ...] = (512, 4096)
    """Rows of a worker's share of the global batch."""
    gigabit: float = 10.0
    """Of a worker's network link a second."""
    latency_us: float = 50.0
    """Of a message; a collective over W workers has W - 1 of them (all to all) in a row at worst."""
    jitter: float = 0.05
    """How much longer the slowest worker's step takes than the middle one's."""
    table_rows: int = 100_000_000
    rows_a_day: float = 1e9


def main(arguments: Arguments) -> None:
    path = sorted(RESULTS.glob("*-cost-growth.json"))[-1]
    costs = Costs(json.loads(path.read_text())["runs"])
    rows, found = [], []
    for batch in arguments.batch:
        for tables in ("replicated", "sharded"):
            for workers in arguments.workers:
                if workers == 1 and tables == "sharded":
                    continue
                step = predict(costs, arguments, workers, batch, tables)
                found.append({"batch": batch, "tables": tables, "workers": workers, **step})
                rows.append([
                    f"{batch:,}", tables if workers > 1 else "", f"{workers:,}", f"{workers * batch:,}",
                    f"{step['seconds'] * 1e3:.0f}", f"{step['rows_per_s']:,.0f}", f"{step['efficiency']:.0%}",
                    f"{step['bytes'] / 1e6:.1f}", f"{step['memory'] / 2**30:.2f}",
                    duration(arguments.rows_a_day / step["rows_per_s"]),
                ])  # fmt: skip
    header = ["rows a worker", "table", "workers", "global batch", "ms a step", "rows/s", "efficiency"]
    header += ["MB sent a worker and step", "GiB of table a worker", f"time for {arguments.rows_a_day:.0e} rows"]
    about = (
        f"Costs from {path.name}: {BASE.fields} fields, {BASE.width} wide, MMoE of 4 experts 128-64, {costs.dense:,} "
        f"dense weights; handing rows over costs {costs.handing['replicated'] * 1e9:.0f} ns a distinct row replicated, "
        f"{costs.handing['sharded'] * 1e9:.0f} sharded. Assumed: {arguments.gigabit:g} Gbit/s a worker, "
        f"{arguments.latency_us:g} us a message, {arguments.jitter:.0%} jitter, {arguments.table_rows:,} table "
        "rows.\n\n"
    )
    write_result("train-scale", {"arguments": vars(arguments), "steps": found}, about + markdown(header, rows))


class Costs:
    """What cost_growth.py measured, in seconds and counts."""

    def __init__(self, runs: dict[str, Any]) -> None:
        def middle(knob: str, label: str, key: str) -> float:
            return float(np.median([run[key] for run in runs[knob][label]]))

        labels = list(runs["batch"])
        self.batches = [int(label.replace(",", "")) for label in labels]
        self.seconds_at = [middle("batch", label, "ms") / 1e3 for label in labels]
        self.distinct_at = [middle("batch", label, "distinct") for label in labels]
        self.handing = {}
        half = BASE.batch // 2
        for tables in MESSAGES:
            extra = middle("workers", f"2 {tables}", "ms") / 1e3 - self.seconds(half)
            self.handing[tables] = extra / middle("workers", f"2 {tables}", "distinct")
        network = table_size.make_job("", BASE).open_problem(CPU).network(EVERY_ROW, seed=0)
        self.dense = sum(parameter.numel() for parameter in network.parameters())

    def seconds(self, batch: float) -> float:
        return float(np.interp(batch, self.batches, self.seconds_at))

    def distinct(self, batch: float) -> float:
        return float(np.interp(batch, self.batches, self.distinct_at))


def predict(costs: Costs, arguments: Arguments, workers: int, batch: int, tables: str) -> dict[str, float]:
    """Seconds a step, rows/s over all workers, bytes a worker sends, bytes of table it holds."""
    alone, distinct = costs.seconds(batch), round(costs.distinct(batch))
    seconds, sent = alone, 0.0
    if workers > 1:
        home = round(distinct / workers)
        away = distinct - home
        handled = distinct * (workers / 2 if tables == "replicated" else 1)
        of_rows = bytes_per_step(distinct, home, away, BASE.width, workers)
        if tables == "replicated":
            of_rows = bytes_to_all(distinct, BASE.width, workers)
        sent = of_rows + 2 * (1 - 1 / workers) * 4 * costs.dense
        seconds += costs.handing[tables] * handled + sent / (arguments.gigabit * 1e9 / 8)
        seconds += MESSAGES[tables] * (workers - 1) * arguments.latency_us * 1e-6 + arguments.jitter * alone
    held = -(-arguments.table_rows // (workers if tables == "sharded" else 1))
    return {
        "seconds": seconds,
        "rows_per_s": workers * batch / seconds,
        "efficiency": alone / seconds,
        "bytes": sent,
        "memory": bytes_of_rows(held, BASE.width, "adagrad"),
    }


def duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
