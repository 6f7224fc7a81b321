"""How the cost of a training step grows: with the table, the fields, the batch and the workers. docs/scale.md reads it.

    python -m benchmarks.training.cost_growth

One knob at a time is turned around 23 fields, 2 million rows, batch 4096, one worker; every case is a fresh process (or
several) of one thread that steps the trainer on synthetic ids, as table_size.py does. Communication is the
loopback of one machine, whose workers share its cores and its memory: what two of them gain is a lower bound.
"""

import dataclasses
import statistics
import tempfile
from dataclasses import dataclass
from typing import Any

import torch.multiprocessing as mp
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.training import table_size
from benchmarks.training.table_bytes import bytes_of_rows

BASE = table_size.Arguments(rows=2_000_000, tables="replicated", steps=15)
CASES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "table rows": [(f"{rows:,}", {"rows": rows}) for rows in (10**5, 10**6, 10**7, 10**8)],
    "fields": [(str(fields), {"fields": fields}) for fields in (6, 12, 23, 46)],
    "batch": [(f"{batch:,}", {"batch": batch}) for batch in (512, 1024, 4096, 16_384)],
    "workers": [(f"{workers} {tables}", {"workers": (workers,), "tables": tables})
                for tables in ("replicated", "sharded") for workers in (1, 2)],
}  # fmt: skip


@dataclass
class Arguments:
    repeats: int = 3
    """Runs of each case; all cases take turns."""


def measure(change: dict[str, Any]) -> dict[str, float]:
    """Median ms a step, rows/s, peak bytes of a worker over what it had before, and bytes it sends a step."""
    arguments = dataclasses.replace(BASE, **{"workers": (1,), **change})
    (workers,) = arguments.workers
    with tempfile.TemporaryDirectory() as folder:
        queue = mp.get_context("spawn").SimpleQueue()
        mp.spawn(table_size.worker, args=(workers, folder, arguments, queue), nprocs=workers)
        reports = [queue.get() for _ in range(workers)]
    seconds = statistics.median(reports[0].step_s)
    return {
        "ms": seconds * 1e3,
        "rows_per_s": arguments.batch / seconds,
        "memory": max(report.memory for report in reports),
        "table": bytes_of_rows(-(-arguments.rows // (workers if arguments.tables == "sharded" else 1)), 16, "adagrad"),
        "sent": statistics.mean(statistics.mean(report.sent) for report in reports),
        "distinct": statistics.mean(report.distinct for report in reports),
    }


def main(arguments: Arguments) -> None:
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for repeat in range(arguments.repeats):
        for knob, cases in CASES.items():
            for label, change in cases:
                runs = found.setdefault(knob, {}).setdefault(label, [])
                runs.append(measure(change))
                print(f"{repeat} {knob} {label}: {runs[-1]}", flush=True)
    rows = []
    for knob, cases_found in found.items():
        for label, runs in cases_found.items():
            middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            rows.append([
                knob, label, f"{middle['ms']:.1f}", f"{middle['rows_per_s']:,.0f}", f"{middle['distinct']:,.0f}",
                f"{middle['table'] / 2**20:,.0f}", f"{middle['memory'] / 2**20:,.0f}", f"{middle['sent'] / 2**20:.2f}",
            ])  # fmt: skip
    header = ["knob", "at", "ms a step", "rows/s", "distinct rows", "table MiB", "peak MiB", "MiB sent a step"]
    how = (
        f"{BASE.fields} fields, {BASE.rows:,} rows x 16, batch {BASE.batch}, MMoE of 4 experts 128-64, one thread a "
        f"worker, unless said otherwise; medians of {arguments.repeats} runs.\n\n"
    )
    write_result("cost-growth", {"runs": found}, how + markdown(header, rows))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
