"""The driver's side of a search: what trials share is checked and prepared once, what they found is put together."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console
from rich.table import Table

from data.filesystems import in_process
from data.log import open_log
from distributed.config import TrainConfig
from distributed.finished_run import load_run
from distributed.training.job import TrainJob
from distributed.training.launch import prepare as prepare_training
from distributed.training.validation import evaluate
from jobs.command.preset_file import FUSION_OPTIONS, assignments, check_evolve, check_train, fill_evolve, write_preset
from jobs.command.presets import Settings, Space
from jobs.command.settings import override
from jobs.command.signals import leave, stop_signals
from jobs.evolve.evolution import Arguments as EvolveArguments
from jobs.evolve.evolution import configure
from jobs.evolve.evolve_fusion import check as check_fusion
from jobs.run.directory import flatten
from jobs.tune.aim import Aim
from jobs.tune.board import Board, Stopped, cell
from jobs.tune.files import LEDGER_FILE, TRIALS, Ledger, name_of
from jobs.tune.fusion import FusionTrial, split
from jobs.tune.results import Row, best_of, front_of, importance, nearest, read_rows, settings_text, write_table
from jobs.tune.search import continuous, default_of, search
from jobs.tune.trial import Plan

if TYPE_CHECKING:
    from jobs.tune import Arguments

BEST, FRONT, TABLE = "best.json", "front", "trials.csv"
SHOWN = 5


@dataclass(frozen=True)
class Study:
    """A search, checked and ready to start."""

    out: Path
    plan: Plan
    space: Space
    default: Settings
    fixed: Settings
    """What --set says of all trials."""
    last: int
    """Epoch or generation at which a trial ends."""
    data: dict[str, Any]
    job: TrainJob | None
    """With the test part, which the plan's has not."""


def prepare(arguments: "Arguments", aim: Aim, space: Space, out: Path) -> Study:
    """Everything that can be refused is refused here, before any cluster starts. Writes nothing."""
    fixed = read_fixed(arguments.set)
    space = {key: domain for key, domain in space.items() if key not in fixed}
    if arguments.scheduler == "pbt":
        space = continuous(space)
    if not space:
        raise ValueError(f"--space {arguments.space}: --set leaves nothing of it to search")
    workers = arguments.trial_workers
    plan = Plan(arguments.what, str(out / TRIALS), aim, workers=workers, checkpoints=arguments.scheduler == "pbt")
    if arguments.what == "train":
        if in_process(arguments.data):
            raise ValueError(f"--data {arguments.data} lies in this process's memory, where no trial sees it")
        fixed = check_train(fixed, "--set")
        config = override(TrainConfig(), [*assignments(fixed), f"seed={arguments.seed}"])
        if workers > config.stream.lanes:
            raise ValueError(f"--trial-workers {workers} needs --set stream.lanes={workers} or more")
        job, facts = prepare_training(out, open_log(arguments.data), config, time.time())
        own = {name: part for name, part in job.parts.items() if name != "test"}
        plan = dataclasses.replace(plan, job=dataclasses.replace(job, parts=own))
        data: dict[str, Any] = {"location": job.location, "name": job.schema.name}
        data["parts"] = {name: dataclasses.asdict(fact) for name, fact in facts.items()}
        default = default_of(space, flatten(dataclasses.asdict(config)))
        return Study(out, plan, space, default, fixed, config.epochs, data, job)
    assert arguments.scored is not None
    base = EvolveArguments(scored=arguments.scored.expanduser().absolute(), seed=arguments.seed, workers=0)
    fixed = check_evolve(EvolveArguments, fixed, "--set")
    base = fill_evolve(base, fixed, "--set")
    check_fusion(base)
    parts, es = split(base), configure(base)
    plan = dataclasses.replace(plan, evolve=base)
    known = {**dataclasses.asdict(es), **{name: getattr(base, name) for name in FUSION_OPTIONS}}
    default = default_of(space, known | {"learning_rate": es.step_size})
    data = {
        "scored": str(base.scored),
        "rows": sum(len(part.request_C) for part in parts.values()),
        "users": sum(part.users for part in parts.values()),
    }
    return Study(out, plan, space, default, fixed, es.generations, data, None)


def read_fixed(entries: Sequence[str]) -> Settings:
    fixed = {}
    for entry in entries:
        key, equals, text = (part.strip() for part in entry.partition("="))
        if not equals:
            raise ValueError(f"--set {entry}: want key=value")
        if key == "seed":
            raise ValueError("--set seed: this setting has an option of its own, --seed")
        fixed[key] = text
    return fixed


