"""What the page shows of a search: the best trials, settings against figure, what mattered, the front, the curves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.report.figures import Panel
from jobs.report.runs import Run
from jobs.report.tables import Cell, Group, Table
from jobs.report.tune_figures import importance_panel, learning_panel, parallel_panel, pareto_panel
from jobs.report.words import DASH, counted, duration, number
from jobs.tune.aim import Aim, goodness, read_aim
from jobs.tune.files import LEDGER_FILE, TIME, TRIALS, Ledger, name_of, read_reports
from jobs.tune.results import Row, front_of, read_rows, short_names

SHOWN = 10


@dataclass(frozen=True)
class Hunt:
    """What tune.html.j2 shows of one search."""

    run: Run
    message: str
    table: Table
    test: Table | None
    wide: list[Panel]
    panels: list[Panel]
    unit: str
    several: bool
    importance: bool
    """Whether there were enough trials to say what mattered."""


def hunt_of(run: Run, name: str) -> Hunt:
    aim, rows = aim_of(run), rows_of(run)
    unit = TIME[run.record["config"]["what"]]
    several = len(aim.metrics) > 1
    wide = [parallel_panel(rows, metric, aim, f"{name}-parallel-{n}") for n, metric in enumerate(aim.metrics)]
    panels = [pareto_panel(rows, aim, f"{name}-front")] if several else []
    for n, metric in enumerate(aim.metrics):
        shares: dict[str, float] = run.summary.get(f"importance.{metric}") or {}
        panels.append(importance_panel(shares, metric, f"{name}-importance-{n}"))
        curves = {row.index: curve(run, row, metric) for row in rows}
        panels.append(learning_panel(rows, aim, curves, metric, unit, f"{name}-curves-{n}"))
    return Hunt(
        run=run,
        message=str(run.summary.get("tune.message") or ""),
        table=trial_table(rows, aim, unit),
        test=test_table(run, aim),
        wide=[item for item in wide if item],
        panels=[item for item in panels if item],
        unit=unit,
        several=several,
        importance=any(run.summary.get(f"importance.{metric}") for metric in aim.metrics),
    )


def aim_of(run: Run) -> Aim:
    config: dict[str, Any] = run.record["config"]
    return read_aim(config["what"], config["metric"], config["subject_to"], config["pareto"])


def rows_of(run: Run) -> list[Row]:
    return read_rows(run.path / TRIALS, Ledger(run.path / LEDGER_FILE), aim_of(run))


def curve(run: Run, row: Row, metric: str) -> tuple[list[int], list[float]]:
    reports = read_reports(run.path / TRIALS / name_of(row.index))
    known = [(report["at"], report["figures"][metric]) for report in reports if metric in report["figures"]]
    return [at for at, _ in known], [value for _, value in known]


def trial_table(rows: Sequence[Row], aim: Aim, unit: str) -> Table:
    """The best trials, and the default configuration wherever it stands."""
    front = {row.index for row in front_of(rows, aim)} if len(aim.metrics) > 1 else set()

    def order(row: Row) -> tuple[Any, ...]:
        return row.index not in front, -row.feasible, row.missed, -goodness(aim.metrics[0], row.figures)

    ranked = sorted((row for row in rows if row.ended), key=order)
    shown = ranked[: max(SHOWN, len(front))]
    shown += [row for row in ranked if row.index == 0 and row not in shown]
    limits = aim.shown[len(aim.metrics) :]
    names = short_names(rows[0].settings)
    lines = []
    for place, row in enumerate(shown):
        label = f"{name_of(row.index)}{' (default)' if row.index == 0 else ''}"
        state = row.word if row.state != "finished" or row.missed else ""
        cells = [Cell(label, minor=state, head=True, series=-1), Cell(str(row.moment))]
        best = row.index in front if front else place == 0 and row.feasible
        cells += [Cell(number(row.figures.get(metric), 5), best=best) for metric in aim.metrics]
        cells += [Cell(number(row.figures.get(metric), 5)) for metric in limits]
        cells += [Cell(setting(row.settings.get(key))) for key in names]
        lines.append(cells)
    failed = [row for row in rows if row.state == "failed"]
    notes = [f"Trial {name_of(row.index)} failed: {row.error}." for row in failed[:3]]
    if len(failed) > len(notes):
        notes.append(f"{len(failed) - len(notes)} more trials failed.")
    columns = ["Trial", unit, *aim.metrics, *limits, *(label.replace("_", " ") for label in names.values())]
    return Table(columns, [Group("", lines)], notes)


def setting(value: Any) -> str:
    return DASH if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def test_table(run: Run, aim: Aim) -> Table | None:
    """Figures of the best trial and of the default on the part that the search never saw."""
    keys = [key.removeprefix("best.test.") for key in run.summary if key.startswith("best.test.")]
    wanted = [key for key in keys if key.endswith((".auc", ".log_loss", ".pcoc", ".tuned"))]
    if not wanted:
        return None
    lines = []
    for key in wanted:
        cells = [Cell(key, head=True)]
        for who in ("default", "best"):
            cells.append(Cell(number(run.number(f"{who}.test.{key}"), 5)))
        lines.append(cells)
    best = int(run.summary["best.trial"])
    return Table(["Test part", "default", f"best, {name_of(best)}"], [Group("", lines)])


def tune_headline(run: Run) -> str:
    """One sentence: how many trials, what for, and what came of it."""
    aim = aim_of(run)
    trials = counted(run.number("tune.trials") or 0, "trial")
    took = duration(run.number("tune.seconds"))
    text = f"{trials} of jobs.{run.record['config']['what']} in {took} to {aim}: "
    if "tune.front" in run.summary:
        return text + f"{counted(len(run.summary['tune.front']), 'trial')} stand on the front."
    if "best.trial" not in run.summary:
        return text + "none is feasible."
    (metric,) = aim.metrics
    best, default = run.number(f"best.valid.{metric}"), run.number(f"default.valid.{metric}")
    return text + f"the best has {number(best, 5)}, the default configuration {number(default, 5)} (validation part)."
