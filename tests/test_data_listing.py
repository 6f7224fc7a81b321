"""data/listing.py: which files of a part are read, in which order, and what is not passed over in silence."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from data.errors import UserError
from data.listing import parquet_files
from data.log import open_log

TABLE = pa.table({"user": [1, 2], "click": [0, 1]})
SCHEMA = (
    '{"format": "counterpoint.schema", "version": 2, "name": "t", "numeric": [], "labels": {"click": "click"}, '
    '"categorical": [{"name": "user", "kind": "hash", "size": 9}]}'
)
READ = [
    "000000_0",
    "a.parquet",
    "b.snappy.parquet",
    "day2.parquet/part-0",
    "dt=2026-01-02/hour=3/part-0.parquet",
    "upper.PARQUET",
    "z.pq",
]
LEFT_OUT = [
    "_SUCCESS",
    "_temporary/0/part-9.parquet",
    "_delta_log/00.checkpoint.parquet",
    ".hidden.parquet",
    ".part-0.crc",
    "dt=2026-01-02/_SUCCESS",
    "dt=2026-01-02/.tmp/x.parquet",
    "README.md",
]


def fill(where: Path) -> None:
    for name in READ + LEFT_OUT:
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if "parquet" in name or name in READ:
            pq.write_table(TABLE, path)
        else:
            path.write_text("text")


def local(where: Path) -> tuple[Any, str]:
    return pafs.LocalFileSystem(), str(where)


def remote(where: Path) -> tuple[Any, str]:
    """The same through a client that knows no local paths, as of s3:// or memory://."""
    return pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.filesystem("file"))), str(where)


@pytest.mark.parametrize("opened", [local, remote])
def test_files_in_folders_are_read_in_the_order_of_their_paths(tmp_path: Path, opened: Callable) -> None:
    fill(tmp_path)
    assert parquet_files(*opened(tmp_path)) == [str(tmp_path / name) for name in sorted(READ)]
    assert parquet_files(*opened(tmp_path / "nowhere")) is None


def test_all_rows_of_a_part_are_there_however_deep(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(SCHEMA)
    fill(tmp_path / "train")
    log = open_log(tmp_path)
    assert log.part("train").rows == len(READ) * TABLE.num_rows
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(tmp_path), "/deep", recursive=True)
    try:
        part = open_log("memory://deep").part("train")
        assert (part.rows, len(part.files)) == (len(READ) * TABLE.num_rows, len(READ))
    finally:
        filesystem.rm("/deep", recursive=True)


def test_a_link_is_followed_and_one_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    other, part = tmp_path / "other", tmp_path / "part"
    fill(other)
    part.mkdir()
    os.symlink(other / "a.parquet", part / "linked.parquet")
    os.symlink(other / "dt=2026-01-02", part / "more")
    assert parquet_files(*local(part)) == [str(part / "linked.parquet"), str(part / "more/hour=3/part-0.parquet")]
    os.symlink(tmp_path / "gone.parquet", part / "b.parquet")
    with pytest.raises(UserError, match=r"part/b\.parquet: is a link to .*gone\.parquet, which is not there"):
        parquet_files(*local(part))
    (part / "b.parquet").unlink()
    os.symlink(tmp_path / "gone", part / "folder")
    with pytest.raises(UserError, match=r"part/folder: is a link to .*gone, which is not there"):
        parquet_files(*local(part))


def test_a_link_in_a_circle_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "part")
    os.symlink(tmp_path / "part", tmp_path / "part/dt=2026-01-02/around")
    with pytest.raises(UserError, match=r"dt=2026-01-02/around: is a link to a directory that it lies in"):
        parquet_files(*local(tmp_path / "part"))


@pytest.mark.parametrize("opened", [local, remote])
def test_a_parquet_file_of_another_ending_is_named(tmp_path: Path, opened: Callable) -> None:
    fill(tmp_path)
    pq.write_table(TABLE, tmp_path / "c.parquet.gz")
    with pytest.raises(UserError, match=r"c\.parquet\.gz: is a Parquet file, but its name does not end in \.parquet"):
        parquet_files(*opened(tmp_path))
