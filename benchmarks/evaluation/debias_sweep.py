"""When does debiasing pay, and when does it hurt? Selection, click rate, confounding and hidden causes swept.

    python -m benchmarks.evaluation.debias_sweep --rows 200000 --seeds 5
    python -m benchmarks.evaluation.debias_sweep --points base confounding=0 --methods naive ESCM2-DR --seeds 2

Around a base world one knob at a time is turned (data/world.py has the equations). Every method trains on every log;
judged over all exposures of the test part, by the truth. Two references bound what can be closed: the oracle, trained
on the potential conversion of every exposure, and `random clicks`, naive training on as many clicks as the log has, but
made by a coin. What lies between naive and random clicks is bias; between random clicks and the oracle, labels. A
second table shows every method after a Platt map of its pCVR, fitted on the clicks of the validation part with weights
1/q (jobs.calibrate --space entire); the gap is the one before.
"""

import dataclasses
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.evaluation.debias import named_settings, train_one
from benchmarks.evaluation.debias_methods import METHODS as BASIC
from benchmarks.evaluation.debias_methods import objective
from benchmarks.settings import Settings, options
from data.generate import generate_log
from data.log import open_log
from data.world import GeneratedLog

BASE: dict[str, float] = {
    "click_rate": 0.1,
    "conversion_rate": 0.2,
    "selection": 1.3,
    "confounding": 1.2,
    "hidden": 0.0,
}
POINTS = ("base", "confounding=0", "confounding=2.4", "selection=0.5", "selection=2.5", "click_rate=0.03",
          "click_rate=0.3", "hidden=0.7")  # fmt: skip
KNOBS = ("presentation", "presentation_sells")
FIGURES = LOSS, PCOC, AUC = "cvr.entire.log_loss", "cvr.entire.pcoc", "cvr.entire.auc"
PLATT, COIN = "platt.", "random clicks"
METHODS = {
    **{name: BASIC[name] for name in ("naive", "MTL-IMP", "ESMM")},
    "IPS, clip auto": objective("escm2_ips", lambda_c=1),
    "IPS, clip 0.01": objective("escm2_ips", lambda_c=1, clip=0.01),
    "IPS, clip 0.1": objective("escm2_ips", lambda_c=1, clip=0.1),
    "IPS, lambda_c 0.1": objective("escm2_ips"),
    "SNIPS": objective("escm2_snips", lambda_c=1),
    "DR": objective("escm2_dr"),
    "DR, lambda_c 1": objective("escm2_dr", lambda_c=1),
    "MRDR": objective("escm2_mrdr"),
    **{
        name: setting
        for name, setting in BASIC.items()
        if name.startswith(("two stages", "joint", "naive, ")) or "true q" in name
    },
    COIN: {**objective("random"), "stop_metric": "cvr.click.log_loss"},
    "oracle": BASIC["oracle"],
}


@dataclass
class Arguments:
    rows: int = 200_000
    """Exposures of each log, with 2,000 users and 1,000 items."""
    seeds: int = 5
    """Seeds: of the log and of the training."""
    points: list[str] = field(default_factory=lambda: list(POINTS))
    """base, or a knob of the base world set anew: confounding=0; or instrument, the world of that name, or a knob of
    it: instrument:hidden=0.7."""
    methods: list[str] = field(default_factory=lambda: list(METHODS))
    preset: str = ""
    """Settings of all methods, the references included: a preset of jobs.train or a JSON file, as there."""
    processes: int = len(os.sched_getaffinity(0))
    name: str = "debias-sweep"
    kept: Path | None = None
    """File of finished runs, some a line, of the same rows and settings: what it holds is not run again, the rest is
    added as it comes."""
    show: bool = False
    """Train nothing: tables of what --kept holds, whatever is missing of it."""


