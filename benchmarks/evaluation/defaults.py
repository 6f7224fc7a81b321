"""Which objective to begin with, in which weights, for how many clicks: judged by known truth over all exposures.

    python -m benchmarks.evaluation.defaults --kept runs/defaults.jsonl

Generated logs of both worlds, cut so that the training part has so many clicks (the test part stays the same), and
speed dating if --input is there. All methods of a log share network, batches, epochs and the rule that picks the epoch
(CTCVR log-loss on the validation part). Runs are kept one by one: the same command goes on after an interruption, and
ends at once with what there is under --only-tables.
"""

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.evaluation.debias import SPEED_DATING
from benchmarks.evaluation.debias_methods import objective
from benchmarks.settings import training
from data.generate import generate_log
from data.loaders.speed_dating import load_speed_dating
from data.log import Log, open_log
from data.world import GeneratedLog
from distributed.training.launch import run_training
from funnel.ranking.presets import small

OLD = {"imputation_gradient": "shared"}
"""The imputation trains embedding and experts too, as published code has it."""
METHODS: dict[str, dict[str, Any]] = {
    "naive": objective("naive"),
    "ESMM": objective("esmm"),
    "IPS .1": objective("escm2_ips", lambda_c=0.1),
    "IPS 1": objective("escm2_ips", lambda_c=1),
    "SNIPS 1": objective("escm2_snips", lambda_c=1),
    "SNIPS 1, no CTCVR": objective("escm2_snips", lambda_c=1, lambda_g=0),
    "SNIPS 1, CVR gradient: tower": objective("escm2_snips", lambda_c=1, cvr_gradient="tower"),
    "SNIPS 1, CTCVR gradient: click": objective("escm2_snips", lambda_c=1, ctcvr_gradient="click"),
    "SNIPS 1, CTCVR space: click_ips": objective("escm2_snips", lambda_c=1, ctcvr_space="click_ips"),
    "DR .1, imputation .1, shared": objective("escm2_dr", lambda_c=0.1, lambda_imp=0.1, **OLD),
    "DR 1, imputation 1, shared": objective("escm2_dr", lambda_c=1, lambda_imp=1, **OLD),
    "DR 1, imputation .01, shared": objective("escm2_dr", lambda_c=1, lambda_imp=0.01, **OLD),
    "DR 1, labels, tower": objective("escm2_dr", lambda_c=1, imputation="label", imputation_gradient="tower"),
    "MRDR .1, imputation .1, shared": objective("escm2_mrdr", lambda_c=0.1, lambda_imp=0.1, **OLD),
    "MRDR 1, labels, tower": objective("escm2_mrdr", lambda_c=1, imputation="label", imputation_gradient="tower"),
}
CLICK_RATE = {"conflict": 0.18, "aligned": 0.1}
FIGURES = {
    "CTR AUC": "ctr.auc",
    "CTCVR AUC": "ctcvr.auc",
    "CVR AUC, clicks": "cvr.click.auc",
    "CVR AUC": "cvr.entire.auc",
    "CVR log-loss": "cvr.entire.log_loss",
    "CVR PCOC": "cvr.entire.pcoc",
}
TEST_ROWS = 30_000
World = Literal["conflict", "aligned", "speed_dating"]


@dataclass
class Arguments:
    kept: Path
    """A JSON-lines file of finished runs, added to."""
    worlds: tuple[World, ...] = ("conflict", "aligned", "speed_dating")
    """Of which logs."""
    clicks: tuple[int, ...] = (2_000, 6_000, 20_000)
    """Clicks of the training part of a generated log."""
    seeds: int = 3
    """Seeds: of the log and of the training."""
    folds: int = 1
    """Of the seven folds by wave of speed dating, how many are the test part for each seed."""
    input: Path = Path("../shared/data/speed_dating")
    """Folder of the speed-dating files."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Which of the methods."""
    only_tables: bool = False
    """Train nothing more."""


