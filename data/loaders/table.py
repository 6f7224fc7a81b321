"""A team's own table as a log: split into train, valid and test, requests whole, with a drafted schema.json.

Two passes over the table, in blocks. The first finds what the columns are (table_profile.py, table_draft.py) and which
days there are; the second writes. Rows of a request may lie anywhere in the table: they are brought together in buckets
of whole requests (table_requests.py), and a request is in the part of its first row.
Shapes: R rows of a block.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from data.encode import one_chunk
from data.errors import UserError
from data.loaders.common import PARTS, hash_split, silent
from data.loaders.table_days import Days
from data.loaders.table_draft import Draft, draft, find_roles, id_columns
from data.loaders.table_files import RawTable, open_table
from data.loaders.table_moments import Moments
from data.loaders.table_profile import Column, profile
from data.loaders.table_repeats import WORTH, Repeats
from data.loaders.table_requests import whole_requests
from data.loaders.table_values import float_ids, label, mended
from data.sources import UTC, zone_of
from data.times import DAY_US, day, guessed_moments, microseconds
from data.write import PartFacts, PartWriter, new_log

SPLITS = ("auto", "time", "user", "request", "row")
FEWEST_KEYS, FEWEST_OUTCOMES = 30, 5
"""Users (requests) of a table, and clicks and conversions of a part, below which rows are dealt out one by one."""
TIME = "__time__"
"""Column of microseconds that a block has between reading and writing."""


@dataclass(frozen=True)
class TableOptions:
    """What is known of a table; columns' roles that are not given are found by their names."""

    split: str = "auto"
    """auto: by time where the table has enough days, else by user, else by request, else by row."""
    valid_days: int = 1
    """Last days but the test part's that are the valid part, of a split by time."""
    test_days: int = 1
    held_out: float = 0.1
    """Share of the users, requests or rows that is valid, and as much is test, of a split by those."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """{"click": ., "time": ., ...}, roles of table_draft.ROLES."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """{column: "categorical", "numeric" or "drop"} where the draft shall not judge."""
    text: tuple[str, ...] = ()
    """Columns that are text whatever they look like."""
    decimal: str = "."
    """Of a CSV: what stands before the digits of a fraction."""
    zone: str = ""
    """Time zone in which hours and weekdays are told; left out, that of the column of moments, else UTC."""
    seed: int = 0


@dataclass(frozen=True)
class Loaded:
    facts: dict[str, PartFacts]
    draft: Draft
    notes: list[str]


def load_table(source: str, out: str | Path, options: TableOptions, progress: Callable[[int], None] = silent) -> Loaded:
    """Read the table, write the log, say what each column has become.

    Raises UserError: what open_table raises, a column that is not there, a label that is neither 0 nor 1, a split that
    leaves a part empty.
    """
    table = open_table(source, options.text, options.decimal)
    roles = find_roles(table.types, options.columns)
    check_options(options, roles, table)
    days, moments, repeats = Days(), Moments(roles.get("time")), Repeats()
    columns = profile(first_pass(table, roles, options.split, days, moments, repeats, progress), table.types)
    rows = next(iter(columns.values())).rows
    if rows == 0:
        raise UserError(f"{source}: holds no rows")
    ids = float_ids(columns, id_columns(roles, options.kinds, columns))
    for one in ids:
        columns[one].type = pa.int64()
    for one in options.text:
        columns[one].texts = columns[one].texts[:0]  # text as told, whatever it looks like
    notes = [*table.notes, *repeated(repeats, rows, roles), *people(columns, roles)]
    if days.odd:
        if not days.count:
            days.refused = f"all days are such as {day(days.such)}"
            if options.split == "time":
                raise UserError(f"{source}: column {roles['time']!r}: {days.refused}; name the column with --time, or "
                                "take --split user")  # fmt: skip
        notes.append(days.note(roles["time"]))
    if options.split == "auto":
        options, why = chosen_split(options, roles, days, columns)
        notes += [why] if options.split != "time" else []
    by_time = options.split == "time"
    folders = {name for file in table.files for name in file.folders}
    name, zone = (
        Path(source.rstrip("/")).stem or "table",
        options.zone or own_zone(table.types.get(roles.get("time", ""))),
    )
    train_days = days.count - (options.valid_days + options.test_days if by_time else 0)
    found = draft(name, columns, roles, options.columns, options.kinds, folders, moments, zone, train_days)
    part_of = splitter(options, found.roles, found.schema.labels, days)
    notes += [days.parts(options.valid_days, options.test_days)] if by_time else []
    with new_log(out, found.schema) as directory, ExitStack() as stack:
        writers = [stack.enter_context(PartWriter(directory, part, found.schema)) for part in PARTS]
        infinite = [one.name for one in columns.values() if one.infinite and one.name not in ids]
        notes += [f"column {one!r}: {columns[one].infinite:,} infinite values were made missing" for one in infinite]
        blocks = (mended(block, ids, infinite) for block in second_pass(table, found, by_time))
        request = found.schema.request
        for piece, first_R in whole_requests(blocks, request, TIME, rows, directory):
            part_R = part_of(piece) if options.split == "row" else part_of(piece)[first_R]
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
            if rows < FEWEST_KEYS:
                raise UserError(f"{source}: {rows:,} row{'s' * (rows > 1)} cannot make three parts: bring more rows")
            raise UserError(too_few(empty[0], f"no rows of {rows:,}", options))
    poor = [(part, label) for part in PARTS for label in found.schema.labels if not getattr(facts[part], f"{label}s")]
    if poor:
        part, label = poor[0]
        total = sum(getattr(fact, f"{label}s") for fact in facts.values())
        few = f"{total} {label}s in {rows:,} rows are too few for three parts: bring more rows"
        clicks = "" if label == "click" else ", or train a model of clicks alone (--preset clicks)"
        notes.append(too_few(part, f"no {label}", options) if total >= len(PARTS) else few + clicks)
    if "conversion" not in found.roles:
        notes.append("no column is named like a conversion: name it with --conversion COLUMN, or train clicks alone "
                     "(--preset clicks)")  # fmt: skip
    dropped = sum(fact.dropped for fact in facts.values())
    if dropped:
        notes.append(f"{dropped:,} rows with a conversion and no click were left out: CVR is learnt after clicks")
    return Loaded(facts, found, notes)


def repeated(repeats: Repeats, rows: int, roles: Mapping[str, str]) -> Iterator[str]:
    """A line on rows that stand there again; without a moment or a request two alike may well be two."""
    if repeats.share >= WORTH and not {"time", "request"}.isdisjoint(roles):
        again = round(repeats.share * rows)
        yield f"some {again:,} of {rows:,} rows stand there again, alike in all columns: was a file copied, or joined?"


def people(columns: Mapping[str, Column], roles: Mapping[str, str]) -> Iterator[str]:
    """A line on rows without a user or a request."""
    means = {"user": "figures by user take them for one user", "request": "each is a request by itself"}
    for role, meaning in means.items():
        if role in roles and (missing := columns[roles[role]].missing):
            yield f"column {roles[role]!r}: {missing:,} rows have no {role}: {meaning}"


def own_zone(kind: pa.DataType | None) -> str:
    """The time zone that timestamps of this type are told in, if they say one by name."""
    try:
        return zone_of(getattr(kind, "tz", None) or UTC, "")
    except UserError:  # an offset such as +09:00
        return UTC


def check_options(options: TableOptions, roles: dict[str, str], table: RawTable) -> None:
    """Raise UserError for a split that this table cannot have, or a column that is not there."""
    for name, kind in options.kinds.items():
        if name not in table.types:
            raise UserError(f"--{kind} {name}: no such column; the table has {', '.join(table.types)}")
    if TIME in table.types:
        raise UserError(f"a column is called {TIME!r}, a name that is needed here: rename it")
    need = options.split
    if need == "row" and "request" in roles:
        raise UserError(f"--split row would tear the requests of {roles['request']!r} apart: take --split request")
    if need not in ("auto", "row") and need not in roles:
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


def chosen_split(
    options: TableOptions, roles: dict[str, str], days: Days, columns: dict[str, Column]
) -> tuple[TableOptions, str]:
    """The split that this table can have, and why, in one line."""
    asked = (options.valid_days, options.test_days) != (1, 1)
    if not days.refused and days.count and (asked or days.count > options.valid_days + options.test_days):
        return dataclasses.replace(options, split="time"), "split by time"
    why = days.refused or (f"{days.count} days are too few" if "time" in roles else "no column is a time")
    rarest = min(columns[roles[one]].there_and[one] for one in ("click", "conversion") if one in roles)
    for role in ("user", "request"):
        distinct = columns[roles[role]].distinct.count() if role in roles else 0
        if distinct >= FEWEST_KEYS and rarest * options.held_out >= FEWEST_OUTCOMES:
            return dataclasses.replace(options, split=role), f"split by {role}, as {why} (--split)"
        if role in roles:
            why += f", and {distinct:,} {role}s with {rarest:,} of the rarest outcome too few"
    return dataclasses.replace(options, split="row"), f"split by row, as {why} (--split)"


def too_few(part: str, what: str, options: TableOptions) -> str:
    """Advice in one line."""
    more = {"time": "more --valid-days and --test-days"}.get(
        options.split, f"more than --held-out {options.held_out:g}"
    )
    other = (
        "" if options.split in ("row", "request") else ", or --split " + ("user" if options.split == "time" else "row")
    )
    return f"part {part} has {what}, split by {options.split}: take {more}{other}"


def first_pass(
    table: RawTable,
    roles: dict[str, str],
    split: str,
    days: Days,
    moments: Moments,
    repeats: Repeats,
    progress: Callable[[int], None],
) -> Iterator[tuple[pa.Table, dict[str, np.ndarray]]]:
    taken = {name for role, name in roles.items() if role != "time"}
    names = moments.candidates(table.types, taken)
    start, last = 0, ""
    for block, path in table.blocks():
        start, last = (start if path == last else 0), path
        moments.add(block, names)
        repeats.add(block)
        if split == "time" or (split == "auto" and "time" in roles and not days.refused):
            try:
                days.add(microseconds(block, roles["time"], path))
            except UserError as error:
                if split == "time":
                    raise
                days.refused = str(error).removeprefix(f"{path}: ")
        yield block, {role: label(block, roles, role, path, start) for role in ("click", "conversion") if role in roles}
        start += block.num_rows
        progress(0)


def second_pass(table: RawTable, found: Draft, by_time: bool) -> Iterator[pa.Table]:
    """The rows as the log has them: labels 0 and 1, an id of every row, and for the split their moments."""
    start = 0
    for block, path in table.blocks():
        for role in found.schema.labels:
            place = block.column_names.index(found.roles[role])
            label_R = label(block, found.roles, role, path).astype(np.int8)
            block = block.set_column(place, found.roles[role], pa.array(label_R))
        if found.schema.conversion_time:
            block = with_conversion_time(block, found.schema.labels["conversion"], found.schema.conversion_time, path)
        if found.numbered:
            block = block.append_column(found.numbered, pa.array(np.arange(start, start + block.num_rows)))
        if by_time:
            block = block.append_column(TIME, pa.array(microseconds(block, found.roles["time"], path)))
        start += block.num_rows
        yield block


def with_conversion_time(block: pa.Table, conversion: str, name: str, path: str) -> pa.Table:
    """The moments of conversions as timestamps, none where there is no conversion."""
    moment_R, missing_R = guessed_moments(one_chunk(block, name), name, path)
    absent_R = missing_R | (block.column(conversion).to_numpy() == 0)
    moment = pa.array(moment_R, mask=absent_R).cast(pa.timestamp("us"))
    return block.set_column(block.column_names.index(name), name, moment)


def contradicts(table: pa.Table, labels: Mapping[str, str]) -> np.ndarray:
    """bool_R: a conversion without a click."""
    if "conversion" not in labels:
        return np.zeros(table.num_rows, bool)
    click_R, conversion_R = (table.column(labels[role]).to_numpy() for role in ("click", "conversion"))
    return (conversion_R == 1) & (click_R == 0)


def splitter(
    options: TableOptions, roles: dict[str, str], labels: Mapping[str, str], days: Days
) -> Callable[[pa.Table], np.ndarray]:
    """What gives each row's index in PARTS."""
    if options.split == "row":
        return DealtRows(options.held_out, labels, options.seed)
    if options.split != "time":
        share = options.held_out
        shares = {"train": 1 - 2 * share, "valid": share, "test": share}
        return lambda table: hash_split(one_chunk(table, roles[options.split]), shares, options.seed)
    edges = np.array(days.begins(options.valid_days, options.test_days)) * DAY_US
    return lambda table: np.searchsorted(edges, table.column(TIME).to_numpy(), side="right")


