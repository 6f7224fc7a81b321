"""Tables as the template shows them: groups of rows, footnotes that say why a figure is absent."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from funnel.numbers import DASH, compact, true_minus
from funnel.panels import Cell, Figure, Table

WIDE, FEW = 7, 3
"""Columns beyond which a table is dense, and up to which it needs no more room than its words."""
CARDS = 8
"""Rows up to which a dense table is a card a row on a phone."""


def are_names(cells: Sequence["ShownCell"]) -> bool:
    """Whether there is text in a column, and no number: each cell begins with a letter, or is absent."""
    names = [cell.words or (cell.text[:1].isalpha() and not cell.small) for cell in cells]
    return any(names) and all(name or cell.text == DASH for name, cell in zip(names, cells, strict=True))


@dataclass
class Group:
    """Rows under one heading ("" for none)."""

    title: str
    rows: list[list[Cell]]
    series: list[int] = field(default_factory=list)
    """The colour of each row's run; empty where there is one run."""
    best: set[tuple[int, int]] = field(default_factory=set)
    """(row, column) of the best figures."""
    differences: int = 0
    """How many of the last rows compare two runs."""


@dataclass(frozen=True)
class ShownCell:
    text: str
    small: tuple[str, ...] = ()
    """What stands small behind it, part by part."""
    best: bool = False
    note: int = 0
    """Footnote, 0 for none."""
    chip: int = -1
    """Colour of the run that the row belongs to, -1 for none."""
    words: bool = False
    """A sentence: stands left, and may be broken into lines."""
    difference: bool = False
    """Of a row that compares two runs."""


@dataclass(frozen=True)
class Grid:
    """A table, ready to show."""

    title: str
    columns: tuple[str, ...]
    groups: tuple[tuple[str, tuple[tuple[ShownCell, ...], ...]], ...]
    note: str
    footnotes: tuple[str, ...]
    section: str

    @property
    def names(self) -> tuple[bool, ...]:
        """Of each column, whether it holds names or sentences rather than numbers, and so stands left."""
        rows = [row for _, rows in self.groups for row in rows]
        return tuple(at == 0 or are_names([row[at] for row in rows]) for at in range(len(self.columns)))

    @property
    def labelled(self) -> bool:
        """Whether cells carry the name of their column, for layouts without a head."""
        return len(self.columns) > WIDE

    @property
    def looks(self) -> str:
        """How it is laid out: one wide row as facts, a few as cards on a phone, others with a shadow if they scroll."""
        rows = sum(len(rows) for _, rows in self.groups)
        if not self.labelled:
            return " few" if len(self.columns) <= FEW else ""
        return " facts" if rows == 1 else " dense cards" if rows <= CARDS else " dense"

    @classmethod
    def of(cls, table: Table, groups: Sequence[Group]) -> "Grid":
        footnotes: list[str] = []
        shown = tuple((group.title, tuple(rows_of(group, footnotes))) for group in groups)
        return cls(table.title, table.columns, shown, table.note, tuple(footnotes), table.section)


def rows_of(group: Group, footnotes: list[str]) -> list[tuple[ShownCell, ...]]:
    found = []
    for place, row in enumerate(group.rows):
        chip = group.series[place] if place < len(group.series) else -1
        cells = [shown(cell, (place, column) in group.best, footnotes) for column, cell in enumerate(row)]
        compares = place >= len(group.rows) - group.differences
        found.append((ShownCell(cells[0].text, chip=chip, difference=compares), *cells[1:]))
    return found


def shown(cell: Cell, best: bool, footnotes: list[str]) -> ShownCell:
    if isinstance(cell, Figure):
        if cell.why and cell.why not in footnotes:
            footnotes.append(cell.why)
        return ShownCell(cell.text, cell.parts, best, footnotes.index(cell.why) + 1 if cell.why else 0)
    if isinstance(cell, str):
        cell = true_minus(cell)
        return ShownCell(cell or DASH, words=len(cell) > 24)
    return ShownCell(compact(cell))
