"""Does debiasing pay? Naive, ESMM, ESCM2-IPS, ESCM2-DR and an oracle, judged over all exposures by known truth.

    python -m benchmarks.evaluation.debias --source generated --rows 1000000 --seeds 3
    python -m benchmarks.evaluation.debias --source speed_dating --input ../shared/data/speed_dating --seeds 5 --folds 7

The oracle is the same network trained on the potential conversion of every exposure, which no log shows: what the data
would allow if clicks hid nothing. A method closes (naive - method)/(naive - oracle) of the gap. All methods share the
network, the batches, the number of epochs at most, and the rule that picks the epoch (CTCVR log-loss on the validation
part; for the oracle its own loss there).
"""

import dataclasses
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from scipy import stats

from benchmarks.bench import markdown, write_result
from benchmarks.evaluation import true_propensities
from benchmarks.evaluation.debias_methods import ESTIMATED, INSTRUMENTS, METHODS, SHRUNK, TRUE_Q, TWO_STAGES
from benchmarks.evaluation.debias_stages import FIRST, click_models, estimated_theta
from benchmarks.settings import Settings, training
from data.generate import generate_log
from data.loaders.speed_dating import load_speed_dating
from data.log import Log, Part, open_log
from data.world import GeneratedLog
from data.worlds import INSTRUMENTS as WORLD_INSTRUMENTS
from distributed.context import CPU
from distributed.finished_run import load_run
from distributed.training.job import TrainJob
from distributed.training.launch import run_training
from distributed.training.validation import count
from funnel.problem import Given
from funnel.ranking import calibrating
from funnel.ranking.presets import PRESETS
from jobs.command.preset import find_preset
from models.objectives.base import Labels, Objective
from models.objectives.terms import binary_cross_entropy
from models.registry import OBJECTIVES


class Oracle(Objective):
    """CTR over exposures and CVR over exposures, with `conversion` holding the potential conversion of all of them."""

    def __call__(self, logits: dict[str, Any], labels: Labels, totals: Any) -> dict[str, Any]:
        ctr = labels.weigh(binary_cross_entropy(logits["ctr"], labels.click_B)).sum() / totals[0]
        cvr = labels.weigh(binary_cross_entropy(logits["cvr"], labels.conversion_B)).sum() / totals[0]
        return {"loss": ctr + cvr, "ctr": ctr, "cvr": cvr}


OBJECTIVES["oracle"] = Oracle


@dataclass
class Arguments:
    source: Literal["generated", "speed_dating"] = "generated"
    rows: int = 1_000_000
    """Exposures of each generated log."""
    seeds: int = 3
    """Seeds: of the log and of the training."""
    input: Path = Path("../shared/data/speed_dating")
    """Folder of the speed-dating files."""
    folds: int = 7
    """Folds by wave; every fold is the test part once."""
    methods: tuple[str, ...] = tuple(METHODS)
    """naive and oracle among them."""
    preset: str = ""
    """Settings of all methods: a preset of jobs.train or a JSON file, as there."""
    by_fold: bool = False
    """Intervals over logs, each beside naive on the same one, in place of means over the folds of a seed."""
    reuse: Path | None = None
    """A result file (.json) of the same settings: what it holds is taken from it, the rest is run."""


SPACES = {"CTR AUC": "ctr.auc", "CVR AUC, clicks": "cvr.click.auc"}
ENTIRE = {"AUC": "cvr.entire.auc", "log-loss": "cvr.entire.log_loss", "PCOC": "cvr.entire.pcoc"}
MEANS = PREDICTED, TRUTH = "cvr.entire.mean_prediction", "cvr.entire.mean_label"
KEPT = (*SPACES.values(), *ENTIRE.values(), *MEANS, *(f"platt.{key}" for key in ENTIRE.values()),
        "propensity.effective_share", "train.best_step")  # fmt: skip
"""What the result file holds of a run."""
SPEED_DATING: dict[str, Any] = {
    "batch_size": 128,
    "epochs": 20,
    "patience": 4,
    "model.backbone.expert_hidden": (32, 16),
    "model.tower_hidden": (16,),
    "model.backbone.dropout": 0.3,
    "model.embedding_width": 4,
}


def main(arguments: Arguments) -> None:
    """Train every method on every log; write the table."""
    began = time.time()
    if wrong := (set(arguments.methods) - set(METHODS)) | ({"naive", "oracle"} - set(arguments.methods)):
        raise SystemExit(f"--methods: {', '.join(wrong)}: want naive, oracle and others of {', '.join(METHODS)}")
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.methods}
    done = json.loads(arguments.reuse.read_text())["runs"] if arguments.reuse else {}
    with tempfile.TemporaryDirectory() as folder:
        for label, seed, log in logs(arguments, Path(folder)):
            for name in arguments.methods:
                settings = METHODS[name]
                known = [run for run in done.get(name, []) if run["log"] == label]
                if known:
                    figures[name] += known
                    continue
                run = Path(folder) / "run"
                shutil.rmtree(run, ignore_errors=True)
                run.mkdir()
                result = train_one(run, log, Path(folder), {**shared(arguments), **settings, "seed": seed})
                figures[name].append({"log": label, **{key: result[key] for key in KEPT if key in result}})
                numbers = " ".join(f"{key} {result[source]:.4f}" for key, source in ENTIRE.items())
                print(f"[{time.time() - began:5.0f} s] {label} {name}: {numbers}", flush=True)
    tables = describe(arguments, figures)
    name = f"debias-{arguments.source}"
    write_result(name, {"runs": figures, "seconds": time.time() - began}, tables)


