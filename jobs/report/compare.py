"""Panels of one or more runs, run beside run where they show the same thing, in the sections of a page.

A section comes as early as the run that has it names it; the results of every run thus stand before the details of any.
"""

from collections.abc import Sequence
from dataclasses import replace

from funnel.panels import RUNS, Calibration, Cell, Curve, Figure, Glossary, Intervals, Panel, Sentence, Table
from jobs.report.tables import Grid, Group

Shown = Grid | Curve | Intervals | Calibration | Sentence
Named = tuple[int, str, Panel]
"""Place of the run on the page, its name, and what it shows."""


def sections(runs: Sequence[tuple[str, Sequence[Panel]]]) -> dict[str, list[Shown]]:
    """{title: panels} of (name, panels) of every run. Headlines and glossaries are left out."""
    places: dict[str, tuple[int, int]] = {}
    alike: dict[tuple[object, ...], list[Named]] = {}
    for index, (name, panels) in enumerate(runs):
        own: dict[str, int] = {}
        for panel in panels:
            if isinstance(panel, Glossary) or (isinstance(panel, Sentence) and panel.headline):
                continue
            at = own.setdefault(panel.section, len(own))
            places[panel.section] = min(places.get(panel.section, (at, index)), (at, index))
            alike.setdefault(key_of(panel), []).append((index, name, panel))
    order = sorted(places, key=lambda section: (section == RUNS, places[section]))
    found: dict[str, list[Shown]] = {section: [] for section in order}
    for members in alike.values():
        found[members[0][2].section] += joined(members, several=len(runs) > 1)
    return {section: panels for section, panels in found.items() if panels}


def key_of(panel: Panel) -> tuple[object, ...]:
    """What panels have in common that are shown as one."""
    if isinstance(panel, Sentence):
        return panel.section, Sentence, panel.text
    assert not isinstance(panel, Glossary)
    return panel.section, type(panel), panel.title, panel.columns if isinstance(panel, Table) else ()


def joined(members: Sequence[Named], several: bool) -> list[Shown]:
    """One panel of those that are alike; where that would be too much for one, each with its run's name."""
    index, name, first = members[0]
    if isinstance(first, Sentence):
        return [first]
    if isinstance(first, Table):
        return [table(members)]
    if len(members) == 1:
        return [first]  # type: ignore[list-item]
    panels = [panel for _, _, panel in members]
    names = [each for _, each, _ in members]
    if isinstance(first, Curve):
        lines = [panel.series for panel in panels if isinstance(panel, Curve)]
        if not first.bars and all(len(each) == 1 for each in lines):
            return [
                replace(first, series=tuple(replace(each[0], name=n) for n, each in zip(names, lines, strict=True)))
            ]
    if isinstance(first, Intervals):
        found = [panel for panel in panels if isinstance(panel, Intervals)]
        if all(len({row.group for row in panel.rows}) == 1 for panel in found):
            rows = [replace(row, group=n) for n, panel in zip(names, found, strict=True) for row in panel.rows]
            return [replace(first, rows=tuple(rows))]
    if isinstance(first, Calibration):
        curves = [(n, panel) for n, panel in zip(names, panels, strict=True) if isinstance(panel, Calibration)]
        groups = {f"{n} {key}".rstrip(): bins for n, panel in curves for key, bins in panel.groups.items()}
        return [replace(first, groups=groups)]
    return [replace(panel, title=f"{panel.title}: {n}") for n, panel in zip(names, panels, strict=True)]  # type: ignore


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
    return Grid.of(replace(first, columns=("Run", *first.columns[1:])), list(groups.values()))


def mark_best(group: Group, alike: Sequence[int]) -> None:
    """Mark the best of each column, if the runs were judged on the same rows."""
    if len({tuple(str(row[column]) for column in alike) for row in group.rows if not empty(row)}) > 1:
        return
    for column in range(1, len(group.rows[0])):
        known = [(cell.badness, place) for place, row in enumerate(group.rows)
                 if isinstance(cell := row[column], Figure) and cell.badness is not None]  # fmt: skip
        texts = {place: group.rows[place][column].text for _, place in known}  # type: ignore[union-attr]
        if len(set(texts.values())) > 1:
            best = texts[min(known)[1]]
            group.best |= {(place, column) for place, text in texts.items() if text == best}


def empty(row: Sequence[Cell]) -> bool:
    return all(isinstance(cell, Figure) and cell.value is None for cell in row[1:2])
