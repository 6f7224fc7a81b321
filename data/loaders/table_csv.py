"""CSV files of a team's own table: what separates their columns, how they are packed, how numbers are written.

    RAW.csv    RAW.tsv.gz    a;b;c with 1,5 for 1.5 (--decimal ,)

The separator is the one of , ; tab | that the first line has most of, outside of quotes.
"""

import os
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from data.errors import UserError
from data.filesystems import first_line

CSV = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
PACKED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
SEPARATORS = (",", ";", "\t", "|")
BLOCK_BYTES = 16 * 2**20
HEAD_BYTES = 1 << 20
"""The names of the columns are looked for in so many bytes."""
UTF16 = (b"\xff\xfe", b"\xfe\xff")


def is_csv(path: str) -> bool:
    return stem(path).lower().endswith(tuple(CSV))


def stem(path: str) -> str:
    """Without the ending of a compression."""
    ending = os.path.splitext(path)[1].lower()
    return path[: -len(ending)] if ending in PACKED else path


def open_csv(filesystem: Any, path: str, options: pacsv.ConvertOptions) -> pacsv.CSVStreamingReader:
    """The blocks of a file. Raises UserError for a file in UTF-16, and what pyarrow raises."""
    return pacsv.open_csv(
        unpacked(filesystem, path),
        read_options=pacsv.ReadOptions(block_size=BLOCK_BYTES),
        parse_options=pacsv.ParseOptions(delimiter=separator(filesystem, path), newlines_in_values=True),
        convert_options=options,
    )


def unpacked(filesystem: Any, path: str) -> Any:
    return filesystem.open_input_stream(path, compression=PACKED.get(os.path.splitext(path)[1].lower()))


def separator(filesystem: Any, path: str) -> str:
    """What separates the names of the columns; of a file of one column that of its ending."""
    with unpacked(filesystem, path) as stream:
        head = bytes(stream.read(HEAD_BYTES))
    if head[:2] in UTF16:
        raise UserError(f"{path}: is UTF-16; save it as UTF-8")
    bare = b"".join(head.split(b'"')[::2])  # what stands in quotes is no separator
    line = next((line for line in bare.splitlines() if line.strip()), b"")
    usual = CSV[os.path.splitext(stem(path))[1].lower()]
    return max((usual, *SEPARATORS), key=lambda mark: line.count(mark.encode()))


def not_readable(path: str, error: Exception) -> UserError:
    """One line, with what to do about text of another encoding."""
    what = first_line(error)
    advice = "; save it as UTF-8" if isinstance(error, pa.ArrowException) and "UTF8" in what else ""
    return UserError(f"{path}: cannot be read ({what}){advice}")