def shared(arguments: Arguments) -> dict[str, Any]:
    return {**(SPEED_DATING if arguments.source == "speed_dating" else {}), **named_settings(arguments.preset)}


def named_settings(preset: str) -> dict[str, Any]:
    """Settings by dotted key of a preset of the ranker, or of a JSON file."""
    settings, _ = find_preset(preset, PRESETS, "train")
    return settings


def logs(arguments: Arguments, folder: Path) -> Any:
    """(label, training seed, log) one after the other; each replaces the one before."""
    for seed in range(arguments.seeds):
        for fold in range(arguments.folds if arguments.source == "speed_dating" else 1):
            for path in folder.iterdir():  # its references and click models are those of a log
                shutil.rmtree(path)
            if arguments.source == "generated":
                generate_log(GeneratedLog(world="aligned", rows=arguments.rows, seed=seed), folder / "log")
            else:
                load_speed_dating(arguments.input, folder / "log", folds=arguments.folds, fold=fold, seed=seed)
            yield f"seed {seed} fold {fold}", seed, open_log(folder / "log")


def train_one(run: Path, log: Log, folder: Path, settings: Settings) -> dict[str, float]:
    """Figures on the test part; under "platt." those after a Platt map of pCVR for all exposures, fitted on the clicks
    of the validation part with weights 1/q. The objective "oracle" is trained on the oracle's log; "random" stands for
    naive training on as many clicks as the log has, made by a coin. With TWO_STAGES a click model that is trained once
    for a log weighs the clicks."""
    name = settings["objective.name"]
    own = {key: value for key, value in settings.items() if key not in (TWO_STAGES, INSTRUMENTS, TRUE_Q)}
    if name == "random":
        own["objective.name"] = "naive"
    plain = log
    if INSTRUMENTS in settings:
        log = dataclasses.replace(log, schema=dataclasses.replace(log.schema, instrument=WORLD_INSTRUMENTS))
    shared_settings = {key: value for key, value in own.items() if not key.startswith("objective.")}
    theta = own.get("objective.theta")
    told: dict[str, float] = {}
    if theta in (ESTIMATED, SHRUNK):
        theta, told = estimated_theta(folder / FIRST, log, shared_settings, theta)
        own["objective.theta"] = theta
    given: dict[str, str] = {}
    if TWO_STAGES in settings:
        given = click_models(folder, plain, shared_settings, settings[TWO_STAGES])
    job = training(run, log, own, given)
    if TRUE_Q in settings:
        facts = {**job.facts, true_propensities.LOCATION: job.location}
        job = dataclasses.replace(job, problem=true_propensities.NAME, facts=facts)
    if name in ("random", "oracle"):
        directory = folder / name
        if not directory.exists():
            write_oracle_log(log, directory, job.facts["click_rate"] if name == "random" else None)
        job = moved(job, log, open_log(directory))
    figures = run_training(job, workers=0) | ({"theta": theta} if isinstance(theta, float) else {}) | told
    if name != "oracle" and not (isinstance(theta, float) and theta):  # which no weights calibrate
        after = recalibrated(run, open_log(job.location), given)
        figures |= {f"platt.{key}": value for key, value in after.items()}
    return {key: value for key, value in figures.items() if isinstance(value, int | float)}


def moved(job: TrainJob, log: Log, oracle: Log) -> TrainJob:
    """The job on the oracle's train and valid; the test part stays the log's own. A check of labels would refuse them:
    conversions come without clicks there."""
    parts = {name: oracle.part(name) for name in ("train", "valid")}
    parts["test"] = relocate(job.parts["test"], log.root, oracle.root)
    problem = job.open_problem(CPU)
    sizes = {name: problem.sizes(oracle, part) for name, part in parts.items()}
    facts = {**job.facts, "conversion_rate": float(log.truth("train").potential_R.mean())}
    return dataclasses.replace(job, location=oracle.location, parts=parts, sizes=sizes, facts=facts)


def recalibrated(run: Path, log: Log, runs: Mapping[str, str]) -> dict[str, Any]:
    """Figures of entire-space CVR on the test part after the map of jobs.calibrate --space entire; `runs`: what the
    training was given, by role."""

    def given(role: str) -> Given | None:
        return load_run(Path(runs[role])).given if role in runs else None

    found = calibrating.calibrate(load_run(run).given, given, log, calibrating.Settings("platt", "entire"), count)
    figures = {key.removeprefix("calibrated."): value for key, value in found.figures.items()}
    return {key: value for key, value in figures.items() if key.startswith("cvr.entire.")}


