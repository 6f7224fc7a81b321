"""A team's own table as it lies: one file or a folder of them, Parquet or CSV, flat or partitioned by day.

    RAW.csv    'RAW/part-*.csv.gz'    RAW/*.parquet    RAW/dt=2026-01-01/part-0.parquet    s3://bucket/RAW

A folder's name such as dt=2026-01-01 is a column of all rows below it, as Hive and Spark write them. The types of a
column are those of all files together. Rows come in blocks: memory is flat in the size of the table.
"""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from data.errors import UserError
from data.filesystems import reading, resolve, shown
from data.kinds import cast_table, common_type, is_list, read_type
from data.listing import is_hidden, local_files
from data.loaders.table_csv import is_csv, not_readable, open_csv

PARQUET = (".parquet", ".parq", ".pq")
BLOCK_ROWS = 131_072


@dataclass(frozen=True)
class TableFile:
    path: str
    folders: dict[str, str] = field(default_factory=dict)
    """Values that the folders' names give, {"dt": "2026-01-01"}."""


@dataclass(frozen=True)
class RawTable:
    """An opened table: files in the order of their paths, one type a column."""

    location: str
    filesystem: Any
    files: tuple[TableFile, ...]
    types: dict[str, pa.DataType]
    decimal: str = "."
    """Of a CSV: what stands before the digits of a fraction."""
    notes: tuple[str, ...] = ()
    """Lines on what a user might not expect of it."""

    def blocks(self, columns: list[str] | None = None) -> Iterator[tuple[pa.Table, str]]:
        """(rows, path of their file), in order. Raises UserError naming the file where they cannot be read."""
        names = list(self.types) if columns is None else columns
        for file in self.files:
            own = [name for name in names if name not in file.folders]
            for table in self._read(file, own):
                for name in names:
                    if name in file.folders:
                        kind = self.types[name]
                        value = int(file.folders[name]) if pa.types.is_integer(kind) else file.folders[name]
                        table = table.append_column(name, pa.repeat(pa.scalar(value, kind), table.num_rows))
                yield table.select(names), file.path

    def _read(self, file: TableFile, names: list[str]) -> Iterator[pa.Table]:
        types = {name: self.types[name] for name in names}
        try:
            if is_csv(file.path):
                options = pacsv.ConvertOptions(
                    column_types=types, include_columns=names, include_missing_columns=True, strings_can_be_null=True,
                    decimal_point=self.decimal,
                )  # fmt: skip
                with open_csv(self.filesystem, file.path, options) as reader:
                    for batch in reader:
                        yield pa.Table.from_batches([batch])
                return
            with pq.ParquetFile(self.filesystem.open_input_file(file.path)) as source:
                there = [name for name in names if name in source.schema_arrow.names]
                for batch in source.iter_batches(BLOCK_ROWS, columns=there):
                    table = pa.Table.from_batches([batch])
                    for name in names:
                        if name not in there:
                            table = table.append_column(name, pa.nulls(table.num_rows, types[name]))
                    yield fitting(table, types, file.path)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise not_readable(file.path, error) from None


def fitting(table: pa.Table, types: dict[str, pa.DataType], path: str) -> pa.Table:
    """The table with these types. Raises UserError, with what to do about it, for a value that does not fit."""
    try:
        return cast_table(table, types, path)
    except UserError as error:
        said = str(error)
        advice = "; whole numbers of more than 64 bits are read as text with --text COLUMN" * ("out of bounds" in said)
        advice += "; bytes that are no UTF-8 have to be written as text, in hexadecimal digits say" * ("UTF8" in said)
        raise UserError(said + advice) from None


def open_table(location: str, text: tuple[str, ...] = (), decimal: str = ".") -> RawTable:
    """Find the files and the type of every column; of a CSV the types are those of its first 16 MB. `text`: columns
    that are to be read as text whatever they look like.

    Raises UserError: no such place, no files or files of two formats, a column that is text here and a number there.
    """
    filesystem, root = resolve(location)
    place = shown(location)
    with reading(place):
        info = filesystem.get_file_info(root)
    matching = info.type == pafs.FileType.NotFound and any(one in root for one in "*?[")
    if matching and isinstance(filesystem, pafs.LocalFileSystem):
        paths = [path for path in sorted(glob.glob(root)) if os.path.isfile(path)]
        root = os.path.dirname(root)
    elif info.type == pafs.FileType.NotFound:
        raise UserError(f"{place}: no such file or directory")
    else:
        paths = [root] if info.type == pafs.FileType.File else below(filesystem, root)
    known = [path for path in paths if is_csv(path) or path.lower().endswith(PARQUET)]
    if not known:
        found = f"; it holds {os.path.basename(paths[0])}" if paths else ""
        raise UserError(f"{place}: holds no .parquet, .csv or .tsv file{found}")
    csv = [path for path in known if is_csv(path)]
    if csv and len(csv) < len(known):
        other = next(path for path in known if path not in csv)
        raise UserError(f"{place}: holds CSV and Parquet ({csv[0]}, {other}); give a folder of one of them")
    files = tuple(TableFile(path, folders(path.removeprefix(root))) for path in sorted(known))
    notes: list[str] = []
    types = column_types(filesystem, files, text, decimal, notes)
    return RawTable(location, filesystem, files, types, decimal, tuple(notes))


