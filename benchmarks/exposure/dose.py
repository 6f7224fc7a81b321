"""AMSE of DRNet and VCNet, with and without targeted regularisation, trained by jobs.train at the published settings.

    python -m benchmarks.exposure.dose                                    # VCNet's simulation, 5 data seeds
    python -m benchmarks.exposure.dose --covariates ihdp.csv              # IHDP, 5 draws and splits
    python -m benchmarks.exposure.dose --covariates ihdp.csv --one-draw   # IHDP, splits of the first draw

The published code, run on such data, gave on the simulation VCNet .0153 (with targeted regularisation .0146), DRNet
.0411 (.0249); on five splits of one draw of IHDP VCNet .340 (.522), DRNet 1.174 (.770). An epoch is 20 steps.
"""

import contextlib
import dataclasses
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.exposure.pieces import Pieces
from funnel.exposure.logs import DoseLog, DoseLogs, DoseWorld
from jobs import train

MODELS: dict[str, tuple[object, ...]] = {
    "VCNet": ("vcnet",),
    "VCNet, targeted": ("vcnet", "--targeted", 1),
    "DRNet": ("drnet",),
    "DRNet, targeted": ("drnet", "--targeted", 1, "--alpha", 0.5),
}
PUBLISHED = {"simulation": (0.0153, 0.0146, 0.0411, 0.0249), "ihdp": (0.340, 0.522, 1.174, 0.770)}
IHDP_RATES = {"vcnet": 0.001, "drnet": 0.02}


@dataclass
class Options:
    seeds: int = 5
    first: int = 0
    covariates: Path | None = None
    one_draw: bool = False
    """ihdp: doses and outcomes are those of the first seed, which then stands for the split alone."""
    only: str = ""
    """Networks whose name begins so."""
    epochs: int = 40
    cache: Path | None = None
    """File that keeps results: the same command again goes on."""
    seconds: float = 1e9
    """CPU-seconds after which no new training is begun."""


def trained(log: Path, out: Path, options: Options, seed: int, words: tuple[object, ...]) -> float:
    more: list[object] = ["--preset", "published", "--epochs", options.epochs, "--seed", seed, "--workers", 0]
    if options.covariates:
        rate = IHDP_RATES[str(words[0])]
        more += ["--optimizer.learning-rate", rate, "--batch-size", 471, "--model.targeted-knots", 19]
        more += ["--model.targeted-rate", 0.001 / rate / 10]
    given = train.arguments_of(*map(str, ("--problem", *words, "--data", log, "--out", out, *more)))
    with contextlib.redirect_stdout(io.StringIO()):
        summary = train.run(given)
    return float(summary["amse"])


def main(options: Options) -> None:
    kind = "ihdp" if options.covariates else "simulation"
    pieces = Pieces(options.cache, options.seconds)
    found: dict[str, list[float]] = {name: [] for name in MODELS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.first, options.first + options.seeds):
            log = Path(folder) / f"log-{seed}"
            for name, words in MODELS.items():
                out = Path(folder) / f"{seed}-{name}"

                def compute(seed: int = seed, log: Path = log, out: Path = out, words: Any = words) -> float:
                    if not log.exists():
                        split, draw = (seed, options.first) if options.one_draw else (0, seed)
                        world = DoseWorld(kind, options.covariates, split)  # type: ignore[arg-type]
                        DoseLogs.write(world, DoseLog(repeat=20, seed=draw), {}, "", log)
                    return trained(log, out, options, seed, words)

                key = f"{kind}{' one draw' if options.one_draw else ''} {seed} {name}"
                wanted = name.startswith(options.only) or key in pieces.known
                if wanted and (amse := pieces.get(key, compute)) is not None:
                    found[name].append(amse)
    report(kind, options, found)


def report(kind: str, options: Options, found: dict[str, list[float]]) -> None:
    lines = []
    for (name, values), there in zip(found.items(), PUBLISHED[kind], strict=True):
        if not values:
            continue
        error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
        mean, ends = f"{np.mean(values):.4f} ± {error:.4f}", f"{min(values):.4f} to {max(values):.4f}"
        lines.append([name, mean, ends, f"{there}", len(values)])
    header = ["network", "AMSE, mean ± s.e.", "least to most", "published code", "data seeds"]
    what = "splits of one draw" if options.one_draw else "a draw and a split each"
    head = f"{kind}, {what}, {20 * options.epochs} steps\n\n"
    skipped = ("cache", "seconds", "only")
    own = {name: value for name, value in dataclasses.asdict(options).items() if name not in skipped}
    kept = {**own, "covariates": options.covariates.name if options.covariates else None}
    name = f"exposure-dose-{kind}{'-one-draw' if options.one_draw else ''}"
    write_result(name, {"amse": found, "options": kept}, head + markdown(header, lines))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
