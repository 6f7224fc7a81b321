"""ASMOL's ablation on the small cascade: what each part of a pre-ranker brings, beside the paper's figures.

    python -m benchmarks.prerank.ablation run --seeds 0 1 2 --seconds 170        # again, until all is there
    python -m benchmarks.prerank.ablation table

For each seed a stage log, a log of what was shown, and a ranker trained and calibrated on it: the teacher. Then every
variant is trained by the project's own loop on the same log and judged on the same test part, over all 500 candidates.
"""

import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from benchmarks.bench import markdown, write_result
from data.log import open_log
from distributed.config import OptimizerConfig, StreamConfig, TrainConfig
from distributed.finished_run import load_run
from distributed.training.launch import prepare, run_training
from funnel.prerank.counts import PreRankCounts
from funnel.prerank.settings import PreRankSettings
from jobs import make_data, train
from jobs.command.cli import parse
from models.two_tower import TowerConfig

LINES = Path("runs/prerank-ablation/lines.jsonl")
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
MODEL = TowerConfig(hidden=(32,), output=12)
WHOLE = "whole"
VARIANTS: dict[str, dict[str, Any]] = {
    WHOLE: {},
    "point-wise": {"loss": "pointwise", "ranked": 0, "cut": 0, "labels": "in", "distill": "none"},
    "exposures only": {"ranked": 0, "cut": 0},
    "without RC": {"ranked": 0},
    "without PRC": {"cut": 0},
    "in-scenario labels": {"labels": "in"},
    "no distillation": {"distill": "none"},
    "distilled on all": {"distill": "all"},
    "plain softmax": {"loss": "softmax"},
    "no exposure label": {"exposure_weight": 0.0},
    "LCRON": {"loss": "survival"},
    "LCRON, no teacher": {"loss": "survival", "distill": "none"},
}
PAPER = {"point-wise": (85.5, 90.1), "exposures only": (87.3, 89.4), "without RC": (90.4, 87.5),
         "without PRC": (91.1, 88.9), WHOLE: (92.5, 87.1)}  # fmt: skip
"""ASPH@3000 and PAUC@10 of arXiv 2305.13647, Table 1."""
SHOWN = {"asph.30": "ASPH@30", "asph": "ASPH@60", "asph.100": "ASPH@100", "asph.200": "ASPH@200", "isph.30": "ISPH@30",
         "recall": "end-to-end recall", "pauc": "PAUC@10", "pauc.true": "weighted PAUC"}  # fmt: skip
LOGGED = ("online pre-ranker", "online ranker", "teacher")
"""What is judged without training: columns of the log, and the teacher's pCTCVR."""


@dataclass
class Arguments:
    what: tyro.conf.Positional[Literal["run", "table"]]
    seeds: tuple[int, ...] = (0, 1, 2)
    seconds: float = 170.0
    """About how long a call may run."""
    variants: tuple[str, ...] = ()
    """Some of them; all, if left out."""
    epochs: int = 6
    """Of every variant but the point-wise one, which has twice as many."""
    rate: float = 3e-3
    lines: Path = LINES


def main(arguments: Arguments) -> None:
    if arguments.what == "run":
        run(arguments)
    else:
        table(arguments)