def world_of(point: str) -> dict[str, Any]:
    instrument = point.startswith("instrument")
    change = point.partition(":")[2] if instrument else point
    known = {"world": "instrument"} if instrument else {"world": "aligned", **BASE}
    if change in ("", "base"):
        return known
    knob, equals, value = change.partition("=")
    if knob not in (*BASE, *KNOBS) or not equals:
        raise SystemExit(f"--points {point}: write base, or KNOB=VALUE with a knob of {', '.join((*BASE, *KNOBS))}")
    return {**known, knob: float(value)}


def one_log(point: str, seed: int, rows: int, methods: list[str], shared: Settings) -> list[dict[str, Any]]:
    """All methods on one log; `shared`: settings of all of them."""
    found = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        plain = GeneratedLog(rows=rows, seed=seed, users=2000, items=1000)
        generate_log(dataclasses.replace(plain, **world_of(point)), folder / "log")
        log = open_log(folder / "log")
        for name in methods:
            run = folder / f"run-{len(found)}"
            run.mkdir()
            figures = train_one(run, log, folder, {**shared, **METHODS[name], "seed": seed})
            kept = {key: figures[key] for key in (*FIGURES, "ctr.auc", "propensity.effective_share")}
            kept |= {key: figures[key] for key in ("theta", "ctr.log_loss") if key in figures}
            kept |= {key: figures[key] for key in figures if key.startswith("cause.")}
            after = {f"platt.{key}": figures.get(f"platt.{key}", figures[key]) for key in FIGURES}
            found.append({"point": point, "seed": seed, "method": name, **kept, **after})
    return found


def one_log_of(case: tuple[str, int, int, list[str], Settings]) -> list[dict[str, Any]]:
    return one_log(*case)


def main(arguments: Arguments) -> None:
    for point in arguments.points:
        world_of(point)
    if unknown := set(arguments.methods) - set(METHODS):
        raise SystemExit(f"--methods {' '.join(unknown)}: choose of {', '.join(METHODS)}")
    shared = named_settings(arguments.preset)
    os.environ["OMP_NUM_THREADS"] = "1"
    runs = list[dict[str, Any]]()
    if arguments.kept is not None and arguments.kept.exists():
        runs = [run for line in arguments.kept.read_text().splitlines() for run in json.loads(line)]
    done = {(run["point"], run["seed"], run["method"]) for run in runs}
    work = list[tuple[str, int, int, list[str], Settings]]()
    for seed in range(arguments.seeds):
        for point in arguments.points:
            missing = [method for method in arguments.methods if (point, seed, method) not in done]
            if missing and not arguments.show:
                work.append((point, seed, arguments.rows, missing, shared))
    began = time.time()
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for found in pool.imap_unordered(one_log_of, work):
            runs += found
            print(f"[{time.time() - began:5.0f} s] {found[0]['point']}, seed {found[0]['seed']}", flush=True)
            if arguments.kept is not None:
                with arguments.kept.open("a") as file:
                    file.write(json.dumps(found) + "\n")
    runs = [
        run
        for run in runs
        if run["point"] in arguments.points and run["seed"] < arguments.seeds and run["method"] in arguments.methods
    ]
    table = write_result(arguments.name, {"base": BASE, "runs": runs}, describe(runs, arguments))
    plot(runs, arguments, table.with_suffix(".png"))


def losses(runs: list[dict[str, Any]], point: str, method: str, platt: str = "") -> dict[int, float]:
    """Entire-space log-loss by seed."""
    return {r["seed"]: float(r[platt + LOSS]) for r in runs if (r["point"], r["method"]) == (point, method)}


def closed(
    runs: list[dict[str, Any]], point: str, method: str, platt: str = "", reference: str = "oracle"
) -> list[float]:
    """By seed, the share of the mean gap in entire-space log-loss, naive to the reference, that a method closes; of the
    seeds that all three have."""
    naive, least = losses(runs, point, "naive"), losses(runs, point, reference)
    own = losses(runs, point, method, platt)
    seeds = sorted(naive.keys() & least.keys() & own.keys())
    if not seeds:
        return []
    gap = statistics.mean(naive[seed] - least[seed] for seed in seeds)
    return [(naive[seed] - own[seed]) / gap for seed in seeds]