def main(arguments: Arguments) -> None:
    """Train every method on every log that is not kept yet; write the tables."""
    began = time.time()
    runs = [json.loads(line) for line in arguments.kept.read_text().splitlines()] if arguments.kept.exists() else []
    done = {(run["log"], run["seed"], run["method"]) for run in runs}
    for seed in range(0 if arguments.only_tables else arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            for name, where, shared in logs(arguments, seed, Path(folder)):
                missing = [method for method in arguments.methods if (name, seed, method) not in done]
                for method in missing:
                    run = train_one(Path(folder) / "run", open_log(where), {**shared, **METHODS[method], "seed": seed})
                    runs.append({"log": name, "seed": seed, "method": method, **run})
                    with arguments.kept.open("a") as file:
                        file.write(json.dumps(runs[-1]) + "\n")
                    print(
                        f"[{time.time() - began:5.0f} s] {seed} {name}, {method}: {run['cvr.entire.auc']:.4f}",
                        flush=True,
                    )
    write_result("defaults", {"runs": runs, "seconds": time.time() - began}, tables(runs))


def logs(arguments: Arguments, seed: int, folder: Path) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """(name, place, settings that all methods share) of every log of this seed."""
    for world in arguments.worlds:
        if world == "speed_dating":
            for fold in range(arguments.folds):
                where = folder / f"dating-{fold}"
                load_speed_dating(arguments.input, where, fold=(seed + 3 * fold) % 7, seed=seed)
                yield f"speed_dating, 1,800 clicks, fold {fold}", where, SPEED_DATING
            continue
        most = max(arguments.clicks)
        rows = max(int(most / CLICK_RATE[world] / 0.8), 10 * TEST_ROWS)
        whole = folder / world
        config = GeneratedLog(world=world, rows=rows, seed=seed, users=2_000, items=500, click_rate=CLICK_RATE[world])
        generate_log(config, whole)
        for clicks in arguments.clicks:
            train = int(clicks / CLICK_RATE[world])
            where = folder / f"{world}-{clicks}"
            cut(open_log(whole), where, {"train": train, "valid": train // 4, "test": TEST_ROWS})
            batch = min(max(train // 60, 64), 1024)
            steps = {"batch_size": batch, "epochs": min(-(-500 * batch // train), 5), "patience": 2}
            yield f"{world}, {clicks:,} clicks", where, {**small(), **steps}


def cut(log: Log, out: Path, rows: dict[str, int]) -> None:
    """The first rows of each part, with the truth of all."""
    out.mkdir()
    log.schema.save(out / "schema.json")
    (out / "truth").symlink_to(Path(log.root) / "truth")
    for part, count in rows.items():
        table = pa.concat_tables([pq.read_table(file.path) for file in log.part(part).files]).slice(0, count)
        (out / part).mkdir()
        pq.write_table(table, out / part / "part-0.parquet", row_group_size=16_384)


def train_one(run: Path, log: Log, settings: dict[str, Any]) -> dict[str, float]:
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    figures = run_training(training(run, log, settings), workers=0)
    return {key: figures[key] for key in (*FIGURES.values(), "train.best_step") if key in figures}


def tables(runs: list[dict[str, Any]]) -> str:
    """One table a log; and how much better than naive each method ranks all exposures, over logs."""
    names = list(dict.fromkeys(kind(run) for run in runs))
    methods = [name for name in METHODS if any(run["method"] == name for run in runs)]
    text = ["CVR figures are over all exposures, by the truth, unless a column says otherwise; mean ± sd over seeds.\n"]
    for name in names:
        rows = []
        for method in methods:
            here = [run for run in runs if kind(run) == name and run["method"] == method]
            if here:
                rows.append(
                    [method, len(here), *(spread([run[key] for run in here if key in run]) for key in FIGURES.values())]
                )
        text.append(f"## {name}\n\n{markdown(['method', 'runs', *FIGURES], rows)}")
    for title, key in (("CVR AUC", "cvr.entire.auc"), ("CVR log-loss", "cvr.entire.log_loss"), ("CTR AUC", "ctr.auc")):
        rows = [[method, *(difference(runs, name, method, key) for name in names)] for method in methods[1:]]
        text.append(f"## {title} less that of naive on the same logs\n\n{markdown(['method', *names], rows)}")
    return "\n".join(text)


def kind(run: dict[str, Any]) -> str:
    return str(run["log"]).split(", fold")[0]


def spread(values: list[float]) -> str:
    if not values:
        return "-"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


def difference(runs: list[dict[str, Any]], name: str, method: str, key: str) -> str:
    """Mean of the paired differences and its standard error."""
    of = {(run["log"], run["seed"], run["method"]): run[key] for run in runs if kind(run) == name and key in run}
    pairs = [value - of[log, seed, "naive"] for (log, seed, own), value in of.items()
             if own == method and (log, seed, "naive") in of]  # fmt: skip
    if not pairs:
        return "-"
    if len(pairs) == 1:
        return f"{pairs[0]:+.4f} (one run)"
    return f"{statistics.mean(pairs):+.4f} ± {float(np.std(pairs, ddof=1)) / len(pairs) ** 0.5:.4f}"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
