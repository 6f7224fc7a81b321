"""Columns cut into slices: every row in one, labels that say which, and columns that cannot be cut."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.log import Log, Part, open_log
from data.schema import Schema
from funnel.figures.slices import MOST, Slicing, activity_edges, activity_labels, plan_slices

ROWS = 1000


@pytest.fixture(scope="module")
def table() -> pa.Table:
    rng = np.random.default_rng(0)
    price = rng.gamma(2, 10, ROWS)
    price[::50] = np.nan
    many = [f"item-{n}" for n in np.minimum(rng.geometric(0.08, ROWS), 60)]
    return pa.table(
        {
            "click": rng.integers(0, 2, ROWS),
            "conversion": np.zeros(ROWS, np.int64),
            "price": price,
            "hour": rng.integers(0, 24, ROWS),
            "stars": pa.array([None if n == 5 else int(n) for n in rng.integers(0, 6, ROWS)]),
            "many": pa.array(many).dictionary_encode(),
            "new": rng.random(ROWS) < 0.3,
            "constant": np.ones(ROWS),
            "tags": [["a"]] * ROWS,
        }
    )


@pytest.fixture(scope="module")
def log(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> tuple[Log, Part]:
    root: Path = tmp_path_factory.mktemp("slices")
    (root / "test").mkdir()
    pq.write_table(table, root / "test" / "part-00000.parquet", row_group_size=170)
    schema = Schema("slices", (), ("price",), {"click": "click", "conversion": "conversion"})
    schema.save(root / "schema.json")
    opened = open_log(root)
    return opened, opened.part("test")


def cut(log: tuple[Log, Part], table: pa.Table, name: str) -> tuple[Slicing, np.ndarray]:
    (slicing,) = plan_slices(*log, [name])
    codes = slicing.codes(table)
    assert codes.min() >= 0
    assert codes.max() < len(slicing.labels)
    return slicing, codes


def test_numbers_are_cut_into_fifths_and_missing(log: tuple[Log, Part], table: pa.Table) -> None:
    slicing, codes = cut(log, table, "price")
    counts = np.bincount(codes)
    assert counts.tolist() == [196, 196, 196, 196, 196, 20]
    assert slicing.labels[-1] == "missing"
    price = table.column("price").to_numpy()
    assert price[codes == 1].min() > price[codes == 0].max()
    assert len(cut(log, table, "hour")[0].labels) == 6


def test_few_values_are_a_slice_each(log: tuple[Log, Part], table: pa.Table) -> None:
    slicing, codes = cut(log, table, "stars")
    assert slicing.labels == ("0", "1", "2", "3", "4", "missing")
    stars = table.column("stars").to_pylist()
    assert [None if code == 5 else int(code) for code in codes] == stars
    assert cut(log, table, "new")[0].labels == ("0", "1", "missing")
    assert cut(log, table, "constant")[0].labels == ("all", "missing")


def test_the_commonest_values_and_all_others(log: tuple[Log, Part], table: pa.Table) -> None:
    slicing, codes = cut(log, table, "many")
    assert len(slicing.labels) == MOST + 1
    assert slicing.labels[-2:] == ("other", "missing")
    values = np.array(table.column("many").to_pylist())
    for number, label in enumerate(slicing.labels[:-2]):
        assert (values[codes == number] == label).all()
    assert not np.isin(values[codes == MOST - 1], slicing.labels).any()


def test_what_cannot_be_cut_says_why(log: tuple[Log, Part]) -> None:
    for names, message in (
        (["colour"], "--by colour: no such column; the log has click, conversion"),
        (["tags"], "--by tags: a column of list"),
        (["hour", "hour"], "--by names 'hour' twice"),
    ):
        with pytest.raises(ValueError, match=message):
            plan_slices(*log, names)


def test_activity_is_cut_by_rows() -> None:
    rows_by_count = np.array([0, 10, 20, 30, 20, 20])  # 10 rows of users with one exposure, 20 with two, ...
    edges = activity_edges(rows_by_count)
    assert edges.tolist() == [2, 3, 4]
    assert activity_labels(edges) == ("≤ 2 exposures", "3 exposures", "4 exposures", "> 4 exposures")
    assert activity_labels(activity_edges(np.array([0, 0, 0, 12]))) == ("all exposures",)