def write_oracle_log(log: Log, directory: Path, click_rate: float | None = None) -> None:
    """The log with conversion = potential conversion; in valid every row counts as clicked, so that the figures "on
    clicks" there are those of all exposures. With a click rate, clicks are made by a coin of that rate in both, and
    only they convert: an experiment that costs as many clicks. The test part is the log's own."""
    coin = np.random.default_rng(0)
    directory.mkdir()
    log.schema.save(directory / "schema.json")
    for name in ("train", "valid"):
        truth = log.truth(name)
        for file in log.part(name).files:
            table = pq.read_table(file.path)
            potential = truth.potential_R[truth.lookup(table.column(log.schema.exposure).to_numpy())]
            if click_rate is not None:
                click = (coin.random(len(potential)) < click_rate).astype(np.int8)
                table = replaced(table, log.schema.labels["click"], click)
                potential = potential * click
            table = replaced(table, log.schema.labels["conversion"], potential)
            if name == "valid" and click_rate is None:
                table = replaced(table, log.schema.labels["click"], np.ones(len(potential), np.int8))
            (directory / name).mkdir(exist_ok=True)
            pq.write_table(table, directory / name / Path(file.path).name, row_group_size=max(file.row_groups))
    for name in ("test", "truth"):
        (directory / name).symlink_to(Path(log.root) / name)


def replaced(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, name, pa.array(values, table.schema.field(name).type))


def relocate(part: Part, old: str, new: str) -> Part:
    files = tuple(dataclasses.replace(file, path=file.path.replace(old, new, 1)) for file in part.files)
    return dataclasses.replace(part, files=files)


def describe(arguments: Arguments, figures: dict[str, list[dict[str, float]]]) -> str:
    """Mean and standard deviation over seeds (speed dating: folds are pooled within a seed by their mean)."""
    by_seed = {name: runs if arguments.by_fold else per_seed(runs) for name, runs in figures.items()}
    units = "logs" if arguments.by_fold else "seeds"
    keys = {**SPACES, **{f"CVR {name}, all exposures": key for name, key in ENTIRE.items()}}
    rows = []
    for name, runs in by_seed.items():
        cells = [spread([run[key] for run in runs], 5 if "log_loss" in key else 4) for key in keys.values()]
        predicted = statistics.mean(run[PREDICTED] for run in runs)
        truth = statistics.mean(run[TRUTH] for run in runs)
        rows.append([name, *cells, f"{predicted:.4f} / {truth:.4f}"])
    table = markdown(["method", *keys, "mean pCVR / truth"], rows)
    shares = []
    for name in [name for name in by_seed if name not in ("naive", "oracle")]:
        cells = []
        for key, target in (("cvr.entire.auc", None), ("cvr.entire.log_loss", None), ("cvr.entire.pcoc", 1.0)):
            naive, method, oracle = (distances(by_seed[n], key, target) for n in ("naive", name, "oracle"))
            gap, closed = (
                statistics.mean(naive) - statistics.mean(oracle),
                [a - b for a, b in zip(naive, method, strict=True)],
            )
            better = sum(value > 0 for value in closed)
            low, high = interval([value / gap for value in closed])
            share = statistics.mean(closed) / gap
            cells.append(f"{share:+.0%} [{low:+.0%}, {high:+.0%}] ({better} of {len(closed)} {units} better)")
        shares.append([name, *cells])
    title = ["method", "AUC gap closed", "log-loss gap closed", "|PCOC - 1| gap closed"]
    words = f"In brackets the 95% interval of the mean over {units} (Student's t, each beside naive on the same logs)."
    means = f"Mean ± standard deviation over {len(by_seed['naive'])} {units}."
    return f"{means}\n\n{table}\n{words}\n\n{markdown(title, shares)}"


def interval(values: list[float]) -> tuple[float, float]:
    """Of the mean, 95%, by Student's t; the whole line for a single value."""
    if len(values) < 2:
        return float("-inf"), float("inf")
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values) - half, statistics.mean(values) + half


def per_seed(runs: list[dict[str, float]]) -> list[dict[str, float]]:
    """The mean over the folds of each seed."""
    grouped: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        grouped.setdefault(str(run["log"]).split(" fold")[0], []).append(run)
    keys = [key for key in runs[0] if key != "log"]
    return [{key: statistics.mean(r[key] for r in group if key in r) for key in keys} for group in grouped.values()]


def distances(runs: list[dict[str, float]], key: str, target: float | None) -> list[float]:
    """How far from good: |x - target|, -AUC, or the loss itself."""
    if target is not None:
        return [abs(run[key] - target) for run in runs]
    return [-run[key] if key.endswith("auc") else run[key] for run in runs]


def spread(values: list[float], digits: int) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
