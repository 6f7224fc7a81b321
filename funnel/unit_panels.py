"""What shows an evaluation of requests or sessions (unit_evaluation.py): cells with intervals, slices, console tables.

`names` everywhere: {figure: (what people call it, digits)}, in order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from funnel.panels import Cell, Figure, Intervals, Panel, Record, Table, interval

Names = Mapping[str, tuple[str, int]]
SLICE_NOTE = (
    "A dot is the figure of a slice, the bar its 95% bootstrap interval; the line: the whole part. Open: the interval "
    "holds the line."
)


def section(record: Record) -> str:
    """Of an evaluation's figures."""
    return f"Evaluation: {record.summary.get('part')} part"


def judged_run(record: Record) -> str:
    """Name of the run that an evaluation judges."""
    return Path(str((record.run.get("config") or {}).get("evaluate", {}).get("run") or record.name)).name


def judged(record: Record, key: str, digits: int, smaller_is_better: bool = False) -> Figure:
    """A figure with its interval and replicates; one that has them may be marked as the best among several runs."""
    found = record.cell(key, digits)
    if found.low is None or found.value is None:
        return found
    return replace(found, badness=found.value if smaller_is_better else -found.value)


def slice_panels(record: Record, names: Names, reference: Mapping[str, float] | None = None) -> list[Panel]:
    """Every figure of every slicing, a panel each. `reference`: values to compare with in place of the whole part's."""
    found: list[Panel] = []
    for entry in (record.files.get("evaluation") or {}).get("slices") or []:
        for key, (title, _) in names.items():
            lines = [interval(one["figures"], key, f"{one['label']}") for one in entry["slices"]]
            rows = tuple(line for line in lines if line is not None)
            if rows:
                line = (reference or {}).get(key, record.number(key))
                found.append(Intervals(title, "", rows, line, SLICE_NOTE, f"By {entry['column']}", small=True))
    return found


def figures_table(summary: Mapping[str, Any], names: Names, remarks: Sequence[str] = ()) -> Table:
    """For the console: figure, value, interval; below it the remarks and what is absent."""
    rows: list[tuple[Cell, ...]] = []
    for key, (title, digits) in names.items():
        if key in summary:
            low, high = summary.get(f"{key}.low"), summary.get(f"{key}.high")
            bounds = "" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"
            rows.append((title, f"{summary[key]:.{digits}f}", bounds))
    title = f"{summary['part']} part, 95% intervals over {summary['bootstrap.units']}"
    return Table(title, ("figure", "value", "interval"), tuple(rows), "\n".join([*remarks, *absent_lines(summary)]))


def absent_lines(summary: Mapping[str, Any]) -> list[str]:
    """One line for each reason why figures are absent."""
    reasons: dict[str, list[str]] = {}
    for key, reason in (summary.get("absent") or {}).items():
        reasons.setdefault(str(reason), []).append(key)
    return [f"absent: {', '.join(sorted(keys))} ({reason})" for reason, keys in reasons.items()]


def slices_table(entry: Mapping[str, Any], names: Names, units: str) -> Table:
    """For the console: a line for each slice of a column."""

    def cell(figures: Mapping[str, Any], key: str, digits: int) -> str:
        if key not in figures:
            return "-"
        low, high = figures.get(f"{key}.low"), figures.get(f"{key}.high")
        bounds = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
        return f"{figures[key]:.{digits}f}{bounds}"

    known = {key: name for key, name in names.items() if any(key in one["figures"] for one in entry["slices"])}
    rows: list[tuple[Cell, ...]] = [
        (str(one["label"]), one["units"], *(cell(one["figures"], key, digits) for key, (_, digits) in known.items()))
        for one in entry["slices"]
    ]
    columns = (entry["column"], units, *(title for title, _ in known.values()))
    return Table(f"by {entry['column']}", columns, tuple(rows))
