"""A table of a system (funnel/panels.py) on the console, or in the result of a Python call."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich import box
from rich.table import Table as RichTable

from funnel.numbers import true_minus
from funnel.panels import Cell, Table
from jobs.command.console import Console
from jobs.command.output import WIDE

_kept: ContextVar[list[Table] | None] = ContextVar("kept", default=None)


@contextmanager
def kept_tables() -> Iterator[list[Table]]:
    """Tables that are printed inside come into this list, and are not printed."""
    tables: list[Table] = []
    token = _kept.set(tables)
    try:
        yield tables
    finally:
        _kept.reset(token)


def print_table(console: Console, table: Table) -> None:
    kept = _kept.get()
    if kept is not None:
        kept.append(table)
    else:
        show(console, table)


def show(console: Console, table: Table) -> None:
    console.print(drawn(table))
    if table.note:
        console.print(true_minus(table.note), soft_wrap=True, highlight=False)


def drawn(table: Table) -> RichTable:
    several = any(isinstance(value, str) and "\n" in value for row in table.rows for value in row)
    shown = RichTable(title=table.title, title_style="", box=box.HEAVY_HEAD, show_lines=several)
    for index, column in enumerate(table.columns):
        numbers = all(isinstance(row[index], int | float | None) for row in table.rows)
        shown.add_column(column, justify="right" if numbers else "left")
    for row in table.rows:
        shown.add_row(*(cell(value) for value in row))
    return shown


def as_text(table: Table) -> str:
    """As it is printed, without a terminal's control characters."""
    console = Console(width=WIDE, no_color=True, file=io.StringIO())
    show(console, table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip()


def cell(value: Cell) -> str:
    """Whole numbers with separators, others to five significant digits, "-" for what is absent."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return true_minus(f"{value:.5g}")
    return true_minus(f"{value:,}" if isinstance(value, int) else str(value))
