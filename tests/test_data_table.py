"""make_data --source table: a team's own table, whatever wrote it, as a log that trains."""

import csv
import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import error_line

from data.errors import UserError
from data.loaders import table_requests
from data.loaders.table import Loaded, TableOptions, load_table
from data.loaders.table_draft import hash_size
from data.loaders.table_files import open_table
from data.loaders.table_profile import Distinct
from data.log import open_log
from data.times import microseconds
from funnel.lists.units import request_sizes
from jobs import make_data

DAYS, REQUESTS, PER = 6, 240, 5


def raw_rows(seed: int = 0) -> pa.Table:
    """1,200 exposures of 240 requests on six days, the rows of a request far from each other."""
    rng = np.random.default_rng(seed)
    request = np.tile(np.arange(REQUESTS), PER)
    rows = len(request)
    moment = np.datetime64("2026-01-01", "us") + (request * DAYS * 86_400_000_000 // REQUESTS).astype("timedelta64[us]")
    user, item = rng.integers(0, 50, REQUESTS)[request], rng.integers(0, 30, rows)
    click = rng.random(rows) < 0.3
    conversion = click & (rng.random(rows) < 0.5)
    history = [[f"i{value}" for value in rng.integers(0, 30, rng.integers(0, 4))] for _ in range(rows)]
    return pa.table(
        {
            "ts": moment + np.tile(np.arange(PER), (REQUESTS, 1)).T.ravel().astype("timedelta64[s]"),
            "request_id": pa.array([f"r{number}" for number in request]),
            "user_id": user + 2**40,
            "item": pa.array([f"i{number}" if number else None for number in item]),
            "device": pa.array(np.array(["ios", "web"])[item % 2]).dictionary_encode(),
            "history": pa.array([None if number % 7 == 0 else one for number, one in enumerate(history)]),
            "price": pa.array(rng.integers(1, 999, rows)).cast(pa.decimal128(20, 0)).cast(pa.decimal128(12, 2)),
            "stars": rng.integers(0, 6, rows),
            "stock": rng.integers(0, 5000, rows),
            "member": rng.random(rows) < 0.5,
            "nothing": pa.nulls(rows),
            "same": np.ones(rows),
            "clicked": click,
            "conversion": pa.array(np.where(click, conversion, np.nan), from_pandas=True),
            "revenue": np.where(conversion, 9.5, 0.0),
            "paid": np.where(conversion, 1.0, 0.0),
        }
    )  # fmt: skip


def hive(folder: Path, table: pa.Table) -> Path:
    day = table["ts"].to_numpy().astype("datetime64[D]").astype(str)
    for one in np.unique(day):
        (folder / f"dt={one}").mkdir(parents=True)
        pq.write_table(table.filter(pa.array(day == one)), folder / f"dt={one}" / "part-0.parquet")
        (folder / f"dt={one}" / "_SUCCESS").touch()
    return folder


def as_csv(path: Path, table: pa.Table) -> Path:
    flat = table.drop_columns(["history"])
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(flat.column_names)
        for row in flat.to_pylist():
            writer.writerow(["" if value is None else value for value in row.values()])
    return path


def load(source: Path, out: Path, **options: object) -> Loaded:
    return load_table(str(source), out, TableOptions(**options))  # type: ignore[arg-type]


def test_a_hive_table_becomes_a_log_with_a_drafted_schema(tmp_path: Path) -> None:
    raw = raw_rows()
    loaded = load(hive(tmp_path / "raw", raw), tmp_path / "log")
    log = open_log(tmp_path / "log")
    schema = log.schema
    kinds = {field.name: (field.kind, field.share) for field in schema.categorical}
    assert kinds == {
        "ts_hour": ("range", None),
        "user_id": ("hash", None),
        "item": ("vocabulary", None),
        "device": ("vocabulary", None),
        "stars": ("range", None),
        "member": ("range", None),
        "history": ("vocabulary", None),
    }
    assert schema.numeric == ("price", "stock")
    assert schema.labels == {"click": "clicked", "conversion": "conversion"}
    assert (schema.request, schema.user, schema.reward) == ("request_id", "user_id", "revenue")
    assert schema.exposure == "exposure_id"
    left_out = {one.column: one.why for one in loaded.draft.decisions if one.what == "-"}
    assert left_out.keys() == {"dt", "nothing", "same", "paid"}
    assert "only where 'conversion' is 1" in left_out["paid"]
    assert {one.column for one in loaded.draft.decisions if not one.sure} == {"stars", "stock", "paid", "ts", "user_id"}
    rows = {
        name: pa.concat_tables(list(log.read(log.part(name), [*schema.all_columns, "ts"]))) for name in log.part_names()
    }
    days = {name: sorted({str(moment)[:10] for moment in table["ts"].to_pylist()}) for name, table in rows.items()}
    assert days["valid"] == ["2026-01-05"]
    assert days["test"] == ["2026-01-06"]
    assert len(days["train"]) == 4
    found = pa.concat_tables(rows.values())
    assert found.num_rows == raw.num_rows
    assert sorted(found["exposure_id"].to_pylist()) == list(range(raw.num_rows))
    for name in ("clicked", "conversion"):
        assert found[name].to_numpy().sum() == np.nansum(raw[name].to_numpy(zero_copy_only=False).astype(float))
        assert set(found[name].to_pylist()) == {0, 1}
    for name in log.part_names():
        part = log.part(name)
        assert sum(request_sizes(log, part, "request_id")) == len(set(rows[name]["request_id"].to_pylist()))


def test_a_csv_is_the_same_log(tmp_path: Path) -> None:
    raw = raw_rows()
    one = load(hive(tmp_path / "raw", raw.drop_columns(["history"])), tmp_path / "one")
    other = load(as_csv(tmp_path / "raw.csv", raw), tmp_path / "other")
    assert other.facts == one.facts
    assert {field.name for field in one.draft.schema.categorical} == {
        field.name for field in other.draft.schema.categorical
    }
    assert one.draft.schema.numeric == other.draft.schema.numeric


def test_large_tables_go_through_buckets_to_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = hive(tmp_path / "raw", raw_rows())
    whole = load(raw, tmp_path / "whole")
    monkeypatch.setattr(table_requests, "BUCKET_ROWS", 200)
    parts = load(raw, tmp_path / "parts")
    assert parts.facts == whole.facts
    one, other = (
        pa.concat_tables(list(log.read(log.part("train"), ["exposure_id", "request_id"])))
        for log in (open_log(tmp_path / name) for name in ("whole", "parts"))
    )
    assert one.sort_by("exposure_id").equals(other.sort_by("exposure_id"))
    log = open_log(tmp_path / "parts")
    assert len(request_sizes(log, log.part("train"), "request_id"))  # raises where a request is torn
    assert not list(tmp_path.glob("**/.buckets"))


@pytest.mark.parametrize("split", ["user", "request"])
def test_splits_by_user_and_request_keep_them_apart(tmp_path: Path, split: str) -> None:
    load(hive(tmp_path / "raw", raw_rows()), tmp_path / "log", split=split, held_out=0.2)
    log = open_log(tmp_path / "log")
    column = f"{split}_id"
    found = [
        set(pa.concat_tables(list(log.read(log.part(name), [column])))[column].to_pylist()) for name in log.part_names()
    ]
    assert sum(map(len, found)) == len(set().union(*found))
    assert all(found)


def test_columns_are_what_the_user_says(tmp_path: Path) -> None:
    kinds = {"stars": "numeric", "stock": "categorical", "device": "drop"}
    columns = {"value": "price", "click": "clicked", "time": "ts"}
    schema = load(hive(tmp_path / "raw", raw_rows()), tmp_path / "log", kinds=kinds, columns=columns).draft.schema
    assert schema.value == "price"
    assert "stars" in schema.numeric
    field = next(field for field in schema.categorical if field.name == "stock")
    assert (field.kind, field.size >= 1000) == ("hash", True)
    assert "device" not in schema.features


def test_times_in_every_spelling() -> None:
    moment = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
    seconds = int(moment.timestamp())
    day = seconds - 43_200
    spelled = {
        seconds: [moment.replace(tzinfo=None), "2026-01-31 12:00:00", "2026-01-31T12:00:00", "2026-01-31T12:00:00Z",
                  seconds, seconds * 1000, seconds * 10**6, seconds * 10**9, float(seconds), "2026/01/31 12:00:00"],
        day: [datetime.date(2026, 1, 31), "2026-01-31", "20260131", 20260131],
    }  # fmt: skip
    for expected, values in spelled.items():
        for value in values:
            assert (
                microseconds(pa.table({"t": pa.array([value, value])}), "t", "f").tolist() == [expected * 10**6] * 2
            ), value
    for value in ("yesterday", 12, None):
        with pytest.raises(UserError, match="column 't'"):
            microseconds(pa.table({"t": pa.array([value])}), "t", "f")


def test_different_values_are_counted_to_a_few_percent() -> None:
    rng = np.random.default_rng(0)
    for true in (10, 4000, 100_000):
        found = Distinct()
        for _ in range(4):
            found.add(pa.array(rng.integers(0, true, 100_000)))
        assert found.count() == pytest.approx(true, rel=0.06 if true > 4096 else 0)
    assert [hash_size(number) for number in (1, 1000, 123_456)] == [100, 1300, 160_000]


def test_mistakes_are_named_by_file_and_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = raw_rows()
    good = hive(tmp_path / "raw", raw)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    pq.write_table(raw, mixed / "a.parquet")
    pq.write_table(raw.set_column(2, "user_id", raw["user_id"].cast(pa.string())), mixed / "b.parquet")
    label = tmp_path / "label.parquet"
    pq.write_table(raw.set_column(raw.column_names.index("clicked"), "clicked", pa.array([2] * raw.num_rows)), label)
    for source, options, message in (
        (good, {"columns": {"click": "tap"}}, "--click tap: no such column; the table has ts, request_id"),
        (good, {"valid_days": 5}, r"the table has 6 days \(2026-01-01 to 2026-01-06\)"),
        (good, {"kinds": {"item": "numeric"}}, "--numeric item: the column is of type"),
        (good, {"kinds": {"itme": "drop"}}, "--drop itme: no such column"),
        (mixed, {}, r"b.parquet: column 'user_id' is string, in .*a.parquet it is int64.*--text user_id"),
        (label, {}, r"label.parquet: column 'clicked' is 2 in row 0, which is no click label"),
        (tmp_path / "absent", {}, "no such file or directory"),
        (tmp_path / "log", {}, "holds no .parquet"),
    ):
        (tmp_path / "log").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=message):
            load(source, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()
    assert load(mixed, tmp_path / "out", text=("user_id",)).draft.schema.user == "user_id"
    command = SimpleNamespace(run=make_data.run, Arguments=make_data.MakeData, __doc__="")
    line = error_line(command, ["--time", "ts", "--out", tmp_path / "no"], monkeypatch, capsys)
    assert "--time goes with --source table" in line
    words = ["--source", "table", "--input", label, "--seed", "-1", "--out", tmp_path / "no"]
    assert "--seed is -1, must be from 0" in error_line(command, words, monkeypatch, capsys)


def test_csv_values_that_do_not_fit_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "raw.csv"
    lines = ["click,user_id,ts"] + ["1,7,2026-01-01"] * 3
    path.write_text("\n".join(lines) + "\n")
    (tmp_path / "more.csv").write_text("click,user_id,ts\n1,seven,2026-01-02\n")
    with pytest.raises(UserError, match=r"column 'user_id'.*--text user_id"):
        open_table(str(tmp_path))
    table = open_table(str(tmp_path), ("user_id",))
    assert sum(block.num_rows for block, _ in table.blocks()) == 4
