"""Columns of a log cut into a few slices, so that each has figures of its own: `--by COLUMN`.

    numbers       fifths by rows (fewer where values repeat); whole numbers of at most 12 values: a slice a value
    strings       a slice for each of the 11 commonest values, one for all the others
    @activity     fifths of the rows by how many exposures their user has in the part

A column is one of the files, or a feature that the schema makes of them (an hour, an age). The slices are decided
before anything is scored, from the column alone. Shapes: R rows, S slices.
"""

import itertools
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from data.encode import one_chunk
from data.errors import UserError
from data.kinds import TEXT, id_kind, is_list, is_number
from data.log import Log, Part, open_parquet
from data.reading import ordered_tables

ACTIVITY = "@activity"
MOST = 12
PARTS = 5
SAMPLE = 2_000_000
DISTINCT = 200_000
MISSING, OTHER = "missing", "other"


@dataclass(frozen=True)
class Slicing:
    """How one column becomes slice numbers. Rows whose value is missing form a slice of their own, the last."""

    column: str
    labels: tuple[str, ...]
    """What the slices are called, by number."""
    edges: tuple[float, ...] | tuple[int, ...] = ()
    """Numbers: slice s holds edges[s-1] < value <= edges[s]; the last edge is left out."""
    values: tuple[object, ...] = ()
    """Values: slice s holds values[s]; the others come after them."""

    def codes(self, table: pa.Table) -> np.ndarray:
        """int16_R: the slice of every row of a table that holds the column."""
        column = plain(one_chunk(table, self.column))
        missing_R = column.is_null().to_numpy(zero_copy_only=False)
        if missing_R.all():
            return np.full(len(column), len(self.labels) - 1, np.int16)
        if self.values:
            found = pc.index_in(column, pa.array(self.values, column.type))
            codes_R = found.fill_null(len(self.values)).to_numpy().astype(np.int16)
        else:
            edges, values_R = np.array(self.edges), column.fill_null(0).to_numpy()
            if edges.dtype.kind == "f":
                values_R = values_R.astype(np.float64)
            missing_R = missing_R | np.isnan(values_R)
            codes_R = np.searchsorted(edges, values_R, side="left").astype(np.int16)
        codes_R[missing_R] = len(self.labels) - 1
        return codes_R


def plan_slices(log: Log, part: Part, columns: list[str]) -> list[Slicing]:
    """Read each column (numbers: up to 2 million rows, spread evenly) and decide its slices.

    Raises UserError: an unknown column, one that is not of numbers, booleans or strings, one given twice.
    """
    if len(set(columns)) < len(columns):
        raise UserError(f"--by names {next(name for name in columns if columns.count(name) > 1)!r} twice")
    return [plan(log, part, name) for name in columns]


def plan(log: Log, part: Part, name: str) -> Slicing:
    check_type(log, part, name)
    counts: Counter[object] = Counter()
    numbers: list[np.ndarray] = []
    floating, stride = False, max(1, round(part.rows / SAMPLE))
    for table in ordered_tables(log, part, [name]):
        column = plain(one_chunk(table, name))
        if column.null_count == len(column):
            continue
        floating = floating or pat.is_floating(column.type)
        if not pat.is_large_string(column.type):
            values_R = column.drop_null().to_numpy()
            numbers.append(values_R[~np.isnan(values_R)][::stride])
        if not pat.is_floating(column.type) and len(counts) <= DISTINCT:
            found = column.drop_null().value_counts()
            counts.update(dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)))
    if numbers and (floating or not counts or len(counts) > MOST):
        return by_quantiles(name, np.concatenate(numbers))
    if len(counts) > DISTINCT:
        raise UserError(f"--by {name}: more than {DISTINCT:,} different values; cut it into fewer, or use {ACTIVITY}")
    return by_values(name, counts)


