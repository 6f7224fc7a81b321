"""The driver's side of a search: what trials share is checked and prepared once, what they found is put together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.search.optuna import OptunaSearch
from rich.table import Table

from data.errors import Stopped, UserError
from data.files import make_directory
from funnel.spaces import Space
from jobs.command.console import Console
from jobs.command.preset import write_preset
from jobs.command.signals import leave, stop_signals
from jobs.run.process import present
from jobs.tune.aim import Aim, read_aim
from jobs.tune.board import Board, cell
from jobs.tune.evolution import Evolution
from jobs.tune.files import LEDGER_FILE, TRIALS, Ledger, name_of
from jobs.tune.options import Arguments, held
from jobs.tune.results import Row, best_of, front_of, importance, nearest, read_rows, settings_text, write_table
from jobs.tune.search import Domains, How, continuous, default_of, domains, search
from jobs.tune.subject import Settings, Subject
from jobs.tune.training import Training
from jobs.tune.trial import Plan

BEST, FRONT, TABLE = "best.json", "front", "trials.csv"
SHOWN = 5


@dataclass(frozen=True)
class Study:
    """A search, checked and ready to start."""

    out: Path
    plan: Plan
    subject: Subject
    """With the test part, which the plan's has not."""
    space: Domains
    default: Settings
    fixed: Settings
    """What all trials share beyond the defaults."""
    how: How

    @property
    def described(self) -> dict[str, str]:
        """The space in words, for run.json."""
        return {key: domain.domain_str for key, domain in self.space.items()}


def prepare(arguments: Arguments, space: Space, out: Path) -> Study:
    """Everything that can be refused is refused here, before any cluster starts. Writes nothing."""
    kept = held(arguments)
    found = domains({key: domain for key, domain in space.items() if key not in kept})
    if arguments.scheduler == "pbt":
        found = continuous(found)
    if not found:
        raise UserError(f"--space {arguments.space}: the options that are given leave nothing of it to search")
    subject: Subject
    if arguments.trains:
        subject = Training.open(
            out,
            arguments.data,
            arguments.problem or arguments.kind.name,
            arguments.config,
            arguments.settings,
            arguments.trial_workers,
            arguments.scheduler == "pbt",
        )
    else:
        subject = Evolution.open(arguments.objective, arguments.config, arguments.settings)
    aim = read_aim(subject, arguments.metric, arguments.subject_to, arguments.pareto)
    values = subject.values()
    fixed = {key: values[key] for key in kept if key in values and key != "seed"}
    how = How(
        arguments.samples, arguments.scheduler, arguments.search, arguments.concurrent, int(arguments.config.seed)
    )
    plan = Plan(str(out / TRIALS), aim, subject.blind())
    return Study(out, plan, subject, found, default_of(found, values), fixed, how)


def conduct(study: Study, arguments: Arguments, console: Console) -> dict[str, Any]:
    """Search, judge the best on the test part, write best.json and trials.csv; returns the summary.

    Raises UserError if every trial failed.
    """
    trials = Path(study.plan.trials)
    make_directory(trials)
    ledger = Ledger(study.out / LEDGER_FILE)
    aim = study.plan.aim
    with (
        present(study.out) as process,
        stop_signals() as received,
        Board(console, trials, aim, arguments.samples, received, process) as board,
    ):
        try:
            search(study.plan, study.space, study.default, ledger, study.how, board)
        except Exception:
            if not received:
                raise
            leave(Stopped(f"stopped with {board.count()} trials ended"), received[0])
    ledger = Ledger(study.out / LEDGER_FILE)
    rows = read_rows(trials, ledger, aim)
    write_table(study.out / TABLE, rows)
    if not any(row.ended for row in rows):
        why = rows[0].error or f"no {', '.join(aim.metrics)} to go by"
        raise UserError(f"all {len(rows)} trials failed; the first: {why} (more in {trials})")
    summary = counted(rows, study)
    chosen = front_of(rows, aim) if len(aim.metrics) > 1 else [row for row in [best_of(rows)] if row]
    show(console, rows, aim)
    if not chosen:
        least = nearest(rows)
        assert least is not None
        limits = ", ".join(f"{limit} (reached: {least.figures.get(limit.metric)})" for limit in aim.limits)
        message = f"No trial of {len(rows)} is feasible; trial {name_of(least.index)} comes nearest to {limits}"
        return summary | {"tune.message": message}
    if len(aim.metrics) > 1:
        make_directory(study.out / FRONT)
        for row in chosen:
            keep(study.out / FRONT / f"{name_of(row.index)}.json", study, row)
            summary |= {f"front.{name_of(row.index)}.test.{k}": v for k, v in test_figures(study, row).items()}
        names = ", ".join(name_of(row.index) for row in chosen)
        message = f"beaten by none in both figures: {len(chosen)} of {len(rows)} trials, {names}"
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


def counted(rows: Sequence[Row], study: Study) -> dict[str, Any]:
    aim = study.plan.aim
    distributions = OptunaSearch.convert_search_space(study.space)
    summary: dict[str, Any] = {
        "tune.what": study.subject.job,
        "tune.aim": str(aim),
        "tune.metrics": list(aim.metrics),
        "tune.trials": len(rows),
        **{f"tune.{state}": sum(row.state == state for row in rows) for state in ("finished", "stopped", "failed")},
        "tune.feasible": sum(row.feasible for row in rows),
        "tune.trial_seconds": sum(row.seconds or 0.0 for row in rows),
    }
    for metric in aim.metrics:
        summary[f"importance.{metric}"] = importance(rows, aim, metric, distributions, study.how.seed)
    first = rows[0]
    return summary | {f"default.valid.{key}": value for key, value in first.figures.items()}


def keep(path: Path, study: Study, row: Row) -> None:
    """The trial's settings, and those all trials share, as a preset file."""
    figures = {metric: row.figures[metric] for metric in study.plan.aim.metrics}
    about = {"search": str(study.out), "trial": row.index, "aim": str(study.plan.aim), "valid": figures}
    write_preset(path, study.subject.job, {**study.fixed, **row.settings}, about)


def test_figures(study: Study, row: Row) -> dict[str, Any]:
    """Figures of a trial's result on the part that the search never saw; empty if there is none."""
    run = Path(study.plan.trials) / name_of(row.index)
    assert row.moment is not None
    figures = study.subject.tested(run, row.settings, row.moment)
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
