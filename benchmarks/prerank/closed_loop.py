"""Pre-rankers in the closed loop of the platform: does the better set bring purchases, and which figure says so?

    python -m benchmarks.prerank.closed_loop run --worlds 2 --seconds 170      # again, until all is there
    python -m benchmarks.prerank.closed_loop table

A world lives some days under the plain stages and leaves a stage log: its last day, with all candidates, is what the
figures are counted on. Each variant is trained on that log by the project's own loop and takes the pre-ranking of a
copy of the world, users and corpus its own (a co-diverted arm), for some days with common random numbers. What it
changes against the plain arm is set beside ASPH, ISPH and PAUC: Spearman's rank correlation over all variants.
"""

import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from scipy.stats import spearmanr

from benchmarks.bench import markdown, write_result
from benchmarks.prerank.ablation import MEMORY, known, short, spread
from data.log import open_log
from data.schema import Schema
from data.write import PartWriter, new_log
from distributed.config import OptimizerConfig, StreamConfig, TrainConfig
from distributed.finished_run import load_run
from distributed.training.launch import prepare, run_training
from funnel.platform.designs import metrics
from funnel.platform.logs.exposures import Exposures
from funnel.platform.logs.stages import Stages
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.platform.world import World, new_world
from funnel.prerank.settings import PreRankSettings
from funnel.prerank.weights_file import save_weights
from jobs import train
from models.two_tower import TowerConfig

LINES = Path("runs/prerank-closed-loop/lines.jsonl")
WORLD = PlatformSettings(users=1500, items=1500, uploads=60, kept=60)
DAYS = {"warmup": 3, "round": 2, "log": 4, "live": 6}
ROUNDS = 4
"""Of the incumbent: trained, lived with, trained again."""
FEW = 20
"""k of its trainings, whose logs hold what was ranked alone; only the figure that picks an epoch is of it, and that is
PAUC."""
NEGATIVES, EVERY = 40, 10_000
MODEL = TowerConfig(width=8, hidden=(32,), output=16)
HISTORY = 8
PLAIN, INCUMBENT = "plain", "incumbent"
VARIANTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "point-wise": {"loss": "pointwise", "ranked": 0, "cut": 0, "labels": "in", "distill": "none"},
    "exposures only": {"ranked": 0, "cut": 0},
    "without RC": {"ranked": 0},
    "without PRC": {"cut": 0},
    "in-scenario labels": {"labels": "in"},
    "no distillation": {"distill": "none"},
    "distilled on all": {"distill": "all"},
    "LCRON": {"loss": "survival"},
}
METRICS = ("purchases", "positives", "dwell", "likes")


@dataclass
class Arguments:
    what: tyro.conf.Positional[Literal["run", "table"]]
    log: Literal["plain", "incumbent"] = "plain"
    """Whose cascade leaves the log: the plain stage's, which knows tastes; the incumbent's, a point-wise network."""
    worlds: int = 2
    seconds: float = 170.0
    """About how long a call may run."""
    variants: tuple[str, ...] = ()
    """Some of them; all, if left out."""
    epochs: int = 4
    lines: Path = LINES


def main(arguments: Arguments) -> None:
    if arguments.what == "run":
        run(arguments)
    else:
        table(arguments)


