"""Rows of a request brought together, wherever in a table they lie: a list is trained and ranked as a whole.

Up to BUCKET_ROWS rows are sorted in memory. A larger table goes to files on disk first, a request's rows to one of
them, each small enough to be sorted in memory. Shapes: R rows of a bucket, Q requests.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from data.encode import one_chunk
from data.hashing import hash_array

BUCKET_ROWS = 1 << 21
FOLDER = ".buckets"


def whole_requests(
    blocks: Iterable[pa.Table], request: str | None, time: str, rows: int, directory: Path
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """(rows, place of the first row of each row's request): requests end to end, in the order of their first moment
    (of their first row, where there is no column `time`). Without requests each row stands for itself, as it comes.

    `rows`: of the whole table. Files of a large one are made in `directory`, and removed.
    """
    if request is None:
        for block in blocks:
            yield block, np.arange(block.num_rows)
        return
    buckets = -(-rows // BUCKET_ROWS)
    if buckets == 1:
        tables = [block for block in blocks if block.num_rows]
        if tables:
            yield sorted_by_request(pa.concat_tables(tables), request, time)
        return
    folder = directory / FOLDER
    try:
        spill(blocks, request, buckets, folder)
        for path in sorted(folder.iterdir()):
            with pa.memory_map(str(path)) as file:
                table = pa.ipc.open_stream(file).read_all()
            yield sorted_by_request(table, request, time)
            path.unlink()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def spill(blocks: Iterable[pa.Table], request: str, buckets: int, folder: Path) -> None:
    """Deal the rows out to one file a bucket, by a hash of their request."""
    folder.mkdir()
    writers: list[pa.RecordBatchStreamWriter] = []
    try:
        for block in blocks:
            writers = writers or [
                pa.ipc.new_stream(str(folder / f"{number:05d}.arrow"), block.schema) for number in range(buckets)
            ]
            bucket_R = request_keys(block, request) % np.uint64(buckets)
            order_R = np.argsort(bucket_R, kind="stable")
            ends = np.searchsorted(bucket_R[order_R], np.arange(buckets), side="right")
            for writer, index in zip(writers, np.split(order_R, ends[:-1]), strict=True):
                if len(index):
                    writer.write_table(block.take(pa.array(index)))
    finally:
        for writer in writers:
            writer.close()


def request_keys(table: pa.Table, request: str) -> np.ndarray:
    """uint64_R: a hash of the request; a row without one is a request of its own."""
    column = one_chunk(table, request)
    key_R = hash_array(column)
    if column.null_count:
        missing_R = column.is_null().to_numpy(zero_copy_only=False)
        key_R = np.where(missing_R, np.arange(len(key_R), dtype=np.uint64), key_R)
    return key_R


def sorted_by_request(table: pa.Table, request: str, time: str) -> tuple[pa.Table, np.ndarray]:
    """The rows of each request together, requests in the order of their first moment, and their first rows' places."""
    rows = table.num_rows
    code_R = np.unique(request_keys(table, request), return_inverse=True)[1]
    moment_R = table.column(time).to_numpy() if time in table.column_names else np.arange(rows)
    first_Q = np.full(code_R.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(first_Q, code_R, moment_R)
    order_R = np.lexsort((moment_R, code_R, first_Q[code_R]))
    sorted_R = code_R[order_R]
    new_R = np.concatenate([[True], sorted_R[1:] != sorted_R[:-1]])
    return table.take(pa.array(order_R)), np.flatnonzero(new_R)[np.cumsum(new_R) - 1]
