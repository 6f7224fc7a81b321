"""Clicks against revenue where they conflict: a fusion tuned for each of several trade-offs, judged on other users.

    python -m benchmarks.es.pareto

A generated log in which dear items are clicked less: users with requests of 20 candidates; an item's price is
lognormal, P(click) = sigmoid(-2 + quality - 1.2 log price + taste), and a click earns the price. The candidates' scores
are an estimate of P(click), with the error of a model (0.5 in the logit), and the price. Two ways to trade, as in
trade_offs.py: mixtures of both outcomes, and clicks under ever larger penalties on lost revenue (more than
2% below that of the untuned fusion). Half of the users tune, half judge.

C candidates.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.es.trade_offs import Point, penalty_objectives, sweep, weight_objectives
from es.config import ESConfig
from funnel.fusion.evaluation import split_users
from funnel.fusion.forms import Fusion, ScoredLog
from funnel.fusion.objective import Constraint

OUTCOMES = ("clicks", "revenue")
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass
class Arguments:
    users: int = 600
    requests: int = 4
    """Of each user."""
    candidates: int = 20
    """Of each request."""
    k: int = 5
    generations: int = 40
    seed: int = 0


def generate(arguments: Arguments) -> ScoredLog:
    generator = np.random.default_rng(arguments.seed)
    rows = arguments.users * arguments.requests * arguments.candidates
    request_C = np.arange(rows) // arguments.candidates
    price_C = np.exp(0.7 * generator.standard_normal(rows))
    logit_C = -2 + generator.standard_normal(rows) - 1.2 * np.log(price_C) + 0.5 * generator.standard_normal(rows)
    click_C = generator.random(rows) < sigmoid(logit_C)
    estimate_C = sigmoid(logit_C + 0.5 * generator.standard_normal(rows))
    revenue_C = (click_C * price_C).astype(np.float32)
    return ScoredLog(
        names=("pctr", "price"),
        scores_MC=np.stack([estimate_C, price_C]).astype(np.float32),
        reward_C=click_C.astype(np.float32),
        request_C=request_C,
        user_C=request_C // arguments.requests,
        outcomes={"clicks": click_C.astype(np.float32), "revenue": revenue_C},
    )


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def main(arguments: Arguments) -> None:
    began = time.time()
    log = generate(arguments)
    tune_C = split_users(np.arange(arguments.users, dtype=np.uint64), arguments.seed)[log.user_C]
    tune, test = log.part(tune_C), log.part(~tune_C)
    fusion = Fusion.fit("product", tune)
    objectives = weight_objectives(tune, *OUTCOMES, fusion, arguments.k, WEIGHTS)
    objectives |= penalty_objectives(tune, Constraint("revenue", 0.02), fusion, arguments.k, PENALTIES)
    config = ESConfig(generations=arguments.generations, pairs=16, learning_rate=0.1, centre_every=0)
    points = sweep(test, objectives, OUTCOMES, config)
    image = f"{time.strftime('%Y-%m-%d')}-es-pareto.png"
    figures: dict[str, Any] = {"seconds": time.time() - began, "points": [vars(point) for point in points]}
    table = write_result("es-pareto", figures, describe(points, fusion, image, arguments))
    plot(points, table.with_suffix(".png"), arguments.k)


def describe(points: list[Point], fusion: Fusion, image: str, arguments: Arguments) -> str:
    untuned = points[0]
    rows = []
    for point in points:
        values = fusion.policy.values(np.asarray(point.theta))
        exponents = [f"{value:.2f}" for name, value in values.items() if "exponent" in name]
        rows.append(
            [
                point.label,
                f"{point.first:.3f} ({point.first_interval[0]:.3f} to {point.first_interval[1]:.3f})",
                f"{point.first / untuned.first - 1:+.1%}",
                f"{point.second:.3f} ({point.second_interval[0]:.3f} to {point.second_interval[1]:.3f})",
                f"{point.second / untuned.second - 1:+.1%}",
                " / ".join(exponents),
                "yes" if point.efficient else "",
            ]
        )
    k = arguments.k
    header = ["policy", f"clicks @{k}", "", f"revenue @{k}", "", "exponents of pctr / price", "on the front"]
    return (
        f"{arguments.users:,} users, {arguments.requests} requests each of {arguments.candidates} candidates; held-out "
        "half, 95% bootstrap intervals over users; product fusion, untuned about pctr x price. `weight w` mixes "
        "(1 - w) clicks with w revenue, `penalty` maximises clicks and punishes revenue lost beyond 2%.\n\n"
        f"{markdown(header, rows)}\n![Front]({image})\n"
    )


def plot(points: list[Point], path: Path, k: int) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(6, 4.2))
    colours = {"weight": "C0", "penalty": "C1", "untuned": "0.3"}
    for point in points:
        colour = colours[point.label.split()[0]]
        xerr = [[point.first - point.first_interval[0]], [point.first_interval[1] - point.first]]
        yerr = [[point.second - point.second_interval[0]], [point.second_interval[1] - point.second]]
        face = colour if point.efficient else "white"
        panel.errorbar(point.first, point.second, yerr, xerr, "o", color=colour, mfc=face, elinewidth=0.3, alpha=0.9)
        below = point.label.startswith("penalty")
        panel.annotate(
            point.label, (point.first, point.second), fontsize=7, textcoords="offset points",
            xytext=(-5, -10) if below else (5, 5), ha="right" if below else "left",
        )  # fmt: skip
    front = sorted((point.first, point.second) for point in points if point.efficient)
    panel.plot(*np.asarray(front).T, color="0.6", linewidth=0.8, zorder=0)
    panel.set(xlabel=f"clicks @{k}", ylabel=f"revenue @{k}", title="Held-out users; filled: on the front")
    panel.title.set_fontsize(9)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
