"""Evolution in rounds beside a training, against one evolution after it with as many generations.

    python -m benchmarks.evaluation.rounds --checkout DIR            # DIR: a checkout of a commit that has rounds

Per seed a generated log, then: the pipeline with rounds (--round-generations 20, --generations 60); the same training,
scored, and one evolution from the untuned policy with as many generations as all rounds and the last evolution had;
and one with 60. All are judged on the test part's users.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from benchmarks.bench import markdown, write_result

KEY = "fusion.value_at_10"


@dataclass
class Arguments:
    checkout: Path
    """Of bbc8a0c, say."""
    rows: int = 150_000
    seeds: int = 3
    world: tuple[str, ...] = ()
    """More options of jobs.make_data."""
    training: tuple[str, ...] = field(default_factory=lambda: ("patience=0",))
    """Settings of the training, as --set of that commit."""


def main(arguments: Arguments) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(arguments, seed, Path(folder) / str(seed)) for seed in range(arguments.seeds)]
    write_result("rounds", {"runs": rows}, describe(rows))


def measure(arguments: Arguments, seed: int, where: Path) -> dict[str, Any]:
    def job(name: str, *words: Any) -> float:
        began = time.time()
        command = [sys.executable, "-m", f"jobs.{name}", *map(str, words)]
        subprocess.run(command, check=True, capture_output=True, cwd=arguments.checkout)
        return time.time() - began

    log = where / "log"
    where.mkdir()
    job("make_data", "--rows", arguments.rows, "--seed", seed, "--out", log, *arguments.world)
    same = ["--data", log, "--workers", 1, "--epochs", 4, "--seed", seed, "--set", *arguments.training]
    pipeline_s = job(
        "pipeline", *same, "--out", where / "all", "--round-generations", 20, "--generations", 60, "--formats"
    )
    stages = json.loads((where / "all" / "pipeline.json").read_text())["stages"]
    rounds = [name for name in stages if name.startswith("round ")]
    generations = 60 + 20 * len(rounds)
    train_s = job("train", *same, "--out", where / "train")
    for part in ("valid", "test"):
        job("score", "--run", where / "train", "--data", log, "--part", part, "--out", where / f"{part}.parquet")
    files = ["--scored", where / "valid.parquet", "--judge", where / "test.parquet", "--workers", 0, "--seed", seed]
    one_s = job("evolve", *files, "--out", where / "one", "--generations", generations)
    short_s = job("evolve", *files, "--out", where / "short", "--generations", 60)
    return {
        "seed": seed,
        "rounds": len(rounds),
        "generations": generations,
        "pipeline_s": pipeline_s,
        "train_s": train_s,
        "one_s": one_s,
        "short_s": short_s,
        "stages": {name: entry["seconds"] for name, entry in stages.items()},
        **{
            name: figures(where / place) for name, place in (("with", "all/fusion"), ("one", "one"), ("short", "short"))
        },
    }


def figures(run: Path) -> dict[str, Any]:
    summary = json.loads((run / "summary.json").read_text())
    kept = {key: value for key, value in summary.items() if key.startswith(KEY)}
    return kept | {"final_return": summary["es.final_return"], "seconds": summary["es.seconds"]}


def describe(rows: list[dict[str, Any]]) -> str:
    header = ["seed", "rounds", "generations", "untuned", "with rounds (95% interval)", "one evolution", "60 generations",
              "rounds beside, s", "last evolution, s", "one evolution, s"]  # fmt: skip
    lines = []
    for row in rows:
        interval = f"{row['with'][KEY + '.tuned.low']:.3f} to {row['with'][KEY + '.tuned.high']:.3f}"
        beside = sum(seconds for name, seconds in row["stages"].items() if name.startswith("round "))
        lines.append([
            row["seed"], row["rounds"], row["generations"], f"{row['one'][KEY + '.untuned']:.4f}",
            f"{row['with'][KEY + '.tuned']:.4f} ({interval})", f"{row['one'][KEY + '.tuned']:.4f}",
            f"{row['short'][KEY + '.tuned']:.4f}", f"{beside:.1f}", f"{row['stages']['evolve']:.1f}", f"{row['one_s']:.1f}",
        ])  # fmt: skip
    gain = statistics.mean(row["with"][KEY + ".tuned"] - row["one"][KEY + ".tuned"] for row in rows)
    words = f"Held-out value@10; with rounds less one evolution of as many generations: {gain:+.4f} in the mean.\n\n"
    return words + markdown(header, lines)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
