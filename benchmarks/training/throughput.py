"""What Ray Train costs and gives: rows/s and start-up of the same training in a plain loop and with 1 and 2 workers.

    python -m benchmarks.training.throughput --rows 400000 --repeats 3
    python -m benchmarks.training.throughput --case wide                # 23 fields, 2 million table rows, batch 4096

Each figure is a run of `python -m jobs.train` of its own, the variants one after the other in every repeat, so that a
busy machine disturbs all of them alike. rows/s counts from the first batch of the first step to the last step, reading
included; start-up is from the command to the first step, checks of the log included. Two plain loops at once, each on
all the rows, say what the machine gives to two processes: the ceiling for two workers.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.settings import Settings, options
from benchmarks.training.peers import BATCH, write_log
from data.generate import generate_log
from data.world import GeneratedLog

VARIANTS = {  # workers, threads of each process, where table rows lie
    "plain loop, 1 thread": (0, 1, "replicated"),
    "plain loop, 2 threads": (0, 2, "replicated"),
    "Ray Train, 1 worker of 1 thread": (1, 1, "replicated"),
    "Ray Train, 2 workers of 1 thread": (2, 1, "replicated"),
    "Ray Train, 2 workers of 1 thread, sharded table": (2, 1, "sharded"),
}
BASELINE = "plain loop, 1 thread"
PAIR = "two plain loops at once, 1 thread each, together"


@dataclass
class Arguments:
    rows: int = 400_000
    """Rows of the generated log; four fifths are trained on."""
    repeats: int = 3
    """Runs of each variant."""
    case: Literal["default", "wide"] = "default"
    """default: the generated log and jobs.train's settings; wide: that of benchmarks/training/peers.py."""


def main(arguments: Arguments) -> None:
    """Run all variants, write the table."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        settings: Settings = {}
        if arguments.case == "wide":
            write_log(log, arguments.rows, 87_000)
            settings = {"batch_size": BATCH}
        else:
            generate_log(GeneratedLog(world="aligned", rows=arguments.rows), log)
        for repeat in range(arguments.repeats):
            for number, (name, (workers, threads, tables)) in enumerate(VARIANTS.items()):
                out = Path(folder) / f"run-{repeat}-{number}"
                runs[name].append(result(out, start(log, out, workers, threads, settings, tables)))
                print(f"{name}: {runs[name][-1]}", flush=True)
            outs = [Path(folder) / f"pair-{repeat}-{number}" for number in range(2)]
            processes = [start(log, out, 0, 1, settings) for out in outs]
            both = [result(out, process) for out, process in zip(outs, processes, strict=True)]
            rates = [run["rows_per_s"] for run in both]
            runs.setdefault(PAIR, []).append({**both[0], "rows_per_s": sum(rates)})
            print(f"{PAIR}: {rates}", flush=True)
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
    if arguments.case == "wide":
        how = f"{arguments.rows:,} rows, 1 epoch, batch {BATCH}, MMoE of 4 experts 128-64, 23 id fields of width 16 ("
    name = "throughput" if arguments.case == "default" else "throughput-wide"
    write_result(name, {"runs": runs}, f"{how}ESCM2-IPS); {arguments.repeats} repeats.\n\n{table}")


def start(
    log: Path, out: Path, workers: int, threads: int, settings: Settings, tables: str = "replicated"
) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "jobs.train", "--data", str(log), "--out", str(out), "--tables", tables]
    command += ["--workers", str(workers), "--epochs", "1", *options(settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def result(out: Path, process: "subprocess.Popen[bytes]") -> dict[str, float]:
    assert process.wait() == 0, f"{process.args!r} ended with {process.returncode}"
    summary = json.loads((out / "summary.json").read_text())
    return {
        "rows_per_s": summary["train.rows_per_s"],
        "startup_s": summary["train.startup_s"],
        "seconds": summary["train.seconds"],
    }


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
