"""make_data --source table with the moments of conversions."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data.errors import UserError
from data.loaders.table import TableOptions, load_table
from data.log import open_log
from data.times import guessed_moments
from funnel.ranking.delays import moment_of

ROWS, DAY = 1200, 86_400_000_000


def raw() -> pa.Table:
    """Six days of exposures; conversions half a day to two days later, and 0 where there are none."""
    rng = np.random.default_rng(3)
    moment_R = 1_767_225_600_000_000 + np.sort(rng.integers(0, 6 * DAY, ROWS))
    click_R = rng.random(ROWS) < 0.4
    conversion_R = click_R & (rng.random(ROWS) < 0.5)
    then_R = moment_R + rng.integers(DAY // 2, 2 * DAY, ROWS)
    return pa.table(
        {
            "ts": pa.array(moment_R).cast(pa.timestamp("us")),
            "item": pa.array([f"i{number}" for number in rng.integers(0, 30, ROWS)]),
            "clicked": click_R,
            "conversion": conversion_R,
            "purchased_at": pa.array(then_R, mask=~conversion_R).cast(pa.timestamp("us")),
        }
    )


def test_a_table_tells_when_conversions_came(tmp_path: Path) -> None:
    """By its name, or in milliseconds by the option, with 0 for none: the same log, and what was known at a moment."""
    table = raw()
    pq.write_table(table, tmp_path / "one.parquet")
    ms = pc.divide(table["purchased_at"].cast(pa.int64()), 1000).fill_null(0)
    other = table.drop_columns(["purchased_at"]).append_column("paid_ms", ms)
    pq.write_table(other, tmp_path / "other.parquet")
    load_table(str(tmp_path / "one.parquet"), tmp_path / "one", TableOptions())
    told = {"conversion_time": "paid_ms", "conversion": "conversion"}
    load_table(str(tmp_path / "other.parquet"), tmp_path / "other", TableOptions(columns=told))
    logs = [open_log(tmp_path / name) for name in ("one", "other")]
    assert [(log.schema.time, log.schema.conversion_time) for log in logs] == [
        ("ts", "purchased_at"),
        ("ts", "paid_ms"),
    ]
    rows = [pa.concat_tables(list(log.read(log.part("train"), log.schema.all_columns))) for log in logs]
    one, two = (part.column(log.schema.conversion_time) for part, log in zip(rows, logs, strict=True))
    assert (one.is_valid().to_numpy() == (rows[0].column("conversion").to_numpy() == 1)).all()
    assert one.null_count == two.null_count
    difference = pc.subtract(one.cast(pa.int64()), two.cast(pa.int64())).drop_null().to_numpy()
    assert ((difference >= 0) & (difference < 1000)).all()
    facts = moment_of("train", logs[0], logs[0].part("train"))
    last = rows[0].column("ts").cast(pa.int64()).to_numpy().max()
    known = int((one.drop_null().cast(pa.int64()).to_numpy() <= last).sum())
    clicks = int(rows[0].column("clicked").to_numpy().sum())
    assert facts["conversion_rate"] == pytest.approx(known / clicks)
    assert known < len(one.drop_null())


def test_a_delay_needs_both_ends(tmp_path: Path) -> None:
    """Without a moment of the exposure the name alone makes no role, and the option is refused."""
    pq.write_table(raw().drop_columns(["ts"]), tmp_path / "raw.parquet")
    load_table(str(tmp_path / "raw.parquet"), tmp_path / "log", TableOptions())
    schema = open_log(tmp_path / "log").schema
    assert (schema.time, schema.conversion_time) == (None, None)
    assert "purchased_at" not in schema.features
    told = TableOptions(columns={"conversion_time": "purchased_at"})
    with pytest.raises(UserError, match="--conversion-time purchased_at: name the column of the time, too"):
        load_table(str(tmp_path / "raw.parquet"), tmp_path / "other", told)
    with pytest.raises(UserError, match="--conversion-time paid: no such column"):
        load_table(str(tmp_path / "raw.parquet"), tmp_path / "other", TableOptions(columns={"conversion_time": "paid"}))


def test_units_of_moments_are_told_by_their_size() -> None:
    wanted = np.datetime64("2026-01-31", "us").astype(np.int64)
    for column in (
        pa.array([20260131, None]),
        pa.array([20260131.0, np.nan]),
        pa.array([wanted // 10**6, None]),
        pa.array([wanted / 1000, None]),
        pa.array(["2026-01-31", None]),
    ):
        moment_R, missing_R = guessed_moments(column, "t")
        assert moment_R[0] == wanted
        assert missing_R.tolist() == [False, True]
    with pytest.raises(UserError, match="column 't' holds 7, which is no time"):
        guessed_moments(pa.array([7, 8]), "t")
