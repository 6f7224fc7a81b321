"""Reading a log: DIR/schema.json, DIR/{train,valid,test}/*.parquet, DIR/truth/{part}/*.parquet.

DIR is a local path or a URI (see data/filesystems.py).
Opening reads the footers only. Rows come one row group at a time, so memory is flat in the size of the log.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pyarrow.types as pat

from data.errors import UserError
from data.filesystems import first_line, reading, resolve, shown
from data.schema import SCHEMA_FILE, Schema
from data.truth import Truth, truth_from_tables

TRUTH = "truth"
FOOTER_THREADS = 16


@dataclass(frozen=True)
class PartFile:
    """One parquet file: its path in the log's filesystem and the rows of each of its row groups."""

    path: str
    row_groups: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(self.row_groups)


@dataclass(frozen=True)
class Part:
    """A split of the log ("train", "valid", "test"): its files in the order of their names."""

    name: str
    files: tuple[PartFile, ...]

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

        Raises UserError: no such split, no rows, a file that is not whole, a column absent or of another type.
        """
        paths = parquet_files(self.filesystem, f"{self.root}/{name}")
        if paths is None:
            raise UserError(
                f"{shown(self.location)}: no part {name!r} (parts here: {', '.join(self.part_names()) or 'none'})"
            )
        if not paths:
            raise UserError(f"{shown(self.location)}/{name}: holds no parquet files")

        def inspect(path: str) -> PartFile:
            with open_parquet(self.filesystem, path) as file:
                check_columns(self.schema, file.schema_arrow, path)
                footer = file.metadata
                return PartFile(path, tuple(footer.row_group(g).num_rows for g in range(footer.num_row_groups)))

        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            part = Part(name, tuple(pool.map(inspect, paths)))
        if part.rows == 0:
            raise UserError(f"{shown(self.location)}/{name}: the parquet files hold no rows")
        return part

    def read_row_group(self, file: PartFile, index: int, columns: list[str] | None = None) -> pa.Table:
        """Read one row group; `columns` are the schema's training columns unless given.

        Raises UserError naming the file if its pages cannot be decoded or fail their checksums.
        """
        names = self.schema.columns if columns is None else columns
        with open_parquet(self.filesystem, file.path) as source:
            try:
                return source.read_row_group(index, columns=list(names)).select(list(names))
            except KeyError as error:
                raise UserError(f"{file.path}: no column {error.args[0]!r}") from None
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{file.path}: row group {index} cannot be read ({first_line(error)})") from None

    def read(self, part: Part, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The row groups of a part, one after the other."""
        for file, index in part.row_groups():
            yield self.read_row_group(file, index, columns)

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
                absent = [column for column in columns if column not in file.schema_arrow.names]
                if absent:
                    raise UserError(f"{path}: no column {absent[0]!r}, which {SCHEMA_FILE} names under 'truth'")
                try:
                    tables.append(file.read(columns=columns))
                except (pa.ArrowException, OSError) as error:
                    raise UserError(f"{path}: cannot be read ({first_line(error)})") from None
        return truth_from_tables(tables, self.schema.truth, f"{shown(self.location)}/{TRUTH}/{name}")


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


def parquet_files(filesystem: Any, directory: str) -> list[str] | None:
    """Paths of the directory's parquet files, sorted; None if there is no such directory."""
    with reading(directory):
        if filesystem.get_file_info(directory).type != pafs.FileType.Directory:
            return None
        found = filesystem.get_file_info(pafs.FileSelector(directory))
    wanted = [i for i in found if i.type == pafs.FileType.File and i.base_name.endswith(".parquet")]
    return sorted(info.path for info in wanted if not info.base_name.startswith((".", "_")))


def open_parquet(filesystem: Any, path: str) -> Any:
    # Over a network a row group's columns are fetched together, not one request after the other.
    remote = not isinstance(filesystem, pafs.LocalFileSystem)
    try:
        return pq.ParquetFile(path, filesystem=filesystem, page_checksum_verification=True, pre_buffer=remote)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a whole parquet file ({first_line(error)})") from None


def check_columns(schema: Schema, found: pa.Schema, path: str) -> None:
    """Raise UserError naming file and column if a column of the schema is absent or of a type that does not fit."""
    for name in schema.all_columns:
        if name not in found.names:
            raise UserError(f"{path}: no column {name!r}, which {SCHEMA_FILE} names; it has {', '.join(found.names)}")
    for field in schema.categorical:
        kind = found.field(field.name).type
        lists = is_list(kind)
        if lists != (field.many is not None):
            right = "without 'many' must be a single value" if lists else "with 'many' must be lists"
            raise UserError(f"{path}: column {field.name!r} is of type {kind}; a categorical feature {right}")
        value = kind.value_type if lists else kind
        value = value.value_type if pat.is_dictionary(value) else value
        text, whole = is_text(value), pat.is_integer(value)
        if field.kind == "vocabulary":
            fits, right = (text, "strings") if isinstance(field.vocabulary[0], str) else (whole, "integers")
        else:
            fits, right = (whole, "integers") if field.kind == "range" else (text or whole, "integers or strings")
        right = f"lists of {right}" if lists else right
        expect(fits, path, field.name, kind, right, f"a categorical feature of kind {field.kind!r}")
    for name in filter(None, (*schema.numeric, schema.weight, schema.value)):
        kind = found.field(name).type
        expect(pat.is_integer(kind) or pat.is_floating(kind), path, name, kind, "integers or floats", "a number")
    for name in schema.labels.values():
        kind = found.field(name).type
        expect(pat.is_integer(kind) or pat.is_boolean(kind), path, name, kind, "integers or booleans", "a label")
    if schema.truth and schema.exposure:
        kind = found.field(schema.exposure).type
        expect(pat.is_integer(kind), path, schema.exposure, kind, "integers", "the exposure key")


def expect(fits: bool, path: str, name: str, kind: pa.DataType, right: str, role: str) -> None:
    if not fits:
        raise UserError(f"{path}: column {name!r} is of type {kind}; {role} must be {right}")


def is_list(kind: pa.DataType) -> bool:
    return bool(pat.is_list(kind) or pat.is_large_list(kind) or pat.is_fixed_size_list(kind))


def is_text(kind: pa.DataType) -> bool:
    return bool(pat.is_string(kind) or pat.is_large_string(kind))