def conduct(study: Study, arguments: "Arguments", console: Console) -> dict[str, Any]:
    """Search, judge the best on the test part, write best.json and trials.csv; returns the summary.

    Raises ValueError if every trial failed.
    """
    trials = Path(study.plan.trials)
    trials.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(study.out / LEDGER_FILE)
    aim = study.plan.aim
    with stop_signals() as received, Board(console, trials, aim, arguments.samples, received) as board:
        try:
            search(
                study.plan,
                study.space,
                study.default,
                ledger,
                arguments.samples,
                arguments.scheduler,
                arguments.search,
                arguments.concurrent,
                study.last,
                arguments.seed,
                board,
            )
        except Exception:
            if not received:
                raise
            leave(Stopped(f"stopped with {board.count()} trials ended"), received[0])
    ledger = Ledger(study.out / LEDGER_FILE)
    rows = read_rows(trials, ledger, aim)
    write_table(study.out / TABLE, rows)
    if not any(row.ended for row in rows):
        why = rows[0].error or f"no {', '.join(aim.metrics)} to go by"
        raise ValueError(f"all {len(rows)} trials failed; the first: {why} (more in {trials})")
    summary = counted(rows, study, arguments)
    chosen = front_of(rows, aim) if len(aim.metrics) > 1 else [row for row in [best_of(rows)] if row]
    show(console, rows, aim)
    if not chosen:
        least = nearest(rows)
        assert least is not None
        limits = ", ".join(f"{limit} (reached: {least.figures.get(limit.metric)})" for limit in aim.limits)
        message = f"No trial of {len(rows)} is feasible; trial {name_of(least.index)} comes nearest to {limits}"
        return summary | {"tune.message": message}
    if len(aim.metrics) > 1:
        (study.out / FRONT).mkdir(exist_ok=True)
        for row in chosen:
            keep(study.out / FRONT / f"{name_of(row.index)}.json", study, row)
            summary |= {f"front.{name_of(row.index)}.test.{k}": v for k, v in test_figures(study, row).items()}
        names = ", ".join(name_of(row.index) for row in chosen)
        message = f"{len(chosen)} of {len(rows)} trials are beaten by none in both figures: {names}"
        return summary | {"tune.front": [row.index for row in chosen], "tune.message": message}
    (best,) = chosen
    keep(study.out / BEST, study, best)
    figures = ", ".join(f"{metric} {cell(best, metric)}" for metric in aim.metrics)
    message = f"Best of {len(rows)} trials: {name_of(best.index)}, {figures} (valid); {settings_text(best)}"
    summary |= {"best.trial": best.index, "best.settings": best.settings, "tune.message": message}
    summary |= {f"best.valid.{key}": value for key, value in best.figures.items()}
    for name, row in (("best", best), ("default", rows[0])):
        if row.ended:
            summary |= {f"{name}.test.{key}": value for key, value in test_figures(study, row).items()}
    return summary


def counted(rows: Sequence[Row], study: Study, arguments: "Arguments") -> dict[str, Any]:
    aim = study.plan.aim
    distributions = OptunaSearch.convert_search_space(study.space)
    summary: dict[str, Any] = {
        "tune.what": arguments.what,
        "tune.aim": str(aim),
        "tune.metrics": list(aim.metrics),
        "tune.trials": len(rows),
        **{f"tune.{state}": sum(row.state == state for row in rows) for state in ("finished", "stopped", "failed")},
        "tune.feasible": sum(row.feasible for row in rows),
        "tune.trial_seconds": sum(row.seconds or 0.0 for row in rows),
    }
    for metric in aim.metrics:
        summary[f"importance.{metric}"] = importance(rows, metric, distributions, arguments.seed)
    first = rows[0]
    return summary | {f"default.valid.{key}": value for key, value in first.figures.items()}


def keep(path: Path, study: Study, row: Row) -> None:
    """The trial's settings, and those all trials share, as a preset file."""
    figures = {metric: row.figures[metric] for metric in study.plan.aim.metrics}
    about = {"search": str(study.out), "trial": row.index, "aim": str(study.plan.aim), "valid": figures}
    write_preset(path, study.plan.what, {**study.fixed, **row.settings}, about)


def test_figures(study: Study, row: Row) -> dict[str, Any]:
    """Figures of a trial's result on the part that the search never saw; empty if there is none."""
    run = Path(study.plan.trials) / name_of(row.index)
    if study.plan.what == "evolve":
        assert study.plan.evolve is not None
        assert row.moment is not None
        trial = FusionTrial(study.plan.evolve, row.settings, run)
        judged = trial.compared("test", trial.theta(row.moment))
        return {key: value for key, value in judged.items() if is_figure(value)}
    assert study.job is not None
    if "test" not in study.job.parts:
        return {}
    trained, log = load_run(run), open_log(study.job.location)
    part = study.job.parts["test"]
    figures = evaluate(trained.model, log, part, trained.clip, torch.device("cpu"), truth=True).figures()
    return {key: value for key, value in figures.items() if is_figure(value)}


def is_figure(value: object) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def show(console: Console, rows: Sequence[Row], aim: Aim) -> None:
    ranked = sorted((row for row in rows if row.ended), key=lambda row: tuple(row.scores.values()), reverse=True)
    table = Table("trial", "state", "at", *aim.shown, "settings", title="validation part", title_style="")
    for row in ranked[:SHOWN]:
        figures = [cell(row, metric) for metric in aim.shown]
        table.add_row(name_of(row.index), row.word, str(row.moment), *figures, settings_text(row))
    console.print(table)
