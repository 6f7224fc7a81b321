"""Does a search pay? The best of N trials by validation against the default preset, on the test part.

    python -m benchmarks.evaluation.tune --rows 80000 --samples 20 --seeds 3

Per seed (of the log, of the training and of the search) one `jobs.tune` with its defaults: Optuna's TPE, ASHA, the
standard space, the default configuration as the first of the N trials. Both are the very runs of the search, judged on
the test part, which the search never saw. Trials of a log share its training seed.
"""

import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.bench import markdown, write_result
from data.generate import generate_log
from data.world import GeneratedLog
from distributed.config import TrainConfig
from jobs import tune

FIGURES = {
    "CTCVR log-loss": "ctcvr.log_loss",
    "CTCVR AUC": "ctcvr.auc",
    "CTR AUC": "ctr.auc",
    "CVR AUC, clicks": "cvr.click.auc",
    "CVR log-loss, all exposures": "cvr.entire.log_loss",
    "CVR PCOC, all exposures": "cvr.entire.pcoc",
}


@dataclass
class Arguments:
    rows: int = 80_000
    """Exposures of each generated log; 80% are trained on, 10% tell trials apart, 10% are the test part."""
    click_rate: float = 0.2
    conversion_rate: float = 0.2
    samples: int = 20
    """Trials of a search."""
    seeds: int = 3
    concurrent: int = 2
    metric: str = "ctcvr.log_loss"
    """What the search brings down or up on the validation part."""
    space: str = "standard"
    label: str = ""
    """Added to the name of the result file."""


def main(arguments: Arguments) -> None:
    """One search a seed; write the table."""
    began = time.time()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            log, out = Path(folder) / "log", Path(folder) / f"search-{seed}"
            shutil.rmtree(log, ignore_errors=True)
            world = GeneratedLog(
                world="aligned",
                rows=arguments.rows,
                seed=seed,
                click_rate=arguments.click_rate,
                conversion_rate=arguments.conversion_rate,
            )
            generate_log(world, log)
            summary = tune.run(
                tune.Arguments(
                    out=out,
                    data=str(log),
                    samples=arguments.samples,
                    space=arguments.space,
                    metric=arguments.metric,
                    concurrent=arguments.concurrent,
                    config=TrainConfig(seed=seed),
                )
            )
            found.append(summary)
            shutil.rmtree(out)
            print(f"[{time.time() - began:5.0f} s] seed {seed} done", flush=True)
    name = "tune" + (f"-{arguments.label}" if arguments.label else "")
    write_result(name, {"searches": found, "seconds": time.time() - began}, describe(arguments, found))


def describe(arguments: Arguments, found: list[dict[str, Any]]) -> str:
    rows = []
    for label, key in FIGURES.items():
        pairs = [(s[f"default.test.{key}"], s[f"best.test.{key}"]) for s in found if f"best.test.{key}" in s]
        if not pairs:
            continue
        before, after = (statistics.mean(side) for side in zip(*pairs, strict=True))
        gains = [gain(key, *pair) for pair in pairs]
        spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
        better = sum(value > 0 for value in gains)
        cells = [f"{before:.5f}", f"{after:.5f}", f"{statistics.mean(gains):+.5f} ± {spread:.5f}"]
        rows.append([label, *cells, f"{better} of {len(gains)}"])
    head = ["test part", "default", "best of search", "better by", "seeds better"]
    each = []
    for seed, s in enumerate(found):
        valid = [f"{s[f'{who}.valid.{arguments.metric}']:.5f}" for who in ("default", "best")]
        test = [f"{s[f'{who}.test.{arguments.metric}']:.5f}" for who in ("default", "best")]
        counts = [s[f"tune.{state}"] for state in ("finished", "stopped", "failed")]
        settings = ", ".join(f"{key.split('.', 1)[1]} {text(value)}" for key, value in s["best.settings"].items())
        each.append([seed, *valid, *test, " / ".join(map(str, counts)), f"{s['tune.seconds']:.0f}", settings])
    columns = [
        "seed",
        "valid: default",
        "best",
        "test: default",
        "best",
        "ended / stopped / failed",
        "s",
        "best settings",
    ]
    pays = all(gain(arguments.metric, s[f"default.test.{arguments.metric}"], s[f"best.test.{arguments.metric}"]) > 0
               for s in found)  # fmt: skip
    verdict = "better on the test part in every seed" if pays else "NOT better on the test part in every seed"
    return (
        f"{arguments.rows:,} rows, click rate {arguments.click_rate}, conversion rate {arguments.conversion_rate}; "
        f"{arguments.samples} trials a search for {arguments.metric}, {arguments.seeds} seeds; mean over seeds, gains "
        f"with their standard deviation. The best trial is {verdict}.\n\n"
        f"{markdown(head, rows)}\n{arguments.metric} by seed:\n\n{markdown(columns, each)}"
    )


def gain(key: str, before: float, after: float) -> float:
    """How much better, positive if it is."""
    if key.endswith("pcoc"):
        return abs(before - 1) - abs(after - 1)
    return before - after if key.endswith("log_loss") else after - before


def text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