def run(arguments: Arguments) -> None:
    until = time.time() + arguments.seconds
    torch.set_num_threads(1)
    arguments.lines.parent.mkdir(parents=True, exist_ok=True)
    done = {(line.get("log", PLAIN), line["world"], line["variant"]) for line in known(arguments.lines)}
    first = (PLAIN, *VARIANTS) if arguments.log == PLAIN else (PLAIN, INCUMBENT, *VARIANTS)
    for number in range(arguments.worlds):
        todo = [name for name in arguments.variants or first if (arguments.log, number, name) not in done]
        if not todo or time.time() > until:
            continue
        begin = time.process_time()
        world, place = begun(arguments, number)
        print(number, "begun", round(time.process_time() - begin, 1), flush=True)
        for name in todo:
            if time.time() > until:
                break
            begin = time.process_time()
            figures: dict[str, Any] = {}
            tree: dict[str, Any] = {}
            if name == INCUMBENT:
                tree = stage(place / f"incumbent-{ROUNDS - 1}.npz")
            elif name != PLAIN:
                figures, weights = trained(number, VARIANTS[name], place, place / "stages", arguments.epochs,
                                           place / f"{name.replace(' ', '-')}.npz")  # fmt: skip
                tree = stage(weights)
            twin = world.copy([Policies.of(tree, WORLD, number)])
            twin.run(DAYS["live"])
            seen = metrics(twin.ledger.table()[:, :, 0])
            lived = {metric: float(seen[metric]) for metric in METRICS}
            line = {"log": arguments.log, "world": number, "variant": name, "figures": figures, "lived": lived,
                    "cpu_s": time.process_time() - begin}  # fmt: skip
            with arguments.lines.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(number, name, {k: round(v, 3) for k, v in figures.items() if k in ("asph", "isph", "pauc", "recall")},
                  lived, round(time.process_time() - begin, 1), flush=True)  # fmt: skip


def stage(weights: Path) -> dict[str, Any]:
    return {"preranking": {"kind": "trained", "weights": str(weights)}}


