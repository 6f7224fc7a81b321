"""What a search found, read from the trials' directories: rows, the best, the front, importance, a preset."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.files import write_whole
from funnel.settings import shown
from jobs.run.directory import read_json
from jobs.tune.aim import FAILED, Aim, front
from jobs.tune.files import SETTINGS_FILE, TRIAL_FILE, Ledger, name_of, read_reports
from jobs.tune.subject import Settings

ENOUGH = 8
"""Trials with a figure from which the importance of settings is estimated."""


@dataclass(frozen=True)
class Row:
    """One trial as it stands."""

    index: int
    state: str
    """running, finished, stopped or failed."""
    moment: int | None
    """Epoch or generation of the last report."""
    figures: dict[str, Any]
    settings: Settings
    scores: dict[str, float]
    missed: float = 0.0
    """By how much the limits are missed, in all; 0 where they are kept."""
    seconds: float | None = None
    error: str = ""
    times: list[int] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether it has come to figures that trials can be compared by."""
        return self.state in ("finished", "stopped") and min(self.scores.values()) > FAILED

    @property
    def feasible(self) -> bool:
        return self.ended and not self.missed

    @property
    def word(self) -> str:
        return self.state if not self.figures or not self.missed else f"{self.state}, infeasible"


def read_row(run: Path, index: int, settings: Settings, aim: Aim, state: str = "running") -> Row:
    """The trial in this directory; `state` if it has not ended by itself."""
    reports = read_reports(run)
    ended: dict[str, Any] = read_json(run / TRIAL_FILE) if (run / TRIAL_FILE).exists() else {}
    if (run / SETTINGS_FILE).exists():
        settings = read_json(run / SETTINGS_FILE)
    figures = reports[-1]["figures"] if reports else {}
    times = [report["at"] for report in reports]
    state = ended.get("state", state)
    return Row(
        index=index,
        state=state,
        moment=times[-1] if times else None,
        figures=figures,
        settings=settings,
        scores=aim.scores(figures if figures and state != "failed" else None),
        missed=aim.missed_by(figures) if figures else 0.0,
        seconds=ended.get("seconds"),
        error=str(ended.get("error", "its process died")) if state == "failed" else "",
        times=times,
    )


def read_rows(trials: Path, ledger: Ledger, aim: Aim) -> list[Row]:
    """All trials of a search that has ended."""
    return [
        read_row(trials / name_of(index), index, settings, aim, "failed")
        for index, settings in enumerate(ledger.settings)
    ]


def best_of(rows: Sequence[Row]) -> Row | None:
    """The feasible trial of the highest score, the first of equals; None if none is feasible."""
    feasible = [row for row in rows if row.feasible]
    return max(feasible, key=lambda row: row.scores["score"]) if feasible else None


def front_of(rows: Sequence[Row], aim: Aim) -> list[Row]:
    """The feasible trials that no other beats in both figures, by the first of them."""
    feasible = [row for row in rows if row.feasible]
    points = [tuple(aim.goodness(metric, row.figures) for metric in aim.metrics) for row in feasible]
    found = [feasible[index] for index in front(points)]
    return sorted(found, key=lambda row: aim.goodness(aim.metrics[0], row.figures), reverse=True)


def nearest(rows: Sequence[Row]) -> Row | None:
    """Of trials that all miss the limits: the one that misses them by least."""
    ended = [row for row in rows if row.ended]
    return min(ended, key=lambda row: row.missed) if ended else None


def importance(
    rows: Sequence[Row], aim: Aim, metric: str, distributions: dict[str, Any], seed: int
) -> dict[str, float]:
    """Each setting's share of the variance of the figure over the space, by Optuna's fANOVA (Hutter et al. 2014).

    Empty where there are too few trials, or all are alike.
    """
    import optuna

    known = [row for row in rows if row.ended and metric in row.figures]
    values = {aim.goodness(metric, row.figures) for row in known}
    if len(known) < ENOUGH or len(values) < 2:
        return {}
    study = optuna.create_study(direction="maximize")
    for row in known:
        params = {key: row.settings[key] for key in distributions}
        value = aim.goodness(metric, row.figures)
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    try:
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (RuntimeError, ValueError):
        return {}
    return {key: float(share) for key, share in shares.items()}


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """trials.csv: number, state, epoch or generation, seconds, feasible, figures, settings."""
    figures = sorted({key for row in rows for key in row.figures})
    settings = list(dict.fromkeys(key for row in rows for key in row.settings))
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["trial", "state", "at", "seconds", "feasible", *figures, *settings, "error"])
    for row in rows:
        cells = [row.figures.get(key, "") for key in figures] + [shown(row.settings[key]) for key in settings]
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        facts = [name_of(row.index), row.state, row.moment or "", seconds, int(row.feasible)]
        writer.writerow([*facts, *cells, row.error])
    write_whole(path, content.getvalue())


def settings_text(row: Row) -> str:
    return " ".join(f"{name}={short(row.settings[key])}" for key, name in short_names(row.settings).items())


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """optimizer.learning_rate -> learning_rate, where no other key ends so; objective.name -> objective."""
    tails = {key: key.removesuffix(".name").rsplit(".", 1)[-1] for key in keys}
    counts = Counter(tails.values())
    return {key: tail if counts[tail] == 1 else key for key, tail in tails.items()}


def short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
