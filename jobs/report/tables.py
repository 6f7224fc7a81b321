"""The tables: cells are text, ready to show; a figure that is absent is a dash with a footnote that says why."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.report.figures import SPACES
from jobs.report.intervals import half_width
from jobs.report.runs import Run, comparable, finite
from jobs.report.words import (
    DASH,
    MINUS,
    compact,
    count,
    duration,
    number,
    objective_name,
    percent,
    stronger_rival,
    verdict,
)

METRICS = (("auc", "AUC", 4), ("log_loss", "Log-loss", 4), ("pcoc", "PCOC", 3))


@dataclass
class Footnotes:
    """Numbered reasons, each once."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> int:
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


@dataclass
class Cell:
    text: str
    minor: str = ""  # shown small behind the text
    best: bool = False
    note: int = 0  # footnote, 0 for none
    head: bool = False  # names its row
    series: int = -1  # colour of the run, -1 for none


@dataclass
class Group:
    """Rows under one heading ("" for none)."""

    title: str
    rows: list[list[Cell]]


@dataclass
class Table:
    columns: list[str]
    groups: list[Group]
    notes: list[str] = field(default_factory=list)


def metric_table(runs: Sequence[Run]) -> Table:
    """Task and space x AUC, log-loss, PCOC, rows, positives; with several runs a group per task and space and a row per
    run. The best value is marked where all runs were judged on the same number of rows and positives."""
    notes = Footnotes()
    single = len(runs) == 1
    groups = []
    for key, task, space in SPACES:
        head = f"{task}, {space}"
        rows = [
            metric_row(run, key, head if single else run.name, notes, -1 if single else i) for i, run in enumerate(runs)
        ]
        if not single:
            mark_best(runs, key, rows)
        groups.append(Group("" if single else head, rows))
    if single:
        groups = [Group("", [row for group in groups for row in group.rows])]
    first = "Task, space" if single else "Run"
    return Table([first, *(title for _, title, _ in METRICS), "Rows", "Positives"], groups, notes.texts)


def metric_row(run: Run, key: str, head: str, notes: Footnotes, series: int) -> list[Cell]:
    rows, positives = run.number(f"{key}.count"), run.number(f"{key}.positives")
    cells = [Cell(head, head=True, series=series)]
    for metric, _, digits in METRICS:
        value = run.number(f"{key}.{metric}")
        if value is None:
            cells.append(Cell(DASH, note=notes.mark(f"{run.why_absent(f'{key}.{metric}')}")))
            continue
        half = half_width(metric, value, rows, positives)
        cells.append(Cell(number(value, digits), minor=f"±{number(half, digits)}" if half is not None else ""))
    rate = positives / rows if rows and positives is not None else None
    cells.append(Cell(count(rows)))
    cells.append(Cell(count(positives), minor=percent(rate) if rate is not None else ""))
    return cells


def mark_best(runs: Sequence[Run], key: str, rows: Sequence[list[Cell]]) -> None:
    if not comparable(runs, key):
        return
    badness = {"auc": lambda v: -v, "log_loss": lambda v: v, "pcoc": lambda v: abs(math.log(v)) if v > 0 else math.inf}
    for column, (metric, _, _) in enumerate(METRICS, start=1):
        ranked = [
            (badness[metric](v), i) for i, run in enumerate(runs) if (v := run.number(f"{key}.{metric}")) is not None
        ]
        if len({rows[index][column].text for _, index in ranked}) > 1:
            best = rows[min(ranked)[1]][column].text
            for _, index in ranked:
                rows[index][column].best = rows[index][column].text == best


def propensity_table(runs: Sequence[Run]) -> Table | None:
    """A row per run: effective sample size and its share of clicks, largest weight, clip and the share it touches."""
    keys = ("clicks", "effective_sample_size", "largest_weight", "clip", "share_clipped")
    if all(run.number(f"propensity.{key}") is None for run in runs for key in keys):
        return None
    notes = Footnotes()
    rows = []
    for index, run in enumerate(runs):
        values = {key: run.number(f"propensity.{key}") for key in keys}
        size, clicks = values["effective_sample_size"], values["clicks"]
        shown = {key: compact(value) for key, value in values.items()}
        shown["clicks"], shown["effective_sample_size"] = count(clicks), count(size)
        shown["share_clipped"] = percent(values["share_clipped"])
        cells = [Cell(run.name, head=True, series=index if len(runs) > 1 else -1)]
        for key in keys:
            absent = values[key] is None
            cells.append(Cell(shown[key], note=notes.mark(run.why_absent(f"propensity.{key}")) if absent else 0))
        if size is not None and clicks:
            cells[2].minor = f"{percent(size / clicks)} of clicks"
        rows.append(cells)
    columns = ["Run", "Clicks", "Effective sample size", "Largest weight", "Clip", "Share clipped"]
    return Table(columns, [Group("", rows)], notes.texts)


def fusion_table(run: Run, k: int) -> Table:
    """Tuned, untuned and best single score, and the two gains, by value@k and NDCG@k with 95% intervals."""
    notes = Footnotes()
    metrics = (f"value_at_{k}", f"ndcg_at_{k}")
    single = run.summary.get("fusion.best_single_name")
    names = {"tuned": "tuned fusion", "untuned": "untuned fusion", "best_single": f"best single score: {single or '?'}"}
    levels = [[Cell(name, head=True)] for name in names.values()]
    for row, who in zip(levels, names, strict=True):
        for metric in metrics:
            row += interval_cells(run, f"fusion.{metric}.{who}", notes)
    gains = []
    for rival, label in (("untuned", f"tuned {MINUS} untuned"), ("best_single", f"tuned {MINUS} best single")):
        cells = [Cell(label, head=True)]
        for metric in metrics:
            cells += interval_cells(run, f"fusion.{metric}.gain_over_{rival}", notes, f"fusion.{metric}.{rival}")
        gains.append(cells)
    columns = ["", f"value@{k}", "95% interval", f"NDCG@{k}", "95% interval"]
    return Table(columns, [Group("", levels), Group("Gain", gains)], notes.texts)


