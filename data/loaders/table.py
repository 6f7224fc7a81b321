"""A team's own table as a log: split into train, valid and test, requests whole, with a drafted schema.json.

Two passes over the table, in blocks. The first finds what the columns are (table_profile.py, table_draft.py) and which
days there are; the second writes. Rows of a request may lie anywhere in the table: they are brought together in buckets
of whole requests (table_requests.py), and a request is in the part of its first row.
Shapes: R rows of a block.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from data.encode import one_chunk
from data.errors import UserError
from data.kinds import number
from data.loaders.common import PARTS, hash_split, silent
from data.loaders.table_draft import Draft, draft, find_roles
from data.loaders.table_files import RawTable, open_table
from data.loaders.table_profile import profile
from data.loaders.table_requests import whole_requests
from data.times import DAY_US, day, microseconds
from data.write import PartFacts, PartWriter, new_log

SPLITS = ("time", "user", "request")
TIME = "__time__"
"""Column of microseconds that a block has between reading and writing."""


@dataclass(frozen=True)
class TableOptions:
    """What is known of a table; columns' roles that are not given are found by their names."""

    split: str = "time"
    valid_days: int = 1
    """Last days but the test part's that are the valid part, of a split by time."""
    test_days: int = 1
    held_out: float = 0.1
    """Share of the users or requests that is valid, and as much is test, of a split by those."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """{"click": ., "time": ., ...}, roles of table_draft.ROLES."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """{column: "categorical", "numeric" or "drop"} where the draft shall not judge."""
    text: tuple[str, ...] = ()
    """Columns that are text whatever they look like."""
    seed: int = 0


@dataclass(frozen=True)
class Loaded:
    facts: dict[str, PartFacts]
    draft: Draft
    notes: list[str]


@dataclass
class Days:
    """First and last day of a table, days since 1970 (UTC)."""

    first: int = 2**62
    last: int = -(2**62)

    def add(self, moment_R: np.ndarray) -> None:
        if len(moment_R):
            self.first = min(self.first, int(moment_R.min() // DAY_US))
            self.last = max(self.last, int(moment_R.max() // DAY_US))


def load_table(source: str, out: str | Path, options: TableOptions, progress: Callable[[int], None] = silent) -> Loaded:
    """Read the table, write the log, say what each column has become.

    Raises UserError: what open_table raises, a column that is not there, a label that is neither 0 nor 1, a split that
    leaves a part empty.
    """
    table = open_table(source, options.text)
    roles = find_roles(table.types, options.columns)
    check_options(options, roles, table)
    days = Days()
    columns = profile(first_pass(table, roles, options.split == "time", days, progress), table.types)
    rows = next(iter(columns.values())).rows
    if rows == 0:
        raise UserError(f"{source}: holds no rows")
    folders = {name for file in table.files for name in file.folders}
    found = draft(Path(source.rstrip("/")).stem or "table", columns, roles, options.columns, options.kinds, folders)
    part_of = splitter(options, found.roles, days)
    notes = [days_note(days, options)] if options.split == "time" else []
    with new_log(out, found.schema) as directory, ExitStack() as stack:
        writers = [stack.enter_context(PartWriter(directory, part, found.schema)) for part in PARTS]
        blocks = second_pass(table, found, options.split == "time")
        request = found.schema.request
        for piece, first_R in whole_requests(blocks, request, TIME, rows, directory):
            part_R = part_of(piece)[first_R]
            impossible_R = contradicts(piece, found.schema.labels)
            piece = piece.drop_columns([TIME]) if TIME in piece.column_names else piece
            for index, writer in enumerate(writers):
                here_R = part_R == index
                writer.facts.dropped += int((here_R & impossible_R).sum())
                writer.write(piece.filter(pa.array(here_R & ~impossible_R)))
            progress(piece.num_rows)
        facts = {part: writer.close() for part, writer in zip(PARTS, writers, strict=True)}
        empty = [part for part in PARTS if facts[part].rows == 0]
        if empty:
            raise UserError(
                f"no rows for part {empty[0]!r} of {rows:,} rows split by {options.split}: choose another split"
            )
    dropped = sum(fact.dropped for fact in facts.values())
    if dropped:
        notes.append(f"{dropped:,} rows with a conversion and no click were left out: CVR is learnt after clicks")
    return Loaded(facts, found, notes)


def check_options(options: TableOptions, roles: dict[str, str], table: RawTable) -> None:
    """Raise UserError for a split that this table cannot have, or a column that is not there."""
    for name, kind in options.kinds.items():
        if name not in table.types:
            raise UserError(f"--{kind} {name}: no such column; the table has {', '.join(table.types)}")
    need = {"time": "time", "user": "user", "request": "request"}[options.split]
    if need not in roles:
        raise UserError(
            f"--split {options.split} needs the column of the {need}: name it with --{need} COLUMN; the table has "
            f"{', '.join(table.types)}"
        )
    if min(options.valid_days, options.test_days) < 1:
        raise UserError(f"--valid-days {options.valid_days} --test-days {options.test_days}: want at least 1 of each")
    if not 0 < options.held_out < 0.5:
        raise UserError(
            f"--held-out {options.held_out:g}: the share of each of valid and test is above 0 and below 0.5"
        )


def first_pass(
    table: RawTable, roles: dict[str, str], by_time: bool, days: Days, progress: Callable[[int], None]
) -> Iterator[tuple[pa.Table, dict[str, np.ndarray]]]:
    for block, path in table.blocks():
        if by_time:
            days.add(microseconds(block, roles["time"], path))
        yield block, {role: label(block, roles, role, path) for role in ("click", "conversion") if role in roles}
        progress(0)


def second_pass(table: RawTable, found: Draft, by_time: bool) -> Iterator[pa.Table]:
    """The rows as the log has them: labels 0 and 1, an id of every row, and for the split their moments."""
    start = 0
    for block, path in table.blocks():
        for role in found.schema.labels:
            place = block.column_names.index(found.roles[role])
            label_R = label(block, found.roles, role, path).astype(np.int8)
            block = block.set_column(place, found.roles[role], pa.array(label_R))
        if found.numbered:
            block = block.append_column(found.numbered, pa.array(np.arange(start, start + block.num_rows)))
        if by_time:
            block = block.append_column(TIME, pa.array(microseconds(block, found.roles["time"], path)))
        start += block.num_rows
        yield block


def label(table: pa.Table, roles: dict[str, str], role: str, path: str) -> np.ndarray:
    """bool_R of 0 and 1 in integers, floats, booleans or text; a missing conversion is 0 where there was no click.

    Raises UserError naming file, column and value for anything else.
    """
    name = roles[role]
    column = one_chunk(table, name)
    try:
        values_R = number(
            pa.table({name: column.cast(pa.float64()) if pa.types.is_string(column.type) else column}), name
        )
    except pa.ArrowException:
        raise UserError(f"{path}: column {name!r} is of type {column.type}; a label is 0 or 1") from None
    missing_R = np.isnan(values_R)
    if role == "conversion" and missing_R.any():
        values_R = np.where(missing_R & ~label(table, roles, "click", path), 0, values_R)
    wrong = np.flatnonzero((values_R != 0) & (values_R != 1))
    if len(wrong):
        value = column[int(wrong[0])].as_py()
        raise UserError(f"{path}: column {name!r} is {value!r}, which is no {role} label: want 0 or 1")
    return values_R == 1


def contradicts(table: pa.Table, labels: Mapping[str, str]) -> np.ndarray:
    """bool_R: a conversion without a click."""
    if "conversion" not in labels:
        return np.zeros(table.num_rows, bool)
    click_R, conversion_R = (table.column(labels[role]).to_numpy() for role in ("click", "conversion"))
    return (conversion_R == 1) & (click_R == 0)


def splitter(options: TableOptions, roles: dict[str, str], days: Days) -> Callable[[pa.Table], np.ndarray]:
    """What gives each row's index in PARTS."""
    if options.split != "time":
        share = options.held_out
        shares = {"train": 1 - 2 * share, "valid": share, "test": share}
        return lambda table: hash_split(one_chunk(table, roles[options.split]), shares, options.seed)
    test = days.last - options.test_days + 1
    valid = test - options.valid_days
    if valid <= days.first:
        raise UserError(
            f"the table has {days.last - days.first + 1} days ({day(days.first)} to {day(days.last)}): with "
            f"{options.valid_days} of valid and {options.test_days} of test none is left for train; take fewer, or "
            "--split user"
        )
    edges = np.array([valid, test]) * DAY_US
    return lambda table: np.searchsorted(edges, table.column(TIME).to_numpy(), side="right")


def days_note(days: Days, options: TableOptions) -> str:
    test = days.last - options.test_days + 1
    valid = test - options.valid_days
    return (
        f"train to {day(valid - 1)}, valid from {day(valid)}, test from {day(test)} to {day(days.last)} (days in UTC)"
    )
