"""A table of a system (funnel/panels.py) on the console."""

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from funnel.numbers import true_minus
from funnel.panels import Cell, Table


def print_table(console: Console, table: Table) -> None:
    several = any(isinstance(value, str) and "\n" in value for row in table.rows for value in row)
    drawn = RichTable(title=table.title, title_style="", box=box.HEAVY_HEAD, show_lines=several)
    for index, column in enumerate(table.columns):
        numbers = all(isinstance(row[index], int | float | None) for row in table.rows)
        drawn.add_column(column, justify="right" if numbers else "left")
    for row in table.rows:
        drawn.add_row(*(cell(value) for value in row))
    console.print(drawn)
    if table.note:
        console.print(true_minus(table.note), soft_wrap=True, highlight=False)


def cell(value: Cell) -> str:
    """Whole numbers with separators, others to five significant digits, "-" for what is absent."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return true_minus(f"{value:.5g}")
    return true_minus(f"{value:,}" if isinstance(value, int) else str(value))