def by_quantiles(name: str, values_R: np.ndarray) -> Slicing:
    """Equal shares of the rows; edges that coincide become one."""
    if not len(values_R):
        return Slicing(name, (MISSING,))
    place = np.ceil(np.arange(1, PARTS) / PARTS * len(values_R)).astype(int) - 1
    edges = np.unique(np.sort(values_R)[place])  # which whole numbers of 64 bits are themselves
    edges = edges[edges < values_R.max()]
    texts = [f"{edge:,.4g}" for edge in edges]
    if len(set(texts)) < len(texts):  # numbers of many digits: ids
        parts = (f"part {number} of {len(edges) + 1}" for number in range(1, len(edges) + 2))
        return Slicing(name, (*parts, MISSING), tuple(edges.tolist()))
    if not texts:
        return Slicing(name, ("all", MISSING), ())
    middle = [f"{low} to {high}" for low, high in itertools.pairwise(texts)]
    return Slicing(name, (f"≤ {texts[0]}", *middle, f"> {texts[-1]}", MISSING), tuple(edges.tolist()))


def by_values(name: str, counts: "Counter[object]") -> Slicing:
    common = [value for value, _ in sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))]
    kept = common if len(common) <= MOST else common[: MOST - 1]
    if kept and not isinstance(kept[0], str):
        kept = sorted(kept)  # type: ignore[type-var]
    others = (OTHER,) if len(common) > len(kept) else ()
    return Slicing(name, (*map(str, kept), *others, MISSING), (), tuple(kept))


def activity_edges(rows_by_count: np.ndarray) -> np.ndarray:
    """Edges that cut the rows in fifths by their user's number of exposures; rows_by_count[n] = rows of such users."""
    share = np.cumsum(rows_by_count) / max(rows_by_count.sum(), 1)
    edges = np.unique(np.searchsorted(share, np.arange(1, PARTS) / PARTS - 1e-12))
    return edges[edges < np.flatnonzero(rows_by_count).max(initial=0)]


def activity_labels(edges: np.ndarray, what: str = "exposures") -> tuple[str, ...]:
    if not len(edges):
        return (f"all {what}",)
    pairs = itertools.pairwise(edges.tolist())
    middle = [f"{low + 1} to {high} {what}" if high > low + 1 else f"{high} {what}" for low, high in pairs]
    return (f"≤ {edges[0]} {what}", *middle, f"> {edges[-1]} {what}")


def plain(column: pa.Array) -> pa.Array:
    """Booleans and whole numbers as 64 bits, other numbers as float64, strings and dictionaries as large strings or
    numbers: the same whichever file the rows come from."""
    if pat.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pat.is_boolean(column.type):
        column = column.cast(pa.int8())
    if pat.is_floating(column.type):
        return column.cast(pa.float64())
    if pat.is_integer(column.type):
        return column if pat.is_uint64(column.type) else column.cast(pa.int64())
    return column.cast(pa.large_string())


def check_type(log: Log, part: Part, name: str, option: str = "--by") -> None:
    """By the footers. Raises UserError: no such column in one of the files, or of no type that slices are made of, or
    numbers in one file and text in another. A feature that the schema makes of other columns is checked already."""
    before, made = None, log.schema.sources
    if name in made:
        if is_list(part.types[name]):
            raise UserError(f"{option} {name}: a column of {part.types[name]}; want numbers, booleans or strings")
        return
    for file in part.files:
        if not file.rows:
            continue
        with open_parquet(log.filesystem, file.path) as source:
            found = source.schema_arrow
        if name in file.absent:  # a column that the log has gained later
            continue
        if found.names.count(name) != 1:
            if file == part.files[0] and name not in found.names:
                there = ", ".join([*found.names, *(one for one in made if one not in found.names)])
                activity = f"; or {ACTIVITY}" if option == "--by" else ""
                raise UserError(f"{option} {name}: no such column; the log has {there}{activity}")
            raise UserError(f"{option} {name}: {found.names.count(name) or 'no'} columns of that name in {file.path}")
        kind = found.field(name).type
        if is_list(kind) or not (is_number(kind) or id_kind(kind)):
            raise UserError(f"{option} {name}: a column of {kind} in {file.path}; want numbers, booleans or strings")
        if pat.is_null(kind):
            continue
        if before is not None and (id_kind(kind) == TEXT) != before[0]:
            here, there = ("text", "numbers") if not before[0] else ("numbers", "text")
            raise UserError(f"{option} {name}: {here} in {file.path}, but {there} in {before[1]}")
        before = before or (id_kind(kind) == TEXT, file.path)
