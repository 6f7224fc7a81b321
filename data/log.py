"""Reading a log: DIR/schema.json, DIR/{train,valid,test}/*.parquet, DIR/truth/{part}/*.parquet.

The files of a part may lie in folders (data/listing.py) and be of several writers' types (data/kinds.py).

DIR is a local path or a URI (see data/filesystems.py).
Opening reads the footers only. Rows come one row group at a time, so memory is flat in the size of the log.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from data.columns import FileColumns, Kind, check_columns, common_types, one_kind, whole_columns
from data.credentials import shown
from data.derive import with_derived
from data.errors import UserError
from data.filesystems import UNREADABLE, first_line, reading, resolve
from data.kinds import as_read, cast_table
from data.listing import parquet_files
from data.schema import SCHEMA_FILE, Schema
from data.truth import Truth, truth_from_tables

TRUTH = "truth"
FOOTER_THREADS = 16


@dataclass(frozen=True)
class PartFile:
    """One parquet file: its path in the log's filesystem and the rows of each of its row groups."""

    path: str
    row_groups: tuple[int, ...]
    absent: tuple[str, ...] = ()
    """Columns of features that the file does not have: missing in all its rows."""

    @property
    def rows(self) -> int:
        return sum(self.row_groups)


@dataclass(frozen=True)
class Part:
    """A split of the log ("train", "valid", "test"): its files in the order of their paths."""

    name: str
    files: tuple[PartFile, ...]
    kinds: Mapping[str, Kind] = field(default_factory=dict, compare=False)
    """What the ids of a column are, in all files."""
    types: Mapping[str, pa.DataType] = field(default_factory=dict, compare=False)
    """A type that a column of any file fits into."""

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def row_groups(self) -> Iterator[tuple[PartFile, int]]:
        for file in self.files:
            for index in range(len(file.row_groups)):
                yield file, index


