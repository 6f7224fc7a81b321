"""Panels of one or more runs, run beside run where they show the same thing, in the sections of a page.

The first section of every run, its results, comes before the details of any.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from funnel.panels import RUNS, Calibration, Cell, Curve, Figure, Glossary, Intervals, Panel, Sentence, Table, told
from jobs.report.tables import Grid, Group

Shown = Grid | Curve | Intervals | Calibration | Sentence
Named = tuple[int, str, Panel]
"""Place of the run on the page, its name, and what it shows."""


def sections(runs: Sequence[tuple[str, Sequence[Panel]]]) -> dict[str, list[Shown]]:
    """{title: panels} of (name, panels) of every run. Headlines and glossaries are left out."""
    places: dict[str, tuple[bool, int, int]] = {}
    alike: dict[tuple[object, ...], list[Named]] = {}
    for index, (name, panels) in enumerate(runs):
        own: dict[str, int] = {}
        for panel in panels:
            if isinstance(panel, Glossary) or (isinstance(panel, Sentence) and panel.headline):
                continue
            at = own.setdefault(panel.section, len(own))
            place = (at > 0, index, at)
            places[panel.section] = min(places.get(panel.section, place), place)
            alike.setdefault(key_of(panel), []).append((index, name, panel))
    order = sorted(places, key=lambda section: (section == RUNS, places[section]))
    found: dict[str, list[Shown]] = {section: [] for section in order}
    who: dict[str, set[int]] = {}
    for members in alike.values():
        who.setdefault(members[0][2].section, set()).update(index for index, _, _ in members)
    for members in alike.values():
        section = members[0][2].section
        found[section] += joined(members, beside=len(who[section]) > 1)
    return {section: panels for section, panels in found.items() if panels}


def key_of(panel: Panel) -> tuple[object, ...]:
    """What panels have in common that are shown as one."""
    if isinstance(panel, Sentence):
        return panel.section, Sentence, panel.text
    assert not isinstance(panel, Glossary)
    return panel.section, type(panel), panel.title, panel.columns if isinstance(panel, Table) else ()


def joined(members: Sequence[Named], beside: bool) -> list[Shown]:
    """One panel of those that are alike; where that would be too much for one, each with its run's name. `beside`:
    other runs have panels in the same section, so that a panel of one run must say whose it is."""
    first = members[0][2]
    if isinstance(first, Sentence):
        return [first]
    if isinstance(first, Table):
        _, name, _ = members[0]
        says_whose = len(members) > 1 or not beside or all(row[0] == name for row in first.rows)
        return [table(members) if says_whose else table([(*members[0][:2], retitled(first, name))])]
    found: list[tuple[int, str, Curve | Intervals | Calibration]] = [
        (index, name, panel) for index, name, panel in members if isinstance(panel, Curve | Intervals | Calibration)
    ]
    if len(found) == 1 and not beside:
        return [found[0][2]]
    curves = [(index, name, panel.series[0]) for index, name, panel in found
              if isinstance(panel, Curve) and len(panel.series) == 1 and not panel.bars]  # fmt: skip
    if isinstance(first, Curve) and len(curves) == len(found):
        return [replace(first, series=tuple(replace(line, name=name, tint=index) for index, name, line in curves))]
    rows = [replace(row, group=name) for _, name, panel in found if isinstance(panel, Intervals) and one_group(panel)
            for row in panel.rows]  # fmt: skip
    if isinstance(first, Intervals) and all(isinstance(panel, Intervals) and one_group(panel) for *_, panel in found):
        return [replace(first, rows=tuple(rows))]
    if isinstance(first, Calibration):
        bins = {f"{name} {curve}".rstrip(): groups for _, name, panel in found if isinstance(panel, Calibration)
                for curve, groups in panel.groups.items()}  # fmt: skip
        return [replace(first, groups=bins)]
    return [replace(panel, title=f"{panel.title}: {name}") for _, name, panel in found]


def retitled(panel: Table, name: str) -> Table:
    return replace(panel, title=f"{panel.title}: {name}" if panel.title else name)


def one_group(panel: Intervals) -> bool:
    return len({row.group for row in panel.rows}) == 1


def table(members: Sequence[Named]) -> Grid:
    """Rows of one run as they are. Of several: a group for each row's name, and in it a row a run; what all runs share,
    and rows that name a run, stand by themselves."""
    tables = [(index, name, panel) for index, name, panel in members if isinstance(panel, Table)]
    first = tables[0][2]
    if len(tables) == 1 or all(panel.rows == first.rows for _, _, panel in tables):
        return Grid.of(first, [Group("", [list(row) for row in first.rows])])
    groups: dict[str, Group] = {}
    for index, name, panel in tables:
        for head, *cells in panel.rows:
            title = "" if head == name else str(head)
            group = groups.setdefault(title, Group(title, []))
            group.rows.append([name, *cells])
            group.series.append(index)
    for group in groups.values():
        mark_best(group, [first.columns.index(column) for column in first.alike])
        add_differences(group)
    note = first.note
    if any(group.differences for group in groups.values()):
        note = f"{note} {PAIRED_NOTE}"
    elif any(isinstance(cell, Figure) and cell.badness is not None for row in first.rows for cell in row):
        note = f"{note} {BEST_NOTE}".strip()
    return Grid.of(replace(first, columns=("Run", *first.columns[1:]), note=note), list(groups.values()))


BEST_NOTE = (
    "Shaded: better than each of the other runs by more than the two intervals together leave open (√ of the sum of "
    "their squared halves). Where nothing is shaded there is no difference to tell."
)


PAIRED_NOTE = (
    "Lines with a minus: the difference to the first run on the same rows, with its 95% interval, for which both were "
    "resampled alike, user by user. Shaded: better than each of the other runs by a difference whose interval is off 0."
)
FEWEST_DRAWS = 0.9
"""Share of the replicates that both runs must have."""


def add_differences(group: Group) -> None:
    """After the runs of a group their differences to the first of them, where they can be paired."""
    if len(group.rows) < 2:
        return
    first, *others = group.rows
    for row in others:
        cells: list[Cell] = [difference(one, base) or BLANK for one, base in zip(row[1:], first[1:], strict=True)]
        if any(cell != BLANK for cell in cells):
            group.rows.append([f"{row[0]} − {first[0]}", *cells])
            group.differences += 1


BLANK = "\u00a0"


def difference(one: Cell, other: Cell) -> Figure | None:
    """one - other with the interval of the paired bootstrap; None where the two cannot be paired."""
    if not (isinstance(one, Figure) and isinstance(other, Figure)) or one.value is None or other.value is None:
        return None
    bounds = paired(one, other)
    if bounds is None:
        return None
    return told(Figure(one.value - other.value, one.digits, *bounds, signed=True))


def paired(one: Figure, other: Figure) -> tuple[float, float] | None:
    """95% percentile interval of one - other over replicates of the same rows and weights; None if they are not."""
    if not one.sample or one.sample != other.sample or len(one.draws) != len(other.draws):
        return None
    known = [a - b for a, b in zip(one.draws, other.draws, strict=True) if a is not None and b is not None]
    if len(known) < FEWEST_DRAWS * len(one.draws):
        return None
    from funnel.figures.bootstrap import LEVEL  # here, for it imports scipy

    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mark_best(group: Group, alike: Sequence[int]) -> None:
    """Mark the best of each column, if the runs were judged on the same rows and their intervals tell it from each of
    the others. Runs on the same rows differ less than their intervals say, so this marks too few rather than too many.
    """
    if len({tuple(str(row[column]) for column in alike) for row in group.rows if not empty(row)}) > 1:
        return
    for column in range(1, len(group.rows[0])):
        known = {place: cell for place, row in enumerate(group.rows)
                 if isinstance(cell := row[column], Figure) and cell.badness is not None}  # fmt: skip
        if len({cell.text for cell in known.values()}) < 2:
            continue
        best = min(known.values(), key=lambda cell: cell.badness or 0.0)
        if all(cell.text == best.text or told_apart(best, cell) for cell in known.values()):
            group.best |= {(place, column) for place, cell in known.items() if cell.text == best.text}


def told_apart(one: Figure, other: Figure) -> bool:
    """Whether two figures differ by more than their intervals leave open, or the interval of their difference where
    they can be paired. Figures that have none are exact."""
    assert one.badness is not None
    assert other.badness is not None
    if (bounds := paired(one, other)) is not None:
        return bounds[0] > 0 or bounds[1] < 0
    return abs(one.badness - other.badness) > math.hypot(half_of(one), half_of(other))


def half_of(figure: Figure) -> float:
    if figure.half is not None:
        return figure.half
    return 0.0 if figure.low is None or figure.high is None else (figure.high - figure.low) / 2


def empty(row: Sequence[Cell]) -> bool:
    return all(isinstance(cell, Figure) and cell.value is None for cell in row[1:2])
