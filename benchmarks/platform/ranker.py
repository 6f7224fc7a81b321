"""The project's ranker trained on the platform's log like on any other: AUC beside what the truth would allow.

    python -m benchmarks.platform.ranker

A log of exposures is made (jobs.make_data --world platform), jobs.train trains on it with each objective, and the test
part is judged. The ceiling is the AUC of the true probabilities, which the world knows: an event that happens with
probability p is not predicted better by anybody.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import tyro
from sklearn.metrics import roc_auc_score

from benchmarks.bench import markdown, write_result
from jobs import make_data, train
from jobs.command.cli import parse

OBJECTIVES = ("naive", "escm2_ips")
SHOWN = {"ctr.auc": "CTR AUC", "cvr.click.auc": "CVR AUC, clicks", "cvr.entire.auc": "CVR AUC, exposures (truth)",
         "cvr.entire.pcoc": "CVR PCOC, exposures (truth)", "ctcvr.auc": "CTCVR AUC"}  # fmt: skip


@dataclass
class Arguments:
    rows: int = 400_000
    """Of the log."""
    epochs: int = 2
    """Of each training."""


def main(arguments: Arguments) -> None:
    """Make the log, train, judge, write the table."""
    with tempfile.TemporaryDirectory() as folder:
        log, found = Path(folder) / "log", {}
        words = ["--world", "platform", "--rows", str(arguments.rows), "--out", str(log)]
        make_data.run(parse(make_data.options_for, words))
        for name in OBJECTIVES:
            words = ["--data", str(log), "--out", f"{folder}/{name}", "--workers", "0", "--objective.name", name]
            found[name] = train.run(train.arguments_of(*words, "--epochs", str(arguments.epochs)))
        best = ceiling(log)
    rows: list[list[Any]] = [
        [label, *(f"{found[name][key]:.4f}" for name in OBJECTIVES), f"{best[key]:.4f}" if key in best else "1"]
        for key, label in SHOWN.items()
    ]
    table = markdown(["test part", *OBJECTIVES, "ceiling"], rows)
    figures = {name: {key: found[name][key] for key in SHOWN} for name in OBJECTIVES}
    write_result("platform-ranker", {"rows": arguments.rows, "figures": figures, "ceiling": best}, table)


def ceiling(log: Path) -> dict[str, float]:
    """AUCs of the true probabilities on the test part."""
    shown, truth = (ds.dataset(log / part).to_table() for part in ("test", "truth/test"))
    click, bought = (shown.column(name).to_numpy() == 1 for name in ("click", "purchase"))
    would = truth.column("potential_purchase").to_numpy() == 1
    click_chance, buy_chance = (
        truth.column(name).to_numpy().astype(np.float64) for name in ("propensity", "purchase_probability")
    )
    return {
        "ctr.auc": float(roc_auc_score(click, click_chance)),
        "cvr.click.auc": float(roc_auc_score(bought[click], buy_chance[click])),
        "cvr.entire.auc": float(roc_auc_score(would, buy_chance)),
        "ctcvr.auc": float(roc_auc_score(bought, click_chance * buy_chance)),
    }


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
