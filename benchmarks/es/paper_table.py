"""Timesteps to four scores on MuJoCo, against Salimans et al. 2017 (arXiv 1703.03864), Table 3.

    python -m benchmarks.es.paper_table                                     # the two pendulums
    python -m benchmarks.es.paper_table --tasks Swimmer --name es-paper-table-swimmer

Needs the extra `control`. Six seeds, one process each; every generation the unperturbed policy plays ten more episodes,
whose mean is the learning curve. Only training timesteps count. A score is reached where the mean curve of the seeds
first is at or above it; ">" means not within the timesteps given.

N points of a curve, G points of the common grid.
"""

import contextlib
import multiprocessing
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from es.config import ESConfig
from es.engine import run
from es.objectives.control import Control

GRID = 2000  # points of the common grid of timesteps


@dataclass(frozen=True)
class Task:
    """A row of Table 3: TRPO's score at four stages, and the paper's timesteps to them; and our batch and budget."""

    env: str
    scores: tuple[float, ...]
    paper: tuple[float, ...]
    pairs: int
    budget: int
    bins: int = 0


TASKS = {
    "InvertedPendulum": Task(
        "InvertedPendulum-v5", (276.59, 519.15, 753.17, 1000.0), (6.25e4, 1.43e5, 2.55e5, 4.55e5), 20, 455_000
    ),
    "InvertedDoublePendulum": Task(
        "InvertedDoublePendulum-v5",
        (2358.98, 4609.68, 6874.03, 9104.07),
        (3.98e5, 4.66e5, 5.30e5, 5.39e6),
        8,
        1_500_000,
    ),
    "Swimmer": Task(
        "Swimmer-v5", (41.97, 70.73, 99.68, 128.25), (5.88e5, 8.52e5, 1.23e6, 1.39e6), 16, 1_390_000, bins=10
    ),
    "HalfCheetah": Task(
        "HalfCheetah-v5", (-1.35, 793.55, 1589.83, 2385.79), (1.36e5, 8.28e5, 1.42e6, 2.88e6), 16, 2_880_000
    ),
}


@dataclass
class Arguments:
    tasks: list[str] = field(default_factory=lambda: ["InvertedPendulum", "InvertedDoublePendulum"])
    seeds: int = 6
    processes: int = len(os.sched_getaffinity(0))
    episodes: int = 10
    """Noiseless episodes behind each point of a curve."""
    minutes: float = 8.0
    """For a task; runs that take more than their share are cut there, and the table says where."""
    name: str = "es-paper-table"


class Enough(Exception):
    """The budget of timesteps or minutes is used up."""


def curve(task: Task, seed: int, episodes: int, seconds: float) -> dict[str, Any]:
    """One run: training timesteps before each evaluation, the evaluation's mean return, and the seconds it took."""
    objective = Control(env=task.env, action_bins=task.bins, centre_episodes=episodes, seed=seed)
    config = ESConfig(seed=seed, generations=10_000, pairs=task.pairs, sigma=0.02, learning_rate=0.01,
                      weight_decay=0.005)  # fmt: skip
    steps, reached, began = 0.0, list[tuple[float, float]](), time.time()

    def on_generation(metrics: dict[str, Any]) -> None:
        nonlocal steps
        reached.append((steps, metrics["return.centre"]))
        steps += metrics["steps"]
        if steps >= task.budget or time.time() - began > seconds:
            raise Enough

    with contextlib.suppress(Enough):
        run(objective, config, on_generation=on_generation)
    return {"seed": seed, "points": reached, "steps": steps, "seconds": time.time() - began}


