"""What the page shows of a pipeline: its stages, the rounds of its evolution, and its figures by day."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jobs.report.figures import Panel
from jobs.report.runs import Run, finite
from jobs.report.svg import MUTED, STYLE, colour, label_ends, panel, plain_ticks, to_svg
from jobs.report.tables import Cell, Group, Table
from jobs.report.words import DASH, count, duration, number

PIPELINE_FILE, DAYS_FILE = "pipeline.json", "days.jsonl"
SHOWN_DAYS = 14
LINES = {
    "AUC": {"ctr.auc": "CTR", "cvr.click.auc": "CVR, clicks", "ctcvr.auc": "CTCVR"},
    "log-loss": {"ctr.log_loss": "CTR", "ctcvr.log_loss": "CTCVR"},
    "PCOC": {"ctr.pcoc": "CTR", "cvr.click.pcoc": "CVR, clicks", "ctcvr.pcoc": "CTCVR"},
}


@dataclass(frozen=True)
class Line:
    """What pipeline.html.j2 shows of one pipeline."""

    run: Run
    stages: Table | None
    days: Table | None
    panels: list[Panel]
    value: str
    """The fusion's metric, value@10 say."""


def line_of(run: Run, name: str) -> Line:
    stages = (read(run, PIPELINE_FILE) or [{}])[0].get("stages", {})
    days = read(run, DAYS_FILE)
    config: dict[str, Any] = run.record["config"]["pipeline"]
    key, value = f"{config['metric']}_at_{config['k']}", f"{config['metric']}@{config['k']}"
    lines = {**LINES, value: {f"{key}.tuned": "tuned", f"{key}.untuned": "untuned"}}
    panels = [day_panel(days, title, keys, f"{name}-{index}") for index, (title, keys) in enumerate(lines.items())]
    return Line(
        run=run,
        stages=stage_table(stages, {str(day["day"]) for day in days}),
        days=day_table(days, key, value) if days else None,
        panels=[one for one in panels if one],
        value=value,
    )


def read(run: Run, name: str) -> list[dict[str, Any]]:
    """A JSON object, or one a line; nothing if the file is not there."""
    path = run.path / name
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text.splitlines()] if name.endswith(".jsonl") else [json.loads(text)]


def stage_table(stages: dict[str, Any], days: set[str]) -> Table | None:
    """A row a stage; those of days are summed up in their own table."""
    rows = []
    for name, entry in stages.items():
        if name.split(" ")[0] in days:
            continue
        known = {key: value for key, value in entry["facts"].items() if isinstance(value, int | float | str) and value}
        told = ", ".join(f"{key} {number(x) if isinstance(x, float) else x}" for key, x in known.items())
        again = f", made {entry['made']} times" if entry["made"] > 1 else ""
        rows.append([Cell(name, head=True), Cell(duration(entry["seconds"])), Cell((told or DASH) + again)])
    return Table(["Stage", "Time", "What came of it"], [Group("", rows)]) if rows else None


def day_table(days: Sequence[dict[str, Any]], key: str, value: str) -> Table:
    """The last two weeks, each judged by the model of the days before it."""
    rows = []
    for day in days[-SHOWN_DAYS:]:
        keys = (("ctr.auc", 4), ("ctr.pcoc", 3), ("ctcvr.auc", 4), (f"{key}.tuned", 4), (f"{key}.untuned", 4))
        cells = [Cell(number(finite(day.get(name)), digits)) for name, digits in keys]
        note = f"not learned from: {day['skipped']}" if day.get("skipped") else ""
        rows.append([Cell(str(day["day"]), note, head=True), Cell(count(day.get("rows"))), *cells])
    columns = ["Day", "Rows", "CTR AUC", "CTR PCOC", "CTCVR AUC", f"{value}, tuned", "untuned"]
    return Table(columns, [Group("", rows)])


def day_panel(days: Sequence[dict[str, Any]], title: str, keys: dict[str, str], name: str) -> Panel | None:
    """Figures by day; a day that was not judged leaves a gap. None with fewer than two days."""
    places = {str(day["day"]): place for place, day in enumerate(days)}
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for key, label in keys.items():
        known = [(places[str(day["day"])], finite(day.get(key))) for day in days]
        kept = [(x, y) for x, y in known if y is not None]
        if len(kept) > 1:
            curves[label] = ([x for x, _ in kept], [y for _, y in kept])
    if not curves:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = panel(4.6, 2.6)
        if title == "PCOC":
            axes.axhline(1, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        ends, told = [], []
        for index, (label, (x, y)) in enumerate(curves.items()):
            axes.plot(x, y, color=colour(index), marker="o", markersize=3)
            ends.append((label, y[-1], colour(index)))
            told.append(f"{label} from {y[0]:.4g} to {y[-1]:.4g}")
        day_axis(axes, list(places))
        plain_ticks(axes.yaxis)
        label_ends(axes, ends)
        return Panel(title, to_svg(figure, name, f"{title} by day: {'; '.join(told)}."))


def day_axis(axes: Axes, days: list[str]) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(lambda x, _: days[int(x)][5:] if 0 <= x < len(days) and x == int(x) else "")


def pipeline_headline(run: Run) -> str:
    """One sentence: how far it came."""
    days = read(run, DAYS_FILE)
    if not days:
        return f"{run.name} went through all its stages."
    judged = [day for day in days if finite(day.get("ctr.auc")) is not None]
    text = f"{run.name} has taken in {len(days)} days, the last {days[-1]['day']}"
    if judged:
        last = judged[-1]
        text += f"; judged before it was learned from, {last['day']} has a CTR AUC of {number(last['ctr.auc'])}"
        text += f" and a PCOC of {number(last['ctr.pcoc'], 3)}"
    return text + "."