def known(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(arguments: Arguments) -> None:
    """Train and judge what is missing."""
    until = time.time() + arguments.seconds
    torch.set_num_threads(1)
    arguments.lines.parent.mkdir(parents=True, exist_ok=True)
    wanted = arguments.variants or (*LOGGED, *VARIANTS)
    gated = {name for one in GATES for name in one[2:4]}
    # What the gates need comes first, of every seed.
    order = sorted((name not in gated, seed, wanted.index(name)) for seed in arguments.seeds for name in wanted)
    for _, seed, place in order:
        name = wanted[place]
        if time.time() > until:
            return
        there = (seed, name) in {(line["seed"], line["variant"]) for line in known(arguments.lines)}
        if not there and claimed(arguments.lines.parent / f"{seed}-{name}.claim"):
            begun = time.process_time()
            figures = logged(seed, name) if name in LOGGED else trained(seed, name, arguments)
            line = {"seed": seed, "variant": name, "figures": figures, "cpu_s": time.process_time() - begun}
            with arguments.lines.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(seed, name, {key: round(100 * figures[key], 1) for key in SHOWN if key in figures}, flush=True)


def claimed(path: Path) -> bool:
    """Whether it is ours to do: nobody who is alive does it."""
    try:
        with path.open("x") as file:
            file.write(str(os.getpid()))
        return True
    except FileExistsError:
        owner = path.read_text().strip()
        if owner.isdigit() and Path(f"/proc/{owner}").exists():
            return False
        path.write_text(str(os.getpid()))
        return True


def log_of(seed: int, kind: str) -> Path:
    """The log of a seed, made once."""
    place = MEMORY / "prerank-ablation" / f"{kind}{seed}"
    lock = place.with_suffix(".claim")
    lock.parent.mkdir(parents=True, exist_ok=True)
    while not place.exists() and not claimed(lock):
        time.sleep(1)  # another process makes it
    if not place.exists():
        words = ("--world", "cascade", "--log", kind, "--seed", str(seed), "--out", str(place))
        make_data.run(parse(make_data.options_for, words))
    return place


def teacher_of(seed: int) -> Path:
    """A ranker trained on what was shown, and calibrated."""
    place = MEMORY / "prerank-ablation" / f"teacher{seed}"
    words = ("--data", log_of(seed, "exposures"), "--out", place, "--workers", 0, "--epochs", 4, "--batch-size", 512,
             "--seed", seed, "--objective.name", "esmm", "--model.backbone.name", "shared_bottom",
             "--model.backbone.expert-hidden", 32, "--model.tower-hidden", 16, "--optimizer.learning-rate", 3e-3,
             "--calibrate", "platt")  # fmt: skip
    lock = place.with_suffix(".claim")
    while not (place / "summary.json").exists() and not claimed(lock):
        time.sleep(1)
    if not (place / "summary.json").exists():
        train.run(train.arguments_of(*map(str, words)))
    return place


def trained(seed: int, name: str, arguments: Arguments) -> dict[str, Any]:
    """Figures of the test part."""
    settings = PreRankSettings(model=MODEL, **VARIANTS[name])
    pointwise = settings.loss == "pointwise"
    config = TrainConfig(
        epochs=arguments.epochs * (1 + pointwise),
        batch_size=128,
        seed=seed,
        stop_metric="pauc" if pointwise else "asph",
        background_checkpoints=False,
        optimizer=OptimizerConfig(learning_rate=arguments.rate),
        stream=StreamConfig(shuffle_rows=8192),
    )
    given = {} if settings.distill == "none" or pointwise else {"teacher": str(teacher_of(seed))}
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        log = open_log(log_of(seed, "stages"))
        job = prepare(Path(folder), log, config, settings, time.time(), "prerank", given)
        return short(run_training(job, workers=0))


def short(figures: dict[str, Any]) -> dict[str, Any]:
    kept = ("asph", "isph", "recall", "pauc", "train.requests_per_s", "train.rows_per_s", "train.best_step")
    return {key: value for key, value in figures.items() if key.startswith(kept) and not isinstance(value, dict)}


def logged(seed: int, name: str) -> dict[str, Any]:
    """Figures of scores that were there before: the online stages', and the teacher's of every candidate."""
    log = open_log(log_of(seed, "stages"))
    part = log.part("test")
    column = {"online pre-ranker": "prerank_score", "online ranker": "rank_score"}.get(name)
    settings = PreRankSettings(model=MODEL)
    facts = {"numeric_mean": [0.0] * len(log.schema.numeric), "numeric_std": [1.0] * len(log.schema.numeric),
             "columns": ["elsewhere_click", "elsewhere_purchase", "sampled"]}  # fmt: skip
    given = {"teacher": load_run(teacher_of(seed)).given} if column is None else {}
    from funnel.prerank.problem import PreRank

    problem = PreRank(settings, log.schema, facts, given)
    counts = PreRankCounts(settings, "conversion", log.truth(part), log.schema.exposure, True)
    more = [column] if column else []
    for table_ in log.read(part, list(dict.fromkeys([*problem.columns, *counts.columns, *more]))):
        units = problem.encode(table_)
        batch = units.batch()
        if column:
            score_B = torch.from_numpy(np.nan_to_num(table_.column(column).to_numpy()).astype(np.float32))
        else:
            assert problem.teacher is not None
            score_B = problem.teacher(batch.rows)["purchase"]
        counts.add({"score": score_B}, batch, table_)
    return short(counts.figures())


def table(arguments: Arguments) -> None:
    """The table, and whether the gates hold on every seed."""
    lines = known(arguments.lines)
    seeds = sorted({line["seed"] for line in lines})
    of = {(line["seed"], line["variant"]): line["figures"] for line in lines}
    rows: list[list[Any]] = []
    for name in (*LOGGED, *VARIANTS):
        found = [of[seed, name] for seed in seeds if (seed, name) in of]
        if found:
            cells = [spread([100 * one[key] for one in found if key in one]) for key in SHOWN]
            paper = " / ".join(f"{value}" for value in PAPER[name]) if name in PAPER else ""
            rows.append([name, *cells, paper])
    gates = [gate(of, seeds, *one) for one in GATES]
    text = f"Test part, 1,200 requests of 500 candidates; mean (least to most) of {len(seeds)} seeds, in percent.\n\n"
    text += markdown(["", *SHOWN.values(), "paper: ASPH / PAUC"], rows)
    text += "\n" + markdown(["gate, on every seed", "wanted", "seen", "holds"], gates)
    text += "\n" + markdown(["reported, not gated", "seen"], [report(of, seeds, *one) for one in REPORTED])
    write_result("prerank-ablation", {"seeds": seeds, "lines": lines, "arguments": plain(arguments)}, text)


GATES = (
    ("ASPH@60: whole - point-wise", "asph", WHOLE, "point-wise", 30.0),
    ("ASPH@60: whole - without RC", "asph", WHOLE, "without RC", 2.0),
    ("ASPH@60: without RC - exposures only", "asph", "without RC", "exposures only", 20.0),
    ("ASPH@60: all-scenario - in-scenario labels", "asph", WHOLE, "in-scenario labels", 0.0),
    ("weighted PAUC: point-wise - whole", "pauc.true", "point-wise", WHOLE, 2.0),
    ("weighted PAUC: distilled - not", "pauc.true", WHOLE, "no distillation", 1.0),
)
REPORTED = (
    ("ASPH@60: whole - without PRC", "asph", WHOLE, "without PRC"),
    ("ASPH@60: exposures only - point-wise", "asph", "exposures only", "point-wise"),
    ("ASPH@60: whole - plain softmax", "asph", WHOLE, "plain softmax"),
    ("ASPH@60: whole - no exposure label", "asph", WHOLE, "no exposure label"),
    ("ISPH@30: whole - no exposure label", "isph.30", WHOLE, "no exposure label"),
    ("ASPH@60: whole - distilled on all", "asph", WHOLE, "distilled on all"),
    ("ASPH@60: whole - LCRON", "asph", WHOLE, "LCRON"),
    ("end-to-end recall: whole - LCRON", "recall", WHOLE, "LCRON"),
    ("PAUC: whole - without RC", "pauc", WHOLE, "without RC"),
)


def differences(of: dict[Any, Any], seeds: list[int], figure: str, one: str, other: str) -> list[float]:
    pairs = [(of[seed, one], of[seed, other]) for seed in seeds if (seed, one) in of and (seed, other) in of]
    return [100 * (a[figure] - b[figure]) for a, b in pairs]


def gate(of: dict[Any, Any], seeds: list[int], what: str, figure: str, one: str, other: str, least: float) -> list[Any]:
    found = differences(of, seeds, figure, one, other)
    holds = bool(found) and all(value > least if not least else value >= least for value in found)
    return [what, f"> {least:g}" if not least else f">= {least:g}", spread(found, "+.1f"), "yes" if holds else "NO"]


def report(of: dict[Any, Any], seeds: list[int], what: str, figure: str, one: str, other: str) -> list[Any]:
    return [what, spread(differences(of, seeds, figure, one, other), "+.1f")]


def spread(values: list[float], form: str = ".1f") -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{np.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def plain(arguments: Arguments) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
