"""How good are the weights of a click model? Beside the true propensities, on the very clicks that it weighs.

    python -m benchmarks.evaluation.click_models --rows 100000 --models none fm "fm, tailored 0.1" "fm, 3 folds"

One log of the sweep's base world (or another point). Of every model: log-loss on the test part; how its logits go with
the true ones; the mean conversion that weighing the training part's clicks gives, over the true mean (1 is right, and
what is not is the bias that IPS is left with); the same with the true propensities, which shows what chance does; and
the effective sample size.
"""

import dataclasses
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from scipy.special import expit, logit

from benchmarks.bench import markdown, write_result
from benchmarks.evaluation.debias_methods import FM_CLICKS, FOLDED_CLICKS, PLAIN_CLICKS
from benchmarks.evaluation.debias_stages import click_models
from benchmarks.evaluation.debias_sweep import world_of
from data.encode import Encoder
from data.generate import generate_log
from data.log import Log, open_log
from data.reading import ordered_tables
from data.world import GeneratedLog
from distributed.context import CPU
from distributed.finished_run import load_run
from funnel.ranking.click_model import ClickModel
from funnel.ranking.folds import with_folds
from models.objectives.propensity import AUTO_CLIP_SHARE

BALANCE, KIND = "objective.balance.weight", "objective.balance.kind"
MODELS: dict[str, dict[str, Any]] = {
    "none": PLAIN_CLICKS,
    "fm": FM_CLICKS,
    "dcn_v2": {"model.crossing": "dcn_v2", "model.cross_rank": 16},
    "fm, tailored 0.03": {**FM_CLICKS, BALANCE: 0.03},
    "fm, tailored 0.1": {**FM_CLICKS, BALANCE: 0.1},
    "fm, tailored 1": {**FM_CLICKS, BALANCE: 1.0},
    "fm, slices 0.1": {**FM_CLICKS, BALANCE: 0.1, KIND: "slices"},
    "fm, slices 1": {**FM_CLICKS, BALANCE: 1.0, KIND: "slices"},
    "fm, 3 folds": FOLDED_CLICKS,
    "fm, 10 epochs": {**FM_CLICKS, "epochs": 10},
}


@dataclass
class Arguments:
    rows: int = 100_000
    seed: int = 0
    point: str = "base"
    """Of the sweep."""
    models: list[str] = field(default_factory=lambda: list(MODELS))
    kept: Path | None = None
    """File of finished models, one a line: what it holds is not run again."""
    name: str = "click-models"


def scored(log: Log, part: str, model: ClickModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(logits, clicks, places in the truth) of a part's rows, each weighed by models that have not seen its fold."""
    truth, encoder, schema = log.truth(part), Encoder(log.schema), log.schema
    assert schema.exposure is not None
    columns = list(dict.fromkeys([*schema.columns, schema.exposure, *([schema.user] if schema.user else [])]))
    logits, clicks, places = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    for table in ordered_tables(log, log.part(part), columns):
        rows = encoder.encode(table)
        logits.append(model.logits_of(with_folds(rows, table, schema, model.folds), CPU).numpy())
        clicks.append(rows.labels["click"])
        places.append(truth.lookup(table.column(schema.exposure).to_numpy()))
    return np.concatenate(logits).astype(np.float64), np.concatenate(clicks), np.concatenate(places)


def judged(log: Log, model: ClickModel, clip: float) -> dict[str, float]:
    """Log-loss on the test part, the rest on the training part."""
    test_R, test_click_R, _ = scored(log, "test", model)
    truth, (logit_R, click_R, place_R) = log.truth("train"), scored(log, "train", model)
    assert truth.propensity_R is not None
    assert truth.probability_R is not None
    true_R, p_R = truth.propensity_R[place_R], truth.probability_R[place_R]

    def weighed(q_R: np.ndarray) -> tuple[float, float]:
        weight_R = click_R / np.maximum(q_R, clip)
        effective = weight_R.sum() ** 2 / (weight_R**2).sum() / click_R.sum()
        return float((weight_R @ p_R) / weight_R.sum() / p_R.mean()), float(effective)

    (mean, effective), (best, best_effective) = weighed(expit(logit_R)), weighed(true_R)
    return {
        "log_loss": float((np.logaddexp(0, test_R) - test_click_R * test_R).mean()),
        "correlation": float(np.corrcoef(logit_R, logit(true_R))[0, 1]),
        "deviation": float(logit_R.std() / logit(true_R).std()),
        "naive": float((click_R @ p_R) / click_R.sum() / p_R.mean()),
        "mean": mean,
        "effective": effective,
        "true mean": best,
        "true effective": best_effective,
    }


def main(arguments: Arguments) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    about = {"point": arguments.point, "seed": arguments.seed, "rows": arguments.rows}
    runs, kept = list[dict[str, Any]](), arguments.kept
    if kept is not None and kept.exists():
        runs = [json.loads(line) for line in kept.read_text().splitlines()]
    runs = [run for run in runs if about.items() <= run.items()]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        plain = GeneratedLog(rows=arguments.rows, seed=arguments.seed, users=2000, items=1000)
        generate_log(dataclasses.replace(plain, **world_of(arguments.point)), folder / "log")
        log = open_log(folder / "log")
        for name in arguments.models:
            if name in {run["model"] for run in runs}:
                continue
            inside = folder / str(len(runs))
            inside.mkdir()
            given = click_models(inside, log, {"seed": arguments.seed}, MODELS[name])
            found = [load_run(Path(run)) for run in given.values()]
            rate = found[0].problem.facts["click_rate"]  # type: ignore[attr-defined]
            told = judged(log, ClickModel(*(run.given for run in found)), AUTO_CLIP_SHARE * rate)
            runs.append({**about, "model": name, **told})
            print(runs[-1], flush=True)
            if kept is not None:
                with kept.open("a") as file:
                    file.write(json.dumps(runs[-1]) + "\n")
    runs = [run for run in runs if run["model"] in arguments.models]
    write_result(arguments.name, {"runs": runs}, describe(runs, arguments))


def describe(runs: list[dict[str, Any]], arguments: Arguments) -> str:
    rows = [
        [
            run["model"],
            f"{run['log_loss']:.5f}",
            *(f"{run[key]:.3f}" for key in ("correlation", "deviation", "mean", "effective")),
        ]
        for run in runs
    ]
    one = runs[0]
    rows += [["true propensities", "", "1", "1", f"{one['true mean']:.3f}", f"{one['true effective']:.3f}"]]
    rows += [["no weights", "", "", "", f"{one['naive']:.3f}", "1"]]
    head = ["click model", "log-loss", "correlation of logits", "their spread / the true", "mean conversion / the true",
            "effective share of clicks"]  # fmt: skip
    words = f"World {arguments.point}, {arguments.rows:,} exposures, seed {arguments.seed}; on the training part."
    return f"{words}\n\n{markdown(head, rows)}"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
