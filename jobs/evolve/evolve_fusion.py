"""Score fusion, the engine's first use: weights for a funnel's scores, judged on users they were not tuned on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from funnel.fusion.evaluation import best_single, compare, split_users
from funnel.fusion.forms import Fusion, ScoredLog
from funnel.fusion.objective import Constraint, ScoreFusion
from funnel.fusion.scored_log import LABELS, Scored, read_scored
from jobs.evolve.evolution import (
    MAY_CHANGE,
    Arguments,
    configure,
    engine_figures,
    engine_settings,
    evolve,
    places,
    start,
)
from jobs.run.directory import SUMMARY_FILE, RunState, inspect_run, read_json, write_json
from jobs.run.start_from import begins_with, theta_to_start_from
from jobs.run.tracking import tracked

POLICY_FILE = "policy.json"
MAX_CONVERSION_WEIGHT = 1e6


def run_fusion(arguments: Arguments, console: Console, stopping: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Tune to the end and return summary.json as a dict. `stopping`: as for jobs.evolve.evolution.evolve."""
    check(arguments)
    assert arguments.out is not None
    assert arguments.scored is not None
    out, scored_path = arguments.out.expanduser().absolute(), arguments.scored.expanduser().absolute()
    config = configure(arguments)
    asked = {name: getattr(arguments, name) for name in ("fusion", "metric", "k", "conversion_weight", "resamples")}
    asked |= {name: list(getattr(arguments, name)) for name in ("by", "constrain") if getattr(arguments, name)}
    constraints = tuple(read_constraint(text) for text in arguments.constrain)
    if arguments.judge is not None:
        asked["judge"] = str(arguments.judge.expanduser().absolute())
    settings = {"scored": str(scored_path), **asked, **engine_settings(config, arguments)}
    state = inspect_run(out, "evolve", settings, may_change=MAY_CHANGE)
    if state is RunState.DONE:
        summary = read_json(out / SUMMARY_FILE)
        console.print(f"{out} is finished already:", soft_wrap=True)
        show(console, summary, arguments)
        return summary
    scored = read_scored(scored_path, arguments.conversion_weight, arguments.by)
    tune, test, where = halves(arguments, scored, scored_path)
    fusion = Fusion.fit(arguments.fusion, tune, arguments.by)
    objective = ScoreFusion(tune, fusion, arguments.metric, arguments.k, constraints)
    single = best_single(tune, arguments.metric, arguments.k)
    if not test.reward_C.any():
        raise ValueError(f"{where}: no click of a user that is tested on: nothing to compare there")
    begin = theta_to_start_from(arguments.start_from, objective, "evolve", out) if arguments.start_from else None
    if state is RunState.NEW:
        start(out, "evolve", settings, arguments, {"data": facts(scored_path, scored), **begins_with(begin)})
    announce(console, arguments, scored, tune.users, state)
    with tracked(out):
        result = evolve(objective, config, out, console, begin, stopping)
        figures = compare(
            test, fusion, result.theta, single, arguments.metric, arguments.k, arguments.resamples, arguments.seed
        )
        write_json(out / POLICY_FILE, policy_record(fusion, result.theta, arguments))
        summary = {**figures, "fusion.tune_users": tune.users, **engine_figures(result, config)}
        write_json(out / SUMMARY_FILE, summary)
    show(console, summary, arguments)
    console.print(f"run: {out}", soft_wrap=True)
    return summary


def halves(arguments: Arguments, scored: Scored, path: Path) -> tuple[ScoredLog, ScoredLog, Path]:
    """What is tuned on, what is judged on, and the latter's file: --scored's users in two halves, or --judge's rows."""
    if arguments.judge is None:
        tune_C = split_users(scored.user_keys_U, arguments.seed)[scored.log.user_C]
        return scored.log.part(tune_C), scored.log.part(~tune_C), path
    path = arguments.judge.expanduser().absolute()
    judged = read_scored(path, arguments.conversion_weight, arguments.by, "--judge").log
    if judged.names != scored.log.names:
        have, want = ", ".join(judged.names), ", ".join(scored.log.names)
        raise ValueError(f"--judge {path}: has the scores {have}, --scored has {want}")
    return scored.log, judged, path


def check(arguments: Arguments) -> None:
    """ValueError, naming the option, for what cannot be."""
    if arguments.scored is None:
        raise ValueError("--scored FILE is needed for score fusion: the Parquet file that jobs.score wrote")
    if arguments.set:
        raise ValueError("--set is for the settings of --objective NAME; score fusion has options of its own")
    if arguments.k < 1:
        raise ValueError(f"--k is {arguments.k}: it must be at least 1")
    if not 0 <= arguments.conversion_weight <= MAX_CONVERSION_WEIGHT:
        raise ValueError(f"--conversion-weight is {arguments.conversion_weight}: it must be between 0 and 1e6")
    if not 10 <= arguments.resamples <= 100_000:
        raise ValueError(f"--resamples is {arguments.resamples}: it must be between 10 and 100000")


def read_constraint(text: str) -> Constraint:
    """click=0.005 as a constraint; ValueError for what is none."""
    outcome, _, tolerance = text.partition("=")
    if outcome not in LABELS:
        raise ValueError(f"--constrain {text}: the outcome must be one of {', '.join(LABELS)}")
    try:
        constraint = Constraint(outcome, float(tolerance))
    except ValueError:
        raise ValueError(f"--constrain {text}: want {outcome}=0.005, the share that may be lost") from None
    constraint.check()
    return constraint


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
    follows = "; weights and exponents times exp(sum_s slope_is z_s), z standardised `by`" if fusion.by else ""
    return {
        "fusion": fusion.kind,
        "formula": formulas[fusion.kind] + follows,
        "names": list(policy.names),
        "before": list(policy.values(policy.initial()).values()),
        "after": list(policy.values(theta_D).values()),
        "constants": list(fusion.constants) if fusion.kind == "sum" else [],
        "scores": list(fusion.names),
        "by": {name: {"mean": mean, "std": std} for name, (mean, std) in zip(fusion.by, fusion.moments, strict=True)},
        "metric": arguments.metric,
        "k": arguments.k,
        "conversion_weight": arguments.conversion_weight,
    }


def announce(console: Console, arguments: Arguments, scored: Scored, tune_users: int, state: RunState) -> None:
    verb = "Continuing" if state is RunState.RESUME else "Tuning"
    where = places(arguments.workers)
    log = scored.log
    console.print(
        f"{verb} {arguments.fusion} fusion of {', '.join(log.names)} for {arguments.metric}@{arguments.k} in {where}: "
        f"{len(log.request_C):,} exposures in {int(log.request_C.max()) + 1:,} requests (by {scored.grouping}), "
        f"{tune_users:,} of {log.users:,} users to tune on",
        soft_wrap=True,
    )


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
