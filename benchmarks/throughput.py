"""What Ray Train costs and gives: rows/s and start-up of the same training in a plain loop and with 1 and 2 workers.

    python -m benchmarks.throughput --rows 400000 --repeats 3

Each figure is a run of `python -m jobs.train` of its own, the variants one after the other in every repeat, so that a
busy machine disturbs all of them alike. rows/s counts from the first batch of the first step to the last step, reading
included; start-up is from the command to the first step, checks of the log included.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.bench import markdown, write_result
from data.generate import generate_log
from data.world import GeneratedLog

VARIANTS = {  # workers, threads of each process
    "plain loop, 1 thread": (0, 1),
    "plain loop, 2 threads": (0, 2),
    "Ray Train, 1 worker of 1 thread": (1, 1),
    "Ray Train, 2 workers of 1 thread": (2, 1),
}
BASELINE = "plain loop, 1 thread"


@dataclass
class Arguments:
    rows: int = 400_000
    """Rows of the generated log; four fifths are trained on."""
    repeats: int = 3
    """Runs of each variant."""


def main(arguments: Arguments) -> None:
    """Run all variants, write the table."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        generate_log(GeneratedLog(rows=arguments.rows), log)
        for repeat in range(arguments.repeats):
            for number, (name, (workers, threads)) in enumerate(VARIANTS.items()):
                out = Path(folder) / f"run-{repeat}-{number}"
                runs[name].append(train(log, out, workers, threads))
                print(f"{name}: {runs[name][-1]}", flush=True)
    base = [run["rows_per_s"] for run in runs[BASELINE]]
    rows = []
    for name, own in runs.items():
        rate = statistics.median(run["rows_per_s"] for run in own)
        ratio = statistics.median(run["rows_per_s"] / other for run, other in zip(own, base, strict=True))
        low, high = min(run["rows_per_s"] for run in own), max(run["rows_per_s"] for run in own)
        startup = statistics.median(run["startup_s"] for run in own)
        rows.append([name, f"{rate:,.0f}", f"{low:,.0f} to {high:,.0f}", f"{ratio:.2f}", f"{startup:.1f}"])
    table = markdown(["training", "rows/s (median)", "range", "ratio to plain, 1 thread", "start-up s"], rows)
    how = f"{arguments.rows * 4 // 5:,} rows, 1 epoch, defaults (MMoE of 4 experts 128-64, 11 id fields of width 16, "
    write_result("throughput", {"runs": runs}, f"{how}ESCM2-IPS); {arguments.repeats} repeats.\n\n{table}")


def train(log: Path, out: Path, workers: int, threads: int) -> dict[str, float]:
    command = [sys.executable, "-m", "jobs.train", "--data", str(log), "--out", str(out)]
    command += ["--workers", str(workers), "--epochs", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    summary = json.loads((out / "summary.json").read_text())
    return {
        "rows_per_s": summary["train.rows_per_s"],
        "startup_s": summary["train.startup_s"],
        "seconds": summary["train.seconds"],
    }


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
