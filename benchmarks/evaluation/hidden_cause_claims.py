"""How often is a hidden cause claimed where there is none, and found where there is one?

    python -m benchmarks.evaluation.hidden_cause_claims --rows 100000 --seeds 10 --worlds null unlearnt cause

Logs of the world "instrument" or of the sweep's base worlds, a training with instruments on each (a click model, as
jobs.train makes it for `theta estimated`, or naive), and what funnel/ranking/hidden_cause.py says of the rows that it
has learnt from (train) and of those that it has not (test). In the world null nothing that moves clicks moves
conversions, learnt or not; in unlearnt no cause is hidden, but interest drives both and a model learns a part of it
alone; sells: what is called an instrument sells. base, confounded: as unlearnt, with instruments that make a seventh of
the click logit's variance, not half.
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
from benchmarks.evaluation.debias_sweep import world_of
from benchmarks.settings import training
from data.generate import generate_log
from data.log import open_log
from data.world import GeneratedLog
from data.worlds import INSTRUMENTS
from distributed.context import CPU
from distributed.finished_run import load_run
from distributed.training.launch import run_training
from funnel.network import BatchNetwork
from funnel.ranking.hidden_cause import PLAUSIBLE, Z95, Clicks, clicks_of, decide, estimate, unclaimed
from funnel.ranking.presets import clicks
from funnel.ranking.scored_part import score_part

WORLDS: dict[str, dict[str, Any]] = {
    "null": {"hidden": 0.0, "confounding": 0.0},
    "unlearnt": {"hidden": 0.0},
    "weak": {"hidden": 0.5},
    "cause": {"hidden": 1.0},
    "sells": {"hidden": 0.0, "confounding": 0.0, "presentation_sells": 0.5},
    "base": world_of("base"),
    "confounded": world_of("confounding=2.4"),
    "base, cause": world_of("hidden=0.7"),
}
NETWORKS: dict[str, dict[str, Any]] = {"clicks": clicks(), "naive": {"objective.name": "naive"}}
PARTS = ("train", "test")


@dataclass
class Arguments:
    rows: int = 100_000
    seeds: int = 10
    worlds: list[str] = field(default_factory=lambda: list(WORLDS))
    networks: list[str] = field(default_factory=lambda: ["clicks"])
    trainings: int = 1
    """Trainings of each log, each with a seed of its own."""
    kept: Path | None = None
    """File of finished runs, one a line: what it holds is not run again."""
    clicks: Path | None = None
    """Folder that the clicked rows of every training are kept in, to try another estimator on them."""
    show: bool = False
    """Train nothing: the table of what --kept holds."""
    name: str = "hidden-cause-claims"


def one_log(world: str, seed: int, arguments: Arguments, done: set[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """What is said after each training of one log."""
    found = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as place:
        folder = arguments.clicks or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        for network in arguments.networks:
            for number in range(arguments.trainings):
                if (world, seed, network, number) in done:
                    continue
                paths = {part: folder / f"{world}-{seed}-{network}-{number}-{part}.npz" for part in PARTS}
                if not all(path.exists() for path in paths.values()):
                    keep_clicks(world, seed, network, number, arguments.rows, Path(place), paths)
                found_clicks = {part: Clicks(**{"user_R": None, **np.load(path)}) for part, path in paths.items()}
                seen, unseen = (estimate(found_clicks[part])[0] for part in PARTS)
                decided, says = decide(found_clicks["train"], found_clicks["test"])
                about = {"world": world, "seed": seed, "network": network, "training": number}
                found.append({**about, "train": seen, "test": unseen, "decided": decided, "says": says})
    return found


def keep_clicks(
    world: str, seed: int, network: str, number: int, rows: int, place: Path, paths: dict[str, Path]
) -> None:
    """Train, and keep the clicked rows of each part as the model scores them."""
    if not (place / "log").exists():
        plain = GeneratedLog(world="instrument", rows=rows, seed=seed, users=1500, items=700)
        generate_log(dataclasses.replace(plain, **WORLDS[world]), place / "log")
    log, run = open_log(place / "log"), place / f"run-{network}-{number}"
    log = dataclasses.replace(log, schema=dataclasses.replace(log.schema, instrument=INSTRUMENTS))
    run.mkdir()
    own = {**NETWORKS[network], "seed": 100 * number + seed}
    run_training(training(run, log, own), workers=0)
    model = load_run(run).network
    assert isinstance(model, BatchNetwork)
    for part, path in paths.items():
        clicked = clicks_of(score_part(model, log, log.part(part), CPU, place, []))
        np.savez(path, **{key: value for key, value in vars(clicked).items() if value is not None})


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
            if wanted <= done or arguments.show:
                continue
            found = one_log(world, seed, arguments, done)
            runs += found
            print(f"[{time.time() - began:5.0f} s] {world}, seed {seed}: {found[0]['train'].get('theta')}", flush=True)
            if kept is not None:
                with kept.open("a") as file:
                    file.writelines(json.dumps(run) + "\n" for run in found)
    shown = [r for r in runs if r["world"] in arguments.worlds and r["network"] in arguments.networks]
    write_result(arguments.name, {"runs": shown}, describe(shown, arguments))


def describe(runs: list[dict[str, Any]], arguments: Arguments) -> str:
    """By world and network: trainings, claims, refused instruments, mean theta, its spread beside the stated error."""
    rows = []
    for network in arguments.networks:
        for world in arguments.worlds:
            here = [run for run in runs if (run["world"], run["network"]) == (world, network)]
            seen = [run["train"] for run in here if "theta" in run["train"]]
            if not seen:
                continue
            thetas = [one["theta"] for one in seen]
            stated = [(one["theta.high"] - one["theta.low"]) / (2 * Z95) for one in seen]
            counts = [
                len(here),
                sum(claimed(run) for run in here),
                sum(not one["theta.low"] <= 0 <= one["theta.high"] for one in seen),
                *(sum(refused(run[part]) for run in here) for part in ("test", "train")),
            ]
            spread = statistics.stdev(thetas) if len(thetas) > 1 else 0.0
            unseen = [run["test"]["theta"] for run in here if "theta" in run["test"]]
            numbers = (statistics.mean(thetas), spread, statistics.mean(stated), statistics.mean(unseen or [0.0]))
            rows.append([world, network, *counts, *(f"{number:.2f}" for number in numbers)])
    head = ["world", "network", "trainings", "claimed", "interval off 0", "instruments refused by unseen rows"]
    head += ["by rows learnt from", "mean theta", "its spread", "stated error", "mean theta of unseen rows"]
    words = f"{arguments.rows:,} exposures a log; 95% intervals; spread: standard deviation over trainings."
    return f"{words}\n\n{markdown(head, rows)}"


def claimed(run: dict[str, Any]) -> bool:
    """By today's rule, whatever it was when the run was kept."""
    told = run["train"]
    if "theta" not in told or abs(told["theta"]) > PLAUSIBLE or refused(run["test"]):
        return False
    return not unclaimed(told["theta"], (told["theta.high"] - told["theta.low"]) / (2 * Z95))


def refused(told: dict[str, Any]) -> bool:
    return bool("exclusion.low" in told and not told["exclusion.low"] <= 0 <= told["exclusion.high"])


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