def begun(arguments: Arguments, number: int) -> tuple[World, Path]:
    """(the world at the end of the days that are logged, where its logs lie); the logs are written once."""
    place = MEMORY / "prerank-closed-loop" / f"{arguments.log}-{number}"
    world = new_world(WORLD, number, [Policies.of({}, WORLD, number)])
    if arguments.log == INCUMBENT:
        world = with_incumbent(arguments, world, number, place)
    else:
        world.run(DAYS["warmup"])
    if (place / "shown" / "schema.json").exists():
        world.run(DAYS["log"])
        return world, place
    last = world.day + DAYS["log"] - 1
    stages = Stages(WORLD, f"platform-stages-{number}", HISTORY, world.corpus, NEGATIVES, 0.6)
    whole = Stages(WORLD, f"platform-stages-{number}", HISTORY, world.corpus, EVERY, 3.0)
    shown = Exposures(WORLD, f"platform-shown-{number}", HISTORY)
    # A teacher must be able to score what was never shown: without the place on the page.
    schema = replace(stages.schema, exposure="exposure_id")
    kept: dict[str, list[Any]] = {"train": [], "held": [], "shown": []}

    def watch(*block: Any) -> None:
        early = world.day < last
        if early or block[2].page == 0:  # all candidates are many rows: of the last day, visits' first pages
            kept["train" if early else "held"] += [rows for rows, _ in (stages if early else whole).tables(*block[1:])]
        kept["shown"] += [rows for rows, _ in shown.tables(*block[1:])]

    world.watch = watch
    world.run(DAYS["log"])
    world.watch = None
    half = len(kept["held"]) // 2
    write(place / "stages", stages.schema, {
        "train": kept["train"], "valid": kept["held"][: half // 2], "test": kept["held"][half:]
    })  # fmt: skip
    cut = int(0.85 * len(kept["shown"]))
    write(place / "shown", schema, {"train": kept["shown"][:cut], "valid": kept["shown"][cut:]})
    return world, place


def with_incumbent(arguments: Arguments, world: World, number: int, place: Path) -> World:
    """The world under a point-wise network that has been trained on its own exposures, round after round: what it
    shows wrongly is what it learns from next. It begins with what the plain stage had shown."""
    kept: list[Any] = []
    for n in range(ROUNDS):
        writer, weights = Stages(WORLD, f"shown-{number}", HISTORY, world.corpus, 1, 0.0), place / f"incumbent-{n}.npz"
        there = weights.exists()

        def watch(*block: Any, writer: Stages = writer) -> None:
            kept.extend(rows for rows, _ in writer.tables(*block[1:]))

        world.watch = None if there else watch
        world.run(DAYS["warmup"] if n == 0 else DAYS["round"])
        world.watch = None
        if not there:
            held = max(len(kept) // 10, 1)
            log = place / f"round-{n}"
            write(log, writer.schema, {"train": kept[:-held], "valid": kept[-held:], "test": kept[-1:]})
            trained(number, VARIANTS["point-wise"] | {"k": FEW}, place, log, arguments.epochs, weights)
        world = world.copy([Policies.of(stage(weights), WORLD, number)])
    return world


def write(place: Path, schema: Schema, parts: dict[str, list[Any]]) -> None:
    with new_log(place, schema) as directory:
        for name, tables in parts.items():
            with PartWriter(directory, name, schema) as writer:
                for rows in tables:
                    writer.write(rows)


def teacher_of(number: int, place: Path) -> Path:
    out = place / "teacher"
    words = ("--data", place / "shown", "--out", out, "--workers", 0, "--epochs", 2, "--batch-size", 512, "--seed",
             number, "--objective.name", "esmm", "--model.backbone.name", "shared_bottom",
             "--model.backbone.expert-hidden", 32, "--model.tower-hidden", 16, "--model.embedding-width", 8,
             "--optimizer.learning-rate", 3e-3, "--calibrate", "platt")  # fmt: skip
    if not (out / "summary.json").exists():
        train.run(train.arguments_of(*map(str, words)))
    return out


def trained(
    number: int, variant: dict[str, Any], place: Path, log: Path, epochs: int, weights: Path
) -> tuple[dict[str, Any], Path]:
    """(figures of the test part, the weights file)."""
    settings = PreRankSettings(model=MODEL, **variant)
    pointwise = settings.loss == "pointwise"
    config = TrainConfig(
        epochs=epochs,
        batch_size=128,
        seed=number,
        stop_metric="pauc" if pointwise else "asph",
        background_checkpoints=False,
        optimizer=OptimizerConfig(learning_rate=3e-3),
        stream=StreamConfig(shuffle_rows=8192),
    )
    given = {} if settings.distill == "none" or pointwise else {"teacher": str(teacher_of(number, place))}
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        job = prepare(Path(folder), open_log(log), config, settings, time.time(), "prerank", given)
        figures = short(run_training(job, workers=0))
        found = load_run(Path(folder))
        save_weights(found.problem, found.network, weights)  # type: ignore[arg-type]
    return figures, weights


def table(arguments: Arguments) -> None:
    lines = known(arguments.lines)
    worlds = sorted({line["world"] for line in lines})
    of = {(line["world"], line["variant"]): line for line in lines}
    names = [name for name in VARIANTS if all((world, name) in of for world in worlds)]
    changes = {
        name: {
            metric: [100 * (of[w, name]["lived"][metric] / of[w, PLAIN]["lived"][metric] - 1) for w in worlds]
            for metric in METRICS
        }
        for name in names
    }
    figures = {name: {key: [100 * of[w, name]["figures"][key] for w in worlds] for key in ("asph", "isph", "pauc")}
               for name in names}  # fmt: skip
    rows = [
        [name, *(spread(figures[name][key]) for key in ("asph", "isph", "pauc")),
         *(spread(changes[name][metric], "+.1f") for metric in METRICS)]
        for name in sorted(names, key=lambda one: -float(np.mean(changes[one]["purchases"])))
    ]  # fmt: skip
    text = f"{len(worlds)} worlds of {WORLD.users:,} users, {DAYS['live']} days; changes against the plain stage in "
    text += "percent; mean (least to most).\n\n"
    text += markdown(["", "ASPH@60", "ISPH@60", "PAUC", *METRICS], rows)
    correlations = {}
    for metric in METRICS:
        for key in ("asph", "isph", "pauc"):
            here = [
                correlation([figures[name][key][k] for name in names], [changes[name][metric][k] for name in names])
                for k in range(len(worlds))
            ]
            correlations[f"{key} {metric}"] = here
    text += "\nSpearman's rank correlation with what the arm brings, over the variants of each world:\n\n"
    text += markdown(
        ["", *METRICS],
        [[key.upper(), *(spread(correlations[f"{key} {metric}"], ".2f") for metric in METRICS)]
         for key in ("asph", "isph", "pauc")],
    )  # fmt: skip
    write_result("prerank-closed-loop", {"lines": lines, "correlations": correlations}, text)


def correlation(one: list[float], other: list[float]) -> float:
    return float(spearmanr(one, other).statistic)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