def below(filesystem: Any, root: str) -> list[str]:
    """Files at any depth that are not hidden."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        return local_files(root)
    with reading(root):
        infos = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
    paths = [info.path for info in infos if info.type == pafs.FileType.File]
    return [path for path in paths if not any(map(is_hidden, path.removeprefix(f"{root}/").split("/")))]


def folders(path: str) -> dict[str, str]:
    """{"dt": "2026-01-01"} of /dt=2026-01-01/part-0.parquet"""
    pairs = (name.partition("=") for name in path.split("/")[:-1])
    return {name: value for name, equals, value in pairs if equals and name}


def column_types(
    filesystem: Any, files: tuple[TableFile, ...], text: tuple[str, ...], decimal: str, notes: list[str]
) -> dict[str, pa.DataType]:
    """One type a column, in the order in which the files name them. `notes` is given a line for each column that is in
    the files and in their folders' names."""
    found: dict[str, dict[str, pa.DataType]] = {}
    for file in files:
        schema = file_schema(filesystem, file.path, decimal)
        if found and not found.keys() & set(schema.names):
            raise UserError(
                f"{file.path}: has no column of {files[0].path}: two tables; give the files of one, such as --input "
                "'FOLDER/*.csv'"
            )
        repeated = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if repeated:
            raise UserError(f"{file.path}: two columns are called {repeated[0]!r}; rename one{first_line_of(file)}")
        for name, kind in zip(schema.names, schema.types, strict=True):
            if name not in file.folders:
                found.setdefault(name, {})[file.path] = kind
            elif not any(repr(name) in line for line in notes):
                notes.append(
                    f"column {name!r} is in the files and in their folders' names: those of the folders are read"
                )
    absent = [name for name in text if name not in found]
    if absent:
        raise UserError(f"--text {absent[0]}: no such column; the table has {', '.join(found)}")
    types: dict[str, pa.DataType] = {}
    for name, kinds in found.items():
        if name in text:
            types[name] = pa.large_string()
            continue
        try:
            types[name] = one_type(list(kinds.values()))
        except TypeError:
            (first, one), (second, other) = list({str(kind): (path, kind) for path, kind in kinds.items()}.values())[:2]
            text_too = "" if any(map(is_list, (one, other))) else f", or read it as text with --text {name}"
            raise UserError(
                f"{second}: column {name!r} is {other}, in {first} it is {one}; write one type{text_too}"
            ) from None
    for name in dict.fromkeys(name for file in files for name in file.folders):
        values = [file.folders.get(name, "") for file in files]
        types[name] = pa.int64() if all(value.isdecimal() and str(int(value)) == value for value in values) else (
            pa.large_string())  # fmt: skip
    return types


def one_type(kinds: list[pa.DataType]) -> pa.DataType:
    """The type that all of these fit into; times and dates are no matter of common_type. Raises TypeError."""
    there = list(dict.fromkeys(kind for kind in kinds if not pa.types.is_null(kind)))
    if len(there) == 1 and (pa.types.is_temporal(there[0]) or pa.types.is_nested(there[0])):
        return there[0]
    if any(pa.types.is_timestamp(kind) or pa.types.is_date(kind) for kind in there):
        if not all(pa.types.is_timestamp(kind) or pa.types.is_date(kind) for kind in there):
            raise TypeError("times and other values")
        zones = {getattr(kind, "tz", None) for kind in there}
        if len(zones) > 1:
            raise TypeError("times with and without a time zone")
        return pa.timestamp("us", zones.pop())
    return common_type([read_type(kind) for kind in there])


def file_schema(filesystem: Any, path: str, decimal: str) -> pa.Schema:
    try:
        if is_csv(path):
            options = pacsv.ConvertOptions(strings_can_be_null=True, decimal_point=decimal)
            with open_csv(filesystem, path, options) as reader:
                return reader.schema
        with pq.ParquetFile(filesystem.open_input_file(path)) as file:
            return file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise not_readable(path, error) from None


def first_line_of(file: TableFile) -> str:
    return " (the first line of a CSV names its columns)" if is_csv(file.path) else ""
