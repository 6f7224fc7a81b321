"""Tune how the scores of a funnel are fused, with evolution strategies, on exposures whose outcomes are known.

    python -m jobs.evolve --scored runs/scored.parquet --out runs/fusion
    python -m jobs.evolve --scored runs/scored.parquet --out runs/sum --fusion sum --metric ndcg --k 5
    python -m jobs.evolve --scored runs/scored.parquet --out runs/quick --workers 0     # this process, no Ray

Half of the users are tuned on, the other half tell whether it helped. The same command again continues a run that was
stopped (with any number of workers: the result is the same to the bit), or says that it is finished. Results are in
OUT/summary.json, the tuned policy in OUT/policy.json.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from es import engine
from es.config import ESConfig
from es.objectives.fusion_evaluation import best_single, compare, split_users
from es.objectives.score_fusion import Fusion, ScoreFusion
from jobs.cli import main
from jobs.cluster import check_cpus, connect
from jobs.run_directory import SUMMARY_FILE, RunState, inspect_run, read_json, start_run, usable_cpus, write_json
from jobs.scored_file import Scored, read_scored

POLICY_FILE = "policy.json"
MAX_CONVERSION_WEIGHT = 1e6


@dataclass
class Arguments:
    scored: Path
    """Parquet file with pctr, pcvr, pctcvr, click, conversion, user and/or request (jobs.score writes it)."""
    out: Path
    """Run directory: new, or one of the same run to continue."""
    fusion: Literal["product", "sum", "rank"] = "product"
    """prod (p_i + b_i)^a_i, sum w_i p_i, or sum w_i / (rank_i + offset)."""
    metric: Literal["value", "ndcg"] = "value"
    """What is maximised: the reward among the first k of each request, or reward-NDCG@k."""
    k: int = 10
    """Places of a list that count."""
    conversion_weight: float = 10.0
    """Reward of a candidate = click + this * conversion (* value, where the file has that column)."""
    workers: int = min(2, usable_cpus())
    """Ray actors; 0 evaluates in this process without Ray."""
    generations: int = 60
    """Updates of the policy."""
    pairs: int = 64
    """Antithetic pairs of policies per generation."""
    sigma: float = 0.1
    """Size of the perturbations; 1 is an exponent of 1, a weight of 1, or an e-fold of a positive parameter."""
    learning_rate: float = 0.05
    """Of Adam."""
    seed: int = 0
    """Decides the split of the users, the perturbations and the bootstrap."""
    resamples: int = 1000
    """Bootstrap resamples behind the intervals."""


def run(arguments: Arguments) -> dict[str, Any]:
    """Tune to the end and return summary.json as a dict."""
    out, scored_path = arguments.out.expanduser().absolute(), arguments.scored.expanduser().absolute()
    config = configure(arguments)
    settings = run_settings(arguments, config, scored_path)
    state = inspect_run(out, "evolve", settings, may_change=frozenset({"workers"}))
    console = Console()
    if state is RunState.DONE:
        summary = read_json(out / SUMMARY_FILE)
        console.print(f"{out} is finished already:", soft_wrap=True)
        show(console, summary, arguments)
        return summary
    check_cpus(arguments.workers)
    scored = read_scored(scored_path, arguments.conversion_weight)
    tune_C = split_users(scored.user_keys_U, arguments.seed)[scored.log.user_C]
    tune, test = scored.log.part(tune_C), scored.log.part(~tune_C)
    fusion = Fusion.fit(arguments.fusion, tune)
    objective = ScoreFusion(tune, fusion, arguments.metric, arguments.k)
    single = best_single(tune, arguments.metric, arguments.k)
    if not test.reward_C.any():
        raise ValueError(f"{scored_path}: no click of a user in the half that is tested on: nothing to compare there")
    if state is RunState.NEW:
        start_run(out, "evolve", settings, {"data": facts(scored_path, scored)})
    announce(console, arguments, scored, tune.users, state)
    if arguments.workers:
        connect(arguments.workers)
    with progress(console, config.generations) as on_generation:
        result = engine.run(objective, config, out, on_generation)
    figures = compare(
        test, fusion, result.theta, single, arguments.metric, arguments.k, arguments.resamples, arguments.seed
    )
    write_json(out / POLICY_FILE, policy_record(fusion, result.theta, arguments))
    summary = {**figures, "fusion.tune_users": tune.users, **engine_figures(result, config)}
    write_json(out / SUMMARY_FILE, summary)
    show(console, summary, arguments)
    console.print(f"run: {out}", soft_wrap=True)
    return summary


def configure(arguments: Arguments) -> ESConfig:
    """The engine's settings; ValueError, naming the option, for what cannot be."""
    if arguments.k < 1:
        raise ValueError(f"--k is {arguments.k}: it must be at least 1")
    if not 0 <= arguments.conversion_weight <= MAX_CONVERSION_WEIGHT:
        raise ValueError(f"--conversion-weight is {arguments.conversion_weight}: it must be between 0 and 1e6")
    if not 10 <= arguments.resamples <= 100_000:
        raise ValueError(f"--resamples is {arguments.resamples}: it must be between 10 and 100000")
    names = ("seed", "generations", "pairs", "sigma", "learning_rate", "workers")
    config = ESConfig(**{name: getattr(arguments, name) for name in names})
    config.check()
    return config


