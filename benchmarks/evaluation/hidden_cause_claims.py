"""How often is a hidden cause claimed where there is none, and found where there is one?

    python -m benchmarks.evaluation.hidden_cause_claims --rows 100000 --seeds 10 --worlds null unlearnt cause

Logs of the world "instrument", a training with instruments on each (naive, as jobs.train makes it for `theta
estimated`), and what funnel/ranking/hidden_cause.py says of the rows that it has learnt from (train) and of those that
it has not (test). In the world null nothing that moves clicks moves conversions, learnt or not; in unlearnt no cause is
hidden, but interest drives both and a model learns a part of it alone; sells: what is called an instrument sells.
"""

import dataclasses
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.evaluation.debias_methods import METHODS
from benchmarks.settings import training
from data.generate import generate_log
from data.log import open_log
from data.world import GeneratedLog
from distributed.context import CPU
from distributed.finished_run import load_run
from distributed.training.launch import run_training
from funnel.network import BatchNetwork
from funnel.ranking.hidden_cause import Z95, clicks_of, judge
from funnel.ranking.scored_part import score_part

WORLDS: dict[str, dict[str, float]] = {
    "null": {"hidden": 0.0, "confounding": 0.0},
    "unlearnt": {"hidden": 0.0},
    "weak": {"hidden": 0.5},
    "cause": {"hidden": 1.0},
    "sells": {"hidden": 0.0, "confounding": 0.0, "presentation_sells": 0.5},
}
NETWORKS: dict[str, dict[str, Any]] = {"plain": {}, "fm": {"model.crossing": "fm"}}
PARTS = ("train", "test")


@dataclass
class Arguments:
    rows: int = 100_000
    seeds: int = 10
    worlds: list[str] = field(default_factory=lambda: list(WORLDS))
    networks: list[str] = field(default_factory=lambda: ["plain"])
    trainings: int = 1
    """Trainings of each log, each with a seed of its own."""
    kept: Path | None = None
    """File of finished runs, one a line: what it holds is not run again."""
    clicks: Path | None = None
    """Folder that the clicked rows of every training are kept in, to try another estimator on them."""
    name: str = "hidden-cause-claims"


def one_log(world: str, seed: int, arguments: Arguments, done: set[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """What is said after each training of one log."""
    found = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        plain = GeneratedLog(world="instrument", rows=arguments.rows, seed=seed, users=1500, items=700)
        generate_log(dataclasses.replace(plain, **WORLDS[world]), folder / "log")
        log = open_log(folder / "log")
        for network in arguments.networks:
            for number in range(arguments.trainings):
                if (world, seed, network, number) in done:
                    continue
                run = folder / f"run-{network}-{number}"
                run.mkdir()
                own = {**METHODS["naive"], **NETWORKS[network], "seed": 100 * number + seed}
                figures = run_training(training(run, log, own), workers=0)
                model, told = load_run(run).network, dict[str, Any]()
                assert isinstance(model, BatchNetwork)
                for part in PARTS:
                    kept = score_part(model, log, log.part(part), CPU, folder, [])
                    clicked = clicks_of(kept)
                    told[part], told[f"{part} says"] = judge(clicked)
                    if arguments.clicks is not None:
                        path = arguments.clicks / f"{world}-{seed}-{network}-{number}-{part}.npz"
                        np.savez(path, **{key: value for key, value in vars(clicked).items() if value is not None})
                about = {"world": world, "seed": seed, "network": network, "training": number}
                found.append({**about, **told, "ctr.log_loss": figures["ctr.log_loss"]})
    return found


def main(arguments: Arguments) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    runs, kept = list[dict[str, Any]](), arguments.kept
    if kept is not None and kept.exists():
        runs = [json.loads(line) for line in kept.read_text().splitlines()]
    done = {(run["world"], run["seed"], run["network"], run["training"]) for run in runs}
    began = time.time()
    for seed in range(arguments.seeds):
        for world in arguments.worlds:
            wanted = {(world, seed, n, k) for n in arguments.networks for k in range(arguments.trainings)}
            if wanted <= done:
                continue
            found = one_log(world, seed, arguments, done)
            runs += found
            print(f"[{time.time() - began:5.0f} s] {world}, seed {seed}: {found[0]['train'].get('theta')}", flush=True)
            if kept is not None:
                with kept.open("a") as file:
                    file.writelines(json.dumps(run) + "\n" for run in found)
    wanted = [r for r in runs if r["world"] in arguments.worlds and r["network"] in arguments.networks]
    write_result(arguments.name, {"runs": wanted}, describe(wanted, arguments))


def describe(runs: list[dict[str, Any]], arguments: Arguments) -> str:
    """By world, network and part: logs, claims, refused instruments, mean theta, its spread beside the stated one."""
    rows = []
    for network in arguments.networks:
        for world in arguments.worlds:
            here = [run for run in runs if (run["world"], run["network"]) == (world, network)]
            for part in PARTS:
                told = [run[part] for run in here if "theta" in run[part]]
                if not told:
                    continue
                thetas = [one["theta"] for one in told]
                stated = [(one["theta.high"] - one["theta.low"]) / (2 * Z95) for one in told]
                covers = sum(one["theta.low"] <= 0 <= one["theta.high"] for one in told)
                excluded = sum(one.get("exclusion.low", -1) > 0 or one.get("exclusion.high", 1) < 0 for one in told)
                spread = statistics.stdev(thetas) if len(thetas) > 1 else 0.0
                claimed = sum(one["claimed"] for one in told)
                numbers = (statistics.mean(thetas), spread, statistics.mean(stated))
                counts = (len(here), claimed, len(told) - covers, excluded)
                rows.append([world, network, part, *counts, *(f"{number:.2f}" for number in numbers)])
    head = ["world", "network", "rows of", "trainings", "claimed", "interval off 0", "instruments refused"]
    head += ["mean theta", "its spread", "stated error"]
    words = f"{arguments.rows:,} exposures a log; 95% intervals. Spread: standard deviation over trainings."
    return f"{words}\n\n{markdown(head, rows)}"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
