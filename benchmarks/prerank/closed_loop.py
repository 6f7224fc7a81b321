"""Pre-rankers in the closed loop of the platform: does the better set bring purchases, and which figure says so?

    python -m benchmarks.prerank.closed_loop run --log incumbent --worlds 2 --seconds 170     # again, till it is done
    python -m benchmarks.prerank.closed_loop table

A world lives some days and leaves a stage log: its last day, with all candidates, is what the figures are counted on.
Each variant is trained on that log by the project's own loop and takes the pre-ranking of a copy of the world, users
and corpus its own (a co-diverted arm), for some days with common random numbers. What it changes is set beside ASPH,
ISPH and PAUC: Spearman's rank correlation over all variants. Two stages may leave the log, and are what arms are then
compared with: `incumbent`, a point-wise network trained again and again on its own exposures, what a team would
have; `plain`, the platform's stage, which is handed the users' tastes and is close to the best there can be.
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
from funnel.platform.episodes import interval
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
KEYS = ("asph", "isph", "pauc")
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
    """Both logs, as far as there are worlds in which every variant has lived."""
    every, text = known(arguments.lines), ""
    correlations: dict[str, list[float]] = {}
    for log, base in ((INCUMBENT, INCUMBENT), (PLAIN, PLAIN)):
        of = {(line["world"], line["variant"]): line for line in every if line.get("log", PLAIN) == log}
        worlds = [w for w in sorted({w for w, _ in of}) if all((w, name) in of for name in (base, PLAIN, *VARIANTS))]
        if worlds:
            found = Lived(of, worlds, base)
            text += found.head(log) + found.changes() + found.told(correlations, log)
    write_result("prerank-closed-loop", {"lines": every, "correlations": correlations}, text)


@dataclass(frozen=True)
class Lived:
    """The worlds of one log. `base`: whose arm the others are compared with."""

    of: dict[tuple[int, str], dict[str, Any]]
    worlds: list[int]
    base: str

    def head(self, log: str) -> str:
        whose = "the incumbent's cascade" if log == INCUMBENT else "the plain stage's cascade"
        return (
            f"### Logged by {whose}\n\n{len(self.worlds)} worlds of {WORLD.users:,} users, {DAYS['live']} days; "
            f"figures on the last logged day, changes against the {self.base} arm in percent; mean (least to most).\n\n"
        )

    def change(self, name: str, metric: str) -> list[float]:
        return [100 * (self.of[w, name]["lived"][metric] / self.of[w, self.base]["lived"][metric] - 1)
                for w in self.worlds]  # fmt: skip

    def figure(self, name: str, key: str) -> list[float]:
        return [100 * self.of[w, name]["figures"][key] for w in self.worlds]

    def changes(self) -> str:
        others = [name for name in (PLAIN, INCUMBENT) if name != self.base and (self.worlds[0], name) in self.of]
        order = sorted([*VARIANTS, *others], key=lambda one: -float(np.mean(self.change(one, "purchases"))))
        rows = [
            [name, *(spread(self.figure(name, key)) if name in VARIANTS else "" for key in KEYS),
             *(spread(self.change(name, metric), "+.1f") for metric in METRICS)]
            for name in order
        ]  # fmt: skip
        gain = interval(self.change("whole", "purchases"))
        text = f"\nPurchases of the whole against the {self.base} arm: {gain.mean:+.1f}% (95% interval over worlds "
        text += f"{gain.low:+.1f} to {gain.high:+.1f}).\n"
        return markdown(["", "ASPH@60", "ISPH@60", "PAUC", *METRICS], rows) + text

    def told(self, keep: dict[str, list[float]], log: str) -> str:
        """How well each figure says what an arm will bring: over all variants, and without those that learn from
        exposures alone, which are so far behind that any figure that sees it is right."""
        text = "\nSpearman's rank correlation with what the arm brings, over the variants of each world:\n\n"
        close = [name for name in VARIANTS if name not in ("point-wise", "exposures only")]
        rows = []
        for names, what in ((list(VARIANTS), ""), (close, f" among the {len(close)} that see more than exposures")):
            for key in KEYS:
                cells = []
                for metric in METRICS:
                    figure_VW = np.array([self.figure(name, key) for name in names])
                    change_VW = np.array([self.change(name, metric) for name in names])
                    each = [correlation(*pair) for pair in zip(figure_VW.T, change_VW.T, strict=True)]
                    whole = correlation(figure_VW.mean(1), change_VW.mean(1))
                    keep[f"{log} {key} {metric}{what}"] = [*each, whole]
                    cells.append(f"{spread(each, '.2f')}; {whole:.2f}")
                rows.append([f"{key.upper()}{what}", *cells])
        return text + markdown(["; of the worlds' means", *METRICS], rows) + "\n"


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(spearmanr(one, other).statistic)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
