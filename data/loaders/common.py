"""What the loaders share: which file is which split, CSV in blocks, a seeded split by hash, labels put right.

A public data set comes as train and test files, sometimes with a validation file. A split that no file is named for is
held out of train by a hash of the request (or of the row), so that a request is never in two parts.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from data.errors import UserError
from data.filesystems import UNREADABLE
from data.hashing import hash_array, splitmix64
from data.schema import Schema
from data.write import PartFacts, PartWriter, new_log

PARTS = ("train", "valid", "test")
HELD_OUT = 0.1
BLOCK_BYTES = 32 * 2**20
Progress = Callable[[int], None]


def silent(rows: int) -> None:
    """The progress callback of a caller who does not want one."""


def part_files(source: Path, pattern: str) -> dict[str, list[Path]]:
    """{"train": [...], "valid": [...], "test": [...]}: files by the word in their name; one without is train.

    Raises UserError if `source` is absent or nothing in it matches the pattern.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or directory")
    found = [source] if source.is_file() else sorted(source.glob(pattern))
    if not found:
        raise UserError(f"{source}: holds no {pattern}")
    files: dict[str, list[Path]] = {part: [] for part in PARTS}
    for path in found:
        name = path.name.lower()
        files["test" if "test" in name else "valid" if "val" in name else "train"].append(path)
    if not files["train"]:
        raise UserError(f"{source}: no file for training among {', '.join(path.name for path in found)}")
    return files


def held_out(files: dict[str, list[Path]]) -> dict[str, float]:
    """The shares of the train files that go to each part: a tenth to every split that has no file of its own."""
    shares = {part: 0.0 if files[part] else HELD_OUT for part in PARTS[1:]}
    return {"train": 1 - sum(shares.values()), **shares}


def hash_split(key: pa.Array, shares: dict[str, float], seed: int) -> np.ndarray:
    """int64_R: index in PARTS for every key, the same for equal keys; a missing key is a key like any other."""
    mixed_R = splitmix64(hash_array(key) ^ splitmix64(np.array([seed], np.uint64)))
    uniform_R = (mixed_R >> np.uint64(11)) * 2.0**-53
    return np.searchsorted(np.cumsum([shares[part] for part in PARTS])[:-1], uniform_R, side="right")


def csv_blocks(path: Path, types: dict[str, pa.DataType], names: list[str] | None = None) -> Iterator[pa.Table]:
    """The file in blocks of about 32 MB. Without `names` the first line is the header; a column without a type here is
    left out. Raises UserError naming the file where a value does not parse.
    """
    read = pacsv.ReadOptions(block_size=BLOCK_BYTES, column_names=names)
    parse = pacsv.ParseOptions(quote_char=False)
    convert = pacsv.ConvertOptions(column_types=types, include_columns=list(types))
    try:
        with pacsv.open_csv(path, read_options=read, parse_options=parse, convert_options=convert) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, KeyError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None


def csv_header(path: Path) -> list[str]:
    with path.open() as file:
        return file.readline().rstrip("\r\n").split(",")


def text_blocks(path: Path) -> Iterator[pa.Array]:
    """The lines of the file, in blocks."""
    parse = pacsv.ParseOptions(quote_char=False, delimiter="\x1f")
    read = pacsv.ReadOptions(block_size=BLOCK_BYTES, column_names=["line"])
    convert = pacsv.ConvertOptions(column_types={"line": pa.string()})
    try:
        with pacsv.open_csv(path, read_options=read, parse_options=parse, convert_options=convert) as reader:
            for batch in reader:
                yield batch.column(0)
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None


def clean_labels(table: pa.Table, schema: Schema, path: Path) -> tuple[pa.Table, int]:
    """Drop rows that convert without a click, and say how many; the published logs hold a few.

    Raises UserError naming file and column where a label is missing or neither 0 nor 1.
    """
    for name in schema.labels.values():
        right = pc.fill_null(pc.is_in(table.column(name), pa.array([0, 1], table.column(name).type)), False)
        if not pc.all(right, min_count=0).as_py():
            wrong = table.column(name).filter(pc.invert(right))[0].as_py()
            raise UserError(f"{path}: column {name!r} is {wrong}; a label is 0 or 1")
    possible = pc.less_equal(table.column(schema.labels["conversion"]), table.column(schema.labels["click"]))
    kept = table.filter(possible)
    return kept, table.num_rows - kept.num_rows


def write_log(
    out: str | Path,
    schema: Schema,
    blocks: Iterable[tuple[pa.Table, np.ndarray, Path]],
    progress: Progress = silent,
    **sizes: Any,
) -> dict[str, PartFacts]:
    """Write (table, index in PARTS of every row, source file) blocks as a log. Returns what is in each part.

    Raises UserError if a part stays empty, and what clean_labels raises.
    """
    with new_log(out, schema) as directory, ExitStack() as stack:
        writers = [stack.enter_context(PartWriter(directory, part, schema, **sizes)) for part in PARTS]
        for table, part_R, path in blocks:
            for index, writer in enumerate(writers):
                kept, dropped = clean_labels(table.filter(pa.array(part_R == index)), schema, path)
                writer.facts.dropped += dropped
                writer.write(kept)
            progress(table.num_rows)
        facts = {part: writer.close() for part, writer in zip(PARTS, writers, strict=True)}
        empty = [part for part in PARTS if facts[part].rows == 0]
        if empty:
            raise UserError(f"no rows for part {empty[0]!r}: the input is too small to hold out a tenth for each split")
    return facts