@dataclass(frozen=True)
class Log:
    """An opened log. `root` is a path inside `filesystem`; `location` is what the user gave, for messages."""

    location: str
    schema: Schema
    filesystem: Any
    root: str

    def part_names(self) -> list[str]:
        found = self.filesystem.get_file_info(pafs.FileSelector(self.root))
        names = [info.base_name for info in found if info.type == pafs.FileType.Directory]
        return sorted(name for name in names if name != TRUTH and not name.startswith((".", "_")))

    def part(self, name: str) -> Part:
        """List a split and check every file's footer against the schema, reading no rows.

        Raises UserError: no such split, no rows, a file that is not whole, a column absent, there twice or of a wrong
        type, ids that are integers in one file and text in another, or not what the schema's model was trained on.
        """
        paths = parquet_files(self.filesystem, f"{self.root}/{name}")
        if paths is None:
            raise UserError(
                f"{shown(self.location)}: no part {name!r} (parts here: {', '.join(self.part_names()) or 'none'})"
            )
        if not paths:
            raise UserError(f"{shown(self.location)}/{name}: holds no parquet files")

        def inspect(path: str) -> tuple[PartFile, FileColumns | None]:
            with open_parquet(self.filesystem, path) as file:
                footer, columns = file.metadata, None
                if footer.num_rows:  # what an empty file says of its types is no one's word
                    columns = check_columns(self.schema, footer_schema(file, path), path)
                groups = tuple(footer.row_group(g).num_rows for g in range(footer.num_row_groups))
                return PartFile(path, groups, columns.absent if columns else ()), columns

        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            found = list(pool.map(inspect, paths))
        columns = [entry for _, entry in found if entry is not None]
        if not columns:
            raise UserError(f"{shown(self.location)}/{name}: the parquet files hold no rows")
        whole_columns(columns)
        kinds = one_kind(self.schema, columns)
        return Part(name, tuple(file for file, _ in found), kinds, common_types(self.schema, columns))

    def read_row_group(self, file: PartFile, index: int, columns: list[str] | None = None) -> pa.Table:
        """Read one row group, its columns in the few types of kinds.read_type; `columns` are the schema's training
        columns unless given. Those that the schema makes of others are made here.

        Raises UserError naming the file if its pages cannot be decoded or fail their checksums.
        """
        names, schema = list(self.schema.columns if columns is None else columns), self.schema
        raw = schema.raw(names)
        floats = [name for name in (*schema.raw(schema.numeric), schema.weight, schema.value, schema.reward) if name]
        with open_parquet(self.filesystem, file.path) as source:
            there = source.schema_arrow.names
            present = [name for name in raw if name not in file.absent]
            for name in present:
                if there.count(name) != 1:
                    has = f"{there.count(name)} columns named" if name in there else "no column"
                    raise UserError(f"{file.path}: {has} {name!r}")
            try:
                found = source.read_row_group(index, columns=present).select(present)
            except UNREADABLE as error:
                raise UserError(f"{file.path}: row group {index} cannot be read ({first_line(error)})") from None
        if file.absent:
            columns_of = dict(zip(present, found.columns, strict=True))
            nothing = pa.nulls(file.row_groups[index])
            found = pa.table([columns_of.get(name, nothing) for name in raw], names=raw)
        table = as_read(found, file.path, floats)
        if raw == names and not any(name in schema.sources for name in names):
            return table
        return with_derived(table, names, schema.sources, schema.boundaries, file.path)

    def lacking(self, name: str) -> tuple[str, ...]:
        """Features that no file of a part has the columns of. A log that has grown has them in later parts."""
        there: set[str] = set()
        for path in parquet_files(self.filesystem, f"{self.root}/{name}") or ():
            with open_parquet(self.filesystem, path) as file:
                there.update(footer_schema(file, path).names)
        raw = self.schema.raw
        return tuple(name for name in self.schema.features if there and not there.issuperset(raw([name])))

    def least(self, file: PartFile, name: str) -> dict[int, float]:
        """The least value of a numeric column by row group, of those whose footer says it."""
        found: dict[int, float] = {}
        if name in file.absent:
            return dict.fromkeys(range(len(file.row_groups)), 0.0)
        with open_parquet(self.filesystem, file.path) as source:
            place = source.metadata.schema.names.index(name) if name in source.metadata.schema.names else None
            for index in range(len(file.row_groups)) if place is not None else ():
                known = source.metadata.row_group(index).column(place).statistics
                if known is not None and known.has_min_max and isinstance(known.min, int | float | Decimal):
                    found[index] = float(known.min)
        return found

    def read(self, part: Part, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The row groups of a part, one after the other, in types that can be joined to one table."""
        for file, index in part.row_groups():
            yield cast_table(self.read_row_group(file, index, columns), part.types, file.path)

    def has_truth(self, part: Part | str) -> bool:
        name = part if isinstance(part, str) else part.name
        return self.schema.truth is not None and bool(parquet_files(self.filesystem, f"{self.root}/{TRUTH}/{name}"))

    def truth(self, part: Part | str) -> Truth:
        """Read the truth of a part into memory, sorted by key (17 bytes a row).

        Raises UserError: no truth for this part, a column absent, a key twice, an outcome outside {0, 1}.
        """
        name = part if isinstance(part, str) else part.name
        if self.schema.truth is None or not self.has_truth(name):
            raise UserError(f"{shown(self.location)}: holds no truth for part {name!r}")
        columns = [column for column in self.schema.truth.to_dict().values() if column]
        tables = []
        for path in parquet_files(self.filesystem, f"{self.root}/{TRUTH}/{name}") or ():
            with open_parquet(self.filesystem, path) as file:
                there = footer_schema(file, path).names
                absent = [column for column in columns if column not in there]
                if twice := [column for column in columns if there.count(column) > 1]:
                    raise UserError(f"{path}: has {there.count(twice[0])} columns named {twice[0]!r}")
                if absent:
                    raise UserError(f"{path}: no column {absent[0]!r}, which {SCHEMA_FILE} names under 'truth'")
                try:
                    tables.append(file.read(columns=columns))
                except UNREADABLE as error:
                    raise UserError(f"{path}: cannot be read ({first_line(error)})") from None
        return truth_from_tables(tables, self.schema.truth, f"{shown(self.location)}/{TRUTH}/{name}")


def grown_columns(parts: Mapping[str, Part]) -> Iterator[str]:
    """A line for each column that a part has from some file on."""
    for part in parts.values():
        for name in dict.fromkeys(name for file in part.files for name in file.absent):
            without = [file for file in part.files if name in file.absent]
            rows = sum(file.rows for file in without)
            yield (
                f"column {name!r} is not in {len(without)} of {len(part.files)} files of {part.name}, up to "
                f"{without[-1].path}: missing in their {rows:,} rows"
            )


def open_log(location: str | Path) -> Log:
    """Open a log directory by path or URI and read its schema.json; no parquet file is touched.

    Raises UserError in one line: no such directory or bucket, no way to reach it, no schema there or a broken one.
    """
    location = str(location)
    filesystem, root = resolve(location)
    place = shown(location).rstrip("/") or "/"
    where = f"{place}/{SCHEMA_FILE}"
    with reading(place):
        info = filesystem.get_file_info(root)
        if info.type == pafs.FileType.NotFound:
            raise UserError(f"{place}: no such directory{' or bucket' if '://' in location else ''}")
        if info.type == pafs.FileType.File:
            raise UserError(f"{place}: is a file; a log is a directory with a {SCHEMA_FILE}")
        try:
            with filesystem.open_input_file(f"{root}/{SCHEMA_FILE}") as file:
                text = file.read()
        except FileNotFoundError:
            raise UserError(f"{where}: no such file; a log directory needs a {SCHEMA_FILE}") from None
    return Log(location, Schema.from_json(text, where), filesystem, root)


def open_parquet(filesystem: Any, path: str) -> Any:
    # Over a network a row group's columns are fetched together, not one request after the other.
    remote = not isinstance(filesystem, pafs.LocalFileSystem)
    try:
        return pq.ParquetFile(path, filesystem=filesystem, page_checksum_verification=True, pre_buffer=remote)
    except UNREADABLE as error:  # names in a damaged footer
        raise UserError(f"{path}: not a whole parquet file ({first_line(error)})") from None


def footer_schema(file: Any, path: str) -> pa.Schema:
    try:
        return file.schema_arrow
    except UNREADABLE as error:
        raise UserError(f"{path}: its columns cannot be read ({first_line(error)})") from None