def run_settings(arguments: Arguments, config: ESConfig, scored: Path) -> dict[str, Any]:
    """run.json's config: what was asked for, and every setting of the engine."""
    asked = {name: getattr(arguments, name) for name in ("fusion", "metric", "k", "conversion_weight", "resamples")}
    es = {name: value for name, value in dataclasses.asdict(config).items() if name != "workers"}
    return {"scored": str(scored), **asked, "workers": arguments.workers, "es": es}


def facts(path: Path, scored: Scored) -> dict[str, Any]:
    log = scored.log
    return {
        "scored": str(path),
        "rows": len(log.request_C),
        "users": log.users,
        "requests": int(log.request_C.max()) + 1,
        "grouping": scored.grouping,
        "mean_reward": float(log.reward_C.astype(np.float64).mean()),
    }


def policy_record(fusion: Fusion, theta_D: np.ndarray, arguments: Arguments) -> dict[str, Any]:
    """policy.json: everything needed to fuse scores as the tuned policy does."""
    formulas = {
        "product": "prod_i (p_i + bias_i)^exponent_i",
        "sum": "sum_i weight_i * p_i / constant_i",
        "rank": "sum_i weight_i / (rank_i + offset), rank 1 = highest p_i of the request, ties averaged",
    }
    policy = fusion.policy
    return {
        "fusion": fusion.kind,
        "formula": formulas[fusion.kind],
        "names": list(policy.names),
        "before": list(policy.values(policy.initial()).values()),
        "after": list(policy.values(theta_D).values()),
        "constants": list(fusion.constants) if fusion.kind == "sum" else [],
        "scores": list(fusion.names),
        "metric": arguments.metric,
        "k": arguments.k,
        "conversion_weight": arguments.conversion_weight,
    }


def engine_figures(result: engine.ESResult, config: ESConfig) -> dict[str, Any]:
    return {
        "es.generations": result.generations,
        "es.evaluations": result.evaluations,
        "es.evaluations_per_s": result.evaluations / result.seconds,
        "es.workers": config.workers,
        "es.dimension": len(result.theta),
        "es.seconds": result.seconds,
        "es.final_return": result.final_return,
        "es.failed_evaluations": result.failed_evaluations,
        "es.lost_pairs": result.lost_pairs,
        "es.reissued_pairs": result.reissued_pairs,
    }


def announce(console: Console, arguments: Arguments, scored: Scored, tune_users: int, state: RunState) -> None:
    verb = "Continuing" if state is RunState.RESUME else "Tuning"
    where = f"{arguments.workers} Ray actors" if arguments.workers else "this process"
    log = scored.log
    console.print(
        f"{verb} {arguments.fusion} fusion of {', '.join(log.names)} for {arguments.metric}@{arguments.k} in {where}: "
        f"{len(log.request_C):,} exposures in {int(log.request_C.max()) + 1:,} requests (by {scored.grouping}), "
        f"{tune_users:,} of {log.users:,} users to tune on",
        soft_wrap=True,
    )


@contextmanager
def progress(console: Console, generations: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar on a terminal, nothing elsewhere."""
    columns = (
        TextColumn("generation"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}  {task.fields[figures]}"),
    )
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task("generation", total=generations, figures="")

        def on_generation(metrics: dict[str, Any]) -> None:
            centre = metrics["return.centre"]
            figures = f"policy {centre:.5f}  population {metrics['return.mean']:.5f} ± {metrics['return.std']:.5f}"
            bar.update(task, completed=metrics["generation"] + 1, figures=figures)

        yield on_generation


def show(console: Console, summary: dict[str, Any], arguments: Arguments) -> None:
    title = f"{summary['fusion.test_users']:,} held-out users, {summary['fusion.test_requests']:,} requests"
    k = arguments.k
    table = Table("policy", f"value@{k} (95% interval)", f"NDCG@{k} (95% interval)", title=title, title_style="")
    rows = {
        "tuned": "tuned",
        "untuned": "untuned",
        "best_single": f"best single: {summary['fusion.best_single_name']}",
        "gain_over_untuned": "gain over untuned",
        "gain_over_best_single": "gain over best",
    }
    for name, label in rows.items():
        form = "+.3g" if name.startswith("gain") else ".4g"
        cells = []
        for metric in ("value", "ndcg"):
            key = f"fusion.{metric}_at_{k}.{name}"
            value, low, high = (format(summary[key + end], form) for end in ("", ".low", ".high"))
            cells.append(f"{value} ({low} to {high})")
        table.add_row(label, *cells)
    console.print(table)
    short = summary["fusion.test_requests_of_at_most_k"]
    if short:
        console.print(
            f"{short:,} of the {summary['fusion.test_requests']:,} requests have at most {arguments.k} candidates "
            f"({summary['fusion.test_requests_of_one']:,} a single one): their order changes no value@{arguments.k}",
            soft_wrap=True,
        )
    console.print(summary["fusion.message"], soft_wrap=True)


if __name__ == "__main__":
    main(run, Arguments, __doc__ or "")