class DealtRows:
    """Rows dealt out by themselves, those of each outcome in the same shares: a few conversions reach all parts.

    The first three rows of an outcome go to one part each, the others by the multiples of the golden ratio, which fill
    the shares evenly from whatever row on.
    """

    def __init__(self, share: float, labels: Mapping[str, str], seed: int) -> None:
        self.labels, self.dealt = list(labels.values()), dict[int, int]()
        self.ends = np.array([1 - 2 * share, 1 - share])
        self.begin = np.random.default_rng(seed).random()

    def __call__(self, table: pa.Table) -> np.ndarray:
        outcome_R = sum(table.column(name).to_numpy().astype(np.int64) << n for n, name in enumerate(self.labels))
        part_R = np.empty(table.num_rows, np.int64)
        for outcome in np.unique(outcome_R):
            place_R = np.flatnonzero(outcome_R == outcome)
            number_R = self.dealt.get(int(outcome), 0) + np.arange(len(place_R))
            self.dealt[int(outcome)] = int(number_R[-1]) + 1
            uniform_R = (self.begin + number_R * 0.6180339887498949) % 1.0
            spread_R = np.searchsorted(self.ends, uniform_R, side="right")
            first_R = (number_R - 2 * (outcome == 1)) % len(PARTS)  # clicks alone the other way round
            part_R[place_R] = np.where(number_R < len(PARTS), first_R, spread_R)
        return part_R