def interval_cells(run: Run, key: str, notes: Footnotes, base: str = "") -> list[Cell]:
    value, low, high = (run.number(part) for part in (key, f"{key}.low", f"{key}.high"))
    if value is None:
        return [Cell(DASH, note=notes.mark(run.why_absent(key))), Cell(DASH)]
    signed = bool(base)
    reference = run.number(base) if base else None
    minor = f"{MINUS if value < 0 else '+'}{percent(abs(value / reference))}" if reference else ""
    if low is None or high is None:
        return [
            Cell(number(value, signed=signed), minor=minor),
            Cell(DASH, note=notes.mark(run.why_absent(f"{key}.low"))),
        ]
    return [
        Cell(number(value, signed=signed), minor=minor),
        Cell(f"{number(low, signed=signed)} to {number(high, signed=signed)}"),
    ]


def significance(run: Run, k: int) -> str:
    """Plain words on the gain in value@k over the stronger rival."""
    key = f"fusion.value_at_{k}.gain_over_{stronger_rival(run, k)}"
    word = verdict(run.number(f"{key}.low"), run.number(f"{key}.high"), run.summary.get("fusion.significant"))
    rival = "the untuned fusion" if key.endswith("untuned") else "the best single score"
    return f"Against the stronger rival ({rival}): {word}."


def train_table(runs: Sequence[Run]) -> Table:
    """A row per train run: what it was and what it cost."""
    rows = []
    for index, run in enumerate(runs):
        figures = {key: run.number(f"train.{key}") for key in ("workers", "epochs", "steps", "rows_per_s")}
        rows.append(
            [
                Cell(run.name, head=True, series=index if len(runs) > 1 else -1),
                Cell(run.setting("objective") or DASH),
                Cell(run.setting("backbone") or DASH),
                *(Cell(compact(value)) for value in figures.values()),
                Cell(duration(run.number("train.startup_s"))),
                Cell(duration(run.number("train.seconds"))),
            ]
        )
    columns = ["Run", "Objective", "Backbone", "Workers", "Epochs", "Steps", "Rows/s", "Start-up", "Duration"]
    return Table(columns, [Group("", rows)])


def evolve_table(runs: Sequence[Run]) -> Table:
    """A row per evolve run: its size, its speed, and what went wrong on the way."""
    rows = []
    for run in runs:
        keys = ("workers", "dimension", "generations", "evaluations", "evaluations_per_s")
        wrong = ("lost_pairs", "failed_evaluations")
        rows.append(
            [
                Cell(run.name, head=True),
                Cell(run.setting("fusion") or str(run.policy.get("fusion") or DASH)),
                *(Cell(compact(run.number(f"es.{key}"))) for key in keys),
                *(Cell(count(total(run, key))) for key in wrong),
                Cell(duration(run.number("es.seconds"))),
            ]
        )
    columns = ["Run", "Fusion", "Workers", "Parameters", "Generations", "Evaluations", "Evaluations/s"]
    return Table([*columns, "Lost pairs", "Failed", "Duration"], [Group("", rows)])


def objective_table(runs: Sequence[Run]) -> Table:
    """A row per run of an objective by name: what it was, where it came to, and what it cost."""
    rows = []
    for run in runs:
        keys = ("workers", "dimension", "generations", "evaluations", "evaluations_per_s")
        wrong = ("lost_pairs", "reissued_pairs", "failed_evaluations")
        rows.append(
            [
                Cell(run.name, head=True),
                Cell(objective_name(run)),
                Cell(run.setting("algorithm") or DASH),
                Cell(compact(run.number("es.final_return"))),
                *(Cell(compact(run.number(f"es.{key}"))) for key in keys),
                Cell(" / ".join(count(run.number(f"es.{key}")) for key in wrong)),
                Cell(duration(run.number("es.seconds"))),
            ]
        )
    columns = ["Run", "Objective", "Algorithm", "Final return", "Workers", "Parameters", "Generations", "Evaluations"]
    columns += ["Evaluations/s", "Lost / again / failed", "Duration"]
    return Table(columns, [Group("", rows)])


def total(run: Run, key: str) -> float | None:
    values = [finite(record.get(key)) for record in run.events.get("generation", [])]
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def data_table(run: Run) -> Table | None:
    """Rows, clicks, conversions and rates of each part of a train run's log."""
    parts: dict[str, Any] = (run.record.get("data") or {}).get("parts") or {}
    rows = []
    for name, facts in parts.items():
        exposures, clicks, conversions = (finite(facts.get(key)) for key in ("rows", "clicks", "conversions"))
        rates = (ratio(clicks, exposures), ratio(conversions, clicks), ratio(conversions, exposures))
        counts = (Cell(count(value)) for value in (exposures, clicks, conversions))
        rows.append([Cell(name, head=True), *counts, *(Cell(percent(rate)) for rate in rates)])
    columns = ["Part", "Rows", "Clicks", "Conversions", "CTR", "CVR of clicks", "CTCVR"]
    return Table(columns, [Group("", rows)]) if rows else None


def ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
