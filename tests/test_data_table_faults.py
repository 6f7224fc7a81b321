"""make_data --source table: what is wrong with a table is said in a line, and does not stop what can go on."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import UserError
from data.loaders.table import Loaded, TableOptions, load_table
from data.loaders.table_days import Days
from data.loaders.table_repeats import KEPT, Repeats
from data.log import open_log
from data.times import DAY_US
from jobs import make_data

ROWS = 1200


def columns(rows: int = ROWS) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    click = rng.random(rows) < 0.4
    return {
        "ts": np.datetime64("2026-01-01", "s") + (np.arange(rows) * 6 * 86_400 // rows).astype("timedelta64[s]"),
        "request_id": np.arange(rows) // 5,
        "user_id": [f"u{number}" for number in rng.integers(0, 90, rows)],
        "price": rng.uniform(1, 99, rows),
        "click": click.astype(np.int8),
        "conversion": (click & (rng.random(rows) < 0.5)).astype(np.int8),
    }


def load(place: Path, table: dict[str, Any] | pa.Table, **options: Any) -> Loaded:
    source = place / "raw.parquet"
    pq.write_table(pa.table(table), source)
    return load_table(str(source), place / "log", TableOptions(**options))


def rows_of(place: Path) -> dict[str, int]:
    log = open_log(place / "log")
    return {name: log.part(name).rows for name in log.part_names()}


def test_days_that_no_exposure_has_are_named_and_cut_nothing(tmp_path: Path) -> None:
    """One row of the year 9999 would otherwise be the test part, and leave none for valid."""
    table, clean = columns(), tmp_path / "clean"
    clean.mkdir()
    load(clean, table)
    table["ts"] = table["ts"].copy()
    table["ts"][:2], table["ts"][7] = np.datetime64("1970-01-01"), np.datetime64("9999-12-31")
    (tmp_path / "odd").mkdir()
    found = load(tmp_path / "odd", table)
    assert "column 'ts': 3 rows of a day such as 1970-01-01, which no exposure has: is it a placeholder?" in found.notes
    assert "train 2026-01-01 to 2026-01-04, valid 2026-01-05, test 2026-01-06 (days in UTC)" in found.notes
    assert sum(rows_of(tmp_path / "odd").values()) == ROWS
    assert rows_of(tmp_path / "odd")["valid"] == rows_of(clean)["valid"]


def test_a_table_of_nothing_but_such_days_is_split_otherwise(tmp_path: Path) -> None:
    table = columns() | {"ts": -np.arange(1, ROWS + 1) * 3_600_000_000}
    found = load(tmp_path, table)
    assert any(note.startswith("split by user, as all days are such as 19") for note in found.notes), found.notes
    with pytest.raises(UserError, match=r"raw.parquet: column 'ts': all days are such as 19"):
        load(tmp_path, table, split="time")


def test_moments_that_pandas_made_floats_have_hours(tmp_path: Path) -> None:
    moment = columns()["ts"].astype(np.int64)
    found = load(tmp_path, columns() | {"ts": moment * 1000.0})
    assert found.draft.schema.sources["ts_hour"].unit == "ms"
    log = open_log(tmp_path / "log")
    table = pa.concat_tables(list(log.read(log.part("train"), ["ts_hour"])))
    np.testing.assert_array_equal(table["ts_hour"].to_numpy(), (moment // 3600 % 24)[: table.num_rows])


@pytest.mark.parametrize(("zone", "told"), [("Asia/Tokyo", "Asia/Tokyo"), ("UTC", "UTC"), ("+09:00", "UTC")])
def test_hours_are_told_in_the_zone_of_the_column(tmp_path: Path, zone: str, told: str) -> None:
    moments = pa.array(columns()["ts"]).cast(pa.timestamp("us", zone))
    assert load(tmp_path, columns() | {"ts": moments}).draft.schema.sources["ts_hour"].zone == told
    (tmp_path / "other").mkdir()
    other = load(tmp_path / "other", columns() | {"ts": moments}, zone="Europe/Berlin")
    assert other.draft.schema.sources["ts_hour"].zone == "Europe/Berlin"


def test_days_without_rows_are_no_days() -> None:
    days = Days()
    for number in (20454, 20455, 20456, 20459, 20490):
        days.add(np.array([number * DAY_US, number * DAY_US + 5]))
    assert days.begins(1, 1) == (20459, 20490)
    assert days.begins(2, 1) == (20456, 20490)
    assert days.parts(1, 1).endswith("test 2026-02-06 (days in UTC); 32 days between have no rows")
    with pytest.raises(UserError, match=r"the table has 5 days \(2026-01-01 to 2026-02-06\): with 3 of valid and 2"):
        days.begins(3, 2)


@pytest.mark.parametrize("rows", [KEPT // 2, 5 * KEPT])
def test_rows_that_stand_there_again_are_counted(rows: int) -> None:
    rng = np.random.default_rng(1)
    table = pa.table(
        {"ts": pa.array(rng.integers(0, 10**9, rows), pa.timestamp("s")), "x": rng.normal(size=rows),
         "name": pa.array([None if n % 9 == 0 else f"n{n % 50}" for n in range(rows)])}
    )  # fmt: skip
    found, whole = Repeats(), Repeats()
    for block in (table.slice(0, rows // 2), table.slice(rows // 2)):
        whole.add(block)
        found.add(block)
    assert whole.share == 0
    found.add(table.slice(rows // 4, rows // 2))  # a third of all rows stood there before
    assert found.share == pytest.approx(1 / 3, abs=1e-9 if rows < KEPT else 0.03)


def test_a_file_beside_its_copy_is_named(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name in ("a", "b"):
        pq.write_table(pa.table(columns()), tmp_path / "raw" / f"{name}.parquet")
    notes = load_table(str(tmp_path / "raw"), tmp_path / "log", TableOptions()).notes
    assert "some 1,200 of 2,400 rows stand there again, alike in all columns: was a file copied, or joined?" in notes


def test_columns_of_no_kind_say_their_type_and_missing_people_are_counted(tmp_path: Path) -> None:
    table = columns()
    table |= {
        "context": [{"page": 1}] * ROWS,
        "took": pa.array([1] * ROWS, pa.duration("s")),
        "sizes": [[[1], [2]]] * ROWS,
        "user_id": pa.array(table["user_id"], mask=np.arange(ROWS) % 10 == 0),
    }
    found = load(tmp_path, table)
    why = {one.column: one.why for one in found.draft.decisions if one.what == "-"}
    assert why["context"] == "of type struct<page: int64>, which is not read: write numbers, text or lists of ids"
    assert why["took"].startswith("of type duration[s]")
    assert "not of ids" in why["sizes"]
    assert "column 'user_id': 120 rows have no user: figures by user take them for one user" in found.notes


def test_a_column_of_the_files_that_is_a_folders_name_too_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "user_id=7"
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns()), folder / "a.parquet")
    notes = load_table(str(tmp_path / "raw"), tmp_path / "log", TableOptions()).notes
    assert notes[0] == "column 'user_id' is in the files and in their folders' names: those of the folders are read"


def test_names_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets in a name are no markup."""
    noise = np.random.default_rng(0).normal(size=ROWS)
    noise[3] = np.inf
    pq.write_table(pa.table(columns() | {"[/price]": noise, "a[bold]b": noise[::-1]}), tmp_path / "raw.parquet")
    make_data.make_data(tmp_path / "log", source="table", input=tmp_path / "raw.parquet")
    said = capsys.readouterr().out
    assert "[/price]" in said
    assert "a[bold]b" in said
    assert "column '[/price]': 1 infinite values were made missing" in said


