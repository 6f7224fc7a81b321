"""Writing a log whole or not at all.

    with new_log(out, schema) as directory:
        with PartWriter(directory, "train", schema) as writer:
            writer.write(table, truth_table)

Everything goes into a hidden sibling of `out` and is renamed when the last file is closed, so a killed run leaves no
directory that could be mistaken for a log.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.encode import one_chunk
from data.errors import UserError
from data.files import put_in_place
from data.labels import label_values
from data.log import TRUTH
from data.schema import SCHEMA_FILE, Schema

ROWS_PER_GROUP = 16_384
ROWS_PER_FILE = 131_072


@contextmanager
def new_log(out: str | Path, schema: Schema) -> Iterator[Path]:
    """Give a directory to fill; on a clean exit add schema.json and rename it to `out`, else remove it.

    Raises UserError if `out` holds anything already.
    """
    out = Path(out).absolute()
    check_new(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    directory = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    try:
        yield directory
        schema.save(directory / SCHEMA_FILE)
        put_in_place(directory, out)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def check_new(out: Path) -> None:
    """Raise UserError unless `out` is absent or an empty directory of a local filesystem."""
    check_local(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; choose a new directory")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; choose a new directory")


def check_local(out: Path) -> None:
    """Raise UserError for what was a URI before it became a path: we read from anywhere, and write to directories."""
    if any(part.endswith(":") for part in out.parts):
        raise UserError(f"{out}: is a URI; results are written to a local or shared directory")


@dataclass
class PartFacts:
    """What was written: counts of rows and labels, with truth of potential conversions, and of rows left out."""

    rows: int = 0
    clicks: int = 0
    conversions: int = 0
    potential: int | None = None
    potential_clicked: int | None = None
    dropped: int = 0


class PartWriter:
    """Writes tables of any length as part-00000.parquet ... with row groups of about one size, each of whole requests.

    The truth goes to files of the same names and row order under truth/. The bytes depend on the rows alone, not on
    how they were cut into tables.
    """

    def __init__(
        self,
        directory: Path,
        part: str,
        schema: Schema,
        rows_per_file: int = ROWS_PER_FILE,
        rows_per_group: int = ROWS_PER_GROUP,
    ) -> None:
        if rows_per_group < 1 or rows_per_file < rows_per_group:
            raise UserError(f"{rows_per_group} rows a row group, {rows_per_file} rows a file: need 1 <= group <= file")
        self.schema, self.part, self.directory = schema, part, directory
        self.rows_per_group = rows_per_group
        self.groups_per_file = rows_per_file // rows_per_group
        self.facts = PartFacts()
        self._waiting: list[tuple[pa.Table | None, pa.Table | None]] = []
        self._waiting_rows = self._groups = 0
        self._files: list[Any] = []

    def write(self, table: pa.Table, truth: pa.Table | None = None) -> None:
        """Add rows, and their truth in the same order; whole row groups go to disk at once."""
        assert truth is None or truth.num_rows == table.num_rows
        self._count(table, truth)
        self._waiting.append((table, truth))
        self._waiting_rows += table.num_rows
        while self._waiting_rows > self.rows_per_group:
            rows = self._cut()
            if rows is None:
                return
            self._write_group(rows)

    def _cut(self) -> int | None:
        """Rows of the next row group: it ends where a request does, so that no reader meets half of one.

        The last end of a request within rows_per_group rows; if a single request is longer than that, its end. None
        while the rows that would show it are still to come.
        """
        request = self.schema.request
        if request is None:
            return self.rows_per_group
        table, size = joined(table for table, _ in self._waiting), self.rows_per_group
        assert table is not None
        self._waiting = [(table, joined(truth for _, truth in self._waiting))]
        within = ends_of_requests(table.slice(0, size + 1), request)
        if len(within):
            return int(within[-1])
        beyond = size + ends_of_requests(table.slice(size), request)
        return int(beyond[0]) if len(beyond) else None

    def close(self) -> PartFacts:
        """Write what is left. A part without rows is an empty directory, which Log.part refuses."""
        if self._waiting_rows:
            self._write_group(self._waiting_rows)
        self._close_files()
        return self.facts

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._close_files()

    def _count(self, table: pa.Table, truth: pa.Table | None) -> None:
        facts = self.facts
        label = {name: label_values(table.column(column)) == 1 for name, column in self.schema.labels.items()}
        click_R = label.get("click", np.ones(table.num_rows, bool))
        facts.rows += table.num_rows
        facts.clicks += int(click_R.sum())
        facts.conversions += int(label["conversion"].sum()) if "conversion" in label else 0
        if truth is not None and self.schema.truth:
            potential_R = truth.column(self.schema.truth.potential_conversion).to_numpy()
            facts.potential = (facts.potential or 0) + int(potential_R.sum())
            facts.potential_clicked = (facts.potential_clicked or 0) + int(potential_R[click_R].sum())

    def _write_group(self, rows: int) -> None:
        tables = [joined(table for table, _ in self._waiting), joined(truth for _, truth in self._waiting)]
        whole = [table for table in tables if table is not None]
        self._waiting_rows = whole[0].num_rows - rows
        rest = [table.slice(rows) for table in whole]
        self._waiting = [(rest[0], rest[1] if len(rest) > 1 else None)] if self._waiting_rows else []
        if self._groups % self.groups_per_file == 0:
            self._close_files()
            self._open_files(whole)
        for file, table in zip(self._files, whole, strict=True):
            file.write_table(table.slice(0, rows).combine_chunks(), row_group_size=rows)
        self._groups += 1

    def _open_files(self, tables: list[pa.Table]) -> None:
        name = f"part-{self._groups // self.groups_per_file:05d}.parquet"
        folders = [self.directory / self.part, self.directory / TRUTH / self.part]
        for folder, table in zip(folders, tables, strict=False):
            folder.mkdir(parents=True, exist_ok=True)
            self._files.append(
                pq.ParquetWriter(folder / name, table.schema, compression="zstd", write_page_checksum=True)
            )

    def _close_files(self) -> None:
        for file in self._files:
            file.close()
        self._files = []


def ends_of_requests(table: pa.Table, request: str) -> np.ndarray:
    """How many rows there are up to the end of each request but the last one, whose end is not known."""
    request_R = one_chunk(table, request)
    changes_R = pc.fill_null(pc.not_equal(request_R[1:], request_R[:-1]), True)
    return 1 + np.flatnonzero(changes_R.to_numpy(zero_copy_only=False))


def joined(tables: Iterable[pa.Table | None]) -> pa.Table | None:
    """The tables one after the other; None if there are none."""
    found = [table for table in tables if table is not None]
    return pa.concat_tables(found) if found else None


def truth_table(
    schema: Schema, exposure_R: np.ndarray, potential_R: np.ndarray, **probabilities: np.ndarray
) -> pa.Table:
    """A truth table in the types that every log of ours has; probabilities: propensity, conversion_probability."""
    assert schema.truth is not None
    columns = {schema.truth.key: pa.array(exposure_R, pa.int64())}
    columns[schema.truth.potential_conversion] = pa.array(potential_R, pa.int8())
    for key, values_R in probabilities.items():
        columns[getattr(schema.truth, key)] = pa.array(values_R, pa.float32())
    return pa.table(columns)
