"""Rows that nobody saw: in a log of all stages they are candidates, for a model of clicks they are no exposures."""

from collections.abc import Iterator

from data.kinds import number
from data.log import Log, Part, footer_schema, open_parquet
from data.reading import ordered_tables

SHOWN = "realshow"
"""The flag of a log of stages: 1 where the user looked at the item (docs/prerank.md)."""


def unseen_warnings(log: Log, part: Part) -> Iterator[str]:
    """A line if rows of the part are flagged as not shown. They are labelled "not clicked", which nobody decided."""
    for file in part.files:
        with open_parquet(log.filesystem, file.path) as source:
            if SHOWN not in footer_schema(source, file.path).names:
                return
    unseen = sum(int((number(table, SHOWN) == 0).sum()) for table in ordered_tables(log, part, [SHOWN]))
    if unseen:
        yield (
            f"a log of stages: {unseen:,} of {part.rows:,} rows of {part.name} were never shown ({SHOWN!r} is 0), and "
            f"count as not clicked here; keep the rows with {SHOWN!r} 1, or train --problem prerank on all"
        )