def test_what_cannot_be_says_what_to_do(tmp_path: Path) -> None:
    table = columns()
    big = {"big_id": pa.array([10**25 + number % 7 for number in range(ROWS)], pa.decimal128(38, 0))}
    with pytest.raises(UserError, match=r"column 'big_id' does not fit int64 .*are read as text with --text COLUMN"):
        load(tmp_path, table | big)
    found = load(tmp_path, table | big, text=("big_id",))
    assert "big_id" in found.draft.schema.features
    two = {name: column[:2] for name, column in table.items()}
    with pytest.raises(UserError, match="2 rows cannot make three parts: bring more rows"):
        load_table(write(tmp_path / "two.parquet", two), tmp_path / "two", TableOptions())
    raw = {"item": pa.array([bytes([255, number % 9]) for number in range(ROWS)])}
    with pytest.raises(UserError, match=r"'item' does not fit .*hexadecimal"):
        load_table(write(tmp_path / "bytes.parquet", table | raw), tmp_path / "bytes", TableOptions())


def write(path: Path, table: dict[str, Any]) -> str:
    pq.write_table(pa.table(table), path)
    return str(path)


def test_a_text_that_is_no_time_is_shown_and_not_the_one_before_it(tmp_path: Path) -> None:
    moments = np.datetime_as_string(columns()["ts"].astype("datetime64[ms]")).astype(object)
    moments[700] = "yesterday, " + "as they say " * 9
    with pytest.raises(
        UserError, match=r"'ts' holds 'yesterday, as they say as they say as th\.\.\.', which is no time"
    ):
        load(tmp_path, columns() | {"ts": pa.array(moments)}, split="time")


def test_where_all_rows_are_clicks_no_column_is_an_outcome_of_them(tmp_path: Path) -> None:
    found = load(tmp_path, columns() | {"click": np.ones(ROWS, np.int8)})
    assert {"user_id", "price"} <= set(found.draft.schema.features)


def test_a_table_without_conversions_leads_to_a_model_of_clicks(tmp_path: Path) -> None:
    table = {name: column for name, column in columns().items() if name != "conversion"}
    source = write(tmp_path / "raw.parquet", table)
    make_data.make_data(tmp_path / "log", source="table", input=source)
    given = make_data.MakeData(source="table", input=source, out=tmp_path / "log")
    assert make_data.following(given) == ("check", "--data", tmp_path / "log", "--preset", "clicks")
