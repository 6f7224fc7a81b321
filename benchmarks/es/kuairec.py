"""Does ES-tuned fusion of four predictors order videos better than its parts, where every outcome is known?

    python -m benchmarks.es.kuairec --data ../shared/data/kuairec_dense

KuaiRec's dense matrix: everybody saw everything, no selection. Half of the rows train the predictors (an item's
share of finished and of repeated views, matrix factors, neighbours), the others are the users' candidates; half of the
users tune the fusion, half judge it. Reward: 1 for a video watched to its end, 1 more for twice its length. Also the
trade-off between the two, with its plot.

C rows, M scores.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.es.kuairec_predictors import NAMES, predict
from benchmarks.es.trade_offs import Point, sweep, weight_objectives
from es.config import ESConfig
from es.engine import run
from funnel.fusion.evaluation import best_single, compare, split_users
from funnel.fusion.forms import Fusion, ScoredLog
from funnel.fusion.objective import METRICS, ScoreFusion

LARGEST = 2.0  # a ratio of 90 is a video left running
FORMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "product": ("product", ()),
    "sum": ("sum", ()),
    "rank": ("rank", ()),
    "sum, by user": ("sum", ("user_mean", "user_spread")),
}


@dataclass
class Arguments:
    data: Path = Path("../shared/data/kuairec_dense")
    seeds: int = 3
    """Splits of rows and users."""
    generations: int = 60
    k: int = 10


def scored_log(folder: Path, seed: int) -> tuple[ScoredLog, np.ndarray]:
    """Candidates with the predictors' scores, and the users' keys."""
    table = pq.read_table(folder / "log.parquet")
    ratio_C = np.minimum(table["watch_ratio"].to_numpy(), LARGEST)
    users, user_C = np.unique(table["user_id"].to_numpy(), return_inverse=True)
    item_C = np.unique(table["video_id"].to_numpy(), return_inverse=True)[1]
    train_C = np.random.default_rng(seed).random(len(ratio_C)) < 0.5
    scores_MC, features_SC = predict(user_C, item_C, ratio_C, train_C)
    finished_C, rewatched_C = ((ratio_C >= least).astype(np.float32) for least in (1, 2))
    log = ScoredLog(
        NAMES, scores_MC, finished_C + rewatched_C, user_C, user_C, ("user_mean", "user_spread"), features_SC,
        {"finished": finished_C, "rewatched": rewatched_C},
    )  # fmt: skip
    kept = log.part(~train_C)
    return kept, users[np.unique(user_C[~train_C])].astype(np.uint64)


def tune(
    tune_log: ScoredLog, test: ScoredLog, form: str, metric: str, arguments: Arguments, seed: int
) -> dict[str, Any]:
    kind, by = FORMS[form]
    fusion = Fusion.fit(kind, tune_log, by)
    config = ESConfig(seed=seed, generations=arguments.generations, pairs=16, learning_rate=0.1, centre_every=0)
    theta_D = run(ScoreFusion(tune_log, fusion, metric, arguments.k), config).theta
    single = best_single(tune_log, metric, arguments.k)
    return compare(test, fusion, theta_D, single, metric, arguments.k)


def describe(results: list[dict[str, Any]], arguments: Arguments) -> str:
    text = (
        "Held-out users; mean over the splits, in brackets the 95% bootstrap interval (users) of the first split. "
        "Significant: splits in which the intervals of the gains over both lie above 0.\n\n"
    )
    for metric in METRICS:
        key, rows = f"fusion.{metric}_at_{arguments.k}", []
        for form in FORMS:
            runs = [each["figures"] for each in results if each["form"] == form and each["metric"] == metric]

            def cell(name: str, sign: str = "", runs: list[dict[str, Any]] = runs, key: str = key) -> str:
                mean = np.mean([figures[f"{key}.{name}"] for figures in runs])
                low, high = (runs[0][f"{key}.{name}{end}"] for end in (".low", ".high"))
                return f"{mean:{sign}.4f} ({low:{sign}.4f} to {high:{sign}.4f})"

            gaucs = [
                np.mean([figures[f"fusion.gauc.{name}"] for figures in runs])
                for name in ("tuned", "untuned", "best_single")
            ]
            rows.append([
                form, cell("tuned"), cell("untuned"),
                f"{'/'.join(sorted({figures['fusion.best_single_name'] for figures in runs}))}: {cell('best_single')}",
                cell("gain_over_untuned", "+"), cell("gain_over_best_single", "+"),
                f"{sum(figures['fusion.significant'] for figures in runs)} of {len(runs)}",
                " / ".join(f"{each:.4f}" for each in gaucs),
            ])  # fmt: skip
        name = f"value@{arguments.k}" if metric == "value" else f"reward-NDCG@{arguments.k}"
        header = ["fusion", "tuned", "untuned", "best single", "gain over untuned", "gain over best", "significant"]
        text += f"## Tuned for and judged by {name}\n\n"
        text += markdown([*header, "weighted GAUC of the three (reported only)"], rows) + "\n"
    return text


def describe_front(points: list[Point], image: str, k: int) -> str:
    rows = [
        [
            point.label,
            f"{point.first:.3f} ({point.first_interval[0]:.3f} to {point.first_interval[1]:.3f})",
            f"{point.second:.3f} ({point.second_interval[0]:.3f} to {point.second_interval[1]:.3f})",
            "yes" if point.efficient else "",
        ]
        for point in points
    ]
    table = markdown(["policy", f"finished @{k}", f"watched twice @{k}", "on the front"], rows)
    return (
        f"## Trade-off of videos finished and watched twice (sum fusion, first split)\n\n{table}\n![Front]({image})\n"
    )


def plot(points: list[Point], path: Path, k: int) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(5, 3.8))
    for point in points:
        colour = "C0" if point.efficient else "0.6"
        xerr = [[point.first - point.first_interval[0]], [point.first_interval[1] - point.first]]
        yerr = [[point.second - point.second_interval[0]], [point.second_interval[1] - point.second]]
        panel.errorbar(point.first, point.second, yerr, xerr, "o", color=colour, elinewidth=0.4)
        panel.annotate(point.label, (point.first, point.second), fontsize=7, xytext=(3, 3), textcoords="offset points")
    front = sorted((point.first, point.second) for point in points if point.efficient)
    panel.plot(*np.asarray(front).T, color="C0", linewidth=0.8)
    panel.set(xlabel=f"finished @{k}", ylabel=f"watched twice @{k}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(arguments: Arguments) -> None:
    began, results, points = time.time(), list[dict[str, Any]](), list[Point]()
    for seed in range(arguments.seeds):
        log, keys_U = scored_log(arguments.data, seed)
        tune_C = split_users(keys_U, seed)[log.user_C]
        halves = log.part(tune_C), log.part(~tune_C)
        for metric in METRICS:
            for form in FORMS:
                figures = tune(*halves, form, metric, arguments, seed)
                results.append({"seed": seed, "form": form, "metric": metric, "figures": figures})
                print(f"[{time.time() - began:4.0f} s] {seed} {metric} {form}: {figures['fusion.message']}", flush=True)
        if not seed:
            fusion = Fusion.fit("sum", halves[0])
            objectives = weight_objectives(halves[0], "finished", "rewatched", fusion, arguments.k)
            config = ESConfig(generations=arguments.generations, pairs=16, learning_rate=0.1, centre_every=0)
            points = sweep(halves[1], objectives, ("finished", "rewatched"), config)
    image = f"{time.strftime('%Y-%m-%d')}-es-kuairec.png"
    text = describe(results, arguments) + describe_front(points, image, arguments.k)
    front = [vars(point) for point in points]
    table = write_result("es-kuairec", {"seconds": time.time() - began, "runs": results, "front": front}, text)
    plot(points, table.with_suffix(".png"), arguments.k)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
