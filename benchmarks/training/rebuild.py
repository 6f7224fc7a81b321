"""Is this version as fast as another one? The same training and the same evolution with two checkouts, in turns.

    git worktree add /tmp/older COMMIT
    python -m benchmarks.training.rebuild --other /tmp/older
    python -m benchmarks.training.rebuild --other /tmp/older --rows 2000000 --repeats 7 --workers 0

Every figure is a process of its own in the checkout's directory, with the Python that runs this script. In each repeat
the two versions take turns at every case, and who begins changes from repeat to repeat, so that a busy machine disturbs
both alike. Ratios are medians over repeats, each of two neighbours. The log and the scored file are made by the other
checkout: the newer version reads what the older one writes, not the reverse. Only options that both spell alike are
used, such as --epochs, --generations and --pairs.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.bench import markdown, write_result

HERE = Path(__file__).resolve().parent.parent.parent
OTHER, THIS = "other", "this"
UNITS = {"rows_per_s": "rows/s", "startup_s": "s to the first step", "ms": "ms a generation", "seconds": "s in all"}
LARGER_IS_BETTER = ("rows_per_s",)

Run = dict[str, float]
Found = dict[str, dict[str, list[Run]]]


@dataclass
class Arguments:
    other: Path
    """Directory of the other checkout."""
    rows: int = 1_000_000
    """Exposures of the generated log: four fifths are trained on, once; the test part's requests are tuned on."""
    repeats: int = 5
    workers: tuple[int, ...] = (0, 1)
    """Numbers of Ray Train workers; 0 is a process without Ray."""
    generations: int = 300
    pairs: int = 64
    threads: int = 1
    """Of each process."""


def main(arguments: Arguments) -> None:
    """Make the data, run both in turns, write the table."""
    places = {OTHER: arguments.other.expanduser().resolve(), THIS: HERE}
    if not (places[OTHER] / "jobs" / "train.py").exists():
        raise SystemExit(f"--other {arguments.other}: no checkout of this project (no jobs/train.py)")
    found: Found = {}
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="rebuild-") as name:
        folder = Path(name)
        log, scored = make_data(places[OTHER], folder, arguments)
        for repeat in range(arguments.repeats):
            order = list(places) if repeat % 2 == 0 else list(places)[::-1]
            for workers in arguments.workers:
                case = f"training, {workers} workers" if workers else "training, plain loop"
                for who in order:
                    run = train(places[who], log, folder / f"train-{workers}-{repeat}-{who}", workers, arguments)
                    note(found, case, who, run)
            for who in order:
                run = evolve(places[who], scored, folder / f"evolve-{repeat}-{who}", arguments)
                note(found, "evolution, 0 workers", who, run)
            loads.append(os.getloadavg()[0])
    commits = {who: commit_of(place) for who, place in places.items()}
    words = (
        f"{arguments.rows * 4 // 5:,} rows, 1 epoch; {arguments.generations} generations of {arguments.pairs} pairs; "
        f"{arguments.threads} thread a process; {arguments.repeats} repeats. Other: {commits[OTHER]}. Load average "
        f"{min(loads):.1f} to {max(loads):.1f}. Medians with their ranges; speed: above 1 this version is faster.\n\n"
    )
    figures = {"commits": commits, "loads": loads, "runs": found}
    write_result("rebuild", figures, words + table(found))


def make_data(place: Path, folder: Path, arguments: Arguments) -> tuple[Path, Path]:
    """A generated log, and its test part scored by a model that was trained for an epoch."""
    log, run, scored = folder / "log", folder / "model", folder / "scored.parquet"
    job(place, arguments, "make_data", "--rows", arguments.rows, "--out", log)
    job(place, arguments, "train", "--data", log, "--out", run, "--workers", 0, "--epochs", 1)
    job(place, arguments, "score", "--run", run, "--data", log, "--out", scored)
    return log, scored


def train(place: Path, log: Path, out: Path, workers: int, arguments: Arguments) -> Run:
    words = ("--epochs", 1, "--objective.name", "escm2_ips")  # the default has changed
    seconds = job(place, arguments, "train", "--data", log, "--out", out, "--workers", workers, *words)
    summary = json.loads((out / "summary.json").read_text())
    return {
        "rows_per_s": summary["train.rows_per_s"],
        "startup_s": summary["train.startup_s"],
        "seconds": seconds,
    }


def evolve(place: Path, scored: Path, out: Path, arguments: Arguments) -> Run:
    size = ["--generations", arguments.generations, "--pairs", arguments.pairs]
    seconds = job(place, arguments, "evolve", "--scored", scored, "--out", out, "--workers", 0, *size)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    generations = [line["seconds"] for line in lines if "generation" in line and "seconds" in line]
    assert len(generations) == arguments.generations, (len(generations), out)
    return {"ms": 1e3 * statistics.median(generations), "seconds": seconds}


def job(place: Path, arguments: Arguments, name: str, *words: Any) -> float:
    """Run a command of the checkout; seconds from its start to its end."""
    environment = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "PYTHONPATH")}
    environment |= {"OMP_NUM_THREADS": str(arguments.threads), "OPENBLAS_NUM_THREADS": str(arguments.threads)}
    command = [sys.executable, "-m", f"jobs.{name}", *map(str, words)]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} in {place} ended with {done.returncode}: {done.stderr[-2000:]}")
    return time.perf_counter() - began


def note(found: Found, case: str, who: str, run: Run) -> None:
    found.setdefault(case, {}).setdefault(who, []).append(run)
    print(case, who, {key: round(value, 3) for key, value in run.items()}, flush=True)


def commit_of(place: Path) -> str:
    command = ["git", "-C", str(place), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def table(found: Found) -> str:
    """A line for each figure of each case."""
    rows = []
    for case, runs in found.items():
        for key in runs[THIS][0]:
            before, now = ([run[key] for run in runs[who]] for who in (OTHER, THIS))
            speeds = [b / a if key in LARGER_IS_BETTER else a / b for a, b in zip(before, now, strict=True)]
            cells = [spread(before, key), spread(now, key)]
            cells.append(f"{statistics.median(speeds):.2f} ({min(speeds):.2f} to {max(speeds):.2f})")
            rows.append([case, UNITS[key], *cells])
    return markdown(["case", "figure", "other", "this", "speed"], rows)


def spread(values: list[float], key: str) -> str:
    form = ",.0f" if key in LARGER_IS_BETTER else ".2f"
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
