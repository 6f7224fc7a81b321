"""Does tuning the fusion pay? Held-out value@10 of tuned, untuned and the best single score, for every fusion form.

    python -m benchmarks.evaluation.fusion --source generated --rows 1000000 --seeds 3
    python -m benchmarks.evaluation.fusion --source speed_dating --input ../shared/data/speed_dating --seeds 5

Each log is trained on (ESCM2-IPS, 2 epochs), its test part is scored, and the fusion is tuned on half of the users and
judged on the other half, with a bootstrap interval over those users.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.evaluation.debias import SPEED_DATING
from benchmarks.settings import options

FUSIONS = ("product", "sum", "rank")


@dataclass
class Arguments:
    source: Literal["generated", "speed_dating"] = "generated"
    rows: int = 1_000_000
    """Rows of each generated log."""
    seeds: int = 3
    """Seeds of the log (or of its split) and of the training."""
    input: Path = Path("../shared/data/speed_dating")
    """Folder of the speed-dating files."""
    generations: int = 60
    k: int = 10


def main(arguments: Arguments) -> None:
    """Make, train, score and tune; write the table."""
    began = time.time()
    results: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            scored = prepare(arguments, seed, Path(folder))
            for fusion in FUSIONS:
                out = Path(folder) / fusion
                words = ["--scored", scored, "--out", out, "--fusion", fusion, "--workers", 0, "--seed", seed]
                job("evolve", *words, "--generations", arguments.generations, "--k", arguments.k)
                summary = json.loads((out / "summary.json").read_text())
                results.append({"seed": seed, "fusion": fusion, **summary})
                print(f"[{time.time() - began:5.0f} s] seed {seed} {fusion}: {summary['message']}", flush=True)
    write_result(f"fusion-{arguments.source}", {"runs": results}, describe(results, arguments.k))


def prepare(arguments: Arguments, seed: int, folder: Path) -> Path:
    """The scored test part of a log trained on."""
    log, trained, scored = folder / "log", folder / "train", folder / "scored.parquet"
    if arguments.source == "generated":
        job("make_data", "--rows", arguments.rows, "--seed", seed, "--out", log)
        settings = options({"epochs": 2})
    else:
        job("make_data", "--source", "speed_dating", "--input", arguments.input, "--seed", seed, "--out", log,
            "--folds", 3)  # fmt: skip
        settings = options(SPEED_DATING)
    job("train", "--data", log, "--out", trained, "--workers", 0, "--seed", seed, *settings)
    job("score", "--run", trained, "--data", log, "--out", scored)
    return scored


def job(name: str, *words: Any) -> None:
    command = [sys.executable, "-m", f"jobs.{name}", *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)


def describe(results: list[dict[str, Any]], k: int) -> str:
    key = f"fusion.value_at_{k}"

    def interval(run: dict[str, Any], name: str) -> str:
        return f"{run[name]:+.4f} [{run[name + '.low']:+.4f}, {run[name + '.high']:+.4f}]"

    rows = []
    for run in results:
        values = [f"{run[f'{key}.{name}']:.4f}" for name in ("tuned", "untuned", "best_single")]
        gains = [interval(run, f"{key}.gain_over_{name}") for name in ("untuned", "best_single")]
        users = f"{run['fusion.test_users']:,}"
        sure = "yes" if run["fusion.significant"] else "no"
        rows.append([run["seed"], run["fusion"], *values, run["fusion.best_single_name"], *gains, users, sure])
    header = [
        "seed",
        "fusion",
        "tuned",
        "untuned",
        "best single",
        "which",
        "gain over untuned",
        "gain over best single",
    ]
    return f"Held-out value@{k}, 95% bootstrap intervals.\n\n" + markdown([*header, "test users", "significant"], rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
