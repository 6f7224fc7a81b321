"""Train, score, evolve, evaluate, export: one job that goes on wherever it was stopped, and ends in the same files.

    python -m jobs.pipeline --data runs/log --out runs/all
    python -m jobs.pipeline --data runs/log --out runs/all --workers 2 --evolve-workers 2 --epochs 4
    python -m jobs.pipeline --data runs/log --out runs/plain --workers 0           # this process, no Ray
    python -m jobs.pipeline --data runs/log --out runs/daily --watch runs/days     # and then day by day
    python -m jobs.submit -- pipeline --data s3://bucket/log --out /shared/runs/all --workers 16 --evolve-workers 8

While the training goes on, each epoch whose model is the best so far is scored on the validation part and the fusion is
tuned on that, from the last theta; the test part is only judged on. A stage that is done is checked by the checksums of
what it read and wrote, and made anew, with what follows from it, where they differ: OUT/pipeline.json. The same command
continues a pipeline that was killed. docs/pipeline.md says what is in OUT, and how --watch takes days in.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jobs.run.directory import usable_cpus


@dataclass
class Arguments:
    out: Path
    """Run directory: new, or one of the same pipeline to continue."""
    data: str | None = None
    """Log directory (path or URI) with the parts train, valid and test; with --watch it may be left out."""
    objective: str = "escm2_ips"
    """Of the training, as in jobs.train."""
    backbone: Literal["shared_bottom", "omoe", "mmoe", "cgc", "ple"] = "mmoe"
    """The network between the embedding and the towers."""
    workers: int = min(2, usable_cpus())
    """Ray Train workers; 0 trains in this process without Ray, and rounds come between its epochs."""
    epochs: int = 2
    """Passes over the training part, at most."""
    tables: Literal["replicated", "sharded"] = "replicated"
    """Embedding rows: on every worker, or each on one of them."""
    seed: int = 0
    """Decides the training, the evolution and the bootstraps."""
    propensities: Path | None = None
    """A finished training run whose CTR tower weighs the clicks, as in jobs.train."""
    calibrate: Literal["none", "platt", "isotonic"] = "none"
    """Calibrate the trained model on the validation part."""
    config: Path | None = None
    """A preset file of the training, as in jobs.train."""
    preset: str = ""
    """A named configuration of the training, as in jobs.train."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE ...")] = ()
    """Any other setting of the training, as in jobs.train."""
    fusion: Literal["product", "sum", "rank"] = "product"
    """How scores are fused, as in jobs.evolve."""
    metric: Literal["value", "ndcg"] = "value"
    """What the fusion is tuned for."""
    k: int = 10
    """Places of a list that count."""
    conversion_weight: float = 10.0
    """Reward of a candidate = click + this * conversion (* value, where the log has one)."""
    round_generations: int = 20
    """Generations of a round: on the scores of each epoch's model that is the best so far."""
    generations: int = 60
    """Generations on the scores of the final model, from the theta of the last round."""
    pairs: int = 64
    """Pairs of candidates per generation."""
    sigma: float = 0.1
    """Size of the perturbations."""
    engine: tuple[str, ...] = ()
    """Any other setting of es/config.py, key=value."""
    evolve_workers: int = 0
    """Ray actors of the evolution beside the training's workers; 0, or CPUs for fewer: in this process. Never changes
    the result."""
    resamples: int = 1000
    """Bootstrap resamples behind the intervals of the fusion."""
    replicates: int = 400
    """Bootstrap replicates behind the intervals of the evaluation."""
    by: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN ...")] = ()
    """Columns that the evaluation slices by, as in jobs.evaluate."""
    formats: tuple[Literal["pt2", "onnx"], ...] = ("pt2", "onnx")
    """Files to export; none: no export."""
    export_rows: int = 10_000
    """Rows that exported files are checked on."""
    watch: Path | None = None
    """Directory of day partitions to go on with (docs/pipeline.md): judge, train, tune and export by day."""
    day_epochs: int = 1
    """Passes over a day's rows, at most."""
    valid_share: float = 0.1
    """Share of a day's users whose rows are not trained on: epochs are chosen and the fusion is tuned by them."""
    days: int | None = None
    """End once so many days are done, those of earlier starts counted."""
    until_idle: float | None = None
    """End once no new day has come for so many seconds."""
    poll: float = 10.0
    """Seconds between two looks for a new day."""
    keep: int = 2
    """Days whose models and files are kept; of older ones the figures stay."""


def run(options: Arguments) -> dict[str, Any]:
    """Do what is not done; returns summary.json as a dict: no timings in it, so that it is the same every time."""
    from jobs.pipeline.driver import conduct  # PyTorch takes seconds to import: jobs.status reads pipelines without it

    return conduct(options)
