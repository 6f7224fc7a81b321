"""Which log it is: checksums that are the same wherever a copy of it lies, and others once its files are.

    {"schema": "91c0...", "parts": {"train": {"rows": 4000, "files": 2, "content": "5f0c..."}, ...}}

A part's content is that of its files and of those of its truth, by their names inside the log. Of a file up to 16 MiB
every byte counts, of a larger one its size and four pieces of 1 MiB, spread from its first byte to its last (the
footer, with all sizes and the bounds of the values, is among them): large logs are not read twice, and a change that
keeps a large file's size, footer and all of the pieces is not seen.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.errors import UserError
from data.filesystems import first_line
from data.log import TRUTH, Log, parquet_files
from data.schema import Schema

WHOLE_BYTES, PIECE_BYTES, PIECES = 16 << 20, 1 << 20, 4
THREADS = 16


def log_identity(log: Log, parts: Iterable[str]) -> dict[str, Any]:
    """Of the log's schema and these parts, as above. Raises UserError for a part that is not there or not whole."""
    return {"schema": schema_checksum(log.schema), "parts": {name: part_identity(log, name) for name in parts}}


def schema_checksum(schema: Schema) -> str:
    return digest(json.dumps(schema.to_dict(), sort_keys=True))


def part_identity(log: Log, name: str) -> dict[str, Any]:
    part = log.part(name)
    paths = [file.path for file in part.files] + (parquet_files(log.filesystem, f"{log.root}/{TRUTH}/{name}") or [])
    with ThreadPoolExecutor(THREADS) as pool:
        checksums = list(pool.map(lambda path: content_checksum(log.filesystem, path), paths))
    named = [[path.removeprefix(log.root), found] for path, found in zip(paths, checksums, strict=True)]
    return {"rows": part.rows, "files": len(part.files), "content": digest(json.dumps(sorted(named)))}


def content_checksum(filesystem: Any, path: str) -> str:
    """Of a file of any filesystem: of all bytes, or of the pieces of a large one. Raises UserError naming it."""
    state = hashlib.sha256()
    try:
        with filesystem.open_input_file(path) as file:
            size = file.size()
            state.update(str(size).encode())
            if size <= WHOLE_BYTES:
                state.update(file.read())
            else:
                for piece in range(PIECES):
                    file.seek((size - PIECE_BYTES) * piece // (PIECES - 1))
                    state.update(file.read(PIECE_BYTES))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)})") from None
    return state.hexdigest()[:16]


def file_checksum(path: Path) -> str:
    """16 hex digits of all bytes of a local file. Raises UserError naming it if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
