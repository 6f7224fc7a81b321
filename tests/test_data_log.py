"""data/log.py, labels.py, truth.py: reading whole logs, and each broken one by its message."""

import dataclasses
import itertools
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.labels import check_labels
from data.log import open_log
from data.schema import CategoricalField, Schema, TruthColumns
from data.write import PartWriter, new_log, truth_table

ROWS = 1000
SCHEMA = Schema(
    name="toy",
    categorical=(
        CategoricalField("user", "hash", 50),
        CategoricalField("channel", "vocabulary", vocabulary=("a", "b")),
    ),
    numeric=("price",),
    labels={"click": "click", "conversion": "conversion"},
    exposure="exposure_id",
    truth=TruthColumns("exposure_id", "potential", "propensity"),
)


def toy_table() -> pa.Table:
    rng = np.random.default_rng(0)
    click_R = rng.random(ROWS) < 0.3
    return pa.table(
        {
            "exposure_id": rng.permutation(ROWS) * 7,
            "user": rng.integers(0, 20, ROWS),
            "channel": pa.array(rng.choice(["a", "b"], ROWS)),
            "price": rng.normal(size=ROWS),
            "click": click_R.astype(np.int8),
            "conversion": (click_R & (rng.random(ROWS) < 0.5)).astype(np.int8),
            "unused": rng.normal(size=ROWS),
        }
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    table = toy_table()
    with new_log(tmp_path / "log", SCHEMA) as out, PartWriter(out, "train", SCHEMA, 400, 100) as writer:
        exposure_R = table.column("exposure_id").to_numpy()
        # The truth of exposure e: potential = e is odd, propensity = e / 10000.
        writer.write(table, truth_table(SCHEMA, exposure_R, exposure_R % 2, propensity=exposure_R / 1e4))
    return tmp_path / "log"


def replaced(directory: Path, table: pa.Table) -> Path:
    path = directory / "train" / "part-00001.parquet"
    pq.write_table(table, path)
    return path


def test_parts_are_listed_from_their_footers(directory: Path) -> None:
    log = open_log(str(directory))
    part = log.part("train")
    assert log.schema == SCHEMA
    assert [file.row_groups for file in part.files] == [(100,) * 4, (100,) * 4, (100,) * 2]
    assert (part.rows, log.part_names(), log.has_truth(part)) == (ROWS, ["train"], True)


def test_row_groups_come_back_as_written(directory: Path) -> None:
    log = open_log(directory)
    read = pa.concat_tables(log.read(log.part("train"))).combine_chunks()
    assert read.equals(toy_table().select(SCHEMA.columns))


def test_a_uri_and_an_fsspec_filesystem_read_the_same(directory: Path) -> None:
    expected = open_log(directory).part("train")
    assert open_log(f"file://{directory}").part("train") == expected
    fsspec.filesystem("memory").put(str(directory), "/toy-log", recursive=True)
    log = open_log("memory://toy-log")
    assert [file.row_groups for file in log.part("train").files] == [file.row_groups for file in expected.files]
    assert pa.concat_tables(log.read(log.part("train"))).equals(toy_table().select(SCHEMA.columns))
    assert check_labels(log, log.part("train")).rows == ROWS


def test_labels_are_counted(directory: Path) -> None:
    log, table = open_log(directory), toy_table()
    facts = check_labels(log, log.part("train"))
    expected = tuple(int(table.column(name).to_numpy().sum()) for name in ("click", "conversion"))
    assert (facts.rows, *facts.positives.values()) == (ROWS, *expected)


def test_truth_joins_by_exposure(directory: Path) -> None:
    truth = open_log(directory).truth("train")
    exposure_R = toy_table().column("exposure_id").to_numpy()
    rows = truth.lookup(exposure_R)
    assert (np.diff(truth.key_R) > 0).all()
    np.testing.assert_array_equal(truth.key_R[rows], exposure_R)
    np.testing.assert_array_equal(truth.potential_R[rows], exposure_R % 2)
    assert truth.propensity_R is not None
    np.testing.assert_array_equal(truth.propensity_R[rows], (exposure_R / 1e4).astype(np.float32))
    assert truth.probability_R is None
    for absent in (3, 10**9, -1):
        with pytest.raises(ValueError, match=f"no row for exposure {absent}"):
            truth.lookup(np.array([0, absent]))


def test_a_directory_that_is_no_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: no such directory"):
        open_log(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"schema\.json: no such file"):
        open_log(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        open_log(tmp_path / "file")
    with pytest.raises(ValueError, match=r"nosuch://x: no filesystem for this URI"):
        open_log("nosuch://x")


def test_an_absent_or_empty_part_is_named(directory: Path) -> None:
    log = open_log(directory)
    with pytest.raises(ValueError, match=r"no part 'valid' \(parts here: train\)"):
        log.part("valid")
    (directory / "valid").mkdir()
    with pytest.raises(ValueError, match="valid: holds no parquet files"):
        log.part("valid")
    pq.write_table(toy_table().slice(0, 0), directory / "valid" / "a.parquet")
    with pytest.raises(ValueError, match="hold no rows"):
        log.part("valid")
    with pytest.raises(ValueError, match="no truth for part 'valid'"):
        log.truth("valid")


def test_a_truncated_file_is_named(directory: Path) -> None:
    path = directory / "train" / "part-00001.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"train/part-00001\.parquet: not a whole parquet file"):
        open_log(directory).part("train")


def test_a_flipped_byte_is_found_by_the_checksums(directory: Path) -> None:
    path = directory / "train" / "part-00001.parquet"
    footer = pq.ParquetFile(path).metadata
    price = next(c for c in range(footer.num_columns) if footer.row_group(2).column(c).path_in_schema == "price")
    column = footer.row_group(2).column(price)
    broken = bytearray(path.read_bytes())
    broken[column.dictionary_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(broken)
    log = open_log(directory)
    part = log.part("train")
    log.read_row_group(part.files[1], 1)
    with pytest.raises(ValueError, match=r"part-00001\.parquet: row group 2 cannot be read"):
        log.read_row_group(part.files[1], 2)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("price", ["x"] * ROWS, "column 'price' is of type string; a number must be integers or floats"),
        (
            "user",
            [0.5] * ROWS,
            "column 'user' is of type double; a categorical feature of kind 'hash' must be integers",
        ),
        (
            "channel",
            [1] * ROWS,
            "column 'channel' is of type int64; a categorical feature of kind 'vocabulary' must be",
        ),
        ("click", ["0"] * ROWS, "column 'click' is of type string; a label must be 0 or 1 in integers, booleans or"),
        ("exposure_id", ["x"] * ROWS, "column 'exposure_id' is of type string; the exposure key that joins a truth"),
    ],
)
def test_a_column_of_another_type_is_named(directory: Path, column: str, values: list, message: str) -> None:
    table = toy_table()
    replaced(directory, table.set_column(table.column_names.index(column), column, pa.array(values)))
    with pytest.raises(ValueError, match=rf"part-00001\.parquet: {message}"):
        open_log(directory).part("train")


def test_an_absent_column_is_named(directory: Path) -> None:
    replaced(directory, toy_table().drop_columns(["price"]))
    with pytest.raises(ValueError, match=r"part-00001\.parquet: no column 'price', which schema\.json names; it has"):
        open_log(directory).part("train")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("click", None, "row 321: column 'click' is missing; a label is 0 or 1"),
        ("click", 2, "row 321: column 'click' is 2; a label is 0 or 1"),
        ("conversion", -1, "row 321: column 'conversion' is -1; a label is 0 or 1"),
        ("conversion", 1, "row 321: column 'conversion' is 1 where 'click' is 0; a conversion needs a click"),
    ],
)
def test_a_wrong_label_is_named_by_file_and_row(directory: Path, column: str, value: int | None, message: str) -> None:
    table = toy_table()
    for name in ("click", "conversion"):
        labels = table.column(name).to_pylist()
        labels[321] = value if name == column else 0
        table = table.set_column(table.column_names.index(name), name, pa.array(labels, pa.int8()))
    pq.write_table(table, directory / "train" / "part-00001.parquet", row_group_size=100)
    log = open_log(directory)
    with pytest.raises(ValueError, match=rf"part-00001\.parquet: {message}"):
        check_labels(log, log.part("train"))


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (
            {"exposure_id": [1, 1], "potential": [0, 1], "propensity": [0.5, 0.5]},
            "key 1 in column 'exposure_id' stands",
        ),
        ({"exposure_id": [1, 2], "potential": [0, 2], "propensity": [0.5, 0.5]}, "'potential' has values other than 0"),
        ({"exposure_id": [1, 2], "potential": [0, None], "propensity": [0.5, 0.5]}, "'potential' has missing values"),
        (
            {"exposure_id": [1, 2], "potential": [0, 1], "propensity": [0.5, 1.5]},
            r"'propensity' has values outside 0\.\.1",
        ),
        ({"exposure_id": [1, 2], "potential": [0, 1]}, "no column 'propensity'"),
    ],
)
def test_a_wrong_truth_is_named(directory: Path, truth: dict, message: str) -> None:
    for path in (directory / "truth" / "train").iterdir():
        path.unlink()
    pq.write_table(pa.table(truth), directory / "truth" / "train" / "part-00000.parquet")
    with pytest.raises(ValueError, match=message):
        open_log(directory).truth("train")


