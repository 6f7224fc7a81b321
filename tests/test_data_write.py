"""data/write.py: whole or not at all, and the same bytes however the rows were cut."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data.log import open_log
from data.schema import Schema
from data.write import PartFacts, PartWriter, new_log

SCHEMA = Schema("toy", (), ("x",), {"click": "click", "conversion": "conversion"})


def table(rows: int) -> pa.Table:
    return pa.table({"x": np.arange(rows) / 7, "click": np.arange(rows) % 2, "conversion": (np.arange(rows) % 4) // 3})


def written(out: Path, cuts: list[int]) -> dict[str, bytes]:
    whole = table(cuts[-1])
    with new_log(out, SCHEMA) as directory, PartWriter(directory, "train", SCHEMA, 250, 100) as writer:
        for start, end in zip([0, *cuts], cuts, strict=False):
            writer.write(whole.slice(start, end - start))
    assert writer.facts == PartFacts(rows=cuts[-1], clicks=cuts[-1] // 2, conversions=cuts[-1] // 4)
    return {path.name: path.read_bytes() for path in (out / "train").iterdir()}


def test_the_bytes_do_not_depend_on_the_cuts(tmp_path: Path) -> None:
    whole = written(tmp_path / "a", [730])
    assert written(tmp_path / "b", [1, 99, 100, 420, 730]) == whole
    part = open_log(tmp_path / "a").part("train")
    assert [file.row_groups for file in part.files] == [(100, 100), (100, 100), (100, 100), (100, 30)]


def interrupted(out: Path) -> None:
    with new_log(out, SCHEMA) as directory, PartWriter(directory, "train", SCHEMA, 100, 10) as writer:
        writer.write(table(500))
        assert (directory / "train" / "part-00004.parquet").exists()
        raise KeyboardInterrupt


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "log")
    assert list(tmp_path.iterdir()) == []


def test_somebodys_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with new_log(tmp_path / "log", SCHEMA):
        pass
    with (
        pytest.raises(ValueError, match="log: is not empty; choose a new directory"),
        new_log(tmp_path / "log", SCHEMA),
    ):
        pass
    with pytest.raises(ValueError, match="is a file"), new_log(tmp_path / "log" / "schema.json", SCHEMA):
        pass
    with pytest.raises(ValueError, match="need 1 <= group <= file"):
        PartWriter(tmp_path, "train", SCHEMA, rows_per_file=10, rows_per_group=11)
