"""Conversions that are known late: how much of what waiting would bring do models of the delay bring now?

    python -m benchmarks.evaluation.debias_delays --rows 150000 --seeds 3 --delay 4

Training sees eight days of a generated log and what was known of conversions at their end (`--as-of train`); judged by
the labels of the tenth day as they finally came out, over clicks and, by the truth, over all exposures. The gap is that
between training on what was known and training on final labels, which nobody has yet; each kind of delay is tried with
naive clicks and with clicks weighed by the model's own 1/q (the CTCVR term left out: its labels are late as well).
"""

import dataclasses
import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.settings import training
from data.generate import generate_log
from data.log import open_log
from data.world import GeneratedLog
from distributed.training.launch import run_training
from models.objectives.delays import DELAYS

KNOWN, FINAL = "known labels", "final labels"
WEIGHTS: dict[str, dict[str, Any]] = {
    "naive": {"objective.name": "naive"},
    "IPS": {"objective.name": "escm2_ips", "objective.lambda_g": 0.0},
}
KEPT = ("cvr.click.log_loss", "cvr.click.pcoc", "cvr.click.auc", "cvr.entire.log_loss", "cvr.entire.pcoc")


@dataclass
class Arguments:
    rows: int = 150_000
    seeds: int = 3
    delay: float = 4.0
    """Mean days to a conversion of the median item; training has eight days."""
    epochs: int = 2
    kept: Path | None = None
    """File of finished logs, one a line: what it holds is not run again."""
    name: str = "debias-delays"


def methods(delay: float) -> dict[str, dict[str, Any]]:
    """Settings by (weights, method); the window of elapsed-time sampling is half the mean delay, maturity its end."""
    window = {"objective.delay_window": delay / 2, "objective.delay_mature": min(1.5 * delay, 7.0)}
    found: dict[str, dict[str, Any]] = {}
    for weights, settings in WEIGHTS.items():
        found[f"{weights}, {FINAL}"] = dict(settings)
        found[f"{weights}, {KNOWN}"] = {**settings, "as_of": "train"}
        for kind in DELAYS:
            if kind != "none":
                found[f"{weights}, {kind}"] = {**settings, "as_of": "train", "objective.delay": kind, **window}
    return found


def one_log(seed: int, arguments: Arguments) -> dict[str, dict[str, float]]:
    """Figures on the test part by method."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        plain = GeneratedLog(world="aligned", users=2000, items=1000, click_rate=0.1, conversion_rate=0.2)
        config = dataclasses.replace(plain, rows=arguments.rows, seed=seed, delay=arguments.delay)
        generate_log(config, place / "log")
        log = open_log(place / "log")
        for number, (name, settings) in enumerate(methods(arguments.delay).items()):
            run = place / f"run-{number}"
            run.mkdir()
            own = {"seed": seed, "epochs": arguments.epochs, "stop_metric": "ctr.log_loss", **settings}
            figures = run_training(training(run, log, own), workers=0)
            found[name] = {key: figures[key] for key in KEPT}
            print(f"seed {seed} {name}: {found[name]}", flush=True)
    return found


def main(arguments: Arguments) -> None:
    runs: dict[int, dict[str, dict[str, float]]] = {}
    if arguments.kept is not None and arguments.kept.exists():
        lines = [json.loads(line) for line in arguments.kept.read_text().splitlines()]
        runs = {int(line["seed"]): line["runs"] for line in lines}
    for seed in range(arguments.seeds):
        if seed not in runs:
            runs[seed] = one_log(seed, arguments)
            if arguments.kept is not None:
                with arguments.kept.open("a") as file:
                    file.write(json.dumps({"seed": seed, "runs": runs[seed]}) + "\n")
    runs = {seed: found for seed, found in runs.items() if seed < arguments.seeds}
    write_result(arguments.name, {"arguments": {"rows": arguments.rows, "delay": arguments.delay}, "runs": runs},
                 describe(runs, arguments))  # fmt: skip


def describe(runs: dict[int, dict[str, dict[str, float]]], arguments: Arguments) -> str:
    """Share of the gap in log-loss over clicks closed, with its standard error over seeds, and the mean figures."""
    rows = []
    for name in methods(arguments.delay):
        weights = name.split(", ")[0]
        shares = []
        key = "cvr.click.log_loss"
        gap = statistics.mean(f[f"{weights}, {KNOWN}"][key] - f[f"{weights}, {FINAL}"][key] for f in runs.values())
        for found in runs.values():
            shares.append((found[f"{weights}, {KNOWN}"][key] - found[name][key]) / gap)
        error = statistics.stdev(shares) / len(shares) ** 0.5 if len(shares) > 1 else 0.0
        means = [statistics.mean(found[name][figure] for found in runs.values()) for figure in KEPT]
        rows.append([name, f"{statistics.mean(shares):+.0%} ± {error:.0%}", *(f"{mean:.4f}" for mean in means)])
    head = ["method", "gap closed", *KEPT]
    words = f"{arguments.rows:,} exposures, {len(runs)} seeds, conversions after {arguments.delay:g} days on average."
    return f"{words}\n\n{markdown(head, rows)}"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