def requests_log(folder: Path, lengths: list[int], cuts: list[int], rows_per_group: int = 10) -> list[list[int]]:
    """Write requests of these lengths in tables cut at `cuts`; returns the requests of each row group that came out."""
    schema = dataclasses.replace(SCHEMA, request="request", truth=None)
    request_R = np.repeat(np.arange(len(lengths)), lengths)
    whole = toy_table().slice(0, len(request_R)).append_column("request", pa.array(request_R))
    with new_log(folder, schema) as directory, PartWriter(directory, "train", schema, 40, rows_per_group) as writer:
        for begin, end in itertools.pairwise([0, *cuts, len(request_R)]):
            writer.write(whole.slice(begin, end - begin))
    log = open_log(folder)
    found = [log.read_row_group(file, index, ["request"]) for file, index in log.part("train").row_groups()]
    return [table.column("request").to_pylist() for table in found]


@pytest.mark.parametrize("lengths", [[4] * 20, [1, 9, 10, 3, 25, 2, 2, 31, 1, 7], [50], [10] * 6])
def test_a_row_group_ends_where_a_request_ends(tmp_path: Path, lengths: list[int]) -> None:
    """As late as its size allows, or after one request that is longer; however the rows came in."""
    expected: list[list[int]] = [[]]
    for request, length in enumerate(lengths):
        if expected[-1] and len(expected[-1]) + length > 10:
            expected.append([])
        expected[-1] += [request] * length
    rows = sum(lengths)
    for number, cuts in enumerate(([], list(range(1, rows)), [rows // 3, rows // 2])):
        assert requests_log(tmp_path / str(number), lengths, cuts) == expected