def describe(runs: list[dict[str, Any]], arguments: Arguments) -> str:
    """By point: the loss gap closed, with its standard error over seeds, and the mean PCOC."""
    shared = " ".join(options(named_settings(arguments.preset))) or "the defaults"
    text = (
        f"{arguments.rows:,} exposures; logs by world: {counted(runs, arguments.points)}; base world: "
        f"{', '.join(f'{knob} {value:g}' for knob, value in BASE.items())}; settings of all: "
        f"{shared}. Share of the naive-oracle gap closed in entire-space log-loss, mean ± standard error over seeds; "
        "in brackets the mean entire-space PCOC, and how many logs where fewer than naive has.\n\n"
    )
    gap = ["the gap itself"]
    for point in arguments.points:
        naive, oracle = ([r[LOSS] for r in runs if (r["point"], r["method"]) == (point, name)]
                         for name in ("naive", "oracle"))  # fmt: skip
        gap.append(f"{statistics.mean(naive) - statistics.mean(oracle):.5f}" if naive and oracle else "")
    others = [name for name in arguments.methods if name not in ("naive", "oracle")]
    before = [cells(runs, arguments.points, name) for name in ["naive", *others, "oracle"]]
    after = [cells(runs, arguments.points, name, PLATT) for name in ["naive", *others]]
    head = ["method", *arguments.points]
    text += f"{markdown(head, [*before, gap])}\nAfter Platt's map:\n\n{markdown(head, after)}"
    if COIN not in others:
        return text
    bias = [cells(runs, arguments.points, name, reference=COIN) for name in others if name != COIN]
    return f"{text}\nOf the gap between naive and {COIN}, which is bias alone:\n\n{markdown(head, bias)}"


def counted(runs: list[dict[str, Any]], points: list[str]) -> str:
    return ", ".join(f"{point} {len(losses(runs, point, 'naive'))}" for point in points)


def cells(
    runs: list[dict[str, Any]], points: list[str], method: str, platt: str = "", reference: str = "oracle"
) -> list[str]:
    row = [method]
    for point in points:
        shares = closed(runs, point, method, platt, reference)
        if not shares:
            row.append("")
            continue
        error = statistics.stdev(shares) / len(shares) ** 0.5 if len(shares) > 1 else 0.0
        pcoc = statistics.mean(r[platt + PCOC] for r in runs if (r["point"], r["method"]) == (point, method))
        fewer = f"; {len(shares)}" if len(shares) < len(losses(runs, point, "naive")) else ""
        spread = f" ± {error:.0%}" if len(shares) > 1 else ""
        row.append(f"{statistics.mean(shares):+.0%}{spread} ({pcoc:.2f}{fewer})")
    return row


def plot(runs: list[dict[str, Any]], arguments: Arguments, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in arguments.methods if name not in ("naive", "oracle")]
    figure, panel = pyplot.subplots(figsize=(1.7 * len(arguments.points) + 2, 4.2))
    width = 0.8 / max(len(names), 1)
    for index, name in enumerate(names):
        shares = [closed(runs, point, name) for point in arguments.points]
        places = np.arange(len(arguments.points)) + (index - (len(names) - 1) / 2) * width
        errors = [statistics.stdev(s) / len(s) ** 0.5 if len(s) > 1 else 0.0 for s in shares]
        heights = [statistics.mean(s) if s else 0.0 for s in shares]
        hatch = "//" if index >= 10 else None
        panel.bar(places, heights, width, yerr=errors, label=name, color=f"C{index % 10}", hatch=hatch)
    panel.axhline(0, color="0.3", linewidth=0.8)
    panel.axhline(1, color="0.3", linewidth=0.8, linestyle=":")
    panel.set(xticks=range(len(arguments.points)), ylim=(-1.2, 1.2), ylabel="naive-oracle log-loss gap closed")
    panel.set_xticklabels(arguments.points)
    panel.legend(fontsize=7, ncol=2)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
