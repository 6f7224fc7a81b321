"""Tables as the template shows them: groups of rows, footnotes that say why a figure is absent."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from funnel.numbers import DASH, compact, true_minus
from funnel.panels import Cell, Figure, Table


@dataclass
class Group:
    """Rows under one heading ("" for none)."""

    title: str
    rows: list[list[Cell]]
    series: list[int] = field(default_factory=list)
    """The colour of each row's run; empty where there is one run."""
    best: set[tuple[int, int]] = field(default_factory=set)
    """(row, column) of the best figures."""


@dataclass(frozen=True)
class ShownCell:
    text: str
    small: str = ""
    best: bool = False
    note: int = 0
    """Footnote, 0 for none."""
    chip: int = -1
    """Colour of the run that the row belongs to, -1 for none."""
    words: bool = False
    """Text rather than a number: stands left."""


@dataclass(frozen=True)
class Grid:
    """A table, ready to show."""

    title: str
    columns: tuple[str, ...]
    groups: tuple[tuple[str, tuple[tuple[ShownCell, ...], ...]], ...]
    note: str
    footnotes: tuple[str, ...]
    section: str

    @classmethod
    def of(cls, table: Table, groups: Sequence[Group]) -> "Grid":
        footnotes: list[str] = []
        shown = tuple((group.title, tuple(rows_of(group, footnotes))) for group in groups)
        return cls(table.title, table.columns, shown, table.note, tuple(footnotes), table.section)


def rows_of(group: Group, footnotes: list[str]) -> list[tuple[ShownCell, ...]]:
    found = []
    for place, row in enumerate(group.rows):
        chip = group.series[place] if group.series else -1
        cells = [shown(cell, (place, column) in group.best, footnotes) for column, cell in enumerate(row)]
        found.append((ShownCell(cells[0].text, chip=chip), *cells[1:]))
    return found


def shown(cell: Cell, best: bool, footnotes: list[str]) -> ShownCell:
    if isinstance(cell, Figure):
        if cell.why and cell.why not in footnotes:
            footnotes.append(cell.why)
        return ShownCell(cell.text, cell.small, best, footnotes.index(cell.why) + 1 if cell.why else 0)
    if isinstance(cell, str):
        cell = true_minus(cell)
        return ShownCell(cell or DASH, words=len(cell) > 24)
    return ShownCell(compact(cell))