def points(run: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    steps_N, returns_N = np.asarray(run["points"]).T
    return steps_N, returns_N


def mean_curve(runs: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """The mean over the seeds of the latest evaluation at each timestep, (G,), up to where the shortest run ends."""
    end = min(run["points"][-1][0] for run in runs)
    grid_G = np.linspace(0, end, GRID)
    values = []
    for run_ in runs:
        steps_N, returns_N = points(run_)
        values.append(returns_N[np.searchsorted(steps_N, grid_G, side="right") - 1])
    return grid_G, np.mean(values, axis=0)


def first_reached(steps: np.ndarray, returns: np.ndarray, score: float) -> float | None:
    # A mean of many 1000s may miss 1000 by a rounding.
    reached = np.flatnonzero(returns >= score - 1e-9 * abs(score))
    return float(steps[reached[0]]) if len(reached) else None


def figures(task: Task, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Timesteps to each score: of the mean curve, and the median and the worst of the single seeds."""
    grid_G, mean_G = mean_curve(runs)
    rows = []
    for score, paper in zip(task.scores, task.paper, strict=True):
        singles = [first_reached(*points(run), score) for run in runs]
        known = sorted(np.inf if each is None else each for each in singles)
        rows.append({
            "score": score, "paper": paper, "mean_curve": first_reached(grid_G, mean_G, score),
            "median_seed": known[(len(known) - 1) // 2], "worst_seed": known[-1], "end": float(grid_G[-1]),
        })  # fmt: skip
    return {"rows": rows, "curve": {"steps": grid_G[::20].tolist(), "return": mean_G[::20].tolist()}}


def describe(results: dict[str, Any], arguments: Arguments) -> str:
    rows = []
    for name, result in results.items():
        for row in result["rows"]:
            ours = row["mean_curve"]
            beyond = f"> {row['end']:,.0f}"
            seeds = [f"{row[key]:,.0f}" if np.isfinite(row[key]) else beyond for key in ("median_seed", "worst_seed")]
            rows.append([
                name, f"{row['score']:g}", f"{row['paper']:,.0f}", beyond if ours is None else f"{ours:,.0f}",
                "" if ours is None else f"{ours / row['paper']:.2f}", *seeds,
            ])  # fmt: skip
    table = markdown(
        ["task", "score", "paper", "ours, mean curve", "ours / paper", "median seed", "slowest seed"], rows
    )
    seconds = ", ".join(
        f"{name} {sum(run['steps'] for run in result['runs']):,.0f} timesteps in {result['seconds']:.0f} s"
        for name, result in results.items()
    )
    pairs = ", ".join(f"{name} {TASKS[name].pairs}" for name in results)
    return (
        f"Training timesteps to a score, mean curve of {arguments.seeds} seeds, each point the mean of "
        f"{arguments.episodes} noiseless episodes.\n\n{table}\n"
        f"Run time on {arguments.processes} processes: {seconds}.\n\n"
        "As in the paper: 64-64 tanh, antithetic pairs, centred ranks, Adam, observation normalisation, action bins "
        "for Swimmer. Differences: v5 environments on today's MuJoCo (the paper: v1); the paper gives neither batch "
        f"size nor step sizes for these tasks, ours are pairs per generation: {pairs}; sigma 0.02, Adam 0.01, L2 0.005 "
        "(the settings its authors published for Humanoid); small batches favour these tasks. Every run goes on for "
        "the same timesteps, so the mean curve counts seeds that fall back. No action noise in training.\n\n"
        f"![Return against timesteps]({time.strftime('%Y-%m-%d')}-{arguments.name}.png)\n"
    )


def plot(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(results), figsize=(5 * len(results), 3.6), squeeze=False)
    for panel, (name, result) in zip(panels[0], results.items(), strict=True):
        for run_ in result["runs"]:
            panel.plot(*points(run_), color="0.75", linewidth=0.8)
        panel.plot(result["curve"]["steps"], result["curve"]["return"], color="C0", label="mean of seeds")
        for row in result["rows"]:
            panel.axhline(row["score"], color="0.5", linewidth=0.5, linestyle=":")
            if row["paper"] <= row["end"]:
                panel.plot(row["paper"], row["score"], "kx")
        panel.plot([], [], "kx", label="Salimans et al. 2017")
        panel.set(title=name, xlabel="training timesteps", ylabel="return")
        panel.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
        panel.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(arguments: Arguments) -> None:
    unknown = set(arguments.tasks) - set(TASKS)
    if unknown:
        raise SystemExit(f"--tasks {' '.join(unknown)}: choose of {', '.join(TASKS)}")
    results: dict[str, Any] = {}
    # Fresh processes: a forked one would share locks of threads that do not exist in it.
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for name in arguments.tasks:
            task, began = TASKS[name], time.time()
            seconds = 60 * arguments.minutes * arguments.processes / arguments.seeds
            work = [(task, seed, arguments.episodes, seconds) for seed in range(arguments.seeds)]
            runs = pool.starmap(curve, work, chunksize=1)
            results[name] = {**figures(task, runs), "runs": runs, "seconds": time.time() - began}
            print(f"{name}: {results[name]['seconds']:.0f} s", flush=True)
    for result in results.values():
        for run_ in result["runs"]:
            run_["points"] = [(int(steps), round(value, 2)) for steps, value in run_["points"]]
    table = write_result(arguments.name, {"tasks": results}, describe(results, arguments))
    plot(results, table.with_suffix(".png"))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
