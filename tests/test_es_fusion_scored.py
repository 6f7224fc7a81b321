"""Scored files: rows that stand twice and what is no probability are refused by row and column."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_jobs_evolve import scored_table, write

from data.errors import UserError
from funnel.fusion.scored_log import largest_reward, read_scored


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*range(1800), 7], r"exposure_id 7 of row 7 stands again in row 1800 \(1 repeated rows in all\)"),
        (
            [*range(1800), *range(1800)],
            r"exposure_id 0 of row 0 stands again in row 1800 \(1800 repeated rows in all\)",
        ),
    ],
)
def test_rows_that_stand_again_are_refused(tmp_path, rows, message):
    """Doubled rows push each other down the list: NDCG@10 of .245 was .141."""
    table = {name: np.asarray(values)[rows] for name, values in scored_table().items()}
    with pytest.raises(UserError, match=message):
        read_scored(write(tmp_path / "scored.parquet", table), 10.0)
    texts = dict(table, exposure_id=[f"e{each}" for each in table["exposure_id"]])
    with pytest.raises(UserError, match=message.replace("exposure_id ", "exposure_id e")):
        read_scored(write(tmp_path / "scored.parquet", texts), 10.0)
    del table["exposure_id"]
    if len(rows) == 3600:  # without an id, only a file that holds everything twice can be told
        with pytest.raises(UserError, match=r"the exposure of row 0 stands again in row 1800 \(1800 repeated rows"):
            read_scored(write(tmp_path / "scored.parquet", table), 10.0)
    else:
        assert len(read_scored(write(tmp_path / "scored.parquet", table), 10.0).log.reward_C) == 1801


@pytest.mark.parametrize("value", [1.5, -0.25, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["pctr", "pcvr", "pctcvr"])
def test_what_is_no_probability_is_refused_by_row_and_column(tmp_path, name, value):
    table = scored_table()
    table[name][5] = value
    told = f": {value:g}" if np.isfinite(value) else ""
    what = "below 0 or above 1, no probability," if np.isfinite(value) else "not finite"
    with pytest.raises(UserError, match=rf"scored.parquet: column '{name}' is {what} in row 5{told} \(1 rows in all\)"):
        read_scored(write(tmp_path / "scored.parquet", table), 10.0)


def test_two_columns_of_one_name_are_named(tmp_path):
    table = pa.table(scored_table())
    pq.write_table(table.append_column("pctr", table["pcvr"]), tmp_path / "scored.parquet")
    with pytest.raises(UserError, match=r"scored.parquet: has 2 columns named 'pctr': which one is meant\?"):
        read_scored(tmp_path / "scored.parquet", 10.0)


def test_the_largest_reward_is_that_of_a_conversion_seen_or_not(tmp_path):
    table = scored_table(requests=6)
    table["conversion"] = np.zeros_like(table["conversion"])
    log = read_scored(write(tmp_path / "scored.parquet", table), 10.0).log
    assert largest_reward(log, 10.0) == 11
    table["value"] = np.where(np.arange(len(table["click"])) == 3, 7.0, 1.0)
    assert largest_reward(read_scored(write(tmp_path / "valued.parquet", table), 10.0).log, 10.0) == 71


def as_floats(table):
    """As a join in DuckDB or pandas leaves labels: floats, and no conversion where there was no click."""
    conversion = np.where(table["click"] == 1, table["conversion"], np.nan)
    return dict(table, click=table["click"].astype(float), conversion=conversion)


def as_nulls(table):
    click = np.asarray(table["click"]).astype(bool)
    return dict(table, click=click, conversion=pa.array(np.asarray(table["conversion"]).astype(bool), mask=~click))


def as_decimals(table):
    kind = pa.decimal128(3, 1)
    return dict(
        table, **{name: pa.array(np.asarray(table[name], float)).cast(kind) for name in ("click", "conversion")}
    )


@pytest.mark.parametrize("change", [as_floats, as_nulls, as_decimals])
def test_labels_may_be_what_a_training_takes(tmp_path, change):
    table = scored_table()
    plain = read_scored(write(tmp_path / "plain.parquet", table), 10.0).log
    pq.write_table(pa.table(change(table)), tmp_path / "other.parquet")
    other = read_scored(tmp_path / "other.parquet", 10.0).log
    np.testing.assert_array_equal(plain.reward_C, other.reward_C)


def test_a_conversion_that_is_missing_on_a_click_is_named(tmp_path):
    table = scored_table()
    row = int(np.flatnonzero(table["click"])[0])
    conversion = np.where(np.arange(len(table["click"])) == row, np.nan, table["conversion"])
    with pytest.raises(
        UserError, match=rf"column 'conversion' is null where click is 1 in row {row} \(1 rows in all\)"
    ):
        read_scored(write(tmp_path / "scored.parquet", dict(table, conversion=conversion)), 10.0)


def test_a_reward_decides_what_a_conversion_was_worth_and_is_no_score(tmp_path):
    """Revenue in place of the value that is known before; missing where nothing was bought."""
    table = scored_table()
    converted = np.asarray(table["conversion"]) == 1
    table |= {"value": np.full(len(converted), 3.0), "reward": np.where(converted, 7.5, np.nan)}
    log = read_scored(write(tmp_path / "scored.parquet", table), 10.0).log
    assert log.names == ("pctr", "pcvr", "pctcvr", "value")
    np.testing.assert_array_equal(log.reward_C, (table["click"] + 75.0 * converted).astype(np.float32))
    assert largest_reward(log.part(np.arange(len(converted)) % 2 == 0), 10.0) == 76
    for wrong, message in (
        (-1.0, "is negative: a reward must be at least 0"),
        (np.nan, "is missing or not finite where"),
    ):
        table["reward"] = np.where(converted, wrong, 0.0)
        with pytest.raises(UserError, match=f"column 'reward' {message}"):
            read_scored(write(tmp_path / "wrong.parquet", table), 10.0)


def test_lists_of_sampled_rows_are_refused_and_equal_weights_are_none(tmp_path):
    """Of nine in ten negatives that are not there no order can be judged."""
    table = scored_table()
    rows = len(table["click"])
    read_scored(write(tmp_path / "scored.parquet", dict(table, weight=np.full(rows, 2.0))), 10.0)
    weight = np.where(np.arange(rows) == 5, 10.0, 1.0)
    with pytest.raises(UserError, match=r"column 'weight' is another than in row 0.* in row 5 \(1 rows in all\)"):
        read_scored(write(tmp_path / "scored.parquet", dict(table, weight=weight)), 10.0)
